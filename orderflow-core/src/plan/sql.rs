//! SQL text before it is planned: one SELECT, its tables known, its `*` without hidden columns.
//!
//! Invariant: `*` and `t.*` over a source gain an EXCLUDE of the source's hidden columns exactly where the source itself stands in
//! that SELECT's FROM; a hidden column that a subquery or CTE selected by name is an ordinary column of it.

use super::input::Input;
use super::place::{self, pointed, span_of};
use crate::error::{Error, Result};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, ExcludeSelectItem, Expr, Function, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    GroupByExpr, Ident, ObjectName, Query, Select, SelectFlavor, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator,
    Spanned, TableAlias, TableFactor, TableWithJoins, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// The one query that `text` is.
pub(super) fn parse(text: &str) -> Result<Query> {
    let statements = DFParserBuilder::new(text).with_dialect(&GenericDialect {}).build().and_then(|mut p| p.parse_statements());
    let mut statements = statements.map_err(|e| place::error(text, e))?;
    let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(Error::user(format!("`{}` is not one statement", text.trim())).hint("write one SELECT"));
    };
    match statement {
        Statement::Statement(statement) => match *statement {
            ast::Statement::Query(query) => Ok(*query),
            other => Err(no_query(&other.to_string())),
        },
        other => Err(no_query(&other.to_string())),
    }
}

fn no_query(statement: &str) -> Error {
    let verb = statement.split_whitespace().next().unwrap_or_default();
    Error::user(format!("{verb} is not possible here")).why("the text must be a query").hint("write one SELECT")
}

/// An unquoted name is meant in lower case.
fn normal(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

fn single(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    }
}

/// Refuses what DataFusion's planner drops without a word from calls of functions that are no aggregates; `is_plain` says of a name that it is one's.
pub(super) fn check_calls<V: ast::Visit>(text: &str, tree: &V, is_plain: &dyn Fn(&str) -> bool) -> Result<()> {
    let found = ast::visit_expressions(tree, |expr| match expr {
        Expr::Function(call) => lost(call, is_plain).map_or(ControlFlow::Continue(()), |what| ControlFlow::Break((call.clone(), what))),
        _ => ControlFlow::Continue(()),
    });
    let ControlFlow::Break((call, what)) = found else { return Ok(()) };
    let message = format!("{} takes no {what}", call.name);
    Err(pointed(text, &message, span_of(call.name.span())).hint("leave it out, or compute it in an expression: CASE WHEN … THEN … END"))
}

/// What would be lost of a call.
fn lost(call: &Function, is_plain: &dyn Fn(&str) -> bool) -> Option<&'static str> {
    let Function { name, uses_odbc_syntax: _, parameters, args, filter, null_treatment, over, within_group } = call;
    if *parameters != FunctionArguments::None {
        return Some("second list of arguments");
    }
    if !single(name).is_some_and(|name| is_plain(&normal(name))) {
        return None;
    }
    let (mut distinct, mut order, mut nulls) = (false, false, null_treatment.is_some());
    if let FunctionArguments::List(FunctionArgumentList { duplicate_treatment, args: _, clauses }) = args {
        distinct = *duplicate_treatment == Some(DuplicateTreatment::Distinct);
        order = clauses.iter().any(|c| matches!(c, FunctionArgumentClause::OrderBy(_)));
        nulls |= clauses.iter().any(|c| matches!(c, FunctionArgumentClause::IgnoreOrRespectNulls(_)));
    }
    let all = [
        (filter.is_some(), "FILTER: it is no aggregate"),
        (distinct, "DISTINCT: it is no aggregate"),
        (over.is_some(), "OVER: it is no window function"),
        (order, "ORDER BY: it is no aggregate"),
        (!within_group.is_empty(), "WITHIN GROUP: it is no aggregate"),
        (nulls, "IGNORE or RESPECT NULLS: it is no window function"),
    ];
    all.iter().find(|(there, _)| *there).map(|(_, what)| *what)
}

/// Prepares queries of a pipeline for DataFusion's planner.
pub(super) struct Preparer<'a> {
    /// For error messages.
    pub(super) text: &'a str,
    /// The pipeline's names.
    pub(super) input: &'a dyn Fn(&str) -> Option<&'a Input>,
    /// All of them, for suggestions.
    pub(super) names: &'a [&'a str],
}

/// A table of a FROM clause.
struct FromTable<'a> {
    /// How its columns are qualified.
    qualifier: Option<Ident>,
    /// What stands behind it, unless it is a subquery or a CTE.
    input: Option<&'a Input>,
}

impl<'a> Preparer<'a> {
    /// Checks names and widens no `*` to hidden columns; `ctes` are the names that hide tables here.
    pub(super) fn query(&self, query: &mut Query, ctes: &HashSet<String>) -> Result<()> {
        let mut ctes = ctes.clone();
        // each part by its name, so that one that a newer parser adds is not overlooked; those that are not looked at here are in the plan
        let Query { with, body, order_by: _, limit_clause: _, fetch: _, locks, for_clause, settings, format_clause, pipe_operators } =
            query;
        if !pipe_operators.is_empty() {
            return self.refuse("the pipe operator |>", "write the query as SELECT … FROM …");
        }
        self.keep_all(&[
            (!locks.is_empty(), "FOR UPDATE or FOR SHARE"),
            (for_clause.is_some(), "FOR XML, FOR JSON or FOR BROWSE"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
        ])?;
        if let Some(with) = with {
            if with.recursive {
                return self.refuse("WITH RECURSIVE", "write the levels out as views");
            }
            for cte in &mut with.cte_tables {
                self.keep_all(&[(cte.from.is_some(), "FROM after a CTE")])?;
                self.typeless(Some(&cte.alias))?;
                // a CTE sees those before it, not itself
                self.query(&mut cte.query, &ctes)?;
                ctes.insert(normal(&cte.alias.name));
            }
        }
        self.set(body, &ctes)
    }

    fn set(&self, set: &mut SetExpr, ctes: &HashSet<String>) -> Result<()> {
        match set {
            SetExpr::Select(select) => self.select(select, ctes),
            SetExpr::Query(query) => self.query(query, ctes),
            SetExpr::SetOperation { op: SetOperator::Union, left, right, .. } => {
                self.set(left, ctes)?;
                self.set(right, ctes)
            }
            SetExpr::SetOperation { op, .. } => self.refuse(&op.to_string(), "there are UNION and UNION ALL"),
            SetExpr::Values(_) => self.refuse("VALUES", "send the rows through a memory source"),
            SetExpr::Table(_) => self.refuse("TABLE", "write SELECT * FROM …"),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.refuse("a change of data", "write one SELECT")
            }
        }
    }

    fn select(&self, select: &mut Select, ctes: &HashSet<String>) -> Result<()> {
        // each part by its name, as in a query; what is not looked at here is planned, or refused by the planner
        let Select {
            select_token: _,
            optimizer_hints: _, // comments
            distinct: _,
            select_modifiers,
            top: _,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views: _,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by: _,
            distribute_by,
            sort_by: _,
            having: _,
            named_window: _,
            qualify: _,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        self.keep_all(&[
            (into.is_some(), "SELECT INTO"),
            (prewhere.is_some(), "PREWHERE"),
            (!connect_by.is_empty(), "CONNECT BY"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY"),
            (exclude.is_some(), "EXCLUDE after the list"),
            (select_modifiers.is_some(), "a modifier after SELECT"),
            (value_table_mode.is_some(), "SELECT AS STRUCT or AS VALUE"),
        ])?;
        if let GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) = group_by
            && let Some(modifier) = modifiers.first()
        {
            return self
                .refuse(&format!("GROUP BY … {modifier}"), "write a view for each grouping, or take the total over the view in a query");
        }
        let mut tables = Vec::new();
        for from in from {
            self.from(from, ctes, &mut tables)?;
        }
        if *flavor == SelectFlavor::FromFirstNoSelect && projection.is_empty() {
            projection.push(SelectItem::Wildcard(WildcardAdditionalOptions::default()));
        }
        if tables.iter().any(|t| t.input.is_some_and(|i| i.hidden().next().is_some())) {
            let items = std::mem::take(projection);
            *projection = items.into_iter().flat_map(|item| narrow(item, &tables)).collect();
        }
        Ok(())
    }

    fn from(&self, from: &mut TableWithJoins, ctes: &HashSet<String>, tables: &mut Vec<FromTable<'a>>) -> Result<()> {
        self.factor(&mut from.relation, ctes, tables)?;
        from.joins.iter_mut().try_for_each(|join| self.factor(&mut join.relation, ctes, tables))
    }

    fn factor(&self, factor: &mut TableFactor, ctes: &HashSet<String>, tables: &mut Vec<FromTable<'a>>) -> Result<()> {
        match factor {
            TableFactor::Table { args: Some(_), .. } | TableFactor::TableFunction { .. } | TableFactor::Function { .. } => {
                self.refuse("a table function", "select from a source or a view")
            }
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse("TABLESAMPLE", "filter on a column instead, such as order_id % 10 = 0")
            }
            TableFactor::Table {
                name,
                alias,
                args: _,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample: _,
                index_hints,
            } => {
                self.keep_all(&[
                    (!with_hints.is_empty(), "WITH (…) after a table"),
                    (version.is_some(), "a table as of a time or version"),
                    (*with_ordinality, "WITH ORDINALITY"),
                    (!partitions.is_empty(), "PARTITION (…) after a table"),
                    (json_path.is_some(), "a path into a table"),
                    (!index_hints.is_empty(), "an index hint"),
                ])?;
                self.typeless(alias.as_ref())?;
                let own = single(name).cloned();
                let hides = own.as_ref().is_some_and(|own| ctes.contains(&normal(own)));
                let input = if hides { None } else { Some(self.known(name)?) };
                if let (Some(input), Some(alias)) = (input, alias.as_ref())
                    && !alias.columns.is_empty()
                    && input.hidden().next().is_some()
                {
                    return self.refuse("a column list after a source's alias", "rename the columns in SELECT: city AS town");
                }
                tables.push(FromTable { qualifier: alias.as_ref().map(|a| a.name.clone()).or(own), input });
                Ok(())
            }
            TableFactor::Derived { subquery, alias, .. } => {
                self.typeless(alias.as_ref())?;
                self.query(subquery, ctes)?;
                tables.push(FromTable { qualifier: alias.as_ref().map(|a| a.name.clone()), input: None });
                Ok(())
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.from(table_with_joins, ctes, tables),
            TableFactor::UNNEST { .. } => self.refuse("UNNEST", "use flat_map with a closure"),
            _ => self.refuse("this kind of table", "select from a source or a view"),
        }
    }

    fn known(&self, name: &ObjectName) -> Result<&'a Input> {
        let own = single(name).map(normal);
        if let Some(input) = own.as_ref().and_then(|own| (self.input)(own)) {
            return Ok(input);
        }
        let shown = own.unwrap_or_else(|| name.to_string());
        Err(pointed(self.text, &format!("unknown table '{shown}'"), span_of(name.span())).hint(place::suggestion(&shown, self.names)))
    }

    fn typeless(&self, alias: Option<&TableAlias>) -> Result<()> {
        let typed = alias.is_some_and(|alias| alias.columns.iter().any(|c| c.data_type.is_some()));
        self.keep_all(&[(typed, "a type after a column's alias")])
    }

    /// DataFusion's planner does not look at these: they would be lost without a word.
    fn keep_all(&self, lost: &[(bool, &str)]) -> Result<()> {
        lost.iter().find(|(there, _)| *there).map_or(Ok(()), |(_, what)| self.refuse(what, "leave it out"))
    }

    fn refuse(&self, what: &str, hint: &str) -> Result<()> {
        Err(Error::user(format!("{what} cannot be kept up to date on a stream")).why("there is no operator for it").hint(hint))
    }
}

/// `*` and `t.*` without the hidden columns of the sources they cover.
fn narrow(item: SelectItem, tables: &[FromTable<'_>]) -> Vec<SelectItem> {
    match (item, tables) {
        (SelectItem::Wildcard(options), [table]) => vec![SelectItem::Wildcard(excluding(options, table))],
        // several tables: each with its own list. A table without a name cannot be qualified, so `*` stays, and the join is refused anyway
        (SelectItem::Wildcard(options), tables) if tables.iter().all(|t| t.qualifier.is_some()) => tables
            .iter()
            .filter_map(|table| Some((table, table.qualifier.clone()?)))
            .map(|(table, qualifier)| {
                let kind = SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(vec![qualifier]));
                SelectItem::QualifiedWildcard(kind, excluding(options.clone(), table))
            })
            .collect(),
        (SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options), tables) => {
            let wanted = single(&name).map(normal);
            let table = tables.iter().find(|t| t.qualifier.as_ref().map(normal) == wanted);
            let options = match table {
                Some(table) => excluding(options, table),
                None => options,
            };
            vec![SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)]
        }
        (item, _) => vec![item],
    }
}

fn excluding(mut options: WildcardAdditionalOptions, table: &FromTable<'_>) -> WildcardAdditionalOptions {
    let mut excluded: Vec<ObjectName> = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let mut already: HashSet<String> = excluded.iter().filter_map(single).map(normal).collect();
    if let Some(except) = &options.opt_except {
        already.extend(std::iter::once(&except.first_element).chain(&except.additional_elements).map(normal));
    }
    let hidden = table.input.into_iter().flat_map(Input::hidden).filter(|h| !already.contains(*h));
    excluded.extend(hidden.map(|h| ObjectName::from(vec![Ident::new(h)])));
    options.opt_exclude = (!excluded.is_empty()).then_some(ExcludeSelectItem::Multiple(excluded));
    options
}
