//! When to try again, and how often to complain. Shared by every sink that pushes.
//!
//! Invariant: a failed push is tried again for as long as the process lives, with its data kept.
//! Bound: retry n (from 0) waits a random part of 0.5 s · 2ⁿ, at most 30 s ("full jitter": receivers that come back
//! are not met by everyone at once); a `Retry-After` is obeyed up to five minutes.

use std::time::Duration;

use egressd_flow::UnixNanos;
use egressd_service::backoff::Backoff;
use tokio::time::Instant;

/// Ceiling of the first wait.
const FIRST: Duration = Duration::from_millis(500);

/// Ceiling of every later wait: a destination that is back is found within this.
const CEILING: Duration = Duration::from_secs(30);

/// What a destination may ask for; a wrong date there must not silence a sink for a day.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Failures in a row are told at most this often.
const COMPLAINT_EVERY: Duration = Duration::from_mins(1);

/// Failures in a row, and the wait that follows.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    failures: u32,
}

impl Retry {
    /// No failure yet.
    pub(crate) fn new() -> Self {
        Self { backoff: Backoff::new(FIRST, CEILING), failures: 0 }
    }

    /// The wait after one more failure. `draw` is uniformly random; `retry_after` is what the answer asked for.
    pub(crate) fn failed(&mut self, retry_after: Option<Duration>, draw: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.next_wait(draw).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
    }

    /// Failures since the last success, which this is the end of.
    pub(crate) fn succeeded(&mut self) -> u32 {
        self.backoff.reset();
        std::mem::take(&mut self.failures)
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3). `None` for neither.
pub(crate) fn retry_after(value: &str, now: UnixNanos) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_nanosecond();
    let date = UnixNanos(u64::try_from(date).unwrap_or(0));
    Some(date.since(now))
}

/// Lets the first complaint through, then one a minute with the count of those between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaints {
    last: Option<Instant>,
    withheld: u64,
}

impl Complaints {
    /// Whether to speak now: how many were withheld since it was last spoken.
    pub(crate) fn speak(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < COMPLAINT_EVERY) {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: waits double from half a second to thirty, a success starts them again, nothing is beyond the bound.
    #[test]
    fn waits_double_up_to_a_ceiling() {
        let mut retry = Retry::new();
        let half = u64::MAX / 2 + 1;
        let waits: Vec<u64> =
            (0..9).map(|_| u64::try_from(retry.failed(None, half).as_millis()).unwrap()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
        assert_eq!(retry.succeeded(), 9);
        assert_eq!(retry.failed(None, 0), Duration::ZERO);
    }

    /// Goal: what the destination asks for is a floor, and five minutes its bound.
    #[test]
    fn retry_after_is_a_bounded_floor() {
        for (asked, draw, expected) in [
            (Duration::from_secs(7), 0, Duration::from_secs(7)),
            (Duration::from_millis(100), u64::MAX / 2 + 1, Duration::from_millis(250)),
            (Duration::from_hours(24), 0, Duration::from_secs(300)),
        ] {
            assert_eq!(Retry::new().failed(Some(asked), draw), expected);
        }
    }

    /// Goal: both forms of the header are read, and everything else is ignored.
    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UnixNanos(784_111_777 * 1_000_000_000);
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value:?}");
        }
    }

    /// Goal: one complaint a minute, and none is forgotten.
    #[tokio::test(start_paused = true)]
    async fn complaints_are_told_once_a_minute_with_their_count() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let spoken: Vec<_> = [0, 1, 59, 60, 61, 130].map(|seconds| complaints.speak(at(seconds))).to_vec();
        assert_eq!(spoken, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
