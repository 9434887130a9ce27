//! `collector`: the collector as it ships, by the processor time and memory of its process.
//!
//! ```text
//!  reads      |              |       …      |              |              |
//!  measured   ·  warm-up     ·       …      ·      ╟───────┼──────────────┼───── … ─╢
//!  floor                                           |              |
//! ```
//!
//! Nothing is measured before the fifth read: traffic that nobody claims is settled 60 s after it, so until then the
//! collector holds less than it will. The measured time begins half an interval after a read, so that each of its
//! whole intervals has one read; halfway between two reads the bench receives the table once itself, as the floor.
//!
//! A collector whose reads are dear reads less often than asked for, so that it stays below its `--cpu-percent-max`
//! (5 by default): the intervals would not be whole and its share would be that ceiling, so the bench refuses to go on.
//!
//! Invariant: a collector that read less than the table or less often than asked for, whose entries did not grow, or
//! of whom the exporter heard nothing fails the bench: it would look cheap.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use egressd_testbed::filler::Filler;
use egressd_testbed::now;
use serde::Serialize;

use crate::daemons::{Daemons, Figures, Flags, Stage};
use crate::floor::Floor;
use crate::gauge::{self, Memory, float, mebibytes, median};
use crate::place::Place;
use crate::subject::READ_INTERVAL;
use crate::traffic::Traffic;

/// Reads before the measured time.
const READS_BEFORE: u64 = 5;
/// Of the entries, those that must grow between two reads.
const GROWN_SHARE_MIN: f64 = 0.1;
/// Looks how far the collector is, in an interval: each is a connection, and so an entry.
const LOOKS: u32 = 10;

/// What is read, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Entries in the table; above net.netfilter.nf_conntrack_max that is raised, and put back at the end
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(16..=4_000_000))]
    entries: u32,
    /// Time that is measured, after five reads
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seconds between two reads, in place of the collector's default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    read_interval: Option<u32>,
    /// Percent of a core below which the collector keeps by reading less often, in place of its default; 100 lets it
    /// read as asked, whatever that costs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    cpu_percent_max: Option<u8>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed. Shares are of one core.
#[derive(Debug, Serialize)]
struct Report {
    /// In one read.
    entries: u64,
    /// Of the entries, those that grew between two reads.
    grown_share: f64,
    seconds: f64,
    reads: u64,
    /// From one read to the next, as the collector has it at the end.
    read_interval_seconds: f64,
    /// Of the whole process.
    core_share: f64,
    /// The whole process, by entry and read.
    ns_per_entry: f64,
    floor_ns_per_entry: f64,
    /// As many reads at the floor.
    floor_core_share: f64,
    ratio: f64,
    /// Of threads, by name.
    threads: BTreeMap<String, f64>,
    /// Of the last checkpoint, by the clock: part of what the process takes, except for where it was kept waiting.
    checkpoint_ms: f64,
    /// The most that the process ever held.
    rss_mib: f64,
    rss_now_mib: f64,
    rss_anon_mib: f64,
    rss_file_mib: f64,
    rss_shmem_mib: f64,
    /// Memory of the state directory, which is no part of the process.
    state_dir_mib: f64,
    /// Bytes of traffic that the exporter was told of.
    delivered_bytes: u64,
}

/// The collector at one moment.
struct Sample {
    at: Instant,
    process_ns: u64,
    threads_ns: BTreeMap<String, u64>,
}

/// What the measured time came to.
struct Measured {
    before: Sample,
    after: Sample,
    memory: Memory,
    state_bytes: u64,
    floors_ns: Vec<u64>,
    /// Packets sent, each along an entry that had not grown since the read before.
    grown: u64,
    read_interval_seconds: f64,
    done: Figures,
}

/// Runs the bench and prints its report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _place = Place::enter(options.entries)?;
    let mut filler = Filler::open().context("cannot write to conntrack")?;
    filler.create(0..options.entries).context("cannot fill conntrack")?;
    let given = options.read_interval.map(|seconds| Duration::from_secs(seconds.into()));
    let interval = given.unwrap_or(READ_INTERVAL);

    let stage = Stage::here()?;
    let flags = Flags { read_interval: given, cpu_percent_max: options.cpu_percent_max };
    let mut daemons = Daemons::start(&stage, flags)?;
    let mut traffic = Traffic::begin(filler, options.entries, interval);
    warm_up(&daemons, &mut traffic, interval)?;
    let measured = measure(options, interval, &mut traffic, &mut daemons, &stage)?;
    check(options, measured.grown, measured.done)?;
    daemons.end()?;
    let report = Report::of(&measured);
    if options.json {
        crate::say(serde_json::to_string(&report)?)?
    } else {
        crate::say(report)?
    }
    Ok(())
}

/// Ends half an interval after the fifth read.
fn warm_up(daemons: &Daemons<'_>, traffic: &mut Traffic, interval: Duration) -> anyhow::Result<()> {
    while daemons.reads()? < READS_BEFORE {
        check_interval(interval, daemons.read_interval_seconds()?)?;
        traffic.flow_until(now() + interval / LOOKS)?;
    }
    traffic.flow_until(now() + interval / 2)
}

fn measure(
    options: &Options,
    interval: Duration,
    traffic: &mut Traffic,
    daemons: &mut Daemons<'_>,
    stage: &Stage,
) -> anyhow::Result<Measured> {
    let collector = daemons.collector_id();
    let mut floor = Floor::open().context("cannot receive from conntrack")?;
    let mut floors_ns = Vec::new();
    let (figures_before, sent_before) = (daemons.figures()?, traffic.sent());
    let before = Sample::take(collector)?;
    let end = before.at + Duration::from_secs(options.seconds.into());
    while now() < end {
        let next = now() + interval;
        let began_ns = gauge::thread_ns()?;
        floor.read().context("the floor cannot be read")?;
        floors_ns.push(gauge::thread_ns()? - began_ns);
        traffic.flow_until(next.min(end))?;
        check_interval(interval, daemons.read_interval_seconds()?)?;
    }
    Ok(Measured {
        before,
        after: Sample::take(collector)?,
        memory: Memory::of(collector)?,
        state_bytes: stage.state_bytes()?,
        floors_ns,
        grown: traffic.sent() - sent_before,
        read_interval_seconds: daemons.read_interval_seconds()?,
        done: daemons.figures()?.since(figures_before),
    })
}

/// That the collector reads as often as it was asked to; 0 seconds are said before it knows what a read costs.
fn check_interval(asked: Duration, seconds: f64) -> anyhow::Result<()> {
    ensure!(
        seconds <= asked.as_secs_f64(),
        "the collector reads every {seconds:.1} s and not every {} s, to stay below its share of a processor: pass \
         --cpu-percent-max 100",
        asked.as_secs()
    );
    Ok(())
}

/// That the measured time was of a collector at work.
fn check(options: &Options, grown: u64, done: Figures) -> anyhow::Result<()> {
    ensure!(done.reads > 0, "the collector read nothing in {} s", options.seconds);
    ensure!(
        done.rows >= done.reads * u64::from(options.entries),
        "the collector read less than {} entries: {done:?}",
        options.entries
    );
    ensure!(done.active > 0, "the collector saw no entry grow: {done:?}");
    ensure!(
        float(grown) >= float(done.rows) * GROWN_SHARE_MIN,
        "too few entries grew between two reads: {grown} in all, {done:?}"
    );
    ensure!(done.delivered_bytes > 0, "nothing was delivered to the exporter: {done:?}");
    Ok(())
}

impl Sample {
    fn take(collector: u32) -> anyhow::Result<Self> {
        let threads_ns = gauge::threads_ns_of(collector)?;
        Ok(Self { at: now(), process_ns: gauge::process_ns_of(collector)?, threads_ns })
    }

    fn nanoseconds_since(&self, before: &Self) -> f64 {
        self.at.duration_since(before.at).as_secs_f64() * 1e9
    }

    /// A thread that was not there before has begun since.
    fn threads_since(&self, before: &Self) -> BTreeMap<String, f64> {
        let nanoseconds = self.nanoseconds_since(before);
        let share = |(name, used): (&String, &u64)| {
            let since = used.saturating_sub(before.threads_ns.get(name).copied().unwrap_or_default());
            (name.clone(), float(since) / nanoseconds)
        };
        self.threads_ns.iter().map(share).collect()
    }
}

impl Report {
    fn of(measured: &Measured) -> Self {
        let Measured { before, after, memory, state_bytes, floors_ns, grown, read_interval_seconds, done } =
            measured;
        let (reads, rows, nanoseconds) =
            (float(done.reads), float(done.rows), after.nanoseconds_since(before));
        let process_ns = float(after.process_ns - before.process_ns);
        let floor_ns = median(floors_ns.iter().copied().map(float)) * reads;
        Self {
            entries: done.rows / done.reads,
            grown_share: float(*grown) / rows,
            seconds: nanoseconds / 1e9,
            reads: done.reads,
            read_interval_seconds: *read_interval_seconds,
            core_share: process_ns / nanoseconds,
            ns_per_entry: process_ns / rows,
            floor_ns_per_entry: floor_ns / rows,
            floor_core_share: floor_ns / nanoseconds,
            ratio: process_ns / floor_ns,
            threads: after.threads_since(before),
            checkpoint_ms: float(done.checkpoint_us) / 1000.0,
            rss_mib: mebibytes(memory.peak_bytes),
            rss_now_mib: mebibytes(memory.now_bytes),
            rss_anon_mib: mebibytes(memory.anon_bytes),
            rss_file_mib: mebibytes(memory.file_bytes),
            rss_shmem_mib: mebibytes(memory.shmem_bytes),
            state_dir_mib: mebibytes(*state_bytes),
            delivered_bytes: done.delivered_bytes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, seconds, reads, read_interval_seconds, delivered_bytes, .. } = self;
        writeln!(
            f,
            "{entries} entries, {:.1} % grown between two reads; {reads} reads in {seconds:.0} s, one every \
             {read_interval_seconds:.1} s, {delivered_bytes} bytes of traffic delivered",
            self.grown_share * 100.0
        )?;
        writeln!(
            f,
            "  collector                  {:8.2} % of a core, {:.0} ns an entry and read",
            self.core_share * 100.0,
            self.ns_per_entry
        )?;
        for (name, share) in &self.threads {
            writeln!(f, "    {name:24} {:8.3} %", share * 100.0)?;
        }
        writeln!(
            f,
            "  floor, receiving only      {:8.2} % of a core, {:.0} ns an entry and read",
            self.floor_core_share * 100.0,
            self.floor_ns_per_entry
        )?;
        writeln!(f, "  ratio                      {:8.3}", self.ratio)?;
        writeln!(f, "  last checkpoint            {:8.1} ms by the clock", self.checkpoint_ms)?;
        writeln!(
            f,
            "  memory at most             {:8.1} MiB; now {:.1}: {:.1} anonymous, {:.1} of files, {:.1} shared",
            self.rss_mib, self.rss_now_mib, self.rss_anon_mib, self.rss_file_mib, self.rss_shmem_mib
        )?;
        write!(f, "  state directory            {:8.1} MiB beside it", self.state_dir_mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: work that was not done is never a figure, whichever part of it is missing.
    #[test]
    fn a_collector_that_did_not_work_is_refused() {
        let options =
            Options { entries: 1000, seconds: 60, read_interval: None, cpu_percent_max: None, json: true };
        let done = Figures { reads: 4, rows: 4000, active: 1, checkpoint_us: 0, delivered_bytes: 1 };
        check(&options, 400, done).unwrap();
        for (grown, done, refusal) in [
            (400, Figures { reads: 0, ..done }, "the collector read nothing in 60 s"),
            (400, Figures { rows: 3999, ..done }, "the collector read less than 1000 entries"),
            (400, Figures { active: 0, ..done }, "the collector saw no entry grow"),
            (399, done, "too few entries grew between two reads"),
            (400, Figures { delivered_bytes: 0, ..done }, "nothing was delivered to the exporter"),
        ] {
            let error = check(&options, grown, done).unwrap_err().to_string();
            assert!(error.starts_with(refusal), "{error}");
        }
    }

    /// Goal: reads further apart than asked for are refused with the remedy, and nothing else is.
    #[test]
    fn a_stretched_interval_is_refused() {
        let asked = Duration::from_secs(15);
        for seconds in [0.0, 15.0] {
            check_interval(asked, seconds).unwrap();
        }
        let error = check_interval(asked, 37.26).unwrap_err().to_string();
        assert_eq!(
            error,
            "the collector reads every 37.3 s and not every 15 s, to stay below its share of a processor: pass \
             --cpu-percent-max 100"
        );
    }
}
