//! The process of `full_pipeline` stays small, however many orders there are: nothing of it grows with their number.
//!
//! Invariant: what is judged is the peak that the kernel keeps of the process's resident memory, so that no moment between two looks is missed. An unbounded
//! queue, a buffer per record, or a table of all orders would be seen: a million orders are 381 MB.

use crate::full_pipeline::{Ended, program};
use crate::real::{cluster, present};
use crate::tier;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What it may need, in MB; the debug program is itself 26 MB larger in memory.
const MOST: u64 = if cfg!(debug_assertions) { 326 } else { 300 };

/// Runs it to its end: the peak of its memory, in MB.
fn peak(command: &mut Command) -> u64 {
    let mut process = Ended(command.stdout(Stdio::null()).spawn().unwrap());
    let status = format!("/proc/{}/status", process.0.id());
    let mut most = 0;
    loop {
        // it has no memory any more when it has ended
        let kb = fs::read_to_string(&status).ok().and_then(|s| {
            let line = s.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        most = most.max(kb.unwrap_or(0) / 1000);
        if let Some(status) = process.0.try_wait().unwrap() {
            assert!(status.success() && most > 0, "{status}, {most} MB");
            return most;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn real_more_orders_take_no_more_memory() {
    if !cfg!(target_os = "linux") {
        eprintln!("peak: skipped, only Linux says how much memory a process had");
        return;
    }
    let Some(cluster) = cluster("peak") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    // so many that all buffers were full once
    let sizes = tier::of([500_000, 1_000_000], [500_000, 1_000_000], [1_000_000, 10_000_000]);
    // what two runs of one size differ by, in MB; beside ten million orders it is nothing
    let noise = tier::of(30, 30, 0);
    let run = |orders: u64, turn: usize| {
        let mut command = program(dir.path());
        command.args(["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--show", "0", "--orders", &orders.to_string()]);
        let peak = peak(command.arg("--out").arg(dir.path().join(format!("{orders}-{turn}"))));
        eprintln!("peak: {orders} orders take {peak} MB");
        peak
    };
    // a short run fills its buffers as it happens: the middle one of some
    let mut short: Vec<u64> = (0..tier::of(1, 1, 3)).map(|turn| run(sizes[0], turn)).collect();
    short.sort_unstable();
    let (few, many) = (short[short.len() / 2], run(sizes[1], 0));
    assert!(many <= MOST && few * 11 + noise * 10 >= many * 10, "{few} MB for {} orders, {many} MB for {}", sizes[0], sizes[1]);
    cluster.forget();
}
