//! The kit with which the parts of a pipeline are tested (feature `testing`).
//!
//! Invariant: what a contract promises is written here once, as a suite that every implementation's own test calls.

pub mod conformance;
pub mod tier;
