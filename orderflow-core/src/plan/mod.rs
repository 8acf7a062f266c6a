//! SQL text or fluent calls become one DataFusion logical plan.

/// A column that a sink asks for: an expression over the view's columns, and the name it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in the sink's schema.
    pub name: String,
    /// SQL expression over the view's columns and, where the view still is a source, its hidden columns.
    pub sql: String,
}

impl Column {
    /// `sql AS name`.
    pub fn new(name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { name: name.into(), sql: sql.into() }
    }
}
