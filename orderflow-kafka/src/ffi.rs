//! The few calls into librdkafka that its Rust wrapper does not offer, or offers at a cost per message that we cannot pay:
//! messages taken by the batch, and produced and confirmed without an allocation each.
//!
//! Invariant: every native object is owned by one value here, which keeps the client alive that the object belongs to and
//! gives the object back exactly once. Nothing outside this file touches a native pointer.
//! The only file of the libraries with unsafe code.
#![expect(unsafe_code, reason = "librdkafka speaks C")]

use crate::client::{Context, Silence};
use crate::source::Signal;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys as sys;
use rdkafka_sys::types::{RDKafkaRespErr, RDKafkaType};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The consumer under a source.
pub(crate) type Consumer = BaseConsumer<Context>;

/// The bytes at `data`, `None` for a null pointer.
///
/// # Safety
/// `data` is null or points to `len` readable bytes that outlive `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by this function's contract.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// The text at `text`, empty for a null pointer.
///
/// # Safety
/// `text` is null or a C string that lives during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn code(err: RDKafkaRespErr) -> Option<Code> {
    (err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Code::from(err))
}

/// Gives a client its first addresses once more. It forgets all addresses where the last broker of a cluster, on its way out, answers that there are no
/// brokers (librdkafka 2.12, `rd_kafka_metadata_decommission_unavailable_brokers`), and then never asks anybody again.
pub(crate) fn remind<C: ClientContext>(client: &Client<C>, brokers: &str) {
    let Ok(brokers) = CString::new(brokers) else { return };
    // SAFETY: client and text are valid during the call, which copies the text.
    unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}

fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

/// A consumed message that still lies where the network wrote it. Whoever holds it also holds its [`Consumer`].
pub(crate) struct Message(NonNull<sys::rd_kafka_message_t>);

// SAFETY: a message has one owner, and what it shares with librdkafka (the fetch response it lies in) is counted atomically there.
unsafe impl Send for Message {}

impl Message {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer came from librdkafka and stays valid until rd_kafka_message_destroy, which only `drop` calls.
        unsafe { self.0.as_ref() }
    }

    /// The event that stands in the message's place: the partition's end, or an error.
    pub(crate) fn error(&self) -> Option<Code> {
        code(self.raw().err)
    }

    /// What librdkafka says about the error.
    pub(crate) fn error_text(&self) -> String {
        // SAFETY: the message is valid, and so is the string as long as the message.
        unsafe { text(sys::rd_kafka_message_errstr(self.0.as_ptr())) }
    }

    /// Its offset; of a partition's end: the offset after everything before it.
    pub(crate) fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        // SAFETY: payload and len describe memory that lives as long as the message.
        unsafe { bytes(self.raw().payload, self.raw().len) }
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        // SAFETY: key and key_len describe memory that lives as long as the message.
        unsafe { bytes(self.raw().key, self.raw().key_len) }
    }

    /// Milliseconds since 1970.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid and `kind` is writable.
        let at = unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && at >= 0).then_some(at)
    }

    /// Shows its headers in order, each of them: in a name that is not UTF-8, U+FFFD stands for what is not. (A name ends at its first zero byte: it
    /// comes as a C string.)
    pub(crate) fn headers(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; it parses its headers once, which is no race because `Message` is not `Sync`.
        let err = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &mut headers) };
        if let Some(code) = code(err).filter(|code| *code != Code::NoEnt) {
            tracing::warn!(offset = self.offset(), "the headers of a record cannot be read: {code}");
        }
        if code(err).is_some() || headers.is_null() {
            return;
        }
        for i in 0.. {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers belong to the message and the three out-pointers are writable.
            if code(unsafe { sys::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut len) }).is_some() {
                return;
            }
            // SAFETY: on success the name is a C string and the value `len` bytes or null; both live as long as the message.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, len)) };
            visit(&name.to_string_lossy(), value);
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: we own the message and this is the only place that gives it back.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// What was fetched of one partition and not yet taken.
pub(crate) struct PartitionQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    taken: Vec<*mut sys::rd_kafka_message_t>,
    // used by librdkafka's threads until the callback is taken away in `drop`
    _signal: Arc<Signal>,
    _consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues are locked inside; the scratch vector is only touched through `&mut self`.
unsafe impl Send for PartitionQueue {}

unsafe extern "C" fn raise(_: *mut sys::rd_kafka_t, signal: *mut c_void) {
    // SAFETY: the pointer is the `Signal` that the owner of the queue keeps alive until it has taken this callback away.
    let signal = unsafe { &*signal.cast::<Signal>() };
    // a panic in the host's waker must not unwind through C
    let _ = catch_unwind(AssertUnwindSafe(|| signal.raise()));
}

impl PartitionQueue {
    /// Must be opened before the partition is assigned, so that nothing is put elsewhere.
    pub(crate) fn open(consumer: &Arc<Consumer>, topic: &str, partition: i32, signal: Arc<Signal>) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as `consumer`; the queue is a counted reference that `drop` gives back.
        let queue = NonNull::new(unsafe { sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition) })?;
        // SAFETY: the queue is valid; a null target stops it from being forwarded to the consumer's common queue. The callback's
        // argument is kept alive by the value made here, which removes the callback before it lets go of it.
        unsafe {
            sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(raise), Arc::as_ptr(&signal).cast_mut().cast());
        }
        Some(Self { queue, taken: Vec::new(), _signal: signal, _consumer: consumer.clone() })
    }

    /// Up to `max` messages and events, in order, without waiting.
    pub(crate) fn take(&mut self, max: usize) -> Vec<Message> {
        self.taken.resize(max, ptr::null_mut());
        // SAFETY: the vector has room for `max` pointers; librdkafka fills the first `n` with messages that are ours now.
        let n = unsafe { sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, self.taken.as_mut_ptr(), max) };
        self.taken.truncate(usize::try_from(n).unwrap_or(0));
        self.taken.drain(..).filter_map(NonNull::new).map(Message).collect()
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: taking the callback away locks the queue, so no thread is inside it afterwards; then our reference is given back.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Sends a commit to the consumer group; its answer arrives among the consumer's events. (The wrapper's own asynchronous commit
/// tells its outcome to nobody.)
pub(crate) fn commit(consumer: &Consumer, offsets: &TopicPartitionList) -> Result<(), Code> {
    // SAFETY: client and list are valid; librdkafka copies the list and counts its own reference to the queue.
    let err = unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        if queue.is_null() {
            return Err(Code::UnknownGroup);
        }
        let err = sys::rd_kafka_commit_queue(consumer.client().native_ptr(), offsets.ptr(), queue, None, ptr::null_mut());
        sys::rd_kafka_queue_destroy(queue);
        err
    };
    code(err).map_or(Ok(()), Err)
}

/// Number of events (commit results, errors, logs) that wait in the consumer's own queue.
pub(crate) fn waiting_events(consumer: &Consumer) -> usize {
    // SAFETY: the client is valid; the queue is a counted reference that is given back after its length was read.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        if queue.is_null() {
            return 0;
        }
        let n = sys::rd_kafka_queue_length(queue);
        sys::rd_kafka_queue_destroy(queue);
        n
    }
}

/// The end of a partition as its last fetch response told it; asks nobody.
pub(crate) fn known_end(consumer: &Consumer, topic: &str, partition: i32) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client and the string are valid and both numbers writable.
    let err =
        unsafe { sys::rd_kafka_get_watermark_offsets(consumer.client().native_ptr(), topic.as_ptr(), partition, &mut low, &mut high) };
    if code(err).is_some() { None } else { u64::try_from(high).ok() }
}

/// A producer whose queue of confirmations we serve ourselves.
pub(crate) struct ProducerClient {
    queue: NonNull<sys::rd_kafka_queue_t>,
    client: Client<Context>,
    // used by librdkafka's threads until the callback is taken away in `drop`
    signal: Option<Arc<Signal>>,
    brokers: String,
    silence: Mutex<Silence>,
}

// SAFETY: librdkafka's client and queue are safe to use from any thread.
unsafe impl Send for ProducerClient {}
// SAFETY: as above; what a method changes on our side is behind a lock.
unsafe impl Sync for ProducerClient {}

/// A step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Init,
    Begin,
    Commit,
    Abort,
}

/// Why a step of a transaction failed.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) text: String,
    /// The same call goes on where it stopped.
    pub(crate) again: bool,
    /// The transaction has to be aborted and can be written again.
    pub(crate) abort: bool,
}

/// Answer to one produced record.
pub(crate) struct Delivery<'a> {
    /// What was given with the record.
    pub(crate) opaque: usize,
    /// Why it was not stored.
    pub(crate) error: Option<Code>,
    /// The record's value.
    pub(crate) value: Option<&'a [u8]>,
    /// Size of its value and key.
    pub(crate) bytes: usize,
}

/// A record to be produced; librdkafka copies it.
pub(crate) struct Outgoing<'a> {
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None`: now.
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Option<Headers>,
    pub(crate) opaque: usize,
}

impl ProducerClient {
    /// Connects in the background.
    pub(crate) fn new(config: &ClientConfig) -> KafkaResult<Self> {
        Self::signalling(config, None)
    }

    /// The same; raises `signal` when its queue is no longer empty. The queue then has to be served until nothing is left in it.
    pub(crate) fn signalling(config: &ClientConfig, signal: Option<Arc<Signal>>) -> KafkaResult<Self> {
        let native = config.create_native_config()?;
        // SAFETY: the configuration is valid and still ours; confirmations and errors shall arrive as events in the queue.
        unsafe { sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR) };
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, Context::default())?;
        // SAFETY: the client is valid; the queue is a counted reference that `drop` gives back before the client goes.
        let queue = NonNull::new(unsafe { sys::rd_kafka_queue_get_main(client.native_ptr()) })
            .ok_or_else(|| KafkaError::ClientCreation("no event queue".into()))?;
        if let Some(signal) = &signal {
            // SAFETY: the queue is valid. The callback's argument is kept alive by the value made here, which removes the callback before it
            // lets go of it.
            unsafe { sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(raise), Arc::as_ptr(signal).cast_mut().cast()) };
        }
        let brokers = config.get("bootstrap.servers").unwrap_or_default().to_owned();
        Ok(Self { queue, client, signal, brokers, silence: Mutex::default() })
    }

    /// Somebody waited so long, and no answer came; `None`: one has come.
    fn waited(&self, time: Option<Duration>) {
        if time.is_some_and(|time| time.is_zero() || self.outstanding() == 0) {
            return;
        }
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        match time {
            Some(time) if silence.lasts(time) => remind(&self.client, &self.brokers),
            Some(_) => {}
            None => *silence = Silence::default(),
        }
    }

    pub(crate) fn context(&self) -> &Context {
        self.client.context()
    }

    /// Makes a waiting [`ProducerClient::serve`] return.
    pub(crate) fn wake(&self) {
        // SAFETY: the queue is valid.
        unsafe { sys::rd_kafka_queue_yield(self.queue.as_ptr()) }
    }

    /// Records that were produced and not yet confirmed, and events not yet served.
    pub(crate) fn outstanding(&self) -> usize {
        // SAFETY: the client is valid.
        usize::try_from(unsafe { sys::rd_kafka_outq_len(self.client.native_ptr()) }).unwrap_or(0)
    }

    /// Hands the record to librdkafka, or says why not ([`Code::QueueFull`]: later).
    pub(crate) fn produce(&self, topic: &TopicHandle, mut record: Outgoing<'_>) -> Result<(), Code> {
        use sys::rd_kafka_vtype_t::*;
        let memory = |b: Option<&[u8]>| sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: b.map_or(ptr::null_mut(), |b| b.as_ptr().cast_mut().cast()),
            size: b.map_or(0, <[u8]>::len),
        };
        let arg = |vtype, u| sys::rd_kafka_vu_t { vtype, u };
        let args = [
            arg(RD_KAFKA_VTYPE_RKT, sys::rd_kafka_vu_s__bindgen_ty_1 { rkt: topic.topic.as_ptr() }),
            arg(RD_KAFKA_VTYPE_PARTITION, sys::rd_kafka_vu_s__bindgen_ty_1 { i32_: record.partition }),
            arg(RD_KAFKA_VTYPE_MSGFLAGS, sys::rd_kafka_vu_s__bindgen_ty_1 { i: sys::RD_KAFKA_MSG_F_COPY }),
            arg(RD_KAFKA_VTYPE_VALUE, sys::rd_kafka_vu_s__bindgen_ty_1 { mem: memory(record.value) }),
            arg(RD_KAFKA_VTYPE_KEY, sys::rd_kafka_vu_s__bindgen_ty_1 { mem: memory(record.key) }),
            arg(RD_KAFKA_VTYPE_OPAQUE, sys::rd_kafka_vu_s__bindgen_ty_1 { ptr: record.opaque as *mut c_void }),
            arg(RD_KAFKA_VTYPE_TIMESTAMP, sys::rd_kafka_vu_s__bindgen_ty_1 { i64_: record.timestamp.unwrap_or(0) }),
            arg(
                RD_KAFKA_VTYPE_HEADERS,
                sys::rd_kafka_vu_s__bindgen_ty_1 { headers: record.headers.as_ref().map_or(ptr::null_mut(), |h| h.0.as_ptr()) },
            ),
        ];
        let count = if record.headers.is_some() { args.len() } else { args.len() - 1 };
        // SAFETY: each argument's union field is the one its type asks for; the bytes live during the call and are copied by it.
        let error = unsafe { sys::rd_kafka_produceva(self.client.native_ptr(), args.as_ptr(), count) };
        if error.is_null() {
            // librdkafka owns the headers now
            std::mem::forget(record.headers.take());
            return Ok(());
        }
        // SAFETY: the error is valid and ours to destroy; the headers, if any, stayed ours.
        let refused = unsafe {
            let refused = sys::rd_kafka_error_code(error);
            sys::rd_kafka_error_destroy(error);
            refused
        };
        Err(Code::from(refused))
    }

    /// Takes a step of a transaction, blocking up to `wait`. A commit or an abort ends only when somebody serves the answers to all records.
    pub(crate) fn transaction(&self, call: Call, wait: Duration) -> Result<(), Refusal> {
        let (client, wait) = (self.client.native_ptr(), milliseconds(wait));
        // SAFETY: the client is valid; an error that comes back is ours to read and then to destroy.
        unsafe {
            let error = match call {
                Call::Init => sys::rd_kafka_init_transactions(client, wait),
                Call::Begin => sys::rd_kafka_begin_transaction(client),
                Call::Commit => sys::rd_kafka_commit_transaction(client, wait),
                Call::Abort => sys::rd_kafka_abort_transaction(client, wait),
            };
            if error.is_null() {
                return Ok(());
            }
            let refusal = Refusal {
                code: Code::from(sys::rd_kafka_error_code(error)),
                text: text(sys::rd_kafka_error_string(error)),
                again: sys::rd_kafka_error_is_retriable(error) != 0,
                abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            sys::rd_kafka_error_destroy(error);
            Err(refusal)
        }
    }

    /// The error after which the client is of no use any more, if there was one.
    pub(crate) fn fatal(&self) -> Option<Refusal> {
        let mut said: [c_char; 512] = [0; 512];
        // SAFETY: the client is valid; the buffer is writable for its length, which ends in a zero byte whatever is written.
        let (err, text) = unsafe {
            let err = sys::rd_kafka_fatal_error(self.client.native_ptr(), said.as_mut_ptr(), said.len());
            (err, text(said.as_ptr()))
        };
        code(err).map(|code| Refusal { code, text, again: false, abort: false })
    }

    /// Shows every answer that has come, waiting up to `wait` for the first.
    pub(crate) fn serve(&self, wait: Duration, visit: &mut dyn FnMut(Delivery<'_>)) {
        let (patience, mut answered) = (wait, false);
        let mut wait = milliseconds(wait);
        loop {
            // SAFETY: the queue is valid.
            let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), wait) };
            if event.is_null() {
                return self.waited((!answered).then_some(patience));
            }
            wait = 0;
            // SAFETY: the event is ours until it is destroyed below; messages of a delivery event live as long as the event.
            unsafe {
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_DR => loop {
                        let message = sys::rd_kafka_event_message_next(event);
                        let Some(m) = message.as_ref() else { break };
                        answered = true;
                        visit(Delivery {
                            opaque: m._private as usize,
                            error: code(m.err),
                            value: bytes(m.payload, m.len),
                            bytes: m.len + m.key_len,
                        });
                    },
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let error = KafkaError::Global(Code::from(sys::rd_kafka_event_error(event)));
                        self.context().error(error, text(sys::rd_kafka_event_error_string(event)).trim());
                    }
                    sys::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
                        if sys::rd_kafka_event_log(event, &mut facility, &mut message, &mut level) == 0 {
                            self.context().log(log_level(level), &text(facility), text(message).trim());
                        }
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
        }
    }

    /// Gives up what has not left yet.
    pub(crate) fn purge(&self) {
        // SAFETY: the client is valid; the answer only says whether the flags were known.
        unsafe { sys::rd_kafka_purge(self.client.native_ptr(), sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT) };
    }
}

fn log_level(level: c_int) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

impl Drop for ProducerClient {
    fn drop(&mut self) {
        self.purge();
        // the answers to what was purged come at once; a bounded wait, should one of them not
        for _ in 0..20 {
            if self.outstanding() == 0 {
                break;
            }
            self.serve(Duration::from_millis(50), &mut |_| {});
        }
        // SAFETY: taking a callback away locks the queue, so no thread is inside it afterwards. Our reference to the queue is given back before the
        // client, which drops after this body.
        unsafe {
            if self.signal.is_some() {
                sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            }
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// A topic as a producer knows it.
pub(crate) struct TopicHandle {
    topic: NonNull<sys::rd_kafka_topic_t>,
    client: Arc<ProducerClient>,
}

// SAFETY: librdkafka's topics are counted and locked inside.
unsafe impl Send for TopicHandle {}

impl TopicHandle {
    /// `None` if `name` holds a zero byte or librdkafka refuses it.
    pub(crate) fn new(client: &Arc<ProducerClient>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: client and name are valid; a null configuration means the client's own.
        let topic = unsafe { sys::rd_kafka_topic_new(client.client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
        Some(Self { topic: NonNull::new(topic)?, client: client.clone() })
    }

    /// The client it belongs to.
    pub(crate) fn client(&self) -> &ProducerClient {
        &self.client
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: our reference is given back once, while the client still lives.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) }
    }
}

/// Headers of a record that has not been produced yet.
pub(crate) struct Headers(NonNull<sys::rd_kafka_headers_t>);

impl Headers {
    pub(crate) fn with_capacity(n: usize) -> Option<Self> {
        // SAFETY: no preconditions.
        NonNull::new(unsafe { sys::rd_kafka_headers_new(n) }).map(Self)
    }

    pub(crate) fn add(&mut self, name: impl AsRef<[u8]>, value: Option<&[u8]>) {
        let name = name.as_ref();
        let (data, len) = value.map_or((ptr::null(), 0), |v| (v.as_ptr(), v.len()));
        // SAFETY: name and value are described by their lengths and copied by the call.
        unsafe { sys::rd_kafka_header_add(self.0.as_ptr(), name.as_ptr().cast(), name.len() as isize, data.cast(), len as isize) };
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: only headers that librdkafka did not take over are dropped (see `produce`).
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests;
