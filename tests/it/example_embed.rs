//! The example `embed` as a user runs it: a web service that takes sales by HTTP and answers with totals.
//!
//! Invariant: it is told and asked over plain TCP connections, as any client would, and never by a call.

use crate::full_pipeline::{Ended, example};
use crate::support::PATIENCE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// One request on a connection of its own: the status of the answer, and its body.
fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    let request = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}

fn totals(address: &str, city: &str) -> Vec<Value> {
    let (status, body) = ask(address, "GET", &format!("/totals/{city}"), "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn it_is_as_short_as_the_readme_says() {
    assert!(include_str!("../../examples/embed.rs").lines().count() < 60);
}

#[test]
fn a_sale_that_is_posted_comes_to_be_in_the_totals_of_its_city() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Ended(example("embed", dir.path()).arg("0").stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(service.0.stdout.take().unwrap());
    let mut said = String::new();
    output.read_line(&mut said).unwrap();
    let address = said.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it said: {said}"));

    assert_eq!(totals(address, "Mumbai"), Vec::<Value>::new());
    let sales = [("Mumbai", "UPI", 2, 4_990), ("Indore", "Card", 1, 100), ("Mumbai", "UPI", 1, 20), ("Mumbai", "Card", 3, 7)];
    for (city, payment_type, qty, cents) in sales {
        let sale = json!({ "city": city, "payment_type": payment_type, "qty": qty, "cents": cents });
        assert_eq!(ask(address, "POST", "/sales", &sale.to_string()), (202, String::new()));
    }
    let expected = [
        json!({ "city": "Mumbai", "payment_type": "Card", "sales": 1, "cents": 21 }),
        json!({ "city": "Mumbai", "payment_type": "UPI", "sales": 2, "cents": 10_000 }),
    ];
    let began = Instant::now();
    // a sale is in the totals as soon as its epoch is closed
    while totals(address, "Mumbai") != expected {
        assert!(began.elapsed() < PATIENCE, "the totals do not come: {:?}", totals(address, "Mumbai"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(totals(address, "Indore"), [json!({ "city": "Indore", "payment_type": "Card", "sales": 1, "cents": 100 })]);

    assert_eq!(ask(address, "POST", "/sales", "no sale").0, 400);
    assert_eq!(ask(address, "GET", "/totals/Pune", ""), (200, "[]".to_owned()));
    assert!(service.0.try_wait().unwrap().is_none(), "it goes on until somebody ends it");
}
