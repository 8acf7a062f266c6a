//! What a pipeline says that it refused and read: each record counts once, however often it is read, whatever died in between.

use super::*;
use orderflow_core::Status;
use orderflow_core::error::Retry;
use orderflow_core::format::json::Json;
use orderflow_core::pipeline::OnChange;

/// Of the rows of a stored view those that do not fit are refused: what is restored shows them again.
const FAR: View = ("extremes", "SELECT k, v + 9223372036854775800 AS big FROM totals", 5);
const VIEWS: &[View] = &[ROUTED, TOTALS, SPLIT, FAR];

/// Records of which every seventh is cut off.
fn records() -> Topic {
    let record = |id, p| match (p % 7, row(id, p)) {
        (3, _) => "{\"k\":".to_owned(),
        (_, (k, v)) => format!("{{\"k\":{k},\"v\":{v}}}"),
    };
    Topic::records(Json::new(schema()), (0..PARTITIONS).map(|id| (0..ROWS).map(|p| record(id, p)).collect::<Vec<String>>()))
}

/// What is said at the end: refused rows by who refused them, and records of the source; and whether views were restored.
type Said = (BTreeMap<String, i64>, u64, bool);

/// How one life ended; `None` if it died before its end.
fn ended(views: &[View], world: &World, dead: &dyn Fn() -> bool) -> Option<Status> {
    let clock = Clock::manual(1_000_000);
    let flow = pipeline(views, world, records(), &clock).unwrap().on_change(OnChange::Rebuild);
    let mut stepper = match flow.stepper() {
        Err(e) if e.retry() == Retry::Backoff => return None,
        opened => opened.unwrap(),
    };
    loop {
        let step = stepper.step();
        if dead() {
            return None;
        }
        match step.unwrap() {
            Some(true) => {}
            Some(false) => clock.advance(Duration::from_secs(1)),
            None => return Some(stepper.status()),
        }
    }
}

/// What one life said at its end.
fn said(views: &[View], world: &World, dead: &dyn Fn() -> bool) -> Option<Said> {
    let status = ended(views, world, dead)?;
    let rejected = status.rejected.into_iter().filter(|(_, n)| *n != 0).collect();
    Some((rejected, status.sources[0].bound, status.restored.is_some()))
}

/// A run that is left alone.
fn alone(views: &[View], world: &World) -> Said {
    said(views, world, &|| false).unwrap()
}

#[test]
fn what_was_refused_is_counted_once_wherever_the_process_dies() {
    for every in [ALWAYS, AT_THE_END] {
        let (rejected, bound, _) = alone(VIEWS, &World::with(every));
        let bad = (0..ROWS).filter(|p| p % 7 == 3).count() as i64 * i64::from(PARTITIONS);
        assert_eq!((rejected["numbers"], bound), (bad, ROWS * PARTITIONS as u64));
        assert!(rejected["split"] > 10 && rejected["extremes"] > 0, "{rejected:?}");

        let counting = Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused);
        alone(VIEWS, &World::with(every).through(&counting));
        let mut restored = 0;
        for at in (1..=counting.operations()).step_by(tier::of(29, 23, 1)) {
            let world = World::with(every);
            let faulty = Faulty::new(Arc::new(Memory::new()), at, Fault::CrashAfter);
            said(VIEWS, &world.through(&faulty), &|| faulty.is_dead());
            // a start after the death, and one that has nothing left to read
            for _ in 0..2 {
                let (again, records, from_stored) = alone(VIEWS, &world);
                assert_eq!((&again, records), (&rejected, bound), "died at {at}");
                restored += usize::from(from_stored);
            }
        }
        assert!(restored > 3, "hardly anything was restored");
    }
}

#[test]
fn rows_are_those_of_this_run_and_what_was_bound_and_refused_is_that_of_all() {
    let world = World::new();
    let life = || {
        let status = ended(VIEWS, &world, &|| false).unwrap();
        let given: u64 = status.sinks.iter().map(|s| s.rows).sum();
        (status.sources[0].rows, status.sources[0].bytes > 0, given > 0, status.sources[0].bound, status.rejected["numbers"])
    };
    let (all, bad) = (ROWS * PARTITIONS as u64, (0..ROWS).filter(|p| p % 7 == 3).count() as i64 * i64::from(PARTITIONS));
    assert_eq!(life(), (all, true, true, all, bad));
    assert_eq!(life(), (0, false, false, all, bad), "nothing was read again, and nothing was given again");
}

#[test]
fn a_new_view_of_stored_rows_counts_what_it_refuses_of_them() {
    let world = World::new();
    let (_, bound, _) = alone(&[TOTALS], &world);
    let (after, records, restored) = alone(&[TOTALS, FAR], &world);
    let (fresh, ..) = alone(&[TOTALS, FAR], &World::new());
    assert!(fresh["extremes"] > 0, "{fresh:?}");
    assert_eq!((after, records, restored), (fresh, bound, true));
}

/// [`FAR`], computed otherwise: it refuses three groups of seven.
const FAR_KEYS: View = ("extremes", "SELECT v, k + 9223372036854775804 AS big FROM totals", 5);

#[test]
fn a_changed_view_of_stored_rows_counts_anew_and_those_beside_it_go_on() {
    let world = World::new();
    let (before, bound, _) = alone(&[TOTALS, FAR], &world);
    let (fresh, ..) = alone(&[TOTALS, FAR_KEYS], &World::new());
    assert!(before["extremes"] > 0 && fresh["extremes"] > 0 && before["extremes"] != fresh["extremes"], "{before:?}, {fresh:?}");
    let moved = world.elsewhere("extremes");
    // the second start has the same checkpoint, which is of the old query, to begin with
    for _ in 0..2 {
        assert_eq!(alone(&[TOTALS, FAR_KEYS], &moved), (fresh.clone(), bound, true));
    }
}

#[test]
fn a_view_that_went_away_and_came_back_counts_anew() {
    let world = World::new();
    let (before, bound, _) = alone(&[TOTALS, FAR], &world);
    let (without, ..) = alone(&[TOTALS], &world);
    assert!(before.contains_key("extremes") && !without.contains_key("extremes"), "{without:?}");
    assert_eq!(alone(&[TOTALS, FAR], &world.elsewhere("extremes")), (before, bound, true));
}

#[test]
fn where_all_input_is_read_again_it_is_counted_again() {
    let world = World::new();
    let (before, bound, _) = alone(&VIEWS[..2], &world);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["numbers"]);
    let (after, records, restored) = alone(VIEWS, &world);
    let (fresh, ..) = alone(VIEWS, &World::new());
    assert_eq!((after, records, restored), (fresh, bound, true), "new views refuse what they would have refused from the beginning");
}
