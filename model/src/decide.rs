//! The decisions of the protocol, pure: from where a sink goes on, which checkpoint is loaded, what may be deleted.
//!
//! Most mirror a function of `orderflow-core`, named in their docs, and are where a planted bug of that decision sits. Invariant:
//! a decision sees what the process could have read, never [`Seen`](crate::state::Seen).

use crate::fault::Fault;
use crate::params::Params;
use crate::state::{Cellar, Epoch, Mark, Note, Progress, Roots, State, WHOLE, Writer, WriterId};

/// Where a sink goes on: after a mark, or from the beginning; `Err`: the open is refused.
///
/// Mirrors `orderflow_core::epoch::resume`, with one difference: the gate stands at a part, not at an epoch.
pub(crate) fn resume(
    params: &Params,
    writer: WriterId,
    tail: Epoch,
    found: Option<Progress>,
    remembered: Option<Mark>,
) -> Result<Option<Mark>, ()> {
    let mark = match (found, remembered) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(()),
        (Some(p), _) if p.writer.0 != writer.0 && !params.has(Fault::LedgerIdIgnored) => return Err(()),
        (Some(p), _) if p.mark.0 > tail => return Err(()),
        (Some(p), Some(remembered)) if p.mark < remembered => return Err(()),
        (Some(p), _) => p.mark,
    };
    Ok(match params.fault {
        Some(Fault::GateTooLow) if mark.0 == 1 => None,
        Some(Fault::GateTooLow) => Some((mark.0 - 1, WHOLE)),
        Some(Fault::GateTooHigh) => Some((mark.0 + 1, WHOLE)),
        Some(Fault::GateForgetsParts) => Some((mark.0, WHOLE)),
        _ => Some(mark),
    })
}

/// The first look at a sink, before anything is written anywhere: whether it may be opened at all.
///
/// Mirrors `look` of `orderflow_core::pipeline`'s start. Only the ledger id counts: the epoch is judged by [`resume`], after older
/// writers are fenced, since an older writer may bind and commit between the reading of the ledger and this look.
pub(crate) fn look(params: &Params, ledger: u8, tail: Epoch, found: Option<Progress>) -> Result<(), ()> {
    let Some(found) = found else { return Ok(()) };
    let foreign = found.writer.0 != ledger && !params.has(Fault::LedgerIdIgnored) && !params.has(Fault::FenceBeforeLook);
    let ahead = params.has(Fault::LookJudgesEpochs) && found.mark.0 > tail;
    if foreign || ahead { Err(()) } else { Ok(()) }
}

/// What the newest checkpoint remembers of each sink: `held` of the newest `orderflow_core::epoch::Base`.
pub(crate) fn remembered(cellar: &Cellar, sink: usize) -> Option<Mark> {
    cellar.notes().rev().find_map(|(_, note)| if let Note::Checkpoint { held, .. } = note { Some(held[sink]) } else { None })?
}

/// Loads the newest complete checkpoint that is whole, and replays what was bound after it; `Err`: something needed is gone.
/// The flag says whether a damaged one was passed over.
///
/// Mirrors `Restored::choose` of `orderflow_core::pipeline`, and what is read again: `orderflow_core::epoch::Recovered::replay`.
pub(crate) fn hydrate(params: &Params, cellar: &Cellar, writer: &mut Writer) -> Result<bool, ()> {
    let mut fell_back = false;
    writer.known.clear();
    for (_, note) in cellar.notes().rev() {
        let &Note::Checkpoint { epoch, generation, to, .. } = note else { continue };
        match cellar.roots_of(epoch, generation) {
            Some(roots) if !roots.damaged => {
                if writer.known.is_empty() {
                    // derived arrangements fill at the base, and what they feed is sent everything again
                    let again = if params.has(Fault::RootHearsAll) { roots.folded } else { 0 };
                    (writer.base, writer.base_to, writer.base_folded) = (epoch, to, roots.folded + again);
                }
                writer.known.insert(0, (epoch, generation));
            }
            _ => fell_back |= writer.known.is_empty(),
        }
    }
    let tail = cellar.tail();
    for epoch in writer.base + 1..=tail {
        let (from, to) = cellar.binding(epoch).filter(|_| !params.spooled || cellar.is_spooled(epoch)).ok_or(())?;
        let folded = writer.folded() + (to - from);
        writer.epochs.push((to, folded));
    }
    (writer.durable, writer.spooled) = (writer.closed(), writer.closed());
    Ok(fell_back)
}

/// What a sink gets next: its mark, and the records.
///
/// Mirrors the gate in `orderflow_core::runtime`: what is not newer than what the sink holds is dropped, and what is not durable waits.
pub(crate) fn next_piece(params: &Params, writer: &Writer, sink: usize) -> Option<(Mark, u16, u16)> {
    let until = if params.has(Fault::LedgerAfterOutput) { writer.closed() } else { writer.durable };
    (writer.base + 1..=until).find_map(|epoch| {
        let (from, to) = writer.range(epoch);
        let newer = |part: u16| writer.ports[sink].held.is_none_or(|held| (epoch, part) > held);
        let piece = params.pieces(sink, from, to).find(|(part, ..)| newer(*part))?;
        Some(((epoch, piece.0), piece.1, piece.2))
    })
}

/// The newest epoch of which a sink lacks nothing; an epoch that is empty for it needs no commit.
pub(crate) fn reached(params: &Params, writer: &Writer, sink: usize) -> Epoch {
    next_piece(params, writer, sink).map_or(writer.durable, |((epoch, _), ..)| epoch - 1)
}

/// Whether the checkpoint whose roots are stored may be declared complete: every sink has committed up to it. Mirrors `step_checkpoints` of
/// `orderflow_core::runtime`.
pub(crate) fn complete(params: &Params, writer: &Writer, sinks: usize) -> bool {
    let ready = |epoch| params.has(Fault::CheckpointBeforeSinks) || (0..sinks).all(|sink| reached(params, writer, sink) >= epoch);
    writer.staged.is_some_and(ready)
}

/// A thing that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Slot(usize),
    Roots(usize),
    Spool(usize),
}

/// The next object nobody needs any more: what is older than the older of the two newest complete checkpoints.
///
/// Mirrors `orderflow_core::epoch::Ledger::retire` and `Base::covered`. Generation records are never deleted: an older writer's next slot holds one.
pub(crate) fn retire(params: &Params, state: &State, writer: &Writer) -> Option<Object> {
    let cellar = &state.cellar;
    let [.., older, newest] = writer.known[..] else {
        let fastest = (0..writer.ports.len()).map(|sink| reached(params, writer, sink)).max()?;
        return if params.has(Fault::RetirePastSink) { next_retired(params, cellar, fastest, 0, 0, 0) } else { None };
    };
    let bindings = match params.fault {
        Some(Fault::RetirePastOlder) => newest.0,
        Some(Fault::RetirePastSink) => (0..writer.ports.len()).map(|sink| reached(params, writer, sink)).max()?,
        _ => older.0,
    };
    let is_older = |note: &Note| matches!(note, Note::Checkpoint { epoch, generation, .. } if (*epoch, *generation) == older);
    let before = cellar.notes().find(|(_, note)| is_older(note)).map_or(0, |(slot, _)| slot);
    let spool = if params.has(Fault::SpoolDroppedAtNewest) { newest.0 } else { older.0 };
    next_retired(params, cellar, bindings, older.0, spool, before)
}

fn next_retired(params: &Params, cellar: &Cellar, bindings: Epoch, checkpoints: Epoch, spool: Epoch, before: usize) -> Option<Object> {
    let slot = cellar.notes().find(|(slot, note)| match note {
        Note::Binding { epoch, .. } => *epoch <= bindings,
        Note::Checkpoint { epoch, .. } => *epoch < checkpoints,
        Note::Generation(_) => params.has(Fault::GenerationRetired) && *slot < before,
    });
    let roots = || cellar.roots.iter().position(|r| r.epoch < checkpoints).map(Object::Roots);
    let spool = || cellar.spool.iter().position(|(epoch, _)| *epoch <= spool).map(Object::Spool);
    slot.map(|(slot, _)| Object::Slot(slot)).or_else(roots).or_else(spool)
}

/// The next root file that a lower generation left and no complete checkpoint names, or object with records that no binding names.
pub(crate) fn leftover(params: &Params, cellar: &Cellar, writer: &Writer) -> Option<Object> {
    let names = |note: &Note, r: &Roots| matches!(note, Note::Checkpoint { epoch, generation, .. } if (*epoch, *generation) == (r.epoch, r.generation));
    let lower = |g: u16| g < writer.generation || (g > writer.generation && params.has(Fault::CleanAnyGeneration));
    let roots = cellar.roots.iter().position(|r| lower(r.generation) && !cellar.notes().any(|(_, note)| names(note, r)));
    let spool = || cellar.spool.iter().position(|(epoch, g)| lower(*g) && cellar.bound_by(*epoch) != Some(*g));
    roots.map(Object::Roots).or_else(|| spool().map(Object::Spool))
}
