//! A lane: one transactional producer, and a thread that makes the calls which block.
//!
//! librdkafka ends a transaction in one blocking call, which should not be cut into short ones (a result that comes between two of them may be lost) and
//! which waits for answers that somebody else has to serve. So a thread blocks, and the writer serves.
//! Invariant: at most one task is under way, and its answer raises the signal that the writer waits for.
#![expect(clippy::disallowed_methods, reason = "the calls block for as long as the brokers take")]

use super::fence::{Entry, Opening};
use crate::ffi::{Call, ProducerClient, Refusal};
use orderflow_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How long a commit may block before it is looked whether anybody still waits.
const COMMIT: Duration = Duration::from_secs(60);

/// How long an abort may block before it is called again: each call throws out records that came back from a broker meanwhile.
const ABORT: Duration = Duration::from_millis(500);

/// What the thread is to do.
pub(super) enum Task {
    Commit,
    Abort,
    /// Wins the lane anew, with batches of this size.
    Reopen(usize),
    /// Drops a producer, which may take its time.
    Forget(Arc<ProducerClient>),
}

/// What came of it.
pub(super) enum Answer {
    Committed(std::result::Result<(), Refusal>),
    /// With the reason why the transaction had failed, where there was one.
    Aborted(std::result::Result<(), Refusal>, Option<Refusal>),
    Opened(Result<Entry>),
}

pub(super) struct Lane {
    tasks: SyncSender<Task>,
    answers: Receiver<Answer>,
    stop: Arc<AtomicBool>,
}

impl Lane {
    pub(super) fn start(opening: Arc<Opening>, number: u8, client: Arc<ProducerClient>) -> Result<Self> {
        let (tasks, theirs) = sync_channel(2);
        let (answer, answers) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Thread { opening, number, client, stop: stop.clone() };
        std::thread::Builder::new()
            .name("orderflow-kafka-commit".into())
            .spawn(move || thread.opening.span.clone().in_scope(|| thread.run(&theirs, &answer)))
            .map_err(|e| Error::external("the thread that commits transactions could not start").caused_by(e))?;
        Ok(Self { tasks, answers, stop })
    }

    pub(super) fn ask(&self, task: Task) -> Result<()> {
        self.tasks.try_send(task).map_err(|_| Error::internal("the thread that commits transactions takes no task"))
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

struct Thread {
    opening: Arc<Opening>,
    number: u8,
    client: Arc<ProducerClient>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    fn run(mut self, tasks: &Receiver<Task>, answers: &SyncSender<Answer>) {
        while let Ok(task) = tasks.recv() {
            let answer = match task {
                Task::Forget(client) => {
                    drop(client);
                    continue;
                }
                Task::Commit => Answer::Committed(self.commit()),
                Task::Abort => {
                    // a transaction that failed by itself tells its reason to whoever wants to begin another
                    let why = self.client.transaction(Call::Begin, Duration::ZERO).err().filter(|r| r.abort);
                    Answer::Aborted(self.patiently(Call::Abort, ABORT), why)
                }
                Task::Reopen(batch) => {
                    let opened = self.opening.open(&[self.number], batch, true);
                    if let Ok(Entry::Won(won)) = &opened {
                        self.client = won[0].client.clone();
                    }
                    Answer::Opened(opened)
                }
            };
            if answers.send(answer).is_err() {
                return;
            }
            self.opening.signal.raise();
        }
    }

    fn commit(&self) -> std::result::Result<(), Refusal> {
        let commit = || self.patiently(Call::Commit, COMMIT);
        #[cfg(test)]
        let commit = || self.opening.faults.commit(commit);
        commit()
    }

    /// Goes on with a call for as long as the brokers are away and somebody waits for it.
    fn patiently(&self, call: Call, block: Duration) -> std::result::Result<(), Refusal> {
        loop {
            match self.client.transaction(call, block) {
                Err(refusal) if refusal.again && !self.stop.load(Ordering::Acquire) => std::thread::sleep(Duration::from_millis(10)),
                ended => return ended,
            }
        }
    }
}
