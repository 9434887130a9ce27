//! How long to let pass between two reads, so that this process stays below its share of a processor.
//!
//! Steered by what a whole turn cost, from one read to the next: at `cost / share` the next turn keeps to the share if
//! it costs the same. What costs by the turn (reading, metering, encoding) is met at once; what costs by the second, the
//! ends of connections, turn by turn, and never back and forth.
//!
//! Where ends alone take the share, reads that are further apart do not help: the rest keeps [`REST_PART_MIN`] of it,
//! and the process takes more than its share. Connections that end in between are heard of, so an interval that grows
//! loses no byte; all of it shows later.
//!
//! Invariant: never shorter than asked for. Bound: [`INTERVAL_MAX`], unless more was asked for.

use std::time::Duration;

/// What is carried shows after this long at the latest, whatever it costs.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// What all but ends may take of the share at least, however much ends take.
const REST_PART_MIN: f64 = 0.1;

/// Processor time of one turn: a read, and all that was done since the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Of the whole process.
    pub(crate) process: Duration,
    /// Of the ends that were received and applied between the reads, and the states that made room for more: part of
    /// `process`.
    pub(crate) ends: Duration,
}

/// The pace of one collector.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Of one processor: 1.0 is all of it.
    share: f64,
    shortest: Duration,
}

impl Pace {
    /// A pace that keeps below `percent_max` of one processor, from the first [`Pace::learn`] on.
    pub(crate) fn new(percent_max: u8) -> Self {
        Self { share: f64::from(percent_max) / 100.0, shortest: Duration::ZERO }
    }

    /// Takes the next turn to cost what the last one did.
    pub(crate) fn learn(&mut self, cost: Cost) {
        let Cost { process, ends } = cost;
        let by_share = process.as_secs_f64() / self.share;
        let longest = process.saturating_sub(ends).as_secs_f64() / (self.share * REST_PART_MIN);
        self.shortest = Duration::from_secs_f64(by_share.min(longest).min(INTERVAL_MAX.as_secs_f64()));
    }

    /// The time from one read to the next when `asked` is what was asked for.
    pub(crate) fn interval(&self, asked: Duration) -> Duration {
        asked.max(self.shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Duration = Duration::from_secs(15);

    fn ms(milliseconds: f64) -> Duration {
        Duration::from_secs_f64(milliseconds / 1000.0)
    }

    /// The intervals of so many turns, in milliseconds, under a load of so much by the turn, and so much of ends by the
    /// second.
    fn intervals(turns: usize, turn_ms: f64, ends_ms: f64) -> Vec<f64> {
        let mut pace = Pace::new(5);
        let turn = |_| {
            let interval = pace.interval(ASKED).as_secs_f64();
            let ends = ends_ms * interval;
            pace.learn(Cost { process: ms(turn_ms + ends), ends: ms(ends) });
            interval * 1000.0
        };
        (0..turns).map(turn).collect()
    }

    /// Goal: a steady load has a steady pace at the share, whatever it costs by; the way there is never back and forth.
    #[test]
    fn a_steady_load_has_a_steady_pace() {
        for ((turn_ms, ends_ms), expected_ms) in [
            // 200 ms in 15 s is 1.3 %.
            ((200.0, 0.0), 15_000.0),
            ((2_000.0, 0.0), 40_000.0),
            ((900.0, 0.0), 18_000.0),
            // 1 % goes to ends, so the rest has 4 % left.
            ((2_000.0, 10.0), 50_000.0),
            ((900.0, 20.0), 30_000.0),
            // Ends alone are over the share: the rest keeps a tenth of it.
            ((200.0, 60.0), 40_000.0),
            ((9_000.0, 0.0), 180_000.0),
            ((40_000.0, 0.0), 300_000.0),
            ((0.0, 0.0), 15_000.0),
            ((10.0, 0.0), 15_000.0),
        ] {
            let intervals = intervals(40, turn_ms, ends_ms);
            let last = intervals[39];
            assert!((last - expected_ms).abs() < 1.0, "{turn_ms} {ends_ms}: {last}");
            assert!(intervals.is_sorted(), "{turn_ms} {ends_ms}: {intervals:?}");
        }
    }

    /// Goal: one busy turn costs one interval of its own length, and what was asked for is never undercut.
    #[test]
    fn the_pace_comes_back() {
        let mut pace = Pace::new(5);
        assert_eq!(pace.interval(ASKED), ASKED);
        pace.learn(Cost { process: ms(1_200.0), ends: ms(700.0) });
        assert_eq!(pace.interval(ASKED), Duration::from_secs(24));
        assert_eq!(pace.interval(Duration::from_secs(600)), Duration::from_secs(600));
        pace.learn(Cost { process: ms(4.0), ends: ms(2.0) });
        assert_eq!(pace.interval(ASKED), ASKED);
        assert_eq!(pace.interval(Duration::from_millis(100)), Duration::from_millis(100));
    }
}
