//! What a server answers that speaks S3's protocol, or does not.

use super::*;

/// A server that gives one answer to every request, and counts them.
fn answers(answer: &'static str) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                length = line.to_lowercase().strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        }
    });
    (endpoint, asked)
}

#[test]
fn what_s3_answers_is_an_error_that_says_what_to_do() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            Retry::Never,
            "cannot keep what must be written once",
            3,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 77\r\n\r\n<Error><Code>InvalidAccessKeyId</Code><Message>Who is that?</Message></Error>",
            Retry::Never,
            "InvalidAccessKeyId: Who is that?",
            1,
        ),
        ("HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Retry::Never, "501 Not Implemented", 5),
        ("HTTP/1.1 301 Moved Permanently\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Retry::Never, "region", 1),
        ("HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Retry::Backoff, "503", 5),
    ];
    for (answer, retry, says, times) in cases {
        let (endpoint, asked) = answers(answer);
        let options = [("endpoint", &*endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
        let e = crate::store::open_with("s3://bucket/prefix", &options).unwrap_err();
        assert!(e.retry() == retry && e.to_string().contains(says), "{e}");
        assert_eq!(e.remedy().is_some(), retry == Retry::Never, "{e}");
        let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
        // 5xx may pass, so it is asked again four times
        assert_eq!(asked, times, "{e}");
    }
}

#[test]
fn a_look_asks_nothing_before_something_is_read() {
    let (endpoint, asked) = answers("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let options = [("endpoint", &*endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
    let store = s3::open("s3://bucket/prefix", "bucket/prefix", &options, true).unwrap();
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(store.get("x").unwrap_err().retry(), Retry::Never);
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}
