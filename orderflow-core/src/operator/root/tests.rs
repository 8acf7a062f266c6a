//! What is stored of traces comes back, at every size of words.

use super::*;
use crate::data::rowkey::BUCKETS;
use proptest::prelude::*;

/// A trace of one Int64 key and two words.
fn shape() -> TraceShape {
    TraceShape { types: vec![DataType::Int64], descending: 0, width: 2 }
}

/// Sorted content: of each key its two words.
fn content(rows: &[(i64, i128, i128)]) -> Partials {
    let (mut keys, mut accs) = (Bytes::default(), Accs::with_width(2, 0));
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
    let encoded = shape().codec().unwrap().encode(&[column]).unwrap();
    for (i, (key, a, b)) in rows.iter().enumerate() {
        keys.push_pair(*key as u8, encoded.row(i).data());
        accs.push(&[*a, *b]);
    }
    Partials { trace: 0, keys, accs }.sorted()
}

fn stored(content: &Partials, bounds: &Bounds) -> RecordBatch {
    shape().encode(content, 0, content.keys.count(), bounds).unwrap()
}

fn rows(content: &Partials) -> Vec<(Vec<u8>, Vec<i128>)> {
    (0..content.keys.count()).map(|i| (content.keys.get(i).to_vec(), content.accs.get(i).to_vec())).collect()
}

fn types(batch: &RecordBatch) -> Vec<DataType> {
    batch.columns()[2..].iter().map(|c| c.data_type().clone()).collect()
}

#[test]
fn words_are_as_narrow_as_the_largest_of_them_allows() {
    let (four, eight) = (i128::from(i32::MAX), i128::from(i64::MAX));
    for (word, expected) in [
        (1, DataType::Int32),
        (four, DataType::Int32),
        (-four, DataType::Int32),
        (four + 1, DataType::Int64),
        (-eight, DataType::Int64),
        (eight + 1, WIDE),
        (i128::MIN, WIDE),
        (i128::MAX, WIDE),
    ] {
        let content = content(&[(1, 1, word), (2, 1, -7)]);
        let batch = stored(&content, &Bounds::of(2, &content));
        assert_eq!(types(&batch), [DataType::Int32, expected], "{word}");
        assert_eq!(rows(&shape().decode(&[batch], 0..BUCKETS).unwrap()), rows(&content));
    }
}

#[test]
fn other_columns_than_the_shapes_are_refused() {
    let content = content(&[(1, 1, 2)]);
    let batch = stored(&content, &Bounds::of(2, &content));
    let of_text = TraceShape { types: vec![DataType::Utf8], ..shape() };
    let of_three = TraceShape { width: 3, ..shape() };
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
    let schema = Schema::new(batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
    let columns = [&batch.columns()[..3], &[nulls]].concat();
    let schema = Schema::new([&schema.fields()[..3], &[Arc::new(Field::new("word1", DataType::Int64, true))]].concat());
    let with_null = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    for (shape, batch) in [(of_text, batch.clone()), (of_three, batch), (shape(), with_null)] {
        assert!(shape.decode(std::slice::from_ref(&batch), 0..BUCKETS).is_err(), "{shape:?}");
        assert!(Bounds::of_sum(&shape, [&vec![batch]]).is_err());
    }
}

/// Words of every size, so that files differ in their types.
fn word() -> impl Strategy<Value = i128> {
    prop_oneof![-3..3i128, any::<i32>().prop_map(i128::from), any::<i64>().prop_map(i128::from), any::<i128>()]
}

proptest! {
    #[test]
    fn merged_files_are_what_their_contents_add_up_to(
        files in prop::collection::vec(prop::collection::btree_map(0..40i64, (word(), word()), 1..30), 1..5),
    ) {
        let contents: Vec<Partials> =
            files.iter().map(|file| content(&file.iter().map(|(k, (a, b))| (*k, *a, *b)).collect::<Vec<_>>())).collect();
        let batches: Vec<Vec<RecordBatch>> = contents.iter().map(|c| vec![stored(c, &Bounds::of(2, c))]).collect();
        let bounds = Bounds::of_sum(&shape(), &batches).unwrap();
        let parts = batches.iter().map(|file| shape().decode(file, 0..BUCKETS).unwrap()).collect();
        let merged = Partials::merge(parts);
        // a key whose words are all zero does not exist, and is not stored
        let live = |content: &Partials| rows(content).into_iter().filter(|(_, words)| words.iter().any(|w| *w != 0)).collect::<Vec<_>>();
        let sum = live(&Partials::merge(contents));
        prop_assert_eq!(live(&merged), sum.clone());
        prop_assert_eq!(rows(&shape().decode(&[stored(&merged, &bounds)], 0..BUCKETS).unwrap()), sum);
    }
}
