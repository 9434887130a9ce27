//! The one who owns the spool: appends what was named, makes it safe, gives it to the sinks, keeps their states.
//!
//! [`Keeper`] decides and does everything at once; [`drive()`] has it do so on a thread of its own, since a disk may take
//! its time.
//! Invariant: a sink reads only what is safe, so nothing that it told the world can come undone. Whoever has appended is
//! told a position once everything up to it is safe: a batch that the disk does not take is kept here and tried again,
//! and until it is taken nothing more is.
//! Bound: [`GROUP_MAX`] batches wait for a sync, and [`READ_BYTES_MAX`] are read at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use egressd_sink::{Resume, Scrape, unaccepted};
use egressd_spool::{Spool, SpoolError, Taken};

mod drive;
mod feed;

#[cfg(test)]
mod tests;

pub(crate) use drive::{Inputs, Join, Request, drive};
pub(crate) use feed::Feed;

/// Batches that become safe by one sync. By ten syncs a second that is twice what 5,000 nodes say, and each may have as many
/// records as a message holds.
pub(crate) const GROUP_MAX: usize = 64;
/// What a sink is given at a time, in bytes of records.
const READ_BYTES_MAX: usize = 1 << 20;

/// The spool with what is on its way into it.
pub(crate) struct Keeper {
    spool: Spool,
    /// Named and not in the spool yet, in order.
    pending: VecDeque<Taken>,
    /// Everything up to here is safe.
    safe: Position,
    /// As far as the life before may have got.
    begun: Position,
    /// The page of totals, which takes in what is appended.
    page: Scrape,
}

impl Keeper {
    /// All that a spool holds is safe by now.
    pub(crate) fn new(spool: Spool, page: Scrape) -> Self {
        let last = spool.last();
        Self { spool, pending: VecDeque::new(), safe: last, begun: last, page }
    }

    /// The spool, to look at.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Everything up to here survives what the spool survives.
    pub(crate) fn safe(&self) -> Position {
        self.safe
    }

    /// Takes a named batch in; it is appended by the next [`flush`](Self::flush).
    pub(crate) fn take(&mut self, taken: Taken) {
        self.pending.push_back(taken);
    }

    /// Whether a [`flush`](Self::flush) has something to do.
    pub(crate) fn is_behind(&self) -> bool {
        !self.pending.is_empty() || self.safe < self.spool.last()
    }

    /// Appends what was taken and makes all of it safe, by one sync.
    ///
    /// # Errors
    /// Some of it is not safe yet; the next call goes on.
    pub(crate) fn flush(&mut self, now: UnixNanos) -> Result<(), SpoolError> {
        while let Some(taken) = self.pending.front() {
            let known = self.spool.append(std::slice::from_ref(taken), now)?;
            if let Some(Taken { batch, .. }) = self.pending.pop_front()
                && known.is_empty()
            {
                self.page.apply(&batch, now);
            }
        }
        self.spool.sync()?;
        // What was known before has a position and no place.
        self.safe = self.spool.last();
        Ok(())
    }

    /// A sink takes part: from now on, or from where it was.
    ///
    /// # Errors
    /// The disk fails; it takes no part.
    pub(crate) fn join(&mut self, sink: &str) -> Result<Resume, SpoolError> {
        let position = self.spool.join(sink)?;
        Ok(Resume { position, state: self.spool.state(sink)?, caught_up: self.begun.max(position) })
    }

    /// What a sink had not accepted, at most: of a range that was under way a part may be.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn owed(&self, sink: &str) -> Result<Counter, SpoolError> {
        let state = self.spool.state(sink)?;
        let mut owed = state.as_deref().map(unaccepted).unwrap_or_default();
        owed += self.spool.unread(sink).traffic;
        Ok(owed)
    }

    /// A sink takes no part any more.
    ///
    /// # Errors
    /// The disk fails; the sink is known again after a restart.
    pub(crate) fn leave(&mut self, sink: &str) -> Result<(), SpoolError> {
        self.spool.leave(sink)
    }

    /// The next safe batches of a sink behind `after`. What ends with the process has no need of them twice: there they
    /// are passed.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn read(
        &mut self,
        sink: &str,
        after: Position,
    ) -> Result<Vec<Arc<AttributedBatch>>, SpoolError> {
        let mut batches = self.spool.read(sink, after, READ_BYTES_MAX)?.batches;
        batches.retain(|batch| batch.position <= self.safe);
        if let Some(last) = batches.last().filter(|_| !self.spool.durable()) {
            self.spool.advance(sink, last.position, &[])?;
        }
        Ok(batches)
    }

    /// A sink has passed a position, with a state.
    ///
    /// # Errors
    /// Neither is kept.
    pub(crate) fn save(&mut self, sink: &str, position: Position, state: &[u8]) -> Result<(), SpoolError> {
        self.spool.advance(sink, position, state).map(drop)
    }

    /// Lets go of what everybody has passed, and of what is over a bound.
    ///
    /// # Errors
    /// The disk fails; the rest is tried again by the next call.
    pub(crate) fn let_go(&mut self, now: UnixNanos) -> Result<(), SpoolError> {
        self.spool.let_go(now)
    }
}
