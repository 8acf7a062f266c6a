//! The file sinks on a real disk: one that is full, and readers that are not ours.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "tests may do what only one room may")]

mod disk_full;
mod readers;
