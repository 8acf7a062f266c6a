//! The command line, parsed into values that are valid.

use crate::words::Standby;
use clap::Parser;
use orderflow::generator::{Orders, Share};
use std::path::PathBuf;

/// Orders by payment type and city: Kafka in, Kafka topics, console and Parquet out.
///
/// Without --brokers it brings its own Kafka broker, in this process.
#[derive(Parser)]
#[command(name = "full_pipeline")]
pub(crate) struct Options {
    /// A real Kafka, HOST:PORT[,HOST:PORT…]; without it an embedded broker is used
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) brokers: Option<String>,
    /// Put before the name of every topic, of the consumer group and, with --state, of every transactional id; a state goes on with the same one only
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub(crate) topic_prefix: String,
    /// How many orders to produce
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub(crate) orders: u64,
    /// Orders produced per second; 0 is as fast as it goes
    #[arg(long, default_value_t = 0, value_name = "R")]
    pub(crate) rate: u64,
    /// The same seed makes the same orders
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Worker threads of the dataflow
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) workers: usize,
    /// Where the results go: a folder, or s3://… [default: out/<UTC time>, or results in the place of --state]
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) out: Option<PathBuf>,
    /// Folder, or s3://bucket/prefix with the feature s3, that remembers how far everything is: the same command goes on where it stopped, whatever stopped it, and with --brokers every row is out once
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) standby: Standby,
    /// With --state: how often views are stored, in seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", requires = "state")]
    pub(crate) checkpoint_every: u64,
    /// With --state: how many transactions are written to Kafka side by side, 1 to 64; it may be another number at every start
    #[arg(long, default_value_t = 1, value_name = "N", requires = "state")]
    pub(crate) lanes: usize,
    /// How often an epoch closes, in milliseconds: what comes in later than that is in the next one
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) epoch: u64,
    /// A database that keeps count and amount in the table city_payment_totals: sqlite:FILE, mysql://… or postgres://…
    #[arg(long, value_name = "URL")]
    pub(crate) sql: Option<String>,
    /// Produce nothing: process what the topic holds, from its beginning to the end found at the start (an embedded broker begins empty)
    #[arg(long)]
    pub(crate) no_produce: bool,
    /// Go on until stopped by Ctrl-C, which lets what was produced go through and closes files
    #[arg(long)]
    pub(crate) follow: bool,
    /// Share of orders that come late, 0 to 1
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) late: Share,
    /// Share of orders that come twice, 0 to 1
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) duplicates: Share,
    /// Share of records that are no orders, 0 to 1
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) malformed: Share,
    /// Share of orders with a payment type that nobody has seen, 0 to 1
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) unseen_types: Share,
    /// Show deltas as JSON lines, for machines; all that is for people goes to the standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Rows of deltas shown for one epoch; 0 shows how many there were [default: 12, with --json all]
    #[arg(long, value_name = "ROWS")]
    pub(crate) show: Option<usize>,
}

fn share(text: &str) -> Result<Share, String> {
    let part: f64 = text.parse().map_err(|_| format!("'{text}' is not a number from 0 to 1"))?;
    Share::new(part).map_err(|e| e.to_string())
}

impl Options {
    /// The recipe of the orders to produce.
    pub(crate) fn recipe(&self) -> Orders {
        Orders::new(self.seed)
            .total(self.orders)
            .late(self.late)
            .duplicates(self.duplicates)
            .malformed(self.malformed)
            .unseen_types(self.unseen_types)
    }
}
