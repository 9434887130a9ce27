//! The one place where the wall clock is read.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 by the system's real-time clock; 0 for a clock set before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the replacement that the ban names")]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
