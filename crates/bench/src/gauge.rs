//! What the kernel says about this process, and the middle of several measurements.

use std::fs;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};

/// Processor time of the calling thread, in nanoseconds.
pub(crate) fn thread_ns() -> anyhow::Result<u64> {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads, in nanoseconds.
pub(crate) fn process_ns() -> anyhow::Result<u64> {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Nanoseconds since 1970, as entries are stamped.
pub(crate) fn unix_ns() -> anyhow::Result<u64> {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

fn nanoseconds(clock: ClockId) -> anyhow::Result<u64> {
    let time = clock_gettime(clock).context("a clock does not answer")?;
    let (seconds, rest) = (u64::try_from(time.tv_sec())?, u64::try_from(time.tv_nsec())?);
    Ok(seconds * 1_000_000_000 + rest)
}

/// The most memory that this process ever had resident (`VmHWM`, `proc_pid_status(5)`), in KiB.
pub(crate) fn rss_peak_kib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("the kernel tells no VmHWM")?;
    Ok(number.parse()?)
}

/// The middle one; of an even number of them the lower of the two. 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Counts here are far below 2^52, where a float begins to round.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a bench are below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the middle one is found, whatever the order and the number of values.
    #[test]
    fn the_median_is_the_middle_value() {
        for (values, middle) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0], 1.0), (vec![7.0, 1.0, 5.0], 5.0)]
        {
            assert_eq!(median(values.into_iter()).total_cmp(&middle), std::cmp::Ordering::Equal);
        }
    }
}
