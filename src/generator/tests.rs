//! The generator judged by what it wrote: its bytes are parsed by serde and compared with what it says of itself.

use super::*;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::format::{Decoder, Format};
use orderflow_core::source::{Fetch, Payload, Polled, Reader, Source, SourceContext, Waker};
use orderflow_core::time::{Clock, Partition, Positions};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn dirty(seed: u64) -> Orders {
    let share = |s| Share::new(s).unwrap();
    Orders::new(seed).late(share(0.1)).duplicates(share(0.1)).malformed(share(0.1)).unseen_types(share(0.2))
}

fn all(orders: &Orders, from: u64, to: u64) -> Vec<Vec<u8>> {
    let mut records = orders.records(from);
    (from..to)
        .map(|i| {
            let mut record = Vec::new();
            assert_eq!(records.position(), i);
            assert_eq!(records.next_into(&mut record), Some(record.len()));
            record
        })
        .collect()
}

#[test]
fn a_seed_makes_the_same_bytes_for_ever() {
    let of = |i| String::from_utf8(all(&Orders::new(7), i, i + 1).remove(0)).unwrap();
    assert_eq!(
        of(0),
        r#"{"order_id":1,"customer_id":1401,"customer_name":"Yuki Tanaka","product_id":204,"product_name":"Some laptop","product_category":"Electronics","payment_type":"Internet Banking","qty":3,"price":61619.51,"datetime":"2021-01-10 10:12","country":"Switzerland","city":"Zürich","ecommerce_website_name":"www.amazon.com","payment_txn_id":75406,"payment_txn_success":"N","failure_reason":"Bank timed out"}"#
    );
    assert_eq!(
        of(12_345_678_901),
        r#"{"order_id":12345678902,"customer_id":1680,"customer_name":"John Khan","product_id":217,"product_name":"Rain jacket","product_category":"Clothing","payment_type":"Card","qty":3,"price":2010.95,"datetime":"2412-03-31 05:27:01","country":"India","city":"Mumbai","ecommerce_website_name":"www.ebay.in","payment_txn_id":56586,"payment_txn_success":"Y","failure_reason":null}"#
    );
    assert_ne!(of(0), String::from_utf8(all(&Orders::new(8), 0, 1).remove(0)).unwrap());
}

#[test]
fn a_default_order_has_about_381_bytes() {
    for seed in 1..=3 {
        let mut bytes = Vec::new();
        let mut records = Orders::new(seed).total(100_000).records(0);
        while records.next_into(&mut bytes).is_some() {}
        let mean = bytes.len() as f64 / 100_000.0;
        assert!((375.0..=390.0).contains(&mean), "{mean} bytes an order");
    }
}

#[test]
fn every_record_is_what_its_fate_says() {
    let orders = dirty(1);
    let records = all(&orders, 0, 5_000);
    let mut seen = BTreeMap::<String, u32>::new();
    for (i, bytes) in records.iter().enumerate() {
        let i = i as u64;
        let fate = orders.fate(i);
        *seen.entry(format!("{fate:?}").chars().take_while(|c| c.is_alphabetic()).collect()).or_default() += 1;
        match fate {
            Fate::Whole | Fate::Late => {
                let order = serde_json::from_slice::<Order>(bytes).unwrap();
                assert_eq!(order, orders.order(i));
                let behind = orders.event_millis(i).div_euclid(1000) - order.datetime.and_utc().timestamp();
                // the event time has whole seconds, and a late order lies at least a minute and at most a day behind
                let may = if matches!(fate, Fate::Late) { 60..=24 * 3600 } else { 0..=0 };
                assert!(may.contains(&behind), "{fate:?} lies {behind} s behind");
            }
            Fate::Duplicate { of } => {
                assert!(of < i && matches!(orders.fate(of), Fate::Whole | Fate::Late));
                assert_eq!(bytes, &records[of as usize]);
            }
            Fate::Malformed(damage) => {
                *seen.entry(format!("{damage:?}")).or_default() += 1;
                assert!(serde_json::from_slice::<Order>(bytes).is_err(), "{damage:?}: {}", String::from_utf8_lossy(bytes));
                assert_eq!(damage == Damage::Empty, bytes.is_empty());
                assert_eq!(damage == Damage::NotUtf8, std::str::from_utf8(bytes).is_err());
                if matches!(damage, Damage::WrongType | Damage::MissingField | Damage::NumberTooBig) {
                    assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok(), "only the order is wrong, not the JSON");
                }
            }
        }
    }
    for (what, from, to) in [("Malformed", 400, 600), ("Duplicate", 360, 540), ("Late", 320, 480)] {
        assert!((from..=to).contains(&seen[what]), "{what}: {seen:?}");
    }
    for damage in Damage::ALL {
        assert!(seen[&format!("{damage:?}")] > 40, "{damage:?}: {seen:?}");
    }
}

#[test]
fn a_csv_line_means_the_same_order() {
    let orders = dirty(2).encoding(Encoding::Csv);
    let fields: Vec<_> = crate::domain::order::schema().fields().iter().map(|f| f.name().clone()).collect();
    for (i, line) in all(&orders, 0, 3_000).into_iter().enumerate() {
        let mut rows = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&line[..]);
        let read: Option<Order> = rows.byte_records().next().filter(|r| r.as_ref().is_ok_and(|r| r.len() == 16)).and_then(|row| {
            let (row, header) = (row.unwrap(), csv::ByteRecord::from(fields.clone()));
            row.deserialize(Some(&header)).ok()
        });
        match orders.fate(i as u64) {
            Fate::Whole | Fate::Late => assert_eq!(read.as_ref(), Some(&orders.order(i as u64)), "{}", String::from_utf8_lossy(&line)),
            Fate::Duplicate { of } => assert_eq!(read, Some(orders.order(of))),
            Fate::Malformed(damage) => assert_eq!(read, None, "{damage:?}: {}", String::from_utf8_lossy(&line)),
        }
    }
}

#[test]
fn the_share_of_one_fate_leaves_the_other_orders_alone() {
    let (clean, mixed) = (Orders::new(3), dirty(3).unseen_types(Share::NONE));
    for i in (0..2_000).filter(|i| matches!(mixed.fate(*i), Fate::Whole)) {
        assert_eq!(clean.order(i), mixed.order(i));
    }
    let unseen = Orders::new(3).unseen_types(Share::ALL);
    let types: BTreeSet<_> = (0..500).map(|i| unseen.order(i).payment_type).collect();
    assert_eq!(types.len(), 12, "all of them, none of the six: {types:?}");
    assert!((0..500).all(|i| Order { payment_type: clean.order(i).payment_type, ..unseen.order(i) } == clean.order(i)));
}

#[test]
fn extreme_shares_are_kept() {
    let lone = Orders::new(4).duplicates(Share::ALL);
    assert!((0..50).all(|i| lone.fate(i) == Fate::Whole), "a duplicate needs an original");
    assert!((0..50).all(|i| matches!(Orders::new(4).malformed(Share::ALL).fate(i), Fate::Malformed(_))));
    assert!((0..50).all(|i| Orders::new(4).failures(Share::NONE).order(i).succeeded()));
    assert!((0..50).all(|i| Orders::new(4).failures(Share::ALL).order(i).failure_reason.is_some()));
    for bad in ["-0.1", "1.1", "NaN", "5%", ""] {
        assert!(bad.parse::<Share>().unwrap_err().remedy().is_some(), "{bad:?}");
    }
    assert_eq!("1".parse::<Share>().unwrap(), Share::ALL);
}

#[test]
fn clean_orders_fill_every_city_and_payment_type() {
    let found = expected(&Orders::new(5).total(20_000), u64::MAX);
    assert_eq!((found.records, found.rejected, found.totals.len(), found.topics.len(), found.failures.len()), (20_000, 0, 144, 8, 6));
    assert_eq!(found.totals.values().map(|t| t.orders).sum::<u64>(), 20_000);
    assert_eq!(found.topics.values().sum::<u64>(), 40_000);
    let failed: u64 = found.failures.values().sum();
    assert!((1_800..=2_200).contains(&failed), "{failed}");
    assert_eq!(found.topics["orders.failed"], failed);
}

#[test]
fn the_expected_answer_is_that_of_the_typed_orders() {
    let orders = dirty(6).total(4_000);
    let found = expected(&orders, 3_000);
    let (mut rejected, mut totals, mut topics) = (0, BTreeMap::<_, Total>::new(), BTreeMap::<_, u64>::new());
    for i in 0..3_000 {
        let order = match orders.fate(i) {
            Fate::Malformed(_) => {
                rejected += 1;
                continue;
            }
            Fate::Duplicate { of } => orders.order(of),
            Fate::Whole | Fate::Late => orders.order(i),
        };
        *topics.entry(order.payment_topic()).or_default() += 1;
        *topics.entry(order.success_topic().to_string()).or_default() += 1;
        let total = totals.entry((order.city.clone(), order.payment_type.clone())).or_default();
        total.orders += 1;
        total.amount += order.price * rust_decimal::Decimal::from(order.qty);
    }
    assert_eq!((found.records, found.rejected), (3_000, rejected));
    assert_eq!((found.totals, found.topics), (totals, topics));
}

#[test]
fn customers_are_as_many_as_were_asked_for() {
    let ids = |n| -> BTreeSet<_> { (0..2_000).map(|i| Orders::new(9).customers(n).order(i).customer_id).collect() };
    assert_eq!(ids(0), BTreeSet::from([1]));
    assert_eq!(ids(20), (1..=20).collect());
    assert!(ids(1_000_000).len() > 1_980 && ids(1_000_000).iter().all(|c| (1..=1_000_000).contains(c)));
}

proptest! {
    #[test]
    fn any_position_can_be_made_again(seed: u64, from in 0u64..1 << 40, len in 1u64..20, skip in 0u64..20) {
        let orders = dirty(seed);
        let skip = skip.min(len - 1);
        prop_assert_eq!(&all(&orders, from, from + len)[skip as usize..], &all(&orders, from + skip, from + len)[..]);
    }

    #[test]
    fn a_date_is_written_as_chrono_writes_it(seconds in -62_000_000_000i64..250_000_000_000) {
        let orders = Orders::new(1).event_time(seconds * 1000, Duration::ZERO);
        let record = all(&orders, 0, 1).remove(0);
        let order: Order = serde_json::from_slice(&record).unwrap();
        prop_assert_eq!(order.datetime.and_utc().timestamp(), seconds);
        prop_assert_eq!(order, orders.order(0));
    }
}

/// A format that is never asked: sources hand bytes on.
struct Undecoded;

impl Format for Undecoded {
    fn schema(&self) -> SchemaRef {
        crate::domain::order::schema()
    }

    fn decoder(&self, _projection: &[usize]) -> Result<Box<dyn Decoder>> {
        Err(Error::internal("a source asked for a decoder"))
    }
}

fn open(orders: Orders, clock: &Clock, resume: Option<u64>) -> Result<Box<dyn Reader>> {
    let resume = resume.map(|at| Positions::from([(Partition::new("made", 0), at)]));
    let context = SourceContext {
        pipeline: "p".into(),
        name: "made".into(),
        resume,
        until: None,
        stood: Positions::new(),
        wake: Waker::default(),
        clock: clock.clone(),
    };
    Box::new(orders.source(Arc::new(Undecoded))).open(context)
}

fn fetch(reader: &mut dyn Reader) -> Option<Fetch> {
    match reader.poll().unwrap() {
        Polled::Fetch(fetch) => Some(fetch),
        Polled::Idle | Polled::Ended => None,
    }
}

#[test]
fn a_source_delivers_every_record_once_and_then_ends() {
    let orders = dirty(10).total(5_000);
    let mut reader = open(orders.clone(), &Clock::manual(0), None).unwrap();
    let mut found = Vec::new();
    while let Some(fetch) = fetch(&mut *reader) {
        let Payload::Raw(batch) = fetch.payload else { panic!("a generator makes bytes") };
        assert_eq!((fetch.from, fetch.to, fetch.rows), (found.len() as u64, (found.len() + batch.len()) as u64, batch.len()));
        let from = found.len();
        found.extend((0..batch.len()).map(|i| batch.record(i).value.unwrap().to_vec()));
        assert_eq!(fetch.bytes, found[from..].iter().map(Vec::len).sum::<usize>());
        assert_eq!(batch.record(0).position, fetch.from);
        assert_eq!(batch.record(0).timestamp, Some(1_610_273_520_000 + 1000 * fetch.from as i64));
    }
    assert_eq!(found, all(&orders, 0, 5_000));
    assert!(matches!(reader.poll().unwrap(), Polled::Ended));
    let status = reader.status();
    assert_eq!((status.partitions[0].position, status.partitions[0].end), (5_000, Some(5_000)));
}

#[test]
fn a_resumed_source_goes_on_with_the_same_records_and_fingerprints() {
    let clock = Clock::manual(0);
    let mut first = open(dirty(11), &clock, None).unwrap();
    let (_, second) = (fetch(&mut *first).unwrap(), fetch(&mut *first).unwrap());
    let again = fetch(&mut *open(dirty(11), &clock, Some(second.from)).unwrap()).unwrap();
    assert_eq!((again.from, again.to, again.fingerprint), (second.from, second.to, second.fingerprint));
    let other = fetch(&mut *open(dirty(12), &clock, Some(second.from)).unwrap()).unwrap();
    assert_ne!(other.fingerprint, second.fingerprint, "another seed is noticed");
    let Err(error) = open(dirty(11).total(10), &clock, Some(11)) else { panic!("there is no such record") };
    assert!(error.remedy().is_some(), "{error}");
}

#[test]
fn a_rate_is_kept_by_the_clock_it_is_given() {
    let clock = Clock::manual(1_000);
    let mut reader = open(Orders::new(13).rate(50).total(120), &clock, Some(10)).unwrap();
    assert!(matches!(reader.poll().unwrap(), Polled::Idle));
    clock.advance(Duration::from_millis(39));
    assert_eq!(fetch(&mut *reader).unwrap().rows, 1);
    assert!(matches!(reader.poll().unwrap(), Polled::Idle));
    clock.advance(Duration::from_millis(1961));
    assert_eq!(fetch(&mut *reader).unwrap().rows, 99, "two seconds, a hundred records");
    clock.advance(Duration::from_secs(60));
    assert_eq!(fetch(&mut *reader).unwrap().rows, 10);
    assert!(matches!(reader.poll().unwrap(), Polled::Ended));
}
