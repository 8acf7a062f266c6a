//! Files cut at every block size against the plain definition of a line.

use super::*;
use crate::source::{Payload, Polled, Waker};
use crate::time::{Clock, Partition, Positions};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use std::io::Write;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
}

fn context(resume: Option<Positions>) -> SourceContext {
    SourceContext { pipeline: "p".into(), name: "in".into(), resume, wake: Waker::default(), clock: Clock::manual(0) }
}

/// All records with their positions; checks that fetches follow each other without a gap.
fn drain(reader: &mut dyn Reader) -> Result<Vec<(u64, String)>> {
    let mut records = Vec::new();
    loop {
        match reader.poll()? {
            Polled::Ended => return Ok(records),
            Polled::Idle => panic!("files are never idle"),
            Polled::Fetch(fetch) => {
                assert!(fetch.to > fetch.from);
                let Payload::Raw(batch) = fetch.payload else {
                    assert_eq!(fetch.rows, 0);
                    continue;
                };
                assert_eq!(fetch.rows, batch.len());
                for i in 0..batch.len() {
                    let record = batch.record(i);
                    assert!((fetch.from..fetch.to).contains(&record.position));
                    records.push((record.position, String::from_utf8_lossy(record.value.unwrap()).into_owned()));
                }
            }
        }
    }
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn csv(header: Header) -> Lines {
    Lines::Csv { delimiter: b',', header, names: vec!["n".into(), "t".into()] }
}

fn read(bytes: &[u8], lines: Lines, block: usize) -> Result<Vec<(u64, String)>> {
    let file = file(bytes);
    drain(&mut Files::open(vec![file.path().to_owned()], lines, 100, block, None)?)
}

#[test]
fn lines_end_anyhow_and_blank_ones_are_none() {
    for block in [1, 2, 3, 7, 1000] {
        let records = read(b"\xef\xbb\xbf{1}\r\n\n\r\n{2}\n{3}", Lines::Plain, block).unwrap();
        assert_eq!(records, [(3, "{1}".into()), (11, "{2}".into()), (15, "{3}".into())]);
        assert_eq!(read(b"", Lines::Plain, block).unwrap(), []);
        assert_eq!(read(b"\n\n", Lines::Plain, block).unwrap(), []);
        let records = read(b"N,\"t\"\r\n1,\"a\nb\"\n2,\"x\"\"\n\"\"\"\n3,it\"s\n", csv(Header::Checked), block).unwrap();
        assert_eq!(records, [(7, "1,\"a\nb\"".into()), (15, "2,\"x\"\"\n\"\"\"".into()), (26, "3,it\"s".into())]);
        assert_eq!(read(b"any,thing,at,all\n1,a", csv(Header::Skipped), block).unwrap(), [(17, "1,a".into())]);
        assert_eq!(read(b"1,a\n", csv(Header::None), block).unwrap(), [(0, "1,a".into())]);
    }
    let e = read(b"n,text\n1,a\n", csv(Header::Checked), 1000).unwrap_err().to_string();
    assert!(e.contains("the header says n, text, the schema n, t"), "{e}");
}

#[test]
fn a_record_that_is_too_long_is_an_error_not_memory() {
    for (bytes, lines) in [
        ("x".repeat(500), Lines::Plain),
        (format!("{}\n", "x".repeat(101)), Lines::Plain),
        (format!("1,\"{}", "\n".repeat(500)), csv(Header::None)),
    ] {
        let e = read(bytes.as_bytes(), lines, 16).unwrap_err();
        assert!(e.to_string().contains("longer than 100 bytes"), "{e}");
    }
    assert_eq!(read("x".repeat(100).as_bytes(), Lines::Plain, 16).unwrap().len(), 1);
}

#[test]
fn reading_goes_on_where_it_stood_and_ends_where_the_file_ended() {
    let mut file = file(b"{1}\n{2}\n{3}\n");
    let path = file.path().to_owned();
    let partition = Partition::new(path.to_string_lossy(), 0);
    let open =
        |at: u64| Box::new(JsonLines::file(&path, Json::new(schema()))).open(context(Some(Positions::from([(partition.clone(), at)]))));
    let mut reader = open(4).unwrap();
    assert_eq!(reader.status().partitions[0].end, Some(12));
    file.write_all(b"{4}\n").unwrap();
    assert_eq!(drain(&mut *reader).unwrap(), [(4, "{2}".into()), (8, "{3}".into())]);
    assert_eq!(reader.status().partitions[0].position, 12);
    assert_eq!(drain(&mut *open(12).unwrap()).unwrap(), [(12, "{4}".into())]);
    assert!(open(17).err().unwrap().to_string().contains("has only 16 bytes now"));
    let mut reader = open(0).unwrap();
    file.as_file().set_len(6).unwrap();
    assert!(drain(&mut *reader).unwrap_err().to_string().contains("became shorter"));
    let elsewhere = Positions::from([(Partition::new("/gone", 0), 1)]);
    assert!(
        Box::new(JsonLines::file(&path, Json::new(schema())))
            .open(context(Some(elsewhere)))
            .err()
            .unwrap()
            .to_string()
            .contains("/gone was read before")
    );
}

#[test]
fn a_folder_is_read_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("b.csv", "2,b\n"), ("a.CSV", "1,a\n"), ("c.txt", "no"), (".d.csv", "no"), ("_e.csv", "no")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let source = CsvFiles::dir(folder.path(), Csv::new(schema()));
    assert_eq!(source.schema(), schema());
    let mut reader = Box::new(source).open(context(None)).unwrap();
    assert_eq!(drain(&mut *reader).unwrap(), [(0, "1,a".into()), (0, "2,b".into())]);
    reader.close().unwrap();
    assert!(
        Box::new(JsonLines::dir(folder.path(), Json::new(schema())))
            .open(context(None))
            .err()
            .unwrap()
            .to_string()
            .contains("holds no file")
    );
    assert!(Box::new(JsonLines::file("/not/there", Json::new(schema()))).open(context(None)).err().unwrap().remedy().is_some());
    let path = folder.path().join("b.csv");
    assert!(Box::new(CsvFiles::files([&path, &path], Csv::new(schema()))).open(context(None)).is_err());
}

proptest! {
    #[test]
    fn the_size_of_blocks_does_not_matter(text in "[ab\",\r\n]{0,60}", block in 1usize..20) {
        for quotes in [false, true] {
            let lines = || if quotes { csv(Header::None) } else { Lines::Plain };
            prop_assert_eq!(read(text.as_bytes(), lines(), block).unwrap(), read(text.as_bytes(), lines(), 1000).unwrap());
        }
        let plain = read(text.as_bytes(), Lines::Plain, block).unwrap();
        let expected = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).filter(|l| !l.is_empty()).collect::<Vec<_>>();
        prop_assert_eq!(plain.iter().map(|(_, l)| l.as_str()).collect::<Vec<_>>(), expected);
    }
}
