//! The file sinks on a real disk: one that is full, and readers that are not ours.

mod disk_full;
mod readers;
