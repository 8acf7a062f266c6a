//! From where a sink goes on: a pure decision over what it holds and what the ledger knows.

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

/// Decides for a sink that holds `found`, under ledger `writer` whose newest epoch is `tail` and which remembers `remembered` of that sink.
///
/// # Errors
/// The sink belongs to another ledger, is ahead of this one, or has lost what it held.
pub fn resume(sink: &str, writer: WriterId, tail: Epoch, found: Option<Progress>, remembered: Option<Progress>) -> Result<Resume> {
    let choices = "write into a new place, delete what is there, or use the state that belongs to it";
    match (found, remembered) {
        (None, None) => Ok(Resume::New),
        (None, Some(r)) => Err(Error::user(format!("{sink} has lost what it held"))
            .why(format!("the ledger remembers {r}, the sink holds nothing"))
            .hint(choices)),
        (Some(p), _) if p.writer.ledger != writer.ledger => {
            Err(Error::user(format!("{sink} was written by another pipeline or another state"))
                .why(format!("it holds {p}, this is ledger {:032x}", writer.ledger))
                .hint(choices))
        }
        (Some(p), _) if p.epoch > tail => Err(Error::user(format!("{sink} is ahead of the state"))
            .why(format!("it holds {p}, the state ends at epoch {tail}"))
            .hint("the state was rolled back: restore the newer one, or write into a new place")),
        (Some(p), Some(r)) if p.epoch < r.epoch => Err(Error::user(format!("{sink} has lost a part of what it held"))
            .why(format!("it holds {p}, the ledger remembers {r}"))
            .hint(choices)),
        (Some(p), _) => Ok(Resume::After(p.epoch)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_decided() {
        let me = WriterId { ledger: 7, generation: 2 };
        let at = |ledger, epoch| Some(Progress { writer: WriterId { ledger, generation: 1 }, epoch: Epoch(epoch), part: 0 });
        let decide = |found, remembered| resume("the sink", me, Epoch(10), found, remembered);
        assert_eq!(decide(None, None).unwrap(), Resume::New);
        assert_eq!(decide(at(7, 10), None).unwrap(), Resume::After(Epoch(10)));
        assert_eq!(decide(at(7, 4), at(7, 4)).unwrap(), Resume::After(Epoch(4)));
        for (found, remembered, says) in [
            (at(8, 4), None, "another pipeline"),
            (at(7, 11), None, "ahead of the state"),
            (None, at(7, 4), "has lost what it held"),
            (at(7, 3), at(7, 4), "has lost a part"),
        ] {
            let e = decide(found, remembered).unwrap_err();
            assert!(e.to_string().contains(says) && e.remedy().is_some(), "{e}");
        }
    }
}
