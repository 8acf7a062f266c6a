//! The example `full_pipeline` as a user runs it: a program, its output, its files and its exit code.
//!
//! Invariant: what it must find is computed from the recipe alone, by [`expected`], never from what it says.

use crate::real::block_on;
use crate::support::{PATIENCE, Seen, deltas, letters, read, signal, sorted, sum};
use crate::tier;
use orderflow::domain::{Order, order};
use orderflow::generator::{Expected, Orders, Share, Total, expected};
use sqlx::{ConnectOptions, Row, sqlite};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const DIRTY: [&str; 8] = ["--malformed", "0.02", "--unseen-types", "0.03", "--duplicates", "0.05", "--late", "0.05"];

/// What the program makes of `--seed` and [`DIRTY`].
pub(crate) fn dirty(seed: u64) -> Orders {
    let share = |s| Share::new(s).unwrap();
    Orders::new(seed).malformed(share(0.02)).unseen_types(share(0.03)).duplicates(share(0.05)).late(share(0.05))
}

/// The example, to be run in `folder`.
pub(crate) fn program(folder: &Path) -> Command {
    example("full_pipeline", folder)
}

/// An example, which cargo builds beside the tests, to be run in `folder`.
pub(crate) fn example(name: &str, folder: &Path) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not there: `cargo build --examples` makes it", path.display());
    let mut command = Command::new(path);
    command.current_dir(folder);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs it to its end, which must be a good one; with a broker of its own there is nothing to warn of.
pub(crate) fn good(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let warns = command.get_args().all(|a| a != "--brokers") && text(&output.stderr).contains(" WARN ");
    assert!(output.status.success() && !warns, "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Runs it to its end, which must be a bad one; what it says about that.
pub(crate) fn bad(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(status.code(), Some(1), "{}", text(&stderr));
    let said = text(&stderr).to_owned();
    assert!(said.contains("full_pipeline: ") && !said.contains("panicked"), "{said}");
    said
}

/// Cells of the table below a title.
fn table(said: &str, title: &str) -> Vec<Vec<String>> {
    let cells = |l: &str| l.trim_matches('│').split('┆').map(|c| c.trim().to_owned()).collect();
    said.lines().skip_while(|l| !l.starts_with(title)).skip(4).take_while(|l| l.starts_with('│')).map(cells).collect()
}

fn number(cell: &str) -> u64 {
    cell.parse().unwrap_or_else(|e| panic!("{cell}: {e}"))
}

/// The number behind a word of the closing lines.
pub(crate) fn figure(said: &str, word: &str) -> u64 {
    let line = said.lines().rev().find_map(|l| l.strip_prefix(word)).unwrap_or_else(|| panic!("no line '{word}' in {said}"));
    number(line.split(|c: char| !c.is_ascii_digit()).find(|w| !w.is_empty()).unwrap())
}

/// Names of the columns in the schema below a title.
fn columns<'a>(said: &'a str, title: &str) -> Vec<&'a str> {
    let lines = said.lines().skip_while(|l| *l != title).skip(1);
    lines.map_while(|l| l.strip_prefix("  ")?.split_whitespace().next()).collect()
}

/// Checks everything that the program said and left behind.
pub(crate) fn check(said: &str, out: &Path, prefix: &str, expected: &Expected) {
    let totals = table(said, "Orders and amount by city and payment type:");
    let totals: BTreeMap<_, _> = totals
        .into_iter()
        .map(|r| ((r[0].clone(), r[1].clone()), Total { orders: number(&r[2]), amount: r[3].parse().unwrap() }))
        .collect();
    assert_eq!(totals, expected.totals, "the closing table");
    let mut outcomes = BTreeMap::new();
    for row in table(said, "Orders by payment type and success:") {
        for (success, cell) in [(true, &row[1]), (false, &row[2])] {
            outcomes.insert((row[0].clone(), success), number(cell));
        }
    }
    outcomes.retain(|_, n| *n > 0);
    assert_eq!(outcomes, expected.outcomes);
    let failures: BTreeMap<_, _> = table(said, "Failed orders by reason:").into_iter().map(|r| (r[0].clone(), number(&r[1]))).collect();
    assert_eq!(failures, expected.failures);
    let mut routed = BTreeMap::new();
    for row in table(said, "Records routed") {
        assert_eq!(row[1], row[2], "confirmed, and in the topic");
        routed.insert(row[0].strip_prefix(prefix).unwrap().to_owned(), number(&row[1]));
    }
    assert_eq!(routed, expected.topics);
    assert_eq!(figure(said, "Records read:"), expected.records);
    assert_eq!(figure(said, "Bad records:"), expected.rejected);
    assert_eq!(figure(said, "Orders counted:"), expected.records - expected.rejected);

    let folder = out.join("city_payment_totals");
    assert_eq!(sum(&deltas(&folder)), expected.totals, "the sum of all deltas");
    assert_eq!(std::fs::read_dir(folder.join("_staging")).map_or(0, Iterator::count), 0, "nothing is left half done");
    assert_eq!(letters(&out.join("dead_letters")).len() as u64, expected.rejected);
}

/// Checks that each topic holds the orders that belong there, as they stand in the topic of orders.
pub(crate) fn check_topics(brokers: &str, prefix: &str, expected: &Expected) {
    let orders = read(brokers, &format!("{prefix}orders"));
    assert_eq!(orders.len() as u64, expected.records);
    let mut routed: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for record in orders {
        if let Ok(order) = serde_json::from_slice::<Order>(record.record.value.as_deref().unwrap()) {
            for topic in [order.payment_topic(), order.success_topic().to_owned()] {
                routed.entry(topic).or_default().push(record.clone());
            }
        }
    }
    assert_eq!(routed.iter().map(|(t, r)| (t.clone(), r.len() as u64)).collect::<BTreeMap<_, _>>(), expected.topics);
    for (topic, records) in routed {
        assert_eq!(sorted(read(brokers, &format!("{prefix}{topic}"))), sorted(records), "{topic}");
    }
}

#[test]
fn it_brings_its_own_broker_and_finds_what_is_in_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let orders = tier::of(4_000, 20_000, 1_000_000);
    let said = good(program(dir.path()).args(["--orders", &orders.to_string(), "--seed", "7", "--out", "results"]).args(DIRTY));
    let out = dir.path().join("results");
    let expected = expected(&dirty(7), orders);
    check(&said, &out, "", &expected);
    assert!(expected.topics.len() > 8 && expected.rejected > 40);
    assert_eq!(columns(&said, "Schema of the raw stream:"), ["key", "value", "topic", "partition", "offset", "timestamp"]);
    let fields: Vec<String> = order::schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(columns(&said, "Schema after it is applied to the value (JSON):"), fields);
    for part in ["Decimal128(18, 2)", " records/s", "Parquet:        results/city_payment_totals", "read it: duckdb", "Next:"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    for letter in letters(&out.join("dead_letters")) {
        assert!(letter.place.is_some_and(|(topic, ..)| topic == "orders") && !letter.reason.is_empty());
    }

    let said = bad(program(dir.path()).args(["--orders", "10", "--out", "results"]));
    for part in ["results", "already holds a data set", "--out", "delete"] {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
}

#[test]
fn the_same_seed_leaves_the_same_totals_at_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let run = |workers: &str| {
        let out = dir.path().join(workers);
        let orders = tier::of(3_000, 10_000, 300_000);
        let said = good(program(dir.path()).args(["--orders", &orders.to_string(), "--workers", workers, "--out"]).arg(&out));
        check(&said, &out, "", &expected(&Orders::new(42), orders));
        sum(&deltas(&out.join("city_payment_totals")))
    };
    assert_eq!(run("1"), run("3"));
}

#[test]
fn without_a_folder_each_run_has_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    // they begin in the same second, but for once in a long while
    let begin = || Ended(program(dir.path()).args(["--orders", "100"]).stdout(Stdio::null()).spawn().unwrap());
    [begin(), begin()].iter_mut().for_each(|run| assert!(run.0.wait().unwrap().success()));
    let runs: Vec<_> = std::fs::read_dir(dir.path().join("out")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 2, "{runs:?}");
    for run in runs {
        assert_eq!(sum(&deltas(&run.join("city_payment_totals"))), expected(&Orders::new(42), 100).totals);
    }
}

#[test]
fn orders_come_at_the_rate_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let said = good(program(dir.path()).args(["--orders", "400", "--rate", "200"]));
    // the first one leaves at once, the last one 399 two-hundredths of a second later
    assert!(began.elapsed() > Duration::from_millis(1_990), "it took {:?}", began.elapsed());
    assert_eq!(figure(&said, "Orders counted:"), 400, "{said}");
}

/// Every option and its default, as `--help` has them.
const OPTIONS: [(&str, Option<&str>); 21] = [
    ("--brokers", None),
    ("--topic-prefix", Some("\"\"")),
    ("--orders", Some("100000")),
    ("--rate", Some("0")),
    ("--seed", Some("42")),
    ("--workers", Some("1")),
    ("--out", Some("out/<UTC time>, or results in the place of --state")),
    ("--state", None),
    ("--wait", None),
    ("--checkpoint-every", Some("10")),
    ("--lanes", Some("1")),
    ("--epoch", Some("1000")),
    ("--sql", None),
    ("--no-produce", None),
    ("--follow", None),
    ("--late", Some("0")),
    ("--duplicates", Some("0")),
    ("--malformed", Some("0")),
    ("--unseen-types", Some("0")),
    ("--json", None),
    ("--show", Some("12, with --json all")),
];

#[test]
fn help_names_every_option_and_its_default() {
    let said = good(program(Path::new(".")).arg("--help"));
    let (mut found, mut option) = (BTreeMap::new(), "");
    for line in said.lines() {
        if let Some(name) = line.split_whitespace().next().filter(|word| word.starts_with("--")) {
            option = name;
            found.insert(option, None);
        }
        if let (Some((_, rest)), Some(default)) = (line.split_once("[default: "), found.get_mut(option)) {
            *default = rest.split_once(']').map(|(default, _)| default);
        }
    }
    assert_eq!(found, BTreeMap::from(OPTIONS), "{said}");
}

#[test]
fn a_program_finds_nothing_but_deltas_on_the_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path()).args(["--json", "--orders", "500"]).output().unwrap();
    assert!(output.status.success() && text(&output.stderr).contains("Orders counted: 500,"), "{}", text(&output.stderr));
    let mut orders = 0;
    for line in text(&output.stdout).lines() {
        let delta: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(delta["city"].is_string() && delta["epoch"].is_u64(), "{line}");
        orders += delta["orders"].as_i64().unwrap() * delta["diff"].as_i64().unwrap();
    }
    assert_eq!(orders, 500);
}

#[test]
fn options_that_cannot_be_are_refused() {
    for (args, part) in [
        (["--malformed", "2"], "--malformed"),
        (["--orders", "many"], "--orders"),
        (["--epoch", "0"], "--epoch"),
        (["--wait", "1m"], "--state"),
        (["--colour", "red"], "--colour"),
    ] {
        let output = program(Path::new(".")).args(args).output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
    let dir = tempfile::tempdir().unwrap();
    let said = bad(program(dir.path()).args(["--workers", "0"]));
    assert!(said.contains("0 workers") && said.contains("hint"), "{said}");
    // its own broker holds nothing but what it makes, also with a state
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--no-produce"][..], &["--no-produce", "--state", "kept"]] {
        let said = bad(program(dir.path()).args(args));
        assert!(said.contains("begins empty") && said.contains("hint: name a Kafka by --brokers"), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let said = bad(program(dir.path()).args(["--brokers", "127.0.0.1:1"]));
    assert!(said.contains("127.0.0.1:1"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(35), "it took {:?} to say so", began.elapsed());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "I am no folder").unwrap();
    let said = bad(program(dir.path()).args(["--orders", "10", "--out", "file/below"]));
    assert!(said.contains("file/below"), "{said}");
}

/// A running program, ended with its test.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // most have ended by themselves
        let _ = self.0.wait();
    }
}

/// Waits for `n` lines of deltas and for what is to be there, then presses Ctrl-C; what was said in all.
pub(crate) fn interrupted(command: &mut Command, n: usize, there: impl Fn() -> bool) -> String {
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (mut said, mut deltas) = (String::new(), 0);
    while deltas < n {
        let line = lines.next().unwrap_or_else(|| panic!("it ended by itself: {said}"));
        deltas += usize::from(line.trim_start().starts_with(['+', '-']));
        said += &format!("{line}\n");
    }
    crate::command_line::until("what is to be there", &mut child.0, there);
    signal(child.0.id(), "-INT");
    let began = Instant::now();
    lines.for_each(|line| said += &format!("{line}\n"));
    let status = child.0.wait().unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(began.elapsed() < PATIENCE, "it took {:?} to end", began.elapsed());
    said
}

#[test]
fn ctrl_c_drains_and_closes_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("results");
    let args = ["--follow", "--rate", "500", "--orders", "1000000", "--seed", "3", "--show", "6"];
    let said = interrupted(program(dir.path()).args(args).args(DIRTY).arg("--out").arg(&out), 12, || true);
    let read = figure(&said, "Records read:");
    assert!(read > 0 && read < 1_000_000);
    check(&said, &out, "", &expected(&dirty(3), read));
}

#[test]
fn ctrl_c_ends_a_run_that_would_end_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("results");
    let said = interrupted(program(dir.path()).args(["--rate", "300", "--orders", "1000000", "--out"]).arg(&out), 3, || true);
    check(&said, &out, "", &expected(&Orders::new(42), figure(&said, "Records read:")));
}

#[test]
fn with_state_the_same_command_goes_on_where_it_stopped_and_counts_no_order_twice() {
    const ORDERS: u64 = 6_000;
    let dir = tempfile::tempdir().unwrap();
    let command = |rate: &str| {
        let mut command = program(dir.path());
        command.args(["--state", "kept", "--orders", &ORDERS.to_string(), "--seed", "5", "--rate", rate]).args(DIRTY);
        command
    };
    let expected = expected(&dirty(5), ORDERS);
    let good_orders = expected.records - expected.rejected;
    let first = interrupted(&mut command("500"), 3, || true);
    let before = figure(&first, "Records read:");
    assert!(before > 0 && before < ORDERS, "{first}");
    let second = good(&mut command("0"));
    assert_eq!(figure(&second, "Records read:"), ORDERS - before, "it reads what the first one left: {second}");
    // the third one has nothing left to do
    let third = good(&mut command("0"));
    assert_eq!(figure(&third, "Records read:"), 0, "{third}");
    for said in [&first, &second, &third] {
        assert!(said.contains("State in kept: the same command goes on where it stopped") && said.contains("at least once"), "{said}");
    }
    let at = |said: &str, part: &str| said.find(part).unwrap_or_else(|| panic!("'{part}' is missing: {said}"));
    for (said, read) in [(&second, ORDERS - before), (&third, 0)] {
        assert_eq!(figure(said, "Orders counted:"), good_orders, "{said}");
        // what is of this run alone is not mixed with what is of both
        let parts =
            ["All runs with this state:", "Failed orders by reason:", "This run:", "Records routed", "(all runs)", "(all runs), in kept"];
        assert!(parts[..4].iter().map(|part| at(said, part)).is_sorted(), "{said}");
        assert_eq!(figure(said, "Bad records:"), expected.rejected, "{said}");
        assert!(said.contains(parts[4]) && said.contains(parts[5]), "{said}");
        assert!(said.contains(&format!("{read} (this run) in ")), "{said}");
    }
    let out = dir.path().join("kept/results");
    assert_eq!(sum(&deltas(&out.join("city_payment_totals"))), expected.totals);
    assert_eq!(expected.totals.values().map(|t| t.orders).sum::<u64>(), good_orders);
    assert_eq!(letters(&out.join("dead_letters")).len() as u64, expected.rejected);
}

#[test]
fn who_follows_with_state_and_no_broker_follows_until_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let command = || {
        let mut command = program(dir.path());
        command.args(["--state", "kept", "--orders", "300"]);
        command
    };
    let mut child = Ended(command().arg("--follow").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut notes = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    // said every few seconds: by then a run that ends with the orders is over
    assert!(notes.any(|line| line == "300 orders processed"), "it ended by itself");
    signal(child.0.id(), "-INT");
    let notes: Vec<String> = notes.collect();
    let mut said = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.0.wait().unwrap();
    assert!(status.success(), "{status}: {notes:?}");
    assert_eq!((figure(&said, "Records read:"), figure(&said, "Orders counted:")), (300, 300), "{said}");
    // without it the same command ends
    let again = good(&mut command());
    assert_eq!((figure(&again, "Records read:"), figure(&again, "Orders counted:")), (0, 300), "{again}");
}

#[test]
fn orders_that_are_gone_are_missed_with_a_reason_also_by_who_follows() {
    let dir = tempfile::tempdir().unwrap();
    let command = |orders: &str| {
        let mut command = program(dir.path());
        command.args(["--state", "kept", "--checkpoint-every", "3600", "--epoch", "100", "--rate", "500", "--orders", orders]);
        command
    };
    let mut child = Ended(command("100000").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    // an order changes two lines at most, and what is shown was bound
    assert_eq!(lines.filter(|line| line.trim_start().starts_with(['+', '-'])).take(20).count(), 20, "it ended by itself");
    drop(child); // killed: all that was bound has to be read again
    for more in [None, Some("--follow")] {
        let mut child = Ended(command("1").args(more).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let began = Instant::now();
        while child.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "{more:?}: it waits for what will never come");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(1), "{more:?}: {said}");
        let parts = ["source orders no longer holds all that epoch", "it lacks orders[0], positions 1 to ", "put the missing input back"];
        assert!(parts.iter().all(|part| said.contains(part)), "{more:?}: {said}");
    }
}

/// What the table of totals in a SQLite file says.
fn table_of_totals(file: &Path) -> BTreeMap<(String, String), Total> {
    let rows: Vec<(String, String, i64, String)> = block_on(async {
        let mut file = sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        let rows = sqlx::query("SELECT city, payment_type, orders, amount FROM city_payment_totals").fetch_all(&mut file).await.unwrap();
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect()
    });
    let mut totals = BTreeMap::new();
    for (city, payment_type, orders, amount) in rows {
        let total = Total { orders: orders as u64, amount: amount.parse().unwrap() };
        assert_eq!(totals.insert((city, payment_type), total), None, "two rows of one key");
    }
    totals
}

#[test]
fn a_table_beside_the_files_needs_no_state_and_holds_the_same_totals() {
    let dir = tempfile::tempdir().unwrap();
    let said =
        good(program(dir.path()).args(["--orders", "3000", "--seed", "8", "--sql", "sqlite:totals.db", "--out", "results"]).args(DIRTY));
    let (out, expected) = (dir.path().join("results"), expected(&dirty(8), 3_000));
    check(&said, &out, "", &expected);
    assert_eq!(table_of_totals(&dir.path().join("totals.db")), sum(&deltas(&out.join("city_payment_totals"))));
}

/// A copy of a folder, as a backup makes it.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

#[test]
fn a_state_that_is_lost_or_rolled_back_below_its_results_is_refused_with_the_choices_and_they_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let command = |orders: u64| {
        let mut command = program(dir.path());
        command.args(["--state", "kept", "--seed", "8", "--sql", "sqlite:totals.db", "--orders", &orders.to_string()]);
        command
    };
    let results = || (sum(&deltas(&at("kept/results/city_payment_totals"))), table_of_totals(&at("totals.db")));
    good(&mut command(1_000));
    copy(&at("kept/pipeline"), &at("older"));
    good(&mut command(2_000));
    std::fs::rename(at("kept/pipeline"), at("newest")).unwrap();

    let totals = expected(&Orders::new(8), 2_000).totals;
    let refused = |parts: [&str; 2]| {
        for _ in 0..2 {
            let said = bad(&mut command(3_000));
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            assert_eq!(results(), (totals.clone(), totals.clone()));
        }
    };
    copy(&at("older"), &at("kept/pipeline"));
    refused(["is ahead of the state", "restore the newer one, or write into a new place"]);
    std::fs::remove_dir_all(at("kept/pipeline")).unwrap();
    refused(["already holds a data set", "put back the state that belongs to it"]);

    std::fs::remove_dir_all(at("kept/pipeline")).unwrap();
    std::fs::rename(at("newest"), at("kept/pipeline")).unwrap();
    good(&mut command(3_000));
    let totals = expected(&Orders::new(8), 3_000).totals;
    assert_eq!(results(), (totals.clone(), totals.clone()));

    // nor do other orders go on where these stopped
    let said = bad(program(dir.path()).args(["--state", "kept", "--seed", "9", "--sql", "sqlite:totals.db", "--orders", "4000"]));
    assert!(["source orders is not", "orders of seed 8", "orders of seed 9"].iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(results(), (totals.clone(), totals));
}
