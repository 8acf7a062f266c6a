//! The source is a channel, which gives every row once: the host sends again what it does not know to be safe, and no row is lost or doubled.
//!
//! The host forgets what is acknowledged at once, as a host may. Its batches are a function of the row's number, and so are cuts into epochs.

use super::changed::sums;
use super::*;
use orderflow_core::epoch::Log;
use orderflow_core::pipeline::OnChange;
use orderflow_core::source::memory::Sender;
use orderflow_core::testing::{Report, Schedules};

/// Of a pipeline that keeps what it is sent: less than that is read again at once.
const MEMORY: usize = 100_000;

/// A host with a log of rows, of which it forgets those that are acknowledged.
pub(super) struct Host {
    pub(super) rows: u64,
    pub(super) forgotten: u64,
    /// Whether its pipeline keeps what it sent for ever.
    pub(super) keep: bool,
}

/// Rows `range` of the host's log.
fn batch(range: std::ops::Range<u64>) -> RecordBatch {
    let (k, v): (Vec<i64>, Vec<i64>) = range.map(|p| row(0, p)).unzip();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(k)), Arc::new(Int64Array::from(v))];
    RecordBatch::try_new(schema(), columns).unwrap()
}

impl Host {
    pub(super) fn new() -> Self {
        Self { rows: 2 * ROWS, forgotten: 0, keep: false }
    }

    /// Where the batch ends that begins with row `from`.
    fn end(&self, from: u64) -> u64 {
        (from + 1 + from * 7 % 5).min(self.rows)
    }

    fn begin(&self, sender: &Sender) -> u64 {
        let first = sender.blocking_resumed_at().unwrap();
        assert!(
            self.rows == 0 || (self.forgotten..=self.rows).contains(&first),
            "{} were acknowledged, now {first} are there",
            self.forgotten
        );
        first
    }

    /// One life of a pipeline, to the end of the host's log or to its death.
    pub(super) fn live_until(&mut self, views: &[View], world: &World, dead: impl Fn() -> bool) -> Result<()> {
        let clock = Clock::manual(1_000_000);
        // every batch waits alone
        let (sender, source) = memory::channel(schema(), 1);
        let flow = pipeline(views, world, source, &clock)?;
        let mut stepper = if self.keep { flow.keep_spooled().memory(MEMORY) } else { flow }.stepper()?;
        let first = self.begin(&sender);
        let (mut sender, mut at) = (Some(sender), first);
        for _ in 0..100_000 {
            if let Some(to) = &sender
                && let end = self.end(at)
                && end > at
                && to.try_send(batch(at..end))?.is_some()
            {
                at = end;
            }
            let step = stepper.step();
            if let Some(to) = &sender {
                self.forgotten = first + to.acknowledged();
                assert!(self.forgotten <= at);
            }
            match step? {
                _ if dead() => return Ok(()),
                Some(true) => {}
                Some(false) if at == self.rows && sender.is_some() => sender = None,
                Some(false) => clock.advance(Duration::from_secs(1)),
                None => return Ok(()),
            }
        }
        panic!("it does not end: {:?}", stepper.status());
    }

    /// To the end, without faults.
    pub(super) fn survive(&mut self, views: &[View], world: &World) {
        for _ in 0..3 {
            match self.live_until(views, world, || false) {
                Ok(()) => return named(world),
                Err(e) => assert_eq!(e.retry(), orderflow_core::error::Retry::Backoff, "{e}"),
            }
        }
        panic!("it does not come up again");
    }
}

/// Every stored object with rows is one that the ledger names, and is there.
fn named(world: &World) {
    let (_, found) = Log::open(world.state.clone(), "here", 0, |_| Ok(())).unwrap();
    let named: Vec<String> = found.segments.iter().chain(&found.bindings).flat_map(|b| &b.spool).map(|o| o.name.clone()).collect();
    assert_eq!(world.state.list("spool/").unwrap(), named);
}

fn unkilled(views: &[View]) -> BTreeMap<&'static str, String> {
    let world = World::new();
    Host::new().survive(views, &world);
    world.rows()
}

const HOSTED: &[&[View]] = &[&[ROUTED], &[TOTALS], &[ROUTED, TOTALS, SIZES, EXTREMES, SPLIT]];

#[test]
fn the_unkilled_run_is_the_batch_answer() {
    let rows = unkilled(&[ROUTED, TOTALS]);
    let all = || (0..2 * ROWS).map(|p| row(0, p));
    let lines = |sink: &str| rows[sink].lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).collect::<Vec<_>>();
    let routed: Vec<(i64, i64)> = lines("routed").iter().map(|l| (l["k"].as_i64().unwrap(), l["v"].as_i64().unwrap())).collect();
    assert_eq!(routed, all().filter(|(_, v)| v % 3 != 0).collect::<Vec<_>>(), "in the order of the channel");
    let sum: i64 = lines("totals").iter().map(|l| l["v"].as_i64().unwrap() * l["diff"].as_i64().unwrap()).sum();
    assert_eq!(sum, all().map(|(_, v)| v).sum::<i64>());
}

#[test]
fn killed_at_any_operation_the_host_sends_again_and_no_row_is_lost_or_doubled() {
    for views in HOSTED {
        let expected = unkilled(views);
        for every in [ALWAYS, AT_THE_END] {
            let counting = Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused);
            Host::new().live_until(views, &World::with(every).through(&counting), || false).unwrap();
            let stride = tier::of(11, 7, 1);
            for (turn, at) in (1..=counting.operations() + 1).step_by(stride).enumerate() {
                for fault in Fault::ALL.into_iter().skip(tier::of(turn % 4, turn % 4, 0)).take(tier::of(1, 1, 4)) {
                    let (world, mut host) = (World::with(every), Host::new());
                    let faulty = Faulty::new(Arc::new(Memory::new()), at, fault);
                    let outcome = host.live_until(views, &world.through(&faulty), || faulty.is_dead());
                    if let Err(e) = &outcome {
                        assert_eq!(e.retry(), orderflow_core::error::Retry::Backoff, "{fault:?} at {at}: {e}");
                    }
                    host.survive(views, &world);
                    assert_eq!(world.rows(), expected, "{fault:?} at {at} of {}", views[0].0);
                }
            }
        }
    }
}

#[test]
fn killed_again_while_stored_rows_are_read_nothing_is_lost_or_doubled() {
    let expected: Vec<_> = HOSTED.iter().map(|views| unkilled(views)).collect();
    let mut deaths = 0;
    let report = Schedules::random(tier::of(30, 60, 1_000)).for_as_long_as(tier::hours()).each(|seed| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n + 1
        };
        let which = (seed % HOSTED.len() as u64) as usize;
        let (world, mut host) = (World::with(if seed % 2 == 0 { AT_THE_END } else { ALWAYS }), Host::new());
        let lives: Vec<(u64, Fault)> = (0..1 + seed % 4).map(|_| (draw(160), Fault::ALL[draw(4) as usize - 1])).collect();
        for (at, fault) in &lives {
            let faulty = Faulty::new(Arc::new(Memory::new()), *at, *fault);
            let _ = host.live_until(HOSTED[which], &world.through(&faulty), || faulty.is_dead()); // dead or through
            deaths += u64::from(faulty.is_dead());
        }
        host.survive(HOSTED[which], &world);
        assert_eq!(world.rows(), expected[which], "{lives:?}");
    });
    let report = Report { deaths, ..report };
    println!("spooled: {report}");
    assert!(2 * report.deaths > report.schedules, "{report}");
}

/// A pipeline that died in mid-run and stored no views: some objects have to be read.
pub(super) fn died(views: &[View]) -> (World, Host) {
    let (world, mut host) = (World::with(AT_THE_END), Host::new());
    host.live_until(views, &world, || world.state.list("spool/").unwrap().len() > 5).unwrap();
    assert!(host.forgotten > 0 && host.forgotten < host.rows);
    (world, host)
}

#[test]
fn a_flipped_bit_in_stored_rows_is_refused_by_name() {
    let (world, mut host) = died(&[TOTALS]);
    named(&world);
    let names = world.state.list("spool/").unwrap();
    assert!(names.len() > 5);
    for name in &names {
        let good = world.state.get(name).unwrap().unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 16;
        for (bytes, says) in [(Some(&bad[..]), "checksum"), (Some(&good[1..]), "bytes"), (None, "not there")] {
            match bytes {
                Some(bytes) => world.state.put_bytes(name, bytes).unwrap(),
                None => world.state.delete(name).unwrap(),
            }
            let before = world.rows();
            let e = host.live_until(&[TOTALS], &world, || false).unwrap_err().to_string();
            assert!(e.contains(name.as_str()) && e.contains(says), "{e}");
            assert_eq!(world.rows(), before);
        }
        world.state.put_bytes(name, &good).unwrap();
    }
    host.survive(&[TOTALS], &world);
    assert_eq!(world.rows(), unkilled(&[TOTALS]));
}

#[test]
fn rows_are_acknowledged_when_they_are_stored_not_when_sinks_hold_them() {
    let world = World::with(AT_THE_END);
    let clock = Clock::manual(1_000_000);
    let (sender, source) = memory::channel(schema(), 1);
    // a file closes after more rows than come
    let never: View = ("totals", TOTALS.1, 1_000_000);
    let mut stepper = pipeline(&[never], &world, source, &clock).unwrap().stepper().unwrap();
    sender.try_send(batch(0..11)).unwrap().unwrap();
    stepper.settle().unwrap();
    assert_eq!((sender.acknowledged(), stepper.status().committed.0), (11, 0));
    sender.try_send(batch(11..15)).unwrap().unwrap();
    stepper.settle().unwrap();
    assert_eq!(sender.acknowledged(), 11, "their epoch is open");
    // without the disk nothing is acknowledged, and nothing leaves
    let (world, faulty) = (World::with(AT_THE_END), Faulty::new(Arc::new(Memory::new()), 6, Fault::CrashBefore));
    let half = World { every: AT_THE_END, state: Arc::new(faulty.beside(world.state.clone())), sinks: world.sinks.clone() };
    let (sender, source) = memory::channel(schema(), 1);
    let mut stepper = pipeline(&[ROUTED], &half, source, &clock).unwrap().stepper().unwrap();
    sender.try_send(batch(0..40)).unwrap().unwrap();
    for _ in 0..50 {
        stepper.step().unwrap();
        clock.advance(Duration::from_secs(1));
    }
    assert!(faulty.is_dead() && stepper.status().waits.is_some());
    assert_eq!((sender.acknowledged(), world.rows()["routed"].as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_number_of_workers_with_rows_of_any_multiplicity() {
    let total = 2 * ROWS;
    let end = |from: u64| (from + 1 + from * 7 % 5).min(total);
    let diffs = |range: std::ops::Range<u64>| range.map(|p| if p % 3 == 0 { 2 } else { 1 }).collect::<Vec<i64>>();
    let views = &[TOTALS, SIZES, EXTREMES];
    let run = async |rounds: &[(usize, u64)]| {
        let world = World::new();
        let mut forgotten = 0;
        for (workers, until) in rounds {
            let (sender, source) = memory::channel(schema(), 1);
            let running = pipeline(views, &world, source, &Clock::system()).unwrap().workers(*workers).start().await.unwrap();
            let first = sender.resumed_at().await.unwrap();
            assert!(first >= forgotten);
            let mut at = first;
            while at < *until {
                sender.send_signed(batch(at..end(at)), diffs(at..end(at))).await.unwrap();
                at = end(at);
            }
            if *until < total {
                running.stop().await.unwrap();
                forgotten = first + sender.acknowledged();
                assert!(sender.send(batch(0..1)).await.is_err());
            } else {
                drop(sender);
                running.wait().await.unwrap();
            }
        }
        named(&world);
        world.rows()
    };
    let expected = run(&[(1, total)]).await;
    assert!(expected["totals"].lines().count() > 50);
    assert_eq!(run(&[(2, 60), (4, 100), (1, 150), (3, total)]).await, expected);
}

#[test]
fn stored_rows_are_dropped_when_two_checkpoints_cover_them_and_a_view_that_needs_them_is_refused() {
    let mut host = Host { rows: ROWS, ..Host::new() };
    let world = World::new();
    host.survive(&[TOTALS], &world);
    let there = world.state.list("spool/").unwrap().len();
    assert!(there <= 3, "{there} objects");
    // derived from what is stored
    host.rows += 20;
    host.survive(&[TOTALS, SIZES], &world);
    for views in
        [&[TOTALS, SIZES, KINDS, ROUTED][..], &[TOTALS, SIZES, KINDS, ("split", "SELECT k, sum(v) AS v FROM numbers GROUP BY k", 9)]]
    {
        let e = host.live_until(views, &world, || false).unwrap_err();
        assert!(e.kind() == Kind::User && e.to_string().contains("numbers") && e.to_string().contains("is new"), "{e}");
        assert!(e.remedy().unwrap().contains("keep_spooled"));
    }
    host.rows += 20;
    host.survive(&[TOTALS, SIZES], &world);
    let want = World::new();
    Host { rows: ROWS + 40, ..Host::new() }.survive(&[TOTALS, SIZES], &want);
    for sink in ["totals", "sizes"] {
        assert_eq!(sums(&world.rows(), sink), sums(&want.rows(), sink), "{sink}");
    }
    // both checkpoints of no use: said, and nothing is computed from a part
    for manifest in world.state.list("checkpoints/").unwrap() {
        world.state.put_bytes(&manifest, b"{").unwrap();
    }
    let e = host.live_until(&[TOTALS, SIZES], &world, || false).unwrap_err();
    assert!(e.to_string().contains("no stored checkpoint can be used") && e.remedy().is_some(), "{e}");
    let (_sender, source) = memory::channel(schema(), 1);
    let again = pipeline(&[TOTALS, SIZES], &world, source, &Clock::manual(0)).unwrap().on_change(OnChange::Rebuild);
    let e = again.stepper().err().unwrap();
    assert!(e.to_string().contains("numbers") && e.to_string().contains("cannot be used") && e.remedy().is_some(), "{e}");
}

#[test]
fn rows_that_are_kept_fill_new_views_and_lie_in_few_objects() {
    let (world, mut host) = (World::new(), Host { rows: 0, keep: true, ..Host::new() });
    while host.rows < 8 * ROWS {
        host.rows += 12;
        host.survive(&[TOTALS], &world);
    }
    let there = world.state.list("spool/").unwrap();
    assert!(there.len() < 12 && there.iter().any(|n| n.contains("-j")), "{there:?}");
    host.rows += 12;
    let (_, found) = Log::open(world.state.clone(), "here", 0, |_| Ok(())).unwrap();
    let bytes: u64 = found.segments.iter().flat_map(|b| b.ranges.values().map(|r| r.bytes)).sum();
    assert!(bytes as usize > MEMORY / 2, "{bytes}: they are read as one epoch, which is more than may be under way");
    host.survive(&[TOTALS, KINDS, ROUTED, SPLIT], &world);
    let want = World::new();
    Host { rows: host.rows, ..Host::new() }.survive(&[TOTALS, KINDS, ROUTED, SPLIT], &want);
    for sink in ["totals", "kinds", "routed", "split"] {
        assert_eq!(sums(&world.rows(), sink), sums(&want.rows(), sink), "{sink}");
    }
    // from now on they may go
    host.keep = false;
    for _ in 0..3 {
        host.rows += 12;
        host.survive(&[TOTALS, KINDS, ROUTED, SPLIT], &world);
    }
    assert!(world.state.list("spool/").unwrap().len() <= 3);
}

#[test]
fn a_pipeline_that_stores_no_views_reads_all_stored_rows_again() {
    let (world, clock) = (World::new(), Clock::manual(1_000_000));
    let sink = || DataSet::on(world.sinks["totals"].clone(), "totals", JsonLines);
    let mut sent = 0;
    for life in 0..30 {
        let (sender, source) = memory::channel(schema(), 100);
        let mut flow = Pipeline::new("raw");
        let same = flow.source("numbers", source).unwrap().operator("same", 1, &schema(), |s| s).unwrap();
        same.view("same").unwrap();
        flow.view("totals", "SELECT k, count(*) AS n, sum(v) AS v FROM same GROUP BY k").unwrap().sink(sink()).unwrap();
        let dead = DataSet::on(world.sinks["dead letters"].clone(), "dead letters", JsonLines);
        let mut stepper = flow.dead_letters(dead).clock(clock.clone()).state_on(world.state.clone(), "state").stepper().unwrap();
        assert_eq!(sender.blocking_resumed_at().unwrap(), sent, "life {life}");
        sender.try_send(batch(sent..sent + 7)).unwrap().unwrap();
        sent += 7;
        drop(sender);
        while stepper.step().unwrap().is_some() {
            clock.advance(Duration::from_secs(1));
        }
    }
    named(&world);
    let there = world.state.list("spool/").unwrap();
    assert!(there.len() < 12, "{there:?}");
    let mut want: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    (0..sent).map(|p| row(0, p)).for_each(|(k, v)| {
        let (n, sum) = want.entry(k).or_default();
        (*n, *sum) = (*n + 1, *sum + v);
    });
    let want: Vec<String> =
        want.iter().map(|(k, (n, v))| format!("{:?}", serde_json::json!({"k": k, "n": n, "v": v}).as_object().unwrap())).collect();
    assert_eq!(sums(&world.rows(), "totals").into_keys().collect::<Vec<_>>(), want);
}

#[test]
fn another_source_under_the_same_name_is_refused() {
    // a log in place of the channel, as long as something must be read that the channel gave
    let (world, mut host) = died(&[TOTALS]);
    let e = live(&[TOTALS], &world, log()).unwrap_err();
    assert!(e.to_string().contains("numbers") && e.remedy().is_some(), "{e}");
    // other columns, of which the views know nothing
    let wide = Arc::new(Schema::new([schema().fields().to_vec(), vec![Arc::new(Field::new("w", DataType::Utf8, true))]].concat()));
    let (sender, source) = memory::channel(wide, 1);
    let clock = Clock::manual(0);
    let mut stepper = pipeline(&[TOTALS], &world, source, &clock).unwrap().stepper().unwrap();
    let e = stepper.settle().unwrap_err();
    assert!(e.to_string().contains("other columns") && e.to_string().contains("w Utf8"), "{e}");
    drop((sender, stepper));
    host.survive(&[TOTALS], &world);
    assert_eq!(world.rows(), unkilled(&[TOTALS]));
    // a channel in place of the log
    let world = World::with(AT_THE_END);
    let faulty = Faulty::new(Arc::new(Memory::new()), 40, Fault::CrashBefore);
    super::live_until(&[TOTALS], &world.through(&faulty), log(), || faulty.is_dead()).unwrap();
    let e = Host { rows: 0, forgotten: 0, keep: false }.live_until(&[TOTALS], &world, || false).unwrap_err();
    assert!(e.to_string().contains("are not stored") && e.to_string().contains("numbers"), "{e}");
}

#[test]
fn two_channels_beside_a_log_are_each_read_from_where_they_are() {
    const ALL: [&str; 3] = ["first", "numbers", "second"];
    let life = |world: &World, sources: &[&str], dead: &dyn Fn() -> bool| -> Result<()> {
        let clock = Clock::manual(1_000_000);
        let ((first, one), (second, two)) = (memory::channel(schema(), 1), memory::channel(schema(), 1));
        let mut flow = Pipeline::new("mixed");
        flow.source("first", one)?;
        flow.source("numbers", log())?;
        let mut second = Some(second);
        match sources.contains(&"second") {
            true => drop(flow.source("second", two)?),
            false => second = None,
        }
        for source in sources {
            let sql = format!("SELECT k, count(*) AS n, sum(v) AS v FROM {source} GROUP BY k");
            flow.view(&format!("of_{source}"), &sql)?;
        }
        // the same text, whatever else is there
        let totals = "SELECT k, sum(n) AS n, sum(v) AS v FROM (SELECT * FROM of_first UNION ALL SELECT * FROM of_numbers) GROUP BY k";
        let sink = DataSet::on(world.sinks["totals"].clone(), "totals", JsonLines).roll_rows(20).roll_after(Duration::from_secs(1 << 30));
        flow.view("totals", totals)?.sink(sink)?;
        let dead_letters = DataSet::on(world.sinks["dead letters"].clone(), "dead letters", JsonLines);
        let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 11, bytes: u64::MAX };
        let flow = flow.dead_letters(dead_letters).epochs(limits).clock(clock.clone()).checkpoint_every(world.every);
        let flow = flow.on_change(orderflow_core::OnChange::Rebuild);
        let mut stepper = flow.state_on(world.state.clone(), "state").stepper()?;
        let host = Host { rows: ROWS, ..Host::new() };
        let mut senders = [Some(first), second].map(|s| (s.as_ref().map_or(0, |s| s.blocking_resumed_at().unwrap()), s));
        for _ in 0..100_000 {
            for (at, sender) in &mut senders {
                if let Some(to) = sender
                    && *at < host.rows
                    && to.try_send(batch(*at..host.end(*at)))?.is_some()
                {
                    *at = host.end(*at);
                }
                sender.take_if(|_| *at == host.rows);
            }
            match stepper.step()? {
                _ if dead() => return Ok(()),
                Some(true) => {}
                Some(false) => clock.advance(Duration::from_secs(1)),
                None => return Ok(()),
            }
        }
        panic!("it does not end: {:?}", stepper.status());
    };
    let unkilled = World::new();
    life(&unkilled, &ALL, &|| false).unwrap();
    let want = sums(&unkilled.rows(), "totals");
    let mut net: BTreeMap<i64, i64> = BTreeMap::new();
    for line in unkilled.rows()["totals"].lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        *net.entry(row["k"].as_i64().unwrap()).or_default() += row["n"].as_i64().unwrap() * row["diff"].as_i64().unwrap();
    }
    assert_eq!(net.values().sum::<i64>() as u64, 4 * ROWS);
    for every in [ALWAYS, AT_THE_END] {
        for at in (20..200).step_by(tier::of(23, 11, 1)) {
            let world = World::with(every);
            for (n, fault) in [(at, Fault::CrashAfter), (at / 2, Fault::CrashBefore)] {
                let faulty = Faulty::new(Arc::new(Memory::new()), n, fault);
                let _ = life(&world.through(&faulty), &ALL, &|| faulty.is_dead()); // dead or through
            }
            // one of the channels may have gone meanwhile
            let sources = if at % 2 == 0 { &ALL[..] } else { &ALL[..2] };
            life(&world, sources, &|| false).unwrap();
            named(&world);
            assert_eq!(sums(&world.rows(), "totals"), want, "killed at {at}");
        }
    }
}
