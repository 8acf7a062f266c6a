//! What a sink writes beside its data: one record of progress, in the transaction of the data, in the compacted topic `<pipeline>.progress`.
//!
//! ```text
//!   key    orders/totals/orders.card/0           the sink's transactional id: pipeline, view, name, lane
//!   value  {"ledger":"00…2a","generation":3,"epoch":17,"part":0}
//! ```
//! Invariant: a record says who holds the sink and up to where it is written. One without an epoch is a claim: the sink is taken and holds nothing yet.

use orderflow_core::sink::{Progress, WriterId};
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use serde_json::{Value, json};

/// The newest record of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) writer: WriterId,
    /// The newest epoch and part; `None` if nothing was written yet.
    pub(super) at: Option<(Epoch, u32)>,
    /// The generation that wrote the newest epoch, where another one has claimed the sink since.
    pub(super) by: Option<u64>,
}

impl Held {
    pub(super) fn claim(self, writer: WriterId) -> Self {
        Self { writer, at: self.at, by: self.at.map(|_| self.by.unwrap_or(self.writer.generation)) }
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        let writer = WriterId { generation: self.by.unwrap_or(self.writer.generation), ..self.writer };
        self.at.map(|(epoch, part)| Progress { writer, epoch, part })
    }

    pub(super) fn to_json(self) -> String {
        let ledger = format!("{:032x}", self.writer.ledger);
        let mut json = json!({"ledger": ledger, "generation": self.writer.generation});
        if let Some((epoch, part)) = self.at {
            (json["epoch"], json["part"]) = (epoch.0.into(), part.into());
        }
        if let Some(by) = self.by {
            json["written_by"] = by.into();
        }
        json.to_string()
    }

    /// Fields that are not known are left for later versions.
    pub(super) fn parse(topic: &str, value: &[u8]) -> Result<Self> {
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_slice(value).ok()?;
            let ledger = u128::from_str_radix(value.get("ledger")?.as_str()?, 16).ok()?;
            let generation = value.get("generation")?.as_u64()?;
            let at = match value.get("epoch") {
                None => None,
                Some(epoch) => Some((Epoch(epoch.as_u64()?), u32::try_from(value.get("part")?.as_u64()?).ok()?)),
            };
            Some(Self { writer: WriterId { ledger, generation }, at, by: value.get("written_by").and_then(Value::as_u64) })
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
        Some(held) if held.writer.ledger != me.ledger => {
            Whose::Theirs(held.progress().unwrap_or(Progress { writer: held.writer, epoch: Epoch(0), part: 0 }))
        }
        Some(held) if held.writer.generation > me.generation => Whose::Newer(held.writer.generation),
        Some(held) if held.writer.generation == me.generation => Whose::Twice,
        _ => Whose::Ours,
    }
}

/// A name for topics that expressions choose: the same for the same expressions, whatever the build. (FNV-1a, 64 bits.)
pub(super) fn fingerprint<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ledger: u128, generation: u64, epoch: Option<u64>) -> Held {
        Held { writer: WriterId { ledger, generation }, at: epoch.map(|e| (Epoch(e), 2)), by: None }
    }

    #[test]
    fn a_record_is_small_json_and_reads_back() {
        let at = held(42, 3, Some(17));
        assert_eq!(at.to_json(), r#"{"epoch":17,"generation":3,"ledger":"0000000000000000000000000000002a","part":2}"#);
        for held in [at, held(u128::MAX, u64::MAX, Some(u64::MAX)), held(1, 1, None)] {
            assert_eq!(Held::parse("t", held.to_json().as_bytes()).unwrap(), held);
        }
        assert_eq!(held(42, 3, None).progress(), None);
        let newer = r#"{"ledger":"2a","generation":3,"epoch":17,"part":2,"more":[1]}"#;
        assert_eq!(Held::parse("t", newer.as_bytes()).unwrap(), at, "what a later version adds is passed over");
    }

    #[test]
    fn a_claim_does_not_take_the_rows_for_its_own() {
        let claimed = held(7, 3, Some(17)).claim(WriterId { ledger: 7, generation: 4 }).claim(WriterId { ledger: 7, generation: 5 });
        assert_eq!((claimed.writer.generation, claimed.progress().unwrap().writer.generation), (5, 3));
        assert_eq!(Held::parse("t", claimed.to_json().as_bytes()).unwrap(), claimed);
        assert_eq!(held(7, 3, None).claim(WriterId { ledger: 7, generation: 4 }), held(7, 4, None));
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
    fn names_of_expressions_are_pinned() {
        assert_eq!(fingerprint(["a"].into_iter()), fingerprint(["a"].into_iter()));
        assert_ne!(fingerprint(["ab", "c"].into_iter()), fingerprint(["a", "bc"].into_iter()));
        assert_eq!(fingerprint(["'orders.' || city"].into_iter()), "a0081b856a566c79");
    }
}
