//! Time as Kubernetes writes it down: whole seconds of the wall clock, RFC 3339, UTC.

use jiff::SignedDuration;
pub use jiff::Timestamp;

/// The wall clock, so many seconds back.
#[must_use]
pub fn seconds_ago(seconds: u32) -> Timestamp {
    after(Timestamp::now(), -i64::from(seconds))
}

/// So many seconds later. Ends at what the calendar holds.
pub(super) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// As `metav1.Time` is written: cut to the second.
pub(super) fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
