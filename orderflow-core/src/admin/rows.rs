//! Rows of a stored view, or of a stored state, as of the newest checkpoint.

use super::settled;
use crate::error::{Error, Result, Retry};
use crate::operator::aggregate::StoredRows;
use crate::state::{Manifest, read};
use crate::store::Store;
use crate::time::Epoch;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use std::sync::Arc;

/// What to do about a state that contradicts itself.
const VERIFY: &str = "`orderflow state verify` says what else is damaged; a start goes on from the older checkpoint if that one is whole";

/// The rows of view `what`, or of the stored state of that number (from 0, as [`describe`](super::describe()) lists them), as of the newest checkpoint that is
/// whole, whose epoch comes with them. All of them are in memory.
///
/// # Errors
/// Nothing that is stored has this name; a view whose rows are computed from what is stored; state that cannot be read.
pub fn rows(store: &Arc<dyn Store>, place: &str, what: &str) -> Result<(Epoch, RecordBatch)> {
    settled(store, place, |seen| {
        let none =
            Error::user(format!("nothing is stored in {place} yet")).hint("checkpoints are written every 10 s of work and at a good end");
        let mut last = none;
        for checkpoint in seen.found.checkpoints.iter().rev() {
            match Manifest::load(&**store, checkpoint).and_then(|m| of(&**store, &m, what)) {
                Ok(rows) => return Ok((checkpoint.epoch, rows)),
                Err(e) if e.retry() == Retry::Backoff || e.kind() == crate::error::Kind::User => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    })
}

fn of(store: &dyn Store, manifest: &Manifest, what: &str) -> Result<RecordBatch> {
    let view = manifest.views.iter().find(|v| v.view == what);
    let number = view.map(|v| v.root).or_else(|| what.parse().ok());
    let Some(root) = number.and_then(|n| manifest.roots.get(n)) else {
        let views = manifest.views.iter().map(|v| v.view.clone());
        let states = manifest.roots.iter().enumerate().map(|(n, root)| format!("{n} ({})", root.text));
        return Err(Error::user(format!("no rows of '{what}' are stored"))
            .why("a view that is computed from stored state by more than a choice of columns is not stored itself")
            .hint(format!(
                "there are: {}; a running pipeline answers for every view",
                views.chain(states).collect::<Vec<_>>().join(", ")
            )));
    };
    let about = root.rows.clone().ok_or_else(|| {
        Error::user("this state was stored by a version that did not say how it makes rows")
            .hint("start the pipeline once: the next checkpoint says it")
    })?;
    let wrong = |e| Error::external("the description of a stored state makes no sense").caused_by(e).hint(VERIFY).permanent();
    let about: StoredRows = serde_json::from_value(about).map_err(wrong)?;
    let trace = |files: &Vec<_>| files.iter().map(|f| read(store, f)).collect::<Result<Vec<_>>>();
    let rows = about.read(&root.traces.iter().map(trace).collect::<Result<Vec<_>>>()?)?;
    let Some(view) = view else { return Ok(rows) };
    let schema = rows.schema();
    let fits = view.columns.iter().all(|(_, i)| *i < schema.fields().len());
    if !fits {
        return Err(Error::external("the description of a stored view makes no sense").hint(VERIFY).permanent());
    }
    let fields = view.columns.iter().map(|(name, i)| {
        let field = schema.field(*i);
        Field::new(name, field.data_type().clone(), field.is_nullable())
    });
    let columns = view.columns.iter().map(|(_, i)| rows.column(*i).clone()).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns, &options)?)
}
