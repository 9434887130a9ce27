//! What the kernel says about this process or another one, and the middle of several measurements.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;

use anyhow::Context;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Processor time of the calling thread, in nanoseconds.
pub(crate) fn thread_ns() -> anyhow::Result<u64> {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads, in nanoseconds.
pub(crate) fn process_ns() -> anyhow::Result<u64> {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Processor time of all threads of another process, those that ended included, in nanoseconds.
pub(crate) fn process_ns_of(process: u32) -> anyhow::Result<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.try_into()?));
    nanoseconds(clock.with_context(|| format!("process {process} has no clock"))?)
}

/// Processor time of the threads that a process has now, by name, in nanoseconds: the first number of `schedstat`
/// (`Documentation/scheduler/sched-stats.rst`).
pub(crate) fn threads_ns_of(process: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).context("the process is gone")? {
        let thread = thread?.path();
        let read = |file: &str| fs::read_to_string(thread.join(file)).context("a thread is gone");
        let (name, times) = (read("comm")?, read("schedstat")?);
        let used: u64 = times.split_whitespace().next().context("schedstat is empty")?.parse()?;
        *threads.entry(name.trim_end().to_owned()).or_default() += used;
    }
    Ok(threads)
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

/// What a process has resident, in bytes (`proc_pid_status(5)`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The most that it ever had.
    pub(crate) peak_bytes: u64,
    /// The sum of the following.
    pub(crate) now_bytes: u64,
    pub(crate) anon_bytes: u64,
    /// Of programs and libraries for the most part.
    pub(crate) file_bytes: u64,
    pub(crate) shmem_bytes: u64,
}

impl Memory {
    /// Of a process by its id or `self`.
    pub(crate) fn of(process: impl Display) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).context("the process is gone")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let kib = status.lines().find_map(|line| {
                line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
            });
            Ok(kib.with_context(|| format!("the kernel tells no {name}"))? << 10)
        };
        Ok(Self {
            peak_bytes: bytes("VmHWM")?,
            now_bytes: bytes("VmRSS")?,
            anon_bytes: bytes("RssAnon")?,
            file_bytes: bytes("RssFile")?,
            shmem_bytes: bytes("RssShmem")?,
        })
    }
}

/// The middle one; of an even number of them the lower of the two. 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    float(bytes) / f64::from(1 << 20)
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
