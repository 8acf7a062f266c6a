//! What a sink writes beside its data: one record of progress, in the transaction of the data, in the compacted topic `<pipeline>.progress`.
//!
//! ```text
//!   key    orders/totals/orders.card/0           the lane's transactional id: pipeline, view, name, lane
//!   value  {"ledger":"00…2a","generation":3,"epoch":17,"part":0}
//!   of several lanes   … "lanes":4,"since":12,"by":"00…c5","spread":{"orders.card":8},"opened":4}
//! ```
//! Invariant: a record says who holds the lane, up to where it is written, and how the rows of that epoch were split among lanes. One without an epoch is
//! a claim: the lane is taken and holds nothing yet. `opened`, in records of lane 0, is the number of lanes that writers up to this one may have opened.

use super::split::Split;
use orderflow_core::bug::{Bug, planted};
use orderflow_core::sink::{Progress, WriterId};
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The newest record of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) writer: WriterId,
    /// The newest epoch and part; `None` if nothing was written yet.
    pub(super) at: Option<(Epoch, u32)>,
    /// The generation that wrote the newest epoch, where another one has claimed the sink since.
    pub(super) by: Option<u64>,
    /// How the rows of that epoch were split.
    pub(super) split: Arc<Split>,
    /// In records of lane 0: how many lanes may have been opened.
    pub(super) opened: u8,
}

impl Held {
    /// Nothing, by `writer`.
    pub(super) fn nothing(writer: WriterId) -> Self {
        Self { writer, at: None, by: None, split: Arc::new(Split::new(1, Epoch(0), 0)), opened: 1 }
    }

    /// The same, taken by `writer`, who may open so many lanes.
    pub(super) fn claim(&self, writer: WriterId, lanes: u8) -> Self {
        let by = self.at.map(|_| self.by.unwrap_or(self.writer.generation));
        Self { writer, by, opened: self.opened.max(lanes), ..self.clone() }
    }

    /// The newest epoch; 0 if nothing was written yet.
    pub(super) fn epoch(&self) -> Epoch {
        self.at.map_or(Epoch(0), |(epoch, _)| epoch)
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        let writer = WriterId { generation: self.by.unwrap_or(self.writer.generation), ..self.writer };
        self.at.map(|(epoch, part)| Progress { writer, epoch, part })
    }

    pub(super) fn to_json(&self) -> String {
        let mut value = Map::new();
        let mut put = |name: &str, field: Value| drop(value.insert(name.to_owned(), field));
        put("ledger", json!(format!("{:032x}", self.writer.ledger)));
        put("generation", json!(self.writer.generation));
        if let Some((epoch, part)) = self.at {
            put("epoch", json!(epoch.0));
            put("part", json!(part));
        }
        if let Some(by) = self.by {
            put("written_by", json!(by));
        }
        if self.split.lanes > 1 {
            put("lanes", json!(self.split.lanes));
            put("since", json!(self.split.since.0));
            put("by", json!(format!("{:016x}", self.split.by)));
            put("spread", json!(self.split.spread));
        }
        if self.opened > 1 {
            put("opened", json!(self.opened));
        }
        Value::Object(value).to_string()
    }

    /// Fields that are not known are left for later versions.
    pub(super) fn parse(topic: &str, value: &[u8]) -> Result<Self> {
        let lanes = |value: &Value| u8::try_from(value.as_u64()?).ok().filter(|n| *n > 0);
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_slice(value).ok()?;
            let ledger = u128::from_str_radix(value.get("ledger")?.as_str()?, 16).ok()?;
            let generation = value.get("generation")?.as_u64()?;
            let mut held = Self::nothing(WriterId { ledger, generation });
            if let Some(epoch) = value.get("epoch") {
                held.at = Some((Epoch(epoch.as_u64()?), u32::try_from(value.get("part")?.as_u64()?).ok()?));
            }
            held.by = value.get("written_by").and_then(Value::as_u64);
            if let Some(n) = value.get("lanes") {
                let by = u64::from_str_radix(value.get("by")?.as_str()?, 16).ok()?;
                let mut split = Split::new(lanes(n)?, Epoch(value.get("since")?.as_u64()?), by);
                for (topic, partitions) in value.get("spread")?.as_object()? {
                    let partitions = i32::try_from(partitions.as_u64()?).ok().filter(|n| *n > 0)?;
                    split.spread.insert(topic.clone(), partitions);
                }
                held.split = Arc::new(split);
            }
            held.opened = value.get("opened").map_or(Some(1), lanes)?;
            Some(held)
        };
        read().ok_or_else(|| {
            Error::user(format!("topic '{topic}' holds a record that is no progress of orderflow's"))
                .why(String::from_utf8_lossy(&value[..value.len().min(200)]))
                .hint("the name of a pipeline with '.progress' behind it belongs to the pipeline: choose another name, or another prefix")
        })
    }
}

/// Whose a sink is, seen from somebody who opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nobody's, or an older writer's of the same ledger: it may be fenced.
    Ours,
    /// It belongs to another ledger, whose writer must not be disturbed.
    Theirs(Progress),
    /// A newer writer of the same ledger holds it.
    Newer(u64),
    /// This very process opened it before.
    Twice,
}

/// Looks before anything is written; it judges nobody's epochs, since an older writer may still commit.
pub(super) fn whose(held: Option<&Held>, me: WriterId) -> Whose {
    match held {
        Some(held) if held.writer.ledger != me.ledger && !planted(Bug::LedgerIdIgnored) => {
            Whose::Theirs(held.progress().unwrap_or(Progress { writer: held.writer, epoch: Epoch(0), part: 0 }))
        }
        Some(held) if held.writer.generation > me.generation => Whose::Newer(held.writer.generation),
        Some(held) if held.writer.generation == me.generation => Whose::Twice,
        _ => Whose::Ours,
    }
}

/// A number for texts: the same whatever the build. (FNV-1a, 64 bits.)
pub(super) fn hash<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A name for topics that expressions choose: the same for the same expressions.
pub(super) fn fingerprint<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("{:016x}", hash(texts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderflow_core::testing::golden;

    fn held(ledger: u128, generation: u64, epoch: Option<u64>) -> Held {
        Held { at: epoch.map(|e| (Epoch(e), 2)), ..Held::nothing(WriterId { ledger, generation }) }
    }

    fn split_held() -> Held {
        let mut split = Split::new(4, Epoch(12), 0xc5);
        split.note("orders.card", 8);
        Held { split: Arc::new(split), opened: 6, ..held(42, 3, Some(17)) }
    }

    #[test]
    fn a_record_is_small_json_and_reads_back() {
        let at = held(42, 3, Some(17));
        assert_eq!(at.to_json(), r#"{"epoch":17,"generation":3,"ledger":"0000000000000000000000000000002a","part":2}"#);
        let lanes = r#""by":"00000000000000c5","epoch":17,"generation":3,"lanes":4,"#;
        assert!(split_held().to_json().contains(lanes), "{}", split_held().to_json());
        for held in [at.clone(), held(u128::MAX, u64::MAX, Some(u64::MAX)), held(1, 1, None), split_held()] {
            assert_eq!(Held::parse("t", held.to_json().as_bytes()).unwrap(), held);
        }
        assert_eq!(held(42, 3, None).progress(), None);
        let newer = r#"{"ledger":"2a","generation":3,"epoch":17,"part":2,"more":[1]}"#;
        assert_eq!(Held::parse("t", newer.as_bytes()).unwrap(), at, "what a later version adds is passed over");
    }

    #[test]
    fn the_golden_records_are_what_is_written_and_can_be_read() {
        let at = held(42, 3, Some(17));
        let claimed = at.claim(WriterId { ledger: 42, generation: 4 }, 1);
        let records = [at, held(42, 3, None), claimed, split_held()];
        let written: String = records.iter().map(|held| held.to_json() + "\n").collect();
        let golden = golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/progress-1.jsonl"), written.as_bytes());
        let lines = golden.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert_eq!(lines.map(|line| Held::parse("t", line).unwrap()).collect::<Vec<_>>(), records);
    }

    #[test]
    fn a_claim_does_not_take_the_rows_for_its_own() {
        let claimed = held(7, 3, Some(17)).claim(WriterId { ledger: 7, generation: 4 }, 1).claim(WriterId { ledger: 7, generation: 5 }, 1);
        assert_eq!((claimed.writer.generation, claimed.progress().unwrap().writer.generation), (5, 3));
        assert_eq!(Held::parse("t", claimed.to_json().as_bytes()).unwrap(), claimed);
        assert_eq!(held(7, 3, None).claim(WriterId { ledger: 7, generation: 4 }, 1), held(7, 4, None));
    }

    #[test]
    fn anything_else_is_refused_with_the_topics_name() {
        for wrong in
            ["", "{}", "[1]", r#"{"ledger":"xyz","generation":1}"#, r#"{"ledger":"2a","generation":1,"epoch":-1,"part":0}"#, "\u{0}\u{1}"]
        {
            let e = Held::parse("orders.progress", wrong.as_bytes()).unwrap_err();
            assert!(e.to_string().contains("'orders.progress'") && e.remedy().is_some(), "{e}");
        }
    }

    #[test]
    fn whose_a_sink_is() {
        let me = WriterId { ledger: 7, generation: 5 };
        assert_eq!(whose(None, me), Whose::Ours);
        assert_eq!(whose(Some(&held(7, 4, Some(9))), me), Whose::Ours);
        assert_eq!(whose(Some(&held(7, 4, None)), me), Whose::Ours);
        assert_eq!(whose(Some(&held(7, 5, Some(9))), me), Whose::Twice);
        assert_eq!(whose(Some(&held(7, 6, Some(9))), me), Whose::Newer(6));
        let Whose::Theirs(progress) = whose(Some(&held(8, 1, None)), me) else { panic!("another ledger's, though nothing is written") };
        assert_eq!((progress.writer.ledger, progress.epoch), (8, Epoch(0)));
        assert!(matches!(whose(Some(&held(8, 9, Some(1))), me), Whose::Theirs(_)));
    }

    #[test]
    fn lanes_that_make_no_sense_are_refused() {
        let text = split_held().to_json();
        for (part, wrong) in
            [("\"lanes\":4", "\"lanes\":0"), ("\"lanes\":4", "\"lanes\":999"), (":8}", ":0}"), ("\"since\":12", "\"since\":-1")]
        {
            assert!(text.contains(part));
            assert!(Held::parse("t", text.replace(part, wrong).as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_claim_changes_nothing_but_the_writer_and_what_may_be_opened() {
        let me = WriterId { ledger: 42, generation: 9 };
        let by = Some(split_held().writer.generation);
        assert_eq!(split_held().claim(me, 2), Held { writer: me, by, ..split_held() });
        assert_eq!(split_held().claim(me, 7).opened, 7);
    }

    #[test]
    fn names_of_expressions_are_pinned() {
        assert_eq!(fingerprint(["a"].into_iter()), fingerprint(["a"].into_iter()));
        assert_ne!(fingerprint(["ab", "c"].into_iter()), fingerprint(["a", "bc"].into_iter()));
        assert_eq!(fingerprint(["'orders.' || city"].into_iter()), "a0081b856a566c79");
    }
}
