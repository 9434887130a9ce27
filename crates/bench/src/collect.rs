//! `collect`: from dump to records, beside the floor.
//!
//! A round sends one packet along half of the UDP entries, an eighth of all, then has the measured process read the
//! table twice: once into the void, once into records, the one or the other first by turns. The first rounds are not
//! counted: they fill the table, and let what is kept for a time reach its size.

use std::fmt;

use anyhow::{Context, ensure};
use egressd_testbed::filler::Filler;
use serde::{Deserialize, Serialize};

use crate::child::{self, Child};
use crate::floor::Floor;
use crate::gauge::{self, Memory, float, mebibytes, median};
use crate::place::Place;
use crate::subject::Subject;
use crate::{allocations, say};

/// Rounds before the counted ones: a scope settles what nobody claims 60 s later, at the fifth tick.
const ROUNDS_BEFORE: u32 = 5;
const PAYLOAD_BYTES: u16 = 100;

/// What is read, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Entries in the table; above net.netfilter.nf_conntrack_max that is raised, and put back at the end
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(16..=4_000_000))]
    entries: u32,
    /// Rounds that count
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which comes first.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    FloorFirst,
    CycleFirst,
}

/// One round as measured.
#[derive(Debug, Serialize, Deserialize)]
struct Round {
    entries: u64,
    grown: u64,
    records: u64,
    floor_ns: u64,
    cycle_ns: u64,
    allocations: u64,
    read_allocations: u64,
    checkpoint_ns: u64,
    checkpoint_bytes: u64,
    table_bytes: u64,
    rss_peak_bytes: u64,
}

/// What is printed. Times are processor times of one thread.
#[derive(Debug, Serialize)]
struct Report {
    entries: u64,
    /// Of the entries, those that grew between two dumps.
    grown_share: f64,
    records: u64,
    rounds: usize,
    floor_ns_per_entry: f64,
    /// From dump to records.
    ns_per_entry: f64,
    /// The median of each round's own.
    ratio: f64,
    ratio_least: f64,
    ratio_most: f64,
    /// Apart from the cycle.
    checkpoint_ns_per_entry: f64,
    checkpoint_mib: f64,
    /// The most that the measured process ever held.
    rss_mib: f64,
    table_bytes_per_entry: f64,
    /// Requests to the allocator in a cycle.
    allocations_per_cycle: f64,
    /// Those of them that came before anything was cut: the others are batches, which leave.
    allocations_per_read: f64,
}

/// Runs the bench and prints its report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _place = Place::enter(options.entries)?;
    let mut filler = Filler::open().context("cannot write to conntrack")?;
    filler.create(0..options.entries).context("cannot fill conntrack")?;
    let mut child = Child::start(&["measure-collect"])?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS_BEFORE + options.rounds {
        let half = (0..options.entries).filter(|entry| entry % 2 == number % 2);
        let sent = filler.grow(half, PAYLOAD_BYTES).context("cannot send packets")?;
        let order = if number % 4 < 2 { Order::FloorFirst } else { Order::CycleFirst };
        let round: Round = child.ask(&order)?;
        if number >= ROUNDS_BEFORE {
            ensure!(
                (round.entries, round.grown) == (options.entries.into(), sent.into()),
                "{sent} of {} entries were to grow: {round:?}",
                options.entries
            );
            rounds.push(round);
        }
    }
    child.finish()?;
    let report = Report::of(&rounds);
    if options.json {
        say(serde_json::to_string(&report)?)?
    } else {
        say(report)?
    }
    Ok(())
}

/// The measured process.
pub(crate) fn measured() -> anyhow::Result<()> {
    let mut subject = Subject::open()?;
    let mut floor = Floor::open().context("cannot receive from conntrack")?;
    child::serve(|order| measure(&order, &mut subject, &mut floor))
}

fn measure(order: &Order, subject: &mut Subject, floor: &mut Floor) -> anyhow::Result<Round> {
    let mut floor_ns = || -> anyhow::Result<u64> {
        let before = gauge::thread_ns()?;
        floor.read().context("the floor cannot be read")?;
        Ok(gauge::thread_ns()? - before)
    };
    let floor_first = match order {
        Order::FloorFirst => Some(floor_ns()?),
        Order::CycleFirst => None,
    };
    let (requests, before) = (allocations::requests(), gauge::thread_ns()?);
    let tick = subject.tick()?;
    let (cycle_ns, allocations) = (gauge::thread_ns()? - before, allocations::requests() - requests);
    let before = gauge::thread_ns()?;
    let checkpoint_bytes = subject.keep()?;
    let checkpoint_ns = gauge::thread_ns()? - before;
    let floor_ns = floor_first.map_or_else(floor_ns, Ok)?;
    let books = subject.books();
    Ok(Round {
        entries: tick.entries,
        grown: books.entries_active,
        records: tick.records,
        floor_ns,
        cycle_ns,
        allocations,
        read_allocations: tick.read_allocations,
        checkpoint_ns,
        checkpoint_bytes,
        table_bytes: books.table_bytes,
        rss_peak_bytes: Memory::of("self")?.peak_bytes,
    })
}

impl Report {
    fn of(rounds: &[Round]) -> Self {
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
        let ratios = || rounds.iter().map(|round| float(round.cycle_ns) / float(round.floor_ns));
        Self {
            entries: rounds.first().map_or(0, |round| round.entries),
            grown_share: middle(|round| float(round.grown) / float(round.entries)),
            records: rounds.last().map_or(0, |round| round.records),
            rounds: rounds.len(),
            floor_ns_per_entry: middle(|round| float(round.floor_ns) / float(round.entries)),
            ns_per_entry: middle(|round| float(round.cycle_ns) / float(round.entries)),
            ratio: median(ratios()),
            ratio_least: ratios().fold(f64::INFINITY, f64::min),
            ratio_most: ratios().fold(0.0, f64::max),
            checkpoint_ns_per_entry: middle(|round| float(round.checkpoint_ns) / float(round.entries)),
            checkpoint_mib: middle(|round| mebibytes(round.checkpoint_bytes)),
            rss_mib: rounds.iter().map(|round| mebibytes(round.rss_peak_bytes)).fold(0.0, f64::max),
            table_bytes_per_entry: middle(|round| float(round.table_bytes) / float(round.entries)),
            allocations_per_cycle: middle(|round| float(round.allocations)),
            allocations_per_read: middle(|round| float(round.read_allocations)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, rounds, records, .. } = self;
        writeln!(
            f,
            "{entries} entries, {:.1} % grown, {records} records; {rounds} rounds",
            self.grown_share * 100.0
        )?;
        writeln!(f, "  floor, receiving only      {:8.0} ns an entry", self.floor_ns_per_entry)?;
        writeln!(f, "  from dump to records       {:8.0} ns an entry", self.ns_per_entry)?;
        writeln!(
            f,
            "  ratio                      {:8.3} ({:.3} to {:.3})",
            self.ratio, self.ratio_least, self.ratio_most
        )?;
        writeln!(
            f,
            "  checkpoint                 {:8.0} ns an entry, {:.1} MiB",
            self.checkpoint_ns_per_entry, self.checkpoint_mib
        )?;
        writeln!(f, "  memory at most             {:8.1} MiB", self.rss_mib)?;
        writeln!(f, "  delta table                {:8.1} bytes an entry", self.table_bytes_per_entry)?;
        write!(
            f,
            "  allocations                {:8.0} a cycle, {:.0} of them before its batches are cut",
            self.allocations_per_cycle, self.allocations_per_read
        )
    }
}
