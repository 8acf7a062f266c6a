//! Columns of bytes whose memory comes back when the last holder lets go, to be filled again by the next batch.
//!
//! A batch's values are some megabytes, which an allocator gets from the kernel and gives back each time; clearing the pages costs more than
//! copying the bytes. Invariant: a buffer is in the pool, or in one column, never in both; what lies idle is bounded by [`IDLE`].

use arrow::array::{ArrayRef, BinaryArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of idle buffers that a pool keeps.
const IDLE: usize = 8 << 20;

/// Buffers that were given back.
#[derive(Debug, Default)]
pub(super) struct Pool(Arc<Idle>);

#[derive(Debug, Default)]
struct Idle(Mutex<Vec<Vec<u8>>>);

impl Idle {
    /// The smallest buffer with room for `size` bytes, else a new one.
    fn take(&self, size: usize) -> Vec<u8> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..idle.len()).filter(|i| idle[*i].capacity() >= size).min_by_key(|i| idle[*i].capacity());
        fits.map_or_else(|| Vec::with_capacity(size), |i| idle.swap_remove(i))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().map(Vec::capacity).sum::<usize>() + buffer.capacity() <= IDLE {
            idle.push(buffer);
        }
    }
}

/// A buffer on loan.
struct Lent {
    bytes: Vec<u8>,
    home: Weak<Idle>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Pool {
    /// A column of `values`; `None` if together they are larger than such a column can be.
    pub(super) fn binary<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>> + Clone) -> Option<ArrayRef> {
        let (mut rows, mut size, mut nulls) = (0, 0, 0);
        for value in values.clone() {
            rows += 1;
            size += value.map_or(0, <[u8]>::len);
            nulls += usize::from(value.is_none());
        }
        i32::try_from(size).ok()?;
        let mut bytes = self.0.take(size);
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        for value in values.clone() {
            bytes.extend_from_slice(value.unwrap_or_default());
            ends.push(bytes.len() as i32);
        }
        let valid = (nulls > 0).then(|| NullBuffer::from_iter(values.map(|v| v.is_some())));
        let lent = Bytes::from_owner(Lent { bytes, home: Arc::downgrade(&self.0) });
        Some(Arc::new(BinaryArray::new(OffsetBuffer::new(ends.into()), Buffer::from(lent), valid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};

    fn idle(pool: &Pool) -> Vec<usize> {
        pool.0.0.lock().unwrap().iter().map(Vec::capacity).collect()
    }

    #[test]
    fn a_column_holds_the_values_and_its_memory_is_used_again() {
        let pool = Pool::default();
        let values = [Some(&b"one"[..]), None, Some(b""), Some(b"three")];
        let column = pool.binary(values.into_iter()).unwrap();
        assert_eq!(column.as_binary::<i32>().iter().collect::<Vec<_>>(), values);
        let (at, part) = (column.as_binary::<i32>().value_data().as_ptr(), column.slice(3, 1));
        drop(column);
        assert_eq!(idle(&pool), [0usize; 0], "a slice still reads it");
        assert_eq!(part.as_binary::<i32>().value(0), b"three");
        drop(part);
        assert_eq!(idle(&pool), [8]);
        let again = pool.binary([Some(&b"other"[..])].into_iter()).unwrap();
        assert_eq!((again.as_binary::<i32>().value_data().as_ptr(), again.null_count()), (at, 0));
        let larger = pool.binary([Some(&[7u8; 9][..])].into_iter()).unwrap();
        assert_eq!(larger.as_binary::<i32>().value(0), [7; 9]);
        drop((again, larger));
        assert_eq!(idle(&pool), [8, 9]);
    }

    #[test]
    fn what_lies_idle_is_bounded_and_columns_outlive_the_pool() {
        let pool = Pool::default();
        let huge = vec![1u8; IDLE / 2 + 1];
        let columns: Vec<_> = (0..3).map(|_| pool.binary([Some(&huge[..])].into_iter()).unwrap()).collect();
        drop(columns);
        assert_eq!(idle(&pool).len(), 1);
        let column = pool.binary([Some(&b"x"[..])].into_iter()).unwrap();
        drop(pool);
        assert_eq!(column.as_binary::<i32>().value(0), b"x");
    }
}
