//! The collector as it ships, and an exporter that gives it its scope and takes its batches.
//!
//! Both run in the bench's namespace with the settings that they have by themselves, and speak over loopback. The
//! exporter knows the filler's pods and node from a static inventory and has no sink; the collector's checkpoint is
//! in a tmpfs of the bench's own, beside their logs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Daemon, EXPORTER_HTTP_PORT, GRPC_PORT, Namespace, Scratch, beside_current_exe,
    filler,
};
use serde_json::json;

const NODE: &str = "node-a";
/// The collector's default.
const COLLECTOR_HTTP_PORT: u16 = 8008;
/// The first read of a million entries takes a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// `st_blocks` counts in these, whatever the file system (`stat(2)`).
const BLOCK_BYTES: u64 = 512;

/// Where both run: this namespace, and a place for files.
pub(crate) struct Stage {
    namespace: Namespace,
    scratch: Scratch,
}

impl Stage {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> anyhow::Result<Self> {
        Ok(Self { namespace: Namespace::current("bench")?, scratch: Scratch::create()? })
    }

    fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// What the collector's state directory holds now, in bytes of memory.
    pub(crate) fn state_bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for file in fs::read_dir(self.state_dir()).context("there is no state directory")? {
            bytes += file?.metadata().context("the state directory changes")?.blocks() * BLOCK_BYTES;
        }
        Ok(bytes)
    }
}

/// Both daemons. Dropping it kills them.
pub(crate) struct Daemons<'s> {
    collector: Daemon<'s>,
    exporter: Daemon<'s>,
}

/// What the collector is told beyond where to find things; its own defaults hold where nothing is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    pub(crate) read_interval: Option<Duration>,
    /// Of one processor, from 1 on.
    pub(crate) cpu_percent_max: Option<u8>,
}

/// What they say of themselves since their start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) reads: u64,
    pub(crate) rows: u64,
    /// Entries that the last read found grown.
    pub(crate) active: u64,
    /// Of the last checkpoint, by the clock.
    pub(crate) checkpoint_us: u64,
    /// Bytes of traffic that the exporter was told of.
    pub(crate) delivered_bytes: u64,
}

impl Figures {
    /// What was added to those of `before`; what is said of the last read is as it is now.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            rows: self.rows - before.rows,
            active: self.active,
            checkpoint_us: self.checkpoint_us,
            delivered_bytes: self.delivered_bytes - before.delivered_bytes,
        }
    }
}

/// What the collector heard of ends since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndsFigures {
    pub(crate) reads: u64,
    /// That they took by the clock, together.
    pub(crate) read_seconds: f64,
    /// Applied.
    pub(crate) heard: u64,
    /// That the kernel could not deliver, as of the last read.
    pub(crate) lost: u64,
    /// Of those heard, the ones that were not kept in the state directory, as of the last checkpoint.
    pub(crate) unprotected: u64,
}

impl<'s> Daemons<'s> {
    /// Starts both and waits until they are ready.
    pub(crate) fn start(stage: &'s Stage, flags: Flags) -> anyhow::Result<Self> {
        let mut exporter = exporter(stage)?;
        exporter.wait_ready(READY_WITHIN)?;
        let mut collector = collector(stage, flags)?;
        collector.wait_ready(READY_WITHIN)?;
        Ok(Self { collector, exporter })
    }

    /// The collector's process id.
    pub(crate) fn collector_id(&mut self) -> u32 {
        self.collector.process().id()
    }

    /// How often the collector has read.
    pub(crate) fn reads(&self) -> anyhow::Result<u64> {
        metric(&self.collector, "egressd_collector_conntrack_snapshots_total")
    }

    /// Seconds from one read to the next, as the collector has it now; 0 before it has settled on any.
    pub(crate) fn read_interval_seconds(&self) -> anyhow::Result<f64> {
        seconds(&self.collector, "egressd_collector_conntrack_read_interval_seconds")
    }

    /// Asks the collector for its ends, for its reads first.
    pub(crate) fn ends_figures(&self) -> anyhow::Result<EndsFigures> {
        Ok(EndsFigures {
            reads: self.reads()?,
            read_seconds: seconds(&self.collector, "egressd_collector_conntrack_read_seconds_sum")?,
            heard: metric(&self.collector, "egressd_collector_conntrack_ends_total")?,
            lost: metric(&self.collector, "egressd_collector_conntrack_lost_ends_total")?,
            unprotected: metric(&self.collector, "egressd_collector_checkpoint_unprotected_ends_total")?,
        })
    }

    /// Asks both.
    pub(crate) fn figures(&self) -> anyhow::Result<Figures> {
        Ok(Figures {
            reads: self.reads()?,
            rows: metric(&self.collector, "egressd_collector_conntrack_rows_total")?,
            active: metric(&self.collector, "egressd_conntrack_entries_active")?,
            checkpoint_us: metric(&self.collector, "egressd_collector_checkpoint_microseconds")?,
            delivered_bytes: metric(&self.exporter, "egressd_exporter_ledger_received_bytes_total")?,
        })
    }

    /// Ends both, the collector first.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.collector.end()?;
        Ok(self.exporter.end()?)
    }
}

fn metric(daemon: &Daemon<'_>, name: &str) -> anyhow::Result<u64> {
    daemon.metric(name, &[])?.with_context(|| format!("{name} is not published"))
}

fn seconds(daemon: &Daemon<'_>, name: &str) -> anyhow::Result<f64> {
    daemon.gauge(name)?.with_context(|| format!("{name} is not published"))
}

fn exporter(stage: &Stage) -> anyhow::Result<Daemon<'_>> {
    let mut command = Command::new(beside_current_exe("egressd-exporter")?);
    command.arg("run");
    command.arg("--inventory").arg(stage.scratch.write("inventory.yaml", &inventory())?);
    command.arg("--config-path").arg(stage.scratch.write("config.yaml", CONFIG_WITHOUT_SINKS)?);
    let directory = stage.scratch.path();
    Ok(Daemon::start(&stage.namespace, &directory, "exporter", command, EXPORTER_HTTP_PORT)?)
}

fn collector(stage: &Stage, flags: Flags) -> anyhow::Result<Daemon<'_>> {
    let mut command = Command::new(beside_current_exe("egressd-collector")?);
    command.args(["run", "--node-name", NODE, "--exporter-address", &format!("127.0.0.1:{GRPC_PORT}")]);
    command.arg("--state-dir").arg(stage.state_dir());
    if let Some(interval) = flags.read_interval {
        command.arg("--read-interval").arg(format!("{}s", interval.as_secs()));
    }
    if let Some(percent) = flags.cpu_percent_max {
        command.arg("--cpu-percent-max").arg(percent.to_string());
    }
    let directory = stage.scratch.path();
    Ok(Daemon::start(&stage.namespace, &directory, "collector", command, COLLECTOR_HTTP_PORT)?)
}

/// The filler's pods on its node. JSON is YAML.
fn inventory() -> String {
    let pod = |(addresses, number): ([std::net::IpAddr; 2], u32)| {
        json!({
            "name": format!("web-5d8f7c9b4-{number:05}"),
            "namespace": "shop",
            "uid": format!("3f0c1c52-6f0a-4a53-9d4e-{number:012}"),
            "node": NODE,
            "addresses": addresses,
            "workload": { "kind": "Deployment", "name": "web" },
        })
    };
    let pods: Vec<_> = filler::local_pods().zip(0..).map(pod).collect();
    let node = json!({ "name": NODE, "zone": "zone-1", "addresses": filler::node_addresses() });
    json!({ "nodes": [node], "pods": pods }).to_string()
}
