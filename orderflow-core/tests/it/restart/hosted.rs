//! A host behind a memory channel, under the schedules of every other source: kills, passing faults, power cuts, batches cut anew in every life.
//!
//! The host forgets what is acknowledged at once, and that such a row is not there after a start is a failure of its own.

use super::aggregates::{VIEWS, come_and_go};
use super::anywhere::over;
use super::*;
use orderflow_core::data::Changes;
use orderflow_core::testing::{Report, Schedules, World as Simulated, crash_anywhere, undisturbed};

/// Each over one channel.
const HOSTED: &[&[View]] = &[&[TOTALS, ROUTED], &[ROUTED, TOTALS, SIZES, EXTREMES, SPLIT], VIEWS];

/// Rows that the host's log has.
const SENT: u64 = 120;

fn sent() -> Changes {
    come_and_go(0, SENT).0
}

/// Two channels beside a log, in one aggregate and by themselves.
fn mixed(topic: &Topic, world: &Simulated) -> Result<Pipeline> {
    let mut flow = Pipeline::new("mixed");
    flow.source("first", world.channel(&come_and_go(1, SENT / 2).0))?;
    flow.source("numbers", world.source(topic))?;
    flow.source("second", world.channel(&come_and_go(2, SENT / 2).0))?;
    let all = "SELECT * FROM first UNION ALL SELECT * FROM numbers UNION ALL SELECT * FROM second";
    let totals = format!("SELECT k, count(*) AS n, sum(v) AS v, max(v) AS high FROM ({all}) GROUP BY k");
    flow.view("totals", &totals)?.sink(world.data_set("totals")?.roll_rows(20))?;
    flow.view("routed", "SELECT k, v FROM second WHERE v % 3 <> 0")?.sink(world.sink("routed"))?;
    world.keep(flow)
}

/// The time of the occasion, divided among the pipelines.
fn share() -> Duration {
    tier::hours() / HOSTED.len() as u32
}

fn all(schedules: &Schedules) -> Vec<Report> {
    let rows = sent();
    let one = |views: &&[View]| {
        let report = crash_anywhere(schedules.clone(), |world| over(views, world.channel(&rows), world));
        println!("{}: {report}", views[0].0);
        report
    };
    HOSTED.iter().map(one).collect()
}

#[test]
fn the_unkilled_run_has_every_row_of_the_host() {
    let rows = sent();
    let found = undisturbed(|world| over(&[TOTALS, ROUTED], world.channel(&rows), world)).unwrap();
    let sum = |sink: &str, of: fn(&serde_json::Value) -> i64| {
        let lines = found[sink].iter().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.map(|l| of(&l) * l["diff"].as_i64().unwrap()).sum::<i64>()
    };
    let there = come_and_go(0, SENT).1;
    assert_eq!(sum("totals", |l| l["n"].as_i64().unwrap()), there.len() as i64);
    assert_eq!(sum("totals", |l| l["v"].as_i64().unwrap()), there.iter().map(|r| r.1).sum::<i64>());
    assert_eq!(sum("routed", |_| 1), there.iter().filter(|r| r.1 % 3 != 0).count() as i64);
}

#[test]
fn killed_at_any_operation_no_row_of_the_host_is_lost_or_doubled() {
    // the disk below is the same as in `anywhere`, where every call to it is tried: here every third, or the night does not hold them
    all(&Schedules::points(tier::of(16, 50, u64::MAX)).and_at_the_disk(tier::of(8, 20, 500)));
}

#[test]
fn killed_again_and_again_no_row_of_the_host_is_lost_or_doubled() {
    let reports = all(&Schedules::random(tier::of(16, 60, 600)).also_on_workers(in_threads()).for_as_long_as(share()));
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    assert!(sum(|r| r.deaths) > sum(|r| r.schedules) && sum(|r| r.power_cuts) > 6, "{reports:?}");
}

#[test]
fn at_any_number_of_workers_no_row_of_the_host_is_lost_or_doubled() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    all(&schedules.for_as_long_as(share()));
}

#[test]
fn two_hosts_beside_a_log_each_go_on_where_they_are() {
    let topic = log().until(40);
    let schedules = Schedules::random(tier::of(16, 60, 600)).whole_log().also_on_workers(in_threads()).for_as_long_as(tier::hours());
    let report = crash_anywhere(schedules, |world| mixed(&topic, world));
    println!("mixed: {report}");
    assert!(report.deaths > report.schedules, "{report}");
}

#[test]
fn rows_that_are_kept_for_ever_are_the_same() {
    let rows = sent();
    let report =
        crash_anywhere(Schedules::random(tier::of(12, 40, 300)).also_on_workers(in_threads()).for_as_long_as(tier::hours()), |world| {
            over(&[TOTALS, ROUTED], world.channel(&rows), world).map(Pipeline::keep_spooled)
        });
    println!("kept: {report}");
}
