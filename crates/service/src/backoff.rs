//! Waits between two tries: exponential, with full jitter, without end.

use std::time::Duration;

/// Doubles its bound with each try and waits a random part of it, so that a thousand callers who failed together
/// do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    /// Waits up to `first` before the second try, up to `longest` before all later ones in the end.
    ///
    /// # Panics
    /// When `first` is zero or above `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        assert!(!first.is_zero() && first <= longest, "a backoff starts above zero and does not shrink");
        Self { first, longest, bound: first }
    }

    /// The next wait. `random` is uniform over all 64 bits.
    pub fn next_wait(&mut self, random: u64) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.longest);
        let nanos = u128::from(random) * bound.as_nanos() / (1 << 64);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A try went well: the next failure begins anew.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: waits stay below a bound that doubles up to the longest, and begin anew after a success.
    #[test]
    fn waits_grow_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let mut longest_waits = |tries: usize| -> Vec<u64> {
            let waits = (0..tries).map(|_| backoff.next_wait(u64::MAX).as_millis());
            let waits = waits.map(|wait| u64::try_from(wait).unwrap()).collect();
            backoff.reset();
            waits
        };
        assert_eq!(longest_waits(4), [999, 1999, 3999, 4999]);
        assert_eq!(longest_waits(1), [999]);
        assert_eq!(backoff.next_wait(0), Duration::ZERO);
        assert_eq!(backoff.next_wait(1 << 63), Duration::from_secs(1));
    }
}
