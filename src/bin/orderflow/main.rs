//! `orderflow`: the producer of orders, the console consumer, and the tools for kept state.
//!
//! Invariant: what a command prints on the standard output is its result; everything about its progress goes to the standard error.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]
#![allow(clippy::disallowed_methods, reason = "a command line has a clock, threads and an environment of its own")]

mod args;
mod produce;
mod state;
mod tail;
mod words;

use args::{Command, CommandLine};
use clap::Parser;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match CommandLine::parse().command {
        Command::Produce(options) => produce::run(options).await,
        Command::Tail(options) => tail::run(options).await,
        Command::State(options) => state::run(options),
        Command::ResetSink(options) => state::reset(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("orderflow: {e}");
            ExitCode::FAILURE
        }
    }
}
