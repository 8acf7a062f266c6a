//! From sources to closed epochs: polling within bounds, handing fetches to workers, and closing an epoch when its rule or, during a replay, its
//! binding says so.
//!
//! Invariant: a fetch is counted in the epoch that its worker stamps it with; while epochs of an earlier run are read again the mint is at rest.

use super::engine::{EPOCHS_IN_FLIGHT, Engine, FETCHES_A_STEP};
use super::ledger::LogJob;
use super::spool::kept;
use super::status::Phase;
use super::worker::ToWorker;
use crate::epoch::{Admit, Entry};
use crate::error::Result;
use crate::source::Fetch;
use crate::time::Epoch;
use std::time::Duration;

impl Engine {
    pub(super) fn has_room(&self) -> bool {
        // what is read again is one epoch, however large, which nothing but reading on can close
        let open = if self.replay.epoch().is_some() { 0 } else { self.flight.open_bytes };
        let reading = open + self.flight.minted.iter().map(|m| m.1).sum::<usize>();
        let writing: usize = self.outputs.iter().map(|o| o.port.pending(&o.state)).sum();
        self.flight.minted.len() < EPOCHS_IN_FLIGHT
            && reading < self.bounds.reading
            && writing < self.bounds.writing
            && !self.checkpoints.is_full()
    }

    /// Gives workers what was read, and, if `asking`, what the sources have now.
    pub(super) fn poll_sources(&mut self, asking: bool, wait: &mut Duration) -> Result<bool> {
        let mut busy = self.read_spool()?;
        for i in 0..self.sources.len() {
            for _ in 0..FETCHES_A_STEP {
                let source = &self.sources[i];
                let nothing = source.ended && source.later.is_empty() && source.held.is_none() && self.replay.epoch().is_none();
                let full = if self.replay.epoch().is_some() { self.replay.is_whole() } else { self.mint.is_due(self.clock.elapsed()) };
                if nothing || full || !self.has_room() {
                    break;
                }
                let now = self.clock.elapsed();
                let source = &mut self.sources[i];
                if let Some(left) = source.backoff.left(now).filter(|left| asking && !left.is_zero()) {
                    *wait = (*wait).min(left);
                    break;
                }
                let replay = &self.replay;
                let is_next = |f: &Fetch| replay.epoch().is_none() || replay.admit(&source.name, f) != Admit::Later;
                let held = source.held.take();
                let waiting = held.or_else(|| source.later.iter().position(is_next).and_then(|at| source.later.remove(at)));
                if waiting.is_none() && self.replay.epoch().is_some() {
                    // all that came of this epoch is on its way, and the epoch may be another one than when these came
                    source.later.iter().for_each(|fetch| self.replay.pass(&source.name, fetch));
                    if self.replay.is_whole() {
                        break;
                    }
                }
                let replay = &self.replay;
                let mut fetch = match waiting {
                    Some(held) => held,
                    None if !asking => break,
                    // what it has now would only lie here until the others are through
                    None if replay.epoch().is_some() && !replay.lacks(&source.name) => break,
                    // what it gave before comes from where it is stored; what it has now belongs to later epochs
                    None if source.spooled.is_some() && replay.epoch().is_some() => {
                        if replay.spooled().is_none() && replay.lacks(&source.name) {
                            return Err(replay.not_stored(&source.name));
                        }
                        break;
                    }
                    None => match source.poll(now) {
                        Ok(Some(fetch)) => fetch,
                        Ok(None) if source.ended && replay.lacks(&source.name) => {
                            return Err(replay.cut_short(&source.name));
                        }
                        Ok(None) => break,
                        Err(e) => return Err(e.at(format!("source {}", source.name))),
                    },
                };
                if replay.epoch().is_some() {
                    match replay.admit(&source.name, &fetch) {
                        Admit::Now => {}
                        Admit::Until(at) => {
                            let (now, later) = fetch.split(at);
                            source.later.push_front(later);
                            fetch = now;
                        }
                        Admit::Later => {
                            self.replay.pass(&source.name, &fetch);
                            source.later.push_back(fetch);
                            continue;
                        }
                    }
                }
                // a fetch that no worker has room for is no work: the worker that makes room wakes the engine
                if !self.dispatch(i, fetch, now) {
                    break;
                }
                busy = true;
            }
        }
        Ok(busy)
    }

    /// Gives a fetch to a worker; if all of them are full the fetch is held back, and false is returned.
    fn dispatch(&mut self, source: usize, fetch: Fetch, now: Duration) -> bool {
        let name = self.sources[source].name.clone();
        let (rows, bytes) = (fetch.rows, fetch.bytes);
        if rows == 0 {
            self.count(source, fetch, now);
            return true;
        }
        let shadow = Fetch {
            partition: fetch.partition.clone(),
            from: fetch.from,
            to: fetch.to,
            rows,
            bytes,
            fingerprint: fetch.fingerprint,
            latest: fetch.latest,
            payload: kept(&self.sources[source], &fetch),
        };
        let epoch = self.replay.epoch().unwrap_or(self.mint.epoch()).0;
        let mut message = ToWorker::Fetch { source, epoch, fetch };
        for turn in 0..self.workers.len() {
            let worker = (self.next_worker + turn) % self.workers.len();
            match self.workers[worker].offer(message) {
                None => {
                    self.next_worker = worker + 1;
                    self.count(source, shadow, now);
                    self.flight.open_bytes += bytes;
                    self.sources[source].report.rows += rows as u64;
                    self.sources[source].report.bytes += bytes as u64;
                    let labels = [("pipeline", self.pipeline.to_string()), ("source", name.to_string())];
                    metrics::counter!("orderflow_source_rows_total", &labels).increment(rows as u64);
                    metrics::counter!("orderflow_source_bytes_total", &labels).increment(bytes as u64);
                    return true;
                }
                Some(back) => message = back,
            }
        }
        if let ToWorker::Fetch { fetch, .. } = message {
            self.sources[source].held = Some(fetch);
        }
        false
    }

    /// Adds a fetch to the epoch that is read.
    fn count(&mut self, source: usize, fetch: Fetch, now: Duration) {
        let name = &self.sources[source].name;
        if self.replay.epoch().is_some() {
            self.replay.add(name, &fetch);
        } else {
            self.mint.add(name, &fetch, now);
            self.spool(source, fetch);
        }
    }

    /// Closes the epoch that is read again when it is whole.
    pub(super) fn close_replayed(&mut self) -> Result<bool> {
        if self.flight.minted.len() >= EPOCHS_IN_FLIGHT || self.sources.iter().any(|s| s.held.is_some()) {
            return Ok(false);
        }
        let Some(binding) = self.replay.close()? else { return Ok(false) };
        tracing::debug!(pipeline = %self.pipeline, epoch = binding.epoch.0, rows = binding.rows(), "epoch read again");
        self.close_epoch(binding.epoch);
        Ok(true)
    }

    fn close_epoch(&mut self, epoch: Epoch) {
        self.flight.minted.push_back((epoch, std::mem::take(&mut self.flight.open_bytes), self.clock.elapsed()));
        let forget = self.flight.complete.0;
        for worker in &mut self.workers {
            worker.send(ToWorker::Close { epoch: epoch.0, forget });
        }
    }

    pub(super) fn mint_if_due(&mut self, wait: &mut Duration) -> bool {
        let now = self.clock.elapsed();
        let hurry = matches!(self.phase, Phase::Draining | Phase::Paused) || self.settling.iter().any(|s| s.0.is_some());
        let due = match self.mint.due(now, hurry) {
            // rows that sinks refused still have to reach the dead letters, also if no record comes any more
            None if self.letterbox.has_due() && self.flight.minted.is_empty() => Duration::ZERO,
            // an aggregate without groups has a row even before the first record
            None if hurry && self.ledger.tail() == Epoch(0) => Duration::ZERO,
            None => return false,
            Some(due) => due,
        };
        if !due.is_zero() || self.flight.minted.len() >= EPOCHS_IN_FLIGHT {
            *wait = (*wait).min(due.max(Duration::from_millis(1)));
            return false;
        }
        if self.idleness.is_declared() {
            for source in &self.sources {
                self.idleness.see(&source.name, &source.reader.status().partitions, now);
            }
        }
        let mut binding = self.mint.close(self.clock.unix_millis(), self.idleness.idle(now));
        let epoch = binding.epoch;
        binding.letters = self.letterbox.bind(epoch);
        tracing::debug!(pipeline = %self.pipeline, epoch = epoch.0, rows = binding.rows(), "epoch closed");
        for source in &mut self.sources {
            source.report.bound += binding.rows_of(&source.name);
        }
        if self.log.is_there() {
            let rows = self.close_spool(&binding);
            self.log.give(LogJob::Write { entry: Entry::Bound(binding.clone()), rows });
        }
        self.ledger.append(binding);
        self.close_epoch(epoch);
        self.checkpoint_if_due(epoch);
        true
    }
}
