//! Entries are read as they were written, in every format, or refused.

use super::*;
use crate::testing::golden;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The bytes of an entry that is written so.
fn sealed(written: &str) -> Vec<u8> {
    format!("{:08x}\n{written}", crc32fast::hash(written.as_bytes())).into_bytes()
}

fn entries() -> Vec<Entry> {
    let writer = WriterId { ledger: u128::MAX - 5, generation: 3 };
    let range = Range { from: 1, to: 9, rows: 7, bytes: 700, fingerprint: u64::MAX - 1, watermark: Some(-3) };
    let ranges = BTreeMap::from([(("orders".into(), Partition::new("a.b", 3)), range)]);
    let spool = vec![SpoolRef { upto: Epoch(5), name: "spool/5".into(), bytes: 9, crc: 0xfe }];
    let idle = [("orders".into(), Partition::new("a.b", 4))].into();
    let object = spool.first().cloned();
    let binding = Binding { epoch: Epoch(5), ranges, minted_at: -1, idle, spool, letters: vec!["spool/7".into()] };
    let told = Letters { sink: "b".into(), lane: 3, after: Epoch(4), upto: Epoch(6), object, epoch: Some(Epoch(8)) };
    let positions = BTreeMap::from([("orders".into(), Positions::from([(Partition::new("a.b", 3), 1)]))]);
    let progress = Progress { writer, epoch: Epoch(4), part: 1 };
    let start = Start { positions, plan: [("view totals".to_owned(), "a\nb".to_owned())].into() };
    vec![
        Entry::Opened(writer, Some(1_700_000_000_000)),
        Entry::Opened(writer, None),
        Entry::Started(start.clone()),
        Entry::Ends(start.positions.clone()),
        Entry::Bound(binding.clone()),
        Entry::Refused(told.clone()),
        Entry::Refused(Letters { object: None, epoch: None, ..told.clone() }),
        Entry::Base(Base {
            start,
            segments: vec![binding.clone(), binding.clone()],
            after: vec![binding],
            checkpoints: vec![Checkpoint { epoch: Epoch(5), manifest: "checkpoints/x".into(), crc: 0xfe }],
            dropped: Epoch(3),
            letters: Outbox::new(vec![told.clone(), Letters { lane: 0, epoch: None, ..told }]),
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
        Entry::decode(&sealed(&written), 2).unwrap()
    };
    let range = Range { from: 0, to: 3, rows: 3, bytes: 9, fingerprint: 255, watermark: None };
    let ranges = BTreeMap::from([(("orders".into(), Partition::new("t", 0)), range)]);
    let binding = Binding { epoch: Epoch(1), ranges, minted_at: 5, ..Binding::default() };
    for format in [1, 2, 3, 4, 5] {
        assert_eq!(read(format, format!("{{\"Bound\":{stored}}}")), (Entry::Bound(binding.clone()), 42));
    }
    let base =
        format!("{{\"Base\":{{\"start\":{{\"positions\":[],\"plan\":{{}}}},\"binding\":{stored},\"after\":[{stored}],\"held\":{{}}}}}}");
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
    assert_eq!((base.segments, base.dropped, base.lanes.len(), base.letters), (vec![binding], Epoch(0), 0, Outbox::default()));
    assert_eq!((base.held.len(), base.births.len(), base.checkpoints[0].crc), (1, 0, 0xfe));
}

/// The base among the entries, as far as a format could say it.
fn base_in(format: u32) -> Entry {
    let Some(Entry::Base(mut base)) = entries().pop() else { panic!("a base is the last") };
    let bindings = |base: &mut Base, change: fn(&mut Binding)| base.segments.iter_mut().chain(&mut base.after).for_each(change);
    if format < 6 {
        base.letters = Outbox::default();
        bindings(&mut base, |b| b.letters.clear());
    }
    if format < 5 {
        base.lanes.clear();
    }
    if format < 4 {
        base.ends.clear();
        bindings(&mut base, |b| {
            b.idle.clear();
            b.ranges.values_mut().for_each(|range| range.watermark = None);
        });
    }
    Entry::Base(base)
}

#[test]
fn the_golden_entries_are_what_is_written_and_those_of_older_formats_can_be_read() {
    for (n, entry) in entries().into_iter().enumerate() {
        let golden = golden::same(&format!("{GOLDEN}/ledger-{FORMAT}/{n}.entry"), &entry.encode(7, 42).unwrap());
        assert_eq!(Entry::decode(&golden, 7).unwrap(), (entry, 42));
    }
    for format in [3, 4, 5] {
        let golden = std::fs::read(format!("{GOLDEN}/ledger-{format}.entry")).unwrap();
        assert_eq!(Entry::decode(&golden, 7).unwrap(), (base_in(format), 42), "format {format}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let newer = |format| format!("{{\"format\":{format},\"slot\":2,\"nonce\":\"2a\",\"entry\":{{\"Ends\":{{\"positions\":[]}}}}}}");
    assert_eq!(Entry::decode(&sealed(&newer(FORMAT)), 2).unwrap(), (Entry::Ends(BTreeMap::new()), 42));
    let refused = Entry::decode(&sealed(&newer(FORMAT + 1)), 2).unwrap_err();
    assert_eq!(Entry::newer(&sealed(&newer(FORMAT))), None);
    assert_eq!(Entry::newer(&sealed(&newer(FORMAT + 1))).as_deref(), Some(refused.as_str()));
    assert!(refused.contains("format 7") && refused.contains("up to 6"), "{refused}");
}
