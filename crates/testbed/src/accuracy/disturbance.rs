//! What happens while a scenario's traffic runs: entries deleted, a full table, another hash table, another collector.
//!
//! Invariant: a disturbance that did not come about is a fault of the run, not a pass.

use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::Duration;

use egressd_testbed::filler::Filler;
use egressd_testbed::topology::NODES;
use egressd_testbed::{Borrowed, Cluster, Error, Load, Setting, now, unix_time};

use crate::accuracy::matrix::Scenario;
use crate::accuracy::stand::Stand;
use crate::accuracy::witness::Listener;

/// The node that is disturbed.
const NODE: &str = NODES[0].name;
/// The place of its collector.
pub(crate) const COLLECTOR: usize = 0;
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Less than what a bounded number of connections lasts for.
const CHURN_FOR_MAX: Duration = Duration::from_secs(8);
/// Between two deletions of every entry.
const DELETE_EVERY: Duration = Duration::from_millis(400);
/// Before and after a restart, beside a read interval: the checkpoint that is gone on from knows of connections then.
const AROUND_RESTART: Duration = Duration::from_secs(2);
/// Ends wait in the kernel for some 4 ms before a collector fetches and keeps them, more on a busy machine.
const UNHEARD_BEFORE: Duration = Duration::from_millis(20);
/// That nobody collects after a kill.
const DOWN: Duration = Duration::from_millis(500);
/// Entries that make a read long enough to be hit.
const RESIZE_ENTRIES: u32 = 60_000;
/// Longer than a read interval, and shorter than three: absence from three whole reads means the end of an entry.
const RESIZE_FOR: Duration = Duration::from_millis(1200);
const RESIZE_EVERY: Duration = Duration::from_millis(40);
/// Reads that nothing disturbs, before the next resize.
const RESIZE_PAUSE: Duration = Duration::from_secs(4);
const RESIZES: u32 = 3;
/// Room left in a full table, in entries; soon taken.
const ROOM: u32 = 200;
/// Above it filling takes too long.
const FILLED_MAX: u32 = 1_000_000;
/// `asm-generic/errno-base.h`: conntrack's answer for a table that is full.
const ENOMEM: i32 = 12;

/// What came of it.
#[derive(Default)]
pub(crate) struct Disturbed {
    /// What may be missing.
    pub(crate) bound_bytes: u64,
    /// In figures.
    pub(crate) note: String,
    /// It did not come about.
    pub(crate) fault: Option<String>,
}

impl Disturbed {
    fn noted(note: String, came_about: bool) -> Self {
        let fault = (!came_about).then(|| format!("it did not come about: {note}"));
        Self { bound_bytes: 0, note, fault }
    }
}

/// Lets the scenario's traffic run for its time, disturbed as the scenario says.
pub(crate) fn disturb(
    stand: &mut Stand<'_>,
    load: &mut Load,
    scenario: Scenario,
) -> Result<Disturbed, Error> {
    match scenario {
        Scenario::Delete => delete(stand, load),
        Scenario::Resize => resize(stand, load),
        Scenario::Full => fill(stand, load),
        Scenario::Stop | Scenario::Kill => restart(stand, load, scenario),
        Scenario::StopAmidEnds | Scenario::KillAmidEnds => restart_amid_ends(stand, load, scenario),
        Scenario::Churn => {
            stand.pass(stand.group.traffic.min(CHURN_FOR_MAX), load).map(|()| Disturbed::default())
        }
        _ => stand.pass(stand.group.traffic, load).map(|()| Disturbed::default()),
    }
}

fn delete(stand: &mut Stand<'_>, load: &mut Load) -> Result<Disturbed, Error> {
    let (end, mut deleted) = (now() + stand.group.traffic, 0);
    while now() < end {
        stand.pass(DELETE_EVERY, load)?;
        for (node, family) in NODES.iter().flat_map(|node| [(node, "ipv4"), (node, "ipv6")]) {
            let mut command = Command::new("conntrack");
            command.args(["-D", "-p", "udp", "-f", family]);
            // It fails when there is nothing to delete; that it never deletes is seen below.
            let listed = stand.cluster.run(node.name, command).unwrap_or_default();
            deleted += String::from_utf8_lossy(&listed).lines().count();
        }
    }
    stand.pass(DELETE_EVERY, load)?;
    Ok(Disturbed::noted(format!("{deleted} entries deleted"), deleted > 0))
}

/// Makes entries on the disturbed node; less than asked for when the table is full.
fn make_entries(cluster: &Cluster, entries: u32) -> Result<(), Error> {
    let made = cluster.namespace(NODE)?.enter(|| -> io::Result<()> {
        match Filler::open()?.create(0..entries) {
            Err(error) if error.raw_os_error() == Some(ENOMEM) => Ok(()),
            made => made,
        }
    })?;
    made.map_err(|source| Error::Os { action: "make entries on", subject: NODE.to_owned(), source })
}

fn resize(stand: &mut Stand<'_>, load: &mut Load) -> Result<Disturbed, Error> {
    make_entries(stand.cluster, RESIZE_ENTRIES)?;
    stand.pass(RESIZE_PAUSE, load)?;
    let buckets = Borrowed::of(Setting::ConntrackBuckets)?;
    let (mut reads, mut cut_short) = (0, 0);
    for _ in 0..RESIZES {
        let before = rows_read(stand)?;
        let end = now() + RESIZE_FOR;
        while now() < end {
            for value in [buckets.found() / 2, buckets.found()] {
                buckets.set(value)?;
                thread::sleep(RESIZE_EVERY);
            }
        }
        let after = rows_read(stand)?;
        let (these, rows) = (after.0 - before.0, after.1 - before.1);
        reads += these;
        // Every read that was whole shows all that was made.
        cut_short += these - (rows / u64::from(RESIZE_ENTRIES)).min(these);
        stand.pass(RESIZE_PAUSE, load)?;
    }
    Ok(Disturbed::noted(format!("{cut_short} of {reads} reads cut short"), cut_short > 0))
}

/// Reads of the disturbed node's collector so far, and rows in them.
fn rows_read(stand: &Stand<'_>) -> Result<(u64, u64), Error> {
    let metric = |name| stand.daemons.collectors[COLLECTOR].metric(name, &[]).map(Option::unwrap_or_default);
    Ok((
        metric("egressd_collector_conntrack_snapshots_total")?,
        metric("egressd_collector_conntrack_rows_total")?,
    ))
}

fn fill(stand: &mut Stand<'_>, load: &mut Load) -> Result<Disturbed, Error> {
    let entries_max = Setting::ConntrackMax.read()?;
    if entries_max > FILLED_MAX {
        let note = format!("nf_conntrack_max is {entries_max}, above {FILLED_MAX}");
        return Ok(Disturbed::noted(note, false));
    }
    stand.pass(Duration::from_secs(1), load)?;
    let there = entries(stand.cluster)?;
    make_entries(stand.cluster, entries_max.saturating_sub(there + ROOM))?;
    let full = entries(stand.cluster)?;
    stand.pass(stand.group.traffic, load)?;
    let (refused, dropped_early) = refusals(stand.cluster)?;
    let note = format!("{full} of {entries_max} entries, {refused} refused, {dropped_early} dropped early");
    Ok(Disturbed::noted(note, refused + dropped_early > 0))
}

/// Entries of the disturbed node now.
fn entries(cluster: &Cluster) -> Result<u32, Error> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    let read = cluster.namespace(NODE)?.enter(|| fs::read_to_string(path))?;
    let text = read.map_err(|source| Error::Os { action: "read", subject: path.to_owned(), source })?;
    text.trim().parse().map_err(|_| Error::Malformed { what: "nf_conntrack_count", found: text })
}

/// New entries that the disturbed node's kernel refused, and entries that it dropped to make room.
fn refusals(cluster: &Cluster) -> Result<(u64, u64), Error> {
    let mut command = Command::new("conntrack");
    command.arg("-S");
    let text = String::from_utf8_lossy(&cluster.run(NODE, command)?).into_owned();
    let sum = |name: &str| -> u64 {
        let words = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        words.filter(|(found, _)| *found == name).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    Ok((sum("drop"), sum("early_drop")))
}

fn restart(stand: &mut Stand<'_>, load: &mut Load, scenario: Scenario) -> Result<Disturbed, Error> {
    let around = AROUND_RESTART + stand.group.reads.interval();
    stand.pass(around, load)?;
    let note = replace_collector(stand, scenario)?;
    stand.pass(around, load)?;
    Ok(Disturbed::noted(note, true))
}

/// A listener of our own hears the ends that no collector heard, from [`UNHEARD_BEFORE`] before the one went until the
/// other is ready; what those entries had counted in all is the most that may be missing.
fn restart_amid_ends(stand: &mut Stand<'_>, load: &mut Load, scenario: Scenario) -> Result<Disturbed, Error> {
    let mut listener = Listener::start(stand.cluster, NODE, &format!("ends-around-{scenario:?}"))?;
    let around = AROUND_RESTART + stand.group.reads.interval();
    stand.pass(around, load)?;
    let since = unix_time().saturating_sub(UNHEARD_BEFORE);
    let note = replace_collector(stand, scenario)?;
    let (ends, bound_bytes) = listener.heard_from(since)?;
    stand.pass(around, load)?;
    let note = format!("{note}; at most {bound_bytes} B, of {ends} entries that ended then");
    Ok(Disturbed { bound_bytes, ..Disturbed::noted(note, ends > 0) })
}

/// Ends the collector of the disturbed node and starts another one; says how long that took.
fn replace_collector(stand: &mut Stand<'_>, scenario: Scenario) -> Result<String, Error> {
    let began = now();
    if matches!(scenario, Scenario::Stop | Scenario::StopAmidEnds) {
        stand.daemons.collectors[COLLECTOR].end()?;
    } else {
        stand.daemons.collectors[COLLECTOR].process().kill()?;
        thread::sleep(DOWN);
    }
    stand.daemons.collectors[COLLECTOR] = stand.start_collector(NODE)?;
    stand.daemons.collectors[COLLECTOR].wait_ready(READY_WITHIN)?;
    Ok(format!("away for {:.1} s", began.elapsed().as_secs_f32()))
}
