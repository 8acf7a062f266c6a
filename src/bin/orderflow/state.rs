//! `orderflow state …` and `orderflow reset-sink`: the engine's own tools for kept state, and how they are shown.
//!
//! Invariant: all that is decided is decided in `orderflow::admin`; here it becomes tables and files. A file that is exported is there whole or not at all.

use crate::args::{Format, Output, ResetSink, State};
use comfy_table::{Cell, CellAlignment, Table, presets};
use orderflow::admin::{self, Description};
use orderflow::arrow::array::RecordBatch;
use orderflow::arrow::{csv, json};
use orderflow::store::{self, Store};
use orderflow::{Error, Result};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

/// Runs one of the tools.
pub(crate) fn run(command: State) -> Result<()> {
    match command {
        State::Ls { dir, json } => {
            let found = admin::describe(&look(&dir)?, &place(&dir))?;
            if json {
                return print_json(&found);
            }
            show(&found);
            Ok(())
        }
        State::Verify { dir, json } => verify(&dir, json),
        State::Export { dir, what, out } => {
            let (epoch, rows) = admin::rows(&look(&dir)?, &place(&dir), &what)?;
            write(&out, &rows)?;
            println!("{} rows as of epoch {epoch} in {}", rows.num_rows(), out.path.display());
            Ok(())
        }
        State::Fork { dir, new_dir } => {
            let to = store::open(&new_dir)?;
            let forked = admin::fork(&look(&dir)?, &place(&dir), &to, &place(&new_dir))?;
            let how =
                if forked.stored { format!("with {} of stored views", bytes(forked.bytes)) } else { "without stored views".to_owned() };
            println!("{} goes on after epoch {}, {how}, as ledger {}", new_dir.display(), forked.epoch, forked.ledger);
            println!("its sinks are new: give it other places, and the pipeline another name");
            Ok(())
        }
    }
}

/// Runs `orderflow reset-sink`.
pub(crate) fn reset(command: ResetSink) -> Result<()> {
    look(&command.dir)?;
    let store = store::open(&command.dir)?;
    let reset = admin::reset_sink(&store, &place(&command.dir), &command.sink)?;
    match reset.held {
        Some(held) => println!("{} is forgotten; it held everything up to epoch {}", reset.sink, held.epoch),
        None => println!("{} is forgotten; it was not known to hold rows", reset.sink),
    }
    println!("{}", reset.advice);
    Ok(())
}

fn place(dir: &Path) -> String {
    dir.display().to_string()
}

/// A folder or an object store that is there, to look only.
fn look(dir: &Path) -> Result<Arc<dyn Store>> {
    store::look(dir)?.ok_or_else(|| {
        Error::user(format!("there is no folder {}", dir.display())).hint("name the folder that was given to Pipeline::state(…)")
    })
}

fn verify(dir: &Path, json: bool) -> Result<()> {
    let found = admin::verify(&look(dir)?, &place(dir))?;
    if json {
        print_json(&found)?;
    } else {
        println!(
            "read {} entries, {} checkpoints, {} files with {} rows, {}",
            found.entries,
            found.manifests,
            found.files,
            found.rows,
            bytes(found.bytes)
        );
        found.unneeded.iter().for_each(|name| println!("not needed by a complete checkpoint: {name}"));
    }
    if found.is_good() {
        if !json {
            println!("all is well");
        }
        return Ok(());
    }
    let why = found.problems.iter().map(|p| format!("\n  {}: {}", p.object, p.why)).collect::<String>();
    Err(Error::external(format!("the state in {} is damaged", dir.display())).why(why).hint(found.advice.unwrap_or_default()))
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal("this cannot be shown as JSON").caused_by(e))?;
    println!("{text}");
    Ok(())
}

fn write(out: &Output, rows: &RecordBatch) -> Result<()> {
    // written aside first, and renamed when it is whole
    let aside = out.path.with_added_extension("part");
    let failed = |e: &dyn std::fmt::Display| {
        let error = Error::external(format!("cannot write {}", out.path.display())).why(e);
        error.hint("name a file in a folder that is there, can be written and has room, by --out")
    };
    let copy = || -> Result<()> {
        let file = BufWriter::new(File::create(&aside).map_err(|e| failed(&e))?);
        match out.format {
            Format::Csv => csv::Writer::new(file).write(rows).map_err(|e| failed(&e)),
            Format::JsonLines => {
                let mut writer = json::LineDelimitedWriter::new(file);
                writer.write(rows).and_then(|()| writer.finish()).map_err(|e| failed(&e))
            }
            Format::Parquet => {
                let writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None);
                let written = writer.and_then(|mut writer| writer.write(rows).and_then(|()| writer.close()));
                written.map(drop).map_err(|e| failed(&e))
            }
        }?;
        std::fs::rename(&aside, &out.path).map_err(|e| failed(&e))
    };
    copy().inspect_err(|_| {
        let _ = std::fs::remove_file(&aside); // it may never have been made
    })
}

fn show(found: &Description) {
    println!("ledger {}, {} entries, {} openings", found.ledger, found.entries, found.generations.len());
    if let Some(last) = found.generations.last() {
        println!("generation {}, opened {}", last.generation, last.opened_at.map_or("at an unknown time".to_owned(), time));
    }
    let minted = found.minted_at.map_or(String::new(), |at| format!(", closed {}", time(at)));
    println!("newest epoch {}{minted}; all sinks hold epoch {}\n", found.epoch, found.held);
    let or_none = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
    let sources = found.sources.iter().map(|s| vec![s.source.clone(), s.partition.clone(), or_none(s.began), s.position.to_string()]);
    table(&["source", "partition", "began", "position"], 2, sources);
    let sinks = found.sinks.iter().map(|s| {
        let holds = s.holds.map_or("nothing: it is new".to_owned(), |e| e.to_string());
        vec![s.name.clone(), holds, or_none(s.generation), or_none(s.born)]
    });
    table(&["sink", "holds epoch", "of generation", "born in"], 1, sinks);
    let checkpoints = found.checkpoints.iter().map(|c| {
        let files = if c.damaged.is_some() { "damaged".to_owned() } else { c.files.to_string() };
        vec![c.manifest.clone(), c.epoch.to_string(), files, c.rows.to_string(), bytes(c.bytes)]
    });
    table(&["checkpoint", "epoch", "files", "rows", "bytes"], 1, checkpoints);
    let newest = found.checkpoints.iter().rev().find(|c| c.damaged.is_none());
    let states = newest.iter().flat_map(|c| c.states.iter().enumerate()).map(|(number, s)| {
        let views = if s.views.is_empty() { "-".to_owned() } else { s.views.join(", ") };
        vec![format!("{number} {}", s.text), views, s.files.to_string(), s.rows.to_string(), bytes(s.bytes)]
    });
    table(&["stored state", "views", "files", "rows", "bytes"], 2, states);
    let stored: Vec<&String> = newest.iter().flat_map(|c| c.states.iter().flat_map(|s| &s.views)).collect();
    let derived: Vec<&str> = found.views.iter().filter(|v| !stored.contains(v)).map(String::as_str).collect();
    if !derived.is_empty() {
        println!("computed from stored states: {}", derived.join(", "));
    }
}

/// Prints a table, numbers from column `numbers` on; nothing if it has no rows.
fn table(header: &[&str], numbers: usize, rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    let mut any = false;
    for row in rows {
        any = true;
        let cell = |(i, text): (usize, String)| {
            let cell = Cell::new(text);
            if i >= numbers { cell.set_alignment(CellAlignment::Right) } else { cell }
        };
        table.add_row(row.into_iter().enumerate().map(cell).collect::<Vec<_>>());
    }
    if any {
        println!("{table}\n");
    }
}

fn time(unix_millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(unix_millis).map_or(unix_millis.to_string(), |t| t.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}
