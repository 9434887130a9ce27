//! Where rows come from: one account of the kernel's, chosen at start and kept for as long as the process lives.
//!
//! A source is a file of [`source`](self) that gives [`Rows`]; what else tells it apart (whether ends are heard, how
//! often it is read, what a checkpoint of it is of) stands in [`Mode`] and [`Plan`]. The reader knows none by name.

mod cilium;
mod ebpf;
mod hearing;
mod netfilter;

use std::path::{Path, PathBuf};
use std::time::Duration;

use egressd_conntrack::cilium::ReadError;
use egressd_conntrack::ebpf::{CountsConfig, forget};
use egressd_conntrack::netfilter::{CtZones, EndsConfig, Keeper};
use egressd_flow::{Counter, Ended, Entry, Snapshot, UnixNanos};
use egressd_protocol::Source;
use egressd_service::lifecycle::chain;
use tracing::warn;

use crate::config::{CiliumOptions, EbpfOptions, SourceOptions};
use crate::diagnosis::Finding;
use crate::namespace;

pub(crate) use cilium::layout;
pub(crate) use hearing::{Hearing, Waker};

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel's own connection tracking.
    Netfilter,
    /// Cilium's conntrack maps.
    Cilium,
    /// Programs of our own.
    Ebpf,
}

impl Mode {
    /// The value of `--ct-mode`, and of `source` in a dump.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Netfilter => "netfilter",
            Self::Cilium => "cilium",
            Self::Ebpf => "ebpf",
        }
    }

    /// As the exporter is told.
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Netfilter => Source::Netfilter,
            Self::Cilium => Source::Cilium,
            Self::Ebpf => Source::Ebpf,
        }
    }

    /// The time between two reads unless somebody asks for another.
    pub(crate) fn read_interval(self) -> Duration {
        match self {
            // Ends are heard of, so exactness does not need a shorter one.
            Self::Netfilter => Duration::from_secs(15),
            // Half of how long Cilium keeps a connection that was closed (`CT_CLOSE_TIMEOUT`, `bpf/lib/conntrack.h`).
            Self::Cilium => Duration::from_secs(5),
            // What has room in a table is what comes between two reads.
            Self::Ebpf => Duration::from_secs(5),
        }
    }

    /// Reads that are further apart miss connections; `None` where they miss none.
    pub(crate) fn reads_apart_max(self) -> Option<Duration> {
        match self {
            Self::Netfilter | Self::Ebpf => None,
            Self::Cilium => Some(Duration::from_secs(10)),
        }
    }

    /// Complete reads in a row that do not show an entry before it is taken to be gone.
    pub(crate) fn absent_snapshots_max(self) -> u8 {
        match self {
            // A resize of the table cuts reads short, silently.
            Self::Netfilter => 3,
            // A BPF hash map is never rehashed, and a complete read has been through every bucket: what it lacks was deleted,
            // and one of the same tuple that is there later was made anew, with counters from 0. Our own rows are also told as
            // ended when they are deleted, and a pair's next row has another start.
            Self::Cilium | Self::Ebpf => 1,
        }
    }

    /// Whether the ends of entries are told.
    pub(crate) fn tells_ends(self) -> bool {
        match self {
            Self::Netfilter => true,
            Self::Cilium | Self::Ebpf => false,
        }
    }
}

/// What is read, why, and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Why this one, in words.
    pub(crate) reason: String,
    /// Nobody named it on the command line.
    is_detected: bool,
    host_pid: bool,
    ct_zones: CtZones,
    cilium: CiliumOptions,
    ebpf: EbpfOptions,
    /// Where our own programs outlive this process; `None`: they end with it.
    ebpf_pin_dir: Option<PathBuf>,
}

impl Plan {
    /// Chooses by what the command line says, and else by what the machine has.
    pub(crate) fn choose(options: &SourceOptions) -> Self {
        let (mode, reason) = match options.ct_mode.0 {
            Some(mode) => (mode, "--ct-mode".to_owned()),
            None => {
                detect(&options.cilium, &options.ebpf).unwrap_or_else(|unread| (Mode::Cilium, chain(&unread)))
            }
        };
        Self {
            mode,
            reason,
            is_detected: options.ct_mode.0.is_none(),
            host_pid: options.namespace.host_pid,
            ct_zones: options.ct_zones.clone(),
            cilium: options.cilium.clone(),
            ebpf: options.ebpf.clone(),
            ebpf_pin_dir: None,
        }
    }

    /// Whether another source should be read by now: after a reboot Cilium may pin its maps later than this process looked,
    /// and netfilter's table tells little of what Cilium moves. What another process would choose is told by its reason;
    /// maps that are there and cannot be read are no choice, and a finding. Cheap as long as there is no map.
    pub(crate) fn look_again(&self) -> Option<Again> {
        if self.mode != Mode::Netfilter || !self.is_detected {
            return None;
        }
        match detect(&self.cilium, &self.ebpf) {
            Ok((Mode::Netfilter, _)) => None,
            Ok((mode, reason)) => Some(Again::Other(mode, reason)),
            Err(unread) => Some(Again::Unread(Finding::UnreadMaps { error: chain(&unread) })),
        }
    }

    /// Of a process that lasts. Where it `goes_on` from a state, what it has in the kernel is to outlive it; what one before it
    /// left there, and nobody will read, ends.
    pub(crate) fn lasting(self, ebpf_pin_dir: &Path, goes_on: bool) -> Self {
        if goes_on && self.mode == Mode::Ebpf {
            return Self { ebpf_pin_dir: Some(ebpf_pin_dir.to_owned()), ..self };
        }
        if let Err(error) = forget(ebpf_pin_dir) {
            warn!(error = %chain(&error), "what --ct-mode ebpf left in the kernel stays there");
        }
        self
    }

    /// What a checkpoint is of: one of another identity is refused, since entries that were not read before have no
    /// baseline and would count whole.
    pub(crate) fn identity(&self) -> anyhow::Result<String> {
        match self.mode {
            Mode::Netfilter => {
                Ok(format!("{}\n{}", namespace::name(self.host_pid)?.display(), self.ct_zones))
            }
            // Maps are told apart by the kernel's names for them, within a boot.
            Mode::Cilium => Ok(format!("cilium\n{}", self.cilium.cilium_map_dir.display())),
            // Entries say when they began.
            Mode::Ebpf => Ok("ebpf".to_owned()),
        }
    }

    /// Memory of the kernel's that is taken for it at worst; `None` where none is taken for us.
    pub(crate) fn kernel_bytes_max(&self) -> Option<u64> {
        (self.mode == Mode::Ebpf).then(|| CountsConfig::worst_case_bytes(self.ebpf.ebpf_entries_max))
    }

    /// Opens what is read, in the network namespace that the calling thread ends up in.
    pub(crate) fn rows(&self) -> anyhow::Result<Box<dyn Rows>> {
        match self.mode {
            Mode::Netfilter => {
                namespace::enter_host(self.host_pid)?;
                Ok(Box::new(netfilter::Netfilter::open(&self.ct_zones)?))
            }
            Mode::Cilium => Ok(Box::new(cilium::Cilium::new(&self.cilium))),
            Mode::Ebpf => Ok(Box::new(ebpf::Ebpf::open(&self.ebpf, self.ebpf_pin_dir.clone())?)),
        }
    }

    /// Opens what is heard of between two reads; the calling thread has opened the [`rows`](Self::rows) before.
    pub(crate) fn hearing(
        &self,
        config: EndsConfig,
        keeper: Option<Box<dyn Keeper>>,
    ) -> anyhow::Result<Hearing> {
        match self.mode {
            Mode::Netfilter => Hearing::of_ends(config, &self.ct_zones, keeper),
            Mode::Cilium | Mode::Ebpf => Ok(Hearing::nothing()),
        }
    }
}

/// What a look at a source that was found brings.
pub(crate) enum Again {
    /// This one should be read, and why.
    Other(Mode, String),
    /// There is one that cannot be read.
    Unread(Finding),
}

/// What this machine has, and why that is read; an error where there are maps that cannot be read.
fn detect(options: &CiliumOptions, ebpf: &EbpfOptions) -> Result<(Mode, String), ReadError> {
    let directory = options.cilium_map_dir.display();
    let mut cilium = cilium::Cilium::new(options);
    match cilium.look() {
        Ok(()) => {
            let pinned = format!("Cilium's conntrack maps are pinned in {directory}");
            let Some(lack) = cilium.lack() else { return Ok((Mode::Cilium, pinned)) };
            Ok(match ebpf::Ebpf::look(ebpf) {
                Ok(()) => (Mode::Ebpf, format!("{pinned}; they {lack}")),
                Err(error) => (Mode::Cilium, format!("{pinned}; they {lack}, but {}", chain(error.as_ref()))),
            })
        }
        Err(unread @ ReadError::Map { .. }) => Err(unread),
        Err(ReadError::NoMaps { .. } | ReadError::Directory { .. }) => {
            Ok((Mode::Netfilter, format!("no conntrack map of Cilium is pinned in {directory}")))
        }
    }
}

/// A source, opened.
pub(crate) trait Rows {
    /// Takes a look before the one read of a command that reads once: what that learns, the read goes by.
    fn prepare(&mut self) {}

    /// Tells the ends of entries that the last read handed over, where the source knows of them by itself. Called before a
    /// read, and when what was read before is kept.
    fn settle(&mut self, _each: &mut dyn FnMut(&Ended)) -> Result<(), Unread> {
        Ok(())
    }

    /// Hands over every entry once. `now` is when the read begins, by the real-time clock.
    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread>;

    /// Why the last read was partial; `None` when it was complete.
    fn interruption(&self) -> Option<String>;

    /// What keeps bytes from being counted, as of the last read.
    fn findings(&self, snapshot: &Snapshot) -> Vec<Finding>;

    /// What passed and is in no entry, by reason.
    fn uncounted(&self) -> Vec<(&'static str, Counter)> {
        Vec::new()
    }

    /// How the last read was made, where there is more to say than its [`Mode`].
    fn description(&self) -> Option<String> {
        None
    }
}

/// Why a read gave nothing.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) error: anyhow::Error,
    /// The next read may do better; else an operator must act.
    pub(crate) is_transient: bool,
}
