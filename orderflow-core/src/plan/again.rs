//! Plans that were made before: a test that builds one pipeline thousands of times would spend a good part of its time on planning it.
//!
//! Invariant: a plan is known again only to a catalog with the very same inputs, and only if nothing of a user's is within it (a closure, an operator, a
//! function), for those may remember the run that they were made for.

use super::input::Input;
use crate::error::Result;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::LogicalPlan;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static CURRENT: RefCell<Option<Plans>> = const { RefCell::new(None) };
}

/// Plans, and the inputs that they read. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Plans(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    inputs: Vec<Arc<Input>>,
    read: HashMap<(Inputs, String), LogicalPlan>,
    prepared: HashMap<(Inputs, LogicalPlan), LogicalPlan>,
}

/// A catalog's inputs, by where the known ones stand in memory, which they keep.
pub(super) type Inputs = Vec<usize>;

impl Plans {
    /// Catalogs that this thread makes meanwhile know these plans, and add to them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn used<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Before(Option<Plans>);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _before = Before(CURRENT.replace(Some(self.clone())));
        f()
    }

    /// Those that the thread uses.
    pub(super) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The input that is known already, or this one from now on.
    pub(super) fn input(&self, input: Arc<Input>) -> Arc<Input> {
        let mut known = self.known();
        if let Some(same) = known.inputs.iter().find(|i| ***i == *input) {
            return same.clone();
        }
        known.inputs.push(input.clone());
        input
    }

    /// The plan of a text: the known one, or what `plan` makes of it.
    pub(super) fn read(&self, inputs: Inputs, text: &str, plan: impl FnOnce() -> Result<LogicalPlan>) -> Result<LogicalPlan> {
        self.of(|known| &mut known.read, (inputs, text.to_owned()), plan)
    }

    /// What a plan, as it was written, comes to when it is checked and optimised: the known one, or what `prepare` makes of it.
    pub(super) fn prepared(
        &self,
        inputs: Inputs,
        plan: LogicalPlan,
        prepare: impl FnOnce(LogicalPlan) -> Result<LogicalPlan>,
    ) -> Result<LogicalPlan> {
        let has_user_code = plan.exists(|node| Ok(matches!(node, LogicalPlan::Extension(_)))).unwrap_or(true);
        if has_user_code {
            return prepare(plan);
        }
        self.of(|known| &mut known.prepared, (inputs, plan.clone()), || prepare(plan))
    }

    fn of<K: Eq + Hash>(
        &self,
        kind: fn(&mut Known) -> &mut HashMap<K, LogicalPlan>,
        key: K,
        plan: impl FnOnce() -> Result<LogicalPlan>,
    ) -> Result<LogicalPlan> {
        if let Some(plan) = kind(&mut self.known()).get(&key) {
            return Ok(plan.clone());
        }
        let plan = plan()?;
        kind(&mut self.known()).insert(key, plan.clone());
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BatchFn, Catalog, Closure, Function};
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};

    const TEXT: &str = "SELECT k, count(*) AS n FROM s WHERE v > 1 GROUP BY k";

    fn columns(kind: DataType) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", kind, false)]))
    }

    fn catalog(columns: SchemaRef, hidden: Vec<Field>) -> Catalog {
        let mut catalog = Catalog::new();
        catalog.add_source("s", columns, hidden).unwrap();
        catalog
    }

    fn counts(plans: &Plans) -> (usize, usize, usize) {
        let known = plans.known();
        (known.inputs.len(), known.read.len(), known.prepared.len())
    }

    #[test]
    fn the_same_text_over_the_same_inputs_is_planned_once_and_gives_the_same_plan() {
        let plain = catalog(columns(DataType::Int64), vec![]);
        let expected = plain.prepare(plain.sql(TEXT).unwrap()).unwrap();
        let plans = Plans::default();
        for _ in 0..3 {
            let catalog = plans.used(|| catalog(columns(DataType::Int64), vec![]));
            assert_eq!(catalog.prepare(catalog.sql(TEXT).unwrap()).unwrap(), expected);
            assert_eq!(counts(&plans), (1, 1, 1));
        }
        assert!(Plans::current().is_none(), "not longer than it is used");
    }

    #[test]
    fn other_inputs_are_planned_anew() {
        let plans = Plans::default();
        let of = |columns, hidden| {
            let catalog = plans.used(|| catalog(columns, hidden));
            catalog.prepare(catalog.sql("SELECT * FROM s").unwrap()).unwrap().schema().fields().clone()
        };
        let ints = of(columns(DataType::Int64), vec![]);
        let floats = of(columns(DataType::Float64), vec![]);
        assert_ne!(ints, floats);
        let hidden = vec![Field::new("_offset", DataType::Int64, false)];
        assert_eq!(of(columns(DataType::Int64), hidden), ints, "a hidden column stays hidden");
        assert_eq!(counts(&plans), (3, 3, 3));
    }

    #[test]
    fn nothing_of_a_users_is_kept() {
        let plans = Plans::default();
        let closure: BatchFn = Arc::new(|batch| Ok((batch.clone(), (0..batch.num_rows() as u32).collect())));
        let with_closure = plans.used(|| catalog(columns(DataType::Int64), vec![]));
        let scan = with_closure.source_scan("s").unwrap();
        with_closure.prepare(Closure::plan("mine", 1, &columns(DataType::Int64), scan, closure).unwrap()).unwrap();
        assert_eq!(counts(&plans), (1, 0, 0));

        let mut with_function = plans.used(|| catalog(columns(DataType::Int64), vec![]));
        let of = |args: &[ColumnarValue]| Ok(args[0].clone());
        let udf = create_udf("mine", vec![DataType::Int64], DataType::Int64, Volatility::Immutable, Arc::new(of));
        with_function.add_function(Function::new(1, udf).unwrap()).unwrap();
        with_function.prepare(with_function.sql("SELECT mine(v) AS v FROM s").unwrap()).unwrap();
        assert_eq!(counts(&plans), (1, 0, 0));
    }

    #[test]
    fn what_is_refused_is_refused_again() {
        let plans = Plans::default();
        for _ in 0..2 {
            let catalog = plans.used(|| catalog(columns(DataType::Int64), vec![]));
            assert!(catalog.sql("SELECT nothing FROM s").is_err());
            assert!(catalog.prepare(catalog.sql("SELECT k FROM s ORDER BY k").unwrap()).is_err());
        }
    }
}
