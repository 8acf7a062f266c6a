//! Which partitions have something to read, told by librdkafka's threads to the engine's, so that idling costs nothing.
//!
//! Invariant: a partition whose queue is not empty is either known to the reader as active or named in [`Hub::woken`], because
//! its signal is lowered before the queue is read. The lock is held for a push or a swap, never across a call to librdkafka,
//! which calls [`Signal::raise`] under a lock of its own.

use orderflow_core::source::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where all signals of one reader arrive.
pub(crate) struct Hub {
    woken: Mutex<Vec<usize>>,
    events: AtomicBool,
    waker: Waker,
}

impl Hub {
    pub(crate) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self { woken: Mutex::default(), events: AtomicBool::new(true), waker })
    }

    /// Moves the numbers of woken partitions to `into`.
    pub(crate) fn woken(&self, into: &mut Vec<usize>) {
        into.append(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Something other than records happened: a commit was answered, a broker was lost, the watch found something.
    pub(crate) fn event(&self) {
        self.events.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether [`Hub::event`] was called since the last time.
    pub(crate) fn take_event(&self) -> bool {
        self.events.swap(false, Ordering::AcqRel)
    }
}

/// One partition's bell.
pub(crate) struct Signal {
    partition: usize,
    raised: AtomicBool,
    hub: Arc<Hub>,
}

impl Signal {
    pub(crate) fn new(partition: usize, hub: &Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { partition, raised: AtomicBool::new(false), hub: hub.clone() })
    }

    /// The partition's queue is no longer empty.
    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.hub.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.partition);
        }
        self.hub.waker.wake();
    }

    /// To be called before the queue is read.
    pub(crate) fn lower(&self) {
        self.raised.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_once_until_it_is_lowered() {
        let hub = Hub::new(Waker::default());
        let signal = Signal::new(7, &hub);
        signal.raise();
        signal.raise();
        let mut woken = vec![];
        hub.woken(&mut woken);
        assert_eq!(woken, [7]);
        signal.lower();
        signal.raise();
        hub.woken(&mut woken);
        assert_eq!(woken, [7, 7]);
    }
}
