//! A subscriber of `tracing` for one test among others of its process.
//!
//! Invariant: whether anybody listens at a callsite is answered for all threads, whichever comes to it first.

use std::sync::LazyLock;
use tracing::subscriber::{NoSubscriber, with_default};
use tracing::{Dispatch, Subscriber};

/// As [`with_default`], for tests that run beside others: `subscriber` hears what this thread says in `work`, and is asked about spans and events that another
/// thread came to first.
///
/// As long as a process has one subscriber, `tracing` asks only the thread that comes to a span or event first for its own, and keeps its "nobody listens" for
/// all threads. So there is a second one, which takes nothing.
pub fn listening<T>(subscriber: impl Subscriber + Send + Sync + 'static, work: impl FnOnce() -> T) -> T {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&SECOND);
    with_default(subscriber, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata};

    struct Counter(Arc<AtomicUsize>);

    impl Subscriber for Counter {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            if event.metadata().target() == "callsite" {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn what_another_thread_came_to_first_is_heard() {
        let say = || tracing::info!(target: "callsite", "said");
        let heard = Arc::new(AtomicUsize::new(0));
        listening(Counter(heard.clone()), || {
            // it listens already, and this one, which has no subscriber, is the first to come
            std::thread::spawn(say).join().unwrap();
            say();
        });
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }
}
