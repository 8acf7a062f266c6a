//! The engine as a whole: streaming answers against batch answers, and life in a service.

mod feed;
mod life;
mod oracle;
