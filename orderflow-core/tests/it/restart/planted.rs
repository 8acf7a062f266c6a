//! Bugs planted into the real code, one at a time: each is found by schedules of the kit or, where one process alone cannot show it, by a scene that is
//! staged for it.
//!
//! Invariant: what finds a bug finds nothing in sound code, and does the same in every run.

use super::anywhere::build;
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::epoch::Log;
use orderflow_core::format::json::Json;
use orderflow_core::sink::{Sink, Writer};
use orderflow_core::source::file;
use orderflow_core::store::layer::{Layer, Layered};
use orderflow_core::testing::conformance::{closed, context, schema as columns};
use orderflow_core::testing::{Failure, Schedules, find_failure};
use std::ops::RangeInclusive;
use std::sync::Mutex;

/// Bugs that no death of a single process brings to light, each with the scene that does; and one whose scene is about files, beside the log of the kit.
const SCENES: [(Bug, Scene); 4] = [
    (Bug::ReadBeforeFence, committed_while_another_opens),
    (Bug::LedgerIdIgnored, a_sink_of_another_ledger),
    (Bug::GenerationRetired, woken_after_retirement),
    (Bug::NewPartitionFromLatest, a_file_that_comes_between_two_lives),
];

/// What is wrong at its end.
type Scene = fn() -> Option<String>;

/// What a failure says, without the ids and nonces in it: these are random, and all that a seed does not say.
fn said(failure: &Failure) -> (&str, String) {
    let random = |word: &str| word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit());
    let words = failure.found.split(|c: char| !c.is_ascii_alphanumeric());
    (&failure.schedule, words.map(|word| if random(word) { "id" } else { word }).collect::<Vec<_>>().join(" "))
}

/// The first failure that schedules bring about, of any pipeline, which its seed alone brings back.
fn found(bug: Bug) -> Option<Box<Failure>> {
    let topic = match bug {
        Bug::NewPartitionFromLatest => log().until(40).appearing(2, 20),
        _ => log().until(40),
    };
    // after the first random ones each kind of act with every fault, which random ones may not come to
    let acts = |n| (n == 0).then(|| Schedules::acts(|_| true).whole_log());
    let rounds = (0..8u64).flat_map(|n| std::iter::once(Schedules::random(40).whole_log().from_seed(1 + 40 * n)).chain(acts(n)));
    let mut batches = rounds.flat_map(|schedules| PIPELINES.iter().rev().map(move |views| (schedules.clone(), views)));
    batches.find_map(|(schedules, views)| {
        let run = |schedules: Schedules| bug::with(bug, || find_failure(schedules, |world| build(views, &topic, world))).err();
        let failure = run(schedules)?;
        let again = run(Schedules::random(1).whole_log().from_seed(failure.seed));
        assert_eq!(again.as_deref().map(said), Some(said(&failure)), "{bug:?}: the same seed, and something else goes wrong");
        Some(failure)
    })
}

#[test]
fn every_planted_bug_is_found() {
    // it takes a kill between two calls to the disk, a start, and a power cut at once: `store::tests::power` asks for just that;
    // no sink sees what is idle: `watermarks` looks at what is bound; a writer that was overtaken and wakes up, and commits of several files,
    // are `sink::files`'s own tests; sinks that refuse rows are those of `refused`
    let elsewhere = [
        Bug::OpenTrustsCache,
        Bug::IdleWithBacklog,
        Bug::CommitsInAHole,
        Bug::RollsForwardOne,
        Bug::CommitsUnstored,
        Bug::BelievesWhatWasTold,
    ];
    let staged = |bug: &Bug| *bug != Bug::NewPartitionFromLatest && SCENES.iter().any(|(staged, _)| staged == bug);
    let unseen: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| !elsewhere.contains(bug) && !staged(bug))
        .step_by(tier::of(4, 1, 1))
        .filter(|bug| {
            let failure = found(*bug);
            if let Some(f) = &failure {
                println!("{bug:?}: seed {}, {}", f.seed, f.found.lines().next().unwrap_or_default());
            }
            failure.is_none()
        })
        .collect();
    assert_eq!(unseen, [], "these go unnoticed");
}

#[test]
fn every_bug_that_is_staged_is_found_and_sound_code_passes() {
    for (bug, scene) in SCENES {
        assert_eq!(scene(), None, "sound code, in the scene of {bug:?}");
        let wrong = bug::with(bug, scene);
        println!("{bug:?}: {}", wrong.as_deref().unwrap_or("nothing"));
        assert!(wrong.is_some(), "{bug:?} goes unnoticed");
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// A store in which something else happens, once, just before a record is put among the commits of a data set.
struct Meanwhile {
    below: Arc<dyn Store>,
    act: Mutex<Option<Act>>,
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meanwhile({:?})", self.below)
    }
}

impl Layer for Meanwhile {
    fn below(&self) -> &dyn Store {
        &*self.below
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let act = if name.starts_with("_commits/") { self.act.lock().unwrap().take() } else { None };
        if let Some(act) = act {
            act();
        }
        self.below.put_if_absent(name, bytes)
    }
}

/// The older of two writers of a data set commits when the newer one has read what it holds and has not won it yet.
fn committed_while_another_opens() -> Option<String> {
    let empty = || Arc::new(Memory::new()) as Arc<dyn Store>;
    let open = |place: &Arc<dyn Store>, generation: u64| {
        let set = DataSet::on(place.clone(), "rows", JsonLines);
        Box::new(set).open(context(1, generation, &columns())).unwrap()
    };
    let write = |writer: &mut dyn Writer, epochs: RangeInclusive<u64>| {
        epochs.for_each(|n| writer.write(closed(n)).unwrap());
        writer.flush().unwrap();
    };
    let rows = |place: &Arc<dyn Store>| {
        let files = place.list("").unwrap().into_iter().filter(|n| n.starts_with("lane-"));
        let text: String = files.map(|n| String::from_utf8(place.get(&n).unwrap().unwrap()).unwrap()).collect();
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let alone = empty();
    let mut writer = open(&alone, 1).writer;
    write(writer.as_mut(), 1..=4);
    writer.poll(Duration::ZERO).unwrap();

    let place = empty();
    let mut older = open(&place, 1).writer;
    write(older.as_mut(), 1..=1);
    older.poll(Duration::ZERO).unwrap();
    write(older.as_mut(), 2..=2);
    let act: Act = Box::new(move || assert_eq!(older.poll(Duration::ZERO).unwrap().progress.map(|p| p.epoch.0), Some(2)));
    let watched: Arc<dyn Store> = Arc::new(Layered(Meanwhile { below: place.clone(), act: Mutex::new(Some(act)) }));
    let opened = open(&watched, 2);
    // as the engine does, which gives it what comes after
    let (mut newer, after) = (opened.writer, opened.progress.map_or(0, |p| p.epoch.0));
    write(newer.as_mut(), after + 1..=4);
    newer.poll(Duration::ZERO).unwrap();
    let (got, want) = (rows(&place), rows(&alone));
    (got != want).then(|| format!("{} rows, and {} were expected, after it was told that epoch {after} is held", got.len(), want.len()))
}

/// A pipeline is given the sink of another one, whose epochs its own ledger could well have: it is refused, and the sink is as it was.
fn a_sink_of_another_ledger() -> Option<String> {
    let views = &[TOTALS];
    let (owner, other) = (World::new(), World::with(AT_THE_END));
    live(views, &owner, log().until(4)).unwrap();
    // killed before its ledger remembers anything of a sink
    let faulty = Faulty::new(Arc::new(Memory::new()), 60, Fault::CrashBefore);
    live_until(views, &other.through(&faulty), log(), || faulty.is_dead()).unwrap();
    let bound = |world: &World| Log::look(world.state.clone(), "state").unwrap().map(|seen| seen.found.tail());
    assert!(faulty.is_dead() && bound(&owner) < bound(&other), "{:?}, {:?}", bound(&owner), bound(&other));

    let objects = || owner.sinks.values().map(|s| s.list("").unwrap()).collect::<Vec<_>>();
    let before = objects();
    let stranger = World { every: AT_THE_END, state: other.state.clone(), sinks: owner.sinks.clone() };
    match live(views, &stranger, log()) {
        Err(e) if e.to_string().contains("already holds a data set") && objects() == before => None,
        outcome => Some(format!("with the sink of another ledger: {outcome:?}")),
    }
}

/// A process sleeps, two others come one after the other, and it wakes up when their retirements are done: it stops, and has bound nothing any more.
fn woken_after_retirement() -> Option<String> {
    // its sink commits at the end and never before, so that the ledger alone can tell it that it was replaced
    let views: &[View] = &[(ROUTED.0, ROUTED.1, 1_000)];
    let expected = unkilled(views);
    for steps in (2..60).step_by(tier::of(9, 4, 1)) {
        let world = World::new();
        let late = World { every: AT_THE_END, state: world.state.clone(), sinks: world.sinks.clone() };
        let clock = Clock::manual(1_000_000);
        let start = |world: &World| pipeline(views, world, log(), &clock).unwrap().stepper().unwrap();
        let mut sleeper = start(&late);
        for _ in 0..steps {
            match sleeper.step().unwrap() {
                Some(true) => {}
                Some(false) => clock.advance(Duration::from_secs(1)),
                None => return None,
            }
        }
        drop(start(&world));
        live(views, &world, log()).unwrap();
        let ledger = || world.state.list("ledger/").unwrap();
        let before = ledger();
        let end = (0..100_000).find_map(|_| {
            clock.advance(Duration::from_secs(1));
            match sleeper.step() {
                Ok(Some(_)) => None,
                Ok(None) => Some("it ended well".to_owned()),
                Err(e) => Some(e.to_string()),
            }
        });
        let end = end.unwrap_or_else(|| "it does not end".to_owned());
        let wrong = if !end.contains("taken over") {
            Some("it was not told")
        } else if ledger() != before {
            Some("it wrote into the ledger")
        } else {
            (world.rows() != expected).then_some("the sinks hold what they should not")
        };
        if let Some(wrong) = wrong {
            return Some(format!("put to sleep after {steps} steps: {wrong}; {end}"));
        }
    }
    None
}

/// Of two files the second is there only when the first has been read.
fn a_file_that_comes_between_two_lives() -> Option<String> {
    let (dir, world, mut wanted) = (tempfile::tempdir().unwrap(), World::new(), 0);
    for (id, name) in (0..).zip(["a.jsonl", "b.jsonl"]) {
        let rows: Vec<(i64, i64)> = (0..20).map(|p| row(id, p)).collect();
        wanted += rows.iter().filter(|(_, v)| v % 3 != 0).count();
        let text: String = rows.iter().map(|(k, v)| format!("{{\"k\":{k},\"v\":{v}}}\n")).collect();
        std::fs::write(dir.path().join(name), text).unwrap();
        let clock = Clock::manual(1_000_000);
        let source = file::JsonLines::dir(dir.path(), Json::new(schema()));
        testing::live(pipeline(&[ROUTED], &world, source, &clock), &clock, || false).unwrap();
    }
    let got = world.rows()["routed"].lines().count();
    (got != wanted).then(|| format!("{got} rows, and {wanted} were expected"))
}
