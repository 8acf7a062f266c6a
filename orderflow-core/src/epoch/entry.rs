//! What the ledger writes down: one JSON object an entry, behind a line with its checksum.
//!
//! ```text
//!   3f2a91bc
//!   {"format":1,"slot":7,"nonce":"…","entry":{"Bound":{"epoch":5,"ranges":[…]}}}
//! ```
//! Invariant: an entry that is read is the one that was written, in the slot it was written for, or an error that names the object.
//! Numbers beyond 2⁵³ are text, because most readers of JSON end there. Sources are named, not numbered: a pipeline may be rearranged.

use super::{Binding, Input, Range, SpoolRef};
use crate::error::{Error, Result};
use crate::sink::{Progress, WriterId};
use crate::time::{Epoch, Partition, Positions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the format, written into every entry. Version 1 had no checkpoints, and one binding in a base; version 2 no births of sinks, no
/// times of openings and no spooled sources; version 3 no watermarks, no idle partitions and no ends; version 4 no lanes.
const FORMAT: u32 = 5;

/// One fact about a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A process has opened the ledger, at this time in milliseconds since 1970, where it is known: nobody of a lower generation writes any more.
    Opened(WriterId, Option<i64>),
    /// Epoch 0: where every source begins, and what the pipeline computes.
    Started(Start),
    /// Where bounded sources end, until the run has finished: a later start ends there as well.
    Ends(BTreeMap<Arc<str>, Positions>),
    /// The input of an epoch.
    Bound(Binding),
    /// Everything up to an epoch, as one: its entries are not needed any more.
    Base(Base),
}

/// Where a pipeline began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// First position of every partition that was there, by source.
    pub positions: BTreeMap<Arc<str>, Positions>,
    /// What each view and sink computes, as text, by its name.
    pub plan: BTreeMap<String, String>,
}

/// The input of all epochs up to one, and what sinks were known to hold: it says all that the entries before it said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// As in [`Entry::Started`].
    pub start: Start,
    /// As in [`Entry::Ends`]; none once the run has finished.
    pub ends: BTreeMap<Arc<str>, Positions>,
    /// The epochs as few bindings, each numbered as the last of its epochs: one up to every checkpoint, and one of what came after the newest.
    pub segments: Vec<Binding>,
    /// Those after them that were bound by then, one by one.
    pub after: Vec<Binding>,
    /// Every sink, all of which hold these epochs, with the newest progress seen of it: that of its last epoch with rows, so it may
    /// be older, or none.
    pub held: BTreeMap<String, Option<Progress>>,
    /// Of sinks whose lanes commit by themselves, up to which epoch each lane was seen to hold everything, by its number.
    pub lanes: BTreeMap<String, Vec<Epoch>>,
    /// The generation in which the present life of a sink began, for those that came or changed later, or were reset: rows that an older
    /// generation wrote into such a sink are of an earlier life.
    pub births: BTreeMap<String, u64>,
    /// The complete checkpoints that are kept, the oldest first.
    pub checkpoints: Vec<Checkpoint>,
    /// Rows of spooled sources up to this epoch are stored no more.
    pub dropped: Epoch,
}

impl Base {
    /// Up to which epoch no start needs input again: two checkpoints cover it, so that one of them may be damaged.
    pub fn covered(&self) -> Epoch {
        match &self.checkpoints[..] {
            [older, .., _newest] => older.epoch,
            _ => Epoch(0),
        }
    }

    /// Says of each binding which of these objects, in the order of their epochs, hold rows of it.
    pub fn place(&mut self, objects: &[SpoolRef]) {
        let mut objects = objects.iter().cloned().peekable();
        for binding in self.segments.iter_mut().chain(&mut self.after) {
            binding.spool.clear();
            while let Some(object) = objects.next_if(|o| o.upto <= binding.epoch) {
                binding.spool.push(object);
            }
        }
    }
}

/// Points to all that is stored of a pipeline's state as of one epoch, which every sink holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The epoch as of whose end state is stored.
    pub epoch: Epoch,
    /// Name of its manifest.
    pub manifest: String,
    /// CRC-32 of the manifest.
    pub crc: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    slot: u64,
    nonce: String,
    entry: Stored,
}

#[derive(Serialize, Deserialize)]
enum Stored {
    Opened {
        ledger: String,
        generation: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<i64>,
    },
    Started(StoredStart),
    Ends {
        positions: Vec<StoredPosition>,
    },
    Bound(StoredBinding),
    Base {
        start: StoredStart,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ends: Vec<StoredPosition>,
        /// In version 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        binding: Option<Box<StoredBinding>>,
        #[serde(default)]
        segments: Vec<StoredBinding>,
        after: Vec<StoredBinding>,
        held: BTreeMap<String, Option<StoredProgress>>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        lanes: BTreeMap<String, Vec<u64>>,
        #[serde(default)]
        births: BTreeMap<String, u64>,
        #[serde(default)]
        checkpoints: Vec<StoredCheckpoint>,
        #[serde(default, skip_serializing_if = "is_zero")]
        dropped: u64,
    },
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
struct StoredCheckpoint {
    epoch: u64,
    manifest: String,
    crc: String,
}

#[derive(Serialize, Deserialize)]
struct StoredStart {
    positions: Vec<StoredPosition>,
    plan: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct StoredPosition {
    source: String,
    topic: String,
    partition: i32,
    position: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredBinding {
    epoch: u64,
    minted_at: i64,
    ranges: Vec<StoredRange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    idle: Vec<StoredInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spool: Vec<StoredSpool>,
}

#[derive(Serialize, Deserialize)]
struct StoredInput {
    source: String,
    topic: String,
    partition: i32,
}

#[derive(Serialize, Deserialize)]
struct StoredSpool {
    upto: u64,
    name: String,
    bytes: u64,
    crc: String,
}

#[derive(Serialize, Deserialize)]
struct StoredRange {
    source: String,
    topic: String,
    partition: i32,
    from: u64,
    to: u64,
    rows: u64,
    bytes: u64,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watermark: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredProgress {
    ledger: String,
    generation: u64,
    epoch: u64,
    part: u32,
}

fn hex(text: &str) -> std::result::Result<u128, String> {
    u128::from_str_radix(text, 16).map_err(|_| format!("'{text}' is no hexadecimal number"))
}

fn stored(positions: &BTreeMap<Arc<str>, Positions>) -> Vec<StoredPosition> {
    let all = positions.iter().flat_map(|(source, at)| at.iter().map(move |(p, position)| (source, p, *position)));
    let one = |(source, p, position): (&Arc<str>, &Partition, _)| StoredPosition {
        source: source.to_string(),
        topic: p.topic.to_string(),
        partition: p.id,
        position,
    };
    all.map(one).collect()
}

fn positions(stored: Vec<StoredPosition>) -> BTreeMap<Arc<str>, Positions> {
    let mut positions: BTreeMap<Arc<str>, Positions> = BTreeMap::new();
    for p in stored {
        let of_source = positions.entry(p.source.into()).or_default();
        of_source.insert(Partition::new(p.topic, p.partition), p.position);
    }
    positions
}

impl StoredStart {
    fn new(start: &Start) -> Self {
        Self { positions: stored(&start.positions), plan: start.plan.clone() }
    }

    fn start(self) -> Start {
        Start { positions: positions(self.positions), plan: self.plan }
    }
}

impl StoredBinding {
    fn new(b: &Binding) -> Self {
        let range = |((source, p), r): (&(Arc<str>, Partition), &Range)| StoredRange {
            source: source.to_string(),
            topic: p.topic.to_string(),
            partition: p.id,
            from: r.from,
            to: r.to,
            rows: r.rows,
            bytes: r.bytes,
            fingerprint: format!("{:016x}", r.fingerprint),
            watermark: r.watermark,
        };
        let input = |(source, p): &Input| StoredInput { source: source.to_string(), topic: p.topic.to_string(), partition: p.id };
        let object = |o: &SpoolRef| StoredSpool { upto: o.upto.0, name: o.name.clone(), bytes: o.bytes, crc: format!("{:08x}", o.crc) };
        let (ranges, idle) = (b.ranges.iter().map(range).collect(), b.idle.iter().map(input).collect());
        Self { epoch: b.epoch.0, minted_at: b.minted_at, ranges, idle, spool: b.spool.iter().map(object).collect() }
    }

    fn binding(self) -> std::result::Result<Binding, String> {
        let mut ranges = BTreeMap::new();
        for r in self.ranges {
            let fingerprint = hex(&r.fingerprint)? as u64;
            let range = Range { from: r.from, to: r.to, rows: r.rows, bytes: r.bytes, fingerprint, watermark: r.watermark };
            ranges.insert((r.source.into(), Partition::new(r.topic, r.partition)), range);
        }
        let object =
            |o: StoredSpool| hex(&o.crc).map(|crc| SpoolRef { upto: Epoch(o.upto), name: o.name, bytes: o.bytes, crc: crc as u32 });
        let spool = self.spool.into_iter().map(object).collect::<std::result::Result<_, _>>()?;
        let idle = self.idle.into_iter().map(|i| (i.source.into(), Partition::new(i.topic, i.partition))).collect();
        Ok(Binding { epoch: Epoch(self.epoch), ranges, minted_at: self.minted_at, idle, spool })
    }
}

impl Entry {
    /// The bytes of this entry for `slot`, by the opening called `nonce`.
    pub(super) fn encode(&self, slot: u64, nonce: u64) -> Result<Vec<u8>> {
        let entry = match self {
            Entry::Opened(w, at) => Stored::Opened { ledger: format!("{:032x}", w.ledger), generation: w.generation, at: *at },
            Entry::Started(start) => Stored::Started(StoredStart::new(start)),
            Entry::Ends(ends) => Stored::Ends { positions: stored(ends) },
            Entry::Bound(b) => Stored::Bound(StoredBinding::new(b)),
            Entry::Base(base) => Stored::Base {
                start: StoredStart::new(&base.start),
                ends: stored(&base.ends),
                binding: None,
                segments: base.segments.iter().map(StoredBinding::new).collect(),
                after: base.after.iter().map(StoredBinding::new).collect(),
                held: base
                    .held
                    .iter()
                    .map(|(sink, p)| {
                        let stored = |p: &Progress| StoredProgress {
                            ledger: format!("{:032x}", p.writer.ledger),
                            generation: p.writer.generation,
                            epoch: p.epoch.0,
                            part: p.part,
                        };
                        (sink.clone(), p.as_ref().map(stored))
                    })
                    .collect(),
                lanes: base.lanes.iter().map(|(sink, lanes)| (sink.clone(), lanes.iter().map(|e| e.0).collect())).collect(),
                births: base.births.clone(),
                checkpoints: base
                    .checkpoints
                    .iter()
                    .map(|c| StoredCheckpoint { epoch: c.epoch.0, manifest: c.manifest.clone(), crc: format!("{:08x}", c.crc) })
                    .collect(),
                dropped: base.dropped.0,
            },
        };
        let envelope = Envelope { format: FORMAT, slot, nonce: format!("{nonce:016x}"), entry };
        let json = serde_json::to_vec(&envelope).map_err(|e| Error::internal("an entry of the ledger cannot be written").caused_by(e))?;
        let mut bytes = format!("{:08x}\n", crc32fast::hash(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// The entry in `bytes`, which were found in `slot`, and the nonce of its opening.
    pub(crate) fn decode(bytes: &[u8], slot: u64) -> std::result::Result<(Self, u64), String> {
        let (head, json) = bytes.split_at_checked(9).ok_or("it is too short")?;
        let crc = std::str::from_utf8(head).ok().and_then(|t| t.strip_suffix('\n')).and_then(|t| u32::from_str_radix(t, 16).ok());
        if crc != Some(crc32fast::hash(json)) {
            return Err("its checksum is wrong".to_owned());
        }
        let e: Envelope = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if !(1..=FORMAT).contains(&e.format) {
            return Err(format!("it has format {}, this version reads up to {FORMAT}", e.format));
        }
        if e.slot != slot {
            return Err(format!("it belongs to slot {}", e.slot));
        }
        let entry = match e.entry {
            Stored::Opened { ledger, generation, at } => Entry::Opened(WriterId { ledger: hex(&ledger)?, generation }, at),
            Stored::Started(start) => Entry::Started(start.start()),
            Stored::Ends { positions: ends } => Entry::Ends(positions(ends)),
            Stored::Bound(b) => Entry::Bound(b.binding()?),
            Stored::Base { start, ends, binding, segments, after, held, lanes, births, checkpoints, dropped } => {
                let bindings =
                    |b: Vec<StoredBinding>| b.into_iter().map(StoredBinding::binding).collect::<std::result::Result<Vec<_>, _>>();
                let checkpoint = |c: StoredCheckpoint| -> std::result::Result<_, String> {
                    Ok(Checkpoint { epoch: Epoch(c.epoch), manifest: c.manifest, crc: hex(&c.crc)? as u32 })
                };
                let mut base = Base {
                    start: start.start(),
                    ends: positions(ends),
                    segments: bindings(binding.into_iter().map(|b| *b).chain(segments).collect())?,
                    after: bindings(after)?,
                    held: BTreeMap::new(),
                    lanes: lanes.into_iter().map(|(sink, lanes)| (sink, lanes.into_iter().map(Epoch).collect())).collect(),
                    births,
                    checkpoints: checkpoints.into_iter().map(checkpoint).collect::<std::result::Result<_, _>>()?,
                    dropped: Epoch(dropped),
                };
                for (sink, p) in held {
                    let progress = |p: StoredProgress| -> std::result::Result<Progress, String> {
                        let writer = WriterId { ledger: hex(&p.ledger)?, generation: p.generation };
                        Ok(Progress { writer, epoch: Epoch(p.epoch), part: p.part })
                    };
                    base.held.insert(sink, p.map(progress).transpose()?);
                }
                Entry::Base(base)
            }
        };
        Ok((entry, hex(&e.nonce)? as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let writer = WriterId { ledger: u128::MAX - 5, generation: 3 };
        let range = Range { from: 1, to: 9, rows: 7, bytes: 700, fingerprint: u64::MAX - 1, watermark: Some(-3) };
        let ranges = BTreeMap::from([(("orders".into(), Partition::new("a.b", 3)), range)]);
        let spool = vec![SpoolRef { upto: Epoch(5), name: "spool/5".into(), bytes: 9, crc: 0xfe }];
        let idle = [("orders".into(), Partition::new("a.b", 4))].into();
        let binding = Binding { epoch: Epoch(5), ranges, minted_at: -1, idle, spool };
        let positions = BTreeMap::from([("orders".into(), Positions::from([(Partition::new("a.b", 3), 1)]))]);
        let progress = Progress { writer, epoch: Epoch(4), part: 1 };
        let start = Start { positions, plan: [("view totals".to_owned(), "a\nb".to_owned())].into() };
        vec![
            Entry::Opened(writer, Some(1_700_000_000_000)),
            Entry::Opened(writer, None),
            Entry::Started(start.clone()),
            Entry::Ends(start.positions.clone()),
            Entry::Bound(binding.clone()),
            Entry::Base(Base {
                start,
                segments: vec![binding.clone(), binding.clone()],
                after: vec![binding],
                checkpoints: vec![Checkpoint { epoch: Epoch(5), manifest: "checkpoints/x".into(), crc: 0xfe }],
                dropped: Epoch(3),
                ends: [("orders".into(), Positions::from([(Partition::new("a.b", 3), 99)]))].into(),
                held: [("parquet of totals".to_owned(), Some(progress)), ("b".to_owned(), None)].into(),
                lanes: [("parquet of totals".to_owned(), vec![Epoch(4), Epoch(9)])].into(),
                births: [("b".to_owned(), 3)].into(),
            }),
        ]
    }

    #[test]
    fn every_entry_is_read_as_it_was_written() {
        for entry in entries() {
            let bytes = entry.encode(7, 42).unwrap();
            assert_eq!(Entry::decode(&bytes, 7).unwrap(), (entry, 42));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        for entry in entries() {
            let bytes = entry.encode(7, 42).unwrap();
            for i in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[i / 8] ^= 1 << (i % 8);
                // an 'a' that became an 'A' in the checksum's own text says the same
                if bad[..9].eq_ignore_ascii_case(&bytes[..9]) && i < 64 {
                    continue;
                }
                assert!(Entry::decode(&bad, 7).is_err(), "bit {i}");
            }
            for n in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..n], 7).is_err());
            }
            assert!(Entry::decode(&bytes, 8).unwrap_err().contains("slot 7"));
        }
    }

    #[test]
    fn older_formats_can_still_be_read() {
        let stored = "{\"epoch\":1,\"minted_at\":5,\"ranges\":[{\"source\":\"orders\",\"topic\":\"t\",\"partition\":0,\"from\":0,\"to\":3,\
                       \"rows\":3,\"bytes\":9,\"fingerprint\":\"00000000000000ff\"}]}";
        let read = |format: u32, entry: String| {
            let written = format!("{{\"format\":{format},\"slot\":2,\"nonce\":\"000000000000002a\",\"entry\":{entry}}}");
            let bytes = format!("{:08x}\n{written}", crc32fast::hash(written.as_bytes()));
            Entry::decode(bytes.as_bytes(), 2).unwrap()
        };
        let range = Range { from: 0, to: 3, rows: 3, bytes: 9, fingerprint: 255, watermark: None };
        let ranges = BTreeMap::from([(("orders".into(), Partition::new("t", 0)), range)]);
        let binding = Binding { epoch: Epoch(1), ranges, minted_at: 5, ..Binding::default() };
        for format in [1, 2, 3, 4] {
            assert_eq!(read(format, format!("{{\"Bound\":{stored}}}")), (Entry::Bound(binding.clone()), 42));
        }
        let base = format!(
            "{{\"Base\":{{\"start\":{{\"positions\":[],\"plan\":{{}}}},\"binding\":{stored},\"after\":[{stored}],\"held\":{{}}}}}}"
        );
        let expected = Base { segments: vec![binding.clone()], after: vec![binding.clone()], ..Base::default() };
        assert_eq!(read(1, base), (Entry::Base(expected), 42));
        let writer = WriterId { ledger: 255, generation: 4 };
        assert_eq!(read(2, "{\"Opened\":{\"ledger\":\"ff\",\"generation\":4}}".to_owned()), (Entry::Opened(writer, None), 42));
        let base = format!(
            "{{\"Base\":{{\"start\":{{\"positions\":[],\"plan\":{{}}}},\"segments\":[{stored}],\"after\":[],\
             \"held\":{{\"sink 0, jsonl of v\":{{\"ledger\":\"ff\",\"generation\":4,\"epoch\":1,\"part\":0}}}},\
             \"checkpoints\":[{{\"epoch\":1,\"manifest\":\"m\",\"crc\":\"fe\"}}]}}}}"
        );
        let Entry::Base(base) = read(2, base).0 else { panic!("a base") };
        assert_eq!((base.segments, base.dropped, base.lanes.len()), (vec![binding], Epoch(0), 0));
        assert_eq!((base.held.len(), base.births.len(), base.checkpoints[0].crc), (1, 0, 0xfe));
    }
}
