//! What is written is read back, and nothing else is.

use super::*;
use crate::epoch::Checkpoint;
use crate::error::{Kind, Retry};
use crate::store::{Memory, Store};
use crate::time::Epoch;
use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
use std::sync::Arc;

fn batch(from: i128, n: i128) -> RecordBatch {
    let words = Decimal128Array::from_iter_values((from..from + n).chain([i128::MAX, i128::MIN]));
    let names = StringArray::from_iter((0..n + 2).map(|i| (i % 3 > 0).then(|| format!("name {i}"))));
    RecordBatch::try_from_iter_with_nullable([("w", Arc::new(words) as ArrayRef, false), ("n", Arc::new(names), true)]).unwrap()
}

#[test]
fn a_file_is_read_as_it_was_written_and_any_flipped_bit_is_noticed() {
    let store = Memory::new();
    let batches = [batch(0, 5), batch(100, 1)];
    let file = write(&store, "roots/a".into(), 7, &batches[0].schema(), batches.iter().cloned().map(Ok)).unwrap();
    assert_eq!((file.rows, file.upto), (10, 7));
    assert_eq!(read(&store, &file).unwrap(), batches);
    let good = store.get("roots/a").unwrap().unwrap();
    for i in (0..good.len() * 8).step_by(7) {
        let mut bad = good.clone();
        bad[i / 8] ^= 1 << (i % 8);
        (&store as &dyn Store).put_bytes("roots/a", &bad).unwrap();
        let e = read(&store, &file).unwrap_err();
        assert!(e.retry() == Retry::Never && e.to_string().contains("roots/a"), "{e}");
    }
    store.delete("roots/a").unwrap();
    assert!(read(&store, &file).unwrap_err().to_string().contains("not there"));
}

#[test]
fn a_manifest_is_what_the_checkpoint_says() {
    let store = Memory::new();
    let file = FileRef { name: "roots/a".into(), upto: 3, rows: 1, bytes: 2, crc: 3 };
    let roots = vec![RootFiles { text: "orders | group by city".into(), traces: vec![vec![file.clone()], vec![]], rows: None }];
    let counts = Counts { rejected: [("orders".to_owned(), 3), ("totals".to_owned(), -1)].into() };
    let plan = [("view totals".to_owned(), "Projection: n".to_owned())].into();
    let manifest = Manifest { counts: Some(counts), plan, ..Manifest::new(Epoch(3), roots) };
    let checkpoint = manifest.save(&store, 2).unwrap();
    assert_eq!(checkpoint.manifest, "checkpoints/0000000003-g0002.json");
    let loaded = Manifest::load(&store, &checkpoint).unwrap();
    assert_eq!((loaded.files().collect::<Vec<_>>(), &loaded), (vec![&file], &manifest));
    (&store as &dyn Store).put_bytes(&checkpoint.manifest, b"{}").unwrap();
    assert!(Manifest::load(&store, &checkpoint).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn a_manifest_of_a_newer_version_is_not_called_damaged() {
    let json = br#"{"format":99,"epoch":"the ninth","shards":[]}"#;
    let store = Memory::new();
    (&store as &dyn Store).put_bytes("checkpoints/m", json).unwrap();
    let checkpoint = Checkpoint { epoch: Epoch(9), manifest: "checkpoints/m".into(), crc: crc32fast::hash(json) };
    let e = Manifest::load(&store, &checkpoint).unwrap_err();
    assert!(e.kind() == Kind::User && e.to_string().contains("newer version") && e.to_string().contains("format 99"), "{e}");
    assert!(e.remedy().unwrap().contains("that version"), "{e}");
}

#[test]
fn the_first_format_of_a_manifest_can_still_be_read() {
    let json = br#"{"format":1,"epoch":9,"roots":[{"text":"t","traces":[[{"name":"roots/x","upto":9,"rows":1,"bytes":2,"crc":3}]]}]}"#;
    let store = Memory::new();
    (&store as &dyn Store).put_bytes("checkpoints/m", json).unwrap();
    let checkpoint = Checkpoint { epoch: Epoch(9), manifest: "checkpoints/m".into(), crc: crc32fast::hash(json) };
    let manifest = Manifest::load(&store, &checkpoint).unwrap();
    assert_eq!((manifest.epoch, manifest.roots[0].traces[0][0].name.as_str()), (9, "roots/x"));
    assert_eq!((manifest.counts, manifest.plan.len()), (None, 0), "nothing was counted");
}
