//! The engine as a step function, and threads as a shell around it.

mod background;
mod backoff;
mod checkpoint;
mod checkpoints;
mod ending;
mod engine;
mod intake;
mod ledger;
mod letterbox;
mod ports;
mod report;
mod shell;
mod sinks;
mod spool;
mod status;
mod worker;

pub use status::{Health, Lag, OperatorReport, Phase, SinkStatus, SourceReport, Status};

pub(crate) use background::{Driver, Port};
pub(crate) use checkpoint::{CheckpointDriver, Job};
pub(crate) use checkpoints::Checkpoints;
#[cfg(any(test, feature = "testing"))]
pub(crate) use engine::Step;
pub(crate) use engine::{Bounds, Engine, Request, gone};
pub(crate) use ledger::{LogDriver, LogJob, LogState};
pub(crate) use letterbox::Letterbox;
pub(crate) use ports::{Flight, Output, SinkPort, SourcePort, WorkerPort};
pub(crate) use shell::{DriverThread, SinkThread, queue, start_engine, start_workers};
pub(crate) use sinks::{SinkDriver, SinkState};
pub(crate) use spool::{Spool, Spooling};
pub(crate) use worker::{Begin, Blueprint, Core, Image, OutputPlan, SourcePlan, ToWorker, ViewPlan};
