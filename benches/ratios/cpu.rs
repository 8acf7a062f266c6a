//! CPU time of this process and of its threads, in microseconds.
//!
//! Invariant: what ran before a measurement has ended before it begins: a pipeline's threads that still free their memory would be
//! charged to the next figure.
#![allow(unsafe_code, reason = "the process clock has no door in std")]

use std::time::Duration;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, out: *mut Timespec) -> i32;
}

const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;

/// Microseconds that all threads of the process, also those that have ended, spent on a CPU; children are not counted.
pub(crate) fn process() -> f64 {
    let mut at = Timespec { seconds: 0, nanos: 0 };
    // SAFETY: the pointer is to a writable timespec of this platform's layout (64-bit Linux).
    assert_eq!(unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut at) }, 0);
    at.seconds as f64 * 1e6 + at.nanos as f64 / 1e3
}

/// (name, microseconds) of every living thread.
pub(crate) fn threads() -> Vec<(String, f64)> {
    let mut out = vec![];
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos: f64 = read("schedstat").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        out.push((read("comm").trim().to_owned(), nanos / 1e3));
    }
    out
}

/// Waits until no more threads live than `before`.
pub(crate) fn settle(before: usize) {
    for _ in 0..500 {
        if threads().len() <= before {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("threads of an earlier figure still live: {:?}", threads());
}

/// CPU time of `f`, in microseconds, and what it gave.
pub(crate) fn of<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let before = process();
    let value = f();
    (process() - before, value)
}
