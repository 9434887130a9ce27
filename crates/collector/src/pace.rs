//! How long to let pass between two reads, so that this process stays below its share of a processor.
//!
//! A read costs what the table's size makes it cost, everything else costs by the second: at one read in each
//! `interval` the share is `read / interval + rest`, and the shortest interval that keeps it below the ceiling follows.
//! Connections that end in between are heard of, so an interval that grows loses no byte; what long connections carry
//! shows later.
//!
//! Invariant: never shorter than asked for. Bound: [`INTERVAL_MAX`], unless more was asked for.

use std::time::Duration;

/// What a connection carries shows after this long at the latest, whatever the reads cost.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// What reads may take of the ceiling at least, however much everything else takes.
const READS_PART_MIN: f64 = 0.1;

/// What one turn cost: a read, and all that was done since the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// From the end of the turn before to the end of this one.
    pub(crate) wall: Duration,
    /// Processor time of the whole process in that time.
    pub(crate) process: Duration,
    /// Processor time of the read, its metering and its checkpoint: part of `process`.
    pub(crate) read: Duration,
}

/// The pace of one collector.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Of one processor: 1.0 is all of it.
    share_max: f64,
    shortest: Duration,
}

impl Pace {
    /// A pace that keeps below `percent_max` of one processor, from the first [`Pace::learn`] on.
    pub(crate) fn new(percent_max: u8) -> Self {
        Self { share_max: f64::from(percent_max) / 100.0, shortest: Duration::ZERO }
    }

    /// Takes the next turns to cost what the last one did.
    pub(crate) fn learn(&mut self, cost: Cost) {
        let Cost { wall, process, read } = cost;
        let rest = process.saturating_sub(read).as_secs_f64() / wall.max(read).as_secs_f64();
        // Nothing at all took no time: a clock that is too coarse to see it.
        let rest = if rest.is_finite() { rest } else { 0.0 };
        let left = (self.share_max - rest).max(self.share_max * READS_PART_MIN);
        let shortest = read.as_secs_f64() / left;
        self.shortest = Duration::from_secs_f64(shortest.min(INTERVAL_MAX.as_secs_f64()));
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

    fn after(percent_max: u8, wall_ms: u64, process_ms: u64, read_ms: u64) -> Duration {
        let mut pace = Pace::new(percent_max);
        let ms = Duration::from_millis;
        pace.learn(Cost { wall: ms(wall_ms), process: ms(process_ms), read: ms(read_ms) });
        pace.interval(ASKED)
    }

    /// Goal: a cheap read comes when asked, a dear one as late as the ceiling says, and none later than the bound.
    #[test]
    fn the_interval_follows_the_cost() {
        for (percent_max, (wall_ms, process_ms, read_ms), expected_ms) in [
            // 200 ms in 15 s is 1.3 %.
            (5, (15_000, 200, 200), 15_000),
            (5, (15_000, 2_000, 2_000), 40_000),
            // 1 % goes to everything else, so reads have 4 % left.
            (5, (15_000, 2_150, 2_000), 50_000),
            // Everything else is over the ceiling: reads keep a tenth of it.
            (5, (15_000, 2_000, 200), 40_000),
            (5, (15_000, 30_000, 200), 40_000),
            (1, (15_000, 9_000, 9_000), 300_000),
            (100, (15_000, 9_000, 9_000), 15_000),
            (5, (0, 0, 0), 15_000),
            (5, (0, 10, 0), 15_000),
        ] {
            let interval = after(percent_max, wall_ms, process_ms, read_ms);
            let expected = Duration::from_millis(expected_ms);
            let off = interval.abs_diff(expected);
            assert!(
                off < Duration::from_millis(1),
                "{percent_max} {wall_ms} {process_ms} {read_ms}: {interval:?}"
            );
        }
    }

    /// Goal: the share that follows from the interval is the ceiling, at every size of a table.
    #[test]
    fn the_share_is_the_ceiling_at_every_size() {
        for read_ms in (1_000..14_000).step_by(500) {
            let interval = after(5, 15_000, 75 + read_ms, read_ms);
            let share = Duration::from_millis(read_ms).as_secs_f64() / interval.as_secs_f64() + 0.005;
            assert!((share - 0.05).abs() < 1e-6, "{read_ms}: {share}");
        }
    }

    /// Goal: a pace that was slow is quick again once reads are cheap, and what was asked for is never undercut.
    #[test]
    fn the_pace_comes_back() {
        let mut pace = Pace::new(5);
        assert_eq!(pace.interval(ASKED), ASKED);
        let cost = |read| Cost { wall: ASKED, process: read, read };
        pace.learn(cost(Duration::from_secs(2)));
        assert_eq!(pace.interval(Duration::from_secs(600)), Duration::from_secs(600));
        pace.learn(cost(Duration::from_millis(2)));
        assert_eq!(pace.interval(ASKED), ASKED);
        assert_eq!(pace.interval(Duration::from_millis(100)), Duration::from_millis(100));
    }
}
