//! A client that has forgotten all brokers, by one that speaks just enough of the protocol to answer what it wants about itself.
//!
//! Invariant: librdkafka's own way back is switched off, since it helps sometimes and these tests are about the times when it does not.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The only topic, without a leader. Its name is long because librdkafka reckons the room for an answer by the answer's size, and this one is short.
const TOPIC: &str = "a-topic-that-is-there-so-that-an-answer-without-brokers-is-one-which-a-client-believes-and-does-not-ask-for-again";

/// How long a client that knows no broker is given to find one.
const SHORT: Duration = Duration::from_secs(1);

/// A broker that names itself, or nobody.
struct Broker {
    port: u16,
    names_itself: AtomicBool,
    /// How often it named nobody.
    denials: AtomicUsize,
}

impl Broker {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let broker = Arc::new(Self { port, names_itself: AtomicBool::new(true), denials: AtomicUsize::new(0) });
        let accepting = broker.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let serving = accepting.clone();
                std::thread::spawn(move || serving.serve(client));
            }
        });
        broker
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("metadata.recovery.strategy", "none");
        config
    }

    /// Answers until the client goes. A message is its length and so many bytes; a request begins with its kind, its version and its number, an answer
    /// with the number of its request.
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut request)?;
            let body = match i16::from_be_bytes([request[0], request[1]]) {
                3 => self.metadata(),
                18 => versions(),
                _ => return Ok(()), // it was offered nothing else
            };
            let answer = [&request[4..8], body.as_slice()].concat();
            client.write_all(&[&(answer.len() as u32).to_be_bytes()[..], answer.as_slice()].concat())?;
        }
    }

    /// Metadata in version 1: brokers, who is the controller, topics.
    fn metadata(&self) -> Vec<u8> {
        let named = self.names_itself.load(Ordering::SeqCst);
        let mut answer = int(i32::from(named));
        if named {
            let (number, no_rack) = (int(1), vec![0xff, 0xff]);
            answer.extend([number, text("127.0.0.1"), int(self.port.into()), no_rack].concat());
        } else {
            self.denials.fetch_add(1, Ordering::SeqCst);
        }
        let (no_leader, not_internal) = (vec![0, 5], vec![0]);
        answer.extend([int(1), int(1), no_leader, text(TOPIC), not_internal, int(0)].concat());
        answer
    }

    /// Brings a client to where it knows no broker any more, though there is one that would name itself.
    fn is_forgotten_by(&self, client: &Client<Context>) {
        assert_eq!(known(client, WAIT), Some(1));
        self.names_itself.store(false, Ordering::SeqCst);
        for _ in 0..WAIT.as_secs() {
            let found = known(client, SHORT);
            if found != Some(1) && self.denials.load(Ordering::SeqCst) > 0 {
                break;
            }
        }
        assert!(self.denials.load(Ordering::SeqCst) > 0, "nobody asked");
        self.names_itself.store(true, Ordering::SeqCst);
        assert_eq!(known(client, SHORT), None, "it has not forgotten");
    }
}

/// The offered versions of metadata and of this, in version 3: a number of elements is one more than they are, and after each comes that of further fields.
fn versions() -> Vec<u8> {
    let kind = |kind: u8, from: u8, to: u8| vec![0, kind, 0, from, 0, to, 0];
    let (no_error, two, no_throttling, no_more) = (vec![0, 0], vec![3], vec![0; 4], vec![0]);
    [no_error, two, kind(3, 1, 1), kind(18, 0, 3), no_throttling, no_more].concat()
}

fn int(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// How many brokers the cluster has, by one that answers in time.
fn known(client: &Client<Context>, wait: Duration) -> Option<usize> {
    client.fetch_metadata(None, wait).ok().map(|answer| answer.brokers().len())
}

#[test]
fn a_client_that_has_forgotten_its_brokers_finds_them_when_it_is_reminded() {
    let broker = Broker::start();
    let consumer: Consumer = broker.config().create_with_context(Context::default()).unwrap();
    broker.is_forgotten_by(consumer.client());
    remind(consumer.client(), &broker.address());
    assert_eq!(known(consumer.client(), WAIT), Some(1));
}

#[test]
fn a_producer_is_reminded_when_answers_have_been_missing_for_long() {
    let broker = Broker::start();
    let producer = Arc::new(ProducerClient::new(&broker.config()).unwrap());
    broker.is_forgotten_by(&producer.client);
    let topic = TopicHandle::new(&producer, "t").unwrap();
    let record = Outgoing { partition: 0, key: None, value: Some(b"v"), timestamp: None, headers: None, opaque: 0 };
    producer.produce(&topic, record).unwrap();
    producer.waited(Some(Duration::from_secs(4)));
    assert_eq!(known(&producer.client, SHORT), None, "not yet");
    producer.waited(Some(Duration::from_secs(1)));
    assert_eq!(known(&producer.client, WAIT), Some(1));
}
