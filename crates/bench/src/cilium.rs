//! `cilium`: from Cilium's maps to records, beside the floor.
//!
//! Maps as Cilium pins them stand on a BPF file system of the bench's own, four fifths of their entries IPv4. A round lets
//! an eighth of them grow, then has the measured process walk the maps twice: once into the void, once into records, the
//! one or the other first by turns.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use egressd_conntrack::cilium::{Agent, Choice, Layout, Maps, Places};
use egressd_flow::{Completeness, Epoch, Scope, UnixNanos};
use egressd_meter::{Meter, MeterConfig};
use egressd_testbed::cilium::{CtMap, MAP_DIR, Shape, mount_bpf};
use egressd_testbed::filler;
use serde::{Deserialize, Serialize};

use crate::child::{self, Child};
use crate::gauge::{self, Memory, float, mebibytes, median};
use crate::{allocations, say, subject};

/// Rounds before the counted ones: tables and buffers reach their size.
const ROUNDS_BEFORE: u32 = 3;
/// The collector's default for this source, in nanoseconds.
const READ_INTERVAL_NS: u64 = 5_000_000_000;
/// Entries that one call writes.
const PUT_TOGETHER: u32 = 10_000;

/// What is read, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Entries in the maps
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(100..=4_000_000))]
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
    rss_peak_bytes: u64,
}

/// What is printed. Times are processor times of one thread.
#[derive(Debug, Serialize)]
struct Report {
    entries: u64,
    /// Of the entries, those that grew between two reads.
    grown_share: f64,
    records: u64,
    rounds: usize,
    /// Batch look-ups alone.
    floor_ns_per_entry: f64,
    /// From the maps to records.
    ns_per_entry: f64,
    /// The median of each round's own.
    ratio: f64,
    ratio_least: f64,
    ratio_most: f64,
    /// The most that the measured process ever held.
    rss_mib: f64,
    /// What the maps take of the kernel's memory, by what it says of them (`memlock` in `fdinfo`).
    maps_mib: f64,
    /// Requests to the allocator in a cycle.
    allocations_per_cycle: f64,
    /// Those of them that came before anything was cut: the others are batches, which leave.
    allocations_per_read: f64,
}

/// The maps of a node, and what was counted in them so far.
struct Node {
    v4: CtMap,
    v6: CtMap,
    entries: u32,
    packets: Vec<u32>,
}

impl Node {
    fn fill(entries: u32) -> anyhow::Result<Self> {
        let directory = mount_bpf().context("a bench needs root: no BPF file system can be mounted")?;
        // As many buckets as Cilium gives a node: the next power of two.
        let room = |shape: Shape| Shape { entries_max: entries.saturating_mul(2), ..shape };
        let v4 = CtMap::pin(&directory, "cilium_ct4_global", room(Shape::V4))?;
        let v6 = CtMap::pin(&directory, "cilium_ct6_global", room(Shape::V6))?;
        let mut node = Self { v4, v6, entries, packets: vec![1; entries as usize] };
        let all: Vec<u32> = (0..entries).collect();
        node.put(&all)?;
        Ok(node)
    }

    /// Every eighth entry has a packet more, another eighth each time.
    fn grow(&mut self, round: u32) -> anyhow::Result<u32> {
        let grown: Vec<u32> = (0..self.entries).filter(|entry| entry % 8 == round % 8).collect();
        grown.iter().for_each(|&entry| self.packets[entry as usize] += 1);
        self.put(&grown)?;
        Ok(u32::try_from(grown.len())?)
    }

    fn put(&mut self, entries: &[u32]) -> anyhow::Result<()> {
        let pods: Vec<[IpAddr; 2]> = filler::local_pods().collect();
        for chunk in entries.chunks(PUT_TOGETHER as usize) {
            for (map, is_v6) in [(&self.v4, false), (&self.v6, true)] {
                let of_family = || chunk.iter().copied().filter(|entry| (entry % 5 == 0) == is_v6);
                let keys: Vec<u8> = of_family().flat_map(|entry| key(entry, is_v6, &pods)).collect();
                let values: Vec<u8> =
                    of_family().flat_map(|entry| value(self.packets[entry as usize])).collect();
                let count = u32::try_from(of_family().count())?;
                if count > 0 {
                    map.put_all(&keys, &values, count).context("cannot fill a map")?;
                }
            }
        }
        Ok(())
    }
}

/// A connection of one of the pods to one of some thousand peers.
fn key(entry: u32, is_v6: bool, pods: &[[IpAddr; 2]]) -> Vec<u8> {
    let pod = pods[entry as usize % pods.len()].into_iter().find(|address| address.is_ipv6() == is_v6);
    let peer = entry % 4093;
    let mut key = Vec::new();
    match pod {
        Some(IpAddr::V6(pod)) => {
            key.extend(pod.octets());
            key.extend(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(peer)).octets());
        }
        Some(IpAddr::V4(pod)) => {
            key.extend(pod.octets());
            key.extend(Ipv4Addr::from(0xc633_0000 + peer).octets());
        }
        None => {}
    }
    // Two ports tell entries of a pair apart.
    key.extend(entry.to_be_bytes());
    key.extend([6, 0]);
    key
}

/// Up to 1.15 each direction is told.
fn value(packets: u32) -> [u8; 56] {
    let mut value = [0; 56];
    let packets = u64::from(packets);
    for (at, counter) in [packets, packets * 1400, packets, packets * 60].into_iter().enumerate() {
        value[at * 8..][..8].copy_from_slice(&counter.to_ne_bytes());
    }
    value[36] = 1 << 4;
    value
}

/// Runs the bench and prints its report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut node = Node::fill(options.entries)?;
    let mut child = Child::start(&["measure-cilium"])?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS_BEFORE + options.rounds {
        let grown = node.grow(number)?;
        let order = if number % 2 == 0 { Order::FloorFirst } else { Order::CycleFirst };
        let round: Round = child.ask(&order)?;
        if number >= ROUNDS_BEFORE {
            ensure!(
                (round.entries, round.grown) == (options.entries.into(), grown.into()),
                "{grown} of {} entries were to grow: {round:?}",
                options.entries
            );
            rounds.push(round);
        }
    }
    child.finish()?;
    let report = Report::of(&rounds, maps_bytes(&[&node.v4, &node.v6])?);
    if options.json {
        say(serde_json::to_string(&report)?)?
    } else {
        say(report)?
    }
    Ok(())
}

fn maps_bytes(maps: &[&CtMap]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for map in maps {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.descriptor()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += line.context("the kernel does not say what a map takes")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// What is measured: what a collector holds between the maps and its batches.
struct Subject {
    maps: Maps,
    meter: Meter,
    now: UnixNanos,
}

/// The measured process.
pub(crate) fn measured() -> anyhow::Result<()> {
    let now = UnixNanos(gauge::unix_ns()?);
    let config = MeterConfig { absent_snapshots_max: 1, ..subject::METER };
    let mut meter = Meter::new(config, Epoch(1), [7; 16], now);
    meter.scope(&subject::scope(now));
    let nobody = Places { socket: "".into(), state_dir: "".into() };
    let maps = Maps::new(MAP_DIR.into(), Choice::Is(Layout::Directional), Agent::new(nobody));
    let mut subject = Subject { maps, meter, now };
    child::serve(|order| subject.measure(&order))
}

impl Subject {
    fn measure(&mut self, order: &Order) -> anyhow::Result<Round> {
        let floor_first = match order {
            Order::FloorFirst => Some(self.floor_ns()?),
            Order::CycleFirst => None,
        };
        self.now = self.now.saturating_add(std::time::Duration::from_nanos(READ_INTERVAL_NS));
        let (requests, before) = (allocations::requests(), gauge::thread_ns()?);
        let entries = self.read()?;
        let read_allocations = allocations::requests() - requests;
        let scope = Scope { as_of: self.now, whole: false, owners: vec![], node_addresses: vec![] };
        self.meter.scope(&scope);
        let batches = self.meter.cut(self.now);
        let records = batches.iter().map(|batch| batch.records.len()).sum::<usize>();
        let (cycle_ns, allocations) = (gauge::thread_ns()? - before, allocations::requests() - requests);
        drop(batches);
        let floor_ns = floor_first.map_or_else(|| self.floor_ns(), Ok)?;
        Ok(Round {
            entries,
            grown: self.meter.books().entries_active,
            records: u64::try_from(records)?,
            floor_ns,
            cycle_ns,
            allocations,
            read_allocations,
            rss_peak_bytes: Memory::of("self")?.peak_bytes,
        })
    }

    fn floor_ns(&mut self) -> anyhow::Result<u64> {
        let before = gauge::thread_ns()?;
        self.maps.walk().context("the floor cannot be read")?;
        Ok(gauge::thread_ns()? - before)
    }

    fn read(&mut self) -> anyhow::Result<u64> {
        let Self { maps, meter, now } = self;
        meter.begin(*now);
        let snapshot = maps.read(*now, &mut |entry| meter.entry(entry)).context("cannot read the maps")?;
        meter.finish(&snapshot);
        ensure!(
            snapshot.completeness == Completeness::Complete,
            "a read broke off: {:?}",
            maps.interruption()
        );
        Ok(snapshot.entries)
    }
}

impl Report {
    fn of(rounds: &[Round], maps_bytes: u64) -> Self {
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
            rss_mib: rounds.iter().map(|round| mebibytes(round.rss_peak_bytes)).fold(0.0, f64::max),
            maps_mib: mebibytes(maps_bytes),
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
        writeln!(f, "  floor, look-ups only       {:8.0} ns an entry", self.floor_ns_per_entry)?;
        writeln!(f, "  from maps to records       {:8.0} ns an entry", self.ns_per_entry)?;
        writeln!(
            f,
            "  ratio                      {:8.3} ({:.3} to {:.3})",
            self.ratio, self.ratio_least, self.ratio_most
        )?;
        writeln!(
            f,
            "  memory at most             {:8.1} MiB, beside {:.1} MiB of the maps",
            self.rss_mib, self.maps_mib
        )?;
        write!(
            f,
            "  allocations                {:8.0} a cycle, {:.0} of them before its batches are cut",
            self.allocations_per_cycle, self.allocations_per_read
        )
    }
}
