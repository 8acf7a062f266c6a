//! The handle of a running pipeline.
//!
//! Invariant: it can be shared and used from any thread and any tokio runtime; dropping it detaches and signals stop.

use crate::error::{Error, Result};
use crate::plan::{Function, query, tables_of, typed};
use crate::runtime::{Phase, Request, Status, gone};
use crate::time::Epoch;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

/// A running pipeline.
pub struct Running {
    pub(super) name: Arc<str>,
    pub(super) workers: usize,
    pub(super) views: Vec<(Arc<str>, SchemaRef)>,
    pub(super) functions: Vec<Function>,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) requests: crossbeam_channel::Sender<Request>,
    pub(super) ended: tokio::sync::watch::Receiver<Option<Result<()>>>,
    pub(super) thread: Thread,
}

impl Running {
    fn ask(&self, request: Request) -> Result<()> {
        self.requests.send(request).map_err(|_| self.why_gone())?;
        self.thread.unpark();
        Ok(())
    }

    /// Name of the pipeline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Progress and counts as of the engine's last step.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counts of [`Running::status`] as named numbers: `rows{source=…}`, `bytes{source=…}`, `lag{source=…}`, `lag_seconds{source=…}` (both also for each
    /// `{source=…,partition=…}`) and `watermark_seconds{source=…}` (since 1970) where they are known, `rows{sink=…}`, `pending_bytes{sink=…}`,
    /// `rows{view=…,operator=…}`, `rejected{from=…}`, `epoch{at=minted|complete|committed}`, `epoch_seconds`, `state_updates`. Rows and bytes are those of
    /// this run and begin at 0 with it; `rejected` and `epoch` are those of the pipeline, and go on after a start with state.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let s = self.status();
        let mut out = vec![];
        for source in &s.sources {
            out.push((format!("rows{{source={}}}", source.name), source.rows as f64));
            out.push((format!("bytes{{source={}}}", source.name), source.bytes as f64));
            out.push((format!("lag{{source={}}}", source.name), source.lag() as f64));
            out.extend(source.lag_time().map(|t| (format!("lag_seconds{{source={}}}", source.name), t.as_secs_f64())));
            for lag in &source.lags {
                let labels = format!("{{source={},partition={}}}", source.name, lag.partition);
                out.extend(lag.records.map(|n| (format!("lag{labels}"), n as f64)));
                out.extend(lag.time.map(|t| (format!("lag_seconds{labels}"), t.as_secs_f64())));
            }
            out.extend(source.watermark().map(|ms| (format!("watermark_seconds{{source={}}}", source.name), ms as f64 / 1000.0)));
        }
        for sink in &s.sinks {
            out.push((format!("rows{{sink={}}}", sink.label), sink.rows as f64));
            out.push((format!("pending_bytes{{sink={}}}", sink.label), sink.pending_bytes as f64));
        }
        out.extend(s.operators.iter().map(|o| (format!("rows{{view={},operator={}}}", o.view, o.operator), o.rows as f64)));
        out.extend(s.rejected.iter().map(|(from, n)| (format!("rejected{{from={from}}}"), *n as f64)));
        for (at, epoch) in [("minted", s.minted), ("complete", s.complete), ("committed", s.committed)] {
            out.push((format!("epoch{{at={at}}}"), epoch.0 as f64));
        }
        out.push(("epoch_seconds".to_owned(), s.epoch_latency.unwrap_or_default().as_secs_f64()));
        out.push(("state_updates".to_owned(), s.state_updates as f64));
        out
    }

    /// Answers a query over views as of one complete epoch, the same for all of them. Anything DataFusion can do is allowed here.
    ///
    /// # Errors
    /// SQL that is wrong, a view that is not there, a pipeline that has ended.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.query_at(sql).await.map(|(_, rows)| rows)
    }

    /// As [`Running::query`], with the epoch that was read.
    ///
    /// # Errors
    /// As [`Running::query`].
    pub async fn query_at(&self, sql: &str) -> Result<(Epoch, Vec<RecordBatch>)> {
        let mut names = tables_of(sql)?;
        names.retain(|n| self.views.iter().any(|(v, _)| &**v == n));
        let index = |n: &String| self.views.iter().position(|(v, _)| &**v == n);
        let wanted: Vec<usize> = names.iter().filter_map(index).collect();
        let (tx, rx) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |epoch, answers| {
            let _ = tx.send((epoch, answers)); // the asker may have gone
        });
        self.ask(Request::Read { views: wanted.clone(), reply })?;
        let (epoch, answers) = rx.await.map_err(|_| self.why_gone())?;
        let mut tables: Vec<(String, SchemaRef, Vec<RecordBatch>)> =
            self.views.iter().map(|(n, schema)| (n.to_string(), schema.clone(), vec![])).collect();
        for (i, answer) in answers.into_iter().enumerate() {
            let rows = answer.await.map_err(|_| self.why_gone())??;
            tables[wanted[i / self.workers]].2.extend(rows);
        }
        Ok((epoch, query(tables, &self.functions, sql).await?))
    }

    /// As [`Running::query`], with rows as values of `T`.
    ///
    /// # Errors
    /// As [`Running::query`], and columns that `T` cannot hold.
    pub async fn query_as<T: serde::de::DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        let mut rows = vec![];
        for batch in self.query(sql).await? {
            rows.extend(typed::rows_of::<T>(&batch)?);
        }
        Ok(rows)
    }

    /// Takes no more input and waits until everything that was read is in every sink.
    ///
    /// # Errors
    /// What ended the pipeline instead.
    pub async fn drain(&self) -> Result<Status> {
        let _ = self.ask(Request::Drain); // it may have ended by itself
        self.wait().await
    }

    /// Ends at once; what is not out is dropped.
    ///
    /// # Errors
    /// What had ended the pipeline before.
    pub async fn stop(&self) -> Result<Status> {
        let _ = self.ask(Request::Stop);
        self.wait().await
    }

    /// Waits for the end: all sources ended and everything is out, or somebody called drain or stop. After a good end the
    /// views can still be read, until the handle is dropped.
    ///
    /// # Errors
    /// What ended the pipeline.
    pub async fn wait(&self) -> Result<Status> {
        let mut ended = self.ended.clone();
        let outcome = ended.wait_for(Option::is_some).await.map_err(|_| self.why_gone())?.clone();
        outcome.unwrap_or(Ok(())).map(|()| self.status())
    }

    /// Takes no input until [`Running::resume`]; what was read goes out. After a start over stored state, what the last run had taken is read again all
    /// the same.
    ///
    /// # Errors
    /// A pipeline that has ended.
    pub fn pause(&self) -> Result<()> {
        self.ask(Request::Pause)
    }

    /// Takes input again.
    ///
    /// # Errors
    /// A pipeline that has ended.
    pub fn resume(&self) -> Result<()> {
        self.ask(Request::Resume)
    }

    /// Waits until everything that had been handed to the sources when this was called is in the views. A sink that takes nothing while
    /// [`Pipeline::memory`](crate::Pipeline::memory) is full holds this up too: whoever receives from a [memory sink](crate::sink::memory) goes on receiving.
    ///
    /// # Errors
    /// What ended the pipeline.
    pub async fn settled(&self) -> Result<Status> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.ask(Request::Settle(tx))?;
        rx.await.map_err(|_| self.why_gone())?;
        Ok(self.status())
    }

    /// Stores the views now, with everything that was read when this was called, and waits until that survives a crash and every sink holds it;
    /// a start goes on from there. Answers with the epoch. It comes by itself [every so often](crate::Pipeline::checkpoint_every) and at a good end.
    ///
    /// # Errors
    /// A pipeline without `state(…)`, or with an operator of the user's own; what ended the pipeline.
    pub async fn checkpoint(&self) -> Result<Epoch> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.ask(Request::Checkpoint(tx))?;
        rx.await.map_err(|_| self.why_gone())?
    }

    /// Why there is no answer: the engine's own error if it failed.
    fn why_gone(&self) -> Error {
        match self.status().phase {
            Phase::Failed(e) => e,
            _ => gone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.ask(Request::Stop);
    }
}

const _: fn() = || {
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Running>();
};
