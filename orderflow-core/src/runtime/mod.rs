//! The engine as a step function, and threads as a shell around it.

mod backoff;
mod engine;
mod intake;
mod ledger;
mod ports;
mod report;
mod shell;
mod sinks;
mod status;
mod worker;

pub use status::{Phase, SinkStatus, SourceReport, Status};

#[cfg(any(test, feature = "testing"))]
pub(crate) use engine::Step;
pub(crate) use engine::{Bounds, Engine, Request, gone};
pub(crate) use ledger::{LogDriver, LogPort, LogState};
pub(crate) use ports::{Flight, Output, SinkPort, SourcePort, WorkerPort};
pub(crate) use shell::{LogThread, SinkThread, queue, start_engine, start_workers};
pub(crate) use sinks::{SinkDriver, SinkState};
pub(crate) use worker::{Blueprint, Core, OutputPlan, SourcePlan, ViewPlan};
