//! The decoders of JSON and CSV, fed with every kind of damage that the generator knows: a record is taken exactly if it is whole, and says what was drawn.

use orderflow::arrow::array::AsArray;
use orderflow::arrow::datatypes::Decimal128Type;
use orderflow::domain::order;
use orderflow::format::Format;
use orderflow::format::csv::Csv;
use orderflow::generator::{Damage, Encoding, Fate, Orders, Share};
use orderflow::pipelines;
use std::collections::BTreeMap;

#[test]
fn each_damaged_record_is_refused_and_leaves_its_neighbours_alone() {
    let schema = order::schema();
    let csv = Csv::new(schema.clone()).strict();
    let formats: [(Encoding, Box<dyn Format>); 2] = [(Encoding::Json, Box::new(pipelines::orders::json())), (Encoding::Csv, Box::new(csv))];
    let price = schema.index_of("price").unwrap();
    for (encoding, format) in formats {
        let share = |s| Share::new(s).unwrap();
        let orders = Orders::new(11).malformed(share(0.3)).duplicates(share(0.1)).encoding(encoding).total(5_000);
        // all columns, and those that few want: what is skipped is looked at all the same
        for projection in [(0..schema.fields().len()).collect::<Vec<_>>(), vec![price]] {
            let mut decoder = format.decoder(&projection).unwrap();
            let (mut refused, mut prices) = (BTreeMap::<String, u32>::new(), vec![]);
            let (mut records, mut record) = (orders.records(0), vec![]);
            loop {
                let at = records.position();
                record.clear();
                if records.next_into(&mut record).is_none() {
                    break;
                }
                let text = String::from_utf8_lossy(&record).into_owned();
                match (orders.fate(at), decoder.push(&record)) {
                    (Fate::Malformed(damage), Err(why)) => {
                        assert!(!why.is_empty());
                        *refused.entry(format!("{damage:?}")).or_default() += 1;
                    }
                    (Fate::Malformed(damage), Ok(())) => panic!("{encoding:?}, {damage:?} is taken: {text}"),
                    (fate, Err(why)) => panic!("{encoding:?}, {fate:?} is refused: {why}: {text}"),
                    (Fate::Duplicate { of }, Ok(())) => prices.push(orders.order(of).price),
                    (_, Ok(())) => prices.push(orders.order(at).price),
                }
            }
            let batch = decoder.finish().unwrap();
            assert_eq!(batch.num_rows(), prices.len());
            let column = batch.column(projection.iter().position(|c| *c == price).unwrap()).as_primitive::<Decimal128Type>();
            assert!(column.values().iter().zip(&prices).all(|(found, drawn)| *found == drawn.mantissa() && drawn.scale() == 2));
            assert!(Damage::ALL.iter().all(|d| refused[&format!("{d:?}")] > 100), "{encoding:?}: {refused:?}");
        }
    }
}
