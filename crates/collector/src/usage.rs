//! What this process spends, by the kernel's own account: the input of [`Pace`](crate::pace::Pace).

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::pace::Cost;

/// What was spent when the last turn was over, in processor time.
#[derive(Debug)]
pub(crate) struct Usage {
    process: Duration,
    /// Of the thread that receives ends.
    receiver: Duration,
    /// Of the reader's, which applies them.
    reader: Duration,
}

impl Usage {
    /// On the reader's thread; `receiver` is what the other took so far.
    pub(crate) fn now(receiver: Duration) -> Self {
        let (process, reader) = (of(ClockId::CLOCK_PROCESS_CPUTIME_ID), of_thread());
        Self { process, receiver, reader }
    }

    /// A turn is over, of which reading and all that follows took the reader `tick`.
    pub(crate) fn turn(&mut self, receiver: Duration, tick: Duration) -> Cost {
        let before = std::mem::replace(self, Self::now(receiver));
        let applied = self.reader.saturating_sub(before.reader).saturating_sub(tick);
        Cost {
            process: self.process.saturating_sub(before.process),
            ends: self.receiver.saturating_sub(before.receiver) + applied,
        }
    }
}

/// Processor time of the calling thread so far.
pub(crate) fn of_thread() -> Duration {
    of(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Linux has both clocks; without them nothing costs anything, and reads come as asked for.
fn of(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Into::into)
}
