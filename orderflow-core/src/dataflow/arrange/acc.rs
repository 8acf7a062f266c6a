//! Accumulators that live in the difference: a row of 128-bit words that add up.
//!
//! Invariant: word 0 counts rows; a key whose words are all zero does not exist. Addition never overflows in practice: no word
//! grows by more than 2^64 a row (wider values are split over two words by the aggregate that owns them).

use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::trace::implementations::BatchContainer;
use smallvec::SmallVec;

/// The accumulators of one key, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acc(pub SmallVec<[i128; 4]>);

impl Acc {
    /// All words zero.
    pub fn zero(width: usize) -> Self {
        Acc(SmallVec::from_elem(0, width))
    }

    /// Adds word by word.
    #[inline]
    pub fn add(&mut self, words: &[i128]) {
        self.0.iter_mut().zip(words).for_each(|(a, b)| *a = a.wrapping_add(*b));
    }
}

impl IsZero for Acc {
    fn is_zero(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }
}

impl Semigroup for Acc {
    fn plus_equals(&mut self, rhs: &Self) {
        self.add(&rhs.0);
    }
}

impl<'a> Semigroup<&'a [i128]> for Acc {
    fn plus_equals(&mut self, rhs: &&'a [i128]) {
        self.add(rhs);
    }
}

/// Accumulators of many keys, all of one width, back to back.
#[derive(Clone, Debug, Default)]
pub struct Accs {
    width: usize,
    words: Vec<i128>,
}

impl Accs {
    /// Room for `n` keys of `width` words.
    pub fn with_width(width: usize, n: usize) -> Self {
        Self { width, words: Vec::with_capacity(width * n) }
    }

    /// Words a key.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Appends one key's words.
    #[inline]
    pub fn push(&mut self, words: &[i128]) {
        if self.width == 0 {
            self.width = words.len();
        }
        debug_assert_eq!(self.width, words.len(), "one width a trace");
        self.words.extend_from_slice(words);
    }

    /// Appends one key with all words zero and returns them.
    #[inline]
    pub fn push_zero(&mut self) -> &mut [i128] {
        let start = self.words.len();
        self.words.resize(start + self.width, 0);
        &mut self.words[start..]
    }

    /// Appends those of another list.
    pub fn append(&mut self, other: &Accs) {
        if self.width == 0 {
            self.width = other.width;
        }
        debug_assert_eq!(self.width, other.width, "one width a trace");
        self.words.extend_from_slice(&other.words);
    }

    /// Words of key `i`.
    #[inline]
    pub fn get(&self, i: usize) -> &[i128] {
        &self.words[i * self.width..(i + 1) * self.width]
    }

    /// Words of key `i`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, i: usize) -> &mut [i128] {
        &mut self.words[i * self.width..(i + 1) * self.width]
    }

    /// All words, key after key.
    #[inline]
    pub fn words_mut(&mut self) -> &mut [i128] {
        &mut self.words
    }

    /// Lets go of room that is not needed.
    pub fn shrink(&mut self) {
        self.words.shrink_to_fit();
    }

    /// Number of keys.
    pub fn count(&self) -> usize {
        self.words.len().checked_div(self.width).unwrap_or(0)
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.words.capacity() * size_of::<i128>()
    }
}

impl BatchContainer for Accs {
    type Owned = Acc;
    type ReadItem<'a> = &'a [i128];

    fn into_owned(item: &[i128]) -> Acc {
        Acc(SmallVec::from_slice(item))
    }
    fn clone_onto(item: &[i128], other: &mut Acc) {
        other.0.clear();
        other.0.extend_from_slice(item);
    }
    fn push_ref(&mut self, item: &[i128]) {
        self.push(item);
    }
    fn push_own(&mut self, item: &Acc) {
        self.push(&item.0);
    }
    fn clear(&mut self) {
        self.words.clear();
    }
    fn with_capacity(_: usize) -> Self {
        Self::default()
    }
    fn merge_capacity(a: &Self, b: &Self) -> Self {
        Self::with_width(a.width.max(b.width), a.count() + b.count())
    }
    fn reborrow<'b, 'a: 'b>(item: &'a [i128]) -> &'b [i128] {
        item
    }
    fn index(&self, index: usize) -> &[i128] {
        self.get(index)
    }
    fn len(&self) -> usize {
        self.count()
    }
}
