//! A bounded file: ours over DuckDB with one thread on the same file, both to the same totals.

use crate::limit::{Pool, TOTALS, aggregate, answer};
use crate::{Figures, spent};
use orderflow::domain::order;
use orderflow::format::json::Json;
use orderflow::source::file::JsonLines;
use orderflow::{Error, Result};
use std::io::Write;
use std::process::Command;

/// Prints CPU µs of the query, orders, and amount in cents.
const QUERY: &str = r#"
import duckdb, resource, sys
def cpu():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime
db = duckdb.connect()
db.execute("SET threads = 1")
start = cpu()
rows = db.execute("""
    SELECT city, payment_type, count(*) AS orders, sum(qty * price) AS amount
    FROM read_json(?, format = 'newline_delimited',
        columns = {city: 'VARCHAR', payment_type: 'VARCHAR', qty: 'BIGINT', price: 'DECIMAL(18, 2)'})
    GROUP BY city, payment_type""", [sys.argv[1]]).fetchall()
spent = cpu() - start
print(spent * 1e6, sum(r[2] for r in rows), int(sum(r[3] for r in rows) * 100))
"#;

pub(crate) fn file(figures: &Figures, python: &str, records: usize) -> Result<()> {
    const NAME: &str = "JSONL file, aggregate, over DuckDB with 1 thread";
    if !figures.wanted(NAME) {
        return Ok(());
    }
    let path = std::env::temp_dir().join(format!("ratios-{}.jsonl", std::process::id()));
    let written = || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path)?);
        for record in Pool::clean(records).iter() {
            out.write_all(record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    written().map_err(|e| Error::external("the orders could not be written to a file").caused_by(e))?;
    let n = records as u64;
    let mut answers = (None, None);
    let ours = || {
        let (us, running) = spent(aggregate("f", JsonLines::file(&path, Json::new(order::schema())), TOTALS), n);
        answers.0 = Some(answer(&running));
        us
    };
    let duckdb = || {
        let out = Command::new(python).args(["-c", QUERY]).arg(&path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut words = text.split_whitespace();
        let us: f64 = words.next().unwrap().parse().unwrap();
        answers.1 = Some((words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap()));
        us / n as f64
    };
    figures.measure(NAME, 1.45, ours, duckdb);
    let _ = std::fs::remove_file(&path); // it lies in the temporary folder
    assert_eq!(answers.0, answers.1, "both come to the same totals");
    Ok(())
}
