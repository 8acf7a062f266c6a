//! A host program behind a memory channel: it sends rows that it knows beforehand, and from the row on that the pipeline names after a start.
//!
//! Invariant: where its batches end is a function of the row's number, and every batch waits alone, so that epochs are cut alike in every run; in a *shuffled*
//! world sizes and pauses are drawn anew in every life. It forgets what is acknowledged at once, as a host may.

use crate::data::Changes;
use crate::error::{Error, Result};
use crate::source::memory::{self, ChannelSource, Sender};
use crate::store::volatile::Draw;
use futures::FutureExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows that a host has forgotten, in all its lives.
pub(super) type Forgotten = Arc<Mutex<u64>>;

/// The host's side of one life.
pub(super) struct Host {
    rows: Changes,
    /// `None` once the source has ended.
    sender: Option<Sender>,
    /// The row that this life began with, and the next one; `None` before the pipeline has opened the source.
    at: Option<(u64, u64)>,
    forgotten: Forgotten,
    shuffled: Option<Draw>,
}

impl Host {
    pub(super) fn new(rows: Changes, forgotten: Forgotten, shuffled: Option<Draw>) -> (Self, ChannelSource) {
        let (sender, source) = memory::channel(rows.schema(), 1);
        (Self { rows, sender: Some(sender), at: None, forgotten, shuffled }, source)
    }

    /// Sends the next rows if there is room.
    ///
    /// # Errors
    /// Rows that were acknowledged and are not there after a start.
    pub(super) fn feed(&mut self) -> Result<()> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, at) = match self.at {
            Some(at) => at,
            // not yet open, or gone already: whoever runs the pipeline is told why
            None => match sender.resumed_at().now_or_never() {
                Some(Ok(first)) if (*forgotten..=self.rows.len() as u64).contains(&first) => (first, first),
                Some(Ok(first)) => {
                    return Err(Error::internal(format!("{} rows of a channel were acknowledged, and now {first} are there", *forgotten)));
                }
                Some(Err(_)) | None => return Ok(()),
            },
        };
        self.at = Some((first, at));
        *forgotten = (*forgotten).max(first + sender.acknowledged());
        let mut size = 1 + at * 7 % 5;
        if let Some(draw) = &mut self.shuffled {
            size = draw.below(8);
        }
        let size = size.min(self.rows.len() as u64 - at);
        if size == 0 {
            return Ok(());
        }
        let part = self.rows.slice(at as usize, size as usize);
        // a pipeline that has stopped says itself why
        if let Ok(Some(_)) = sender.try_send_signed(part.rows().clone(), part.diff_iter().collect()) {
            self.at = Some((first, at + size));
        }
        Ok(())
    }

    /// Ends the source if everything was sent; true if it had not ended before.
    pub(super) fn end(&mut self) -> bool {
        self.at.is_some_and(|(_, at)| at == self.rows.len() as u64) && self.sender.take().is_some()
    }
}
