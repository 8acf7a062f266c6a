//! Types of columns that few sources have, through everything that keeps rows.

use crate::feed::feed;
use orderflow_core::Pipeline;
use orderflow_core::arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int64Array, ListBuilder, RecordBatch, StringDictionaryBuilder,
};
use orderflow_core::arrow::compute::cast;
use orderflow_core::arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Int64Type, Schema};
use std::sync::Arc;

fn dictionary(key: DataType) -> DataType {
    DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8))
}

/// Texts of a column, whatever it is made of.
fn texts(column: &dyn Array) -> Vec<String> {
    let plain = cast(column, &DataType::Utf8).unwrap();
    plain.as_string::<i32>().iter().map(|t| t.unwrap_or("null").to_owned()).collect()
}

#[tokio::test]
async fn a_dictionary_is_a_text_to_groups_and_views_and_stays_a_dictionary() {
    let tags = DataType::List(Arc::new(Field::new("item", dictionary(DataType::Int32), true)));
    let fields = [
        Field::new("city", dictionary(DataType::Int8), true),
        Field::new("tags", tags.clone(), true),
        Field::new("n", DataType::Int64, false),
    ];
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let batch = |rows: &[(Option<&str>, &str, i64)]| {
        let mut lists = ListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
        rows.iter().for_each(|(_, tag, _)| lists.append_value([Some(*tag), None]));
        let city: DictionaryArray<Int8Type> = rows.iter().map(|r| r.0).collect();
        let n = Int64Array::from_iter_values(rows.iter().map(|r| r.2));
        RecordBatch::try_new(schema.clone(), vec![Arc::new(city) as ArrayRef, Arc::new(lists.finish()), Arc::new(n)]).unwrap()
    };
    let (feed, source) = feed(schema.clone());
    let mut flow = Pipeline::new("dictionaries");
    flow.source("orders", source).unwrap();
    for (name, sql) in [
        ("totals", "SELECT city, tags, sum(n) AS n FROM orders GROUP BY city, tags"),
        ("cities", "SELECT DISTINCT city FROM totals"),
        ("ends", "SELECT min(city) AS low, max(city) AS high, count(DISTINCT city) AS cities FROM orders"),
        ("rows", "SELECT city, tags, n FROM orders WHERE n > 1"),
        ("packed", "SELECT arrow_cast(upper(city), 'Dictionary(Int32, Utf8)') AS city, count(*) AS n FROM orders GROUP BY 1"),
    ] {
        flow.view(name, sql).unwrap();
    }
    let running = flow.workers(2).start().await.unwrap();
    // each batch has a dictionary of its own
    feed.send(batch(&[(Some("Pune"), "a", 1), (None, "a", 2), (Some("Delhi"), "b", 3)]), vec![1; 3]);
    feed.send(batch(&[(Some("Delhi"), "b", 4), (Some("Pune"), "a", 1)]), vec![1, -1]);
    running.settled().await.unwrap();
    let answer = async |sql: &str| running.query(sql).await.unwrap();

    let totals = answer("SELECT city, n FROM totals ORDER BY n").await;
    assert_eq!(totals[0].schema().field(0).data_type(), &dictionary(DataType::Int8));
    assert_eq!(texts(totals[0].column(0)), ["null", "Delhi"]);
    assert_eq!(totals[0].column(1).as_primitive::<Int64Type>().values(), &[2, 7]);
    let tag = answer("SELECT tags[1] AS tag FROM totals ORDER BY n").await;
    assert_eq!(texts(tag[0].column(0)), ["a", "b"]);
    assert_eq!(texts(answer("SELECT city FROM cities ORDER BY city NULLS LAST").await[0].column(0)), ["Delhi", "null"]);
    let ends = answer("SELECT low, high, cities FROM ends").await;
    assert_eq!(
        (texts(ends[0].column(0)), texts(ends[0].column(1)), texts(ends[0].column(2))),
        (vec!["Delhi".into()], vec!["Delhi".into()], vec!["1".into()])
    );
    let rows = answer("SELECT city, tags, n FROM rows ORDER BY n").await;
    assert_eq!(
        (rows[0].schema().field(1).data_type(), texts(rows[0].column(0))),
        (&tags, vec!["null".into(), "Delhi".into(), "Delhi".into()])
    );
    assert_eq!(texts(answer("SELECT city FROM packed ORDER BY city NULLS LAST").await[0].column(0)), ["DELHI", "null"]);
}

#[tokio::test]
async fn a_dictionary_that_is_too_small_for_its_groups_says_so() {
    let schema = Arc::new(Schema::new(vec![Field::new("city", dictionary(DataType::Int8), false)]));
    let (feed, source) = feed(schema.clone());
    let mut flow = Pipeline::new("small");
    flow.source("orders", source).unwrap();
    flow.view("cities", "SELECT city, count(*) AS n FROM orders GROUP BY city").unwrap();
    let running = flow.start().await.unwrap();
    // as many as it has room for, and as many others
    for first in [0, 100] {
        let city: DictionaryArray<Int8Type> =
            (first..first + 100).map(|n| n.to_string()).collect::<Vec<_>>().iter().map(String::as_str).collect();
        feed.send(RecordBatch::try_new(schema.clone(), vec![Arc::new(city) as ArrayRef]).unwrap(), vec![1; 100]);
    }
    let e = match running.settled().await {
        Err(e) => e,
        Ok(_) => running.query("SELECT count(*) AS n FROM cities").await.unwrap_err(),
    };
    assert!(e.to_string().contains("Dictionary(Int8, Utf8) cannot hold its values") && e.remedy().unwrap().contains("wider"), "{e}");
}
