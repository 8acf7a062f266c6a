//! The whole example on real services that are really killed: Kafka to Kafka, Parquet and a table of MariaDB; the process gets SIGKILL at random
//! moments, and so does the broker. At the end every order is in every sink once, and in order.
//!
//! Run with `ORDERFLOW_KAFKA=host:port`; with `ORDERFLOW_MYSQL=mysql://…` the table is there, else in a SQLite file; with
//! `ORDERFLOW_SERVICES=…/scripts/services` the broker is killed, too. Moments come from a seed, which is `ORDERFLOW_SEED` or drawn, and is printed.
//!
//! Invariant: what came out is judged by a batch computation over the recipe, and by reading topics (committed records only), files and table as
//! any other program would.

use crate::dice::Dice;
use crate::full_pipeline::{Ended, good, program};
use crate::real::{Cluster, alone, block_on, cluster, hash};
use crate::support::{PATIENCE, Place, deltas, refused_once, sum, topics, visit, was_killed};
use crate::tier;
use orderflow::domain::Order;
use orderflow::generator::{Orders, Share, Total, expected};
use sqlx::{ConnectOptions, Connection, Row, mysql, sqlite};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The seed of all moments.
fn seed() -> u64 {
    let given = std::env::var("ORDERFLOW_SEED").ok().map(|s| s.parse().unwrap());
    let seed = given.unwrap_or_else(|| rand::random::<u32>().into());
    // shown only if the test fails
    eprintln!("the moments of this run come again with ORDERFLOW_SEED={seed}");
    seed
}

/// Where the table of totals is.
struct Database {
    url: String,
    /// On a server, in a database of its own, which is dropped in the end.
    server: Option<(String, String)>,
}

impl Database {
    fn new(cluster: &Cluster) -> Self {
        let Ok(server) = std::env::var("ORDERFLOW_MYSQL") else {
            eprintln!("the table is a SQLite file: set ORDERFLOW_MYSQL=mysql://… for one on a server");
            return Self { url: "sqlite:totals.db".into(), server: None };
        };
        let name = cluster.prefix.trim_end_matches('-').replace('-', "_");
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let database = Self { url, server: Some((server, name)) };
        database.execute("CREATE DATABASE");
        database
    }

    fn execute(&self, what: &str) {
        let Some((server, name)) = &self.server else { return };
        block_on(async {
            let mut connection = mysql::MySqlConnection::connect(server).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(format!("{what} {name}"))).execute(&mut connection).await.unwrap();
        });
    }

    /// What the table says.
    fn totals(&self, dir: &Path) -> BTreeMap<(String, String), Total> {
        const SQL: &str = "SELECT city, payment_type, CAST(orders AS CHAR(30)), CAST(amount AS CHAR(60)) FROM city_payment_totals";
        let rows: Vec<[String; 4]> = block_on(async {
            match &self.server {
                Some(_) => {
                    let mut connection = mysql::MySqlConnection::connect(&self.url).await.unwrap();
                    let rows = sqlx::query(SQL).fetch_all(&mut connection).await.unwrap();
                    rows.iter().map(|r| [0, 1, 2, 3].map(|i| r.get(i))).collect()
                }
                None => {
                    let mut file = sqlite::SqliteConnectOptions::new().filename(dir.join("totals.db")).connect().await.unwrap();
                    let rows = sqlx::query(SQL).fetch_all(&mut file).await.unwrap();
                    rows.iter().map(|r| [0, 1, 2, 3].map(|i| r.get(i))).collect()
                }
            }
        });
        let mut totals = BTreeMap::new();
        for [city, payment_type, orders, amount] in rows {
            let total = Total { orders: orders.parse().unwrap(), amount: amount.parse().unwrap() };
            assert_eq!(totals.insert((city, payment_type), total), None, "two rows of one key");
        }
        totals
    }
}

/// The newest commit record of the data set of totals: older ones are deleted.
fn newest_commit(dir: &Path) -> Option<PathBuf> {
    let records = fs::read_dir(dir.join("out/city_payment_totals/_commits")).into_iter().flatten().flatten().map(|e| e.path());
    records.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("\"staged\""))).max()
}

/// What the process said last.
fn said(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("said")).unwrap_or_default();
    text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Waits until the process has committed something that was not there; false if it has ended.
fn commits_again(dir: &Path, process: &mut Child) -> bool {
    let (before, began) = (newest_commit(dir), Instant::now());
    while newest_commit(dir).is_none_or(|now| before.as_ref() == Some(&now)) {
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success(), "it failed instead of going on: {}", said(dir));
            return false;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "it does not get on: {}", said(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn service(services: &str, verb: &str) {
    let done = Command::new(services).args([verb, "kafka"]).output().unwrap();
    assert!(done.status.success(), "{verb}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Where each order stands in the topic of orders: partition and offset, by its number.
fn places(cluster: &Cluster, orders: u64) -> Vec<(i32, u64)> {
    let mut places = vec![(-1, 0); usize::try_from(orders).unwrap()];
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    visit(&cluster.brokers, &cluster.topic("orders"), |partition, batch| {
        for i in 0..batch.len() {
            let raw = batch.record(i);
            let number = number(raw.key.unwrap());
            assert_eq!(places[number as usize].0, -1, "order {number} is in the topic twice");
            places[number as usize] = (partition.id, raw.position);
            // all of them come from the one partition of the generator
            assert!(last.insert(partition.id, number).is_none_or(|before| before < number), "{partition}: {number} is out of order");
        }
    });
    places
}

fn number(key: &[u8]) -> u64 {
    std::str::from_utf8(key).unwrap().parse().unwrap()
}

/// Checks every topic: each order that belongs there is there once, unchanged, and behind all those of its source partition that were read before it.
/// Gives where the records stand that are no orders.
fn judge(cluster: &Cluster, recipe: &Orders) -> BTreeSet<Place> {
    let places = places(cluster, recipe.count().unwrap());
    assert!(places.iter().all(|(partition, _)| *partition >= 0), "an order was never produced");
    // which orders belong where, and what they are, without going through anything that is judged
    let (mut wanted, mut bad): (BTreeMap<String, BTreeMap<u64, u64>>, _) = (BTreeMap::new(), BTreeSet::new());
    let (mut records, mut value) = (recipe.records(0), vec![]);
    loop {
        let (position, key) = (records.position(), records.position().to_string());
        value.clear();
        if records.next_into(&mut value).is_none() {
            break;
        }
        if let Ok(order) = serde_json::from_slice::<Order>(&value) {
            let hash = hash(key.as_bytes(), &value);
            for topic in [order.payment_topic(), order.success_topic().to_owned()] {
                wanted.entry(topic).or_default().insert(position, hash);
            }
        } else {
            let (partition, offset) = places[position as usize];
            bad.insert((cluster.topic("orders"), partition, offset));
        }
    }
    for (topic, mut wanted) in wanted {
        let mut last: BTreeMap<(i32, i32), u64> = BTreeMap::new();
        visit(&cluster.brokers, &cluster.topic(&topic), |partition, batch| {
            for i in 0..batch.len() {
                let raw = batch.record(i);
                let (key, value) = (raw.key.unwrap(), raw.value.unwrap());
                let number = number(key);
                assert_eq!(
                    wanted.remove(&number),
                    Some(hash(key, value)),
                    "{topic}: order {number} is there twice, changed, or does not belong"
                );
                let (source, offset) = places[number as usize];
                let before = last.insert((partition.id, source), offset);
                assert!(before.is_none_or(|before| before < offset), "{partition}: offset {offset} of {source} behind {before:?}");
            }
        });
        assert!(wanted.is_empty(), "{topic}: {} orders are missing, {:?} is the first", wanted.len(), wanted.first_key_value());
    }
    bad
}

/// Checks that there are no topics but these, and that the prefix stands once before what the program itself has named: topics of progress,
/// transactional ids, the consumer group.
fn judge_names<'a>(cluster: &Cluster, routed: impl Iterator<Item = &'a String>) {
    const PIPELINES: [&str; 2] = ["full_pipeline", "full_pipeline_producer"];
    let names: BTreeSet<String> = topics(&cluster.admin, &cluster.prefix).into_keys().collect();
    let own = PIPELINES.map(|pipeline| format!("{pipeline}.progress"));
    assert_eq!(names, own.into_iter().chain(["orders".to_owned()]).chain(routed.cloned()).collect());
    for pipeline in PIPELINES {
        let progress = format!("{pipeline}.progress");
        let ids = cluster.topic(&format!("{pipeline}/"));
        visit(&cluster.brokers, &cluster.topic(&progress), |_, batch| {
            assert!((0..batch.len()).all(|i| batch.record(i).key.unwrap().starts_with(ids.as_bytes())), "a record without {ids}");
        });
    }
    let lags = cluster.admin.group_lag(&cluster.topic("full_pipeline"), &cluster.topic("orders")).unwrap();
    assert!(lags.iter().all(|l| l.committed.is_some()), "{lags:?}");
}

#[test]
fn real_full_pipeline_and_its_broker_killed_again_and_again_leave_every_order_once_and_in_order() {
    let Some(cluster) = cluster("broken") else { return };
    let _alone = alone();
    let services = std::env::var("ORDERFLOW_SERVICES").ok();
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice(seed()));
    let database = Database::new(&cluster);
    let recipe = Orders::new(3).total(tier::of(120_000, 2_000_000, 2_000_000)).malformed(Share::new(0.005).unwrap());
    // so slow that it is not through before it is killed for the last time, on any machine, and yet most orders come while it is killed
    let (rate, longest) = tier::of((2_500, 1_500), (20_000, 4_000), (10_000, 2_000));
    // the number of lanes may be another at every start
    let starts = Cell::new(0);
    let command = || {
        let lanes = [4, 1, 3, 2][starts.replace(starts.get() + 1) % 4].to_string();
        let mut command = program(dir.path());
        command.args(["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--seed", "3", "--malformed", "0.005"]);
        command.args(["--orders", &recipe.count().unwrap().to_string(), "--epoch", "50", "--checkpoint-every", "1", "--show", "0"]);
        command.args(["--workers", "2"]);
        command.args(["--state", "state", "--out", "out", "--sql", &database.url, "--lanes", &lanes]);
        command
    };
    let life = || {
        let log = File::create(dir.path().join("said")).unwrap();
        Ended(command().args(["--rate", &rate.to_string()]).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    };
    let kills = tier::of(3, 10, 50);
    // at some of them the broker dies as well: before the process, which goes on and is killed later, or with it
    let outages = services.as_ref().map_or(0, |_| tier::of(1, 2, 5));
    let (mut killed, mut outage) = (0, 0);
    for kill in 0..kills {
        let mut process = life();
        if !commits_again(dir.path(), &mut process.0) {
            break;
        }
        if let Some(services) = services.as_ref().filter(|_| outage < outages && kill == (2 * outage + 1) * kills / (2 * outages)) {
            outage += 1;
            std::thread::sleep(Duration::from_millis(dice.below(1000)));
            service(services, "kill");
            std::thread::sleep(Duration::from_millis(dice.below(5000)));
            if outage % 2 == 0 {
                process.0.kill().unwrap(); // both are dead at once
                process.0.wait().unwrap();
            }
            service(services, "up");
            if outage % 2 == 1 && !commits_again(dir.path(), &mut process.0) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(dice.below(longest)));
        process.0.kill().unwrap();
        killed += u64::from(was_killed(process.0.wait().unwrap()));
    }
    assert_eq!((killed, outage), (kills, outages), "it was through before it was killed for the last time: give it more to do");
    good(&mut command());
    // a run that had finished has nothing more to do
    good(&mut command());

    let bad = judge(&cluster, &recipe);
    let expected = expected(&recipe, u64::MAX);
    assert_eq!(sum(&deltas(&dir.path().join("out/city_payment_totals"))), expected.totals);
    assert_eq!(refused_once(&dir.path().join("out/dead_letters")), bad, "each record that is no order has one letter");
    assert_eq!(bad.len() as u64, expected.rejected);
    assert_eq!(database.totals(dir.path()), expected.totals);
    judge_names(&cluster, expected.topics.keys());
    database.execute("DROP DATABASE");
    cluster.forget();
}
