//! The suite of all stores over object stores; and what only an object store can do wrong.

use super::*;
use crate::error::{Kind, Retry};
use crate::store::tests::{one_wins, op, same_as_a_map};
use crate::testing::tier;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::PartId;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartId, MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result as Answer,
};
use proptest::prelude::*;
use std::sync::Mutex;

#[cfg(feature = "s3")]
mod answers;

/// Bytes of a part in these tests, so that a few bytes are many parts.
const SMALL: usize = 7;

fn over(memory: &Arc<InMemory>, prefix: &str) -> Objects {
    Objects::over(memory.clone(), prefix, "memory").unwrap()
}

fn in_parts(memory: &Arc<InMemory>, prefix: &str) -> Objects {
    over(memory, prefix).in_parts(memory.clone(), SMALL)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tier::of(48, 150, 1_000), ..ProptestConfig::default() })]

    #[test]
    fn an_object_store_is_a_map(ops in proptest::collection::vec(op(), 1..50)) {
        for prefix in ["", "a", "deep/er"] {
            let memory = Arc::new(InMemory::new());
            same_as_a_map(&ops, &|| Arc::new(over(&memory, prefix)))?;
            let memory = Arc::new(InMemory::new());
            same_as_a_map(&ops, &|| Arc::new(in_parts(&memory, prefix)))?;
        }
    }
}

#[test]
fn of_many_who_put_if_absent_one_wins() {
    let memory = Arc::new(InMemory::new());
    // processes that know nothing of each other
    let stores: Vec<Arc<dyn Store>> = (0..4).map(|_| Arc::new(over(&memory, "state")) as Arc<dyn Store>).collect();
    one_wins(&stores, 20);
}

#[test]
fn stores_side_by_side_see_only_their_own() {
    let memory = Arc::new(InMemory::new());
    let (one, other) = (over(&memory, "a"), over(&memory, "ab"));
    (&one as &dyn Store).put_bytes("x", b"1").unwrap();
    (&other as &dyn Store).put_bytes("y/z", b"2").unwrap();
    assert_eq!((one.list("").unwrap(), other.list("").unwrap()), (vec!["x".to_owned()], vec!["y/z".to_owned()]));
    assert!(one.get("y/z").unwrap().is_none());
    // a marker of a folder and what a client has left aside are no objects
    for left in ["a/ledger", "a/ledger/.0000000001.tmp.1"] {
        futures::executor::block_on(memory.put(&left.into(), PutPayload::new())).unwrap();
    }
    assert_eq!(one.list("ledger/").unwrap(), [""; 0]);
    let e = Objects::over(memory, "a//b", "memory").unwrap_err();
    assert!(e.kind() == Kind::User && e.to_string().contains("'a//b' is no folder of memory"), "{e}");
}

#[test]
fn what_is_read_in_several_requests_is_whole() {
    let memory = Arc::new(InMemory::new());
    let store = over(&memory, "");
    for more in [0, 1, CHUNK as usize + 7] {
        let bytes: Vec<u8> = (0..CHUNK as usize + more).map(|i| ((i * 31) >> 3) as u8).collect();
        (&store as &dyn Store).put_bytes("large", &bytes).unwrap();
        assert!(store.get("large").unwrap().unwrap() == bytes, "{more}");
    }
}

#[test]
fn a_call_may_block_a_thread_of_a_runtime() {
    let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
    one.block_on(async {
        let store = over(&Arc::new(InMemory::new()), "");
        assert!(store.put_if_absent("x", b"1").unwrap());
        drop(store);
    });
}

type Say = dyn Fn(&'static str, usize) -> Option<object_store::Error> + Send + Sync;

/// A store in memory that says something else: before a call has its effect, or after it.
struct Odd {
    below: InMemory,
    calls: Mutex<std::collections::BTreeMap<&'static str, usize>>,
    before: Box<Say>,
    after: Box<Say>,
    /// Writes what should only be written if it is not there.
    overwrites: bool,
}

impl fmt::Debug for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Odd")
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Odd")
    }
}

impl Odd {
    fn new(before: impl Fn(&'static str, usize) -> Option<object_store::Error> + Send + Sync + 'static) -> Self {
        Self { below: InMemory::new(), calls: Mutex::default(), before: Box::new(before), after: Box::new(|_, _| None), overwrites: false }
    }

    fn after(after: impl Fn(&'static str, usize) -> Option<object_store::Error> + Send + Sync + 'static) -> Self {
        Self { after: Box::new(after), ..Self::new(|_, _| None) }
    }

    async fn ask<T>(&self, call: &'static str, work: impl Future<Output = Answer<T>>) -> Answer<T> {
        let n = {
            let mut calls = self.calls.lock().unwrap();
            let n = calls.entry(call).or_default();
            *n += 1;
            *n
        };
        if let Some(e) = (self.before)(call, n) {
            return Err(e);
        }
        let answer = work.await;
        (self.after)(call, n).map_or(answer, Err)
    }

    fn calls(&self, call: &str) -> usize {
        self.calls.lock().unwrap().get(call).copied().unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl ObjectStore for Odd {
    async fn put_opts(&self, to: &Path, payload: PutPayload, mut options: PutOptions) -> Answer<PutResult> {
        let call = if options.mode == PutMode::Create { "create" } else { "put" };
        if self.overwrites {
            options.mode = PutMode::Overwrite;
        }
        self.ask(call, self.below.put_opts(to, payload, options)).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
        self.below.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, of: &Path, options: GetOptions) -> Answer<GetResult> {
        self.ask(if options.head { "head" } else { "get" }, self.below.get_opts(of, options)).await
    }

    fn delete_stream(&self, of: BoxStream<'static, Answer<Path>>) -> BoxStream<'static, Answer<Path>> {
        self.below.delete_stream(of)
    }

    fn list(&self, of: Option<&Path>) -> BoxStream<'static, Answer<ObjectMeta>> {
        self.below.list(of)
    }

    async fn list_with_delimiter(&self, of: Option<&Path>) -> Answer<ListResult> {
        self.below.list_with_delimiter(of).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Answer<()> {
        self.ask("copy", self.below.copy_opts(from, to, options)).await
    }
}

#[async_trait::async_trait]
impl MultipartStore for Odd {
    async fn create_multipart(&self, to: &Path) -> Answer<MultipartId> {
        self.ask("begin", self.below.create_multipart(to)).await
    }

    async fn put_part(&self, to: &Path, id: &MultipartId, number: usize, payload: PutPayload) -> Answer<PartId> {
        self.ask("part", self.below.put_part(to, id, number, payload)).await
    }

    async fn complete_multipart(&self, to: &Path, id: &MultipartId, parts: Vec<PartId>) -> Answer<PutResult> {
        self.ask("complete", self.below.complete_multipart(to, id, parts)).await
    }

    async fn abort_multipart(&self, to: &Path, id: &MultipartId) -> Answer<()> {
        self.ask("abort", self.below.abort_multipart(to, id)).await
    }
}

fn generic(text: &str) -> object_store::Error {
    object_store::Error::Generic { store: "Odd", source: text.to_owned().into() }
}

fn exists() -> object_store::Error {
    object_store::Error::AlreadyExists { path: "x".into(), source: "409 Conflict".into() }
}

fn absent(text: &str) -> object_store::Error {
    object_store::Error::NotFound { path: "x".into(), source: text.to_owned().into() }
}

#[test]
fn a_store_that_overwrites_what_is_there_is_refused() {
    let odd = Odd { overwrites: true, ..Odd::new(|_, _| None) };
    let e = Objects::over(Arc::new(odd), "", "odd").unwrap_err();
    assert_eq!((e.kind(), e.retry()), (Kind::User, Retry::Never));
    assert!(e.to_string().starts_with("odd cannot keep what must be written once: ") && e.remedy().is_some(), "{e}");
}

#[test]
fn a_look_writes_nothing() {
    // not even into a store in which nothing could be kept
    let odd = Arc::new(Odd { overwrites: true, ..Odd::new(|call, _| (call == "create").then(|| generic("it may not be written"))) });
    futures::executor::block_on(odd.below.put(&Path::from("here/a"), PutPayload::from_static(b"1"))).unwrap();
    let store = Objects::look(odd.clone(), "here", "odd").unwrap();
    assert_eq!((store.get("a").unwrap(), store.list("").unwrap()), (Some(b"1".to_vec()), vec!["a".to_owned()]));
    let written =
        [store.put("b").map(drop), store.put_if_absent("b", b"2").map(drop), store.publish("a", "b").map(drop), store.delete("a")];
    for outcome in written {
        let e = outcome.unwrap_err();
        assert!(e.to_string().contains("odd was opened only to look"), "{e}");
    }
    assert_eq!((odd.calls("create"), odd.calls("copy")), (0, 0));
    assert_eq!(store.list("").unwrap(), ["a"]);
}

#[test]
fn a_meeting_of_two_writers_is_not_taken_for_an_object() {
    // the first two creates are those of the opening
    let odd = Arc::new(Odd::new(|call, n| (call == "create" && matches!(n, 3 | 4)).then(exists)));
    let store = Objects::over(odd.clone(), "", "odd").unwrap();
    assert!(store.put_if_absent("x", b"1").unwrap(), "nothing was there, so it is ours");
    assert_eq!((odd.calls("create"), store.get("x").unwrap().unwrap()), (5, b"1".to_vec()));
    assert!(!store.put_if_absent("x", b"2").unwrap());

    let odd = Odd::new(|call, n| (call == "create" && n > 2).then(exists));
    let store = Objects::over(Arc::new(odd), "", "odd").unwrap();
    let e = store.put_if_absent("x", b"1").unwrap_err();
    assert!(e.retry() == Retry::Backoff && e.to_string().contains("nothing is there"), "{e}");
}

/// 50 bytes, in pieces, each tried until it is taken.
fn write(store: &Objects, errors: &mut Vec<Error>) -> Vec<u8> {
    let bytes: Vec<u8> = (0..50).collect();
    let mut upload = store.put("large").unwrap();
    for piece in bytes.chunks(11) {
        let mut from = 0;
        while from < piece.len() {
            match upload.write(&piece[from..]) {
                Ok(n) => from += n,
                Err(e) => errors.push(e),
            }
        }
    }
    while let Err(e) = upload.finish() {
        let end = e.retry() == Retry::Never;
        errors.push(e);
        if end {
            assert!(upload.finish().is_err() && upload.write(b"x").is_err());
            break;
        }
    }
    bytes
}

#[test]
fn a_part_that_fails_is_sent_again_with_the_same_bytes() {
    // the first look is that of the opening
    for (call, times) in [("begin", 1), ("part", 1), ("part", 3), ("part", 8), ("complete", 1), ("head", 2)] {
        for had_effect in [false, true] {
            let say = move |c, n| (c == call && n == times).then(|| generic("connection reset"));
            let odd = Arc::new(if had_effect { Odd::after(say) } else { Odd::new(say) });
            let store = Objects::over(odd.clone(), "", "odd").unwrap().in_parts(odd.clone(), SMALL);
            let mut errors = vec![];
            let bytes = write(&store, &mut errors);
            assert_eq!(store.get("large").unwrap(), Some(bytes), "{call} {times}");
            assert!(errors.iter().all(|e| e.retry() == Retry::Backoff && e.to_string().contains("connection reset")), "{errors:?}");
            // whether it is done after an answer that is lost, the object says
            assert_eq!(errors.len(), usize::from((call, had_effect) != ("complete", true)), "{call} {times} {had_effect}");
            let sent = 8 + usize::from(call == "part");
            assert_eq!(odd.calls("part"), sent);
        }
    }
}

#[test]
fn an_upload_that_the_store_gave_up_says_so_and_what_was_there_stays() {
    let gone = |call, _| (call == "complete").then(|| absent("NoSuchUpload"));
    let odd = Arc::new(Odd::new(gone));
    let store = Objects::over(odd.clone(), "", "odd").unwrap().in_parts(odd, SMALL);
    assert!(store.put_if_absent("large", &[0; 50]).unwrap());
    let mut errors = vec![];
    write(&store, &mut errors);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("gave up the upload of large") && errors[0].remedy().is_some(), "{}", errors[0]);
    assert_eq!(store.get("large").unwrap().unwrap(), [0; 50], "of the same size, and not what was written");
}

#[test]
fn an_upload_that_is_dropped_is_given_up() {
    let odd = Arc::new(Odd::new(|_, _| None));
    let store = Objects::over(odd.clone(), "", "odd").unwrap().in_parts(odd.clone(), SMALL);
    let mut upload = store.put("x").unwrap();
    for _ in 0..3 {
        upload.write(&[0; SMALL]).unwrap();
    }
    drop(upload);
    for _ in 0..500 {
        if odd.calls("abort") == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("its parts are still there");
}

#[test]
fn what_is_published_twice_or_half_comes_out_once() {
    let odd = Arc::new(Odd::after(|call, n| (call == "copy" && n == 1).then(|| generic("timed out"))));
    let store = Objects::over(odd, "", "odd").unwrap();
    (&store as &dyn Store).put_bytes("_staging/x", b"1").unwrap();
    assert_eq!(store.publish("_staging/x", "x").unwrap_err().retry(), Retry::Backoff);
    assert!(store.publish("_staging/x", "x").unwrap());
    assert!(!store.publish("_staging/x", "x").unwrap());
    assert_eq!(store.list("").unwrap(), ["x"]);
}

#[test]
fn an_error_says_whether_it_passes_and_what_to_do() {
    let denied = |text: &str| object_store::Error::PermissionDenied { path: "x".into(), source: text.to_owned().into() };
    let xml = |code: &str| {
        format!("Server returned non-2xx status code: 400 Bad Request: <Error><Code>{code}</Code><Message>So it is.</Message></Error>")
    };
    let cases: Vec<(object_store::Error, Retry, &str, &str)> = vec![
        (absent(&xml("NoSuchBucket")), Retry::Never, "NoSuchBucket: So it is.", "make the bucket"),
        (denied(&xml("AccessDenied")), Retry::Never, "AccessDenied: So it is.", "check the credentials"),
        (denied("403 Forbidden"), Retry::Never, "403 Forbidden", "check the credentials"),
        (generic(&xml("ExpiredToken")), Retry::Never, "ExpiredToken", "check the credentials"),
        (
            generic("org.apache.hadoop.security.AccessControlException: denied\n\tat org.apache.hadoop.X.y(X.java:1)"),
            Retry::Never,
            "denied\n  hint",
            "check the credentials",
        ),
        (generic(&xml("AuthorizationHeaderMalformed")), Retry::Never, "So it is.", "AWS_REGION"),
        (generic("this normally indicates an incorrectly configured region"), Retry::Never, "region", "AWS_REGION"),
        (generic("Error performing PUT http://169.254.169.254/latest/api/token"), Retry::Backoff, "169", "no credentials were found"),
        (generic("501 Not Implemented"), Retry::Never, "501", "If-None-Match"),
        (generic("tcp connect error: Connection refused (os error 111)"), Retry::Backoff, "refused", "is the endpoint right"),
        (generic(&xml("SlowDown")), Retry::Backoff, "SlowDown", ""),
        (generic("500 Internal Server Error"), Retry::Backoff, "500", ""),
    ];
    for (e, retry, why, hint) in cases {
        let said = Place("s3://bucket/x".into()).said("write", &Path::from("x/y"), e);
        assert_eq!((said.kind(), said.retry()), (Kind::External, retry), "{said}");
        assert!(said.to_string().starts_with("cannot write x/y in s3://bucket/x: ") && said.to_string().contains(why), "{said}");
        assert!(said.remedy().unwrap_or_default().contains(hint) && said.remedy().is_some() != hint.is_empty(), "{said}");
    }
    // a bucket that is not there is no object that is not there
    let store = Objects::over(Arc::new(Odd::new(|call, _| (call == "get").then(|| absent("NoSuchBucket")))), "", "odd").unwrap();
    assert_eq!(store.get("x").unwrap_err().retry(), Retry::Never);
}

/// A real S3: a folder of its own in its bucket, and how to reach it.
struct Real {
    endpoint: String,
    url: String,
}

impl Real {
    /// The one that `ORDERFLOW_S3` names by its endpoint and bucket.
    fn s3() -> Option<Self> {
        let place = std::env::var("ORDERFLOW_S3").ok()?;
        let (endpoint, bucket) = place.rsplit_once('/').unwrap();
        Some(Self { endpoint: endpoint.into(), url: format!("s3://{bucket}/store-{:016x}", rand::random::<u64>()) })
    }

    fn open(&self, folder: &str) -> Arc<dyn Store> {
        self.open_with(&format!("{}/{folder}", self.url), "endpoint", &self.endpoint).unwrap()
    }

    fn open_with(&self, url: &str, name: &str, value: &str) -> Result<Arc<dyn Store>> {
        let mut options = vec![("endpoint", &*self.endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
        options.push((name, value));
        crate::store::open_with(url, &options)
    }
}

/// A folder of its own in the HDFS that `ORDERFLOW_HDFS` names.
fn real_hdfs() -> Option<String> {
    std::env::var("ORDERFLOW_HDFS").ok().map(|url| format!("{url}/store-{:016x}", rand::random::<u64>()))
}

/// The state machine of all stores, each time in a folder of its own.
fn maps(open: &dyn Fn(&str) -> Arc<dyn Store>) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: tier::of(4, 12, 100), ..ProptestConfig::default() });
    let outcome = runner.run(&proptest::collection::vec(op(), 1..40), |ops| {
        let folder = format!("{:016x}", rand::random::<u64>());
        same_as_a_map(&ops, &|| open(&folder))
    });
    outcome.unwrap();
}

fn takes_any_size(store: &dyn Store) {
    for size in [0, PART, PART + 1, 3 * PART - 5] {
        let bytes: Vec<u8> = (0..size).map(|i| ((i * 31) >> 3) as u8).collect();
        store.put_bytes("deep/large", &bytes).unwrap();
        assert!(store.get("deep/large").unwrap().unwrap() == bytes, "{size}");
        assert!(store.publish("deep/large", "other").unwrap() && store.get("other").unwrap().unwrap() == bytes);
        assert_eq!(store.list("").unwrap(), ["other"]);
    }
}

#[test]
fn real_s3_is_a_map() {
    let Some(real) = Real::s3() else { return };
    maps(&|folder| real.open(folder));
}

#[test]
fn real_s3_lets_one_of_many_win() {
    let Some(real) = Real::s3() else { return };
    one_wins(&(0..4).map(|_| real.open("race")).collect::<Vec<_>>(), tier::of(10, 20, 200));
}

#[test]
fn real_s3_takes_large_objects_in_parts() {
    let Some(real) = Real::s3() else { return };
    takes_any_size(&*real.open(""));
}

#[test]
fn real_s3_says_what_is_wrong() {
    let Some(real) = Real::s3() else { return };
    let e = real.open_with("s3://no-such-bucket-of-orderflow/x", "region", "us-east-1").unwrap_err();
    assert!(e.retry() == Retry::Never && e.remedy().is_some_and(|h| h.contains("make the bucket")), "{e}");
    let e = real.open_with(&real.url, "colour", "blue").unwrap_err();
    assert!(e.to_string().contains("'colour' is no option of S3"), "{e}");
    let e = real.open_with("s3:///x", "region", "us-east-1").unwrap_err();
    assert!(e.to_string().contains("names no bucket"), "{e}");
    let e = real.open_with(&real.url, "endpoint", "http://127.0.0.1:1").unwrap_err();
    assert!(e.retry() == Retry::Backoff && e.remedy().is_some_and(|h| h.contains("is the endpoint right")), "{e}");
}

#[test]
fn real_hdfs_is_a_map() {
    let Some(url) = real_hdfs() else { return };
    maps(&|folder| crate::store::open(format!("{url}/{folder}")).unwrap());
}

#[test]
fn real_hdfs_lets_one_of_many_win_and_takes_any_size() {
    let Some(url) = real_hdfs() else { return };
    one_wins(&(0..4).map(|_| crate::store::open(&url).unwrap()).collect::<Vec<_>>(), tier::of(10, 20, 200));
    takes_any_size(&*crate::store::open(format!("{url}/sizes")).unwrap());
}
