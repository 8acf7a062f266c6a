//! Random walks through worlds far too large to be explored: hundreds of epochs, many crashes, three sinks, three processes.
//! The laws hold at every step, and every walk ends with every record in every sink.

use orderflow_model::{Params, Protocol};

/// A small generator of numbers (xorshift64*), so that a seed is a walk.
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

fn walk(params: Params, seed: u64) -> usize {
    let world = Protocol::new(params);
    let (mut state, mut random, mut steps) = (world.initial(), Seed(seed + 1), 0);
    loop {
        assert_eq!(world.broken(&state), None, "seed {seed}, step {steps}, {params:?}");
        let actions: Vec<_> = world.enabled(&state).collect();
        if actions.is_empty() {
            assert!(world.done(&state));
            return steps;
        }
        state = world.step(&state, actions[random.below(actions.len())]);
        steps += 1;
    }
}

#[test]
fn long_random_walks_keep_the_laws() {
    let walks = if super::nightly() { 3_000 } else { 100 };
    let big =
        Params { sinks: 3, records: 60, epoch_records: 4, crashes: 12, timeouts: 12, damages: 1, checkpoints: 40, ..Params::shared() };
    let worlds = [
        Params { writers: 3, parts: true, two_steps: true, filter: true, ..big },
        Params { writers: 1, parts: true, two_steps: true, filter: true, ..big },
        Params { writers: 2, spooled: true, two_steps: true, ..big },
        Params { timeouts: 0, filter: true, crashes: 12, sinks: 3, records: 60, epoch_records: 4, checkpoints: 40, ..Params::local() },
    ];
    for params in worlds {
        let steps: usize = (0..walks).map(|seed| walk(params, seed)).sum();
        assert!(steps > 200 * walks as usize, "{} steps a walk", steps / walks as usize);
    }
}
