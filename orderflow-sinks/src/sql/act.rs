//! One act: a transaction that stores rows and progress, or neither.
//!
//! ```text
//!   BEGIN ─► take the progress row ─► ours, and not yet there? ─► rows ─► progress ─► COMMIT, if no row was left out
//!                                        │ another's: stop           │                └ else ready: COMMIT when these are bound
//!                                        └ there already: done       └ a row is refused: ROLLBACK, and once more with savepoints, which find the guilty ones
//! ```
//! Invariant: whatever became of an act, doing it again is right, for it begins by asking under lock whether it has happened. An act that may have
//! happened is done again with the same content only.

use super::connection::{Connection, Failure, Value};
use super::net::{Net, net};
use super::progress::{Verdict, at_writing};
use super::target::Target;
use super::values::values;
use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::compute::interleave_record_batch;
use orderflow_core::bug::{Bug, planted};
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::format::encode::JsonRows;
use orderflow_core::sink::{Closed, Progress, WriterId, signed};
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

const SAVE: &str = "SAVEPOINT orderflow";
const BACK: &str = "ROLLBACK TO SAVEPOINT orderflow";
/// Bytes of values in one statement, about.
const STATEMENT: usize = 4 << 20;

/// Number of the part, number of the row in it.
pub(super) type RowAt = (usize, usize);

/// A batch of one epoch.
pub(super) struct Part {
    pub(super) epoch: Epoch,
    /// With the columns of the table.
    pub(super) rows: RecordBatch,
    pub(super) diffs: Changes,
}

/// Closed epochs that are written together.
pub(super) struct Act {
    pub(super) first: Epoch,
    pub(super) last: Epoch,
    /// Bytes held in memory.
    pub(super) memory: usize,
    parts: Vec<Part>,
    net: Option<Net>,
}

/// How a part of an act ended.
pub(super) struct Done {
    /// What can be used again; in a transaction that is open, if the act is ready.
    pub(super) connection: Option<Box<dyn Connection>>,
    pub(super) outcome: Result<Stand, Failure>,
    /// Whether COMMIT was sent.
    pub(super) committing: bool,
}

/// How far an act is.
pub(super) enum Stand {
    /// It has happened.
    Happened,
    /// All is written but these rows, and nothing is committed.
    Ready(Vec<Rejected>),
}

impl Done {
    fn failed(failure: Failure) -> Self {
        Self { connection: None, outcome: Err(failure), committing: false }
    }
}

impl Act {
    /// All of `closed`, in epoch order.
    ///
    /// # Errors
    /// Rows that do not have the target's columns, which is a bug.
    pub(super) fn new(target: &Target, closed: &[Closed]) -> Result<Self> {
        let ends = (closed.first().map(|c| c.epoch), closed.last().map(|c| c.epoch));
        let (Some(first), Some(last)) = ends else { return Err(Error::internal("an act of no epoch")) };
        let mut parts = vec![];
        for (epoch, changes) in closed.iter().flat_map(|c| c.changes.iter().map(|changes| (c.epoch, changes))) {
            let appends = target.table.key.is_empty();
            let rows = if appends { signed::batch(&target.schema, changes, epoch)? } else { changes.rows().clone() };
            parts.push(Part { epoch, rows, diffs: changes.clone() });
        }
        let net = if target.table.key.is_empty() { None } else { Some(net(&parts, &target.table.key)?) };
        Ok(Self { first, last, memory: closed.iter().map(Closed::memory).sum(), parts, net })
    }

    fn batch(&self, rows: &[RowAt]) -> Result<RecordBatch, Failure> {
        let parts: Vec<&RecordBatch> = self.parts.iter().map(|p| &p.rows).collect();
        interleave_record_batch(&parts, rows).map_err(|e| bug(&e))
    }
}

fn bug(e: &impl std::fmt::Display) -> Failure {
    Failure::Permanent(e.to_string(), "this is a bug in orderflow: please report it with this message")
}

/// Commits an act that is ready.
pub(super) async fn commit(mut connection: Box<dyn Connection>) -> Done {
    match connection.execute("COMMIT", vec![]).await {
        Ok(()) => Done { connection: Some(connection), outcome: Ok(Stand::Happened), committing: true },
        Err(failure) => Done { connection: None, outcome: Err(failure), committing: true },
    }
}

/// Does `act` for `me`, on `connection` or a new one. It is not committed if it leaves rows out, or `tells` that it leaves none out.
pub(super) async fn perform(
    target: Arc<Target>,
    me: WriterId,
    act: Arc<Act>,
    connection: Option<Box<dyn Connection>>,
    tells: bool,
) -> Done {
    let begin = target.table.dialect.begin();
    let mut open = None;
    if let Some(mut idle) = connection {
        // the database may have hung up on it meanwhile: nothing is at stake yet
        match idle.execute(begin, vec![]).await {
            Ok(()) => open = Some(idle),
            Err(Failure::Passing(_)) => {}
            Err(failure) => return Done::failed(failure),
        }
    }
    let mut connection = match open {
        Some(open) => open,
        None => {
            let connected = async {
                let mut new = target.connector.connect().await?;
                new.execute(begin, vec![]).await?;
                Ok(new)
            };
            match connected.await {
                Ok(new) => new,
                Err(failure) => return Done::failed(failure),
            }
        }
    };
    let mut attempt = Attempt { target: &target, act: &act, me, careful: false, tells, refused: vec![], committing: false };
    let mut outcome = attempt.run(connection.as_mut()).await;
    if matches!(outcome, Err(Failure::Row(_))) && !attempt.committing {
        attempt.careful = true;
        outcome = async {
            connection.execute("ROLLBACK", vec![]).await?;
            connection.execute(begin, vec![]).await?;
            attempt.run(connection.as_mut()).await
        }
        .await;
    }
    let committing = attempt.committing;
    let connection = match &outcome {
        Ok(_) => Some(connection),
        // nobody knows what it does: letting go of it ends its transaction
        Err(_) => None,
    };
    Done { connection, outcome, committing }
}

/// What a statement does with its rows.
#[derive(Clone)]
enum Write {
    Insert,
    Upsert,
    /// By key; which of its columns are null.
    Delete(Vec<bool>),
}

struct Attempt<'a> {
    target: &'a Target,
    act: &'a Act,
    me: WriterId,
    /// With a savepoint before every statement, so that the rows it refuses can be looked for.
    careful: bool,
    /// Whether what is left out is to be told, also if it is nothing.
    tells: bool,
    refused: Vec<Rejected>,
    /// Whether COMMIT was sent.
    committing: bool,
}

impl Attempt<'_> {
    async fn run(&mut self, connection: &mut dyn Connection) -> Result<Stand, Failure> {
        self.refused.clear();
        let said = self.target.progress.read(connection, true).await?;
        if at_writing(said, self.me, self.act.first, self.act.last)? == Verdict::Held {
            connection.execute("ROLLBACK", vec![]).await?;
            return Ok(Stand::Happened);
        }
        match &self.act.net {
            None => {
                let all: Vec<RowAt> =
                    (self.act.parts.iter().enumerate()).flat_map(|(p, part)| (0..part.rows.num_rows()).map(move |r| (p, r))).collect();
                self.write(connection, &Write::Insert, &all).await?;
            }
            Some(net) => self.upsert(connection, net).await?,
        }
        if planted(Bug::ProgressOutsideTransaction) {
            connection.execute("COMMIT", vec![]).await?;
            connection.execute(self.target.table.dialect.begin(), vec![]).await?;
        }
        self.target.progress.write(connection, Progress { writer: self.me, epoch: self.act.last, part: 0 }).await?;
        if self.tells || !self.refused.is_empty() {
            return Ok(Stand::Ready(std::mem::take(&mut self.refused)));
        }
        self.committing = true;
        connection.execute("COMMIT", vec![]).await?;
        Ok(Stand::Happened)
    }

    /// Keys that are to be gone first, then the rows. No unique index finds a null, so a key with one is deleted and inserted again.
    async fn upsert(&mut self, connection: &mut dyn Connection, net: &Net) -> Result<(), Failure> {
        let (gone, rows) = (self.by_nulls(&net.gone), self.by_nulls(&net.rows));
        for (nulls, rows) in &gone {
            self.write(connection, &Write::Delete(nulls.clone()), rows).await?;
        }
        for (nulls, rows) in &rows {
            if nulls.contains(&true) {
                self.write(connection, &Write::Delete(nulls.clone()), rows).await?;
                self.write(connection, &Write::Insert, rows).await?;
            } else {
                self.write(connection, &Write::Upsert, rows).await?;
            }
        }
        Ok(())
    }

    /// The rows by which columns of their keys are null.
    fn by_nulls(&self, rows: &[RowAt]) -> BTreeMap<Vec<bool>, Vec<RowAt>> {
        let mut groups: BTreeMap<Vec<bool>, Vec<RowAt>> = BTreeMap::new();
        for at in rows {
            let part = &self.act.parts[at.0].rows;
            let nulls = self.target.table.key.iter().map(|k| part.column(*k).is_null(at.1)).collect();
            groups.entry(nulls).or_default().push(*at);
        }
        groups
    }

    /// Writes all rows, or says which one cannot be; a careful attempt leaves those out and notes them.
    async fn write(&mut self, connection: &mut dyn Connection, write: &Write, rows: &[RowAt]) -> Result<(), Failure> {
        let most = self.target.table.most_rows(matches!(write, Write::Delete(_)));
        let mut stack: Vec<&[RowAt]> = vec![];
        let mut rest = rows;
        while !rest.is_empty() {
            let (chunk, others) = rest.split_at(most.min(1 << rest.len().ilog2()));
            stack.push(chunk);
            rest = others;
        }
        stack.reverse();
        while let Some(rows) = stack.pop() {
            let halves = |stack: &mut Vec<_>| {
                let (first, second) = rows.split_at(rows.len() / 2);
                stack.extend([second, first]);
            };
            let reason = match self.bind(connection, write, rows) {
                Ok(None) => {
                    halves(&mut stack);
                    continue;
                }
                Ok(Some((sql, values))) => match self.send(connection, &sql, values).await {
                    Ok(()) => continue,
                    Err(Failure::Row(reason)) => reason,
                    Err(failure) => return Err(failure),
                },
                Err(Failure::Row(reason)) => reason,
                Err(failure) => return Err(failure),
            };
            match rows {
                _ if !self.careful => return Err(Failure::Row(reason)),
                [one] => self.refuse(connection, write, *one, &reason).await?,
                _ => halves(&mut stack),
            }
        }
        Ok(())
    }

    /// The statement and its values; `None` if they are too many bytes for one.
    fn bind(&self, connection: &dyn Connection, write: &Write, rows: &[RowAt]) -> Result<Option<(String, Vec<Value>)>, Failure> {
        let table = &self.target.table;
        let (sql, columns): (String, Vec<usize>) = match write {
            Write::Insert => (table.insert(rows.len()), (0..table.columns.len()).collect()),
            Write::Upsert => (table.upsert(rows.len()), (0..table.columns.len()).collect()),
            Write::Delete(nulls) => {
                let bound = table.key.iter().zip(nulls).filter(|(_, null)| !**null).map(|(k, _)| *k);
                (table.delete(nulls, rows.len()), bound.collect())
            }
        };
        let batch = self.act.batch(rows)?;
        let mut cells = vec![];
        for column in columns {
            let of = &table.columns[column];
            let named = |e| Failure::Row(format!("column '{}': {e}", of.name));
            cells.push(values(of.kind, table.dialect, batch.column(column)).map_err(named)?.into_iter());
        }
        let mut bound = Vec::with_capacity(cells.len() * rows.len());
        for _ in 0..rows.len() {
            bound.extend(cells.iter_mut().filter_map(Iterator::next));
        }
        let bytes = bound.iter().map(Value::size).sum::<usize>() + sql.len();
        if rows.len() > 1 && bytes > STATEMENT.min(connection.server().largest / 2) {
            return Ok(None);
        }
        if bytes > connection.server().largest {
            return Err(Failure::Row(format!("the row has {bytes} bytes, and the database takes {}", connection.server().largest)));
        }
        Ok(Some((sql, bound)))
    }

    async fn send(&mut self, connection: &mut dyn Connection, sql: &str, values: Vec<Value>) -> Result<(), Failure> {
        if !self.careful {
            return connection.execute(sql, values).await;
        }
        connection.execute(SAVE, vec![]).await?;
        let outcome = connection.execute(sql, values).await;
        if matches!(outcome, Err(Failure::Row(_))) {
            connection.execute(BACK, vec![]).await?;
        }
        outcome
    }

    /// Notes a row that is left out. In a table with keys, what stood under its key is not what the view holds any more, and goes.
    async fn refuse(&mut self, connection: &mut dyn Connection, write: &Write, at: RowAt, reason: &str) -> Result<(), Failure> {
        match write {
            // a key that the database cannot hold is not there
            Write::Delete(_) => return Ok(()),
            Write::Upsert => {
                let delete = Write::Delete(vec![false; self.target.table.key.len()]);
                if let Ok(Some((sql, values))) = self.bind(connection, &delete, &[at]) {
                    match self.send(connection, &sql, values).await {
                        Ok(()) | Err(Failure::Row(_)) => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
            Write::Insert => {}
        }
        let part = &self.act.parts[at.0];
        let row = part.diffs.rows().slice(at.1, 1);
        let mut bytes = vec![];
        JsonRows::of(&row).map_err(|e| bug(&e))?.append(0, None, &mut bytes);
        self.refused.push(Rejected {
            from: self.target.view.clone(),
            place: None,
            bytes,
            reason: format!("the table {} does not take it: {reason}", self.target.table.name),
            diff: part.diffs.diff(at.1).signum(),
        });
        Ok(())
    }
}
