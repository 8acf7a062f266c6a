//! What programs understand and say in the same way: lengths of time, and hints of the library in words of the command line.
//!
//! Invariant: a hint that names a method which an option stands for names the option.

use clap::Args;
use orderflow::Error;
use std::time::Duration;

/// Whether a process waits for another one that has its state.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standby {
    /// With --state in a folder: how long to wait if another process has it open, and then go on where that one stopped: 30s, 10m, 2h. Without it a second process
    /// is refused. A URL has no lock to wait for: there the newer process takes over.
    #[arg(long, value_name = "TIME", requires = "state", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

impl Standby {
    /// For how long: not at all by default.
    pub(crate) fn time(self) -> Duration {
        self.wait.unwrap_or_default()
    }
}

/// `2s`, `500ms`, `1m`, `1.5s`: a number and its unit, more than nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no length of time: write it as 2s, 500ms or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let length = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if length.is_zero() { Err(wrong()) } else { Ok(length) }
}

/// An error of a start, with the option in its hint that does what the method does.
pub(crate) fn by_options(e: Error) -> Error {
    let hint = e.remedy().map(|hint| hint.replace("wait_for_state(…)", "--wait TIME"));
    match hint {
        Some(hint) => e.hint(hint),
        None => e,
    }
}
