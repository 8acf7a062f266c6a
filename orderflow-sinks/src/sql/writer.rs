//! The writer: closed epochs queue up, and one act after the other takes what is there.
//!
//! The client library is asynchronous and a sink has a thread of its own, so the writer owns a small runtime that runs while [`Writer::poll`] waits and at no
//! other time; an act under way is a future that is kept from one poll to the next.
//!
//! Invariant: an act whose outcome is unknown stays the current one, with the same epochs, until an answer under lock says what became of it. One that leaves
//! rows out tells them and waits, with its transaction open, until they are bound; every later try of it tells again.

use super::act::{Act, Done, Stand, commit, perform};
use super::connection::{Connection, Failure};
use super::target::Target;
use orderflow_core::sink::{Bound, Closed, Committed, Progress, Refused, Writer, WriterId};
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Most rows and bytes that several epochs in one act may have; a single epoch may be larger.
const ACT_ROWS: usize = 100_000;
const ACT_BYTES: usize = 64 << 20;
/// How long a writer that is closed waits for an act under way, and for the goodbye.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A current-thread runtime on whatever thread polls the sink.
pub(super) struct Driver(Option<tokio::runtime::Runtime>);

impl Driver {
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|r| Self(Some(r))).map_err(|e| Error::external("no runtime could be started for a database").caused_by(e))
    }

    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        match &self.0 {
            Some(runtime) if tokio::runtime::Handle::try_current().is_err() => Ok(runtime.block_on(future)),
            _ => Err(Error::internal("a database sink was driven on a thread of an asynchronous runtime")),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// An open table.
pub(super) struct SqlWriter {
    target: Arc<Target>,
    me: WriterId,
    queue: VecDeque<Closed>,
    taken: Option<Epoch>,
    /// What is being written, or was and nobody knows.
    act: Option<Arc<Act>>,
    work: Option<Work>,
    connection: Option<Box<dyn Connection>>,
    /// The connection of an act that is ready, and what lets it be committed.
    ready: Option<(Box<dyn Connection>, Bound)>,
    committed: Option<Progress>,
    /// What the act leaves out, until it is told, and whether it told before.
    refused: Option<Refused>,
    tells: bool,
    /// Last, so that what it drives goes before it.
    driver: Driver,
}

impl SqlWriter {
    pub(super) fn new(
        target: Arc<Target>,
        me: WriterId,
        driver: Driver,
        connection: Box<dyn Connection>,
        progress: Option<Progress>,
    ) -> Self {
        Self {
            target,
            me,
            queue: VecDeque::new(),
            taken: progress.map(|p| p.epoch),
            act: None,
            work: None,
            connection: Some(connection),
            ready: None,
            committed: progress,
            refused: None,
            tells: false,
            driver,
        }
    }

    /// Something to do, if there is anything.
    fn work(&mut self) -> Result<Option<&mut Work>> {
        if self.act.is_none() {
            let (mut rows, mut bytes, mut epochs) = (0, 0, vec![]);
            while let Some(next) = self.queue.front() {
                (rows, bytes) = (rows + next.rows(), bytes + next.memory());
                if !epochs.is_empty() && (rows > ACT_ROWS || bytes > ACT_BYTES) {
                    break;
                }
                epochs.extend(self.queue.pop_front());
            }
            if !epochs.is_empty() {
                self.act = Some(Arc::new(Act::new(&self.target, &epochs)?));
            }
        }
        let Some(act) = &self.act else { return Ok(None) };
        if self.ready.as_ref().is_some_and(|(_, bound)| !bound.is_bound()) {
            return Ok(None);
        }
        let start = || match self.ready.take() {
            Some((connection, _)) => Box::pin(commit(connection)) as Work,
            None => Box::pin(perform(self.target.clone(), self.me, act.clone(), self.connection.take(), self.tells)) as Work,
        };
        Ok(Some(self.work.get_or_insert_with(start)))
    }

    fn finish(&mut self, done: Done) -> Result<()> {
        self.work = None;
        match done.outcome {
            Ok(Stand::Happened) => {
                self.connection = done.connection;
                let epoch = self.act.take().map(|act| act.last);
                self.committed = epoch.map(|epoch| Progress { writer: self.me, epoch, part: 0 }).or(self.committed);
                self.tells = false;
                Ok(())
            }
            Ok(Stand::Ready(rows)) => {
                let refused = Refused::new(0, self.act.as_ref().map(|act| act.last).unwrap_or_default(), rows);
                self.ready = done.connection.map(|connection| (connection, refused.bound()));
                (self.refused, self.tells) = (Some(refused), true);
                Ok(())
            }
            // found only when all was to be made final: nothing was, and no single row can be blamed
            Err(Failure::Row(why)) => {
                Err(Failure::Permanent(why, "a constraint that is checked at the end cannot be blamed on a row: make it immediate")
                    .error(self.doing()))
            }
            Err(failure @ Failure::Passing(_)) if done.committing => {
                Err(failure.error(format!("{}: whether the last commit happened is not known yet", self.doing())))
            }
            Err(failure) => Err(failure.error(self.doing())),
        }
    }

    fn doing(&self) -> String {
        format!("cannot write to the table {}", self.target.table.name)
    }
}

impl Writer for SqlWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        if self.taken.is_some_and(|t| closed.epoch <= t) {
            return Err(Error::internal(format!("epoch {} was given after epoch {}", closed.epoch, self.taken.unwrap_or_default())));
        }
        self.taken = Some(closed.epoch);
        self.queue.push_back(closed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(()) // nothing waits but for the act before it
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        if self.work()?.is_some()
            && let Some(mut work) = self.work.take()
        {
            // the timer must be made inside of the runtime
            match self.driver.run(async { tokio::time::timeout(wait, work.as_mut()).await })? {
                Ok(done) => self.finish(done)?,
                Err(_) => self.work = Some(work),
            }
        }
        let pending_bytes = self.queue.iter().map(Closed::memory).sum::<usize>() + self.act.as_ref().map_or(0, |a| a.memory);
        Ok(Committed { progress: self.committed, pending_bytes, refused: self.refused.take().into_iter().collect() })
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        // what is under way comes to its end either way: better before the next one opens
        if let Some(mut work) = self.work.take()
            && let Ok(done) = self.driver.run(async { tokio::time::timeout(LAST_WORDS, work.as_mut()).await })?
        {
            self.connection = done.connection;
        }
        // a transaction that waits to be committed ends without that
        let connection = self.connection.take().or(self.ready.take().map(|(connection, _)| connection));
        if let Some(connection) = connection {
            // whether the database hears it changes nothing
            let _ = self.driver.run(async { tokio::time::timeout(LAST_WORDS, connection.close()).await })?;
        }
        Ok(())
    }
}
