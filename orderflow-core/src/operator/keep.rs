//! What can be read of a view: the state of an operator, seen through the stateless steps above it, or an arrangement of the
//! view's own rows where there is no such state.
//!
//! Invariant: a scan as of epoch *e* gives exactly the rows of the view after *e*, this worker's share of them, whatever came later;
//! it is possible for every *e* that was not forgotten.

use super::aggregate::{self, Aggregate};
use super::eval::{Blame, Rejects};
use super::map::Map;
use super::render::Failure;
use super::root::Root;
use super::tally::Tally;
use crate::data::Changes;
use crate::data::rowkey::codec_of;
use crate::dataflow::Stream;
use crate::dataflow::arrange::{Arrangement, Bytes, Reader};
use crate::dataflow::partials::{Partials, Pending, by_bucket};
use crate::error::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Operator, Probe};

/// One worker's share of a view's rows.
pub trait State {
    /// Epochs below `epoch` will not be asked for again.
    fn forget(&self, epoch: u64);

    /// All rows as of `upto`.
    ///
    /// # Errors
    /// Only if Arrow refuses, which is a bug.
    fn scan(&self, upto: u64) -> Result<Vec<RecordBatch>>;

    /// Updates held, before merging: a measure of memory.
    fn updates(&self) -> usize;
}

/// State seen through stateless steps.
pub struct Through {
    /// What is underneath.
    pub state: Rc<dyn State>,
    /// The steps.
    pub map: Arc<Map>,
    /// Name of the view.
    pub view: Arc<str>,
}

impl State for Through {
    fn forget(&self, epoch: u64) {
        self.state.forget(epoch);
    }

    fn scan(&self, upto: u64) -> Result<Vec<RecordBatch>> {
        // rows that a step refuses went to the dead letters when they changed; here they are just not there
        let blame = Blame {
            view: self.view.clone(),
            counted_as: self.view.clone(),
            rejects: Rejects::default(),
            pipeline: "".into(),
            tally: Tally::default(),
        };
        let mapped = self.state.scan(upto)?.into_iter().map(|b| self.map.apply(Changes::inserts(b), upto, &blame));
        mapped.filter(|c| !matches!(c, Ok(c) if c.is_empty())).map(|c| c.map(|c| c.rows().clone())).collect()
    }

    fn updates(&self) -> usize {
        self.state.updates()
    }
}

/// The columns `indices` of another view's state.
pub struct Selected {
    /// What is underneath.
    pub state: Rc<dyn State>,
    /// Columns.
    pub indices: Vec<usize>,
}

impl State for Selected {
    fn forget(&self, epoch: u64) {
        self.state.forget(epoch);
    }

    fn scan(&self, upto: u64) -> Result<Vec<RecordBatch>> {
        self.state.scan(upto)?.iter().map(|b| Ok(b.project(&self.indices)?)).collect()
    }

    fn updates(&self) -> usize {
        self.state.updates()
    }
}

struct Kept {
    schema: SchemaRef,
    reader: Rc<RefCell<Option<Reader>>>,
}

impl State for Kept {
    fn forget(&self, epoch: u64) {
        if let Some(r) = self.reader.borrow_mut().as_mut() {
            r.forget(epoch);
        }
    }

    fn scan(&self, upto: u64) -> Result<Vec<RecordBatch>> {
        let mut reader = self.reader.borrow_mut();
        let Some(reader) = reader.as_mut() else { return Ok(vec![]) };
        let mut keys = Bytes::default();
        reader.lookup().scan(upto, 1, |key, acc| (0..acc.0[0].max(0)).for_each(|_| keys.push(&key[1..])));
        if keys.count() == 0 {
            return Ok(vec![]);
        }
        let columns = codec_of(&self.schema)?.decode(keys.iter())?;
        Ok(vec![RecordBatch::try_new(self.schema.clone(), columns)?])
    }

    fn updates(&self) -> usize {
        self.reader.borrow().as_ref().map_or(0, Reader::updates)
    }
}

/// The plan that groups by all columns and computes nothing: `DISTINCT`, and the first half of keeping rows.
///
/// # Errors
/// A column that cannot be compared.
pub fn all_columns(schema: &SchemaRef) -> Result<Aggregate> {
    codec_of(schema)?;
    let column = |(i, f): (usize, &Arc<arrow::datatypes::Field>)| Arc::new(Column::new(f.name(), i)) as Arc<dyn PhysicalExpr>;
    Ok(Aggregate {
        keys: schema.fields().iter().enumerate().map(column).collect(),
        key_types: schema.fields().iter().map(|f| f.data_type().clone()).collect(),
        calls: vec![],
        schema: schema.clone(),
        width: 1,
        values: vec![],
    })
}

/// Keeps the rows of a stream; gives the state.
///
/// # Errors
/// A column that cannot be compared.
pub fn render(
    input: Stream<'_>,
    schema: &SchemaRef,
    blame: Blame,
    failure: Failure,
    probe: &ProbeHandle<u64>,
    root: Root,
) -> Result<Rc<dyn State>> {
    let plan = Arc::new(all_columns(schema)?);
    let partials = aggregate::combine(input, plan, blame, failure);
    let reader: Rc<RefCell<Option<Reader>>> = Rc::default();
    let shared = reader.clone();
    let scope = partials.scope();
    let done = partials.unary_frontier::<NoopBuilder<Changes>, _, _, _>(by_bucket(), "Keep", move |_, info| {
        let activator = scope.activator_for(info.address.clone());
        let arrangement = Arrangement::new(info, activator);
        *shared.borrow_mut() = Some(arrangement.reader());
        root.built(vec![arrangement]);
        let mut pending = Pending::default();
        move |(input, frontier), _| {
            input.for_each(|time, data| pending.of(*time.time(), || (time.retain(0), vec![])).push(std::mem::take(data)));
            while let Some((epoch, _, parts)) = pending.complete(frontier) {
                if root.ignores(epoch).is_none() {
                    let merged = Partials::merge(parts);
                    root.traces.borrow_mut()[0].insert(epoch, merged.keys, merged.accs);
                }
            }
        }
    });
    done.probe_with(probe);
    Ok(Rc::new(Kept { schema: schema.clone(), reader }))
}
