//! The shop's pipelines, one file each: a function from sources and sinks to a [`Pipeline`](crate::Pipeline). They open nothing.

pub mod orders;
