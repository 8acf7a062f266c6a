//! What the ledger writes down: one JSON object an entry, behind a line with its checksum.
//!
//! ```text
//!   3f2a91bc
//!   {"format":1,"slot":7,"nonce":"…","entry":{"Bound":{"epoch":5,"ranges":[…]}}}
//! ```
//! Invariant: an entry that is read is the one that was written, in the slot it was written for, or an error that names the object.
//! Numbers beyond 2⁵³ are text, because most readers of JSON end there. Sources are named, not numbered: a pipeline may be rearranged.

use super::{Binding, Input, Letters, Outbox, Range, SpoolRef};
use crate::error::{Error, Result};
use crate::sink::{Progress, WriterId};
use crate::store::format_of;
use crate::time::{Epoch, Partition, Positions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the format, written into every entry. Version 1 had no checkpoints, and one binding in a base; version 2 no births of sinks, no
/// times of openings and no spooled sources; version 3 no watermarks, no idle partitions and no ends; version 4 no lanes; version 5 no
/// letters of rows that sinks refused.
const FORMAT: u32 = 6;

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
    /// What a sink leaves out of what it commits next.
    Refused(Letters),
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
    /// Letters that the dead letters do not hold yet, or that do not count yet.
    pub letters: Outbox,
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
    Refused(StoredLetters),
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
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        letters: Vec<StoredLetters>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    letters: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredLetters {
    sink: String,
    lane: usize,
    after: u64,
    upto: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<StoredSpool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
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
        let (ranges, idle) = (b.ranges.iter().map(range).collect(), b.idle.iter().map(input).collect());
        let (spool, letters) = (b.spool.iter().map(StoredSpool::new).collect(), b.letters.clone());
        Self { epoch: b.epoch.0, minted_at: b.minted_at, ranges, idle, spool, letters }
    }

    fn binding(self) -> std::result::Result<Binding, String> {
        let mut ranges = BTreeMap::new();
        for r in self.ranges {
            let fingerprint = hex(&r.fingerprint)? as u64;
            let range = Range { from: r.from, to: r.to, rows: r.rows, bytes: r.bytes, fingerprint, watermark: r.watermark };
            ranges.insert((r.source.into(), Partition::new(r.topic, r.partition)), range);
        }
        let spool = self.spool.into_iter().map(StoredSpool::object).collect::<std::result::Result<_, _>>()?;
        let idle = self.idle.into_iter().map(|i| (i.source.into(), Partition::new(i.topic, i.partition))).collect();
        Ok(Binding { epoch: Epoch(self.epoch), ranges, minted_at: self.minted_at, idle, spool, letters: self.letters })
    }
}

impl StoredSpool {
    fn new(o: &SpoolRef) -> Self {
        Self { upto: o.upto.0, name: o.name.clone(), bytes: o.bytes, crc: format!("{:08x}", o.crc) }
    }

    fn object(self) -> std::result::Result<SpoolRef, String> {
        Ok(SpoolRef { upto: Epoch(self.upto), crc: hex(&self.crc)? as u32, name: self.name, bytes: self.bytes })
    }
}

impl StoredLetters {
    fn new(l: &Letters) -> Self {
        let (object, epoch) = (l.object.as_ref().map(StoredSpool::new), l.epoch.map(|e| e.0));
        Self { sink: l.sink.clone(), lane: l.lane, after: l.after.0, upto: l.upto.0, object, epoch }
    }

    fn letters(self) -> std::result::Result<Letters, String> {
        let (object, epoch) = (self.object.map(StoredSpool::object).transpose()?, self.epoch.map(Epoch));
        Ok(Letters { sink: self.sink, lane: self.lane, after: Epoch(self.after), upto: Epoch(self.upto), object, epoch })
    }
}

fn unknown(format: u32) -> String {
    format!("it has format {format}, this version reads up to {FORMAT}")
}

/// What stands behind a checksum that is right.
fn unsealed(bytes: &[u8]) -> std::result::Result<&[u8], String> {
    let (head, json) = bytes.split_at_checked(9).ok_or("it is too short")?;
    let crc = std::str::from_utf8(head).ok().and_then(|t| t.strip_suffix('\n')).and_then(|t| u32::from_str_radix(t, 16).ok());
    if crc == Some(crc32fast::hash(json)) { Ok(json) } else { Err("its checksum is wrong".to_owned()) }
}

impl Entry {
    /// The bytes of this entry for `slot`, by the opening called `nonce`.
    pub(super) fn encode(&self, slot: u64, nonce: u64) -> Result<Vec<u8>> {
        let entry = match self {
            Entry::Opened(w, at) => Stored::Opened { ledger: format!("{:032x}", w.ledger), generation: w.generation, at: *at },
            Entry::Started(start) => Stored::Started(StoredStart::new(start)),
            Entry::Ends(ends) => Stored::Ends { positions: stored(ends) },
            Entry::Bound(b) => Stored::Bound(StoredBinding::new(b)),
            Entry::Refused(letters) => Stored::Refused(StoredLetters::new(letters)),
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
                letters: base.letters.iter().map(StoredLetters::new).collect(),
            },
        };
        let envelope = Envelope { format: FORMAT, slot, nonce: format!("{nonce:016x}"), entry };
        let json = serde_json::to_vec(&envelope).map_err(|e| Error::internal("an entry of the ledger cannot be written").caused_by(e))?;
        let mut bytes = format!("{:08x}\n", crc32fast::hash(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// What is said of whole `bytes` that a newer version wrote.
    pub(super) fn newer(bytes: &[u8]) -> Option<String> {
        let format = format_of(unsealed(bytes).ok()?).ok()?;
        (format > FORMAT).then(|| unknown(format))
    }

    /// The entry in `bytes`, which were found in `slot`, and the nonce of its opening.
    pub(crate) fn decode(bytes: &[u8], slot: u64) -> std::result::Result<(Self, u64), String> {
        // what a newer version wrote may hold what is not known here
        let unread = |e: serde_json::Error| Self::newer(bytes).unwrap_or_else(|| e.to_string());
        let e: Envelope = serde_json::from_slice(unsealed(bytes)?).map_err(unread)?;
        if !(1..=FORMAT).contains(&e.format) {
            return Err(unknown(e.format));
        }
        if e.slot != slot {
            return Err(format!("it belongs to slot {}", e.slot));
        }
        let entry = match e.entry {
            Stored::Opened { ledger, generation, at } => Entry::Opened(WriterId { ledger: hex(&ledger)?, generation }, at),
            Stored::Started(start) => Entry::Started(start.start()),
            Stored::Ends { positions: ends } => Entry::Ends(positions(ends)),
            Stored::Bound(b) => Entry::Bound(b.binding()?),
            Stored::Refused(letters) => Entry::Refused(letters.letters()?),
            Stored::Base { start, ends, binding, segments, after, held, lanes, births, checkpoints, dropped, letters } => {
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
                    letters: Outbox::new(letters.into_iter().map(StoredLetters::letters).collect::<std::result::Result<_, _>>()?),
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
mod tests;
