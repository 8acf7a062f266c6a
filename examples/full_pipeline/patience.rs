//! Waiting for what does not come: a disk that is full, a broker that is away.
//!
//! Invariant: whoever waits is told for what, now and then, and can always end it; an end before everything is out is an error.

use crate::note;
use orderflow::{Error, Result, Running, Status};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a wait is called to mind.
const REMINDER: Duration = Duration::from_secs(10);

/// Presses of Ctrl-C, none of which is lost.
pub(crate) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// Takes Ctrl-C over from the operating system.
    pub(crate) fn listen() -> Self {
        let (pressed, seen) = watch::channel(0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                pressed.send_modify(|n| *n += 1);
            }
        });
        Self(seen)
    }

    /// The next press, or one that nobody has looked at yet.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // no handler can be installed here: Ctrl-C ends the process as ever
        }
    }
}

/// What a run waits for now.
fn waits(status: &Status) -> Vec<String> {
    let sources = status.sources.iter().filter_map(|s| Some(format!("source {}: {}", s.name, s.waits.as_ref()?)));
    let sinks = status.sinks.iter().filter_map(|s| Some(format!("{}: {}", s.label, s.waits.as_ref()?)));
    sources.chain(sinks).chain(status.waits.iter().map(|why| format!("the state: {why}"))).collect()
}

/// Calls a wait to mind; its beginning is in the log.
#[derive(Default)]
pub(crate) struct Waiting(Option<Instant>);

impl Waiting {
    pub(crate) fn look(&mut self, status: &Status) {
        let waits = waits(status);
        match self.0 {
            None if !waits.is_empty() => self.0 = Some(Instant::now()),
            Some(_) if waits.is_empty() => {
                note(format_args!("it goes on"));
                self.0 = None;
            }
            Some(said) if said.elapsed() >= REMINDER => {
                note(format_args!("still waiting for {}\n  Ctrl-C ends without it", waits.join("\n")));
                self.0 = Some(Instant::now());
            }
            _ => {}
        }
    }
}

/// Waits until everything is out: by itself if the source has an end, else by draining. Ctrl-C ends it at once.
pub(crate) async fn finish(running: &Running, by_itself: bool, interrupts: &mut Interrupts) -> Result<Status> {
    patiently(running, interrupts, async { if by_itself { running.wait().await } else { running.drain().await } }).await
}

/// Takes no more input and brings what was read into the views: what they say now is what the files will hold. Ctrl-C ends it at once.
pub(crate) async fn at_rest(running: &Running, interrupts: &mut Interrupts) -> Result<()> {
    running.pause()?;
    patiently(running, interrupts, running.settled()).await.map(drop)
}

/// Waits for `end` of the pipeline; Ctrl-C ends it at once.
async fn patiently(running: &Running, interrupts: &mut Interrupts, end: impl Future<Output = Result<Status>>) -> Result<Status> {
    tokio::pin!(end);
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            outcome = &mut end => return outcome,
            () = interrupts.next() => return Err(cut_short(running).await),
            () = tokio::time::sleep(Duration::from_millis(100)) => waiting.look(&running.status()),
        }
    }
}

/// Ends at once; the error says what is not out.
pub(crate) async fn cut_short(running: &Running) -> Error {
    let status = running.status();
    let mut missing: Vec<_> = status
        .sinks
        .iter()
        .filter(|s| s.committed < status.complete)
        .map(|s| format!("{} holds epochs up to {} of {}", s.label, s.committed, status.complete))
        .collect();
    missing.extend(waits(&status).iter().filter_map(|w| w.lines().next()).map(str::to_owned));
    if let Err(e) = running.stop().await {
        return e;
    }
    Error::user("ended before everything was out")
        .why(missing.join("\n  "))
        .hint("what a data set holds is complete up to its epoch; run again with a new folder for the whole")
}
