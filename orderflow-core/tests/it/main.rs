//! The engine as a whole: streaming answers against batch answers, and life in a service.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests may do what only one room may")]

mod feed;
mod gaps;
mod life;
mod lost;
mod oracle;
mod place;
mod restart;
mod trouble;
mod watermarks;
