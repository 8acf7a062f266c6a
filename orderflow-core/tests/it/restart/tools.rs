//! The tools for kept state, on states that real runs left.

use super::changed::{sums, told};
use super::spooled::{Host, died};
use super::*;
use orderflow_core::admin;
use orderflow_core::arrow::util::pretty::pretty_format_batches;
use std::collections::BTreeSet;

const VIEWS: &[View] = &[ROUTED, TOTALS, SIZES, EXTREMES];

fn lived() -> World {
    let world = World::new();
    live(VIEWS, &world, log()).unwrap();
    world
}

fn lines(rows: &RecordBatch) -> BTreeSet<String> {
    let text = pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
    text.lines().filter(|l| l.starts_with('|')).skip(1).map(|l| l.split_whitespace().collect()).collect()
}

#[test]
fn a_description_says_what_is_there() {
    let world = lived();
    let found = admin::describe(&world.state, "state").unwrap();
    assert_eq!(found.generations.len(), 1);
    assert_eq!(found.generations[0].opened_at, Some(Clock::manual(1_000_000).unix_millis()));
    assert_eq!((found.epoch, found.held), (found.held, found.epoch), "it ended well");
    let sources: Vec<_> = found.sources.iter().map(|s| (s.partition.as_str(), s.began, s.position)).collect();
    assert_eq!(sources, [("numbers[0]", Some(0), ROWS), ("numbers[1]", Some(0), ROWS), ("numbers[2]", Some(0), ROWS)]);
    assert_eq!(found.views, ["extremes", "routed", "sizes", "totals"]);
    let sinks: Vec<_> = found.sinks.iter().map(|s| (s.name.as_str(), s.holds)).collect();
    let all = Some(found.epoch);
    let jsonl = ["sink jsonl of extremes", "sink jsonl of routed", "sink jsonl of sizes", "sink jsonl of totals"].map(|n| (n, all));
    assert_eq!(sinks, [&jsonl[..], &[("dead letters", all)]].concat());
    assert_eq!(found.checkpoints.len(), 2);
    let newest = &found.checkpoints[1];
    assert_eq!((newest.epoch, newest.states.len(), newest.files > 0 && newest.bytes > 0), (found.epoch, 2, true));
    assert_eq!(newest.states.iter().map(|s| s.views.clone()).collect::<Vec<_>>(), [["routed"], ["totals"]]);
    let e = admin::describe(&(Arc::new(Memory::new()) as Arc<dyn Store>), "nowhere").unwrap_err();
    assert!(e.to_string().contains("nowhere holds no state") && e.remedy().is_some(), "{e}");
}

#[test]
fn a_sink_that_gets_no_row_any_more_keeps_the_generation_that_wrote_its_last() {
    // in the first forty rows of a partition only
    const EARLY: View = ("routed", "SELECT k, v FROM numbers WHERE v = 21 OR v = 39", 7);
    let world = World::new();
    for upto in [40, 60, ROWS] {
        live(&[EARLY, TOTALS], &world, log().until(upto)).unwrap();
    }
    let found = admin::describe(&world.state, "state").unwrap();
    let of = |name: &str| found.sinks.iter().find(|s| s.name.ends_with(name)).unwrap().generation;
    assert_eq!((found.generations.len(), of("of routed"), of("of totals")), (3, Some(1), Some(3)));
}

#[test]
fn any_damage_is_found_and_named_and_looking_changes_nothing() {
    let world = lived();
    let good = admin::verify(&world.state, "state").unwrap();
    assert!(good.is_good() && good.files > 0 && good.entries > 0 && good.manifests == 2, "{good:?}");
    let needed: Vec<String> = world.state.list("").unwrap().into_iter().filter(|n| !good.unneeded.contains(n)).collect();
    for name in needed {
        for missing in [false, true] {
            let bytes = world.state.get(&name).unwrap().unwrap();
            if missing {
                // the last entry of a ledger may be missing without a trace, as after a power cut before it was written
                if world.state.list("ledger/").unwrap().last() == Some(&name) {
                    continue;
                }
                world.state.delete(&name).unwrap();
            } else {
                let mut bad = bytes.clone();
                bad[bytes.len() / 2] ^= 4;
                world.state.put_bytes(&name, &bad).unwrap();
            }
            let before = world.state.list("").unwrap();
            let found = admin::verify(&world.state, "state").unwrap();
            let what = format!("{name}, missing: {missing}: {found:?}");
            // an opening of before the base may be missing: what it said is said again by those after it
            let opening = missing && name.starts_with("ledger/") && found.is_good();
            assert!(opening || found.problems.iter().any(|p| p.why.contains(&name)) && found.advice.is_some(), "{what}");
            assert_eq!(world.state.list("").unwrap(), before);
            world.state.put_bytes(&name, &bytes).unwrap();
        }
    }
    assert_eq!(admin::verify(&world.state, "state").unwrap(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_rows_are_those_that_a_query_gives() {
    const MANY: &[View] = &[
        ROUTED,
        TOTALS,
        ("everything", "SELECT count(*) AS n, sum(v) AS s, avg(v) AS mean FROM numbers", 5),
        (
            "values",
            "SELECT k, min(v) AS low, max(v) AS high, count(DISTINCT v) AS vs, sum(v) FILTER (WHERE v > 9) AS s, count(v) AS c FROM numbers GROUP BY k",
            5,
        ),
        ("kinds", "SELECT DISTINCT v % 4 AS kind FROM numbers", 5),
        ("twice", "SELECT n AS count, k FROM totals", 5),
        ("few", "SELECT k, n FROM totals WHERE n > 30", 5),
    ];
    let world = World::new();
    let mut flow = Pipeline::new("export");
    flow.source("numbers", log()).unwrap();
    MANY.iter().for_each(|(name, sql, _)| drop(flow.view(name, sql).unwrap()));
    let running = flow
        .workers(3)
        .state_on(world.state.clone(), "state")
        .dead_letters(DataSet::on(Arc::new(Memory::new()), "d", JsonLines))
        .start()
        .await
        .unwrap();
    running.wait().await.unwrap();
    for (name, ..) in MANY {
        if *name == "few" {
            let e = admin::rows(&world.state, "state", name).unwrap_err();
            assert!(e.kind() == Kind::User && e.remedy().is_some_and(|r| r.contains("twice") && r.contains("1 (")), "{e}");
            continue;
        }
        let (epoch, rows) = admin::rows(&world.state, "state", name).unwrap();
        let (at, queried) = running.query_at(&format!("SELECT * FROM \"{name}\"")).await.unwrap();
        let queried = orderflow_core::arrow::compute::concat_batches(&queried[0].schema(), &queried).unwrap();
        assert_eq!((epoch, rows.num_rows(), lines(&rows)), (at, queried.num_rows(), lines(&queried)), "{name}");
        let names = |b: &RecordBatch| b.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>();
        assert_eq!(names(&rows), names(&queried), "{name}");
    }
    let (_, by_number) = admin::rows(&world.state, "state", "0").unwrap();
    assert_eq!(by_number.num_rows(), admin::rows(&world.state, "state", "routed").unwrap().1.num_rows());
}

#[test]
fn a_fork_goes_on_with_sinks_of_its_own_while_the_original_goes_on() {
    let half = log().until(50);
    let world = World::new();
    live(VIEWS, &world, half).unwrap();
    let fork = World::new();
    let forked = admin::fork(&world.state, "state", &fork.state, "fork").unwrap();
    let original = admin::describe(&world.state, "state").unwrap();
    assert!(forked.stored && forked.ledger != original.ledger && forked.epoch == original.epoch && forked.bytes > 0, "{forked:?}");
    assert!(admin::verify(&fork.state, "fork").unwrap().is_good());
    // its views need nothing of the log that is stored; a sink of the source's own rows would
    let totals = &[TOTALS, SIZES, EXTREMES];
    told(totals, &fork, log().without(&[40; PARTITIONS as usize])).unwrap();
    live(VIEWS, &world, log()).unwrap();
    let want = unkilled(VIEWS);
    for sink in ["totals", "sizes", "extremes"] {
        assert_eq!(sums(&fork.rows(), sink), sums(&want, sink), "{sink} of the fork");
        assert_eq!(sums(&world.rows(), sink), sums(&want, sink), "{sink} of the original");
    }
    // neither takes the other's sinks for its own
    let mixed = World { every: ALWAYS, state: fork.state.clone(), sinks: world.sinks.clone() };
    let e = live(totals, &mixed, log()).unwrap_err();
    assert!(e.to_string().contains("already holds a data set"), "{e}");
    let e = admin::fork(&world.state, "state", &fork.state, "fork").unwrap_err();
    assert!(e.to_string().contains("not empty"), "{e}");
}

#[test]
fn a_fork_that_was_cut_short_cannot_be_started() {
    let world = lived();
    for at in 1.. {
        let below: Arc<dyn Store> = Arc::new(Memory::new());
        let faulty = Faulty::new(below.clone(), at, Fault::CrashBefore);
        let outcome = admin::fork(&world.state, "state", &(Arc::new(faulty.clone()) as Arc<dyn Store>), "fork");
        if outcome.is_ok() {
            assert!(at > 5, "there was something to interrupt");
            return;
        }
        let fork = World { every: ALWAYS, state: below.clone(), sinks: World::new().sinks };
        if below.list("ledger/").unwrap().is_empty() {
            continue; // nothing that could be taken for a state
        }
        let e = live(VIEWS, &fork, log()).unwrap_err();
        assert!(e.to_string().contains("damaged"), "cut at {at}: {e}");
    }
}

#[test]
fn a_sink_that_is_reset_gets_everything_again_once_its_old_rows_are_gone() {
    let world = lived();
    let e = admin::reset_sink(&world.state, "state", "jsonl of nothing").unwrap_err();
    assert!(e.remedy().is_some_and(|r| r.contains("'sink jsonl of totals'")), "{e}");
    let reset = admin::reset_sink(&world.state, "state", "jsonl of totals").unwrap();
    assert_eq!(reset.sink, "sink jsonl of totals");
    assert!(reset.held.is_some() && reset.advice.contains("_commits"), "{reset:?}");
    let born = admin::describe(&world.state, "state").unwrap().sinks.into_iter().find(|s| s.name == reset.sink).unwrap();
    assert_eq!((born.holds, born.born), (None, Some(2)));
    // as often as one tries
    for _ in 0..3 {
        let e = live(VIEWS, &world, log()).unwrap_err();
        assert!(e.to_string().contains("holds rows of before") && e.remedy().is_some(), "{e}");
    }
    let before = world.rows();
    let totals = &world.sinks["totals"];
    totals.list("").unwrap().iter().for_each(|n| totals.delete(n).unwrap());
    live(VIEWS, &world, log()).unwrap();
    let after = world.rows();
    assert_eq!(after["totals"].lines().count(), 7, "its rows as they are, in one epoch");
    for sink in ["routed", "sizes", "extremes"] {
        assert_eq!(before[sink], after[sink], "{sink}");
    }
}

#[test]
fn a_sink_whose_query_changed_goes_on_in_its_place_after_a_reset() {
    let squares: View = ("totals", "SELECT k, count(*) AS n, sum(v * v) AS v FROM numbers GROUP BY k", 20);
    let world = lived();
    admin::reset_sink(&world.state, "state", "jsonl of totals").unwrap();
    let totals = &world.sinks["totals"];
    totals.list("").unwrap().iter().for_each(|n| totals.delete(n).unwrap());
    told(&[ROUTED, squares], &world, log()).unwrap();
    assert_eq!(world.rows()["totals"].lines().count(), 7);
}

#[test]
fn a_fork_takes_along_what_the_host_has_forgotten() {
    let views = &[TOTALS, ROUTED];
    // what is stored covers nothing, some of it, all of it
    for (keep, rows, every) in [(false, ROWS, AT_THE_END), (true, ROWS, ALWAYS), (true, 5 * ROWS, ALWAYS)] {
        let (world, mut host) = (World::with(every), Host { rows, keep, ..Host::new() });
        if every == AT_THE_END {
            host.live_until(&[TOTALS], &world, || world.state.list("spool/").unwrap().len() > 5).unwrap();
        } else {
            host.survive(&[TOTALS], &world);
        }
        let fork = World::with(every);
        let forked = admin::fork(&world.state, "state", &fork.state, "fork").unwrap();
        assert_eq!(forked.stored, every == ALWAYS);
        let verified = admin::verify(&fork.state, "fork").unwrap();
        assert!(verified.is_good() && verified.unneeded.is_empty(), "{verified:?}");
        let rest = |forgotten| Host { rows: rows + 30, forgotten, keep };
        rest(host.forgotten).survive(views, &fork);
        let want = World::with(every);
        rest(0).survive(views, &want);
        for sink in ["totals", "routed"] {
            assert_eq!(sums(&fork.rows(), sink), sums(&want.rows(), sink), "{sink}, {rows} rows, kept: {keep}");
        }
        rest(host.forgotten).survive(&[TOTALS], &world);
        assert_eq!(sums(&world.rows(), "totals"), sums(&want.rows(), "totals"));
    }
    // what is dropped is not to be had by a fork either, and it says so
    let (world, mut host) = (World::new(), Host { rows: ROWS, ..Host::new() });
    host.survive(&[TOTALS], &world);
    let fork = World::new();
    admin::fork(&world.state, "state", &fork.state, "fork").unwrap();
    let e = Host { rows: ROWS, ..host }.live_until(views, &fork, || false).unwrap_err();
    assert!(e.kind() == Kind::User && e.to_string().contains("is not stored any more"), "{e}");
    Host { rows: ROWS, ..host }.survive(&[TOTALS], &fork);
    assert_eq!(sums(&fork.rows(), "totals"), sums(&world.rows(), "totals"));
    // a bit flipped is found before any start is
    let (world, _) = died(&[TOTALS]);
    let name = world.state.list("spool/").unwrap().swap_remove(2);
    let mut bytes = world.state.get(&name).unwrap().unwrap().to_vec();
    bytes[9] ^= 1;
    world.state.put_bytes(&name, &bytes).unwrap();
    let verified = admin::verify(&world.state, "state").unwrap();
    assert!(verified.problems.len() == 1 && verified.problems[0].object == name, "{verified:?}");
    assert!(verified.advice.is_some_and(|a| a.contains("cannot give them again")));
    let e = admin::fork(&world.state, "state", &World::new().state, "fork").unwrap_err();
    assert!(e.to_string().contains(&name), "{e}");
}
