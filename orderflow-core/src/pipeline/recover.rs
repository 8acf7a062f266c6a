//! What was kept of an earlier run: opened, compared with what the pipeline computes now, and judged before anything is changed.
//!
//! Invariant: whoever is refused here has written nothing but an opening, and has touched no sink.

use super::change::{self, Computed, Difference, OnChange};
use super::start::Parts;
use super::{Options, State};
use crate::epoch::{Known, Log, Recovered, resume};
use crate::error::{Error, Result};
use crate::operator::root::Roots;
use crate::sink::{Guarantee, Progress, SinkContext};
use crate::state::Manifest;
use crate::store::{self, Store};
use crate::time::Epoch;
use std::cell::RefCell;
use std::sync::Arc;

/// What was kept, and where.
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    pub(super) log: Log,
    /// As the pipeline is now, which the ledger does not say yet if there is a difference.
    pub(super) found: Recovered,
    pub(super) difference: Difference,
    /// What the ledger calls each sink but the dead letters.
    pub(super) labels: Vec<String>,
}

/// The names of the sinks, and what differs.
pub(super) fn compare(
    store: &dyn Store,
    found: &Recovered,
    now: &(Vec<Computed>, Vec<Computed>),
    roots: Option<&Roots>,
) -> (Vec<String>, Difference) {
    let kept = found.start.as_ref().map(|s| s.plan.clone()).unwrap_or_default();
    let labels = change::labels(&kept, &now.1);
    let parts = change::compare(&kept, &now.0, &now.1, &labels);
    // for show: what is used in the end is decided when it is read
    let manifest = found.checkpoints.iter().rev().find_map(|c| Manifest::load(store, c).ok());
    let states = change::states(manifest.as_ref(), roots.map_or(&[], |r| &r.shapes));
    (labels, Difference { parts, states })
}

/// Opens what was kept, if anything is to be kept; waits for its owner to go for as long as the options say and somebody waits for the start.
pub(super) fn recover(options: &Options, parts: &Parts, waiting: &dyn Fn() -> bool) -> Result<Option<Kept>> {
    let (store, place) = match &options.state {
        None => return Ok(None),
        Some(State::At(place)) => (store::open_within(place, options.wait_for_state, waiting)?, place.display().to_string()),
        Some(State::Store(store, name)) => (store.clone(), name.clone()),
    };
    let compare = |found: &Recovered| compare(&*store, found, &parts.computed, parts.blueprint.roots.as_ref());
    let judged = RefCell::new(None);
    let judge = |found: &Recovered| {
        let found = change::renamed(found.clone());
        let kept = found.start.iter().map(|s| &s.plan);
        kept.into_iter().try_for_each(|kept| change::judge_sources(kept, change::identities(&parts.sources), &place))?;
        let (labels, mut difference) = compare(&found);
        if found.start.is_none() {
            // nothing was there that could differ
            difference.parts.clear();
        }
        if difference.must_be_told() && options.on_change == OnChange::Refuse {
            return Err(difference.refused(&place));
        }
        let keeps = parts.sinks.iter().map(|(_, _, sink)| sink.guarantee(true) == Guarantee::ExactlyOnce);
        change::judge_sinks(&found, &difference, &labels.iter().zip(keeps).collect())?;
        judged.replace(Some((found, labels, difference)));
        Ok(())
    };
    let (log, _) = Log::open(store.clone(), &place, options.clock.unix_millis(), judge)?;
    let judged = judged.into_inner().ok_or_else(|| Error::internal("a ledger was won that nobody judged"))?;
    let (mut found, labels, difference) = judged;
    if difference.must_be_told() {
        tracing::warn!("the pipeline is not the one whose state is in {place}:\n{difference}");
    }
    change::changed(&mut found, &difference, log.writer().generation);
    Ok(Some(Kept { store, log, found, difference, labels }))
}

/// Looks at all sinks before one of them is opened, so that a state that is not theirs is refused while everything is as it was. The ledger is won:
/// nobody else binds epochs that its end does not name, and progress beyond it was made with another state.
pub(super) fn look(kept: &Kept, tail: Epoch, parts: &Parts, labels: &[String], context: &SinkContext) -> Result<()> {
    for (((view, schema, sink), output), ledger_label) in parts.sinks.iter().zip(&parts.blueprint.outputs).zip(labels) {
        let title = &output.title;
        let context = SinkContext { view: view.clone(), schema: schema.clone(), ..context.clone() };
        let seen = sink.look(&context).map_err(|e| e.at(format!("sink {title}")));
        // whether something is missing, or can be told from what came later, is judged when it is open
        let (born, base) = (kept.found.births.get(ledger_label).copied(), Some(Epoch(0)));
        let known = Known { writer: context.writer, tail, remembered: None, born, base };
        let fits = |p: Progress| resume(title, known, Some(p), |_| true);
        if let Err(e) = seen.and_then(|progress| progress.map(fits).transpose()) {
            // whoever was overtaken in the meantime does not know the end of the ledger, and judges nobody
            return Err(kept.log.overtaken()?.unwrap_or(e));
        }
    }
    Ok(())
}
