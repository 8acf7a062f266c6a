//! The engine as a step function, and threads as a shell around it.

mod engine;
mod shell;
mod sinks;
mod status;
mod worker;

pub use status::{Phase, SinkStatus, SourceReport, Status};

pub(crate) use engine::{Bounds, Engine, Flight, Output, Request, SinkPort, SourcePort, WorkerPort, gone};
#[cfg(any(test, feature = "testing"))]
pub(crate) use engine::Step;
pub(crate) use shell::{SinkThread, start_engine, start_workers};
pub(crate) use sinks::{SinkDriver, SinkState};
pub(crate) use worker::{Blueprint, Core, OutputPlan, SourcePlan, ViewPlan};
