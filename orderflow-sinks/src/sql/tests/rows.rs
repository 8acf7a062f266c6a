//! What is written can be read: the conformance suite, every type, and a map that does the same.

use super::faults::{Fault, Faulty};
use super::*;
use orderflow_core::arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int8Array, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, UInt64Array,
};
use orderflow_core::testing::conformance::{self, SeenRow, SinkReport, SinkSubject};
use orderflow_core::testing::tier;
use proptest::prelude::*;
use std::collections::BTreeMap;

everywhere!(
    conforms,
    conforms_with_a_key,
    every_type_round_trips,
    every_type_is_a_key,
    null_is_a_key_like_any_other,
    a_table_holds_the_rows_of_its_view,
    many_epochs_and_many_rows_are_few_transactions
);

/// The suite polls for 5 ms at a time, which a busy disk may take longer than, and then closes: here a poll waits for the answer.
struct Patient(Sql);

struct PatientWriter(Box<dyn Writer>);

impl Sink for Patient {
    fn columns(&self, input: &Input) -> Result<Option<Vec<orderflow_core::sink::Column>>> {
        self.0.columns(input)
    }

    fn guarantee(&self, kept: bool) -> orderflow_core::sink::Guarantee {
        self.0.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        self.0.look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let opened = Box::new(self.0).open(context)?;
        Ok(Opened { writer: Box::new(PatientWriter(opened.writer)), ..opened })
    }
}

impl Writer for PatientWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.0.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }

    fn poll(&mut self, _: Duration) -> Result<orderflow_core::sink::Committed> {
        self.0.poll(PATIENCE)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.0.close()
    }
}

/// A table, and a way to it on which a commit can fail.
struct Subject<'a> {
    db: &'a Db,
    table: String,
    way: Arc<Faulty>,
    keyed: bool,
}

impl SinkSubject for Subject<'_> {
    fn sink(&mut self) -> Box<dyn Sink> {
        // the key is the one that the suite proves
        let sink = if self.keyed { Sql::upsert(&self.db.url, &self.table) } else { self.db.append(&self.table) };
        Box::new(Patient(sink.through(self.way.clone())))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        let (db, table) = (self.db, self.db.dialect().table(&self.table));
        let number = |text: &Option<String>| text.as_ref().unwrap().parse::<i64>().unwrap();
        if self.keyed {
            let row = |r: Vec<Option<String>>| SeenRow { epoch: 0, diff: 1, id: number(&r[0]), name: r[1].clone() };
            return db.rows(&format!("SELECT {} FROM {table}", db.list(&["id", "name"]))).into_iter().map(row).collect();
        }
        // in the order in which rows were inserted, which a table without a key keeps
        let order = match db.dialect() {
            Dialect::Sqlite => " ORDER BY rowid",
            Dialect::MySql => "",
            Dialect::Postgres => " ORDER BY ctid",
        };
        let row =
            |r: Vec<Option<String>>| SeenRow { epoch: number(&r[3]) as u64, diff: number(&r[2]), id: number(&r[0]), name: r[1].clone() };
        db.rows(&format!("SELECT {} FROM {table}{order}", db.list(&["id", "name", "diff", "epoch"]))).into_iter().map(row).collect()
    }

    fn fail_next(&mut self, fault: conformance::Fault) -> bool {
        self.way.at_the_next_commit(match fault {
            conformance::Fault::Before => Fault::Before,
            conformance::Fault::After => Fault::After,
        });
        true
    }

    fn keyed(&self) -> bool {
        self.keyed
    }

    fn refuses(&mut self, epoch: u64) -> Option<Closed> {
        let (ids, names) = (Int64Array::from(vec![-1, -2, -3]), StringArray::from(vec!["x"; 3]));
        let batch = RecordBatch::try_new(conformance::schema(), vec![Arc::new(ids), Arc::new(names)]).unwrap();
        Some(Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(batch)] })
    }
}

/// A table that takes no negative `id`, with every change or one row for each.
fn suite(db: &Db, keyed: bool) {
    let table = db.table();
    let (text, id) = match db.dialect() {
        Dialect::Sqlite => ("TEXT", "id"),
        Dialect::MySql => ("VARCHAR(100) CHARACTER SET utf8mb4", "id"),
        Dialect::Postgres => ("TEXT", "\"id\""),
    };
    let (key, more) = if keyed { (" PRIMARY KEY", "") } else { ("", ", diff BIGINT, epoch BIGINT") };
    db.execute(&format!("CREATE TABLE {table} (id BIGINT NOT NULL{key} CHECK ({id} >= 0), name {text}{more})"));
    let report = conformance::sink(&mut Subject { db, table, way: Faulty::counting(db), keyed });
    assert_eq!(report, SinkReport { failed: 5, unanswered: 5, refused: true });
}

pub(super) fn conforms(db: &Db) {
    suite(db, false);
}

fn conforms_with_a_key(db: &Db) {
    suite(db, true);
}

/// Columns, and their values as the database prints them: SQLite, MySQL, PostgreSQL.
type Typed = (&'static str, ArrayRef, [[&'static str; 3]; 2]);

fn typed() -> Vec<Typed> {
    let same = |a, b| [[a; 3], [b; 3]];
    let decimal = |v: Vec<i128>, p, s| Arc::new(Decimal128Array::from(v).with_precision_and_scale(p, s).unwrap()) as ArrayRef;
    vec![
        ("small", Arc::new(Int8Array::from(vec![-128, 127])), same("-128", "127")),
        ("long", Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])), same("-9223372036854775808", "9223372036854775807")),
        ("wide", Arc::new(UInt64Array::from(vec![0, u64::MAX])), same("0", "18446744073709551615")),
        (
            "money",
            decimal(vec![-1_230, 99_999_999_999_999_999_999_999_999_999_999_999_999], 38, 2),
            same("-12.30", "999999999999999999999999999999999999.99"),
        ),
        ("rate", Arc::new(Float64Array::from(vec![0.1, -2.5e-8])), same("0.1", "-0.000000025")),
        (
            "text",
            Arc::new(StringArray::from(vec!["", "O'Brien \"x\" \\ \n Zürich 東京 😀 "])),
            same("", "O'Brien \"x\" \\ \n Zürich 東京 😀 "),
        ),
        ("bytes", Arc::new(BinaryArray::from(vec![&b"ab"[..], &b"c\xff\x00"[..]])), [["6162"; 3], ["63FF00", "63FF00", "63ff00"]]),
        ("yes", Arc::new(BooleanArray::from(vec![false, true])), [["0", "0", "false"], ["1", "1", "true"]]),
        ("day", Arc::new(Date32Array::from(vec![0, 18_637])), same("1970-01-01", "2021-01-10")),
        (
            "hour",
            Arc::new(Time64MicrosecondArray::from(vec![0, 36_720_000_001])),
            [["00:00:00", "00:00:00.000000", "00:00:00"], ["10:12:00.000001"; 3]],
        ),
        (
            "at",
            Arc::new(TimestampMillisecondArray::from(vec![1_610_273_520_000, 1_610_273_520_001])),
            [
                ["2021-01-10T10:12:00", "2021-01-10 10:12:00.000000", "2021-01-10 10:12:00"],
                ["2021-01-10T10:12:00.001", "2021-01-10 10:12:00.001000", "2021-01-10 10:12:00.001"],
            ],
        ),
        (
            "instant",
            Arc::new(TimestampMicrosecondArray::from(vec![1_610_273_520_000_000, 1_610_273_520_000_001]).with_timezone("+05:30")),
            [
                ["2021-01-10T10:12:00+00:00", "2021-01-10 10:12:00.000000", "2021-01-10 10:12:00+00"],
                ["2021-01-10T10:12:00.000001+00:00", "2021-01-10 10:12:00.000001", "2021-01-10 10:12:00.000001+00"],
            ],
        ),
    ]
}

fn printed(db: &Db, name: &str, value: &ArrayRef) -> String {
    let quoted = db.dialect().quote(name);
    match (db.dialect(), value.data_type()) {
        (Dialect::Postgres, DataType::Binary) => format!("encode({quoted}, 'hex')"),
        (Dialect::Sqlite, DataType::Binary) => format!("CASE WHEN {quoted} IS NOT NULL THEN hex({quoted}) END"),
        (Dialect::MySql, DataType::Binary) => format!("hex({quoted})"),
        // as many digits as there are
        (Dialect::MySql, DataType::Float64) => format!("CAST(CAST({quoted} AS DECIMAL(20, 9)) + 0 AS CHAR)"),
        (Dialect::Postgres, DataType::Float64) => format!("CAST(CAST({quoted} AS NUMERIC) AS TEXT)"),
        (Dialect::Sqlite, DataType::Float64) => format!("CASE WHEN {quoted} IS NOT NULL THEN rtrim(printf('%.9f', {quoted}), '0') END"),
        _ => db.dialect().text(&quoted),
    }
}

fn every_type_round_trips(db: &Db) {
    let (table, all) = (db.table(), typed());
    let which = match db.dialect() {
        Dialect::Sqlite => 0,
        Dialect::MySql => 1,
        Dialect::Postgres => 2,
    };
    let schema: SchemaRef =
        Arc::new(Schema::new(all.iter().map(|(n, c, _)| Field::new(*n, c.data_type().clone(), true)).collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), all.iter().map(|(_, c, _)| c.clone()).collect()).unwrap();
    let nulls = RecordBatch::try_new(
        schema.clone(),
        all.iter().map(|(_, c, _)| orderflow_core::arrow::array::new_null_array(c.data_type(), 1)).collect(),
    );
    let mut writer = Box::new(db.append(&table)).open(context(1, 1, &schema)).unwrap().writer;
    let changes = vec![Changes::inserts(batch), Changes::inserts(nulls.unwrap())];
    writer.write(Closed { epoch: Epoch(1), changes }).unwrap();
    assert_eq!(commit(writer.as_mut(), 1).unwrap(), []);
    // the table that the sink has made it takes again
    writer.close().unwrap();
    Box::new(db.append(&table)).open(context(1, 2, &schema)).unwrap();
    for (name, column, expected) in &all {
        let found = db.rows(&format!("SELECT {} FROM {}", printed(db, name, column), db.dialect().table(&table)));
        let found: Vec<Option<&str>> = found.iter().map(|r| r[0].as_deref()).collect();
        let trimmed = |text: &'static str| match (db.dialect(), column.data_type()) {
            (Dialect::MySql, DataType::Float64) => format!("{:.9}", text.parse::<f64>().unwrap()),
            (Dialect::MySql, DataType::Binary) => text.to_uppercase(),
            _ => text.to_owned(),
        };
        let expected: Vec<String> = expected.iter().map(|e| trimmed(e[which])).collect();
        for text in &expected {
            assert!(found.contains(&Some(text.as_str())), "{name} as {:?}: {found:?} lacks {text}", column.data_type());
        }
        assert!(found.len() == 3 && found.contains(&None), "{name}: {found:?}");
    }
}

fn every_type_is_a_key(db: &Db) {
    for (name, column, _) in typed() {
        let table = db.table();
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let schema =
            Arc::new(Schema::new(vec![Field::new(name, column.data_type().clone(), false), Field::new("n", DataType::Int64, true)]));
        let batch = |n: &ArrayRef| RecordBatch::try_new(schema.clone(), vec![column.clone(), n.clone()]).unwrap();
        let mut writer = Box::new(db.upsert(&table, &[name])).open(context(1, 1, &schema)).unwrap().writer;
        writer.write(Closed { epoch: Epoch(1), changes: vec![Changes::inserts(batch(&n))] }).unwrap();
        commit(writer.as_mut(), 1).unwrap();
        assert_eq!(db.read(&table, &["n"]), ["1", "2"], "{name}");
        let later: ArrayRef = Arc::new(Int64Array::from(vec![1, 3]));
        let changes = vec![Changes::signed(batch(&n), vec![-1, -1]), Changes::inserts(batch(&later).slice(1, 1))];
        writer.write(Closed { epoch: Epoch(2), changes }).unwrap();
        commit(writer.as_mut(), 2).unwrap();
        assert_eq!(db.read(&table, &["n"]), ["3"], "{name}");
    }
}

fn null_is_a_key_like_any_other(db: &Db) {
    let table = db.table();
    let schema = Arc::new(Schema::new(vec![
        Field::new("city", DataType::Utf8, true),
        Field::new("type", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ]));
    let epoch = |n: u64, rows: &[(Option<&str>, Option<&str>, i64, i64)]| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        Closed { epoch: Epoch(n), changes: vec![Changes::signed(batch, rows.iter().map(|r| r.3).collect())] }
    };
    let mut writer = Box::new(db.upsert(&table, &["city", "type"])).open(context(1, 1, &schema)).unwrap().writer;
    let keys = [(None, None), (None, Some("")), (Some(""), None), (Some("a"), Some("b")), (Some("A"), Some("b")), (Some("a "), Some("b"))];
    let rows = |n: i64, diff| keys.iter().map(|(c, t)| (*c, *t, n, diff)).collect::<Vec<_>>();
    writer.write(epoch(1, &rows(1, 1))).unwrap();
    commit(writer.as_mut(), 1).unwrap();
    writer.write(epoch(2, &[rows(1, -1), rows(2, 1)].concat())).unwrap();
    commit(writer.as_mut(), 2).unwrap();
    let mut all: Vec<String> = keys.iter().map(|(c, t)| format!("{} {} 2", c.unwrap_or("-"), t.unwrap_or("-"))).collect();
    all.sort();
    assert_eq!(db.read(&table, &["city", "type", "n"]), all, "no key is taken for another, and none is there twice");
    writer.write(epoch(3, &rows(2, -1))).unwrap();
    commit(writer.as_mut(), 3).unwrap();
    assert!(db.read(&table, &["city", "type", "n"]).is_empty());
}

/// What happens in an epoch: keys and their new values, or none.
type Step = Vec<(Option<i64>, Option<i64>)>;

/// Plays epochs against a table and a map, committing in between or not, and starting again now and then.
fn play(db: &Db, steps: &[(Step, u8)]) {
    let table = db.table();
    let mut map: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    let mut generation = 1;
    let mut writer = open(db.upsert(&table, &["k"]), generation);
    for (number, (step, then)) in steps.iter().enumerate() {
        let epoch = number as u64 + 1;
        let (mut gone, mut came) = (vec![], vec![]);
        for (k, v) in step.iter().copied().collect::<BTreeMap<_, _>>() {
            let before = match v {
                Some(v) => map.insert(k, v),
                None => map.remove(&k),
            };
            gone.extend(before.map(|b| (k, b, -1)));
            came.extend(v.map(|v| (k, v, 1)));
        }
        let rows = [gone, came].concat();
        if !rows.is_empty() {
            writer.write(closed(epoch, &rows)).unwrap();
        }
        if *then > 0 && !rows.is_empty() {
            assert_eq!(commit(writer.as_mut(), epoch).unwrap(), []);
            assert_eq!(db.read(&table, &["k", "v", "name"]), shown(&map));
            if *then > 2 {
                generation += 1;
                writer.close().unwrap();
                let opened = open_as(db.upsert(&table, &["k"]), generation, "test").unwrap();
                assert_eq!(opened.progress.map(|p| p.epoch), Some(Epoch(epoch)));
                writer = opened.writer;
            }
        }
    }
    writer.close().unwrap();
}

fn steps() -> impl Strategy<Value = Vec<(Step, u8)>> {
    let key = prop_oneof![1 => Just(None), 8 => (0..6i64).prop_map(Some)];
    let change = (key, proptest::option::weighted(0.7, 0..5i64));
    proptest::collection::vec((proptest::collection::vec(change, 0..8), 0..4u8), 1..12)
}

fn a_table_holds_the_rows_of_its_view(db: &Db) {
    let config = ProptestConfig { cases: tier::of(16, 60, 1000), failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&steps(), |steps| {
            play(db, &steps);
            Ok(())
        })
        .unwrap();
}

fn many_epochs_and_many_rows_are_few_transactions(db: &Db) {
    let (table, counted) = (db.table(), Faulty::counting(db));
    let mut writer = open(db.upsert(&table, &["k"]).through(counted.clone()), 1);
    let before = counted.commits();
    for epoch in 1..=200 {
        let rows: Vec<_> = (0..25).map(|i| (Some(epoch * 20 + i), epoch, 1)).collect();
        writer.write(closed(epoch as u64, &rows)).unwrap();
    }
    commit(writer.as_mut(), 200).unwrap();
    assert_eq!(counted.commits() - before, 1, "what is queued goes as one");
    assert_eq!(db.read(&table, &["k"]).len(), 200 * 20 + 5);
    assert!(counted.statements() < 40, "{}", counted.statements());
}
