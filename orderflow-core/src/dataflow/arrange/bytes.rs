//! A lean list of byte strings: one buffer and offsets. Keys of a trace, and of what travels to it.

use differential_dataflow::trace::implementations::BatchContainer;

/// Byte strings, back to back.
#[derive(Clone, Debug)]
pub struct Bytes {
    ends: Vec<u64>,
    data: Vec<u8>,
}

impl Default for Bytes {
    fn default() -> Self {
        Self::with_sizes(0, 0)
    }
}

impl Bytes {
    /// Room for `n` strings of `bytes` bytes in all.
    pub fn with_sizes(n: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(n + 1);
        ends.push(0);
        Self { ends, data: Vec::with_capacity(bytes) }
    }

    /// Appends one string.
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len() as u64);
    }

    /// Appends `first` and `rest` as one string.
    #[inline]
    pub fn push_pair(&mut self, first: u8, rest: &[u8]) {
        self.data.push(first);
        self.push(rest);
    }

    /// Appends all strings of another list.
    pub fn append(&mut self, other: &Bytes) {
        let from = self.data.len() as u64;
        self.data.extend_from_slice(&other.data);
        self.ends.extend(other.ends[1..].iter().map(|end| from + end));
    }

    /// String `i`.
    #[inline]
    pub fn get(&self, i: usize) -> &[u8] {
        &self.data[self.ends[i] as usize..self.ends[i + 1] as usize]
    }

    /// The last string.
    #[inline]
    pub fn last(&self) -> Option<&[u8]> {
        self.count().checked_sub(1).map(|i| self.get(i))
    }

    /// Lets go of room that is not needed.
    pub fn shrink(&mut self) {
        self.ends.shrink_to_fit();
        self.data.shrink_to_fit();
    }

    /// Bytes of all strings.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Number of strings.
    pub fn count(&self) -> usize {
        self.ends.len() - 1
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.data.capacity() + 8 * self.ends.capacity()
    }

    /// All strings, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.count()).map(|i| self.get(i))
    }
}

impl BatchContainer for Bytes {
    type Owned = Vec<u8>;
    type ReadItem<'a> = &'a [u8];

    fn into_owned(item: &[u8]) -> Vec<u8> {
        item.to_vec()
    }
    fn clone_onto(item: &[u8], other: &mut Vec<u8>) {
        other.clear();
        other.extend_from_slice(item);
    }
    fn push_ref(&mut self, item: &[u8]) {
        self.push(item);
    }
    fn push_own(&mut self, item: &Vec<u8>) {
        self.push(item);
    }
    fn clear(&mut self) {
        self.ends.truncate(1);
        self.data.clear();
    }
    fn with_capacity(size: usize) -> Self {
        Self::with_sizes(size, 0)
    }
    fn merge_capacity(a: &Self, b: &Self) -> Self {
        Self::with_sizes(a.count() + b.count(), a.data.len() + b.data.len())
    }
    fn reborrow<'b, 'a: 'b>(item: &'a [u8]) -> &'b [u8] {
        item
    }
    fn index(&self, index: usize) -> &[u8] {
        self.get(index)
    }
    fn len(&self) -> usize {
        self.count()
    }
}
