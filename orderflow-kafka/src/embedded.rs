//! A Kafka inside the process: librdkafka's mock cluster, which speaks the real protocol on a local port.
//!
//! Invariant: the cluster lives on a thread of its own as long as any handle does. Its limits are librdkafka's: a partition
//! silently forgets its oldest records beyond [`EmbeddedBroker::PARTITION_BYTES`] or [`EmbeddedBroker::PARTITION_BATCHES`]
//! (a reader that lags sees that as a loss; a record that alone passes the limit is lost itself), nothing survives the process, topics cannot be created or deleted through the
//! admin API, consumer groups cannot be listed, and offsets sent to a transaction are accepted but not stored.
#![expect(
    clippy::disallowed_methods,
    reason = "librdkafka's mock cluster may be used by one thread only, which takes one request at a time"
)]

use orderflow_core::{Error, Result};
use rdkafka::mocking::MockCluster;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A cheap handle to an embedded cluster; the cluster ends with its last handle.
#[derive(Clone, Debug)]
pub struct EmbeddedBroker {
    servers: String,
    commands: Sender<Command>,
}

enum Command {
    Create { topic: String, partitions: i32, answer: Sender<Result<()>> },
    Reachable { yes: bool, answer: Sender<Result<()>> },
}

impl EmbeddedBroker {
    /// Bytes after which a partition forgets its oldest records: a producer should stay well below that ahead of its readers.
    pub const PARTITION_BYTES: usize = 5 << 20;

    /// Record batches after which a partition forgets its oldest records.
    pub const PARTITION_BATCHES: usize = 100_000;

    /// Starts a cluster of `brokers` brokers on free local ports.
    ///
    /// # Errors
    /// If no port or thread can be had.
    pub fn start(brokers: i32) -> Result<Self> {
        let (commands, theirs) = channel();
        let (ready, started) = channel();
        std::thread::Builder::new()
            .name("orderflow-embedded-kafka".into())
            .spawn(move || run(brokers.max(1), &ready, &theirs))
            .map_err(|e| Error::external("the embedded Kafka could not start").caused_by(e))?;
        let servers = started.recv().map_err(gone)??;
        Ok(Self { servers, commands })
    }

    /// Addresses to connect to.
    pub fn bootstrap_servers(&self) -> &str {
        &self.servers
    }

    /// Creates a topic; one that exists stays as it is.
    ///
    /// # Errors
    /// A name or a number of partitions that cannot be.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.ask(|answer| Command::Create { topic: topic.to_owned(), partitions: partitions.max(1), answer })
    }

    /// Takes all brokers off the network, or brings them back: what a test needs to see an outage.
    ///
    /// # Errors
    /// If the cluster is gone.
    pub fn reachable(&self, yes: bool) -> Result<()> {
        self.ask(|answer| Command::Reachable { yes, answer })
    }

    fn ask(&self, command: impl FnOnce(Sender<Result<()>>) -> Command) -> Result<()> {
        let (answer, answered) = channel();
        self.commands.send(command(answer)).map_err(gone)?;
        answered.recv().map_err(gone)?
    }
}

fn gone(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the embedded Kafka has ended").caused_by(std::io::Error::other(e.to_string()))
}

fn run(brokers: i32, ready: &Sender<Result<String>>, commands: &Receiver<Command>) {
    let cluster = match MockCluster::new(brokers) {
        Ok(cluster) => cluster,
        Err(e) => {
            let _ = ready.send(Err(Error::external("the embedded Kafka could not start").caused_by(e)));
            return;
        }
    };
    if ready.send(Ok(cluster.bootstrap_servers())).is_err() {
        return;
    }
    // ends when the last handle is dropped
    while let Ok(command) = commands.recv() {
        match command {
            Command::Create { topic, partitions, answer } => {
                let created = match cluster.create_topic(&topic, partitions, 1) {
                    Err(e) if e.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::TopicAlreadyExists) => {
                        Err(Error::external(format!("the embedded Kafka did not create topic '{topic}'")).caused_by(e))
                    }
                    _ => Ok(()),
                };
                let _ = answer.send(created); // whoever asked may have gone
            }
            Command::Reachable { yes, answer } => {
                let done = if yes { cluster.broker_up(-1) } else { cluster.broker_down(-1) };
                let _ = answer.send(done.map_err(|e| Error::external("the embedded Kafka did not obey").caused_by(e)));
            }
        }
    }
}
