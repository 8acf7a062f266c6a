//! Whole pipelines with state and tables as sinks, killed at any operation on the database and started again: the tables are the batch answer.

use super::faults::Faulty;
use super::*;
use orderflow_core::Pipeline;
use orderflow_core::format::json::Json;
use orderflow_core::testing::{Schedules, Topic, World, crash_anywhere, tier};
use std::collections::BTreeMap;
use std::rc::Rc;

everywhere!(killed_anywhere_and_started_again_the_tables_are_the_batch_answer);

const ROWS: i64 = 240;

/// Row `i` as if drawn: a city that may be null, and an amount in cents.
fn row(i: i64) -> (Option<String>, i64) {
    let h = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    ((!h.is_multiple_of(6)).then(|| format!("city {}", h % 6)), (h % 1000) as i64 - 300)
}

fn cents(n: i64) -> String {
    format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100)
}

/// Columns by which the tables are read.
const COLUMNS: [&[&str]; 3] = [&["city", "n", "amount"], &["size", "cities"], &["id", "amount", "diff"]];

pub(super) type Seen = Rc<RefCell<BTreeMap<usize, Vec<String>>>>;

/// On tables that are new in every schedule; what is read of them at its end is also put into `seen`.
pub(super) fn pipeline(db: &Db, orders: &Topic, seen: &Seen, world: &World) -> Result<Pipeline> {
    let db = world.remember("database", || db.fresh().unwrap_or_else(|| Db::at(db.url.clone(), None)));
    let names = world.remember("tables", || [db.table(), db.table(), db.table()]);
    let way = Faulty::sharing(&db, world.fate());
    let [totals, sizes, log] = &*names;
    let mut flow = Pipeline::new(totals.clone());
    flow.source("orders", world.source(orders))?;
    let view = flow.view("totals", "SELECT city, count(*) AS n, sum(amount) AS amount FROM orders GROUP BY city")?;
    view.sink(Sql::upsert(&db.url, totals).through(way.clone()))?;
    let view = flow.view("sizes", "SELECT n % 4 AS size, count(*) AS cities FROM totals GROUP BY n % 4")?;
    view.sink(Sql::upsert(&db.url, sizes).through(way.clone()))?;
    flow.sql("SELECT id, amount FROM orders WHERE amount > 0")?.sink(Sql::append(&db.url, log).through(way))?;
    for (i, columns) in COLUMNS.into_iter().enumerate() {
        let (db, names, seen) = (db.clone(), names.clone(), seen.clone());
        world.compare(&format!("table {i}"), move || {
            let rows = db.read(&names[i], columns);
            seen.borrow_mut().insert(i, rows.clone());
            rows
        });
    }
    world.keep(flow)
}

/// A topic of all rows.
pub(super) fn orders() -> Topic {
    let records = (0..ROWS).map(|i| {
        let (city, amount) = row(i);
        let city = city.map_or("null".to_owned(), |c| format!("\"{c}\""));
        format!("{{\"id\":{i},\"city\":{city},\"amount\":{}}}", cents(amount))
    });
    let fields = [("id", DataType::Int64), ("city", DataType::Utf8), ("amount", DataType::Decimal128(18, 2))];
    let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
    Topic::records(Json::new(schema), [records.collect::<Vec<_>>()])
}

fn killed_anywhere_and_started_again_the_tables_are_the_batch_answer(db: &Db) {
    let mut totals: BTreeMap<Option<String>, (i64, i64)> = BTreeMap::new();
    for (city, amount) in (0..ROWS).map(row) {
        let total = totals.entry(city).or_default();
        *total = (total.0 + 1, total.1 + amount);
    }
    let mut sizes: BTreeMap<i64, i64> = BTreeMap::new();
    totals.values().for_each(|(n, _)| *sizes.entry(n % 4).or_default() += 1);
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let expected = [
        sorted(totals.iter().map(|(c, (n, a))| format!("{} {n} {}", c.as_deref().unwrap_or("-"), cents(*a))).collect()),
        sorted(sizes.iter().map(|(s, n)| format!("{s} {n}")).collect()),
        sorted((0..ROWS).filter(|i| row(*i).1 > 0).map(|i| format!("{i} {} 1", cents(row(i).1))).collect()),
    ];
    let (orders, seen) = (orders(), Seen::default());
    // real databases share one test
    let databases = if db.dialect() == Dialect::Sqlite { 1 } else { Db::real().len() };
    let schedules = Schedules::points(tier::of(8, 40, 800)).and_random(tier::of(8, 40, 400)).whole_log();
    let schedules = schedules.for_as_long_as(tier::hours() / databases as u32);
    let report = crash_anywhere(schedules, |world| pipeline(db, &orders, &seen, world));
    let at_night = if db.dialect() == Dialect::Sqlite { 150 } else { 40 };
    let in_threads = Schedules::random(tier::of(2, 6, at_night)).from_seed(100_000).whole_log().also_on_workers(&[2, 4]);
    let threads = crash_anywhere(in_threads, |world| pipeline(db, &orders, &seen, world));
    #[allow(clippy::print_stdout, reason = "tests may print what they did")]
    {
        println!("tables of {:?}: {report}\non 1, 2 and 4 workers: {threads}", db.dialect());
    }
    assert!(report.operations > 50 && threads.deaths > 0, "{report}, {threads}");
    // all schedules ended alike, so that the last one speaks for them
    assert_eq!(seen.borrow().values().cloned().collect::<Vec<_>>(), expected);
}
