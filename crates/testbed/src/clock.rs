//! The testbed's clocks, and its one way to wait.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// Between two looks at what is awaited.
const STEP: Duration = Duration::from_millis(50);

/// The monotonic clock.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the testbed is a driver, and shares no crate with the daemons"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The real-time clock: the time since 1970.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the testbed is a driver, and shares no crate with the daemons"
)]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Looks every 50 ms until `look` gives a value, at least once and for `within` at most.
///
/// `look` answers `Ok(Ok(value))` when done, `Ok(Err(seen))` to be asked again.
///
/// # Errors
/// [`Error::Timeout`] with what was seen last; an error of `look` at once.
pub fn wait_for<T>(
    awaited: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Result<T, String>, Error>,
) -> Result<T, Error> {
    let deadline = now() + within;
    loop {
        match look()? {
            Ok(value) => return Ok(value),
            Err(last) if now() >= deadline => {
                return Err(Error::Timeout { awaited: awaited.to_owned(), within, last });
            }
            Err(_) => thread::sleep(STEP),
        }
    }
}
