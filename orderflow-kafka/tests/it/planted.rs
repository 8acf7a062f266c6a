//! Bugs planted into the sink with transactions, one at a time: each is found by a scene on a real Kafka that ends otherwise then.
//! Run with `ORDERFLOW_KAFKA=host:port`; without it every test here says that it is skipped.
//!
//! Invariant: sound code passes every scene. The decisions are made by the thread that opens or polls, which is the test's, so a bug is planted there.

use crate::support::{PATIENCE, read_all};
use crate::transactions::{Act, Place, at, through};
use orderflow_core::bug::{self, Bug};
use orderflow_kafka::{Kafka, Until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

type Scene = (Bug, fn(&Place));

/// Which scene finds which bug.
const SCENES: [Scene; 4] = [
    (Bug::ReadBeforeFence, what_is_hidden_before_the_fence_is_known_after_it),
    (Bug::ProgressOutsideTransaction, rows_that_are_out_have_their_progress),
    (Bug::BlindRetry, a_commit_whose_answer_was_lost_is_not_done_again),
    (Bug::LedgerIdIgnored, the_writer_of_another_state_is_left_alone),
];

#[test]
fn real_every_planted_bug_is_found_by_its_scene() {
    let mut unseen = vec![];
    for (bug, scene) in SCENES {
        let Some(place) = Place::new("planted", &[]) else { return };
        if catch_unwind(AssertUnwindSafe(|| bug::with(bug, || scene(&place)))).is_ok() {
            unseen.push(bug);
        }
        place.forget();
    }
    assert_eq!(unseen, []);
}

#[test]
fn real_sound_code_passes_the_scenes_of_planted_bugs() {
    for (_, scene) in SCENES {
        let Some(place) = Place::new("sound", &[]) else { return };
        scene(&place);
        place.forget();
    }
}

/// A writer that has committed its first epoch.
fn begun(place: &Place) -> Act {
    let mut act = place.open(7, 1);
    act.write(1);
    act.until(1).unwrap();
    act
}

/// The next writer goes on as the engine does, which gives it what comes after its progress.
fn go_on(place: &Place) {
    let mut next = place.open(7, 2);
    for epoch in next.held.map_or(0, |p| p.epoch.0) + 1..=3 {
        next.write(epoch);
    }
    next.until(3).unwrap();
    assert_eq!(place.seen(), through(1..=3));
}

/// The older writer commits behind the open transaction of a sister that is dead: until that is fenced, nobody can read it.
fn what_is_hidden_before_the_fence_is_known_after_it(place: &Place) {
    let mut old = begun(place);
    let _sister = place.dead_sister();
    old.write(2);
    old.until(2).unwrap();
    drop(old);
    go_on(place);
}

/// A writer dies when its rows are committed and it has not heard so yet: the commit is made by another thread, and heard by a poll.
fn rows_that_are_out_have_their_progress(place: &Place) {
    let mut act = begun(place);
    act.write(2);
    act.writer.flush().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let _ = act.writer.poll(Duration::ZERO).unwrap();
        // time enough for a commit that this poll asked for
        if (0..5).any(|_| place.seen() == through(1..=2)) {
            break;
        }
        assert!(Instant::now() < deadline, "the epoch did not get out");
    }
    drop(act);
    go_on(place);
}

/// The transaction is committed, and the writer is told that it may not commit it.
fn a_commit_whose_answer_was_lost_is_not_done_again(place: &Place) {
    let mut act = begun(place);
    let before = records_of_progress(place);
    act.write(2);
    act.writer.flush().unwrap();
    let _ = act.writer.poll(Duration::ZERO).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while place.dirty() < 20 || records_of_progress(place) == before {
        assert!(Instant::now() < deadline, "the transaction did not leave");
    }
    let id = format!("{}test/view/t/0", place.prefix);
    commit_by_hand(&place.brokers, &id);
    // waits until that is done, and takes the transactional id away
    drop(place.producer(&id));
    act.clock.advance(Duration::from_secs(1000));
    act.until(2).unwrap();
    act.write(3);
    act.until(3).unwrap();
    assert_eq!(place.seen(), through(1..=3));
}

/// A pipeline with another state opens the sink, and is refused by the engine for what it finds.
fn the_writer_of_another_state_is_left_alone(place: &Place) {
    let mut act = begun(place);
    place.settle(&place.progress());
    assert_eq!(at(place.open(8, 9).held), Some((7, 1, 1)));
    act.write(2);
    act.until(2).unwrap();
    assert_eq!(place.seen(), through(1..=2));
}

/// How many records of progress are at the broker, committed or not.
fn records_of_progress(place: &Place) -> usize {
    let source = Kafka::topic(place.progress()).brokers(&place.brokers).until(Until::Latest).compacted();
    read_all(source.property("isolation.level", "read_uncommitted")).len()
}

/// Ends the open transaction of this id in its producer's name, as if the answer to its own request were on the way.
fn commit_by_hand(brokers: &str, id: &str) {
    let text = u8::try_from(id.len() + 1).ok().filter(|n| *n < 128).expect("a short id");
    // DescribeTransactions, of one id
    let answer = ask(brokers, 65, &[&[0, 2, text][..], id.as_bytes(), &[0]].concat());
    assert_eq!(answer[6..8], [0, 0], "error");
    // behind time, number and error: the id, the state, two times, then the producer's number and epoch
    let state = 8 + usize::from(answer[8]);
    let producer = state + usize::from(answer[state]) + 12;
    assert_eq!(&answer[state + 1..producer - 12], b"Ongoing");
    // EndTxn, with a commit
    let length = (id.len() as u16).to_be_bytes();
    let answer = ask(brokers, 26, &[&length[..], id.as_bytes(), &answer[producer..producer + 10], &[1]].concat());
    assert_eq!(answer[4..6], [0, 0], "error");
}

/// The answer to version 0 of a request, behind its length and number.
fn ask(brokers: &str, key: i16, body: &[u8]) -> Vec<u8> {
    let request = [&key.to_be_bytes()[..], &[0, 0], &[0; 4], &[0xff, 0xff], body].concat();
    let mut broker = TcpStream::connect(brokers).unwrap();
    broker.set_read_timeout(Some(PATIENCE)).unwrap();
    broker.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    let mut length = [0; 4];
    broker.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).unwrap();
    answer.split_off(4)
}
