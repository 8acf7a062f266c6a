//! The engine as a whole: streaming answers against batch answers, and life in a service.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests may do what only one room may")]

mod columns;
mod doors;
mod ends;
mod feed;
mod fluent;
mod gaps;
mod golden;
mod heard;
mod life;
mod lost;
mod metrics;
mod oracle;
mod panics;
mod place;
mod restart;
mod restore;
mod scripted;
mod slow;
mod trouble;
mod watermarks;
