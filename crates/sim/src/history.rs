//! What happened, for whoever has to understand it, and how often what went wrong.
//!
//! Invariant: nothing depends on whether it is told. Bound: the last [`LAST`] events, unless all are printed.

use std::collections::VecDeque;
use std::fmt;
use std::ops::AddAssign;

/// Events shown with a failure.
pub(crate) const LAST: usize = 60;

/// How much of a history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Nothing,
    TheLast,
    All,
}

/// The events of one history.
#[derive(Debug)]
pub(crate) struct History {
    telling: Telling,
    lines: VecDeque<String>,
    pub(crate) step: u64,
    pub(crate) faults: Faults,
}

impl History {
    pub(crate) fn new(telling: Telling) -> Self {
        Self { telling, lines: VecDeque::new(), step: 0, faults: Faults::default() }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, event: impl FnOnce() -> String) {
        if self.telling == Telling::Nothing {
            return;
        }
        self.lines.push_back(format!("{:>6} {}", self.step, event()));
        if self.telling == Telling::TheLast && self.lines.len() > LAST {
            self.lines.pop_front();
        }
    }

    /// Notes that something went wrong, at a node or elsewhere.
    pub(crate) fn fault(&mut self, fault: Fault, node: Option<u8>) {
        self.faults.0[fault as usize] += 1;
        self.note(|| match node {
            Some(node) => format!("node {node}: {fault}"),
            None => fault.to_string(),
        });
    }

    /// What is kept of it, oldest first.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    CollectorKilled,
    CollectorKilledKeeping,
    CollectorStopped,
    NodeBooted,
    StateDamaged,
    BatchDamaged,
    StateDirFull,
    EndsUntold,
    DumpShort,
    DumpInterrupted,
    DumpFailed,
    CountersZeroed,
    StreamCut,
    StreamDoubled,
    ExporterKilled,
    ExporterKilledWriting,
    ExporterStopped,
    PowerLost,
    WriteTorn,
    DiskFull,
    SyncFailed,
    PushRefused,
    PushDropped,
    PushTakenSilently,
    PushRejected,
    PodsGone,
}

impl Fault {
    const ALL: [(Self, &'static str); 26] = [
        (Self::CollectorKilled, "collector killed"),
        (Self::CollectorKilledKeeping, "collector killed as it keeps"),
        (Self::CollectorStopped, "collector stopped"),
        (Self::NodeBooted, "node booted"),
        (Self::StateDamaged, "state damaged"),
        (Self::BatchDamaged, "kept batch damaged"),
        (Self::StateDirFull, "state directory full"),
        (Self::EndsUntold, "ends untold"),
        (Self::DumpShort, "dump short"),
        (Self::DumpInterrupted, "dump interrupted"),
        (Self::DumpFailed, "dump failed"),
        (Self::CountersZeroed, "counters zeroed"),
        (Self::StreamCut, "stream cut"),
        (Self::StreamDoubled, "stream doubled"),
        (Self::ExporterKilled, "exporter killed"),
        (Self::ExporterKilledWriting, "exporter killed as it writes"),
        (Self::ExporterStopped, "exporter stopped"),
        (Self::PowerLost, "power lost"),
        (Self::WriteTorn, "write torn"),
        (Self::DiskFull, "disk full"),
        (Self::SyncFailed, "sync failed"),
        (Self::PushRefused, "push refused"),
        (Self::PushDropped, "push dropped"),
        (Self::PushTakenSilently, "push taken silently"),
        (Self::PushRejected, "push refused for what it says"),
        (Self::PodsGone, "pod gone"),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// How often each was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    /// So many more of one kind.
    pub(crate) fn count(&mut self, fault: Fault, times: u64) {
        self.0[fault as usize] += times;
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, name) in Fault::ALL {
            writeln!(f, "  {name:<30} {:>9}", self.0[fault as usize])?;
        }
        Ok(())
    }
}
