//! Where rows come from: one account of the kernel's, chosen once at start.
//!
//! A source is a file of [`source`](self) that gives [`Rows`]; what else tells it apart (whether ends are heard, how
//! often it is read, what a checkpoint of it is of) stands in [`Mode`] and [`Plan`]. The reader knows none by name.

mod hearing;
mod netfilter;

use std::time::Duration;

use egressd_conntrack::netfilter::{CtZones, EndsConfig, Keeper};
use egressd_flow::{Entry, Snapshot, UnixNanos};
use egressd_protocol::Source;

use crate::config::SourceOptions;
use crate::diagnosis::Finding;
use crate::namespace;

pub(crate) use hearing::{Hearing, Waker};

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel's own connection tracking.
    Netfilter,
}

impl Mode {
    /// The value of `--ct-mode`, and of `source` in a dump.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Netfilter => "netfilter",
        }
    }

    /// As the exporter is told.
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Netfilter => Source::Netfilter,
        }
    }

    /// The time between two reads unless somebody asks for another.
    pub(crate) fn read_interval(self) -> Duration {
        match self {
            // Ends are heard of, so exactness does not need a shorter one.
            Self::Netfilter => Duration::from_secs(15),
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
}

impl Plan {
    /// Chooses by what the command line says, and else by what the machine has.
    pub(crate) fn choose(options: &SourceOptions) -> Self {
        let (mode, reason) = match options.ct_mode.0 {
            Some(mode) => (mode, "--ct-mode"),
            None => (Mode::Netfilter, "the only source of this version"),
        };
        Self {
            mode,
            reason: reason.to_owned(),
            host_pid: options.namespace.host_pid,
            ct_zones: options.ct_zones.clone(),
        }
    }

    /// What a checkpoint is of: one of another identity is refused, since entries that were not read before have no
    /// baseline and would count whole.
    pub(crate) fn identity(&self) -> anyhow::Result<String> {
        match self.mode {
            Mode::Netfilter => {
                Ok(format!("{}\n{}", namespace::name(self.host_pid)?.display(), self.ct_zones))
            }
        }
    }

    /// Opens what is read, in the network namespace that the calling thread ends up in.
    pub(crate) fn rows(&self) -> anyhow::Result<Box<dyn Rows>> {
        match self.mode {
            Mode::Netfilter => {
                namespace::enter_host(self.host_pid)?;
                Ok(Box::new(netfilter::Netfilter::open(&self.ct_zones)?))
            }
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
        }
    }

    /// Whether the ends of entries are told.
    pub(crate) fn tells_ends(&self) -> bool {
        match self.mode {
            Mode::Netfilter => true,
        }
    }
}

/// A source, opened.
pub(crate) trait Rows {
    /// Hands over every entry once. `now` is when the read begins, by the real-time clock.
    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread>;

    /// Why the last read was partial; `None` when it was complete.
    fn interruption(&self) -> Option<String>;

    /// What keeps bytes from being counted, as of the last read.
    fn findings(&self, snapshot: &Snapshot) -> Vec<Finding>;
}

/// Why a read gave nothing.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) error: anyhow::Error,
    /// The next read may do better; else an operator must act.
    pub(crate) is_transient: bool,
}
