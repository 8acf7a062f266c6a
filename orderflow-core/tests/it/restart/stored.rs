//! What is stored of views: a start goes on after the newest checkpoint, the older one stands in for it, files do not pile up, and what is new gets
//! everything.

use super::*;
use orderflow_core::pipeline::OnChange;
use std::collections::BTreeSet;

/// Until a checkpoint is complete that is not the first: where every partition of the log stood then.
fn live_until_stored(views: &[View], world: &World) -> [Position; PARTITIONS as usize] {
    let clock = Clock::manual(1_000_000);
    let mut stepper = pipeline(views, world, log(), &clock).unwrap().stepper().unwrap();
    let (mut stored, mut complete) = (None, 0);
    while complete < 3 {
        match stepper.step().unwrap().expect("it does not end before") {
            true => {}
            false => clock.advance(Duration::from_secs(1)),
        }
        let newest = stepper.status().checkpoint;
        complete += usize::from(newest != stored);
        stored = newest;
    }
    // the bindings until the older of two checkpoints are one in the newest base; positions of the newest are looked up by a start
    drop(stepper);
    let mut resumed = pipeline(views, world, log(), &clock).unwrap().stepper().unwrap();
    assert!(resumed.step().is_ok());
    assert_eq!(resumed.status().restored, stored, "it goes on where it was stored");
    let at = resumed.status().sources[0].status.partitions.iter().map(|p| p.position).collect::<Vec<_>>();
    at.try_into().unwrap_or_default()
}

/// The files that a manifest names.
fn files_of(world: &World, manifest: &str) -> BTreeSet<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&world.state.get(manifest).unwrap().unwrap()).unwrap();
    let traces = manifest["roots"].as_array().unwrap().iter().flat_map(|r| r["traces"].as_array().unwrap());
    traces.flat_map(|t| t.as_array().unwrap()).map(|f| f["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_stored_need_not_be_read_again() {
    for views in PIPELINES {
        let world = World::new();
        live_until_stored(views, &world);
        // the log has forgotten the beginning: only stored state can go on
        let log = log().without(&[4; PARTITIONS as usize]);
        live(views, &world, log.clone()).unwrap();
        assert_eq!(world.rows(), unkilled(views), "{}", views[0].0);
        let e = live(views, &World::new(), log).unwrap_err();
        assert!(e.to_string().contains("no longer holds"), "{e}");
    }
}

#[test]
fn a_flipped_bit_in_the_newest_checkpoint_makes_the_older_one_do() {
    for views in PIPELINES {
        let expected = unkilled(views);
        let build = || {
            let world = World::new();
            live_until_stored(views, &world);
            world
        };
        let names = |world: &World| {
            let manifests = world.state.list("checkpoints/").unwrap();
            let [.., older, newest] = &manifests[..] else { panic!("two are kept: {manifests:?}") };
            let manifest: serde_json::Value = serde_json::from_slice(&world.state.get(newest).unwrap().unwrap()).unwrap();
            // those that the older one does not need, merged ones of older changes too
            let own: Vec<String> = files_of(world, newest).difference(&files_of(world, older)).cloned().collect();
            (manifest["epoch"].as_u64().unwrap(), [own, vec![newest.clone()]].concat())
        };
        for number in 0..names(&build()).1.len() {
            let world = build();
            let (epoch, names) = names(&world);
            let Some(name) = names.get(number) else { continue };
            let mut bytes = world.state.get(name).unwrap().unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            world.state.put_bytes(name, &bytes).unwrap();
            let mut stepper = pipeline(views, &world, log(), &Clock::manual(0)).unwrap().stepper().unwrap();
            assert!(stepper.step().is_ok());
            let status = stepper.status();
            assert!(status.restored.expect("the older one is good").0 < epoch, "{name}");
            assert!(status.damaged.len() == 1 && status.damaged[0].contains(name), "{:?}", status.damaged);
            drop(stepper);
            survive(views, &world);
            assert_eq!(world.rows(), expected, "{name}");
        }
    }
}

/// Names of all that is stored of views.
fn there(world: &World) -> Vec<String> {
    [world.state.list("roots/").unwrap(), world.state.list("checkpoints/").unwrap()].concat()
}

#[test]
fn with_both_checkpoints_damaged_a_start_is_refused_and_deletes_nothing_until_it_is_told_to_begin_again() {
    let views = &[TOTALS, EXTREMES];
    let world = World::new();
    live_until_stored(views, &world);
    let manifests = world.state.list("checkpoints/").unwrap();
    for manifest in &manifests {
        world.state.put_bytes(manifest, b"{").unwrap();
    }
    let (before, rows) = (there(&world), world.rows());
    let e = live(views, &world, log()).unwrap_err();
    assert_eq!(e.kind(), Kind::User);
    assert!(manifests.iter().all(|m| e.to_string().contains(m.as_str())) && e.remedy().unwrap().contains("Rebuild"), "{e}");
    assert_eq!((there(&world), world.rows()), (before, rows));
    let verified = orderflow_core::admin::verify(&world.state, "state").unwrap();
    assert!(verified.advice.unwrap().ends_with(e.remedy().unwrap()), "who looks is told what who starts is told");
    let clock = Clock::manual(1_000_000);
    let mut stepper = pipeline(views, &world, log(), &clock).unwrap().on_change(OnChange::Rebuild).stepper().unwrap();
    while stepper.step().unwrap().is_some() {
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(world.rows(), unkilled(views));
}

#[test]
fn a_flipped_bit_in_a_file_that_both_checkpoints_need_is_refused_by_its_name_and_nothing_is_deleted() {
    let views = &[ROUTED, TOTALS];
    let world = World::new();
    live_until_stored(views, &world);
    let manifests = world.state.list("checkpoints/").unwrap();
    let [.., older, newest] = &manifests[..] else { panic!("two are kept: {manifests:?}") };
    let shared: Vec<String> = files_of(&world, older).intersection(&files_of(&world, newest)).cloned().collect();
    assert!(!shared.is_empty(), "what did not change is written once");
    let (before, rows) = (there(&world), world.rows());
    for name in shared {
        let whole = world.state.get(&name).unwrap().unwrap();
        let mut bad = whole.clone();
        bad[whole.len() / 2] ^= 4;
        world.state.put_bytes(&name, &bad).unwrap();
        let e = live(views, &world, log()).unwrap_err();
        assert!(e.kind() == Kind::User && e.to_string().contains(&name) && e.remedy().unwrap().contains("Rebuild"), "{name}: {e}");
        assert_eq!((there(&world), world.rows()), (before.clone(), rows.clone()), "{name}");
        world.state.put_bytes(&name, &whole).unwrap();
    }
    survive(views, &world);
    assert_eq!(world.rows(), unkilled(views));
}

#[test]
fn a_damaged_older_checkpoint_is_no_reason_to_stop() {
    let views = &[TOTALS, EXTREMES];
    let world = World::new();
    live_until_stored(views, &world);
    let older = world.state.list("checkpoints/").unwrap().remove(0);
    world.state.put_bytes(&older, b"{").unwrap();
    survive(views, &world);
    assert_eq!(world.rows(), unkilled(views));
}

/// One life to its end: bytes of the files that each of its checkpoints wrote.
fn written(flow: Pipeline, clock: &Clock) -> Vec<u64> {
    let (mut stepper, mut written, mut before) = (flow.stepper().unwrap(), vec![], 0);
    loop {
        let step = stepper.step().unwrap();
        let all = stepper.status().checkpoint_bytes;
        if all > before {
            written.push(all - before);
            before = all;
        }
        match step {
            Some(true) => {}
            Some(false) => clock.advance(Duration::from_secs(1)),
            None => return written,
        }
    }
}

#[test]
fn a_checkpoint_writes_what_changed_and_not_what_is_there() {
    const GROUPS: u64 = 3_000;
    let rows = || (0..GROUPS + 44).map(|p| p as i64);
    let k = Int64Array::from_iter_values(rows().map(|p| p % GROUPS as i64));
    let columns: Vec<ArrayRef> = vec![Arc::new(k), Arc::new(Int64Array::from_iter_values(rows()))];
    let log = Topic::rows(vec![RecordBatch::try_new(schema(), columns).unwrap()]);
    let (world, clock) = (World::new(), Clock::manual(1_000_000));
    let flow = |log: Topic| pipeline(&[TOTALS], &world, log, &clock).unwrap();
    let one_epoch = Limits { interval: Duration::from_secs(1 << 30), rows: u64::MAX, bytes: u64::MAX };
    let first = written(flow(log.clone().until(GROUPS)).epochs(one_epoch), &clock);
    let [all] = first[..] else { panic!("one epoch, one checkpoint: {first:?}") };
    // a few rows an epoch, of groups that are there
    let later = written(flow(log), &clock);
    assert!(later.len() > 1 && later.iter().all(|one| one * 10 < all), "{all} bytes, and then {later:?}");
}

#[test]
fn files_of_state_do_not_pile_up() {
    let world = World::new();
    live(&[TOTALS, EXTREMES, KINDS], &world, log()).unwrap();
    let manifests = world.state.list("checkpoints/").unwrap();
    assert_eq!(manifests.len(), 2, "two are kept: {manifests:?}");
    let needed: BTreeSet<String> = manifests.iter().flat_map(|m| files_of(&world, m)).collect();
    let there = world.state.list("roots/").unwrap();
    let unneeded = there.iter().filter(|n| !needed.contains(*n)).count();
    // a file that was merged at the very end is needed by the next checkpoint only
    assert!(unneeded <= 1 && there.len() <= 8, "{there:?}");
}

#[test]
fn a_view_and_a_sink_that_are_new_get_everything() {
    let half = log().until(50);
    let world = World::new();
    live(&[TOTALS], &world, half.clone()).unwrap();
    // derived from what is stored, of the source itself, and a sink of its rows
    survive(&[TOTALS, SIZES, KINDS, ROUTED, SPLIT], &world);
    let sums = |rows: &BTreeMap<&str, String>, sink: &str| {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for line in rows[sink].lines() {
            let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            let diff = row.remove("diff").unwrap().as_i64().unwrap();
            row.remove("epoch");
            *sums.entry(format!("{row:?}")).or_default() += diff;
        }
        sums.retain(|_, n| *n != 0);
        sums
    };
    let (got, want) = (world.rows(), unkilled(&[TOTALS, SIZES, KINDS, ROUTED, SPLIT]));
    for sink in ["totals", "sizes", "kinds", "routed", "split"] {
        assert_eq!(sums(&got, sink), sums(&want, sink), "{sink}");
    }
    // of views that are derived the log's beginning is not needed
    let world = World::new();
    live(&[TOTALS], &world, half).unwrap();
    live(&[TOTALS, SIZES, KINDS], &world, log().without(&[10; PARTITIONS as usize])).unwrap();
    let got = world.rows();
    for sink in ["totals", "sizes", "kinds"] {
        assert_eq!(sums(&got, sink), sums(&want, sink), "{sink}");
    }
}
