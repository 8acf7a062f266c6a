//! The kit on our own pipelines: at every operation, at random ones, at several workers, and with a log that misbehaves.

use super::*;
use orderflow_core::testing::{Report, Schedules, World as Simulated, crash_anywhere, takeover_anywhere};

/// The views on data sets and simulated sinks in turn.
pub(super) fn build(views: &[View], topic: &Topic, world: &Simulated) -> Result<Pipeline> {
    over(views, world.source(topic), world)
}

/// The same over any source.
pub(super) fn over(views: &[View], source: impl Source, world: &Simulated) -> Result<Pipeline> {
    let mut flow = Pipeline::new("restart");
    flow.source("numbers", source)?;
    for (n, (name, sql, roll)) in views.iter().enumerate() {
        let view = flow.view(name, sql)?;
        match n % 2 {
            0 => view.sink(world.data_set(name)?.roll_rows(*roll))?,
            _ => view.sink(world.sink(name).roll_rows(*roll))?,
        };
    }
    Ok(world.keep(flow)?.idle_after(Duration::from_secs(2)))
}

/// The time of the occasion, divided among the pipelines.
fn share() -> Duration {
    tier::hours() / PIPELINES.len() as u32
}

fn all(schedules: &Schedules, topic: &Topic) -> Vec<Report> {
    let one = |views: &&[View]| {
        let report = crash_anywhere(schedules.clone(), |world| build(views, topic, world));
        println!("{}: {report}", views[0].0);
        report
    };
    PIPELINES.iter().map(one).collect()
}

#[test]
fn killed_at_any_operation_and_started_again_every_sink_holds_what_an_unkilled_run_holds() {
    all(&Schedules::points(tier::of(25, 100, u64::MAX)).and_at_the_disk(tier::of(8, 30, u64::MAX)), &log());
}

#[test]
fn killed_again_while_it_reads_again_nothing_is_lost_or_doubled() {
    let schedules = Schedules::random(tier::of(25, 200, 1_000)).also_on_workers(in_threads());
    let reports = all(&schedules.for_as_long_as(share()), &log().until(40));
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    assert!(sum(|r| r.deaths) > sum(|r| r.schedules) && sum(|r| r.power_cuts) > 10, "{reports:?}");
    assert!(sum(|r| r.lost) > sum(|r| r.schedules) / 50, "{reports:?}");
}

#[test]
fn replaced_by_another_process_at_any_moment_nothing_is_lost_or_doubled() {
    for views in PIPELINES {
        let topic = log().until(40);
        let schedules = Schedules::random(tier::of(15, 60, 500)).for_as_long_as(share());
        let report = takeover_anywhere(schedules, move |world| build(views, &topic, world));
        println!("{}, two processes: {report}", views[0].0);
    }
}

#[test]
fn at_any_number_of_workers_it_is_the_same() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    all(&schedules.for_as_long_as(share()), &log().until(40));
}

#[test]
fn duplicates_and_partitions_that_appear_are_part_of_the_log_and_a_lost_beginning_is_reported() {
    let topic = log().duplicates(5).appearing(2, 40);
    let reports =
        all(&Schedules::random(tier::of(20, 50, 250)).from_seed(200_000).also_on_workers(in_threads()).for_as_long_as(share()), &topic);
    assert!(reports.iter().map(|r| r.refused).sum::<u64>() > 0, "no log was truncated in time: {reports:?}");
}
