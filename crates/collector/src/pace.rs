//! How long to let pass between two reads, so that this process stays below its share of a processor.
//!
//! Steered by what a whole turn cost, from one read to the next: at `cost / share` the next turn keeps to the share if it
//! costs the same. What costs by the read or by the cut is met at once; of what costs by the second, such as ends of
//! connections, the rest of the way is made turn by turn, and never back and forth.
//!
//! Where ends alone take the share, reads that are further apart do not help: reads keep [`READS_PART_MIN`] of it, and
//! the process takes more than its share. Connections that end in between are heard of, so an interval that grows loses
//! no byte; all of it shows later.
//!
//! Invariant: never shorter than asked for. Bound: [`INTERVAL_MAX`], unless more was asked for.

use std::time::Duration;

/// What is carried shows after this long at the latest, whatever the reads cost.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// What reads may take of the share at least, however much everything else takes.
const READS_PART_MIN: f64 = 0.1;

/// Processor time of one turn: a read, and all that was done since the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Of the whole process.
    pub(crate) process: Duration,
    /// Of the read, its metering, its cut and its state: part of `process`.
    pub(crate) read: Duration,
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
        let Cost { process, read } = cost;
        let by_share = process.max(read).as_secs_f64() / self.share;
        let longest = read.as_secs_f64() / (self.share * READS_PART_MIN);
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

    /// The intervals of so many turns, in milliseconds, under a load of so much by the read, by the cut outside of the
    /// reader, and by the second.
    fn intervals(turns: usize, read_ms: f64, cut_ms: f64, second_ms: f64) -> Vec<f64> {
        let mut pace = Pace::new(5);
        let turn = |_| {
            let interval = pace.interval(ASKED).as_secs_f64();
            pace.learn(Cost { process: ms(read_ms + cut_ms + second_ms * interval), read: ms(read_ms) });
            interval * 1000.0
        };
        (0..turns).map(turn).collect()
    }

    /// Goal: a steady load has a steady pace at the share, whatever it costs by; the way there is never back and forth.
    #[test]
    fn a_steady_load_has_a_steady_pace() {
        for ((read_ms, cut_ms, second_ms), expected_ms) in [
            // 200 ms in 15 s is 1.3 %.
            ((200.0, 0.0, 0.0), 15_000.0),
            ((2_000.0, 0.0, 0.0), 40_000.0),
            ((400.0, 500.0, 0.0), 18_000.0),
            // 1 % goes to what costs by the second, so what costs by the read has 4 % left.
            ((2_000.0, 0.0, 10.0), 50_000.0),
            ((400.0, 500.0, 20.0), 30_000.0),
            // Ends alone are over the share: reads keep a tenth of it.
            ((200.0, 0.0, 60.0), 40_000.0),
            ((9_000.0, 0.0, 0.0), 180_000.0),
            ((40_000.0, 0.0, 0.0), 300_000.0),
            ((0.0, 0.0, 0.0), 15_000.0),
            ((0.0, 10.0, 0.0), 15_000.0),
        ] {
            let intervals = intervals(40, read_ms, cut_ms, second_ms);
            let last = intervals[39];
            assert!((last - expected_ms).abs() < 1.0, "{read_ms} {cut_ms} {second_ms}: {last}");
            assert!(intervals.is_sorted(), "{read_ms} {cut_ms} {second_ms}: {intervals:?}");
        }
    }

    /// Goal: one busy turn costs one interval of its own length, and what was asked for is never undercut.
    #[test]
    fn the_pace_comes_back() {
        let mut pace = Pace::new(5);
        assert_eq!(pace.interval(ASKED), ASKED);
        pace.learn(Cost { process: ms(1_200.0), read: ms(500.0) });
        assert_eq!(pace.interval(ASKED), Duration::from_secs(24));
        assert_eq!(pace.interval(Duration::from_secs(600)), Duration::from_secs(600));
        pace.learn(Cost { process: ms(4.0), read: ms(2.0) });
        assert_eq!(pace.interval(ASKED), ASKED);
        assert_eq!(pace.interval(Duration::from_millis(100)), Duration::from_millis(100));
    }
}
