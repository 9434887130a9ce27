//! A collector's process: the real meter and the real window, driven in the order of `collector/src/reader.rs`.
//!
//! That order is spread over a thread, a task and the channels between them, so it is said again here, in steps that a
//! kill can fall between: ends are kept, then applied; a dump is followed by all ends that came meanwhile, then by a cut;
//! a cut is kept before it is handed to the window; one that is not handed over stands in a channel of one place.
//!
//! Invariant: nothing here adds, drops or changes a byte. Bound: those of its parts.

use std::collections::VecDeque;
use std::time::Duration;

use egressd_delivery::window::Window;
use egressd_flow::{Batch, Completeness, Defects, Epoch, Scope, Sequence, Snapshot, UnixNanos};
use egressd_meter::{Meter, MeterConfig};

use crate::Violation;
use crate::claims::Claims;
use crate::kernel::{Heard, Kernel};
use crate::rng::Rng;
use crate::state_dir::{Recovered, StateDir, Stop};
use crate::watch::Watch;

/// Bounds of one history's collectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) meter: MeterConfig,
    /// Of the window, for what the exporter does not have.
    pub(crate) untaken_bytes_max: usize,
}

/// How far a tick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Between two.
    Idle,
    /// The dump has come to this bucket.
    Reading(Option<u64>),
    /// The dump and the ends that came meanwhile are in; the cut is due.
    Read,
}

/// How a dump ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At the table's end.
    Whole,
    /// Short, and nothing says so: the table was resized.
    Silent,
    /// Short, and the kernel says so.
    Interrupted,
    /// With an error.
    Failed,
}

/// What became of a process in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Lives,
    Killed,
}

/// A running collector.
pub(crate) struct Process {
    pub(crate) meter: Meter,
    pub(crate) window: Window,
    /// What it owes.
    pub(crate) watch: Watch,
    /// Ordinal of the next end that is applied.
    heard: u64,
    /// Ordinal of the next end that is kept.
    next: u64,
    /// Kept, not applied.
    queue: VecDeque<Heard>,
    pub(crate) scopes: VecDeque<Scope>,
    pub(crate) tick: Tick,
    /// Its first dump is kept: the watch has begun.
    has_begun: bool,
    /// The channel of cuts.
    pub(crate) cuts: Option<Vec<Batch>>,
    /// It was asked to end, and has cut for the last time.
    pub(crate) stopping: bool,
}

impl Process {
    /// Begins, or goes on from what the one before left. Gives what that one held and is lost.
    pub(crate) fn start(
        rng: &mut Rng,
        bounds: Bounds,
        (kernel, directory): (&mut Kernel, &mut StateDir),
        now: UnixNanos,
    ) -> (Self, Vec<(Epoch, Sequence)>) {
        directory.life = None;
        let bytes_max = (bounds.untaken_bytes_max, usize::MAX);
        let recovered = directory.recover(bounds.meter, kernel, now);
        kernel.listen();
        let (has_begun, anew) = (recovered.is_some(), Epoch(rng.next() | 1));
        let mut lost_batches = Vec::new();
        let (meter, watch, window, heard) = match recovered {
            Some(Recovered { meter, watch, batches, lost, spool, heard }) => {
                let position = meter.position();
                lost_batches.extend(lost.into_iter().map(|sequence| (position.0, sequence)));
                (meter, watch, Window::resume(position, batches, spool, bytes_max), heard)
            }
            None => {
                let key = (u128::from(rng.next()) << 64 | u128::from(rng.next())).to_le_bytes();
                let meter = Meter::new(bounds.meter, anew, key, now);
                (meter, Watch::default(), Window::new(anew, bytes_max.0, bytes_max.1), 0)
            }
        };
        let process = Self {
            meter,
            window,
            watch,
            heard,
            next: heard,
            queue: VecDeque::new(),
            scopes: VecDeque::new(),
            tick: Tick::Idle,
            has_begun,
            cuts: None,
            stopping: false,
        };
        (process, lost_batches)
    }

    /// The thread that receives ends keeps one.
    pub(crate) fn receive(&mut self, kernel: &mut Kernel, directory: &mut StateDir) -> Life {
        let Some(heard) = kernel.receive() else { return Life::Lives };
        if directory.append(self.next, heard).is_err() {
            return Life::Killed;
        }
        self.next += 1;
        self.queue.push_back(heard);
        Life::Lives
    }

    /// The reader applies ends that were kept, at most so many.
    pub(crate) fn drain(&mut self, kernel: &Kernel, at_most: usize, now: UnixNanos) {
        self.meter.look(now);
        for Heard { serial, ended } in self.queue.drain(..at_most.min(self.queue.len())) {
            self.meter.ended(&ended, now);
            self.watch.ended(kernel, serial, &ended.entry);
            self.heard += 1;
        }
    }

    /// The reader hears one scope.
    pub(crate) fn hear_scope(&mut self) {
        if let Some(scope) = self.scopes.pop_front() {
            self.meter.scope(&scope);
            self.watch.hear(&scope);
        }
    }

    /// A dump begins.
    pub(crate) fn begin(&mut self, kernel: &mut Kernel, now: UnixNanos) {
        kernel.begin_dump();
        self.meter.begin(now);
        self.watch.begin(now);
        self.tick = Tick::Reading(None);
    }

    /// Up to so many rows; false at the table's end.
    pub(crate) fn rows(&mut self, kernel: &Kernel, at_most: u64) -> bool {
        let Tick::Reading(mut behind) = self.tick else { return false };
        for _ in 0..at_most {
            let Some((bucket, serial, entry)) = kernel.row(behind) else { return false };
            self.meter.entry(&entry);
            self.watch.shown(kernel, serial, &entry);
            behind = Some(bucket);
        }
        self.tick = Tick::Reading(behind);
        true
    }

    /// The dump is over, and all ends that came by then are applied.
    pub(crate) fn finish(
        &mut self,
        (kernel, directory): (&mut Kernel, &mut StateDir),
        ending: Ending,
        now: UnixNanos,
    ) -> Life {
        let completeness = match ending {
            Ending::Whole | Ending::Silent => Completeness::Complete,
            Ending::Interrupted | Ending::Failed => Completeness::Partial,
        };
        let snapshot =
            Snapshot { completeness, begun: now, entries: 0, offloaded: 0, defects: Defects::default() };
        match ending {
            Ending::Failed => self.meter.abandon(),
            _ => self.meter.finish(&snapshot),
        }
        while kernel.has_told() {
            if self.receive(kernel, directory) == Life::Killed {
                return Life::Killed;
            }
        }
        self.drain(kernel, usize::MAX, now);
        self.tick = Tick::Read;
        Life::Lives
    }

    /// A dump in one step, its ends, and a cut.
    ///
    /// # Errors
    /// The cut is not what it must be.
    pub(crate) fn whole_tick(
        &mut self,
        node: u8,
        (kernel, directory): (&mut Kernel, &mut StateDir),
        claims: &mut Claims,
        now: UnixNanos,
    ) -> Result<Life, Violation> {
        if let Tick::Reading(_) = self.tick {
            self.meter.abandon();
        }
        self.begin(kernel, now);
        while self.rows(kernel, u64::MAX) {}
        if self.finish((kernel, directory), Ending::Whole, now) == Life::Killed {
            return Ok(Life::Killed);
        }
        self.cut(node, directory, claims, now)
    }

    /// Cuts, keeps, and puts the cut where the window takes it from. The first tick only begins the watch.
    ///
    /// # Errors
    /// The cut is not what it must be.
    pub(crate) fn cut(
        &mut self,
        node: u8,
        directory: &mut StateDir,
        claims: &mut Claims,
        now: UnixNanos,
    ) -> Result<Life, Violation> {
        self.tick = Tick::Idle;
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let batches = if is_first || self.cuts.is_some() { Vec::new() } else { self.meter.cut(now) };
        for batch in &batches {
            claims.cut(node, batch)?;
        }
        if self.keep(directory, &batches) == Life::Killed {
            return Ok(Life::Killed);
        }
        if !batches.is_empty() {
            self.cuts = Some(batches);
        }
        Ok(Life::Lives)
    }

    /// Keeps a state past what was cut.
    pub(crate) fn keep(&mut self, directory: &mut StateDir, cut: &[Batch]) -> Life {
        let standing = (self.window.progress(), self.heard);
        match directory.keep(&mut self.meter, &self.watch, cut, standing) {
            Err(Stop::Killed) => Life::Killed,
            Ok(()) | Err(Stop::Full) => Life::Lives,
        }
    }

    /// The window takes a cut, if there is one and it has room.
    pub(crate) fn hand_over(&mut self) {
        if self.window.has_room() {
            self.cuts.take().into_iter().flatten().for_each(|batch| self.window.push(batch));
        }
    }

    /// Whether it has nothing more to send.
    pub(crate) fn is_done(&self) -> bool {
        self.stopping && self.cuts.is_none() && self.window.is_taken()
    }

    /// Whether everything that it ever took in has left it.
    pub(crate) fn is_drained(&self) -> bool {
        let held = (self.meter.books().held, self.window.books().held_batches);
        self.queue.is_empty() && self.cuts.is_none() && held.0.is_zero() && held.1 == 0
    }

    /// Its books, in bytes and packets.
    ///
    /// # Errors
    /// They do not balance.
    pub(crate) fn check(&self, node: u8) -> Result<(), Violation> {
        let (meter, window) = (self.meter.books(), self.window.books());
        let mut accounted = window.emitted;
        accounted += window.held;
        if !meter.balance() {
            return Err(Violation(format!("the meter's books of node {node} do not balance: {meter:?}")));
        }
        if window.received != accounted {
            return Err(Violation(format!("the window's books of node {node} do not balance: {window:?}")));
        }
        if meter.impossible + meter.not_admitted > 0 {
            return Err(Violation(format!("the meter of node {node} refused growth: {meter:?}")));
        }
        Ok(())
    }
}

/// A meter's bounds, of which chance makes some so small that they are reached without a loss.
pub(crate) fn bounds(rng: &mut Rng) -> Bounds {
    let meter = MeterConfig {
        absent_snapshots_max: 3,
        entries_max: 10_000,
        flows_max: if rng.once_in(6) { 3 } else { 1_000 },
        unclaimed_max: 10_000,
        tombstones_max: 10_000,
        retired_max: 10_000,
        batch_records_max: rng.index(6) + 2,
        batch_owners_max: rng.index(3) + 1,
        unclaimed_grace: Duration::from_secs(60),
        ended_owner_kept: Duration::from_secs(600),
    };
    Bounds { meter, untaken_bytes_max: if rng.once_in(3) { 3_000 } else { 1 << 20 } }
}
