//! The one place where the wall clock and the clock since boot are read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970 by the system's real-time clock; 0 for a clock set before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the replacement that the ban names")]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Time since this machine's boot. It runs on while the machine sleeps and while this process is frozen, and nobody can
/// set it (`CLOCK_BOOTTIME`, clock_gettime(2), Linux 2.6.39).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boot(pub Duration);

impl Boot {
    /// Later than every instant.
    pub const NEVER: Self = Self(Duration::MAX);

    /// The instant so much later; [`NEVER`](Self::NEVER) where that is out of range.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Time from the boot until this instant.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// Time from this instant until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

/// Now, since this machine's boot.
///
/// # Panics
/// Never on a kernel that this program runs on.
#[must_use]
pub fn boot_now() -> Boot {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    Boot(since.into())
}
