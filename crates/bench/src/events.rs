//! `events`: ends at a steady rate, each of them delivered or counted as lost.
//!
//! Entries are deleted for two seconds, first while the measured process only listens, then while it also reads the
//! table, over and over, the way a collector does: ends that come during a read wait for it.
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
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::gauge::{self, float};
use crate::place::Place;
use crate::subject::Subject;

const SECONDS: u32 = 2;

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
}

#[derive(Debug, Serialize)]
struct WhileReading {
    entries: u32,
    reads: u64,
    #[serde(flatten)]
    run: Run,
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
    let report = Report {
        rate: options.rate,
        ns_per_event: float(heard.process_ns) / float(heard.delivered.max(1)),
        alone,
        while_reading: WhileReading { entries, reads: reading.reads, run },
    };
    if options.json {
        crate::say(serde_json::to_string(&report)?)?
    } else {
        crate::say(&report)?
    }
    for run in [&report.alone, &report.while_reading.run] {
        ensure!(run.sent == run.delivered + run.lost, "ends are unaccounted for: {run:?}");
    }
    Ok(())
}

/// Deletes the first `ends` entries at the rate while the measured process listens.
fn end_entries(rate: u32, ends: u32, filler: &mut Filler, listener: &[&str]) -> anyhow::Result<(Run, Heard)> {
    let mut child = Child::start(listener)?;
    let () = child.answer()?;
    let began = egressd_testbed::now();
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
    let seconds = began.elapsed().as_secs_f64();
    let heard: Heard = child.ask(&())?;
    child.finish()?;
    let run = Run { sent: sent.into(), delivered: heard.delivered, lost: heard.lost, seconds };
    Ok((run, heard))
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
        let Self { rate, alone, ns_per_event, while_reading } = self;
        let WhileReading { entries, reads, run } = while_reading;
        writeln!(f, "{rate} ends a second asked for")?;
        writeln!(f, "  alone                {alone}; {ns_per_event:.0} ns an end")?;
        write!(f, "  during {reads} reads of {entries} entries  {run}")
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, lost, seconds } = self;
        write!(f, "{sent} sent in {seconds:.2} s, {delivered} delivered, {lost} lost")
    }
}
