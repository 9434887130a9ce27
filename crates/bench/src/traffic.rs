//! Growth as a busy node has it: packets at a steady rate, spread over the time between two reads.
//!
//! The UDP entries, a quarter of all, take turns by number: half of them grow in each read interval, and none a second
//! time before all others.
//!
//! Bound: one step's packets at a time; what a late step missed is sent with the next.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use egressd_testbed::filler::Filler;
use egressd_testbed::now;

const PAYLOAD_BYTES: u16 = 100;
/// A thousandth of the default interval, and far more than a step's packets take.
const STEP: Duration = Duration::from_millis(10);

/// The packets that are due by now.
pub(crate) struct Traffic {
    filler: Filler,
    entries: u32,
    numbers_per_second: f64,
    began: Instant,
    /// Numbers whose turn has come, over all rounds.
    passed: u64,
    sent: u64,
}

impl Traffic {
    /// Begins to grow the first `entries` of the filler, an eighth of them in each `interval`.
    pub(crate) fn begin(filler: Filler, entries: u32, interval: Duration) -> Self {
        let numbers_per_second = f64::from(entries) / 2.0 / interval.as_secs_f64();
        Self { filler, entries, numbers_per_second, began: now(), passed: 0, sent: 0 }
    }

    /// Packets sent so far, each along another entry than those of the interval before it.
    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends until `end`.
    pub(crate) fn flow_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            self.send_due().context("cannot send packets")?;
            let left = end.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(STEP.min(left));
        }
    }

    fn send_due(&mut self) -> std::io::Result<()> {
        let due = whole(self.began.elapsed().as_secs_f64() * self.numbers_per_second);
        let entries = u64::from(self.entries);
        let numbers = (self.passed..due).filter_map(|number| u32::try_from(number % entries).ok());
        self.sent += u64::from(self.filler.grow(numbers, PAYLOAD_BYTES)?);
        self.passed = due;
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time since the start by a positive rate, rounded down"
)]
fn whole(numbers: f64) -> u64 {
    numbers as u64
}
