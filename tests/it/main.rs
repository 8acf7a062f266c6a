//! The facade's integration tests, one binary: a `mod` a file, so that the engine is linked once.
#![allow(clippy::disallowed_methods, reason = "tests may do what only one room may")]

mod bad_input;
mod compose;
mod dependencies;
mod full_pipeline;
mod layers;
mod orders;
mod orders_stream;
mod real;
mod support;

// until the program has its `main.rs`, its arguments are tested here
#[cfg(feature = "cli")]
#[path = "../../src/bin/orderflow/args.rs"]
#[allow(dead_code, reason = "read by the program and not by its tests")]
mod args;
