//! What is measured: a collector's parts between the kernel and its batches, wired as the collector wires them.
//!
//! The clock is the bench's: each tick is [`READ_INTERVAL`] after the one before, so that what is kept for a time is
//! kept as long as in a real collector.

use std::io::BufWriter;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use egressd_conntrack::netfilter::{CtZones, Ends, EndsConfig, Losses, Table};
use egressd_flow::{Completeness, Epoch, Owner, Scope, UnixNanos};
use egressd_meter::{Books, Meter, MeterConfig};
use egressd_testbed::filler;

use crate::{allocations, gauge};

/// Where `--state-dir` is meant to be.
const TMPFS: &str = "/dev/shm";
/// The collector's default.
pub(crate) const READ_INTERVAL: Duration = Duration::from_secs(15);
/// The collector's.
const ENDS_PATIENCE: Duration = Duration::from_secs(2);
/// The collector's.
const ROWS_BETWEEN_ENDS: u64 = 1024;

/// The collector's defaults (`crates/collector/src/config.rs`), but for the bound on entries,
/// which is the bench's largest table.
pub(crate) const METER: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 1 << 22,
    flows_max: 131_072,
    unclaimed_max: 131_072,
    tombstones_max: 131_072,
    retired_max: 65_536,
    batch_records_max: 10_000,
    batch_owners_max: 1_000,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};

/// The collector's defaults.
const ENDS: EndsConfig = EndsConfig {
    receive_buffer_bytes: 8 << 20,
    queue_entries: const { NonZeroUsize::new(16_384).expect("not zero") },
};

/// The parts.
pub(crate) struct Subject {
    table: Table,
    ends: Ends,
    meter: Meter,
    now: UnixNanos,
}

/// What one tick came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    pub(crate) entries: u64,
    pub(crate) ends: u64,
    pub(crate) records: u64,
    /// Requests to the allocator before anything was cut.
    pub(crate) read_allocations: u64,
}

impl Subject {
    /// Opens the kernel's side, and knows who the local pods are.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let now = UnixNanos(gauge::unix_ns()?);
        let meter = meter(now, &scope(now));
        let ends = Ends::listen(ENDS, CtZones::ALL, None)?;
        if let Some(warning) = ends.warning() {
            bail!("{warning}");
        }
        Ok(Self { table: Table::open(CtZones::ALL)?, ends, meter, now })
    }

    /// What a collector does at a tick: dump, ends, scope, cut.
    pub(crate) fn tick(&mut self) -> anyhow::Result<Tick> {
        self.now = self.now.saturating_add(READ_INTERVAL);
        let requests = allocations::requests();
        let (entries, ends) = self.read()?;
        let read_allocations = allocations::requests() - requests;
        self.meter.scope(&Scope { as_of: self.now, whole: false, owners: vec![], node_addresses: vec![] });
        let batches = self.meter.cut(self.now);
        let records = batches.iter().map(|batch| batch.records.len()).sum::<usize>();
        Ok(Tick { entries, ends, records: u64::try_from(records)?, read_allocations })
    }

    /// What a checkpoint writes of the meter, into a new file of a tmpfs, as the collector does but for the sum at its
    /// end; its size in bytes.
    pub(crate) fn keep(&mut self) -> anyhow::Result<u64> {
        let file = tempfile::tempfile_in(TMPFS).with_context(|| format!("cannot write to {TMPFS}"))?;
        let mut out = BufWriter::with_capacity(1 << 16, file);
        self.meter.save(&mut out)?;
        Ok(out.into_inner()?.metadata()?.len())
    }

    /// The first half of a tick: the entries read, and the ends that came by then.
    fn read(&mut self) -> anyhow::Result<(u64, u64)> {
        let Self { table, ends, meter, now } = self;
        let (mut rows, mut heard) = (0, 0);
        meter.begin(*now);
        let read = table.read(*now, &mut |entry| {
            meter.entry(entry);
            rows += 1;
            if rows % ROWS_BETWEEN_ENDS == 0 {
                // A listener that failed says so when it is asked after the read.
                heard += ends.drain(&mut |ended| meter.ended(ended, *now)).unwrap_or_default();
            }
        });
        let snapshot = read.context("cannot read conntrack")?;
        meter.finish(&snapshot);
        if snapshot.completeness != Completeness::Complete {
            bail!("a read broke off: {:?}", table.interruption());
        }
        let drained = ends.drain_all(ENDS_PATIENCE, &mut |ended| meter.ended(ended, *now))?;
        if !drained.settled {
            bail!("ends were not handed over");
        }
        Ok((snapshot.entries, heard + drained.ends))
    }

    /// Waits for ends, a few milliseconds at most, and applies them; how many.
    pub(crate) fn hear(&mut self) -> anyhow::Result<u64> {
        let Self { ends, meter, now, .. } = self;
        ends.wait(Duration::from_millis(10));
        Ok(ends.drain(&mut |ended| meter.ended(ended, *now))?)
    }

    /// Applies all the ends that the kernel has told; how many.
    pub(crate) fn hear_all(&mut self) -> anyhow::Result<u64> {
        let Self { ends, meter, now, .. } = self;
        Ok(ends.drain_all(ENDS_PATIENCE, &mut |ended| meter.ended(ended, *now))?.ends)
    }

    pub(crate) fn losses(&mut self) -> anyhow::Result<Losses> {
        Ok(self.ends.losses()?)
    }

    pub(crate) fn books(&self) -> Books {
        self.meter.books()
    }
}

/// With the collector's defaults.
fn meter(now: UnixNanos, scope: &Scope) -> Meter {
    let mut meter = Meter::new(METER, Epoch(1), [7; 16], now);
    meter.scope(scope);
    meter
}

/// One whose node has one pod.
pub(crate) fn meter_of(now: UnixNanos, pod: IpAddr) -> Meter {
    let owners = vec![Arc::new(owner(pod, 0))];
    meter(now, &Scope { as_of: now, whole: true, owners, node_addresses: vec![] })
}

/// The filler's local pods, each the owner of its two addresses, and its node.
pub(crate) fn scope(now: UnixNanos) -> Scope {
    let owners = filler::local_pods()
        .zip(0..)
        .flat_map(|(addresses, number)| addresses.map(|address| Arc::new(owner(address, number))));
    let node_addresses = filler::node_addresses().to_vec();
    Scope { as_of: now, whole: true, owners: owners.collect(), node_addresses }
}

fn owner(address: IpAddr, number: u32) -> Owner {
    Owner {
        address,
        pod_uid: format!("3f0c1c52-6f0a-4a53-9d4e-{number:012}").into(),
        namespace: "shop".into(),
        name: format!("web-5d8f7c9b4-{number:05}").into(),
        labels: [("app.kubernetes.io/name".to_owned(), "web".to_owned())].into(),
        since: UnixNanos(0),
        until: None,
        measure: true,
    }
}
