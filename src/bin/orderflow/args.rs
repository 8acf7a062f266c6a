//! What the command line says, parsed into values that cannot be wrong.
//!
//! Invariant: nothing here reads, writes or waits; a mistake is told by clap, with the option it is in.

use crate::words::{Standby, duration};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Makes orders, shows records, and looks after kept state.
#[derive(Debug, Parser)]
#[command(
    name = "orderflow",
    version,
    about = "Make orders into a Kafka topic, show what a topic holds, look after the state of pipelines"
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write generated orders to a topic, a batch at a time; creates the topic if it is missing.
    Produce(Produce),
    /// Show the records of a topic from its beginning and then as they come, until stopped: a line each, PARTITION:OFFSET, a tab, the value.
    Tail(Tail),
    /// Look into the state of a pipeline, check it, take rows out of it, copy it.
    #[command(subcommand)]
    State(State),
    /// Forget what a sink holds, so that it begins anew; the pipeline must not be running.
    ResetSink(ResetSink),
}

/// `orderflow state`.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Show what a state is made of; the pipeline may be running.
    Ls {
        /// The folder or URL that was given to the pipeline.
        #[arg(value_name = "DIR|URL")]
        dir: PathBuf,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Read every entry and file and compare checksums; ends with 1 if something is damaged. The pipeline may be running.
    Verify {
        /// The folder or URL that was given to the pipeline.
        #[arg(value_name = "DIR|URL")]
        dir: PathBuf,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Write the rows of a view, as of the newest checkpoint, to a file.
    Export {
        /// The folder or URL that was given to the pipeline.
        #[arg(value_name = "DIR|URL")]
        dir: PathBuf,
        /// The view, or the number of a stored state as `ls` shows it.
        what: String,
        /// The file; its ending says the format.
        #[arg(long, value_name = "FILE.parquet|csv|jsonl", value_parser = output)]
        out: Output,
    },
    /// Copy a state under an id of its own, so that the copy can go on with other sinks; the pipeline may be running.
    Fork {
        /// The folder or URL that was given to the pipeline.
        #[arg(value_name = "DIR|URL")]
        dir: PathBuf,
        /// An empty folder, or one that is not there; or a URL with nothing below it.
        #[arg(value_name = "NEW_DIR|URL")]
        new_dir: PathBuf,
    },
}

/// `orderflow reset-sink`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResetSink {
    /// The folder or URL that was given to the pipeline.
    #[arg(value_name = "DIR|URL")]
    pub(crate) dir: PathBuf,
    /// The sink, as `state ls` shows it: 'parquet of totals'.
    pub(crate) sink: String,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

/// By the ending of a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    Csv,
    JsonLines,
}

/// Which topic of which cluster.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// Where the cluster is: HOST:PORT, several with commas.
    #[arg(long, default_value = "127.0.0.1:9092", value_parser = brokers)]
    pub(crate) brokers: String,
    /// Name of the topic; for `produce` it is created if it is missing, for `tail` it must be there.
    #[arg(long, default_value = orderflow::domain::order::TOPIC)]
    pub(crate) topic: String,
}

/// `orderflow produce`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Produce {
    #[command(flatten)]
    pub(crate) to: Topic,
    /// How many orders; without it: until stopped.
    #[arg(long)]
    pub(crate) orders: Option<u64>,
    /// Orders a second; 0 is flat out.
    #[arg(long, default_value_t = 50)]
    pub(crate) rate: u64,
    /// Time between two batches: 2s, 500ms, 1m.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(crate) every: Duration,
    /// The same seed makes the same orders; with --state it must stay the same.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Partitions of the topic if it has to be created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) partitions: u16,
    /// Folder, or s3://bucket/prefix with the feature s3, that remembers how far it is: the same command goes on where it stopped, whatever stopped it, and no
    /// order is produced twice. Each batch is a transaction.
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) standby: Standby,
    /// With --state: how many transactions are written side by side; it may be another number at every start.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "state", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) lanes: u8,
}

impl Produce {
    /// The beat of its batches.
    pub(crate) fn pace(&self) -> Pace {
        Pace { rate: self.rate, every: self.every }
    }
}

/// `orderflow tail`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) from: Topic,
    /// Folder, or s3://bucket/prefix with the feature s3, that remembers how far it is: the same command goes on where it stopped. What was shown just before a
    /// crash may be shown again.
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) standby: Standby,
    /// How often records are shown, and remembered with --state: 100ms, 1s.
    #[arg(long, default_value = "100ms", value_parser = duration)]
    pub(crate) epoch: Duration,
}

/// A beat: at the k-th multiple of `every`, counted from 0, all orders are due that belong before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    rate: u64,
    every: Duration,
}

impl Pace {
    /// How many orders are to have left at `elapsed` since the start; `None`: as many as one can.
    pub(crate) fn due(&self, elapsed: Duration) -> Option<u64> {
        (self.rate > 0).then(|| self.orders_in(self.beats(elapsed) + 1))
    }

    /// How long to wait for the next batch; zero if there is no beat.
    pub(crate) fn wait(&self, elapsed: Duration) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let next = (self.beats(elapsed) + 1) * self.every.as_nanos();
        Duration::from_nanos(u64::try_from(next - elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    fn beats(&self, elapsed: Duration) -> u128 {
        elapsed.as_nanos() / self.every.as_nanos()
    }

    fn orders_in(&self, beats: u128) -> u64 {
        let seconds_in_nanos = beats.saturating_mul(self.every.as_nanos());
        u64::try_from(seconds_in_nanos.saturating_mul(u128::from(self.rate)) / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

fn output(text: &str) -> Result<Output, String> {
    let path = PathBuf::from(text);
    let format = match path.extension().and_then(|e| e.to_str()) {
        Some("parquet") => Format::Parquet,
        Some("csv") => Format::Csv,
        Some("jsonl" | "ndjson") => Format::JsonLines,
        _ => return Err(format!("'{text}' does not say a format: end it in .parquet, .csv or .jsonl")),
    };
    Ok(Output { path, format })
}

/// `HOST:PORT`, several with commas.
fn brokers(text: &str) -> Result<String, String> {
    let good =
        |broker: &str| broker.rsplit_once(':').is_some_and(|(host, port)| !host.trim().is_empty() && port.trim().parse::<u16>().is_ok());
    if text.split(',').all(good) { Ok(text.into()) } else { Err(format!("'{text}' is not HOST:PORT (several with commas)")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn produce(args: &str) -> Result<Produce, String> {
        let words = ["orderflow", "produce"].into_iter().chain(args.split_whitespace());
        match CommandLine::try_parse_from(words).map_err(|e| e.to_string())?.command {
            Command::Produce(produce) => Ok(produce),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_commands_are_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_fifty_a_second_every_two_seconds() {
        let defaults = produce("").unwrap();
        let to = Topic { brokers: "127.0.0.1:9092".into(), topic: "orders".into() };
        let every = Duration::from_secs(2);
        assert_eq!(
            defaults,
            Produce { to, orders: None, rate: 50, every, seed: 1, partitions: 1, state: None, standby: Standby::default(), lanes: 1 }
        );
        let Command::Tail(tail) = CommandLine::try_parse_from(["orderflow", "tail"]).unwrap().command else { panic!("tail") };
        assert_eq!(tail, Tail { from: defaults.to, state: None, standby: Standby::default(), epoch: Duration::from_millis(100) });
    }

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let given = "--brokers a:1,b:2 --topic t --orders 10 --rate 0 --every 250ms --seed 7 --partitions 4 --state s --wait 10m --lanes 3";
        let given = produce(given).unwrap();
        let to = Topic { brokers: "a:1,b:2".into(), topic: "t".into() };
        let (every, state) = (Duration::from_millis(250), Some(PathBuf::from("s")));
        let standby = Standby { wait: Some(Duration::from_secs(600)) };
        assert_eq!(given, Produce { to, orders: Some(10), rate: 0, every, seed: 7, partitions: 4, state, standby, lanes: 3 });
        for (args, option) in [
            ("--every 2", "--every"),
            ("--every 0s", "--every"),
            ("--every .s", "--every"),
            ("--every 1e9s", "--every"),
            ("--every 2d", "--every"),
            ("--rate -1", "-1"),
            ("--brokers localhost", "--brokers"),
            ("--brokers a:1,:2", "--brokers"),
            ("--brokers a:99999", "--brokers"),
            ("--partitions 0", "--partitions"),
            ("--orders many", "--orders"),
            ("--lanes 2", "--state"),
            ("--state s --lanes 65", "--lanes"),
            ("--wait 10m", "--state"),
            ("--state s --wait 10", "--wait"),
            ("--state s --wait 0s", "--wait"),
        ] {
            let error = produce(args).unwrap_err();
            assert!(error.contains(option), "{args}: {error}");
        }
    }

    #[test]
    fn the_ending_of_a_file_says_its_format() {
        let parse = |words: &[&str]| CommandLine::try_parse_from([&["orderflow", "state"], words].concat()).map(|c| c.command);
        let Ok(Command::State(State::Export { dir, what, out })) = parse(&["export", "d", "totals", "--out", "a.b.csv"]) else {
            panic!("export")
        };
        assert_eq!((dir, what.as_str(), out.format), (PathBuf::from("d"), "totals", Format::Csv));
        for wrong in ["a", "a.xlsx", "csv"] {
            let e = parse(&["export", "d", "totals", "--out", wrong]).unwrap_err().to_string();
            assert!(e.contains("--out") && e.contains(".parquet"), "{e}");
        }
    }

    #[test]
    fn a_batch_is_rate_times_every_and_the_first_one_leaves_at_once() {
        let pace = Pace { rate: 50, every: Duration::from_secs(2) };
        let due = |millis| pace.due(Duration::from_millis(millis)).unwrap();
        assert_eq!([due(0), due(1_999), due(2_000), due(5_000)], [100, 100, 200, 300]);
        assert_eq!(pace.wait(Duration::from_millis(500)), Duration::from_millis(1_500));
        assert_eq!(pace.wait(Duration::from_millis(2_000)), Duration::from_secs(2));
    }

    #[test]
    fn slow_rates_lose_nothing_and_rate_0_knows_no_beat() {
        let slow = Pace { rate: 1, every: Duration::from_millis(300) };
        assert_eq!([0, 300, 600, 900, 2_700].map(|ms| slow.due(Duration::from_millis(ms)).unwrap()), [0, 0, 0, 1, 3]);
        let flat_out = Pace { rate: 0, every: Duration::from_secs(2) };
        assert_eq!((flat_out.due(Duration::ZERO), flat_out.wait(Duration::ZERO)), (None, Duration::ZERO));
        let huge = Pace { rate: u64::MAX, every: Duration::from_secs(3_600) };
        assert_eq!(huge.due(Duration::MAX), Some(u64::MAX));
    }
}
