//! The progress row: whose a table is, and how far it was written. One row a sink, in a table beside the data.
//!
//! ```text
//!   pipeline view target │ ledger generation │ written_by epoch part
//!   orders totals totals │ 5f…3a  7          │ 6          41    0      opened by generation 7; what is there was written by 6
//! ```
//! Invariant: a transaction that changes data takes this row first and writes it last. `ledger` and `generation` name the only one who may; what
//! is decided from a row is decided here, by pure functions, while the row is locked.

use super::connection::{Answer, Connection, Failure, Value};
use super::dialect::{Dialect, Kind};
use super::statement::{Column, Table};
use orderflow_core::bug::{Bug, planted};
use orderflow_core::sink::{Progress, WriterId};
use orderflow_core::time::Epoch;
use std::sync::Arc;

/// The table of all progress rows of a database.
pub(super) const TABLE: &str = "orderflow_progress";

/// The row of one sink.
#[derive(Clone, Debug)]
pub(super) struct ProgressRow {
    pub(super) dialect: Dialect,
    pub(super) pipeline: Arc<str>,
    pub(super) view: Arc<str>,
    /// The table that is written.
    pub(super) target: String,
}

/// What the row says. A row that nobody has opened yet has no owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) owner: Option<WriterId>,
    pub(super) progress: Option<Progress>,
}

/// Who may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It is ours from here on; what it holds.
    Ours(Option<Progress>),
    /// It holds what another ledger wrote, and nothing is to be touched.
    Foreign(Progress),
}

/// What to do with epochs that are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write,
    /// They are there: an earlier commit whose answer was lost had happened.
    Held,
}

/// Decides for an opening by `me`. A row of another ledger that holds nothing is free: its pipeline never came to write.
pub(super) fn at_opening(said: Said, me: WriterId) -> Result<Opening, Failure> {
    match (said.owner, said.progress) {
        (Some(owner), Some(progress)) if owner.ledger != me.ledger && !planted(Bug::LedgerIdIgnored) => Ok(Opening::Foreign(progress)),
        (Some(owner), _) if owner.ledger == me.ledger && owner.generation > me.generation => Err(Failure::Permanent(
            format!("a newer writer has taken over: the table is at generation {}, this one is {}", owner.generation, me.generation),
            "stop this process: a newer one does its work; if there is none, the state was rolled back: restore the newest one",
        )),
        (Some(owner), _) if owner == me => Err(Failure::Permanent(
            "this pipeline already writes this view into this table".into(),
            "name another table, or leave one of the two sinks out",
        )),
        (_, progress) => Ok(Opening::Ours(progress)),
    }
}

/// Decides for the epochs `first` to `last` of `me`.
pub(super) fn at_writing(said: Said, me: WriterId, first: Epoch, last: Epoch) -> Result<Verdict, Failure> {
    match said.owner {
        Some(owner) if owner == me => {}
        Some(owner) => {
            return Err(Failure::Permanent(
                format!("another writer has taken over: ledger {:032x} generation {} opened it", owner.ledger, owner.generation),
                "this pipeline was replaced by a newer one and stops",
            ));
        }
        None => {
            return Err(Failure::Permanent(
                format!("its row in {TABLE} is gone"),
                "somebody deleted it: restore it, or empty the table and begin with a new state",
            ));
        }
    }
    match said.progress.map(|p| p.epoch).filter(|_| !planted(Bug::BlindRetry)) {
        Some(epoch) if epoch >= last => Ok(Verdict::Held),
        Some(epoch) if epoch >= first => Err(Failure::Permanent(
            format!("it holds epoch {epoch} in the middle of {first} to {last}"),
            "this is a bug in orderflow: please report it with this message",
        )),
        _ => Ok(Verdict::Write),
    }
}

impl ProgressRow {
    /// The table that all rows are in.
    pub(super) fn table(dialect: Dialect) -> Table {
        let column = |name: &str, kind, nullable| Column { name: name.into(), kind, nullable };
        let mut columns: Vec<Column> = ["pipeline", "view", "target"].map(|n| column(n, Kind::Text, false)).to_vec();
        columns.push(column("ledger", Kind::Text, true));
        columns.extend(["generation", "written_by", "epoch", "part"].map(|n| column(n, Kind::Int, true)));
        Table { dialect, name: TABLE.into(), columns, key: vec![0, 1, 2] }
    }

    fn name(&self) -> String {
        self.dialect.table(TABLE)
    }

    fn key(&self) -> Vec<Value> {
        vec![Value::text(&*self.pipeline), Value::text(&*self.view), Value::text(&self.target)]
    }

    /// The condition that finds the row, its values bound from number `from` on.
    fn condition(&self, from: usize) -> String {
        let equal = |(i, name): (usize, &str)| format!("{} = {}", self.dialect.quote(name), self.dialect.placeholder(from + i, Kind::Text));
        ["pipeline", "view", "target"].into_iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// Makes the row if it is not there, owned by nobody.
    pub(super) fn make<'a>(&'a self, connection: &'a mut dyn Connection) -> Answer<'a, ()> {
        let mut table = Self::table(self.dialect);
        // with no other columns than the key, an upsert leaves a row that is there alone
        table.columns.truncate(3);
        Box::pin(async move { connection.execute(&table.upsert(1), self.key()).await })
    }

    /// Reads the row, and keeps it until the end of the transaction if `lock`.
    pub(super) fn read<'a>(&'a self, connection: &'a mut dyn Connection, lock: bool) -> Answer<'a, Said> {
        let columns = ["ledger", "generation", "written_by", "epoch", "part"].map(|c| self.dialect.text(&self.dialect.quote(c)));
        let lock = if lock { self.dialect.lock() } else { "" };
        let sql = format!("SELECT {} FROM {} WHERE {}{lock}", columns.join(", "), self.name(), self.condition(1));
        Box::pin(async move {
            let rows = connection.rows(&sql, self.key()).await?;
            rows.first().map_or(Ok(Said::default()), |row| said(row).ok_or_else(damaged))
        })
    }

    /// Writes whose the table is from here on.
    pub(super) fn own<'a>(&'a self, connection: &'a mut dyn Connection, me: WriterId) -> Answer<'a, ()> {
        let (quote, place) = (|n| self.dialect.quote(n), |n, kind| self.dialect.placeholder(n, kind));
        let set = format!("{} = {}, {} = {}", quote("ledger"), place(1, Kind::Text), quote("generation"), place(2, Kind::Int));
        let sql = format!("UPDATE {} SET {set} WHERE {}", self.name(), self.condition(3));
        let values = [vec![Value::text(format!("{:032x}", me.ledger)), Value::Int(Some(me.generation as i64))], self.key()].concat();
        Box::pin(async move { connection.execute(&sql, values).await })
    }

    /// Writes how far the table was written.
    pub(super) fn write<'a>(&'a self, connection: &'a mut dyn Connection, progress: Progress) -> Answer<'a, ()> {
        let numbers = [("written_by", progress.writer.generation), ("epoch", progress.epoch.0), ("part", progress.part.into())];
        let equal = |(i, (name, _)): (usize, &(&str, u64))| {
            format!("{} = {}", self.dialect.quote(name), self.dialect.placeholder(i + 1, Kind::Int))
        };
        let set = numbers.iter().enumerate().map(equal).collect::<Vec<_>>().join(", ");
        let sql = format!("UPDATE {} SET {set} WHERE {}", self.name(), self.condition(4));
        let values = numbers.iter().map(|(_, n)| Value::Int(Some(*n as i64))).chain(self.key()).collect();
        Box::pin(async move { connection.execute(&sql, values).await })
    }
}

/// `ledger, generation, written_by, epoch, part` as text; `None` if that makes no sense.
fn said(row: &[Option<String>]) -> Option<Said> {
    let [ledger, generation, written_by, epoch, part] = row else { return None };
    let Some(ledger) = ledger else { return Some(Said::default()) };
    let ledger = u128::from_str_radix(ledger, 16).ok()?;
    let number = |text: &Option<String>| text.as_ref()?.parse::<u64>().ok();
    let owner = Some(WriterId { ledger, generation: number(generation)? });
    if epoch.is_none() {
        return Some(Said { owner, progress: None });
    }
    let writer = WriterId { ledger, generation: number(written_by)? };
    Some(Said { owner, progress: Some(Progress { writer, epoch: Epoch(number(epoch)?), part: number(part)?.try_into().ok()? }) })
}

fn damaged() -> Failure {
    Failure::Permanent(format!("its row in {TABLE} cannot be read"), "it was changed by something else: restore it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: WriterId = WriterId { ledger: 7, generation: 3 };

    fn row(ledger: u128, generation: u64, epoch: Option<u64>) -> Said {
        let progress = epoch.map(|e| Progress { writer: WriterId { ledger, generation: 1 }, epoch: Epoch(e), part: 0 });
        Said { owner: Some(WriterId { ledger, generation }), progress }
    }

    #[test]
    fn every_opening_is_decided() {
        assert_eq!(at_opening(Said::default(), ME), Ok(Opening::Ours(None)));
        assert_eq!(at_opening(row(7, 2, None), ME), Ok(Opening::Ours(None)));
        assert_eq!(at_opening(row(7, 2, Some(4)), ME), Ok(Opening::Ours(row(7, 2, Some(4)).progress)));
        assert_eq!(at_opening(row(8, 9, None), ME), Ok(Opening::Ours(None)), "it never wrote");
        assert_eq!(at_opening(row(8, 1, Some(4)), ME), Ok(Opening::Foreign(row(8, 1, Some(4)).progress.unwrap())));
        assert!(matches!(at_opening(row(7, 4, Some(4)), ME), Err(Failure::Permanent(why, _)) if why.contains("newer")));
        assert!(matches!(at_opening(row(7, 3, Some(4)), ME), Err(Failure::Permanent(why, _)) if why.contains("already")));
    }

    #[test]
    fn every_writing_is_decided() {
        let decide = |said| at_writing(said, ME, Epoch(5), Epoch(8));
        assert_eq!(decide(row(7, 3, None)), Ok(Verdict::Write));
        assert_eq!(decide(row(7, 3, Some(4))), Ok(Verdict::Write));
        assert_eq!(decide(row(7, 3, Some(8))), Ok(Verdict::Held));
        assert_eq!(decide(row(7, 3, Some(9))), Ok(Verdict::Held));
        for (said, why) in [
            (row(7, 3, Some(6)), "in the middle"),
            (row(7, 4, Some(4)), "taken over"),
            (row(7, 2, Some(4)), "taken over"),
            (row(8, 3, Some(4)), "taken over"),
            (Said::default(), "is gone"),
        ] {
            assert!(matches!(decide(said), Err(Failure::Permanent(text, _)) if text.contains(why)), "{said:?}");
        }
    }

    #[test]
    fn a_row_is_read_or_called_damaged() {
        let text = |row: [&str; 5]| said(&row.map(|t| (!t.is_empty()).then(|| t.to_owned())));
        assert_eq!(text(["", "", "", "", ""]), Some(Said::default()));
        assert_eq!(text(["7", "3", "", "", ""]), Some(row(7, 3, None)));
        assert_eq!(text(["7", "3", "1", "4", "0"]), Some(row(7, 3, Some(4))));
        assert_eq!(text(["seven", "3", "1", "4", "0"]), None);
        assert_eq!(text(["7", "3", "", "4", "0"]), None);
    }
}
