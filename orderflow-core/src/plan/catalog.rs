//! One pipeline's names: its sources, its views, and the functions that its SQL may call.
//!
//! Invariant: a name stands for one thing, once and for all; every scan in a plan that a catalog made reads one of its inputs.

use super::again::{Inputs, Plans};
use super::functions::{self, Function};
use super::input::{Input, InputKind};
use super::literal::{self, FloatLiterals};
use super::{optimise, physical, place, sql, streamable};
use crate::error::{Error, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, DataFusionError, TableReference, plan_err};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

/// One pipeline's names. A clone is independent and cheap.
#[derive(Clone)]
pub struct Catalog {
    inputs: BTreeMap<Arc<str>, Arc<Input>>,
    functions: BTreeMap<String, Function>,
    builtin: &'static Builtin,
    /// What was planned before, if that is to be used.
    again: Option<Plans>,
}

/// What DataFusion brings.
struct Builtin {
    scalars: HashMap<String, Arc<ScalarUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    aggregates: HashMap<String, Arc<AggregateUDF>>,
    windows: HashMap<String, Arc<WindowUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: Arc<ConfigOptions>,
}

/// The settings under which all SQL is read: errors know their place, `1.18` is a decimal (money stays exact), text is `Utf8`.
pub(super) fn options() -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.sql_parser.collect_spans = true;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    // an ORDER BY that means nothing is refused, not dropped
    options.sql_parser.enable_subquery_sort_elimination = false;
    options
}

fn by_name<F>(functions: Vec<Arc<F>>, names: impl Fn(&F) -> Vec<String>) -> HashMap<String, Arc<F>> {
    functions.into_iter().flat_map(|f| names(&f).into_iter().map(move |n| (n, f.clone())).collect::<Vec<_>>()).collect()
}

fn names(name: &str, aliases: &[String]) -> Vec<String> {
    std::iter::once(name.to_string()).chain(aliases.iter().cloned()).collect()
}

impl Builtin {
    fn new() -> Self {
        Self {
            scalars: by_name(SessionStateDefaults::default_scalar_functions(), |f| names(f.name(), f.aliases())),
            higher_order: by_name(SessionStateDefaults::default_higher_order_functions(), |f| names(f.name(), f.aliases())),
            aggregates: by_name(SessionStateDefaults::default_aggregate_functions(), |f| names(f.name(), f.aliases())),
            windows: by_name(SessionStateDefaults::default_window_functions(), |f| names(f.name(), f.aliases())),
            planners: SessionStateDefaults::default_expr_planners(),
            options: Arc::new(options()),
        }
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// No source, no view, all functions of DataFusion and ours.
    pub fn new() -> Self {
        static BUILTIN: LazyLock<Builtin> = LazyLock::new(Builtin::new);
        let functions = functions::ours().into_iter().map(|f| (f.name().to_string(), f)).collect();
        Self { inputs: BTreeMap::new(), functions, builtin: &BUILTIN, again: Plans::current() }
    }

    /// Adds a source: `visible` are its data columns, `hidden` those that `SELECT *` leaves out but expressions may name.
    ///
    /// # Errors
    /// A name that is taken, or two columns of one name.
    pub fn add_source(&mut self, name: &str, visible: SchemaRef, hidden: Vec<Field>) -> Result<()> {
        let count = visible.fields().len();
        let fields: Vec<Arc<Field>> = visible.fields().iter().cloned().chain(hidden.into_iter().map(Arc::new)).collect();
        self.add(name, InputKind::Source, Arc::new(Schema::new(fields)), count)
    }

    /// Adds a view; all its columns are visible.
    ///
    /// # Errors
    /// A name that is taken, or two columns of one name.
    pub fn add_view(&mut self, name: &str, schema: SchemaRef) -> Result<()> {
        let count = schema.fields().len();
        self.add(name, InputKind::View, schema, count)
    }

    fn add(&mut self, name: &str, kind: InputKind, schema: SchemaRef, visible: usize) -> Result<()> {
        if name.is_empty() {
            return Err(Error::user("a source or view needs a name").hint("give it one that SQL can call it by, as 'orders'"));
        }
        if self.inputs.contains_key(name) {
            return Err(
                Error::user(format!("the name '{name}' is taken")).hint("give every source and view of a pipeline a name of its own")
            );
        }
        let mut seen = HashSet::new();
        if let Some(twice) = schema.fields().iter().find(|f| !seen.insert(f.name().as_str())) {
            return Err(Error::user(format!("'{name}' has two columns called '{}'", twice.name()))
                .hint("rename one; names such as _offset belong to the columns that every source adds"));
        }
        let name: Arc<str> = name.into();
        let input = Arc::new(Input { name: name.clone(), kind, schema, visible });
        let input = match &self.again {
            Some(again) => again.input(input),
            None => input,
        };
        self.inputs.insert(name, input);
        Ok(())
    }

    /// Adds a scalar function.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn add_function(&mut self, function: Function) -> Result<()> {
        for name in names(function.name(), function.udf().aliases()) {
            if self.builtin.scalars.contains_key(&name) || self.functions.contains_key(&name) {
                return Err(Error::user(format!("there is a function '{name}' already")).hint("give it another name"));
            }
        }
        for name in names(function.name(), function.udf().aliases()) {
            self.functions.insert(name, function.clone());
        }
        self.again = None;
        Ok(())
    }

    /// The functions beside DataFusion's, ours included.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(|(name, f)| *name == f.name()).map(|(_, f)| f)
    }

    /// The source or view called `name`.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.get(name).map(|i| &**i)
    }

    /// All rows of a source, hidden columns included: where fluent calls begin.
    ///
    /// # Errors
    /// An unknown name.
    pub fn source_scan(&self, name: &str) -> Result<LogicalPlan> {
        self.scan(name, InputKind::Source)
    }

    /// All rows of a view.
    ///
    /// # Errors
    /// An unknown name.
    pub fn view_scan(&self, name: &str) -> Result<LogicalPlan> {
        self.scan(name, InputKind::View)
    }

    fn scan(&self, name: &str, kind: InputKind) -> Result<LogicalPlan> {
        let Some(input) = self.inputs.get(name).filter(|i| i.kind == kind) else {
            let known: Vec<&str> = self.inputs.values().filter(|i| i.kind == kind).map(|i| &*i.name).collect();
            let what = if kind == InputKind::Source { "source" } else { "view" };
            return Err(Error::user(format!("unknown {what} '{name}'")).hint(place::suggestion(name, &known)));
        };
        (LogicalPlanBuilder::scan(TableReference::bare(name), input.clone(), None).and_then(LogicalPlanBuilder::build))
            .map_err(|e| Error::internal(format!("cannot scan '{name}'")).caused_by(e))
    }

    /// The plan of one SELECT, neither checked nor optimised.
    ///
    /// # Errors
    /// Syntax, unknown names and wrong types, each pointing at its place in `text`.
    pub fn sql(&self, text: &str) -> Result<LogicalPlan> {
        match &self.again {
            Some(again) => again.read(self.inputs_at(), text, || self.planned(text)),
            None => self.planned(text),
        }
    }

    fn planned(&self, text: &str) -> Result<LogicalPlan> {
        let mut query = sql::parse(text)?;
        let known: Vec<&str> = self.inputs.keys().map(|n| &**n).collect();
        sql::check_calls(text, &query, &|name| self.is_plain(name))?;
        sql::Preparer { text, input: &|name| self.input(name), names: &known }.query(&mut query, &HashSet::new())?;
        // floats are settled here already: they are seen in the types of the columns
        (SqlToRel::new(self).sql_statement_to_plan(Statement::Query(Box::new(query))))
            .and_then(|plan| FloatLiterals.analyze(plan, &self.builtin.options))
            .map_err(|e| place::error(text, e))
    }

    /// A SQL expression over the columns of `plan`, with `AS name` if it says so.
    ///
    /// # Errors
    /// Syntax, unknown names and wrong types, each pointing at its place in `text`.
    pub fn expr(&self, text: &str, plan: &LogicalPlan) -> Result<Expr> {
        let parse = || DFParserBuilder::new(text).with_dialect(&GenericDialect {}).build()?.parse_into_expr();
        let parsed = parse().map_err(|e| place::error(text, e))?;
        sql::check_calls(text, &parsed, &|name| self.is_plain(name))?;
        (SqlToRel::new(self).sql_to_expr_with_alias(parsed, plan.schema(), &mut PlannerContext::new()))
            .and_then(|expr| literal::expressions(expr, plan.schema()))
            .map(|expr| expr.data)
            .map_err(|e| place::error(text, e))
    }

    /// Whether calls of this name are calls of a function of one row: it goes before an aggregate of the same name.
    fn is_plain(&self, name: &str) -> bool {
        self.functions.contains_key(name) || self.builtin.scalars.contains_key(name) || self.builtin.higher_order.contains_key(name)
    }

    fn inputs_at(&self) -> Inputs {
        self.inputs.values().map(|input| Arc::as_ptr(input) as usize).collect()
    }

    /// The optimised plan of the visible columns, if it can be kept up to date.
    ///
    /// # Errors
    /// As [`Catalog::check`] and [`Catalog::optimise`].
    pub fn prepare(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let prepared = |plan: LogicalPlan| {
            let plan = super::visible(plan)?;
            self.check(&plan)?;
            self.optimise(plan)
        };
        match &self.again {
            Some(again) => again.prepared(self.inputs_at(), plan, prepared),
            None => prepared(plan),
        }
    }

    /// Refuses what cannot be kept up to date or replayed, and columns of one name. The plan must be the unoptimised one.
    ///
    /// # Errors
    /// What is refused, why, and what to write instead.
    pub fn check(&self, unoptimised: &LogicalPlan) -> Result<()> {
        streamable::check(unoptimised, &|input| self.inputs.get(&input.name).is_some_and(|ours| std::ptr::eq(&**ours, input)))?;
        super::schema(unoptimised).map(drop)
    }

    /// Coerces types and optimises: projections and filters reach the scans.
    ///
    /// # Errors
    /// Types that do not fit, constants that overflow.
    pub fn optimise(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        optimise::optimise(plan, &self.builtin.options)
    }

    /// `expr` as something that evaluates batches with the columns of `input`. Integer arithmetic and casts fail on overflow.
    ///
    /// # Errors
    /// Unknown columns and types that do not fit.
    pub fn physical(&self, expr: &Expr, input: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        physical::physical(expr, input, &self.builtin.options)
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        match &name {
            TableReference::Bare { table } if self.inputs.contains_key(&**table) => Ok(self.inputs[&**table].clone()),
            _ => plan_err!("unknown table '{name}'"),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.builtin.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).map(|f| f.udf().clone()).or_else(|| self.builtin.scalars.get(name).cloned())
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.builtin.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.builtin.aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.builtin.windows.get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.builtin.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.builtin.scalars.keys().chain(self.functions.keys()).cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.builtin.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.builtin.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.builtin.windows.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::TimeUnit;
    use datafusion::logical_expr::Volatility;

    /// Lists of arguments, one of which suits most functions: a text, a number, a float, a time, a list, and several of them.
    const ARGUMENTS: [&str; 20] = [
        "",
        "t",
        "n",
        "x",
        "at",
        "[n]",
        "t, t",
        "n, n",
        "x, x",
        "t, n",
        "'day', at",
        "[n], n",
        "t, t, t",
        "INTERVAL '1 day', at",
        "at, '%Y'",
        "2024, 1, n",
        "1, 2, n",
        "t, 'hex'",
        "'61', 'hex'",
        "t, 'sha256'",
    ];

    #[test]
    fn every_scalar_function_of_datafusion_is_known_and_passes_if_it_always_gives_the_same_answer() {
        let mut catalog = Catalog::new();
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        let columns = [("t", DataType::Utf8), ("n", DataType::Int64), ("x", DataType::Float64), ("at", time)];
        let fields: Vec<Field> = columns.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
        catalog.add_source("s", Arc::new(Schema::new(fields)), vec![]).unwrap();
        let input = RecordBatch::try_new(
            catalog.input("s").unwrap().schema.clone(),
            vec![
                Arc::new(StringArray::from(vec![Some("a b"), None])),
                Arc::new(Int64Array::from(vec![Some(2), None])),
                Arc::new(Float64Array::from(vec![Some(0.5), None])),
                Arc::new(TimestampMillisecondArray::from(vec![Some(86_400_000), None])),
            ],
        )
        .unwrap();
        // as the engine does it: the optimised plan's expressions over batches of its input
        let evaluated = |catalog: &Catalog, plan: LogicalPlan| -> Result<()> {
            let LogicalPlan::Projection(projection) = catalog.prepare(plan)? else { return Err(Error::user("no projection")) };
            let columns = projection.input.schema().fields().iter().map(|f| Ok(input.schema().index_of(f.name())?));
            let rows = input.project(&columns.collect::<Result<Vec<_>>>()?)?;
            let value = catalog.physical(&projection.expr[0], projection.input.schema())?.evaluate(&rows);
            let value = value.and_then(|v| v.into_array(rows.num_rows())).map_err(|e| Error::user(e.to_string()))?;
            assert_eq!((value.len(), value.data_type()), (2, projection.schema.field(0).data_type()), "{}", projection.expr[0]);
            Ok(())
        };
        let (mut passed, mut refused, mut unseen) = (0, 0, vec![]);
        for function in SessionStateDefaults::default_scalar_functions() {
            let (name, same) = (function.name(), function.signature().volatility == Volatility::Immutable);
            let (mut planned, mut works) = (false, false);
            for arguments in ARGUMENTS {
                // in quotes, since some names are words of SQL
                match catalog.sql(&format!("SELECT \"{name}\"({arguments}) AS y FROM s")) {
                    Ok(plan) => {
                        assert_eq!(catalog.check(&plan).is_ok(), same, "{name}({arguments})");
                        planned = true;
                        works |= same && evaluated(&catalog, plan).is_ok();
                    }
                    Err(e) => assert!(!e.to_string().starts_with("unknown function"), "{e}"),
                }
            }
            passed += usize::from(planned && same);
            refused += usize::from(planned && !same);
            if planned && same && !works {
                unseen.push(name.to_owned());
            }
        }
        // no source has unions
        assert_eq!(unseen, ["union_tag"], "functions that plan and do not evaluate");
        assert!(passed > 60 && refused >= 5, "{passed} passed and {refused} were refused");
    }
}
