//! Our own programs' counters as a source.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use egressd_conntrack::ebpf::{Counts, CountsConfig, Programs, ReadError, Uncounted};
use egressd_flow::{Counter, Ended, Entry, Snapshot, UnixNanos};
use egressd_service::clock::unix_nanos;
use tracing::{info, warn};

use super::{Rows, Unread};
use crate::config::EbpfOptions;
use crate::diagnosis::Finding;

/// Programs that count, attached.
pub(super) struct Ebpf {
    counts: Counts,
    count_for: Duration,
    uncounted: Uncounted,
    /// Of what found a table full, what came since the read before.
    newly_full: Counter,
}

impl Ebpf {
    pub(super) fn open(options: &EbpfOptions, pin_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let config = CountsConfig {
            cgroup: options.ebpf_cgroup.clone(),
            pin_dir,
            entries_max: options.ebpf_entries_max,
        };
        let counts = Counts::open(&config, UnixNanos(unix_nanos()))?;
        if counts.is_continued() {
            info!("going on with tables that a process before left");
        }
        for warning in counts.warnings() {
            warn!("{warning}");
        }
        let uncounted = counts.uncounted()?;
        Ok(Self { counts, count_for: options.ebpf_count_for, uncounted, newly_full: Counter::default() })
    }

    /// Whether the programs could count here.
    pub(super) fn look(options: &EbpfOptions) -> anyhow::Result<()> {
        Programs::load(options.ebpf_entries_max).context("our own counters are not to be had")?;
        Ok(())
    }
}

impl Rows for Ebpf {
    fn prepare(&mut self) {
        std::thread::sleep(self.count_for);
    }

    fn settle(&mut self, each: &mut dyn FnMut(&Ended)) -> Result<(), Unread> {
        self.counts.settle(each).map_err(Unread::from)
    }

    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread> {
        let snapshot = self.counts.read(now, each)?;
        let uncounted = self.counts.uncounted()?;
        self.newly_full = uncounted.full.growth(self.uncounted.full).unwrap_or_default();
        self.uncounted = uncounted;
        Ok(snapshot)
    }

    fn interruption(&self) -> Option<String> {
        None
    }

    fn findings(&self, _snapshot: &Snapshot) -> Vec<Finding> {
        let Counter { bytes, packets } = self.newly_full;
        if packets > 0 { vec![Finding::TableFull { packets, bytes }] } else { Vec::new() }
    }

    fn uncounted(&self) -> Vec<(&'static str, Counter)> {
        let Uncounted { full, unread } = self.uncounted;
        vec![("table_full", full), ("unread_packets", unread)]
    }
}

impl From<ReadError> for Unread {
    fn from(error: ReadError) -> Self {
        Self { is_transient: error.is_transient(), error: error.into() }
    }
}
