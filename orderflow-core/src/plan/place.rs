//! Errors that point at the SQL: the line, a caret under the place, and what was probably meant.
//!
//! Invariant: whatever DataFusion says about a text leaves here as our [`Error`]; where the place is known, the line and the
//! caret are part of the message.

use crate::error::Error;
use datafusion::common::{DataFusionError, SchemaError, Span};
use datafusion::sql::sqlparser;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// `what` at `span` of `text`, with the line and a caret.
pub(super) fn pointed(text: &str, what: &str, span: Option<Span>) -> Error {
    let Some((line, span)) = span.and_then(|s| Some((text.lines().nth(s.start.line.checked_sub(1)? as usize)?, s))) else {
        return Error::user(format!("{what} in `{}`", text.trim()));
    };
    let (row, column) = (span.start.line, span.start.column.max(1));
    let width = if span.end.line == row { span.end.column.saturating_sub(column).max(1) } else { 1 };
    let number = row.to_string();
    let margin = " ".repeat(number.len());
    // a tab before the caret stays a tab, so that the caret stands under its column in any terminal
    let indent: String = (line.chars().take(column as usize - 1).map(|c| if c == '\t' { '\t' } else { ' ' }))
        .chain(std::iter::repeat(' '))
        .take(column as usize - 1)
        .collect();
    Error::user(format!("{what} at line {row}, column {column}\n  {number} | {line}\n  {margin} | {indent}{}", "^".repeat(width as usize)))
}

/// What DataFusion says about `text`.
pub(super) fn error(text: &str, e: DataFusionError) -> Error {
    if let DataFusionError::External(ours) = e.find_root()
        && let Some(ours) = ours.downcast_ref::<Error>()
    {
        return ours.clone();
    }
    let diagnostic = e.diagnostic().cloned();
    let span = diagnostic.as_ref().and_then(|d| d.span);
    match e.find_root() {
        DataFusionError::SchemaError(schema, _) => schema_error(text, schema, span),
        DataFusionError::SQL(parser, _) => {
            let (message, span) = located(&parser.to_string().replace("sql parser error: ", ""));
            let span = span.or_else(|| message.ends_with("EOF").then(|| end_of(text)));
            pointed(text, &format!("SQL syntax: {}", lower(&message)), span)
        }
        DataFusionError::Internal(message) => Error::internal(format!("DataFusion cannot plan `{}`", text.trim())).why(message),
        root => {
            let fallback = root.message();
            let said = Said::new(diagnostic.as_ref().map_or(&fallback, |d| d.message.as_str()));
            let span = span.or_else(|| find_word(text, said.about.as_ref()?));
            let notes = diagnostic.iter().flat_map(|d| &d.notes).find_map(|n| n.message.strip_prefix("Possible function "));
            let helps = || diagnostic.iter().flat_map(|d| &d.helps).map(|h| lower(&h.message)).reduce(|a, b| format!("{a}; {b}"));
            let hint = said.hint.or_else(|| notes.map(|meant| format!("did you mean {meant}?"))).or_else(helps);
            hint.into_iter().fold(pointed(text, &said.what, span), Error::hint)
        }
    }
}

/// What DataFusion says about a plan that has no text, such as one of fluent calls; `what` was tried.
pub(super) fn error_without_text(what: &str, e: DataFusionError) -> Error {
    match e.find_root() {
        DataFusionError::External(ours) if ours.is::<Error>() => {
            ours.downcast_ref::<Error>().cloned().unwrap_or_else(|| Error::internal(what))
        }
        DataFusionError::Internal(message) => Error::internal(what).why(message),
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let known: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
                Error::user(format!("unknown column '{}'", field.name)).hint(suggestion(&field.name, &known))
            }
            other => Error::user(what).why(other),
        },
        root => {
            let said = Said::new(&root.message());
            said.hint.into_iter().fold(Error::user(what).why(said.what), Error::hint)
        }
    }
}

/// A message of DataFusion's in our words.
struct Said {
    what: String,
    hint: Option<String>,
    /// The name that it is about, to find its place.
    about: Option<String>,
}

impl Said {
    fn new(message: &str) -> Self {
        let quoted = |after: &str| message.split_once(after).and_then(|(_, rest)| rest.split_once('\'')).map(|(quoted, _)| quoted);
        if let Some(function) = message.strip_prefix("Invalid function ") {
            return Self { what: format!("unknown function {function}"), hint: None, about: None };
        }
        if let Some(call) = quoted("No function matches the given name and argument types '") {
            let candidates = message.split_once("Candidate functions:").map_or("", |(_, list)| list);
            let candidates: Vec<&str> = candidates.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
            let hint = (!candidates.is_empty()).then(|| format!("there are: {}", candidates.join(", ")));
            let about = call.split('(').next().map(str::to_string);
            return Self { what: format!("no function {call}"), hint, about };
        }
        if message.contains("must appear in GROUP BY clause") {
            let column = message.split('\'').nth(1).unwrap_or("a column");
            return Self {
                what: format!("'{column}' is neither in GROUP BY nor inside an aggregate"),
                hint: Some("add it to GROUP BY, or take min or max of it".into()),
                about: None,
            };
        }
        if let Some((_, rest)) = message.split_once("require unique expression names but the expression \"") {
            let expression = rest.split('"').next().unwrap_or_default();
            let name = expression.rsplit(" AS ").next().unwrap_or_default();
            let name = name.rsplit('.').next().unwrap_or_default().to_string();
            let hint = Some(format!("give one of them another name: … AS {name}_2"));
            return Self { what: format!("two columns are called '{name}'"), hint, about: Some(name) };
        }
        Self { what: lower(message), hint: None, about: None }
    }
}

fn schema_error(text: &str, e: &SchemaError, span: Option<Span>) -> Error {
    match e {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let known: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            let span = span.or_else(|| field.spans.first()).or_else(|| find_word(text, &field.name));
            let what = match &field.relation {
                Some(relation) => format!("unknown column '{}' of '{relation}'", field.name),
                None => format!("unknown column '{}'", field.name),
            };
            pointed(text, &what, span).hint(suggestion(&field.name, &known))
        }
        SchemaError::AmbiguousReference { field } => {
            let span = span.or_else(|| field.spans.first()).or_else(|| find_word(text, &field.name));
            pointed(text, &format!("column '{}' is ambiguous", field.name), span).hint("write the table's name or alias before it")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            pointed(text, &format!("two columns are called '{name}'"), span).hint(format!("give one of them another name: … AS {name}_2"))
        }
    }
}

/// A table of `text` that is not there.
pub(super) fn unknown_table(text: &str, name: &str, known: &[&str]) -> Error {
    pointed(text, &format!("unknown table '{name}'"), find_word(text, name)).hint(suggestion(name, known))
}

/// What was probably meant by `name`, or what there is.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    if let Some(same) = known.iter().find(|k| k.eq_ignore_ascii_case(name)) {
        return format!("did you mean \"{same}\"? Names with capitals stand in double quotes");
    }
    let hidden = name.starts_with('_');
    let mut candidates: Vec<&str> = known.iter().copied().filter(|k| hidden || !k.starts_with('_')).collect();
    candidates.dedup();
    let nearest = candidates.iter().map(|k| (distance(name, k), *k)).min_by_key(|(d, _)| *d);
    match nearest {
        Some((d, k)) if d <= (name.chars().count() / 3).max(1) => format!("did you mean '{k}'?"),
        Some(_) => format!("there are: {}", candidates.join(", ")),
        None => "there are none".into(),
    }
}

/// Levenshtein distance, ignoring the case of ASCII letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Place of the first word `name` of `text`, for errors that lost theirs.
fn find_word(text: &str, name: &str) -> Option<Span> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().ok()?;
    let found = tokens.into_iter().find(|t| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(name)))?;
    span_of(found.span)
}

/// The parser's span as DataFusion's.
pub(super) fn span_of(span: sqlparser::tokenizer::Span) -> Option<Span> {
    Span::try_from_sqlparser_span(span)
}

/// Cuts ` at Line: 1, Column: 8` off a parser's message.
fn located(message: &str) -> (String, Option<Span>) {
    let place = || {
        let (before, after) = message.rsplit_once(" at Line: ")?;
        let (line, column) = after.split_once(", Column: ")?;
        let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
        let start = datafusion::common::Location { line: line.parse().ok()?, column: digits.parse().ok()? };
        Some((before.to_string(), Span::new(start, start)))
    };
    match place() {
        Some((before, span)) => (before, Some(span)),
        None => (message.to_string(), None),
    }
}

/// The place after the last character.
fn end_of(text: &str) -> Span {
    let line = text.lines().count().max(1) as u64;
    let column = text.lines().last().unwrap_or_default().trim_end().chars().count() as u64 + 1;
    let end = datafusion::common::Location { line, column };
    Span::new(end, end)
}

/// Messages go on in the middle of a sentence; a name in capitals stays as it is.
fn lower(message: &str) -> String {
    let mut letters = message.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => format!("{}{}", first.to_lowercase(), &message[first.len_utf8()..]),
        _ => message.to_string(),
    }
}
