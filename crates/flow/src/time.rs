//! Wall-clock instants as the kernel and the wire state them.

use std::fmt;
use std::time::Duration;

/// Nanoseconds since 1970-01-01 00:00 UTC, leap seconds not counted.
///
/// Conntrack's start and stop timestamps are `ktime_get_real_ns()` (`net/netfilter/nf_conntrack_core.c`), hence the
/// unit. Reaches to the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The instant `by` later, or the last representable one.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The instant `by` earlier, or 1970.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The start of the second that this instant lies in.
    #[must_use]
    pub fn floor_second(self) -> Self {
        Self(self.0 - self.0 % 1_000_000_000)
    }

    /// Whole milliseconds since 1970, the unit of remote write.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
