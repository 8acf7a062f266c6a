//! What goes wrong in a run, drawn from one number: how many lives a pipeline has, how each of them ends, what the disk and the log do to it.
//!
//! Invariant: a schedule is a function of its seed and of how many operations an undisturbed run has, so that the seed alone brings a failure back.

use crate::store::faulty::Fault;
use crate::store::volatile::Draw;
use std::collections::BTreeMap;
use std::fmt;

/// Seeds with this bit name a crash point: one fault at one operation.
const POINT: u64 = 1 << 63;
/// Of these, seeds with this bit count calls to the disk: the process dies before or after one, and the power may be cut then.
const AT_THE_DISK: u64 = 1 << 62;

/// Operations of an undisturbed run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Calls to stores and acts on sinks.
    pub(super) calls: u64,
    /// Calls to the disk below the stores, and acts on sinks.
    pub(super) disk: u64,
}

/// A run with everything that goes wrong in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    /// Stores are folders on a disk that forgets; else they are in memory.
    pub(super) on_disk: bool,
    /// Checkpoints as often as possible; else only at the end.
    pub(super) checkpoints: bool,
    /// The order of partitions and the fetches are others in every life.
    pub(super) shuffled: bool,
    /// The log loses its beginning between lives.
    pub(super) truncated: bool,
    /// Lives that end badly; after them comes one that is left alone.
    pub(super) lives: Vec<Life>,
    /// Once there is a start over a wrong state.
    pub(super) lost: Option<Lost>,
}

/// A start over a state that is not the one of the sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// After this life, counted from 0, or the next one after which sinks hold rows.
    pub(super) after: usize,
    /// It is that of another run, which died at this operation; else it is empty.
    pub(super) dies_at: Option<u64>,
}

/// What happens to one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) faults: Vec<(u64, Fault)>,
    /// Operations are calls to the disk, not to the stores above it.
    pub(super) at_the_disk: bool,
    /// The power is cut at its end, and what is lost is drawn from this.
    pub(super) power_cut: Option<u64>,
    /// For whatever else is drawn.
    pub(super) seed: u64,
}

impl Schedule {
    /// Nothing goes wrong.
    pub(super) fn calm(on_disk: bool) -> Self {
        Self { seed: 0, on_disk, checkpoints: true, shuffled: false, truncated: false, lives: vec![], lost: None }
    }

    /// One fault at one operation.
    pub(super) fn point(at: u64, fault: usize) -> u64 {
        POINT | (at << 2) | fault as u64
    }

    /// The point of this seed, counted in calls to the disk: of the four a death before and one after the call, and the same with a power cut.
    pub(super) fn at_the_disk(point: u64) -> u64 {
        point | AT_THE_DISK
    }

    /// Seeds for each kind of act of an undisturbed run for which `of` holds, in the middle of those of its kind: of a call to a store and an act on a sink
    /// every fault; of a call to the disk a death before and one after it, with a power cut.
    pub(super) fn acts(calls: &[String], disk: &[String], of: fn(&str) -> bool) -> Vec<u64> {
        // what an append took is never left unanswered, and where answers get lost appends are not counted
        let is_append = |act: &&String| act.starts_with("write ");
        let mut seeds = vec![];
        for at in middles(calls, of) {
            let appends = calls[..at].iter().filter(is_append).count();
            for (n, fault) in Fault::ALL.into_iter().enumerate() {
                match fault {
                    Fault::Unanswered if is_append(&&calls[at - 1]) => {}
                    Fault::Unanswered => seeds.push(Self::point((at - appends) as u64, n)),
                    _ => seeds.push(Self::point(at as u64, n)),
                }
            }
        }
        let disk = middles(disk, of).into_iter().filter(|at| disk[*at - 1].starts_with("disk: "));
        seeds.extend(disk.flat_map(|at| [2, 3].map(|bits| Self::at_the_disk(Self::point(at as u64, bits)))));
        seeds
    }

    /// The schedule of a seed.
    pub(super) fn of(seed: u64, sizes: Sizes, kinds: Kinds) -> Self {
        if seed & POINT != 0 {
            let (at, bits, at_the_disk) = ((seed & !(POINT | AT_THE_DISK)) >> 2, seed & 3, seed & AT_THE_DISK != 0);
            let (fault, power_cut) = match at_the_disk {
                false => (Fault::ALL[bits as usize], None),
                true => (Fault::ALL[2 + (bits & 1) as usize], (bits & 2 != 0).then_some(seed)),
            };
            let life = Life { faults: vec![(at, fault)], at_the_disk, power_cut, seed };
            return Self { seed, lives: vec![life], ..Self::calm(at_the_disk) };
        }
        let mut draw = Draw(seed);
        let on_disk = draw.below(3) > 0;
        let (checkpoints, shuffled, truncated) = (draw.below(3) > 0, draw.below(3) == 0, draw.below(6) == 0);
        let lives: Vec<Life> = (0..2 + draw.below(3)).map(|n| Life::draw(&mut draw, on_disk, sizes, n == 0)).collect();
        let (is_lost, after, dies_at) = (draw.below(2) == 0, draw.below(lives.len() as u64) as usize, 1 + draw.below(sizes.calls));
        let lost = Lost { after, dies_at: (draw.below(4) > 0).then_some(dies_at) };
        let lost = Some(lost).filter(|_| is_lost && kinds.lost && !on_disk);
        Self { seed, on_disk, checkpoints, shuffled: shuffled && kinds.shuffled, truncated: truncated && kinds.truncated, lives, lost }
    }
}

impl Schedule {
    /// The same without a disk, and with nothing lost.
    pub(super) fn in_memory(mut self) -> Self {
        (self.on_disk, self.lost) = (false, None);
        self.lives.iter_mut().for_each(|life| (life.at_the_disk, life.power_cut) = (false, None));
        self
    }
}

/// The middle one of each kind of act, counted from 1.
fn middles(acts: &[String], of: fn(&str) -> bool) -> Vec<usize> {
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (act, at) in acts.iter().zip(1..).filter(|(act, _)| of(act)) {
        kinds.entry(act).or_default().push(at);
    }
    kinds.into_values().map(|at| at[at.len() / 2]).collect()
}

/// Which kinds of trouble a pipeline is put to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds {
    pub(super) shuffled: bool,
    pub(super) truncated: bool,
    pub(super) lost: bool,
}

impl Life {
    /// The same without a death.
    pub(super) fn survived(&self) -> Self {
        let faults = self.faults.iter().copied().filter(|(_, fault)| !fault.is_crash()).collect();
        Self { faults, ..self.clone() }
    }

    fn draw(draw: &mut Draw, on_disk: bool, sizes: Sizes, first: bool) -> Self {
        let at_the_disk = on_disk && draw.below(2) == 0;
        let size = if at_the_disk { sizes.disk } else { sizes.calls };
        // whoever goes on has less to do, and is to die as well: so early moments oftener than late ones, which a run with fewer checkpoints never comes to
        let most = match (draw.below(4), first) {
            (0, true) | (2, false) => size / 8,
            (1, true) => size / 4,
            (2, true) => size / 2,
            (_, true) => size + size / 8,
            (0, false) => size / 24,
            (1, false) => size / 12,
            (_, false) => size / 3,
        };
        let at = 1 + draw.below(most + 1);
        let end = (at, Fault::ALL[2 + draw.below(2) as usize]);
        let mut faults: Vec<(u64, Fault)> = vec![];
        if !at_the_disk {
            // a start that is refused something ends there: half of the lives come to their death without that
            let passing = draw.below(16) * draw.below(2);
            for _ in 0..passing {
                faults.push((draw.below(at) + 1, Fault::ALL[draw.below(2) as usize]));
            }
            // just before the end as well
            faults.extend((0..draw.below(2)).map(|i| (at.saturating_sub(i + 1), Fault::Unanswered)));
            faults.retain(|(n, _)| *n < at);
        }
        faults.push(end);
        let cut = draw.next();
        let power_cut = (on_disk && draw.below(2) == 0).then_some(cut);
        Self { faults, at_the_disk, power_cut, seed: draw.next() }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.on_disk { "folders on a disk that forgets" } else { "stores in memory" };
        let often = if self.checkpoints { "checkpoints all the time" } else { "a checkpoint at the end" };
        write!(f, "seed {}: {place}, {often}", self.seed)?;
        for (on, what) in [(self.shuffled, "fetches in another order every time"), (self.truncated, "a log that loses its beginning")] {
            if on {
                write!(f, ", {what}")?;
            }
        }
        for (n, life) in self.lives.iter().enumerate() {
            let unit = if life.at_the_disk { "call to the disk" } else { "operation" };
            write!(f, "\n  life {}:", n + 1)?;
            for (at, fault) in &life.faults {
                let what = match fault {
                    Fault::Refused => "is refused",
                    Fault::Unanswered => "happens, unanswered",
                    Fault::CrashBefore => "does not happen, the process is dead",
                    Fault::CrashAfter => "is the last",
                };
                write!(f, " {unit} {at} {what};")?;
            }
            if life.power_cut.is_some() {
                write!(f, " the power is cut;")?;
            }
            match self.lost.filter(|lost| lost.after == n) {
                None => {}
                Some(Lost { dies_at: None, .. }) => write!(f, " then, when sinks hold rows, a start over an empty state;")?,
                Some(Lost { dies_at: Some(at), .. }) => {
                    write!(f, " then, when sinks hold rows, a start over the state of a run that died at operation {at};")?
                }
            }
        }
        Ok(())
    }
}
