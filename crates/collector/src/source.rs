//! Where rows come from: one account of the kernel's, chosen once at start.
//!
//! A source is a file of [`source`](self) that gives [`Rows`]; what else tells it apart (whether ends are heard, how
//! often it is read, what a checkpoint of it is of) stands in [`Mode`] and [`Plan`]. The reader knows none by name.

mod cilium;
mod hearing;
mod netfilter;

use std::time::Duration;

use egressd_conntrack::cilium::ReadError;
use egressd_conntrack::netfilter::{CtZones, EndsConfig, Keeper};
use egressd_flow::{Entry, Snapshot, UnixNanos};
use egressd_protocol::Source;
use egressd_service::lifecycle::chain;

use crate::config::{CiliumOptions, SourceOptions};
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
}

impl Mode {
    /// The value of `--ct-mode`, and of `source` in a dump.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Netfilter => "netfilter",
            Self::Cilium => "cilium",
        }
    }

    /// As the exporter is told.
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Netfilter => Source::Netfilter,
            Self::Cilium => Source::Cilium,
        }
    }

    /// The time between two reads unless somebody asks for another.
    pub(crate) fn read_interval(self) -> Duration {
        match self {
            // Ends are heard of, so exactness does not need a shorter one.
            Self::Netfilter => Duration::from_secs(15),
            // Half of how long Cilium keeps a connection that was closed (`CT_CLOSE_TIMEOUT`, `bpf/lib/conntrack.h`).
            Self::Cilium => Duration::from_secs(5),
        }
    }

    /// Reads that are further apart miss connections; `None` where they miss none.
    pub(crate) fn reads_apart_max(self) -> Option<Duration> {
        match self {
            Self::Netfilter => None,
            Self::Cilium => Some(Duration::from_secs(10)),
        }
    }

    /// Complete reads in a row that do not show an entry before it is taken to be gone.
    pub(crate) fn absent_snapshots_max(self) -> u8 {
        match self {
            // A resize of the table cuts reads short, silently.
            Self::Netfilter => 3,
            Self::Cilium => 1,
        }
    }

    /// Whether the ends of entries are told.
    pub(crate) fn tells_ends(self) -> bool {
        match self {
            Self::Netfilter => true,
            Self::Cilium => false,
        }
    }
}

/// What is read, why, and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Why this one, in words.
    pub(crate) reason: String,
    host_pid: bool,
    ct_zones: CtZones,
    cilium: CiliumOptions,
}

impl Plan {
    /// Chooses by what the command line says, and else by what the machine has.
    pub(crate) fn choose(options: &SourceOptions) -> Self {
        let (mode, reason) = match options.ct_mode.0 {
            Some(mode) => (mode, "--ct-mode".to_owned()),
            None => detect(&options.cilium),
        };
        Self {
            mode,
            reason,
            host_pid: options.namespace.host_pid,
            ct_zones: options.ct_zones.clone(),
            cilium: options.cilium.clone(),
        }
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
        }
    }

    /// Opens what is read, in the network namespace that the calling thread ends up in.
    pub(crate) fn rows(&self) -> anyhow::Result<Box<dyn Rows>> {
        match self.mode {
            Mode::Netfilter => {
                namespace::enter_host(self.host_pid)?;
                Ok(Box::new(netfilter::Netfilter::open(&self.ct_zones)?))
            }
            Mode::Cilium => Ok(Box::new(cilium::Cilium::new(&self.cilium))),
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
            Mode::Cilium => Ok(Hearing::nothing()),
        }
    }
}

/// What this machine has, and why that is read.
fn detect(options: &CiliumOptions) -> (Mode, String) {
    let directory = options.cilium_map_dir.display();
    match cilium::Cilium::new(options).look() {
        Ok(()) => (Mode::Cilium, format!("Cilium's conntrack maps are pinned in {directory}")),
        Err(error @ ReadError::Map { .. }) => (Mode::Cilium, chain(&error)),
        Err(ReadError::NoMaps { .. } | ReadError::Directory { .. }) => {
            (Mode::Netfilter, format!("no conntrack map of Cilium is pinned in {directory}"))
        }
    }
}

/// A source, opened.
pub(crate) trait Rows {
    /// Takes a look before the one read of a command that reads once: what that learns, the read goes by.
    fn prepare(&mut self) {}

    /// Hands over every entry once. `now` is when the read begins, by the real-time clock.
    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread>;

    /// Why the last read was partial; `None` when it was complete.
    fn interruption(&self) -> Option<String>;

    /// What keeps bytes from being counted, as of the last read.
    fn findings(&self, snapshot: &Snapshot) -> Vec<Finding>;

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
