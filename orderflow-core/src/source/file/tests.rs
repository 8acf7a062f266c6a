//! Files cut at every block size against the plain definition of a line.

use super::*;
use crate::source::{Payload, Polled, Waker};
use crate::testing::conformance::source;
use crate::testing::tier;
use crate::time::{Clock, Partition, Positions};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use std::io::Write;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
}

fn context(resume: Option<Positions>) -> SourceContext {
    SourceContext {
        pipeline: "p".into(),
        name: "in".into(),
        resume,
        until: None,
        stood: Positions::new(),
        wake: Waker::default(),
        clock: Clock::manual(0),
    }
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
    drain(&mut Files::open(vec![file.path().to_owned()], lines, 100, block, &context(None))?)
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

/// All of a file with a limit of 100 bytes, by the suite: position, text, whether it was refused.
fn conforming(bytes: &[u8], csv: Option<Header>, block: usize) -> Vec<(u64, String, Option<String>)> {
    struct Small(SourceOf, usize);
    enum SourceOf {
        Lines(JsonLines),
        Csv(CsvFiles),
    }
    impl Source for Small {
        fn schema(&self) -> SchemaRef {
            schema()
        }
        fn format(&self) -> Option<Arc<dyn Format>> {
            Some(Arc::new(Json::new(schema())))
        }
        fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
            match self.0 {
                SourceOf::Lines(source) => source.open_by(self.1, &context),
                SourceOf::Csv(source) => source.open_by(self.1, &context),
            }
        }
    }
    let file = file(bytes);
    let seen = source(&mut || {
        let source = match csv {
            None => SourceOf::Lines(JsonLines::file(file.path(), Json::new(schema())).max_record_bytes(100)),
            Some(header) => SourceOf::Csv(CsvFiles::file(file.path(), Csv::new(schema())).header(header).max_record_bytes(100)),
        };
        Box::new(Small(source, block))
    });
    assert!(seen.iter().all(|r| &*r.partition.topic == file.path().to_str().unwrap()));
    seen.into_iter().map(|r| (r.position, String::from_utf8(r.value.unwrap()).unwrap(), r.refused)).collect()
}

#[test]
fn a_record_that_is_too_long_is_refused_with_its_beginning_and_the_rest_goes_on() {
    let long = |n: usize| "x".repeat(n);
    let refused =
        |n: usize| format!("a record of {n} bytes, where max_record_bytes allows 100: its first 100 are kept; is a quote never closed?");
    for block in [1, 2, 3, 16, 99, 100, 101, 102, 500, 10_000] {
        for end in ["\n", "\r\n"] {
            let (e, r) = (end.len() as u64, |n: usize| Some(refused(n)));
            let text = format!("\u{feff}{}{end}{{1}}{end}{}{end}{}{end}{{2}}{end}{}", long(101), long(100), long(5_000), long(102));
            let seen = conforming(text.as_bytes(), None, block);
            let expected = [
                (3, long(100), r(101)),
                (104 + e, "{1}".into(), None),
                (107 + 2 * e, long(100), None),
                (207 + 3 * e, long(100), r(5_000)),
                (5_207 + 4 * e, "{2}".into(), None),
                (5_210 + 5 * e, long(100), r(102)),
            ];
            assert_eq!(seen, expected, "blocks of {block}");
        }
        let text = format!("1,a\n2,\"{}\"\n3,c\n4,\"{}\n", ",\n\"\"\n".repeat(100), "\n".repeat(500));
        let seen = conforming(text.as_bytes(), Some(Header::None), block);
        let found: Vec<_> = seen.iter().map(|(at, text, refused)| (*at, text.len(), refused.clone())).collect();
        assert_eq!(
            found,
            [(0, 3, None), (4, 100, Some(refused(504))), (509, 3, None), (513, 100, Some(refused(504)))],
            "blocks of {block}"
        );
        let text = format!("{}\n1,a\n", long(300));
        assert_eq!(conforming(text.as_bytes(), Some(Header::Skipped), block), [(301, "1,a".into(), None)]);
        let e = read(text.as_bytes(), csv(Header::Checked), block).unwrap_err().to_string();
        assert!(e.contains("the header cannot be read") && e.contains("300 bytes") && e.contains("Header::None"), "{e}");
    }
}

#[test]
fn a_record_that_is_too_long_takes_no_memory() {
    let text = format!("{}\n{{1}}\n", "x".repeat(1 << 20));
    let file = file(text.as_bytes());
    let mut files = Files::open(vec![file.path().to_owned()], Lines::Plain, 1_000, 4_096, &context(None)).unwrap();
    let Polled::Fetch(fetch) = files.poll().unwrap() else { panic!("there is a record") };
    assert_eq!((fetch.from, fetch.to, fetch.rows, fetch.bytes), (0, (1 << 20) + 1, 1, (1 << 20) + 1));
    assert!(files.memory() < 20_000, "{} bytes are held", files.memory());
}

#[test]
fn fingerprints_are_made_of_every_byte_of_the_records_wherever_blocks_are_cut() {
    let print = |bytes: &[u8], quotes: bool, block: usize| {
        let (file, lines) = (file(bytes), if quotes { csv(Header::None) } else { Lines::Plain });
        let mut files = Files::open(vec![file.path().to_owned()], lines, 100, block, &context(None)).unwrap();
        let mut sum = 0u64;
        while let Polled::Fetch(fetch) = files.poll().unwrap() {
            sum = sum.wrapping_add(fetch.fingerprint);
        }
        sum
    };
    let long = "x".repeat(300);
    let plain = format!("\u{feff}{{1}}\r\n{long}\r\n{{2}}\n\n{{3}}");
    let quoted = format!("\u{feff}{long}\n1,a\n2,\"{long}\n\"\n");
    for (text, quotes) in [(plain, false), (quoted, true)] {
        let whole = print(text.as_bytes(), quotes, 1_000);
        for block in [1, 2, 3, 7, 64] {
            assert_eq!(print(text.as_bytes(), quotes, block), whole, "blocks of {block}");
        }
        for (i, byte) in text.bytes().enumerate().skip(3).filter(|(_, byte)| !b"\r\n".contains(byte)) {
            let mut other = text.clone().into_bytes();
            other[i] = byte + 1;
            assert_ne!(print(&other, quotes, 7), whole, "byte {i}");
        }
    }
    assert_ne!(print(b"{2}\n{3}\n", false, 7), print(b"{3}\n{2}\n", false, 7), "lines that changed places");
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
    let e = open(17).err().unwrap();
    assert!(
        e.to_string().contains("up to byte 17 before and has only 16 bytes now") && e.remedy().unwrap().contains("another state"),
        "{e}"
    );
    let mut reader = open(0).unwrap();
    file.as_file().set_len(6).unwrap();
    assert!(drain(&mut *reader).unwrap_err().to_string().contains("became shorter"));
}

#[test]
fn a_file_that_is_gone_is_missed_and_what_is_needed_of_it_named() {
    let there = file(b"{1}\n");
    let at = |path: &str, at: u64| Positions::from([(Partition::new(path, 0), at)]);
    let open = |named: bool, context: SourceContext| {
        let source = if named {
            JsonLines::files(["/gone".as_ref(), there.path()], Json::new(schema()))
        } else {
            JsonLines::file(there.path(), Json::new(schema()))
        };
        Box::new(source).open(context)
    };
    for named in [true, false] {
        let back = |stood, until: Option<u64>| SourceContext {
            stood: at("/gone", stood),
            until: until.map(|u| at("/gone", u)),
            ..context(Some(at("/gone", 8)))
        };
        for (context, range) in
            [(back(20, None), "bytes 8 to 19"), (back(8, Some(30)), "bytes 8 to 29"), (back(20, Some(16)), "bytes 8 to 19")]
        {
            let e = open(named, context).err().unwrap();
            assert!(e.to_string().contains(&format!("/gone is not there now, and its {range} are needed")), "{e}");
            assert!(e.remedy().unwrap().contains("put the file back") && e.remedy().unwrap().contains("another state"), "{e}");
        }
        // its rows are in stored views and all sinks; under another name they would come again
        for context in [back(8, None), back(8, Some(8))] {
            let e = open(named, context).err().unwrap();
            assert!(e.to_string().contains("/gone, which was read up to byte 8, is not there now") && e.remedy().is_some(), "{e}");
        }
    }
    assert!(open(true, context(None)).err().unwrap().to_string().contains("cannot read /gone"), "it was never read");
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
    #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
    #[test]
    fn the_size_of_blocks_does_not_matter(text in "[ab\",\r\n]{0,60}", block in 1usize..20, limit in 1usize..9) {
        for quotes in [false, true] {
            let lines = || if quotes { csv(Header::None) } else { Lines::Plain };
            prop_assert_eq!(read(text.as_bytes(), lines(), block).unwrap(), read(text.as_bytes(), lines(), 1000).unwrap());
        }
        // the same with a limit of a few bytes: which ones are refused does not depend on blocks either
        for quotes in [false, true] {
            let found = |block| {
                let lines = if quotes { csv(Header::None) } else { Lines::Plain };
                let file = file(text.as_bytes());
                let mut files = Files::open(vec![file.path().to_owned()], lines, limit, block, &context(None)).unwrap();
                let mut found = vec![];
                while let Polled::Fetch(fetch) = files.poll().unwrap() {
                    let Payload::Raw(batch) = fetch.payload else { continue };
                    let mut refused = batch.refused().iter().map(|r| (r.record, r.reason.clone())).collect::<std::collections::BTreeMap<_, _>>();
                    for i in 0..batch.len() {
                        let record = batch.record(i);
                        found.push((record.position, record.value.unwrap().to_vec(), refused.remove(&i)));
                    }
                }
                found
            };
            prop_assert_eq!(found(block), found(1000));
        }
        let plain = read(text.as_bytes(), Lines::Plain, block).unwrap();
        let expected = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).filter(|l| !l.is_empty()).collect::<Vec<_>>();
        prop_assert_eq!(plain.iter().map(|(_, l)| l.as_str()).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn an_end_that_an_earlier_run_has_told_stays_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, "1\n22\n33").unwrap();
    let open = |context: &SourceContext| Files::open(vec![path.clone()], Lines::Plain, 100, 4096, context);
    let first = open(&context(None)).unwrap();
    let ends = Reader::ends(&first).unwrap();
    assert_eq!(ends.values().copied().collect::<Vec<_>>(), [7]);
    std::fs::write(&path, "1\n22\n3344\n55\n").unwrap();
    let told = |until: Positions, at: u64| {
        let resume = ends.keys().map(|p| (p.clone(), at)).collect();
        SourceContext { until: Some(until), ..context(Some(resume)) }
    };
    let values = |context: &SourceContext| drain(&mut open(context).unwrap()).unwrap().into_iter().map(|r| r.1).collect::<Vec<_>>();
    assert_eq!(values(&told(ends.clone(), 2)), ["22", "33"], "as it was, though the line has grown");
    assert_eq!(values(&told(Positions::new(), 2)), Vec::<String>::new(), "what is not named has nothing to give");
    assert_eq!(values(&context(None)), ["1", "22", "3344", "55"]);
    std::fs::write(&path, "1\n22\n").unwrap();
    let e = open(&told(ends.clone(), 2)).err().unwrap();
    assert!(e.to_string().contains("up to byte 7 before and has only 5"), "{e}");
}
