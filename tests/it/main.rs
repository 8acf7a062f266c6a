//! The facade's integration tests, one binary: a `mod` a file, so that the engine is linked once.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "tests may do what only one room may")]

mod bad_input;
mod broken_off;
mod command_line;
mod compose;
mod dependencies;
mod dice;
mod doors;
mod exactly_once;
mod example_embed;
mod example_readers;
mod formats;
mod full_pipeline;
mod golden_run;
mod killed;
mod layers;
mod meddled;
mod metrics_table;
mod on_a_terminal;
mod orders;
mod orders_killed;
mod orders_stream;
mod peak;
mod promises;
mod real;
mod rolled_back;
mod soak;
mod standby;
mod state_tools;
mod support;
#[path = "../../orderflow-core/src/testing/tier.rs"]
#[expect(unreachable_pub, reason = "the engine's own file: its test kit is no feature of this package")]
mod tier;
mod two_at_once;
