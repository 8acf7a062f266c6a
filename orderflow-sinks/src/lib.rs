//! Sinks that need no broker: the console, directory data sets of Parquet, CSV and JSONL files and, each behind a feature, the tables of
//! SQLite, MySQL, MariaDB and PostgreSQL.
//!
//! ```no_run
//! use orderflow_sinks::{Console, Parquet};
//! use std::time::Duration;
//!
//! let to_people = Console::deltas().limit(20);
//! let to_files = Parquet::append("out/totals").roll_rows(500_000).roll_after(Duration::from_secs(10));
//! ```
//! Invariant: a sink sees closed epochs and nothing of where they came from.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may do what only one room may"))]

pub mod console;
pub mod csv;
pub mod jsonl;
pub mod parquet;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub mod sql;

pub use self::console::Console;
pub use self::csv::Csv;
pub use self::jsonl::Jsonl;
pub use self::parquet::Parquet;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use self::sql::Sql;

/// Makes a newtype over [`DataSet`](orderflow_core::sink::files::DataSet) a sink that rolls as its users say.
macro_rules! data_set {
    ($name:ident) => {
        impl $name {
            /// Closes a file at this many rows; 1,000,000 unless said otherwise.
            pub fn roll_rows(self, rows: u64) -> Self {
                Self(self.0.roll_rows(rows))
            }

            /// Closes a file at this many bytes; 128 MB unless said otherwise.
            pub fn roll_bytes(self, bytes: u64) -> Self {
                Self(self.0.roll_bytes(bytes))
            }

            /// Closes a file this long after its first epoch; 60 s unless said otherwise.
            pub fn roll_after(self, time: std::time::Duration) -> Self {
                Self(self.0.roll_after(time))
            }
        }

        impl orderflow_core::sink::Sink for $name {
            fn columns(&self, input: &orderflow_core::sink::Input) -> Result<Option<Vec<orderflow_core::sink::Column>>> {
                self.0.columns(input)
            }

            fn guarantee(&self, kept: bool) -> orderflow_core::sink::Guarantee {
                self.0.guarantee(kept)
            }

            fn kind(&self) -> &'static str {
                self.0.kind()
            }

            fn open(self: Box<Self>, context: orderflow_core::sink::SinkContext) -> Result<orderflow_core::sink::Opened> {
                Box::new(self.0).open(context)
            }
        }
    };
}
pub(crate) use data_set;
