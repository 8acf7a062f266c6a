//! Operators that SQL does not know, as nodes of a plan: a user's closure over batches, and a user's own dataflow.
//!
//! Invariant: the optimiser neither changes such a node nor moves anything through it, for it cannot know what happens inside;
//! all columns of its input arrive. Name and version stand for the meaning, as state needs it.

use crate::error::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, internal_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A batch becomes a batch, with the source row of each output row; or the reason why the batch cannot be computed.
pub type BatchFn = Arc<dyn Fn(&RecordBatch) -> Result<(RecordBatch, Vec<u32>), String> + Send + Sync>;

/// A user's function, row by row: an output row depends on its source row alone.
#[derive(Clone)]
pub struct Closure {
    name: Arc<str>,
    version: u32,
    schema: DFSchemaRef,
    input: Arc<LogicalPlan>,
    f: BatchFn,
}

/// A user's own operator; whoever lowers the plan knows what the payload is.
#[derive(Clone)]
pub struct Custom {
    name: Arc<str>,
    version: u32,
    schema: DFSchemaRef,
    input: Arc<LogicalPlan>,
    payload: Arc<dyn Any + Send + Sync>,
}

impl Closure {
    /// A plan of one closure over `input`, whose batches have the columns of `schema`.
    ///
    /// # Errors
    /// A schema with two columns of one name.
    pub fn plan(name: impl Into<Arc<str>>, version: u32, schema: &SchemaRef, input: LogicalPlan, f: BatchFn) -> Result<LogicalPlan> {
        let node = Self { name: name.into(), version, schema: unqualified(schema)?, input: Arc::new(input), f };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// The closure at the top of `plan`.
    pub fn of(plan: &LogicalPlan) -> Option<&Self> {
        node(plan)
    }

    /// The function.
    pub fn function(&self) -> &BatchFn {
        &self.f
    }
}

impl Custom {
    /// A plan of one operator of the user's over `input`, whose output has the columns of `schema`.
    ///
    /// # Errors
    /// A schema with two columns of one name.
    pub fn plan(
        name: impl Into<Arc<str>>,
        version: u32,
        schema: &SchemaRef,
        input: LogicalPlan,
        payload: Arc<dyn Any + Send + Sync>,
    ) -> Result<LogicalPlan> {
        let node = Self { name: name.into(), version, schema: unqualified(schema)?, input: Arc::new(input), payload };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// The operator at the top of `plan`.
    pub fn of(plan: &LogicalPlan) -> Option<&Self> {
        node(plan)
    }

    /// What [`Custom::plan`] was given.
    pub fn payload(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.payload
    }
}

fn unqualified(schema: &SchemaRef) -> Result<DFSchemaRef> {
    DFSchema::try_from(schema.clone()).map(Arc::new).map_err(|e| {
        let error = Error::user("an operator's columns need names of their own").why(e.strip_backtrace());
        error.hint("rename one of them in the schema that the operator is given")
    })
}

fn node<T: 'static>(plan: &LogicalPlan) -> Option<&T> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

/// What both nodes tell DataFusion; `$what` is the part that makes two nodes of one name different.
macro_rules! opaque_node {
    ($node:ident, $what:ident) => {
        impl $node {
            /// The name that the user gave.
            pub fn name(&self) -> &str {
                &self.name
            }

            /// The version that the user gave.
            pub fn version(&self) -> u32 {
                self.version
            }

            /// What it reads.
            pub fn input(&self) -> &LogicalPlan {
                &self.input
            }
        }

        impl fmt::Debug for $node {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                UserDefinedLogicalNodeCore::fmt_for_explain(self, f)
            }
        }

        impl PartialEq for $node {
            fn eq(&self, other: &Self) -> bool {
                (&self.name, self.version, &self.schema) == (&other.name, other.version, &other.schema)
                    && Arc::ptr_eq(&self.$what, &other.$what)
                    && self.input == other.input
            }
        }

        impl Eq for $node {}

        impl PartialOrd for $node {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                if self == other {
                    return Some(Ordering::Equal);
                }
                Some((&self.name, self.version).cmp(&(&other.name, other.version))).filter(|o| o.is_ne())
            }
        }

        impl Hash for $node {
            fn hash<H: Hasher>(&self, state: &mut H) {
                (&self.name, self.version, &self.input).hash(state);
            }
        }

        impl UserDefinedLogicalNodeCore for $node {
            fn name(&self) -> &str {
                stringify!($node)
            }

            fn inputs(&self) -> Vec<&LogicalPlan> {
                vec![&self.input]
            }

            fn schema(&self) -> &DFSchemaRef {
                &self.schema
            }

            fn expressions(&self) -> Vec<Expr> {
                Vec::new()
            }

            fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}: {} v{}", stringify!($node), self.name, self.version)
            }

            fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self, DataFusionError> {
                match <[LogicalPlan; 1]>::try_from(inputs) {
                    Ok([input]) => Ok(Self { input: Arc::new(input), ..self.clone() }),
                    Err(inputs) => internal_err!("{} has one input, not {}", stringify!($node), inputs.len()),
                }
            }
        }
    };
}

opaque_node!(Closure, f);
opaque_node!(Custom, payload);
