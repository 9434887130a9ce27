//! `events`: ends at a steady rate, each of them delivered or counted as lost.
//!
//! Entries are deleted for two seconds: while the measured process only listens; then while it also reads the table,
//! over and over, the way a collector does; and then while the collector as it ships, which keeps each end in its state
//! directory as well, reads the table every second and whatever that costs, so that reads fall into the two seconds.
//!
//! Invariant: sent = delivered + lost, else the bench fails.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use egressd_testbed::filler::{BATCH, Filler};
use egressd_testbed::now;
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::daemons::{Daemons, EndsFigures, Flags, Stage};
use crate::gauge::{self, float};
use crate::place::Place;
use crate::subject::Subject;

const SECONDS: u32 = 2;
/// Of the collector, far more often than by default: a read and its checkpoint begin while entries end.
const COLLECTOR_FLAGS: Flags =
    Flags { read_interval: Some(Duration::from_secs(1)), cpu_percent_max: Some(100) };
/// A read of millions of entries, on a busy machine.
const READ_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How fast entries end.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Entries that end in a second
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Entries in the table that is read meanwhile, those that end included
    #[arg(long, value_name = "N", default_value_t = 250_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    entries: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the measured process came to.
#[derive(Debug, Serialize, Deserialize)]
struct Heard {
    delivered: u64,
    lost: u64,
    process_ns: u64,
    reads: u64,
}

/// One run of ends.
#[derive(Debug, Serialize)]
struct Run {
    sent: u64,
    delivered: u64,
    /// That the kernel could not deliver, as the listener says.
    lost: u64,
    /// That they took to send, which is more than asked for when the machine is too slow for the rate.
    seconds: f64,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    rate: u32,
    #[serde(flatten)]
    alone: Run,
    /// Processor time of the listening process by delivered end, its applying included.
    ns_per_event: f64,
    while_reading: WhileReading,
    shipped: Shipped,
}

#[derive(Debug, Serialize)]
struct WhileReading {
    entries: u32,
    reads: u64,
    #[serde(flatten)]
    run: Run,
}

/// What came of it in the collector as it ships, by its own metrics.
#[derive(Debug, Serialize)]
struct Shipped {
    entries: u32,
    /// That were under way while entries ended.
    reads: u64,
    #[serde(flatten)]
    run: Run,
    /// Of the delivered ones, those that a kill would have lost: there was no room to keep them.
    unprotected: u64,
}

/// Runs the bench and prints its report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let ends = options.rate * SECONDS;
    let entries = options.entries.max(ends);
    let _place = Place::enter(entries)?;
    let mut filler = Filler::open().context("cannot write to conntrack")?;
    filler.create(0..ends).context("cannot fill conntrack")?;
    let (alone, heard) = end_entries(options.rate, ends, &mut filler, &["measure-events"])?;
    filler.create(0..entries).context("cannot fill conntrack")?;
    let (run, reading) = end_entries(options.rate, ends, &mut filler, &["measure-events", "--reading"])?;
    filler.create(0..ends).context("cannot fill conntrack")?;
    let shipped = end_entries_of_collector(options.rate, ends, entries, &mut filler)?;
    let report = Report {
        rate: options.rate,
        ns_per_event: float(heard.process_ns) / float(heard.delivered.max(1)),
        alone,
        while_reading: WhileReading { entries, reads: reading.reads, run },
        shipped,
    };
    if options.json {
        crate::say(serde_json::to_string(&report)?)?
    } else {
        crate::say(&report)?
    }
    for run in [&report.alone, &report.while_reading.run, &report.shipped.run] {
        ensure!(run.sent == run.delivered + run.lost, "ends are unaccounted for: {run:?}");
    }
    ensure!(report.shipped.reads > 0, "the collector read nothing while entries ended");
    let unprotected = report.shipped.unprotected;
    ensure!(
        unprotected == 0,
        "the collector had no room to keep {unprotected} ends, which a kill would lose"
    );
    Ok(())
}

/// Deletes the first `ends` entries at the rate while the measured process listens.
fn end_entries(rate: u32, ends: u32, filler: &mut Filler, listener: &[&str]) -> anyhow::Result<(Run, Heard)> {
    let mut child = Child::start(listener)?;
    let () = child.answer()?;
    let seconds = delete(rate, ends, filler)?;
    let heard: Heard = child.ask(&())?;
    child.finish()?;
    let run = Run { sent: ends.into(), delivered: heard.delivered, lost: heard.lost, seconds };
    Ok((run, heard))
}

/// Deletes them at the rate while the collector reads a table of `entries`. It has an exporter, without which its calls
/// for one would be entries that end.
fn end_entries_of_collector(
    rate: u32,
    ends: u32,
    entries: u32,
    filler: &mut Filler,
) -> anyhow::Result<Shipped> {
    let stage = Stage::here()?;
    let daemons = Daemons::start(&stage, COLLECTOR_FLAGS)?;
    let before = daemons.ends_figures()?;
    let seconds = delete(rate, ends, filler)?;
    let (ended, then) = (now(), daemons.ends_figures()?);
    let next = wait_for_read(&daemons, then.reads + 1)?;
    let was_reading = ended.elapsed().as_secs_f64() <= next.read_seconds - then.read_seconds;
    // The next read may have begun before the last end; what it came to is published when the one after it is over.
    let after = wait_for_read(&daemons, then.reads + 2)?;
    daemons.end()?;
    let run = Run {
        sent: ends.into(),
        delivered: after.heard - before.heard,
        lost: after.lost - before.lost,
        seconds,
    };
    let unprotected = after.unprotected - before.unprotected;
    Ok(Shipped { entries, reads: then.reads - before.reads + u64::from(was_reading), run, unprotected })
}

/// What the collector says once it has read that often.
fn wait_for_read(daemons: &Daemons<'_>, reads: u64) -> anyhow::Result<EndsFigures> {
    let deadline = now() + READ_WITHIN;
    loop {
        let figures = daemons.ends_figures()?;
        if figures.reads >= reads {
            return Ok(figures);
        }
        ensure!(now() < deadline, "the collector has not read in {READ_WITHIN:?}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Deletes the first `ends` entries at the rate; the seconds that it took.
fn delete(rate: u32, ends: u32, filler: &mut Filler) -> anyhow::Result<f64> {
    let began = now();
    let mut sent = 0;
    while sent < ends {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)).min(f64::from(ends));
        // The least that is due while there is more to come is one batch: a system call for each would be too slow.
        let to = (sent + BATCH).min(ends);
        if f64::from(to) <= due {
            filler.delete(sent..to).context("cannot delete entries")?;
            sent = to;
        } else {
            thread::sleep(Duration::from_micros(100));
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The measured process: says when it listens, and at the first order what it heard.
pub(crate) fn measured(reading: bool) -> anyhow::Result<()> {
    let mut subject = Subject::open()?;
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    thread::spawn(move || {
        // Whatever comes, an order or the parent's end, is the end of listening.
        drop(io::stdin().lines().next());
        flag.store(true, Ordering::Release);
    });
    let mut heard = Heard { delivered: 0, lost: 0, process_ns: 0, reads: 0 };
    crate::say(serde_json::to_string(&())?)?;
    let began_ns = gauge::process_ns()?;
    while !asked.load(Ordering::Acquire) {
        if reading {
            heard.delivered += subject.tick()?.ends;
            heard.reads += 1;
        } else {
            heard.delivered += subject.hear()?;
        }
    }
    heard.delivered += subject.hear_all()?;
    heard.process_ns = gauge::process_ns()? - began_ns;
    heard.lost = subject.losses()?.events;
    crate::say(serde_json::to_string(&heard)?)?;
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, alone, ns_per_event, while_reading, shipped } = self;
        let WhileReading { entries, reads, run } = while_reading;
        writeln!(f, "{rate} ends a second asked for")?;
        writeln!(f, "  alone                {alone}; {ns_per_event:.0} ns an end")?;
        writeln!(f, "  during {reads} reads of {entries} entries  {run}")?;
        let Shipped { entries, reads, run, unprotected } = shipped;
        writeln!(f, "  by the collector as it ships, with --read-interval 1s --cpu-percent-max 100,")?;
        write!(f, "    during {reads} reads of {entries} entries  {run}, {unprotected} of them not kept")
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, lost, seconds } = self;
        write!(f, "{sent} sent in {seconds:.2} s, {delivered} delivered, {lost} lost")
    }
}
