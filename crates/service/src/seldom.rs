//! Complaints that anybody may cause, said once a while: the count of them is a metric.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets one through, and then none for a while.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// At most one in `every`.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    /// Whether this one may be said.
    pub fn may(&self) -> bool {
        let (now, mut last) = (Instant::now(), self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let may = last.is_none_or(|last| now.duration_since(last) >= self.every);
        if may {
            *last = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one a while is let through, and the next once the while is over.
    #[tokio::test(start_paused = true)]
    async fn one_a_while_is_let_through() {
        let seldom = Seldom::new(Duration::from_secs(60));
        assert_eq!([seldom.may(), seldom.may()], [true, false]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!([seldom.may(), seldom.may()], [true, false]);
    }
}
