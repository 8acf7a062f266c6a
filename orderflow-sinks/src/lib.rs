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
    ($name:ident, $format:expr) => {
        impl $name {
            /// Appends to the data set in this local folder, which is made if it is not there, or at a [URL](orderflow_core::store::open).
            pub fn append(folder: impl Into<std::path::PathBuf>) -> Self {
                Self(orderflow_core::sink::files::DataSet::append(folder, $format))
            }

            /// Appends to the data set in this store, which messages call `name`.
            pub fn on(store: std::sync::Arc<dyn orderflow_core::store::Store>, name: impl Into<String>) -> Self {
                Self(orderflow_core::sink::files::DataSet::on(store, name, $format))
            }

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

            fn look(&self, context: &orderflow_core::sink::SinkContext) -> Result<Option<orderflow_core::sink::Progress>> {
                self.0.look(context)
            }

            fn open(self: Box<Self>, context: orderflow_core::sink::SinkContext) -> Result<orderflow_core::sink::Opened> {
                Box::new(self.0).open(context)
            }
        }
    };
}
pub(crate) use data_set;
