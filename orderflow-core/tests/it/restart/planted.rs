//! Bugs planted into the real code, one at a time: each is found by schedules of the kit.

use super::anywhere::build;
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::testing::{Failure, Schedules, find_failure};

/// The first failure that schedules bring about, of any pipeline.
fn found(bug: Bug) -> Option<Box<Failure>> {
    let quiet = Schedules::random(40).whole_log();
    let batches = (0..8u64).flat_map(|n| PIPELINES.iter().rev().map(move |views| (n, views)));
    batches.into_iter().find_map(|(n, views)| {
        let schedules = quiet.clone().from_seed(1 + 40 * n);
        bug::with(bug, || find_failure(schedules, |world| build(views, &log().until(40), world))).err()
    })
}

#[test]
fn every_planted_bug_is_found() {
    // it takes a kill between two calls to the disk, a start, and a power cut at once: `store::tests::power` asks for just that;
    // no sink sees what is idle: `watermarks` looks at what is bound; a writer that was overtaken and wakes up is `sink::files`'s own test
    let elsewhere = [Bug::OpenTrustsCache, Bug::IdleWithBacklog, Bug::CommitsInAHole];
    let unseen: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| !elsewhere.contains(bug))
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
