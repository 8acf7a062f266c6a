//! Cutting a fetch in two at a position: an epoch that is read again ends where it ended before, whatever the fetches are now.
//!
//! Invariant: both parts together are the fetch, record by record, and so are their fingerprints. Raw records are copied, because a fetch
//! may be on its way to two threads afterwards; that happens only where an epoch ends during a replay.

use super::{Fetch, Fingerprint, Payload, RawBatch, RawRecord, Refused};
use crate::time::Position;

impl Fetch {
    /// The records before `at`, and the others; `from < at < to`.
    pub fn split(self, at: Position) -> (Fetch, Fetch) {
        let Fetch { partition, from, to, rows, bytes, fingerprint, latest, payload } = self;
        let (first, last, head, tail) = match payload {
            Payload::None => (Counts::default(), None, Payload::None, Payload::None),
            Payload::Rows(changes) => {
                // rows have consecutive positions
                let n = usize::try_from(at - from).unwrap_or(usize::MAX).min(changes.len());
                let mut first = Counts { rows: n, bytes: bytes / rows.max(1) * n, ..Counts::default() };
                (from..at).for_each(|p| first.fingerprint.add(p, 0, None));
                (first, latest, Payload::Rows(changes.slice(0, n)), Payload::Rows(changes.slice(n, changes.len() - n)))
            }
            Payload::Raw(raw) => {
                let (mut first, mut last, mut head, mut tail) = (Counts::default(), None, Copies::default(), Copies::default());
                for i in 0..raw.len() {
                    let record = raw.record(i);
                    let refused = raw.refused().iter().find(|r| r.record == i);
                    if record.position < at {
                        first.add(&record, refused.map_or(record.size(), |r| r.size), raw.checksum(i));
                        head.push(&*raw, i, refused);
                    } else {
                        last = last.max(record.timestamp);
                        tail.push(&*raw, i, refused);
                    }
                }
                (first, last, Payload::Raw(Box::new(head)), Payload::Raw(Box::new(tail)))
            }
        };
        let print = first.fingerprint.finish();
        let part = |from, to, rows, bytes, fingerprint, latest, payload| Fetch {
            partition: partition.clone(),
            from,
            to,
            rows,
            bytes,
            fingerprint,
            latest,
            payload: if rows == 0 { Payload::None } else { payload },
        };
        let head = part(from, at, first.rows, first.bytes, print, first.fingerprint.latest(), head);
        let tail = part(at, to, rows - first.rows, bytes.saturating_sub(first.bytes), fingerprint.wrapping_sub(print), last, tail);
        (head, tail)
    }
}

#[derive(Default)]
struct Counts {
    rows: usize,
    bytes: usize,
    fingerprint: Fingerprint,
}

impl Counts {
    fn add(&mut self, record: &RawRecord<'_>, size: usize, checksum: Option<u32>) {
        self.rows += 1;
        self.bytes += size;
        self.fingerprint.add_checked(record.position, size, record.timestamp, checksum);
    }
}

/// A record with its own bytes.
struct Copied {
    value: Option<Box<[u8]>>,
    key: Option<Box<[u8]>>,
    headers: Vec<(String, Option<Box<[u8]>>)>,
    position: Position,
    timestamp: Option<i64>,
    checksum: Option<u32>,
}

impl Copied {
    fn new(raw: &dyn RawBatch, i: usize) -> Self {
        let r = raw.record(i);
        let mut headers = vec![];
        raw.headers(i, &mut |key, value| headers.push((key.to_owned(), value.map(Box::from))));
        let (value, key, checksum) = (r.value.map(Box::from), r.key.map(Box::from), raw.checksum(i));
        Self { value, key, headers, position: r.position, timestamp: r.timestamp, checksum }
    }
}

#[derive(Default)]
struct Copies {
    records: Vec<Copied>,
    refused: Vec<Refused>,
}

impl Copies {
    fn push(&mut self, raw: &dyn RawBatch, i: usize, refused: Option<&Refused>) {
        self.refused.extend(refused.map(|r| Refused { record: self.records.len(), ..r.clone() }));
        self.records.push(Copied::new(raw, i));
    }
}

impl RawBatch for Copies {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn refused(&self) -> &[Refused] {
        &self.refused
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let c = &self.records[i];
        RawRecord { value: c.value.as_deref(), key: c.key.as_deref(), position: c.position, timestamp: c.timestamp }
    }

    fn checksum(&self, i: usize) -> Option<u32> {
        self.records[i].checksum
    }

    fn headers(&self, i: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.records[i].headers.iter().for_each(|(key, value)| visit(key, value.as_deref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Partition;

    fn fetch() -> Fetch {
        let record = |position: u64| Copied {
            value: (position != 4).then(|| format!("value {position}").into_bytes().into()),
            key: position.is_multiple_of(2).then(|| Box::from(*b"key")),
            headers: vec![("h".to_owned(), Some(Box::from(*b"v"))), ("n".to_owned(), None)],
            position,
            timestamp: Some(70 - position as i64),
            // as a rule all have one, or none
            checksum: (position > 1).then_some(7 * position as u32),
        };
        // 3 is missing: compacted away
        // of record 2 only the beginning is there
        let refused = vec![Refused { record: 1, reason: "too long".to_owned(), size: 1000 }];
        let mut all = Counts::default();
        let raw = Copies { records: [1, 2, 4, 5].map(record).into(), refused };
        (0..4).for_each(|i| all.add(&raw.record(i), size(&raw, i), raw.checksum(i)));
        let (rows, bytes, fingerprint, latest) = (all.rows, all.bytes, all.fingerprint.finish(), all.fingerprint.latest());
        Fetch { partition: Partition::new("t", 0), from: 1, to: 8, rows, bytes, fingerprint, latest, payload: Payload::Raw(Box::new(raw)) }
    }

    fn size(raw: &dyn RawBatch, i: usize) -> usize {
        raw.refused().iter().find(|r| r.record == i).map_or(raw.record(i).size(), |r| r.size)
    }

    #[test]
    fn the_parts_are_the_whole() {
        for at in 2..8 {
            let whole = fetch();
            let (bytes, fingerprint) = (whole.bytes, whole.fingerprint);
            let (head, tail) = whole.split(at);
            assert_eq!((head.from, head.to, tail.from, tail.to), (1, at, at, 8));
            assert_eq!(head.rows + tail.rows, 4);
            assert_eq!(head.bytes + tail.bytes, bytes);
            assert_eq!(head.fingerprint.wrapping_add(tail.fingerprint), fingerprint);
            let mut seen = vec![];
            for part in [&head, &tail] {
                let Payload::Raw(raw) = &part.payload else {
                    assert_eq!(part.rows, 0);
                    continue;
                };
                let mut counts = Counts::default();
                for i in 0..raw.len() {
                    let r = raw.record(i);
                    assert!((part.from..part.to).contains(&r.position));
                    counts.add(&r, size(&**raw, i), raw.checksum(i));
                    let mut headers = 0;
                    raw.headers(i, &mut |_, _| headers += 1);
                    assert_eq!(headers, 2);
                    seen.push((r.position, r.value.map(<[u8]>::to_vec)));
                }
                assert_eq!((counts.rows, counts.bytes, counts.fingerprint.finish()), (part.rows, part.bytes, part.fingerprint));
                assert_eq!(counts.fingerprint.latest(), part.latest);
            }
            assert_eq!(seen.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
            assert_eq!(seen[2].1, None, "a tombstone stays one");
            let refused = |part: &Fetch| if let Payload::Raw(raw) = &part.payload { raw.refused().len() } else { 0 };
            assert_eq!((refused(&head), refused(&tail)), if at > 2 { (1, 0) } else { (0, 1) });
        }
    }
}
