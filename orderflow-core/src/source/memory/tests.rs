//! The channel between a host and the engine, from both ends.

use super::*;
use crate::time::Clock;
use arrow::array::{Int32Array, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn rows(n: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(n))]).unwrap()
}

fn open(source: ChannelSource, resume: Option<u64>, wake: Waker) -> Box<dyn Reader> {
    let resume = resume.map(|at| Positions::from([(Partition::new("in", 0), at)]));
    let context = SourceContext {
        pipeline: "p".into(),
        name: "in".into(),
        resume,
        until: None,
        stood: Positions::new(),
        wake,
        clock: Clock::manual(0),
    };
    Box::new(source).open(context).unwrap()
}

fn fetch(reader: &mut dyn Reader) -> Option<(u64, u64, Changes)> {
    match reader.poll().unwrap() {
        Polled::Fetch(Fetch { from, to, rows, payload: Payload::Rows(changes), .. }) => {
            assert_eq!((rows, to - from), (changes.len(), rows as u64));
            Some((from, to, changes))
        }
        _ => None,
    }
}

#[test]
fn a_full_channel_takes_no_more_until_it_is_read() {
    let (sender, source) = channel(schema(), 5);
    let mut reader = open(source, Some(100), Waker::default());
    assert!(matches!(reader.poll().unwrap(), Polled::Idle));
    assert_eq!(sender.try_send(rows(0..3)).unwrap(), Some(3));
    assert_eq!(sender.try_send(rows(3..6)).unwrap(), None);
    assert_eq!(sender.try_send(rows(3..5)).unwrap(), Some(5));
    let (from, to, changes) = fetch(&mut *reader).unwrap();
    assert_eq!((from, to, changes.rows()), (100, 105, &rows(0..5)));
    assert_eq!(sender.try_send(rows(0..1000)).unwrap(), Some(1005), "a batch that is too large for the channel goes alone");
    assert_eq!(sender.try_send(rows(0..1)).unwrap(), None);
    assert_eq!(sender.try_send_signed(rows(0..1), vec![-1]).unwrap(), None);
    assert_eq!(reader.status().partitions[0].end, Some(1105));
    reader.acknowledge(&Positions::from([(Partition::new("in", 0), 103)])).unwrap();
    assert_eq!(sender.acknowledged(), 3);
}

#[test]
fn it_ends_with_its_last_sender_and_refuses_after_its_reader() {
    let (sender, source) = channel(schema(), 10);
    let other = sender.clone();
    let mut reader = open(source, None, Waker::default());
    drop(sender);
    assert_eq!(other.blocking_send_signed(rows(0..2), vec![1, -1]).unwrap(), 2);
    assert_eq!(other.try_send_signed(rows(0..1), vec![-1]).unwrap(), Some(3));
    drop(other);
    let (_, _, changes) = fetch(&mut *reader).unwrap();
    assert_eq!(changes.diff_iter().collect::<Vec<_>>(), [1, -1, -1]);
    assert!(matches!(reader.poll().unwrap(), Polled::Ended));
    let (sender, source) = channel(schema(), 1);
    drop(source);
    assert!(sender.blocking_send(rows(0..1)).unwrap_err().to_string().contains("the pipeline has stopped"));
}

#[test]
fn other_columns_are_refused_by_name() {
    let (sender, _source) = channel(schema(), 10);
    let other = |fields: Vec<Field>, columns| RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let int = |name, nullable| Field::new(name, DataType::Int64, nullable);
    let column = || Arc::new(Int64Array::from(vec![1])) as Arc<dyn Array>;
    let null = Arc::new(Int64Array::from(vec![None])) as Arc<dyn Array>;
    let narrow = Arc::new(Int32Array::from(vec![1])) as Arc<dyn Array>;
    for (batch, what) in [
        (other(vec![int("m", false)], vec![column()]), "'m', not 'n'"),
        (other(vec![Field::new("n", DataType::Int32, false)], vec![narrow]), "sent as Int32, not as Int64"),
        (other(vec![int("n", true)], vec![null]), "'n' was sent with nulls"),
        (other(vec![int("n", false), int("o", false)], vec![column(), column()]), "'o' of the rows that were sent is unknown"),
    ] {
        let e = sender.try_send(batch).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    }
    assert_eq!(sender.try_send(other(vec![int("n", true)], vec![column()])).unwrap(), Some(1));
    assert!(sender.blocking_send_signed(rows(0..1), vec![0]).is_err() && sender.blocking_send_signed(rows(0..1), vec![]).is_err());
    assert!(sender.try_send_signed(rows(0..1), vec![0]).is_err());
}

#[tokio::test]
async fn a_waiting_sender_goes_on_when_rows_are_taken() {
    let (sender, source) = channel(schema(), 2);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let mut reader = open(source, None, Waker::new(move || _ = count.fetch_add(1, Ordering::SeqCst)));
    let producer = tokio::spawn(async move {
        for i in 0..50 {
            sender.send(rows(i..i + 1)).await.unwrap();
        }
    });
    let (mut seen, mut next) = (0, 0);
    loop {
        match reader.poll().unwrap() {
            Polled::Fetch(fetch) => {
                assert!(fetch.from == next && fetch.rows <= 2);
                (seen, next) = (seen + fetch.rows, fetch.to);
            }
            Polled::Idle => tokio::task::yield_now().await,
            Polled::Ended => break,
        }
    }
    producer.await.unwrap();
    assert_eq!(seen, 50);
    assert!(woken.load(Ordering::SeqCst) >= 50);
}
