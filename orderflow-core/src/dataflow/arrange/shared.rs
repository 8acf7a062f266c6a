//! A batch in an [`Arc`]: what differential's own blanket does for `Rc`, so that another thread can read a batch while the
//! worker goes on.

use differential_dataflow::trace::{Batch, BatchReader, Cursor, Description, Merger, Navigable};
use std::sync::Arc;
use timely::progress::{Antichain, frontier::AntichainRef};

/// An immutable batch that many may hold, from any thread.
pub(super) struct Shared<B>(pub(super) Arc<B>);

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<B: BatchReader + Navigable> Navigable for Shared<B> {
    type Cursor = SharedCursor<B::Cursor>;
    fn cursor(&self) -> Self::Cursor {
        SharedCursor(self.0.cursor())
    }
}

impl<B: BatchReader> BatchReader for Shared<B> {
    type Time = B::Time;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn description(&self) -> &Description<Self::Time> {
        self.0.description()
    }
}

/// The cursor of the batch inside.
pub(super) struct SharedCursor<C>(C);

impl<C: Cursor> Cursor for SharedCursor<C> {
    type Storage = Shared<C::Storage>;
    type Key<'a> = C::Key<'a>;
    type ValOwn = C::ValOwn;
    type Val<'a> = C::Val<'a>;
    type Time = C::Time;
    type TimeGat<'a> = C::TimeGat<'a>;
    type Diff = C::Diff;
    type DiffGat<'a> = C::DiffGat<'a>;
    type KeyContainer = C::KeyContainer;
    type ValContainer = C::ValContainer;
    type TimeContainer = C::TimeContainer;
    type DiffContainer = C::DiffContainer;

    #[inline]
    fn key_valid(&self, s: &Self::Storage) -> bool {
        self.0.key_valid(&s.0)
    }
    #[inline]
    fn val_valid(&self, s: &Self::Storage) -> bool {
        self.0.val_valid(&s.0)
    }
    #[inline]
    fn key<'a>(&self, s: &'a Self::Storage) -> Self::Key<'a> {
        self.0.key(&s.0)
    }
    #[inline]
    fn val<'a>(&self, s: &'a Self::Storage) -> Self::Val<'a> {
        self.0.val(&s.0)
    }
    #[inline]
    fn get_key<'a>(&self, s: &'a Self::Storage) -> Option<Self::Key<'a>> {
        self.0.get_key(&s.0)
    }
    #[inline]
    fn get_val<'a>(&self, s: &'a Self::Storage) -> Option<Self::Val<'a>> {
        self.0.get_val(&s.0)
    }
    #[inline]
    fn map_times<L: FnMut(Self::TimeGat<'_>, Self::DiffGat<'_>)>(&mut self, s: &Self::Storage, logic: L) {
        self.0.map_times(&s.0, logic);
    }
    #[inline]
    fn step_key(&mut self, s: &Self::Storage) {
        self.0.step_key(&s.0);
    }
    #[inline]
    fn seek_key(&mut self, s: &Self::Storage, key: Self::Key<'_>) {
        self.0.seek_key(&s.0, key);
    }
    #[inline]
    fn step_val(&mut self, s: &Self::Storage) {
        self.0.step_val(&s.0);
    }
    #[inline]
    fn seek_val(&mut self, s: &Self::Storage, val: Self::Val<'_>) {
        self.0.seek_val(&s.0, val);
    }
    #[inline]
    fn rewind_keys(&mut self, s: &Self::Storage) {
        self.0.rewind_keys(&s.0);
    }
    #[inline]
    fn rewind_vals(&mut self, s: &Self::Storage) {
        self.0.rewind_vals(&s.0);
    }
}

impl<B: Batch> Batch for Shared<B> {
    type Merger = SharedMerger<B>;
    fn empty(lower: Antichain<Self::Time>, upper: Antichain<Self::Time>) -> Self {
        Shared(Arc::new(B::empty(lower, upper)))
    }
}

/// The merger of the batches inside.
pub(super) struct SharedMerger<B: Batch>(B::Merger);

impl<B: Batch> Merger<Shared<B>> for SharedMerger<B> {
    fn new(a: &Shared<B>, b: &Shared<B>, compaction: AntichainRef<'_, B::Time>) -> Self {
        SharedMerger(B::begin_merge(&a.0, &b.0, compaction))
    }
    fn work(&mut self, a: &Shared<B>, b: &Shared<B>, fuel: &mut isize) {
        self.0.work(&a.0, &b.0, fuel);
    }
    fn done(self) -> Shared<B> {
        Shared(Arc::new(self.0.done()))
    }
}
