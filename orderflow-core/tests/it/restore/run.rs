//! How a case of the corpus is tried: never stopped at any number of workers, then in lives that are stored, stopped and restored.
//!
//! ```text
//!   batch computation of every round ═══ views and sinks, never stopped ═══ views and sinks of every life
//! ```
//! Invariant: everything is compared after every round: each view as a query answers it, each sink as the rows of the epoch with their multiplicities.

use super::input::{Input, Log, ROUNDS, Round, SOURCES, STORED, schema, tables};
use crate::place::{rolled, rows_of, visible_in};
use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::epoch::Limits;
use orderflow_core::format::encode::JsonRows;
use orderflow_core::pipeline::Stream;
use orderflow_core::plan::batch_answer;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::{Source, memory};
use orderflow_core::store::{Memory, Store};
use orderflow_core::testing::tier;
use orderflow_core::time::Epoch;
use orderflow_core::{Pipeline, Result, Running};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// For what never happens by itself: epochs and checkpoints come when they are asked for.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// The data set of the dead letters.
pub(super) const LETTERS: &str = "letters";

/// One view, or what one sink is given, and what it must be.
#[derive(Clone, Copy)]
pub(super) struct View {
    name: &'static str,
    sql: &'static str,
    /// The query of the batch computation.
    answer: &'static str,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// A view by its query.
    Named,
    /// A view by calls, over closures; its query says the same.
    Built(fn(&mut Pipeline) -> Result<Stream>),
    /// No view, only a sink.
    Routed,
}

/// The view of a query, with a sink.
pub(super) fn view(name: &'static str, sql: &'static str) -> View {
    View { name, sql, answer: sql, how: How::Named }
}

/// A view that `build` adds, and which must hold what the query answers.
pub(super) fn built(name: &'static str, sql: &'static str, build: fn(&mut Pipeline) -> Result<Stream>) -> View {
    View { how: How::Built(build), ..view(name, sql) }
}

/// A sink of a query that has no name.
pub(super) fn routed(name: &'static str, sql: &'static str) -> View {
    View { how: How::Routed, ..view(name, sql) }
}

impl View {
    /// What it must hold is the answer to another query: that of its rows which have values.
    pub(super) fn answers(self, answer: &'static str) -> Self {
        View { answer, ..self }
    }
}

/// A pipeline and its input.
pub(super) struct Case {
    pub(super) views: Vec<View>,
    pub(super) rounds: Vec<Round>,
    /// Whether the sources are logs of JSON records, so that there are hidden columns.
    pub(super) records: bool,
    /// How many of the views, the last ones, are there from the second life on.
    pub(super) later: usize,
    /// Whether what channels gave is kept for views that come later.
    pub(super) keep: bool,
}

impl Case {
    pub(super) fn new(views: impl IntoIterator<Item = View>, rounds: Vec<Round>) -> Self {
        Self { views: views.into_iter().collect(), rounds, records: false, later: 0, keep: false }
    }

    fn kind(&self, n: usize) -> Kind {
        match n % 2 {
            _ if self.records => Kind::Records,
            0 => Kind::Channel,
            _ => Kind::Log,
        }
    }
}

/// What the sources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Logs of rows, which are read again by position.
    Log,
    /// Logs of JSON records.
    Records,
    /// Channels, which give every row once.
    Channel,
}

/// The rows of each view after a round, sorted, each a JSON object.
type Answers = BTreeMap<&'static str, Vec<String>>;

/// What a run that never stopped leaves.
pub(super) struct Outcome {
    /// By round.
    pub(super) answers: Vec<Answers>,
    /// The rows of each sink, in the order of their epochs.
    pub(super) rows: BTreeMap<String, String>,
    /// What is stored at the end, each state with the views that can be read from it; that of any run that was stopped, too.
    pub(super) stored: Vec<Vec<String>>,
}

impl Outcome {
    /// How many dead letters of a view there are after a round, those off that were withdrawn.
    pub(super) fn letters(&self, view: &str, round: usize) -> i64 {
        let of = format!("{{\"source\":\"{view}\",");
        let lines = self.rows.get(LETTERS).into_iter().flat_map(|text| text.lines()).map(change);
        lines.filter(|(row, _, epoch)| row.starts_with(&of) && *epoch <= round).map(|(_, diff, _)| diff).sum()
    }
}

/// The rows of a batch, each a JSON object.
pub(super) fn printed(batch: &RecordBatch) -> Vec<String> {
    let mut rows = JsonRows::of(batch).unwrap();
    let row = |i| {
        let mut text = vec![];
        rows.append(i, None, &mut text);
        String::from_utf8(text).unwrap()
    };
    (0..batch.num_rows()).map(row).collect()
}

fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows: Vec<String> = batches.iter().flat_map(printed).collect();
    rows.sort();
    rows
}

/// A line of a sink: the row, its multiplicity and its epoch.
fn change(line: &str) -> (String, i64, usize) {
    let (row, change) = line.rsplit_once(",\"diff\":").unwrap();
    let (diff, epoch) = change.trim_end_matches('}').split_once(",\"epoch\":").unwrap();
    (format!("{row}}}"), diff.parse().unwrap(), epoch.parse().unwrap())
}

/// What the lines of a sink add up to after a round.
fn summed(lines: &str, round: usize) -> Vec<String> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for (row, diff, _) in lines.lines().map(change).filter(|(_, _, epoch)| *epoch <= round) {
        *sums.entry(row).or_default() += diff;
    }
    assert!(sums.values().all(|n| *n >= 0), "a sink was told to delete what it never had: {sums:?}");
    sums.into_iter().flat_map(|(row, n)| std::iter::repeat_n(row, n as usize)).collect()
}

/// What outlives a process.
struct World {
    kind: Kind,
    keep: bool,
    logs: [Log; 2],
    state: Arc<dyn Store>,
    sinks: BTreeMap<&'static str, Arc<dyn Store>>,
}

impl World {
    fn new(case: &Case, kind: Kind) -> Self {
        let store = || Arc::new(Memory::new()) as Arc<dyn Store>;
        let sinks = case.views.iter().map(|v| v.name).chain([LETTERS]).map(|name| (name, store())).collect();
        Self { kind, keep: case.keep, logs: [Log::new(case.records), Log::new(case.records)], state: store(), sinks }
    }

    /// Both ends of both sources.
    fn open(&self) -> (Vec<Input>, Vec<Box<dyn Source>>) {
        let ends = |log: &Log| match self.kind {
            Kind::Channel => {
                let (sender, source) = memory::channel(schema(), 1 << 16);
                (Input::Channel(sender), Box::new(source) as Box<dyn Source>)
            }
            Kind::Log | Kind::Records => (Input::Log(log.clone()), Box::new(log.clone()) as Box<dyn Source>),
        };
        self.logs.iter().map(ends).unzip()
    }

    /// A pipeline of these views, with the columns of each.
    fn build(&self, views: &[View], sources: Vec<Box<dyn Source>>) -> (Pipeline, Vec<SchemaRef>) {
        let set = |name: &'static str| rolled(name, DataSet::on(self.sinks[name].clone(), name, JsonLines));
        let mut flow = Pipeline::new("restore");
        for (name, source) in SOURCES.into_iter().zip(sources) {
            flow.source(name, source).unwrap();
        }
        let mut schemas = vec![];
        for view in views {
            let stream = match view.how {
                How::Named => flow.view(view.name, view.sql),
                How::Built(build) => build(&mut flow),
                How::Routed => flow.sql(view.sql),
            };
            let stream = stream.unwrap();
            schemas.push(stream.schema().unwrap());
            match view.how {
                How::Routed => stream.route(set(view.name)).unwrap(),
                How::Named | How::Built(_) => stream.sink(set(view.name)).unwrap(),
            };
        }
        let limits = Limits { interval: NEVER, rows: u64::MAX, bytes: u64::MAX };
        let flow = flow.dead_letters(set(LETTERS)).epochs(limits).state_on(self.state.clone(), "state").checkpoint_every(NEVER);
        (if self.keep { flow.keep_spooled() } else { flow }, schemas)
    }

    /// What the newest checkpoint has, each state with the views that can be read from it.
    fn stored(&self) -> Vec<Vec<String>> {
        let found = orderflow_core::admin::describe(&self.state, "state").unwrap();
        let mut stored: Vec<_> = found.checkpoints.last().unwrap().states.iter().map(|s| s.views.clone()).collect();
        stored.sort();
        stored
    }

    /// The rows of each sink, in the order of their epochs.
    fn rows(&self) -> BTreeMap<String, String> {
        rows_of(&self.sinks.iter().flat_map(|(name, store)| visible_in(name, &**store)).collect())
    }
}

/// The batch computation of each round.
async fn answers(case: &Case) -> Vec<Answers> {
    let world = World::new(case, case.kind(0));
    let (_inputs, sources) = world.open();
    let (_, schemas) = world.build(&case.views, sources);
    let mut all = vec![];
    for round in 1..=ROUNDS {
        let (mut known, mut answers) = (tables(&case.rounds[..round], case.records), Answers::new());
        for (view, schema) in case.views.iter().zip(&schemas) {
            let answer = batch_answer(known.clone(), view.answer).await.unwrap();
            answers.insert(view.name, sorted(&answer));
            known.push((view.name.to_owned(), answer.first().map_or_else(|| schema.clone(), |b| b.schema()), answer));
        }
        all.push(answers);
    }
    all
}

/// One process: from start to stop.
#[derive(Clone, Copy, Debug)]
struct Life {
    workers: usize,
    /// Rounds that there are when it stops; the last one is drained.
    until: usize,
    /// The round after which it is stored.
    store: Option<usize>,
    /// How many of the case's views it has.
    views: usize,
}

/// The lives of a pipeline at these numbers of workers, in each of which the first checkpoint is as much as `lag` rounds old when it stops.
fn lives(numbers: &[usize], lag: usize, case: &Case) -> Vec<Life> {
    let all = case.views.len();
    let first = Life { workers: numbers[0], until: STORED + lag, store: Some(STORED), views: all - case.later };
    let last = Life { workers: numbers[numbers.len() - 1], until: ROUNDS, store: None, views: all };
    let [_, between, _] = numbers else { return vec![first, last] };
    // restored twice from the same checkpoint, or from one that was taken by who was restored
    let (lag, second) = (lag.min(1), STORED + 2);
    let between = Life { workers: *between, until: second + lag, store: (lag > 0).then_some(second), views: all };
    vec![Life { until: STORED + lag, ..first }, between, last]
}

const FEW: &[&[usize]] = &[&[1, 1], &[2, 2], &[4, 4], &[1, 4, 2], &[4, 2, 1]];
const MANY: &[&[usize]] =
    &[&[1, 1], &[2, 2], &[4, 4], &[1, 2], &[1, 4], &[2, 1], &[2, 4], &[4, 1], &[4, 2], &[1, 4, 2], &[4, 2, 1], &[2, 1, 4]];

/// Tries a case, and gives what the run that never stopped leaves.
pub(super) async fn check(case: &Case) -> Outcome {
    let answers = answers(case).await;
    let (rows, stored) = unstopped(case, &answers).await;
    let outcome = Outcome { answers, rows, stored };
    let born = case.views.len() - case.later;
    for (n, numbers) in tier::of(FEW, MANY, MANY).iter().enumerate() {
        for lag in tier::of(vec![n % 3], vec![n % 3], vec![0, 1, 2]) {
            let world = World::new(case, case.kind(n));
            let what = format!("{numbers:?} workers, stopped {lag} rounds after the checkpoint, {:?}", world.kind);
            let lives = lives(numbers, lag, case);
            let (mut done, mut stored) = (0, None);
            for life in &lives {
                live(&world, case, life, done, stored, &outcome, &what).await;
                (done, stored) = (life.until, life.store.or(stored));
            }
            assert_eq!(world.stored(), outcome.stored, "{what}");
            let found = world.rows();
            for name in case.views[..born].iter().map(|v| v.name).chain([LETTERS]) {
                assert_eq!(found.get(name), outcome.rows.get(name), "sink of {name}: {what}");
            }
            for view in &case.views[born..] {
                for round in lives[0].until..=ROUNDS {
                    let sums = summed(&found[view.name], round);
                    assert_eq!(sums, outcome.answers[round - 1][view.name], "new sink of {} after epoch {round}: {what}", view.name);
                }
            }
        }
    }
    outcome
}

/// The rows of the sinks of a run that never stopped, and what it stored: the rows are the same at any number of workers and add up to the batch answers.
async fn unstopped(case: &Case, answers: &[Answers]) -> (BTreeMap<String, String>, Vec<Vec<String>>) {
    let mut first = None;
    for workers in [1, 2, 4] {
        let world = World::new(case, case.kind(workers));
        let what = format!("{workers} workers, never stopped, {:?}", world.kind);
        let (inputs, sources) = world.open();
        let running = world.build(&case.views, sources).0.workers(workers).start().await.unwrap();
        for round in 1..=ROUNDS {
            feed(&inputs, &case.rounds[round - 1], &running).await;
            compare(&running, &case.views, round, answers, &what).await;
        }
        running.drain().await.unwrap();
        let left = (world.rows(), world.stored());
        let expected = first.get_or_insert_with(|| left.clone());
        assert_eq!(left, *expected, "{what}");
    }
    let (rows, stored) = first.unwrap_or_default();
    for view in &case.views {
        let lines = rows.get(view.name).map_or("", String::as_str);
        for round in 1..=ROUNDS {
            assert_eq!(summed(lines, round), answers[round - 1][view.name], "sink of {} after epoch {round}", view.name);
        }
    }
    (rows, stored)
}

/// One epoch.
async fn feed(inputs: &[Input], round: &Round, running: &Running) {
    for (input, changes) in inputs.iter().zip(round) {
        input.send(changes).await;
    }
    running.settled().await.unwrap();
}

/// One life after `done` rounds, the first `stored` of which are in the newest checkpoint.
async fn live(world: &World, case: &Case, life: &Life, done: usize, stored: Option<usize>, want: &Outcome, what: &str) {
    let views = &case.views[..life.views];
    let (inputs, sources) = world.open();
    let running = world.build(views, sources).0.workers(life.workers).start().await.unwrap();
    for (source, input) in inputs.iter().enumerate() {
        if let Input::Channel(sender) = input {
            let safe: usize = case.rounds[..done].iter().map(|round| round[source].len()).sum();
            assert_eq!(sender.resumed_at().await.unwrap(), safe as u64, "what is safe of {}: {what}", SOURCES[source]);
        }
    }
    // counts go on, whatever was read again
    let counted = |round| {
        let rejected = running.status().rejected;
        for name in views.iter().map(|v| v.name) {
            assert_eq!(
                rejected.get(name).copied().unwrap_or(0),
                want.letters(name, round),
                "counted of {name} up to epoch {round}: {what}"
            );
        }
    };
    if done > 0 {
        running.settled().await.unwrap();
        assert_eq!(running.status().restored, stored.map(|round| Epoch(round as u64)), "{what}");
        compare(&running, views, done, &want.answers, what).await;
        counted(done);
    }
    for round in done + 1..=life.until {
        feed(&inputs, &case.rounds[round - 1], &running).await;
        compare(&running, views, round, &want.answers, what).await;
        counted(round);
        if life.store == Some(round) {
            assert_eq!(running.checkpoint().await.unwrap(), Epoch(round as u64), "{what}");
        }
    }
    if life.until == ROUNDS {
        running.drain().await.unwrap();
        return;
    }
    // a row of an epoch that is not closed is gone with the process, and the host sends it again
    if let Input::Channel(_) = inputs[0] {
        inputs[0].send(&case.rounds[life.until][0]).await;
    }
    running.stop().await.unwrap();
}

/// Every view, as of the epoch of the round.
async fn compare(running: &Running, views: &[View], round: usize, answers: &[Answers], what: &str) {
    for view in views.iter().filter(|v| !matches!(v.how, How::Routed)) {
        let (epoch, rows) = running.query_at(&format!("SELECT * FROM {}", view.name)).await.unwrap();
        assert_eq!(epoch, Epoch(round as u64), "{what}");
        assert_eq!(sorted(&rows), answers[round - 1][view.name], "view {} after epoch {round}: {what}", view.name);
    }
}
