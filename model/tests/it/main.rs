//! The protocol as a model: its laws hold in every state that can be reached, and each planted bug breaks one of them.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests may do what only one room may")]

mod faults;
mod lost;
mod replay;
mod sound;
mod walks;

/// Whether the large worlds are explored too.
fn nightly() -> bool {
    std::env::var("ORDERFLOW_TIER").is_ok_and(|tier| tier == "nightly")
}
