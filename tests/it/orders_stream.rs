//! The pipeline of orders on an embedded broker: every order counted, every record routed as it is.

use crate::support::{self, PARTITIONS, Sent, broker, deltas, letters, read, run_orders, send, sorted, sum, topics};
use orderflow::domain::{Order, order};
use orderflow::generator::{Expected, Orders, Share, Total, expected};
use orderflow::kafka::{Admin, EmbeddedBroker, Kafka, Until, partition_for_key};
use orderflow::pipelines::orders;
use orderflow_core::format::{Format, csv::Csv};
use rust_decimal::Decimal;
use std::collections::BTreeMap;
use std::path::Path;

/// Runs what the topic holds, its values in this format.
async fn run(broker: &EmbeddedBroker, format: impl Format, out: &Path) -> Expected {
    let source = Kafka::topic("orders").brokers(broker.bootstrap_servers()).format(format).until(Until::Latest);
    run_orders(source, Kafka::sink(broker.bootstrap_servers()).embedded(broker), out).await
}

async fn the_sample_lines(lines: &str, format: impl Format) {
    let samples: Vec<Sent> = lines
        .lines()
        .enumerate()
        .map(|(i, line)| Sent {
            key: (i % 2 == 0).then(|| format!("order-{i}").into_bytes()),
            value: Some(line.into()),
            timestamp: Some(1_610_273_520_000 + i as i64),
            headers: vec![("trace".into(), vec![0, 0xff, i as u8]), ("trace".into(), b"again".to_vec())][..i % 3].to_vec(),
        })
        .collect();
    assert_eq!(samples.len(), 5);
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    send(broker.bootstrap_servers(), "orders", samples.iter().map(|s| (None, s)));
    let found = run(&broker, format, dir.path()).await;

    let total =
        |city: &str, payment: &str, amount: i64| ((city.into(), payment.into()), Total { orders: 1, amount: Decimal::from(amount) });
    let totals = [
        total("Mumbai", "Card", 240),
        total("Boston", "Internet Banking", 180),
        total("Oxford", "UPI", 4999),
        total("Indore", "Wallet", 59999),
        total("Bengaluru", "Card", 259),
    ];
    assert_eq!(found.totals, BTreeMap::from(totals));
    assert_eq!((found.records, found.rejected), (5, 0));
    assert_eq!(found.failures, BTreeMap::from([("Invalid CVV.".to_owned(), 1)]));
    let outcomes = [("Card", true, 2), ("Internet Banking", true, 1), ("UPI", true, 1), ("Wallet", false, 1)];
    assert_eq!(found.outcomes, outcomes.into_iter().map(|(p, ok, n)| ((p.to_owned(), ok), n)).collect());

    let routes: [(&str, &[usize]); 6] = [
        ("orders.card", &[0, 4]),
        ("orders.internet-banking", &[1]),
        ("orders.upi", &[2]),
        ("orders.wallet", &[3]),
        ("orders.successful", &[0, 1, 2, 4]),
        ("orders.failed", &[3]),
    ];
    let admin = Admin::embedded(&broker).unwrap();
    let counts: BTreeMap<String, u64> = routes.iter().map(|(t, rows)| ((*t).to_owned(), rows.len() as u64)).collect();
    assert_eq!(found.topics, counts);
    assert_eq!(topics(&admin, ""), counts.into_iter().chain([("orders".to_owned(), 5)]).collect());
    for (topic, rows) in routes {
        let mut sent: Vec<_> = rows.iter().map(|i| samples[*i].clone()).collect();
        sent.sort();
        assert_eq!(sorted(read(broker.bootstrap_servers(), topic)), sent, "{topic}");
    }
}

#[tokio::test]
async fn the_sample_lines_in_json_are_counted_and_routed_byte_by_byte() {
    the_sample_lines(include_str!("../data/orders.jsonl"), orders::json()).await;
}

#[tokio::test]
async fn the_sample_lines_in_csv_are_counted_and_routed_byte_by_byte() {
    the_sample_lines(include_str!("../data/orders.csv"), Csv::new(order::schema()).strict()).await;
}

#[tokio::test]
async fn every_routed_record_is_its_source_record_and_every_order_is_counted_once() {
    const RECORDS: u64 = 5_000;
    let share = |s| Share::new(s).unwrap();
    let recipe = Orders::new(11).total(RECORDS).unseen_types(share(0.1)).duplicates(share(0.05)).late(share(0.05)).malformed(share(0.03));
    let mut records = recipe.records(0);
    let mut sent = vec![];
    for i in 0..RECORDS {
        let mut value = vec![];
        records.next_into(&mut value).unwrap();
        let key = (i % 3 > 0).then(|| format!("k{}", i % 100).into_bytes());
        let headers = vec![("n".to_owned(), i.to_be_bytes().to_vec())];
        sent.push(Sent { key, value: Some(value), timestamp: Some(1_700_000_000_000 - i as i64), headers });
    }
    let source_partition = |i: u64| (i % PARTITIONS as u64) as i32;
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    send(broker.bootstrap_servers(), "orders", sent.iter().enumerate().map(|(i, s)| (Some(source_partition(i as u64)), s)));
    let found = run(&broker, orders::json(), dir.path()).await;

    let mut expected = expected(&recipe, RECORDS);
    expected.bytes = 0;
    assert_eq!(found, expected);
    assert!(expected.topics.len() > 15 && expected.rejected > 100, "the recipe is dirty enough");
    let bad = letters(&dir.path().join("dead_letters"));
    assert_eq!(bad.len() as u64, expected.rejected);
    for letter in bad {
        let (topic, partition, offset) = letter.place.unwrap();
        let i = offset * PARTITIONS as u64 + partition as u64;
        assert_eq!((topic.as_str(), Some(&letter.bytes)), ("orders", sent[i as usize].value.as_ref()));
    }

    let mut routed: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
    for record in &sent {
        if let Ok(order) = serde_json::from_slice::<Order>(record.value.as_deref().unwrap()) {
            for topic in [order.payment_topic(), order.success_topic().to_owned()] {
                routed.entry(topic).or_default().push(record.clone());
            }
        }
    }
    for (topic, mut records) in routed {
        let seen = read(broker.bootstrap_servers(), &topic);
        for partition in seen.chunk_by(|a, b| a.partition == b.partition) {
            let mut last: BTreeMap<i32, u64> = BTreeMap::new();
            for seen in partition {
                let i = u64::from_be_bytes(seen.record.headers[0].1.as_slice().try_into().unwrap());
                let before = last.insert(source_partition(i), i);
                assert!(before < Some(i), "{topic}: record {i} stands behind {before:?} of its partition");
                if let Some(key) = &seen.record.key {
                    assert_eq!(seen.partition, partition_for_key(key, PARTITIONS), "{topic}: a key has its partition");
                }
            }
        }
        records.sort();
        assert_eq!(sorted(seen), records, "{topic}");
    }
}

#[tokio::test]
async fn a_state_goes_on_with_the_prefix_that_it_was_made_with_and_with_no_other() {
    let (broker, dir) = (EmbeddedBroker::start(1).unwrap(), tempfile::tempdir().unwrap());
    let admin = Admin::embedded(&broker).unwrap();
    let samples: Vec<Sent> = include_str!("../data/orders.jsonl").lines().map(Sent::value).collect();
    let more = |prefix: &str| {
        let topic = format!("{prefix}orders");
        broker.create_topic(&topic, PARTITIONS).unwrap();
        send(broker.bootstrap_servers(), &topic, samples.iter().map(|s| (None, s)));
    };
    ["", "p-", "q-"].into_iter().for_each(more);
    let flow = |prefix: &str| {
        let source = Kafka::topic("orders").prefix(prefix).brokers(broker.bootstrap_servers()).format(orders::json());
        let routed = Kafka::sink(broker.bootstrap_servers()).prefix(prefix).embedded(&broker);
        support::orders(source.until(Until::Latest), routed, dir.path()).state(dir.path().join("state"))
    };
    let counted = || sum(&deltas(&dir.path().join("totals"))).values().map(|t| t.orders).sum::<u64>();
    let status = flow("p-").start().await.unwrap().wait().await.unwrap();
    assert_eq!((status.sources[0].rows, counted()), (5, 5));

    for (other, is) in [("q-", "is Kafka topics with the prefix 'q-'"), ("", "is Kafka topics without a prefix")] {
        let e = flow(other).start().await.err().unwrap();
        let parts = ["source orders is not the one whose records are in", "it was Kafka topics with the prefix 'p-'", is];
        assert!(parts.iter().all(|part| e.to_string().contains(part)) && e.remedy().is_some(), "{e}");
    }
    let names: Vec<String> = topics(&admin, "").into_keys().filter(|topic| !topic.starts_with("p-")).collect();
    assert_eq!(names, ["orders", "q-orders"], "nothing was made for the others");

    more("p-");
    let status = flow("p-").start().await.unwrap().wait().await.unwrap();
    assert_eq!((status.sources[0].rows, counted()), (5, 10));
    let lags = admin.group_lag("p-orders", "p-orders").unwrap();
    assert!(lags.iter().all(|l| l.lag() == 0) && lags.iter().filter_map(|l| l.committed).sum::<u64>() == 10, "{lags:?}");
}
