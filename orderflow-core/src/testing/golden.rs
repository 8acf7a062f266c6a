//! Bytes of durable formats as some version wrote them, committed in `tests/golden` of each package.
//!
//! ```text
//!   ORDERFLOW_GOLDEN=write cargo test --workspace golden      writes the files that are not there, to be committed
//! ```
//! Invariant: a committed file is never written over, since what it holds may lie in somebody's state. A format that changes gets a file with a new number,
//! and its test goes on reading the older ones.

use std::env::VarError;
use std::fs;
use std::path::Path;

/// Checks that `written`, by today's code, is what the committed file holds, and gives that back to be read.
///
/// # Panics
/// If they differ; if there is no such file, unless `ORDERFLOW_GOLDEN` says that it be written.
pub fn same(file: &str, written: &[u8]) -> Vec<u8> {
    kept(Path::new(file), written, is_told_to_write())
}

#[expect(clippy::disallowed_methods, reason = "the occasion comes from outside the test")]
fn is_told_to_write() -> bool {
    match std::env::var("ORDERFLOW_GOLDEN").as_deref() {
        Err(VarError::NotPresent) | Ok("") => false,
        Ok("write") => true,
        other => panic!("ORDERFLOW_GOLDEN is {other:?}: it must be write, or not set"),
    }
}

fn kept(file: &Path, written: &[u8], write: bool) -> Vec<u8> {
    let name = file.display();
    if write && !file.exists() {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).and_then(|()| fs::write(file, written)).unwrap_or_else(|e| panic!("{name} cannot be written: {e}"));
    }
    let kept = fs::read(file).unwrap_or_else(|e| panic!("{name}: {e}; ORDERFLOW_GOLDEN=write makes it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(at) = (0..kept.len().max(written.len())).find(|i| kept.get(*i) != written.get(*i)) {
        panic!("what is written is not what {name} holds, from byte {at} on:\n{}\ninstead of\n{}", text(written), text(&kept));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_golden_file_is_written_once_and_whatever_differs_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/format-1");
        assert!(catch_unwind(|| kept(&file, b"one", false)).is_err(), "nobody told it to write");
        assert_eq!(kept(&file, b"one", true), b"one");
        assert_eq!(kept(&file, b"one", false), b"one");
        for other in [&b"two"[..], b"on", b"one more"] {
            for write in [false, true] {
                assert!(catch_unwind(|| kept(&file, other, write)).is_err());
            }
        }
        assert_eq!(fs::read(&file).unwrap(), b"one");
    }
}
