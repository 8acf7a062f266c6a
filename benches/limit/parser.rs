//! How a hand-written loop reads an order. simd-json writes into what it reads, so that each record is copied first; it is the faster of two all the same
//! (`benches/decode.rs` has sonic-rs beside it).
//!
//! Invariant: nothing is allocated for a record once the buffers have grown.

use serde::Deserialize;

/// What simd-json needs again and again.
pub(crate) struct Parser {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Default for Parser {
    fn default() -> Self {
        Self { copy: vec![], buffers: simd_json::Buffers::new(1024) }
    }
}

impl Parser {
    /// The needed fields of a record.
    #[inline]
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a mut self, record: &[u8]) -> T {
        self.copy.clear();
        self.copy.extend_from_slice(record);
        simd_json::serde::from_slice_with_buffers(&mut self.copy, &mut self.buffers).expect("orders are good")
    }
}
