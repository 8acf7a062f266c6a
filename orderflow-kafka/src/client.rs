//! What every client shares: settings that are checked before anything connects, and an ear for what librdkafka says.
//!
//! Invariant: a property reaches librdkafka as it was given or is refused by name; secrets never appear in a message.

use orderflow_core::{Error, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaConfRes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a question to the cluster may stay unanswered before the brokers count as absent.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Where a cluster is and how to talk to it: broker addresses and librdkafka properties.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    brokers: String,
    properties: BTreeMap<String, Secret>,
}

/// A property's value; it may be a password, so it is never printed.
#[derive(Clone, Default)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl From<&str> for Settings {
    fn from(brokers: &str) -> Self {
        Self::new(brokers)
    }
}

impl From<String> for Settings {
    fn from(brokers: String) -> Self {
        Self::new(brokers)
    }
}

impl Settings {
    /// A cluster by the addresses of some of its brokers: `host:port,host:port`.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), properties: BTreeMap::new() }
    }

    /// Sets any librdkafka property; it is checked when the client is made.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), Secret(value.into()));
        self
    }

    pub(crate) fn set_brokers(&mut self, brokers: impl Into<String>) {
        self.brokers = brokers.into();
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// librdkafka's configuration: our defaults, then the user's properties. `ours` are names that the user may not set, each with what to do instead.
    pub(crate) fn client(&self, defaults: &[(&str, &str)], ours: &[(&str, &str)]) -> Result<ClientConfig> {
        if self.brokers.trim().is_empty() {
            return Err(Error::user("no Kafka broker was named").hint("give at least one address, as in .brokers(\"localhost:9092\")"));
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            if !cfg!(feature = "tls") && needs_tls(name, &value.0) {
                return Err(Error::user(format!("Kafka property '{name}' needs TLS or SASL, which this build does not have"))
                    .hint("build with the cargo feature `tls`"));
            }
            if let Some((_, instead)) = ours.iter().find(|(n, _)| n == name) {
                return Err(Error::user(format!("Kafka property '{name}' is orderflow's own")).hint(*instead));
            }
            config.set(name, &value.0);
        }
        config.set("bootstrap.servers", &self.brokers);
        config.create_native_config().map_err(refused_property)?;
        Ok(config)
    }
}

/// Whether the feature `tls` brings what a property is for. It does not bring what fetches tokens over HTTP, which librdkafka itself refuses.
fn needs_tls(name: &str, value: &str) -> bool {
    let over_http = name.starts_with("sasl.oauthbearer.") && name != "sasl.oauthbearer.config";
    let is_secure = ["ssl.", "ssl_", "sasl.", "enable.ssl.", "enable.sasl.", "oauthbearer_"].iter().any(|start| name.starts_with(start));
    is_secure && !over_http || name == "security.protocol" && !value.eq_ignore_ascii_case("plaintext")
}

/// What to do where librdkafka was built without what a property is for, by the words in which it says so.
fn not_built_in(why: &str) -> Option<&'static str> {
    let hint = "take PLAIN or SCRAM; a program that must fetch tokens over HTTP depends on rdkafka with its features `curl` and `ssl`, too";
    why.contains("libcurl").then_some(hint)
}

/// Why a client could not be made from its configuration.
pub(crate) fn refused_property(e: KafkaError) -> Error {
    match e {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            Error::user(format!("Kafka has no property '{name}'")).hint("the names are those of librdkafka's CONFIGURATION.md")
        }
        KafkaError::ClientConfig(_, why, name, _) => {
            let e = Error::user(format!("the value of Kafka property '{name}' is refused")).why(&why);
            match not_built_in(&why) {
                Some(hint) => e.hint(hint),
                None => e,
            }
        }
        e => Error::user("the Kafka client could not be made").why(e),
    }
}

/// What librdkafka told us since we last looked; shared by its threads and ours.
#[derive(Default)]
pub(crate) struct Context(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    down: Option<String>,
    /// Whether this outage was told already.
    told: bool,
    fatal: Option<String>,
    reason: Option<String>,
    commits: Vec<CommitResult>,
}

/// Outcome of one commit to the consumer group.
pub(crate) type CommitResult = std::result::Result<(), Code>;

impl Context {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest reason a broker could not be reached.
    pub(crate) fn reason(&self) -> Option<String> {
        self.heard().reason.clone()
    }

    /// Commits that were answered since the last call.
    pub(crate) fn commits(&self) -> Vec<CommitResult> {
        std::mem::take(&mut self.heard().commits)
    }

    /// A broker has answered: the next outage is a new one.
    pub(crate) fn alive(&self) {
        self.heard().told = false;
    }

    /// What the user should know now: said once in each outage of all brokers, and for good after a fatal error.
    pub(crate) fn trouble(&self, brokers: &str) -> Option<Error> {
        if let Some(fatal) = &self.heard().fatal {
            return Some(Error::external(format!("the Kafka client of {brokers} has failed")).why(fatal).permanent());
        }
        self.outage(brokers)
    }

    /// That no broker can be reached: said once in each outage.
    pub(crate) fn outage(&self, brokers: &str) -> Option<Error> {
        let mut heard = self.heard();
        let down = heard.down.take().filter(|_| !heard.told)?;
        heard.told = true;
        let why = heard.reason.clone().unwrap_or(down);
        let error = Error::external(format!("no Kafka broker of {brokers} can be reached at the moment")).why(why);
        Some(error.hint("it goes on by itself when one answers"))
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let mut heard = self.heard();
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => heard.down = Some(reason.to_owned()),
            Some(Code::Fatal) => heard.fatal = Some(reason.to_owned()),
            _ => heard.reason = Some(reason.to_owned()),
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let code = |e: &KafkaError| e.rdkafka_error_code().unwrap_or(Code::Unknown);
        let refused = || offsets.elements().iter().find_map(|e| e.error().err().map(|e| code(&e)));
        let result = match result {
            Err(e) => Err(code(&e)),
            Ok(()) => refused().map_or(Ok(()), Err),
        };
        self.heard().commits.push(result);
    }
}

/// How long answers have been missing, and after how much of that to do something: twice as long each time, since librdkafka keeps what it is given.
#[derive(Debug)]
pub(crate) struct Silence {
    lasted: Duration,
    patience: Duration,
}

impl Default for Silence {
    fn default() -> Self {
        Self { lasted: Duration::ZERO, patience: Duration::from_secs(5) }
    }
}

impl Silence {
    /// It has lasted longer by `time`; whether something is to be done now.
    pub(crate) fn lasts(&mut self, time: Duration) -> bool {
        self.lasted += time;
        let enough = self.lasted >= self.patience;
        if enough {
            *self = Self { lasted: Duration::ZERO, patience: (2 * self.patience).min(Duration::from_secs(300)) };
        }
        enough
    }
}

/// A question to the cluster got no answer: says who was asked and why it failed.
pub(crate) fn unanswered(what: &str, brokers: &str, context: &Context, e: &KafkaError) -> Error {
    match e.rdkafka_error_code() {
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve | Code::TimedOutQueue)
        | None => {
            let why = context.reason().unwrap_or_else(|| e.to_string());
            Error::external(format!("{what}: no Kafka broker answers at {brokers}"))
                .why(why)
                .hint("is the broker running, and is this the address it advertises?")
        }
        Some(code @ (Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
            Error::user(format!("{what}: the brokers at {brokers} do not allow it"))
                .why(code)
                .hint("give this client's user the right (an ACL of the broker), or name another user by the properties `sasl.…`")
        }
        Some(code) => Error::external(format!("{what}: the brokers at {brokers} answered with an error")).why(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_answers_are_missing_the_rarer_something_is_done() {
        let mut silence = Silence::default();
        let done: Vec<usize> = (1..=700).filter(|_| silence.lasts(Duration::from_secs(1))).collect();
        assert_eq!(done, [5, 15, 35, 75, 155, 315, 615], "twice as long each time, five minutes at most");
    }

    #[test]
    fn an_unknown_property_is_named() {
        let e = Settings::new("b:1").property("fetch.wait.max.mss", "5").client(&[], &[]).unwrap_err();
        assert!(e.to_string().contains("'fetch.wait.max.mss'"), "{e}");
        let e = Settings::new("b:1").property("fetch.wait.max.ms", "soon").client(&[], &[]).unwrap_err();
        assert!(e.to_string().contains("'fetch.wait.max.ms'"), "{e}");
    }

    #[test]
    fn a_property_of_ours_is_refused_with_what_to_do() {
        let e = Settings::new("b:1").property("group.id", "g").client(&[], &[("group.id", "use .group(name)")]).unwrap_err();
        assert_eq!(e.remedy(), Some("use .group(name)"));
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn security_is_refused_without_the_feature() {
        for protocol in ["ssl", "SASL_SSL", "sasl_plaintext"] {
            let e = Settings::new("b:1").property("security.protocol", protocol).client(&[], &[]).unwrap_err();
            assert!(e.to_string().contains("feature `tls`"), "{e}");
        }
        // all that librdkafka's CONFIGURATION.md says of TLS and SASL
        let ssl = "cipher.suites curves.list sigalgs.list key.location key.password key.pem certificate.location certificate.pem ca.location \
            ca.pem ca.certificate.stores crl.location keystore.location keystore.password providers engine.location engine.id \
            endpoint.identification.algorithm certificate.verify_cb";
        let sasl = "mechanisms mechanism kerberos.service.name kerberos.principal kerberos.kinit.cmd kerberos.keytab \
            kerberos.min.time.before.relogin username password oauthbearer.config";
        let more =
            ["ssl_ca", "enable.ssl.certificate.verification", "enable.sasl.oauthbearer.unsecure.jwt", "oauthbearer_token_refresh_cb"];
        let names = ssl.split_whitespace().map(|n| format!("ssl.{n}")).chain(sasl.split_whitespace().map(|n| format!("sasl.{n}")));
        for name in names.chain(more.map(str::to_owned)) {
            let e = Settings::new("b:1").property(&name, "x").client(&[], &[]).unwrap_err();
            assert!(e.to_string().contains(&format!("'{name}'")) && e.to_string().contains("feature `tls`"), "{e}");
        }
        assert!(Settings::new("b:1").property("security.protocol", "plaintext").client(&[], &[]).is_ok());
    }

    #[test]
    fn what_no_build_of_ours_has_is_refused_with_what_to_take_instead() {
        for (name, value, instead) in
            [("sasl.oauthbearer.method", "oidc", "take PLAIN or SCRAM"), ("https.ca.location", "/x", "take PLAIN or SCRAM")]
        {
            let e = Settings::new("b:1").property(name, value).client(&[], &[]).unwrap_err();
            assert!(e.to_string().contains(&format!("'{name}'")), "{e}");
            assert!(e.remedy().is_some_and(|hint| hint.starts_with(instead)), "{e}");
        }
        for codec in ["none", "lz4", "snappy", "gzip", "zstd"] {
            assert!(Settings::new("b:1").property("compression.type", codec).client(&[], &[]).is_ok(), "{codec}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_takes_no_wrong_certificate_file_and_names_the_property() {
        let config = Settings::new("b:1")
            .property("security.protocol", "ssl")
            .property("ssl.ca.location", "/does/not/exist.pem")
            .client(&[], &[])
            .unwrap();
        let made: KafkaResult<rdkafka::consumer::BaseConsumer> = config.create();
        assert!(refused_property(made.err().unwrap()).to_string().contains("ssl.ca.location"));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_takes_a_user_and_names_a_mechanism_that_it_does_not_know() {
        let client = |mechanism: &str| {
            let settings = Settings::new("b:1").property("security.protocol", "sasl_ssl").property("sasl.mechanism", mechanism);
            let settings = settings.property("sasl.username", "u").property("sasl.password", "p");
            let made: KafkaResult<rdkafka::consumer::BaseConsumer> = settings.client(&[], &[]).unwrap().create();
            made
        };
        for known in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] {
            assert!(client(known).is_ok(), "{known}");
        }
        let refused = refused_property(client("MORSE").err().unwrap()).to_string();
        assert!(refused.to_lowercase().contains("sasl"), "{refused}");
    }

    #[test]
    fn an_outage_is_told_once() {
        let context = Context::default();
        let down = || context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        context.error(KafkaError::Global(Code::BrokerTransportFailure), "connection refused");
        down();
        let e = context.trouble("b:1").unwrap();
        assert!(e.to_string().contains("b:1") && e.to_string().contains("connection refused"), "{e}");
        assert!(e.remedy().is_some_and(|hint| hint.contains("by itself")), "{e}");
        down();
        assert!(context.trouble("b:1").is_none());
        context.alive();
        assert!(context.trouble("b:1").is_none());
        down();
        assert!(context.trouble("b:1").is_some());
        context.error(KafkaError::Global(Code::Fatal), "fenced");
        assert_eq!(context.trouble("b:1").unwrap().retry(), orderflow_core::error::Retry::Never);
    }

    #[test]
    fn a_property_value_is_never_printed() {
        let s = Settings::new("b:1").property("sasl.password", "hunter2");
        assert!(!format!("{s:?}").contains("hunter2"));
    }
}
