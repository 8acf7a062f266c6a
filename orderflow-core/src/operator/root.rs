//! Roots: the kept state that is stored, because nothing that is stored would give it again.
//!
//! A stream is *live* when its past lies outside: in a source. An arrangement of a live stream is a root; one below an arrangement is derived,
//! for the root above it shows its rows again. A root is known by what it computes ([`Shape::text`]), never by its place in the
//! pipeline, so that a view can be added without losing the others.
//! ```text
//!   source ─► map ─► group by ──► map ─► group by        source ─► filter ─► rows of a view that can be read
//!                    └ root              └ derived                           └ root
//! ```
//! Invariant: what [`TraceShape::encode`] wrote, [`TraceShape::decode`] reads back, in this version and later ones: typed columns, never row bytes, which may
//! change with Arrow; words as narrow as a file's largest allows.

use super::aggregate::{Aggregate, StoredRows};
use super::map::Step;
use super::{Node, keep};
use crate::bug::{Bug, planted};
use crate::data::rowkey::RowCodec;
use crate::dataflow::arrange::{Accs, Arrangement, Bytes, Sealed};
use crate::dataflow::partials::Partials;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt8Type};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Version of the meaning of accumulators, and of the texts below.
const VERSION: u32 = 1;

/// What a root computes, and how its traces are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it computes, from the source on.
    pub text: String,
    /// The scalar functions that it calls for that.
    pub calls: BTreeSet<String>,
    /// Its traces.
    pub traces: Vec<TraceShape>,
    /// How they make rows.
    pub rows: StoredRows,
}

/// A view whose rows are those of a root, but for the choice and the names of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootView {
    /// Its name.
    pub view: String,
    /// Number of the root.
    pub root: usize,
    /// Its columns: name, and number among the root's.
    pub columns: Vec<(String, usize)>,
}

/// The columns of a stored trace: bucket, key columns, accumulators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceShape {
    /// Types of the key's columns.
    pub types: Vec<DataType>,
    /// How many of the last ones sort in reverse.
    pub descending: usize,
    /// Words of the accumulators.
    pub width: usize,
}

/// The stored files of a trace, the oldest first, each with the epoch up to which it is.
pub type StoredTrace = Vec<(u64, Arc<Vec<RecordBatch>>)>;

/// Whether the past of a node's output lies outside; `views`: whether that of each view does.
pub fn is_live(node: &Node, views: &[bool]) -> bool {
    match node {
        Node::Source { .. } => true,
        Node::View { view, .. } => views.get(*view).copied().unwrap_or(true),
        Node::Aggregate(..) => false,
        Node::Map(..) | Node::Union(..) | Node::Closure(..) | Node::Custom(..) => node.inputs().into_iter().any(|n| is_live(n, views)),
    }
}

/// What is stored of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Its roots, in the order in which they are rendered.
    pub shapes: Vec<Shape>,
    /// The views that can be read from them without the pipeline.
    pub views: Vec<RootView>,
    /// Whether something is computed from state again: roots must show their rows after a start.
    pub feeds: bool,
    /// Whether the past of what each sink is given lies outside.
    pub live_outputs: Vec<bool>,
}

impl Roots {
    /// Of the views with their names, and then of what sinks are given; `source` names a source. `None` if a user's own operator may hold what nobody can store.
    pub fn of<'a>(
        views: impl IntoIterator<Item = (&'a str, &'a Node)>,
        outputs: impl IntoIterator<Item = &'a Node>,
        source: &dyn Fn(usize) -> String,
    ) -> Result<Option<Self>> {
        let mut roots = Roots::default();
        let mut known = Views { live: vec![], state: vec![], texts: vec![], calls: vec![], rows: vec![], source };
        for (name, node) in views {
            if !roots.visit(node, &known)? {
                return Ok(None);
            }
            let mut rows = known.rows(node, roots.shapes.len());
            let (live, state, text) = (is_live(node, &known.live), known.has_state(node), known.text(node));
            let calls = known.calls(node);
            // the rows of a view that can be read: in the aggregate that they come from, or kept
            match (state, live) {
                (true, _) => {}
                (false, true) => {
                    let plan = keep::all_columns(&node.schema())?;
                    rows = Some((roots.shapes.len(), all(&node.schema())));
                    let (text, traces) = (format!("{VERSION} rows of {text}"), trace_shapes(&plan));
                    roots.shapes.push(Shape { text, calls: calls.clone(), traces, rows: StoredRows::of(&plan, true)? });
                }
                (false, false) => roots.feeds = true,
            }
            known.live.push(live);
            known.state.push(state);
            known.texts.push(text);
            known.calls.push(calls);
            roots.views.extend(rows.clone().map(|(root, columns)| RootView { view: name.to_owned(), root, columns }));
            known.rows.push(rows);
        }
        for node in outputs {
            if !roots.visit(node, &known)? {
                return Ok(None);
            }
            roots.live_outputs.push(is_live(node, &known.live));
        }
        Ok(Some(roots))
    }

    /// The aggregates of a node, those below first.
    fn visit(&mut self, node: &Node, views: &Views<'_>) -> Result<bool> {
        for input in node.inputs() {
            if !self.visit(input, views)? {
                return Ok(false);
            }
        }
        match node {
            Node::Aggregate(input, plan) if is_live(input, &views.live) => {
                let (text, calls) = (format!("{VERSION} {}", views.text(node)), views.calls(node));
                self.shapes.push(Shape { text, calls, traces: trace_shapes(plan), rows: StoredRows::of(plan, false)? });
            }
            Node::Aggregate(..) => self.feeds = true,
            Node::Custom(..) => return Ok(false),
            _ => {}
        }
        Ok(true)
    }
}

/// A root, and columns of it with their names.
type Chosen = (usize, Vec<(String, usize)>);

/// What is known of the views before a node.
struct Views<'a> {
    live: Vec<bool>,
    /// Whether an aggregate can answer for its rows.
    state: Vec<bool>,
    texts: Vec<String>,
    /// The scalar functions that each calls, and the views that it reads.
    calls: Vec<BTreeSet<String>>,
    /// The root that has its rows, and which of its columns they are.
    rows: Vec<Option<Chosen>>,
    source: &'a dyn Fn(usize) -> String,
}

impl Views<'_> {
    /// Whether an aggregate below can answer for the rows of a node, as rendering finds.
    fn has_state(&self, node: &Node) -> bool {
        match node {
            Node::Aggregate(..) => true,
            Node::Map(input, _) => self.has_state(input),
            Node::View { view, .. } => self.state[*view],
            _ => false,
        }
    }

    /// The root that has the rows of a node, where only columns are chosen and named above it; `roots` are known, the node's own the last of them.
    fn rows(&self, node: &Node, roots: usize) -> Option<Chosen> {
        match node {
            Node::Aggregate(input, plan) if is_live(input, &self.live) => Some((roots.checked_sub(1)?, all(&plan.schema))),
            Node::View { view, columns, .. } => {
                let (root, below) = self.rows[*view].as_ref()?;
                Some((*root, columns.iter().map(|c| below[*c].clone()).collect()))
            }
            Node::Map(input, map) => {
                let (root, mut columns) = self.rows(input, roots)?;
                for step in &map.steps {
                    let Step::Project(exprs, schema) = step else { return None };
                    let column = |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<Column>().map(|c| columns[c.index()].1);
                    let chosen = exprs.iter().map(column).collect::<Option<Vec<_>>>()?;
                    columns = schema.fields().iter().map(|f| f.name().clone()).zip(chosen).collect();
                }
                Some((root, columns))
            }
            _ => None,
        }
    }

    /// The scalar functions that a node calls, from the source on.
    fn calls(&self, node: &Node) -> BTreeSet<String> {
        let mut found = node.calls();
        node.walk(&mut |n| {
            if let Node::View { view, .. } = n {
                found.extend(self.calls[*view].iter().cloned());
            }
        });
        found
    }

    /// What a node computes, from the source on.
    fn text(&self, node: &Node) -> String {
        let names = |schema: &SchemaRef| schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
        let typed =
            |schema: &SchemaRef| schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ");
        match node {
            Node::Source { source, schema, .. } => format!("{} [{}]", (self.source)(*source), typed(schema)),
            Node::View { view, schema, .. } => format!("({}) [{}]", self.texts[*view], names(schema)),
            Node::Map(input, map) => map.steps.iter().fold(self.text(input), |text, step| format!("{text} | {step}")),
            Node::Aggregate(input, plan) => format!("{} | {plan}", self.text(input)),
            Node::Union(inputs, _) => format!("union({})", inputs.iter().map(|n| self.text(n)).collect::<Vec<_>>().join("; ")),
            Node::Closure(input, c) => format!("{} | closure {} version {}", self.text(input), c.name, c.version),
            Node::Custom(input, c) => format!("{} | operator {}", self.text(input), c.name),
        }
    }
}

fn all(schema: &SchemaRef) -> Vec<(String, usize)> {
    schema.fields().iter().enumerate().map(|(i, f)| (f.name().clone(), i)).collect()
}

/// The traces of an aggregate: its groups, then one of values for each call that needs them.
pub(super) fn trace_shapes(plan: &Aggregate) -> Vec<TraceShape> {
    let own = TraceShape { types: plan.key_types.clone(), descending: 0, width: plan.width };
    let values = plan.values.iter().map(|v| TraceShape {
        types: plan.key_types.iter().chain([&v.data_type]).cloned().collect(),
        descending: usize::from(v.descending),
        width: 1,
    });
    std::iter::once(own).chain(values).collect()
}

impl TraceShape {
    /// The stored columns, for words of up to these sizes.
    pub fn schema(&self, bounds: &Bounds) -> SchemaRef {
        let keys = self.types.iter().enumerate().map(|(i, t)| Field::new(format!("key{i}"), t.clone(), true));
        let words = bounds.0.iter().enumerate().map(|(i, bound)| Field::new(format!("word{i}"), narrowest(*bound), false));
        Arc::new(Schema::new(std::iter::once(Field::new("bucket", DataType::UInt8, false)).chain(keys).chain(words).collect::<Vec<_>>()))
    }

    fn codec(&self) -> Result<RowCodec> {
        RowCodec::new(&self.types, self.descending)
    }

    /// Rows `from..to` of a trace's content as columns; no word is larger than `bounds` say.
    ///
    /// # Errors
    /// Only if Arrow refuses, which is a bug.
    pub fn encode(&self, content: &Partials, from: usize, to: usize, bounds: &Bounds) -> Result<RecordBatch> {
        let (keys, accs) = (&content.keys, &content.accs);
        let live: Vec<usize> = (from..to).filter(|i| accs.get(*i).iter().any(|w| *w != 0)).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt8Array::from_iter_values(live.iter().map(|i| keys.get(*i)[0])))];
        if !self.types.is_empty() {
            columns.extend(self.codec()?.decode(live.iter().map(|i| &keys.get(*i)[1..]))?);
        }
        for (word, bound) in bounds.0.iter().enumerate() {
            let values = live.iter().map(|i| accs.get(*i)[word]);
            columns.push(match narrowest(*bound) {
                DataType::Int32 => Arc::new(Int32Array::from_iter_values(values.map(|v| v as i32))),
                DataType::Int64 => Arc::new(Int64Array::from_iter_values(values.map(|v| v as i64))),
                wide => Arc::new(Decimal128Array::from_iter_values(values).with_data_type(wide)),
            });
        }
        Ok(RecordBatch::try_new(self.schema(bounds), columns)?)
    }

    /// The words of stored columns.
    ///
    /// # Errors
    /// Columns that are not this shape's.
    fn words<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Words<'a>>> {
        let wrong = || Error::external("a stored state has other columns than it should");
        let (schema, first) = (batch.schema_ref(), 1 + self.types.len());
        let key = |(i, t): (usize, &DataType)| *schema.field(1 + i).data_type() == *t;
        if batch.num_columns() != first + self.width
            || *schema.field(0).data_type() != DataType::UInt8
            || !self.types.iter().enumerate().all(key)
            || batch.columns().iter().enumerate().any(|(i, c)| !(1..first).contains(&i) && c.null_count() > 0)
        {
            return Err(wrong());
        }
        let word = |column: &'a ArrayRef| match column.data_type() {
            DataType::Int32 => Ok(Words::Four(column.as_primitive::<Int32Type>().values())),
            DataType::Int64 => Ok(Words::Eight(column.as_primitive::<Int64Type>().values())),
            wide if *wide == WIDE => Ok(Words::Sixteen(column.as_primitive::<Decimal128Type>().values())),
            _ => Err(wrong()),
        };
        batch.columns()[first..].iter().map(word).collect()
    }

    /// The rows of stored columns whose bucket is one of `buckets`, as sorted content.
    ///
    /// # Errors
    /// Columns that are not this shape's.
    pub fn decode(&self, batches: &[RecordBatch], buckets: std::ops::Range<usize>) -> Result<Partials> {
        let (mut keys, mut accs) = (Bytes::default(), Accs::with_width(self.width, 0));
        let codec = if self.types.is_empty() { None } else { Some(self.codec()?) };
        for batch in batches {
            let words = self.words(batch)?;
            let of = batch.column(0).as_primitive::<UInt8Type>().values();
            // sorted by bucket
            let (from, to) =
                (of.partition_point(|b| usize::from(*b) < buckets.start), of.partition_point(|b| usize::from(*b) < buckets.end));
            let batch = batch.slice(from, to - from);
            let rows = codec.as_ref().map(|c| c.encode(&batch.columns()[1..=self.types.len()])).transpose()?;
            for i in from..to {
                keys.push_pair(of[i], rows.as_ref().map_or(&[][..], |r| r.row(i - from).data()));
                accs.push_zero().iter_mut().zip(&words).for_each(|(w, column)| *w = column.get(i));
            }
        }
        let content = Partials { trace: 0, keys, accs };
        Ok(if content.is_sorted() { content } else { content.sorted() })
    }
}

/// Words that fit nowhere else; so were all of them in files of format 1.
const WIDE: DataType = DataType::Decimal128(38, 0);

/// The type of stored words whose magnitude is at most `bound`.
fn narrowest(bound: u128) -> DataType {
    if bound <= i32::MAX as u128 {
        DataType::Int32
    } else if bound <= i64::MAX as u128 {
        DataType::Int64
    } else {
        WIDE
    }
}

/// A stored column of words.
enum Words<'a> {
    Four(&'a [i32]),
    Eight(&'a [i64]),
    Sixteen(&'a [i128]),
}

impl Words<'_> {
    #[inline]
    fn get(&self, i: usize) -> i128 {
        match self {
            Words::Four(words) => words[i].into(),
            Words::Eight(words) => words[i].into(),
            Words::Sixteen(words) => words[i],
        }
    }

    /// The largest magnitude.
    fn bound(&self) -> u128 {
        match self {
            Words::Four(words) => words.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0).into(),
            Words::Eight(words) => words.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0).into(),
            Words::Sixteen(words) => words.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0),
        }
    }
}

/// The largest magnitude that each word of some content can have: most are counts and sums far below 2^63, and are stored as narrow as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds(Vec<u128>);

impl Bounds {
    /// Of content of this many words a key.
    pub fn of(width: usize, content: &Partials) -> Self {
        let mut bounds = vec![0; width];
        for i in 0..content.accs.count() {
            bounds.iter_mut().zip(content.accs.get(i)).for_each(|(b, w)| *b = u128::max(*b, w.unsigned_abs()));
        }
        Self(bounds)
    }

    /// Of what files add up to, whatever they have in common.
    ///
    /// # Errors
    /// Columns that are not the shape's.
    pub fn of_sum<'a>(shape: &TraceShape, files: impl IntoIterator<Item = &'a Vec<RecordBatch>>) -> Result<Self> {
        let mut sum = vec![0_u128; shape.width];
        for file in files {
            let mut bounds = vec![0; shape.width];
            for batch in file {
                bounds.iter_mut().zip(shape.words(batch)?).for_each(|(b, words)| *b = u128::max(*b, words.bound()));
            }
            sum.iter_mut().zip(bounds).for_each(|(s, b)| *s = s.saturating_add(b));
        }
        Ok(Self(sum))
    }
}

/// The traces of one operator of one worker, which may be a root.
#[derive(Clone, Default)]
pub struct Root {
    /// Its traces, once it is built.
    pub traces: Rc<RefCell<Vec<Arrangement>>>,
    /// Until which epoch it was restored, once it is.
    pub restored: Rc<Cell<Option<Restored>>>,
    /// The first epoch of this run.
    pub first: u64,
    /// Whether what comes in is kept until it is sealed.
    pub stored: bool,
    /// Whether it may be restored at the first epoch.
    pub restoring: bool,
}

/// What a restored root must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// It holds everything up to this epoch: updates until then are ignored, whoever sends them.
    pub upto: u64,
    /// Whether it shows all its rows at that epoch, for what is derived from it and for sinks that are new.
    pub show: bool,
}

impl Root {
    /// Takes the operator's traces.
    pub fn built(&self, mut traces: Vec<Arrangement>) {
        if self.stored {
            traces.iter_mut().for_each(Arrangement::store);
        }
        *self.traces.borrow_mut() = traces;
    }

    /// What holds at `epoch` if what comes in then is to be ignored.
    pub fn ignores(&self, epoch: u64) -> Option<Restored> {
        self.restored.get().filter(|r| epoch <= r.upto && !planted(Bug::RootHearsOld))
    }

    /// Fills the traces from stored content, each file with the epoch up to which it is, the oldest first.
    ///
    /// # Errors
    /// Columns that do not fit.
    pub fn restore(&self, shape: &Shape, files: &[StoredTrace], buckets: std::ops::Range<usize>, state: Restored) -> Result<()> {
        for ((trace, shape), files) in self.traces.borrow_mut().iter_mut().zip(&shape.traces).zip(files) {
            for (epoch, batches) in files {
                let content = shape.decode(batches, buckets.clone())?;
                trace.load(*epoch, content.keys, content.accs);
            }
        }
        self.restored.set(Some(state));
        Ok(())
    }

    /// Lets go of what came in at epochs ≤ `upto` and was not let go of before, by trace.
    pub fn seal(&self, upto: u64) -> Vec<Sealed> {
        self.traces.borrow_mut().iter_mut().map(|t| t.seal(upto)).collect()
    }

    /// Bytes that were not let go of.
    pub fn unsaved(&self) -> usize {
        self.traces.borrow().iter().map(Arrangement::unsaved).sum()
    }
}

#[cfg(test)]
mod tests;
