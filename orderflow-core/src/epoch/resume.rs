//! From where a sink goes on: a pure decision over what it holds and what the ledger knows.

use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::sink::{Progress, WriterId};
use crate::time::Epoch;

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It holds everything up to this epoch; what is not newer is dropped before it.
    After(Epoch),
    /// It holds nothing and is not expected to hold anything.
    New,
}

/// What the ledger knows of a sink.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Who opens it.
    pub writer: WriterId,
    /// The newest epoch bound.
    pub tail: Epoch,
    /// Its newest progress, if any was seen.
    pub remembered: Option<Progress>,
    /// The generation in which its present life began, if it came, changed or was reset after the first start.
    pub born: Option<u64>,
    /// All epochs up to this one it holds, however old its last row is; `None` if it is new since.
    pub base: Option<Epoch>,
}

/// Decides for a sink that holds `found`; `ends` says whether what is read again can be cut after an epoch.
///
/// # Errors
/// The sink belongs to another ledger, is ahead of this one, has lost what it held, or holds rows of an earlier life, perhaps of another query.
pub fn resume(sink: &str, known: Known, found: Option<Progress>, ends: impl Fn(Epoch) -> bool) -> Result<Resume> {
    let Known { writer, tail, remembered, born, base } = known;
    let choices = "write into a new place, delete what is there, or use the state that belongs to it";
    match (found, remembered) {
        (None, None) => Ok(base.map_or(Resume::New, Resume::After)),
        (None, Some(r)) => Err(Error::user(format!("{sink} has lost what it held"))
            .why(format!("the ledger remembers {r}, the sink holds nothing"))
            .hint(format!("{choices}; or reset it (orderflow reset-sink), and it gets everything again"))),
        (Some(p), _) if p.writer.ledger != writer.ledger && !planted(Bug::LedgerIdIgnored) => {
            Err(Error::user(format!("{sink} was written by another pipeline or another state"))
                .why(format!("it holds {p}, this is ledger {:032x}", writer.ledger))
                .hint(choices))
        }
        (Some(p), _) if p.epoch > tail => Err(Error::user(format!("{sink} is ahead of the state"))
            .why(format!("it holds {p}, the state ends at epoch {tail}"))
            .hint("the state was rolled back: restore the newer one, or write into a new place")),
        (Some(p), _) if born.is_some_and(|born| p.writer.generation < born) => Err(Error::user(format!("{sink} holds rows of before"))
            .why(format!("it holds {p}; since then its query changed, or it was reset, or the pipeline went on without it"))
            .hint("rows of two queries are not mixed: write into a new place, or delete what is there; then it gets everything")),
        (Some(p), Some(r)) if p.epoch < r.epoch => Err(Error::user(format!("{sink} has lost a part of what it held"))
            .why(format!("it holds {p}, the ledger remembers {r}"))
            .hint(choices)),
        // the oldest epochs are read again as one, which a sink that holds them must not get
        (Some(p), _) => match base {
            Some(base) => Ok(Resume::After(p.epoch.max(base))),
            None if ends(p.epoch) => Ok(Resume::After(p.epoch)),
            None => Err(Error::user(format!("{sink} cannot be given what comes after its last epoch"))
                .why(format!("it holds {p}, and that epoch is no longer told from the ones after it"))
                .hint("write into a new place, or delete what is there; then it gets everything")),
        },
    }
}

/// Judges the lanes of a sink that goes on: `found` and `remembered` say up to which epoch each holds everything, by its number. A lane that there is no more
/// is as far as the sink as a `whole`; of a sink that names none nothing is known. The progress of the sink is not enough: it is that of the lane that lacks
/// most, and does not show that one of the others went back.
///
/// # Errors
/// A lane has lost what it held, and would get it again.
pub fn judge_lanes(sink: &str, found: &[Epoch], whole: Epoch, remembered: &[Epoch]) -> Result<()> {
    for (lane, known) in remembered.iter().enumerate().filter(|_| !found.is_empty()) {
        let held = found.get(lane).copied().unwrap_or(whole);
        if held < *known {
            return Err(Error::user(format!("lane {lane} of {sink} has lost a part of what it held"))
                .why(format!("it holds everything up to epoch {held}, the ledger remembers epoch {known}"))
                .hint("write into a new place, delete what is there and reset it (orderflow reset-sink), or put back what it held"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_went_back_is_named() {
        let judge = |found: &[u64], whole, remembered: &[u64]| {
            let epochs = |lanes: &[u64]| lanes.iter().copied().map(Epoch).collect::<Vec<_>>();
            judge_lanes("kafka of totals", &epochs(found), Epoch(whole), &epochs(remembered)).map_err(|e| e.to_string())
        };
        let fine: [(&[u64], u64, &[u64]); 6] = [
            (&[20, 15], 15, &[20, 15]),
            (&[21, 15], 15, &[20, 15]),
            (&[20, 15], 15, &[]),
            // another number of lanes, once all of them hold the same
            (&[20], 20, &[20, 15]),
            (&[20; 4], 20, &[20, 15]),
            // whoever wraps the sink may not tell
            (&[], 15, &[20, 15]),
        ];
        for (found, whole, remembered) in fine {
            assert_eq!(judge(found, whole, remembered), Ok(()), "{found:?} {remembered:?}");
        }
        let lost: [(&[u64], u64, &[u64], usize); 4] =
            [(&[17, 15], 15, &[20, 15], 0), (&[15, 15], 15, &[20, 15], 0), (&[20, 0], 0, &[20, 15], 1), (&[15], 15, &[15, 18], 1)];
        for (found, whole, remembered, lane) in lost {
            let e = judge(found, whole, remembered).unwrap_err();
            assert!(e.starts_with(&format!("lane {lane} of kafka of totals has lost a part of what it held")), "{e}");
        }
    }

    #[test]
    fn every_combination_is_decided() {
        let me = WriterId { ledger: 7, generation: 3 };
        let at = |ledger, generation, epoch| Some(Progress { writer: WriterId { ledger, generation }, epoch: Epoch(epoch), part: 0 });
        let decide = |found, remembered, born, base: Option<u64>| {
            let known = Known { writer: me, tail: Epoch(10), remembered, born, base: base.map(Epoch) };
            resume("the sink", known, found, |epoch| epoch == Epoch(3) || epoch >= Epoch(6))
        };
        assert_eq!(decide(None, None, None, None).unwrap(), Resume::New);
        assert_eq!(decide(None, None, Some(2), None).unwrap(), Resume::New);
        assert_eq!(decide(None, None, None, Some(6)).unwrap(), Resume::After(Epoch(6)), "it never had a row");
        assert_eq!(decide(at(7, 1, 10), None, None, None).unwrap(), Resume::After(Epoch(10)));
        assert_eq!(decide(at(7, 1, 4), at(7, 1, 4), None, Some(6)).unwrap(), Resume::After(Epoch(6)));
        assert_eq!(decide(at(7, 2, 3), None, Some(2), None).unwrap(), Resume::After(Epoch(3)), "it has the first part of its first rows");
        for (found, remembered, born, base, says) in [
            (at(8, 1, 4), None, None, None, "another pipeline"),
            (at(7, 1, 11), None, None, None, "ahead of the state"),
            (None, at(7, 1, 4), None, Some(6), "has lost what it held"),
            (at(7, 1, 3), at(7, 1, 4), None, Some(6), "has lost a part"),
            (at(7, 1, 9), None, Some(2), None, "holds rows of before"),
            (at(7, 2, 4), None, Some(2), None, "cannot be given what comes after"),
        ] {
            let e = decide(found, remembered, born, base).unwrap_err();
            assert!(e.to_string().contains(says) && e.remedy().is_some(), "{e}");
        }
    }
}
