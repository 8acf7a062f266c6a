//! A pipeline that is not quite the one whose state is kept: what differs, and what becomes of each view, sink and stored state. Pure decisions.
//!
//! Invariant: rows of two queries are never mixed in one sink. A sink whose query changed, by itself or by a view that it reads, begins a new life, and must be
//! empty then; what was read and what other sinks hold stays as it was.

use crate::epoch::Recovered;
use crate::error::{Error, Result};
use crate::operator::root::Shape;
use crate::source::Source;
use crate::state::Manifest;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What a start does that finds the state of a pipeline with other queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// Views and sinks may be added; whatever would drop state or mix rows is refused, with the difference.
    #[default]
    Refuse,
    /// What is stored and still computed is kept, all else is computed anew by reading the sources again from where they began, which must still hold
    /// the input. Views and sinks that are gone are forgotten. A sink whose query changed must be empty: another place, or what it holds was
    /// deleted.
    Rebuild,
}

/// What became of a view, a sink or a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// As it was.
    Unchanged,
    /// It was not there.
    New,
    /// It computes something else.
    Changed,
    /// It is not there any more.
    Gone,
}

/// One view or sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartDifference {
    /// `view …` or `sink …`.
    pub name: String,
    /// What became of it.
    pub fate: Fate,
    /// What it computed, as the state has it.
    pub was: Option<String>,
    /// What it computes now.
    pub is: Option<String>,
    /// The views that changed and that it reads.
    pub through: Vec<String>,
}

/// What becomes of a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateFate {
    /// It is used again.
    Kept,
    /// It is computed from the sources, from where they began.
    Rebuilt,
    /// Nobody needs it any more.
    Dropped,
}

/// One stored state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateDifference {
    /// What it computes, from the source on.
    pub text: String,
    /// What becomes of it.
    pub fate: StateFate,
    /// Rows and bytes that are stored of it.
    pub rows: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A pipeline compared with the one whose state is kept. It prints like a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Views, then sinks.
    pub parts: Vec<PartDifference>,
    /// What is stored, as of the newest checkpoint, and what will be.
    pub states: Vec<StateDifference>,
}

/// A view or a sink as it is now.
pub(super) struct Computed {
    /// `view …`, or a sink's name without its number.
    pub(super) name: String,
    pub(super) text: String,
    /// Views that it reads directly.
    pub(super) reads: Vec<String>,
}

impl Difference {
    /// Whether anything is not as it was.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|p| p.fate == Fate::Unchanged)
    }

    /// Whether it is more than views and sinks that were added. State that is dropped while no view differs is state that was computed otherwise: from columns of
    /// other types, or by another version of this library.
    pub fn must_be_told(&self) -> bool {
        self.parts.iter().any(|p| matches!(p.fate, Fate::Changed | Fate::Gone)) || self.drops()
    }

    fn drops(&self) -> bool {
        self.states.iter().any(|s| s.fate == StateFate::Dropped)
    }

    fn with(&self, fate: Fate) -> impl Iterator<Item = &PartDifference> {
        self.parts.iter().filter(move |p| p.fate == fate)
    }

    /// The error of a start that was not told what to do about it.
    pub(super) fn refused(&self, place: &str) -> Error {
        let say = |fate, what: &'static str| self.with(fate).map(move |p| format!("{} {what}", p.name));
        let mut short: Vec<String> =
            say(Fate::Changed, "computes something else now").chain(say(Fate::Gone, "is not there any more")).collect();
        if short.is_empty() {
            short.push(
                "what is stored was computed otherwise: from columns of other types, or by another version of the library".to_owned(),
            );
        }
        Error::user(format!("the pipeline is not the one whose state is in {place}"))
            .why(format!("{}.\n{self}", short.join("; ")))
            .hint("put the queries back; or start with on_change(OnChange::Rebuild); or start anew with another state and other sinks")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indented = |f: &mut fmt::Formatter<'_>, label: &str, text: &str| {
            let mut lines = text.trim_end().lines();
            writeln!(f, "  {label:<4}{}", lines.next().unwrap_or_default())?;
            lines.try_for_each(|line| writeln!(f, "      {line}"))
        };
        for p in &self.parts {
            let fate = match p.fate {
                Fate::Unchanged => "unchanged",
                Fate::New => "new",
                Fate::Changed => "changed",
                Fate::Gone => "gone",
            };
            let through = if p.through.is_empty() { String::new() } else { format!(", through {}", p.through.join(", ")) };
            writeln!(f, "{}: {fate}{through}", p.name)?;
            if p.was != p.is && p.fate != Fate::New {
                p.was.iter().try_for_each(|text| indented(f, "was", text))?;
                p.is.iter().try_for_each(|text| indented(f, "is", text))?;
            }
        }
        for s in &self.states {
            match s.fate {
                StateFate::Kept => writeln!(f, "state kept ({} rows, {} bytes): {}", s.rows, s.bytes, s.text)?,
                StateFate::Dropped => writeln!(f, "state dropped ({} rows, {} bytes): {}", s.rows, s.bytes, s.text)?,
                StateFate::Rebuilt => writeln!(f, "state rebuilt, by reading the sources again: {}", s.text)?,
            }
        }
        Ok(())
    }
}

/// What the kept plan calls a source that says what its positions mean.
fn of_source(name: &str) -> String {
    format!("source {name}")
}

fn is_source(name: &str) -> bool {
    name.starts_with("source ")
}

/// What these sources say of themselves, as the plan keeps it.
pub(super) fn identities(sources: &[(Arc<str>, Box<dyn Source>)]) -> impl Iterator<Item = (String, String)> {
    sources.iter().filter_map(|(name, source)| Some((of_source(name), source.identity()?)))
}

/// Refuses a source whose positions mean other records than those that are `kept`; an older state does not say what they meant.
pub(super) fn judge_sources(kept: &BTreeMap<String, String>, now: impl Iterator<Item = (String, String)>, place: &str) -> Result<()> {
    for (name, is) in now {
        if let Some(was) = kept.get(&name).filter(|was| **was != is) {
            return Err(Error::user(format!("{name} is not the one whose records are in {place}"))
                .why(format!("it was {was}\n  and is {is}"))
                .hint("put it back as it was; or start anew with another state and other sinks"));
        }
    }
    Ok(())
}

/// The name of the `n`-th sink (from 1) of this kind and view.
fn numbered(name: &str, n: usize) -> String {
    if n == 1 { name.to_owned() } else { format!("{name} #{n}") }
}

/// The name without its number, and the number.
fn unnumbered(label: &str) -> (&str, usize) {
    let split = label.rsplit_once(" #").and_then(|(name, n)| Some((name, n.parse().ok()?)));
    split.unwrap_or((label, 1))
}

/// These names of sinks, in the order of the pipeline, each for one sink alone.
pub(super) fn told_apart(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let next = |name: String| {
        let n = seen.entry(name.clone()).or_default();
        *n += 1;
        numbered(&name, *n)
    };
    names.into_iter().map(next).collect()
}

/// Gives sinks the names that they have now: once they were called by their place in the pipeline, `sink 3, parquet of totals`.
pub(crate) fn renamed(mut found: Recovered) -> Recovered {
    let old = |label: &str| {
        let (number, name) = label.strip_prefix("sink ")?.split_once(", ")?;
        Some((number.parse::<usize>().ok()?, format!("sink {name}")))
    };
    let labels: BTreeSet<&String> = found.start.iter().flat_map(|s| s.plan.keys()).chain(found.held.keys()).collect();
    let mut sinks: Vec<(usize, String, String)> = labels.into_iter().filter_map(|l| old(l).map(|(n, name)| (n, name, l.clone()))).collect();
    sinks.sort();
    let now = told_apart(sinks.iter().map(|(_, name, _)| name.clone()));
    let names: BTreeMap<String, String> = sinks.into_iter().map(|(_, _, label)| label).zip(now).collect();
    let name = |label: String| names.get(&label).cloned().unwrap_or(label);
    found.held = found.held.into_iter().map(|(label, p)| (name(label), p)).collect();
    found.lanes = found.lanes.into_iter().map(|(label, lanes)| (name(label), lanes)).collect();
    if let Some(start) = &mut found.start {
        start.plan = std::mem::take(&mut start.plan).into_iter().map(|(label, text)| (name(label), text)).collect();
    }
    found
}

/// The label of every sink, in the order of the pipeline: sinks of one kind and view are told apart by their query where they differ, then by their order.
pub(super) fn labels(kept: &BTreeMap<String, String>, sinks: &[Computed]) -> Vec<String> {
    let mut labels: Vec<Option<String>> = vec![None; sinks.len()];
    let mut free: Vec<(&str, usize, &str)> =
        kept.iter().map(|(l, text)| (unnumbered(l), text)).map(|((n, i), t)| (n, i, t.as_str())).collect();
    free.sort_unstable();
    for same_text in [true, false] {
        for (sink, label) in sinks.iter().zip(&mut labels).filter(|(_, l)| l.is_none()) {
            let fits = |(name, _, text): &(&str, usize, &str)| *name == sink.name && (!same_text || *text == sink.text);
            *label = free.iter().position(fits).map(|at| free.remove(at)).map(|(name, n, _)| numbered(name, n));
        }
    }
    let mut taken: BTreeSet<String> = labels.iter().flatten().cloned().collect();
    let mut fresh = |sink: &Computed| {
        let label = (1..).map(|n| numbered(&sink.name, n)).find(|l| !taken.contains(l)).unwrap_or_default();
        taken.insert(label.clone());
        label
    };
    sinks.iter().zip(labels).map(|(sink, label)| label.unwrap_or_else(|| fresh(sink))).collect()
}

/// Compares what a pipeline computes now with what was `kept`; `labels` are those of its sinks.
pub(super) fn compare(kept: &BTreeMap<String, String>, views: &[Computed], sinks: &[Computed], labels: &[String]) -> Vec<PartDifference> {
    let mut parts = vec![];
    let mut changed = BTreeSet::new();
    let views = views.iter().map(|v| (&v.name, v));
    for (name, now) in views.chain(labels.iter().zip(sinks)) {
        let was = kept.get(name).cloned();
        // a view that is new under an old name is a change to whoever read that name
        let through: Vec<String> = now.reads.iter().filter(|r| changed.contains(*r)).cloned().collect();
        let fate = match &was {
            None => Fate::New,
            Some(text) if *text == now.text && through.is_empty() => Fate::Unchanged,
            Some(_) => Fate::Changed,
        };
        if fate == Fate::Changed {
            changed.extend(name.strip_prefix("view ").map(str::to_owned));
        }
        parts.push(PartDifference { name: name.clone(), fate, was, is: Some(now.text.clone()), through });
    }
    let gone = kept.iter().filter(|(name, _)| !is_source(name) && parts.iter().all(|p| p.name != **name));
    let gone = gone.map(|(n, t)| PartDifference { name: n.clone(), fate: Fate::Gone, was: Some(t.clone()), is: None, through: vec![] });
    let gone: Vec<_> = gone.collect();
    parts.extend(gone);
    parts
}

/// What becomes of the states in `manifest`, the newest that is good, for a pipeline with these roots.
pub(super) fn states(manifest: Option<&Manifest>, shapes: &[Shape]) -> Vec<StateDifference> {
    let size = |root: &crate::state::RootFiles| {
        let files = root.traces.iter().flatten();
        files.fold((0, 0), |(rows, bytes), f| (rows + f.rows, bytes + f.bytes))
    };
    let mut stored: Vec<_> = manifest.iter().flat_map(|m| &m.roots).map(|root| (root.text.clone(), size(root))).collect();
    let mut states = vec![];
    for shape in shapes {
        let at = stored.iter().position(|(text, _)| *text == shape.text);
        let (fate, (rows, bytes)) = at.map_or((StateFate::Rebuilt, (0, 0)), |at| (StateFate::Kept, stored.remove(at).1));
        states.push(StateDifference { text: shape.text.clone(), fate, rows, bytes });
    }
    let dropped = stored.into_iter().map(|(text, (rows, bytes))| StateDifference { text, fate: StateFate::Dropped, rows, bytes });
    states.extend(dropped);
    states
}

/// Refuses a change that would mix rows in a sink that keeps no progress itself; `keeps` says of each sink whether it does.
pub(super) fn judge_sinks(found: &Recovered, difference: &Difference, keeps: &BTreeMap<&String, bool>) -> Result<()> {
    for sink in difference.with(Fate::Changed) {
        let held = found.held.get(&sink.name).copied().flatten();
        if let (Some(held), Some(false)) = (held, keeps.get(&sink.name)) {
            return Err(Error::user(format!("{} would hold rows of two queries", sink.name))
                .why(format!("it took rows up to epoch {}, and its query changed:\n{difference}", held.epoch))
                .hint(format!("reset it first: orderflow reset-sink DIR '{}'; then it gets everything again", sink.name)));
        }
    }
    Ok(())
}

/// What the ledger says after the change, in the generation that makes it.
pub(super) fn changed(found: &mut Recovered, difference: &Difference, generation: u64) {
    let Some(start) = &mut found.start else { return };
    start.plan.retain(|name, _| is_source(name));
    start.plan.extend(difference.parts.iter().filter_map(|p| Some((p.name.clone(), p.is.clone()?))));
    for sink in difference.parts.iter().filter(|p| p.fate != Fate::Unchanged && p.name.starts_with("sink ")) {
        // older versions did not write down the queries of sinks that were added: what holds something is not new
        if sink.fate == Fate::New && found.held.contains_key(&sink.name) {
            continue;
        }
        found.forget(&sink.name);
        if sink.fate == Fate::Gone {
            found.births.remove(&sink.name)
        } else {
            found.births.insert(sink.name.clone(), generation)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Start;

    fn plan(parts: &[(&str, &str)]) -> BTreeMap<String, String> {
        parts.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect()
    }

    fn computed(parts: &[(&str, &str, &[&str])]) -> Vec<Computed> {
        let one = |(name, text, reads): &(&str, &str, &[&str])| Computed {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
            reads: reads.iter().map(|r| (*r).to_owned()).collect(),
        };
        parts.iter().map(one).collect()
    }

    #[test]
    fn a_change_reaches_whatever_reads_it() {
        let kept = plan(&[("view a", "1"), ("view b", "2"), ("view c", "3"), ("view d", "4"), ("sink x of b", "5"), ("sink x of d", "6")]);
        let views = computed(&[("view a", "one", &[]), ("view b", "2", &["a"]), ("view d", "4", &[]), ("view e", "7", &["a"])]);
        let d = |name| (name, "6", &["d"][..]);
        let sinks = computed(&[("sink x of b", "5", &["b"]), d("sink x of d"), d("sink x of d"), d("sink z of d")]);
        let labels = labels(&kept, &sinks);
        assert_eq!(labels, ["sink x of b", "sink x of d", "sink x of d #2", "sink z of d"]);
        let difference = Difference { parts: compare(&kept, &views, &sinks, &labels), states: vec![] };
        let fates: Vec<(&str, Fate)> = difference.parts.iter().map(|p| (p.name.as_str(), p.fate)).collect();
        use Fate::*;
        assert_eq!(
            fates,
            [
                ("view a", Changed),
                ("view b", Changed),
                ("view d", Unchanged),
                ("view e", New),
                ("sink x of b", Changed),
                ("sink x of d", Unchanged),
                ("sink x of d #2", New),
                ("sink z of d", New),
                ("view c", Gone),
            ]
        );
        let text = difference.to_string();
        assert!(text.contains("view a: changed\n  was 1\n  is  one\n") && text.contains("sink x of b: changed, through b\n"), "{text}");
        assert!(difference.must_be_told() && !difference.is_empty());

        let held = |label: &str| (label.to_owned(), None);
        let start = Some(Start { plan: kept, ..Start::default() });
        let births = [("sink x of d".to_owned(), 2), ("sink y of c".to_owned(), 2)].into();
        let held = [held("sink x of b"), held("sink x of d"), held("sink z of d"), held("dead letters")].into();
        let mut found = Recovered { start, held, births, ..Recovered::default() };
        changed(&mut found, &difference, 7);
        assert_eq!(
            found.held.keys().collect::<Vec<_>>(),
            ["dead letters", "sink x of d", "sink z of d"],
            "of one an older version did not say that it was added"
        );
        assert_eq!((found.births["sink x of b"], found.births.get("sink z of d")), (7, None));
        assert_eq!((found.births["sink x of d"], found.births["sink x of d #2"]), (2, 7));
        assert_eq!(found.start.unwrap().plan.len(), 8);
    }

    #[test]
    fn a_source_that_means_other_records_is_refused_and_no_part_of_a_difference() {
        let kept = plan(&[("source a", "seed 1"), ("view v", "1")]);
        let now = |name: &str, text: &str| judge_sources(&kept, [(of_source(name), text.to_owned())].into_iter(), "here");
        assert!(now("a", "seed 1").is_ok() && now("b", "seed 2").is_ok());
        let refused = now("a", "seed 2").unwrap_err().to_string();
        assert!(
            refused.contains("source a") && refused.contains("here") && refused.contains("seed 1") && refused.contains("seed 2"),
            "{refused}"
        );
        let difference = Difference { parts: compare(&kept, &computed(&[("view v", "2", &[])]), &[], &[]), states: vec![] };
        assert_eq!(difference.parts.len(), 1);
        let mut found = Recovered { start: Some(Start { plan: kept, ..Start::default() }), ..Recovered::default() };
        changed(&mut found, &difference, 2);
        assert_eq!(found.start.unwrap().plan, plan(&[("source a", "seed 1"), ("view v", "2")]), "it is still remembered");
    }

    #[test]
    fn sinks_of_one_view_are_told_apart_by_their_query_then_by_their_order() {
        let kept = plan(&[("sink x of query", "a"), ("sink x of query #2", "b"), ("sink x of query #3", "c")]);
        let of = |texts: &[&str]| {
            let sinks: Vec<_> = texts.iter().map(|t| ("sink x of query", *t, &[][..])).collect();
            labels(&kept, &computed(&sinks))
        };
        assert_eq!(of(&["b"]), ["sink x of query #2"]);
        assert_eq!(of(&["c", "d", "a"]), ["sink x of query #3", "sink x of query #2", "sink x of query"]);
        assert_eq!(of(&["a", "a", "b", "c"]), ["sink x of query", "sink x of query #4", "sink x of query #2", "sink x of query #3"]);
    }

    #[test]
    fn sinks_that_were_called_by_their_place_keep_what_they_hold() {
        let plan =
            plan(&[("view v", "1"), ("sink 0, x of v", "a"), ("sink 10, x of v", "c"), ("sink 2, x of v", "b"), ("sink 1, y of v", "d")]);
        let held =
            ["sink 0, x of v", "sink 2, x of v", "sink 10, x of v", "sink 1, y of v", "dead letters"].map(|l| (l.to_owned(), None)).into();
        let found = renamed(Recovered { start: Some(Start { plan, ..Start::default() }), held, ..Recovered::default() });
        let plan = found.start.unwrap().plan;
        assert_eq!((plan["sink x of v"].as_str(), plan["sink x of v #2"].as_str(), plan["sink x of v #3"].as_str()), ("a", "b", "c"));
        assert_eq!(
            found.held.keys().collect::<Vec<_>>(),
            ["dead letters", "sink x of v", "sink x of v #2", "sink x of v #3", "sink y of v"]
        );
    }
}
