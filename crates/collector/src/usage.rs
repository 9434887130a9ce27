//! What this process spends, by the kernel's own account: the input of [`Pace`](crate::pace::Pace).

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::pace::Cost;

/// What the process had spent when the last turn was over.
#[derive(Debug)]
pub(crate) struct Usage(Duration);

impl Usage {
    pub(crate) fn begin() -> Self {
        Self(of(ClockId::CLOCK_PROCESS_CPUTIME_ID))
    }

    /// A turn is over, of which the read took `read` of a processor.
    pub(crate) fn turn(&mut self, read: Duration) -> Cost {
        let Self(before) = std::mem::replace(self, Self::begin());
        Cost { process: self.0.saturating_sub(before), read }
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
