//! The only room with threads: a thread for the engine, one for every worker, one for every sink.
//!
//! Invariant: channels to workers are bounded and nobody blocks on them: the engine holds a fetch back instead. A worker parks when it has nothing to
//! do and is unparked after every message, message first.

use super::background::Driver;
use super::engine::{Engine, Step};
use super::sinks::{SinkDriver, SinkState};
use super::worker::{Begin, Blueprint, Core, Report, ToWorker};
use crate::error::{Error, Result};
use crate::operator::Order;
use crate::operator::closure::{caught, caught_outside, panic_text};
use crate::sink::Closed;
use crate::source::Waker;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;
use timely::communication::Allocator;
use timely::communication::allocator::AllocatorBuilder;

/// Fetches that wait before one worker.
const FETCHES_WAITING: usize = 16;
/// How long a parked worker sleeps at most.
const PARK: Duration = Duration::from_secs(5);
/// How long a sink thread waits for the outside in one go.
const SINK_WAIT: Duration = Duration::from_millis(20);

/// The engine's end of a worker thread.
pub(crate) struct WorkerThread {
    to: crossbeam_channel::Sender<ToWorker>,
    waiting: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    pub(crate) fn send(&mut self, message: ToWorker) {
        // a worker that is gone has reported why
        if self.to.send(message).is_ok() {
            self.thread.thread().unpark();
        }
    }

    pub(crate) fn offer(&mut self, message: ToWorker) -> Option<ToWorker> {
        if self.waiting.load(Ordering::Acquire) >= FETCHES_WAITING {
            return Some(message);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.send(message);
        None
    }
}

/// A queue whose length is bounded elsewhere: fetches by [`FETCHES_WAITING`], epochs by those in flight, bytes by the engine's bounds. A
/// bounded channel would make the sender wait, which the engine never does.
#[expect(clippy::disallowed_methods, reason = "bounded by count and bytes, see above")]
pub(crate) fn queue<T>() -> (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>) {
    crossbeam_channel::unbounded()
}

type Reports = crossbeam_channel::Sender<Result<(usize, Report)>>;

/// Starts `n` workers; gives their engine ends and the canonical order of each output.
pub(crate) fn start_workers(
    name: &str,
    n: usize,
    blueprint: &Arc<Blueprint>,
    begin: Begin,
    reports: &Reports,
    wake: &Waker,
) -> Result<(Vec<WorkerThread>, Vec<Order>)> {
    let config = if n == 1 { timely::CommunicationConfig::Thread } else { timely::CommunicationConfig::Process(n) };
    let (builders, _others) = config.try_build().map_err(|e| Error::internal("timely cannot start").why(e))?;
    let (ready_tx, ready_rx) = queue();
    let mut workers = vec![];
    for (index, builder) in builders.into_iter().enumerate() {
        let (to, inbox) = queue();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut run = WorkerLoop { index, begin, inbox, waiting: waiting.clone(), reports: reports.clone(), wake: wake.clone() };
        let (blueprint, ready) = (blueprint.clone(), ready_tx.clone());
        let body = move || {
            let _span = tracing::info_span!("orderflow_worker", pipeline = %blueprint.pipeline, worker = index).entered();
            if let Err(e) = caught("a worker panicked", || run.run(&blueprint, builder, &ready)) {
                let _ = ready.send(Err(e.clone()));
                let _ = run.reports.send(Err(e));
                run.wake.wake();
            }
        };
        let thread = spawn(&format!("{name}-worker-{index}"), body)?;
        workers.push(WorkerThread { to, waiting, thread });
    }
    drop(ready_tx);
    let mut orders = vec![];
    for _ in 0..n {
        orders = ready_rx.recv().unwrap_or_else(|_| Err(Error::internal("a worker did not start")))?;
    }
    Ok((workers, orders))
}

#[expect(clippy::disallowed_methods, reason = "the shell is the only room with threads")]
fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| Error::external("no thread could be started").caused_by(e))
}

fn allocator(builder: AllocatorBuilder) -> Result<Allocator> {
    match builder {
        AllocatorBuilder::Thread(_) => Ok(Allocator::Thread(Default::default())),
        AllocatorBuilder::Process(p) => Ok(Allocator::Process(p.build())),
        AllocatorBuilder::Tcp(_) => Err(Error::internal("workers in other processes were not asked for")),
    }
}

struct WorkerLoop {
    index: usize,
    begin: Begin,
    inbox: crossbeam_channel::Receiver<ToWorker>,
    waiting: Arc<AtomicUsize>,
    reports: Reports,
    wake: Waker,
}

impl WorkerLoop {
    fn run(
        &mut self,
        blueprint: &Blueprint,
        builder: AllocatorBuilder,
        ready: &crossbeam_channel::Sender<Result<Vec<Order>>>,
    ) -> Result<()> {
        let (mut core, orders) = Core::build(blueprint, allocator(builder)?, self.begin)?;
        let _ = ready.send(Ok(orders));
        loop {
            let mut got = false;
            while let Ok(message) = self.inbox.try_recv() {
                got = true;
                let fetch = matches!(message, ToWorker::Fetch { .. });
                let go_on = core.handle(message)?;
                if fetch {
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                    self.wake.wake();
                }
                if !go_on {
                    core.stop();
                    return Ok(());
                }
                core.step(None)?;
            }
            core.step(if got { None } else { Some(PARK) })?;
            let mut reported = false;
            while let Some(report) = core.report() {
                let _ = self.reports.send(Ok((self.index, report)));
                reported = true;
            }
            if reported {
                self.wake.wake();
            }
        }
    }
}

enum ToSink {
    Offer(Closed),
    Flush,
    Close,
}

/// Bytes given to a sink thread and not yet out: at no moment fewer than there are, or sources would be read on meanwhile.
#[derive(Default)]
struct Given {
    /// Of epochs that the driver has not spoken of yet.
    queued: AtomicUsize,
    /// What the driver said.
    pending: AtomicUsize,
}

impl Given {
    fn add(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The driver says `pending`, epochs of `taken` bytes included that it had not spoken of before.
    fn told(&self, pending: usize, taken: usize) {
        self.pending.store(pending, Ordering::Release);
        self.queued.fetch_sub(taken, Ordering::AcqRel);
    }

    /// Read in the other order than [`Given::told`] writes: for a moment twice, never not at all.
    fn bytes(&self) -> usize {
        let queued = self.queued.load(Ordering::Acquire);
        queued + self.pending.load(Ordering::Acquire)
    }
}

/// The engine's end of a sink thread.
pub(crate) struct SinkThread {
    to: crossbeam_channel::Sender<ToSink>,
    given: Arc<Given>,
    state: Arc<Mutex<SinkState>>,
    thread: Option<JoinHandle<()>>,
    flushed: crate::time::Epoch,
    offered: crate::time::Epoch,
}

impl SinkThread {
    /// Starts the thread of a sink of `pipeline`.
    pub(crate) fn start(pipeline: &str, mut driver: SinkDriver, wake: Waker) -> Result<Self> {
        let (to, inbox) = queue();
        let (given, state) = (Arc::new(Given::default()), Arc::new(Mutex::new(SinkState::default())));
        let (g, s) = (given.clone(), state.clone());
        let (name, title) = (pipeline.to_owned(), driver.name().to_owned());
        let body = move || {
            let _span = tracing::info_span!("orderflow_sink", pipeline = %name, sink = %title).entered();
            let run = || {
                sink_loop(&mut driver, &inbox, &g, &s, &wake);
                Ok(())
            };
            if let Err(e) = caught_outside(run) {
                let e = e.at(format!("sink {title}"));
                s.lock().unwrap_or_else(PoisonError::into_inner).failed.get_or_insert(e);
                wake.wake();
            }
        };
        let thread = Some(spawn(&format!("{pipeline}-sink"), body)?);
        Ok(Self { to, given, state, thread, flushed: crate::time::Epoch(0), offered: crate::time::Epoch(0) })
    }

    pub(crate) fn offer(&mut self, closed: Closed) {
        self.offered = closed.epoch;
        self.given.add(closed.memory());
        let _ = self.to.send(ToSink::Offer(closed));
    }

    pub(crate) fn state(&mut self) -> SinkState {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = std::mem::take(&mut state.refused);
        SinkState { refused, ..state.clone() }
    }

    pub(crate) fn flush(&mut self) {
        // once for everything offered so far; the sink goes on by itself
        if self.flushed < self.offered {
            self.flushed = self.offered;
            let _ = self.to.send(ToSink::Flush);
        }
    }

    /// Bytes given and not yet out.
    pub(crate) fn pending(&self) -> usize {
        self.given.bytes()
    }

    pub(crate) fn close(&mut self) -> SinkState {
        let _ = self.to.send(ToSink::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic is in the state
        }
        self.state()
    }
}

fn sink_loop(driver: &mut SinkDriver, inbox: &crossbeam_channel::Receiver<ToSink>, given: &Given, shared: &Mutex<SinkState>, wake: &Waker) {
    use crossbeam_channel::RecvTimeoutError;
    let mut rest = Duration::ZERO;
    loop {
        // with nothing under way it sleeps until something comes; a writer that does not wait by itself is asked again after a while
        let wait = match (driver.is_idle(), driver.pause()) {
            (true, _) => Duration::from_secs(3600),
            (_, Some(pause)) => pause.min(Duration::from_secs(1)),
            _ => rest,
        };
        let (mut next, mut taken) = (inbox.recv_timeout(wait), 0);
        loop {
            match next {
                Ok(ToSink::Offer(closed)) => {
                    taken += closed.memory();
                    driver.offer(closed);
                }
                Ok(ToSink::Flush) => driver.flush(),
                Ok(ToSink::Close) | Err(RecvTimeoutError::Disconnected) => {
                    let state = driver.close();
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = state;
                    return;
                }
                Err(RecvTimeoutError::Timeout) => break,
            }
            next = inbox.recv_timeout(Duration::ZERO);
        }
        let (mut state, took) = driver.timed_step(SINK_WAIT);
        let mut last = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = (last.done, last.pending, last.failed.is_some()) != (state.done, state.pending, state.failed.is_some());
        let news = changed || taken > 0 || !state.refused.is_empty() || last.waits.is_some() != state.waits.is_some();
        state.refused.splice(0..0, std::mem::take(&mut last.refused));
        let pending = state.pending;
        *last = state;
        drop(last);
        given.told(pending, taken);
        rest = if news { Duration::ZERO } else { SINK_WAIT.saturating_sub(took) };
        if news {
            wake.wake();
        }
    }
}

/// The engine's end of a thread that does what may wait for the disk.
pub(crate) struct DriverThread<D: Driver> {
    to: crossbeam_channel::Sender<D::Job>,
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<D::State>>,
    thread: JoinHandle<()>,
}

impl<D: Driver> DriverThread<D> {
    /// Starts the thread that writes this part of the state of `pipeline`.
    pub(crate) fn start(pipeline: &str, part: &'static str, mut driver: D, wake: Waker) -> Result<Self> {
        let (to, inbox) = queue();
        let (stop, state) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(driver.step())));
        let (stopped, shared) = (stop.clone(), state.clone());
        let name = pipeline.to_owned();
        let body = move || {
            let _span = tracing::info_span!("orderflow_state", pipeline = %name, part = %part).entered();
            let run = || {
                driver_loop(&mut driver, &inbox, &stopped, &shared, &wake);
                Ok(())
            };
            if let Err(e) = caught(format!("the thread {name}-{part} panicked"), run) {
                D::fail(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), e);
                wake.wake();
            }
        };
        let thread = spawn(&format!("{pipeline}-{part}"), body)?;
        Ok(Self { to, stop, state, thread })
    }

    pub(crate) fn give(&mut self, job: D::Job) {
        // a thread that is gone has said why in the state
        let _ = self.to.send(job);
    }

    pub(crate) fn state(&mut self) -> D::State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn close(self, finish: bool) -> D::State {
        let Self { to, stop, state, thread } = self;
        stop.store(!finish, Ordering::Release);
        drop(to);
        let _ = thread.join(); // its panic is in the state
        state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn driver_loop<D: Driver>(
    driver: &mut D,
    inbox: &crossbeam_channel::Receiver<D::Job>,
    stopped: &AtomicBool,
    shared: &Mutex<D::State>,
    wake: &Waker,
) {
    use crossbeam_channel::RecvTimeoutError;
    loop {
        let wait = if driver.is_idle() { Duration::from_secs(3600) } else { driver.pause() };
        let mut next = inbox.recv_timeout(wait);
        let open = loop {
            match next {
                Ok(job) => driver.take(job),
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
            next = inbox.recv_timeout(Duration::ZERO);
        };
        if stopped.load(Ordering::Acquire) {
            return;
        }
        let state = driver.step();
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = state;
        wake.wake();
        if !open {
            return; // what could not be done by now is not needed: nothing that left depends on it
        }
    }
}

/// Runs an engine on a thread of its own until it ends. `build` runs on that thread, with what wakes it.
pub(crate) fn start_engine(
    name: &str,
    build: impl FnOnce(Waker) -> Result<Engine> + Send + 'static,
    ready: impl FnOnce(Result<Thread>) + Send + 'static,
    ended: impl FnOnce(Result<()>) + Send + 'static,
) -> Result<()> {
    let pipeline = name.to_owned();
    spawn(&format!("{name}-engine"), move || {
        let _span = tracing::info_span!("orderflow", pipeline = %pipeline).entered();
        let me = thread::current();
        let waked = me.clone();
        let mut engine = match caught("the engine panicked while it started", || build(Waker::new(move || waked.unpark()))) {
            Ok(engine) => engine,
            Err(e) => return ready(Err(e)),
        };
        ready(Ok(me));
        let outcome = loop {
            match catch_unwind(AssertUnwindSafe(|| engine.step())) {
                Ok(Step::Busy) => {}
                Ok(Step::Idle(wait)) => thread::park_timeout(wait),
                Ok(Step::Finished(outcome)) => break outcome,
                Err(panic) => break Err(engine.panicked(panic_text(&*panic))),
            }
        };
        ended(outcome);
        // what the views hold can be read until the handle is dropped
        while engine.serve_reads() {
            thread::park_timeout(PARK);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Changes;
    use crate::sink::{Committed, Writer};
    use crate::time::{Clock, Epoch};
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    /// Holds all that it takes, says when it is asked, and answers when it is let.
    struct Holds {
        bytes: usize,
        asked: crossbeam_channel::Sender<()>,
        answer: crossbeam_channel::Receiver<()>,
    }

    impl Writer for Holds {
        fn write(&mut self, closed: Closed) -> Result<()> {
            self.bytes += closed.memory();
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }

        fn poll(&mut self, _wait: Duration) -> Result<Committed> {
            let _ = self.asked.send(());
            let _ = self.answer.recv();
            Ok(Committed { pending_bytes: self.bytes, ..Committed::default() })
        }

        fn close(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    fn closed(epoch: u64) -> Closed {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![0; 1_000]));
        Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(RecordBatch::try_from_iter([("n", column)]).unwrap())] }
    }

    #[test]
    fn what_a_sink_thread_took_counts_while_it_waits_for_the_outside() {
        let ((asked, is_asked), (answers, answer)) = (crossbeam_channel::bounded(1), crossbeam_channel::bounded(1));
        let writer = Box::new(Holds { bytes: 0, asked, answer });
        let driver = SinkDriver::new("holds".into(), writer, Epoch(0), None, Clock::system());
        let mut thread = SinkThread::start("test", driver, Waker::new(|| ())).unwrap();
        let mut bytes = 0;
        for epoch in 1..=20 {
            bytes += closed(epoch).memory();
            thread.offer(closed(epoch));
            // in the first round of a loop the thread may not have taken it yet, and then it has
            for _ in 0..3 {
                is_asked.recv().unwrap();
                assert!(thread.pending() >= bytes, "{} of {bytes} bytes count", thread.pending());
                answers.send(()).unwrap();
            }
        }
        drop(answers);
        drop(is_asked);
        assert_eq!(thread.close().pending, bytes);
    }
}
