//! One node: its kernel, its state directory, and the collector that runs or does not.
//!
//! Invariant: what ends with a process is only what the process had in memory. Bound: [`LINKS_MAX`] streams.

use std::collections::BTreeSet;
use std::sync::Arc;

use egressd_enrich::PodUid;
use egressd_flow::{Batch, Epoch, Scope, UnixNanos};

use crate::Violation;
use crate::claims::Claims;
use crate::collector::{Bounds, Ending, Life, Process, Tick};
use crate::history::{Fault, History};
use crate::kernel::Kernel;
use crate::link::{Down, Link, UP_QUEUE, Up};
use crate::rng::Rng;
use crate::state_dir::StateDir;

/// Streams of one node at once: the one that it talks on, and those whose end has not got around.
const LINKS_MAX: usize = 3;
/// Dumps in a row that are short and do not say so: the meter outlives two.
const SILENT_MAX: u8 = 2;

/// A node.
pub(crate) struct Node {
    pub(crate) number: u8,
    /// Its clock is ahead of the exporter's by so much, in nanoseconds.
    ahead: u64,
    pub(crate) kernel: Kernel,
    pub(crate) directory: StateDir,
    pub(crate) process: Option<Process>,
    pub(crate) links: Vec<Link>,
    dialled: u64,
    silent: u8,
    /// What windows of processes that ended have counted.
    maybe_twice: u64,
    /// Every epoch that it ever ran.
    pub(crate) epochs: BTreeSet<Epoch>,
}

impl Node {
    pub(crate) fn new(number: u8, rng: &mut Rng) -> Self {
        Self {
            number,
            ahead: rng.below(10_000_000_000),
            kernel: Kernel::new(number),
            directory: StateDir::default(),
            process: None,
            links: Vec::new(),
            dialled: 0,
            silent: 0,
            maybe_twice: 0,
            epochs: BTreeSet::new(),
        }
    }

    /// Its clock, at an instant of the exporter's.
    pub(crate) fn clock(&self, now: UnixNanos) -> UnixNanos {
        UnixNanos(now.0 + self.ahead)
    }

    /// Whether its collector knows a pod whatever becomes of the process.
    pub(crate) fn knows(&self, pod: &PodUid) -> bool {
        let process = self.process.as_ref().is_none_or(|process| process.watch.knows(pod));
        process && self.directory.knows(pod)
    }

    pub(crate) fn start(&mut self, rng: &mut Rng, bounds: Bounds, claims: &mut Claims, now: UnixNanos) {
        let now = self.clock(now);
        let (process, lost) = Process::start(rng, bounds, (&mut self.kernel, &mut self.directory), now);
        lost.into_iter().for_each(|(epoch, sequence)| claims.lost((self.number, epoch, sequence)));
        self.epochs.insert(process.meter.position().0);
        self.process = Some(process);
    }

    /// The process is gone, and with it what it had in memory and in its sockets.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            self.maybe_twice += process.window.books().maybe_twice.bytes;
        }
        self.directory.life = None;
        self.kernel.close();
        self.links.iter_mut().for_each(Link::hang_up);
    }

    /// The machine boots: `/run` is empty and so is the kernel's table.
    pub(crate) fn boot(&mut self) {
        self.kill();
        self.kernel.reboot();
        self.directory = StateDir::default();
    }

    /// What its windows have counted as perhaps told twice, in bytes.
    pub(crate) fn maybe_twice(&self) -> u64 {
        self.maybe_twice + self.process.as_ref().map_or(0, |process| process.window.books().maybe_twice.bytes)
    }

    /// The collector goes on by one step of its choice.
    ///
    /// # Errors
    /// What it cuts is not what it must be.
    pub(crate) fn step(
        &mut self,
        rng: &mut Rng,
        claims: &mut Claims,
        history: &mut History,
        now: UnixNanos,
    ) -> Result<(), Violation> {
        let now = self.clock(now);
        let Self { number, kernel, directory, process: Some(process), .. } = self else { return Ok(()) };
        let mut life = Life::Lives;
        match rng.below(12) {
            0..=2 => life = process.receive(kernel, directory),
            3 => process.drain(kernel, rng.index(4) + 1, now),
            4 => process.hear_scope(),
            5 => process.hand_over(),
            6 if rng.once_in(8) => life = process.keep(directory, &[]),
            _ if process.stopping => {
                if process.is_done() || rng.once_in(60) {
                    self.end_well(history);
                    return Ok(());
                }
            }
            _ => match process.tick {
                Tick::Idle => process.begin(kernel, now),
                Tick::Reading(_) => {
                    let at_most = rng.between(1, 8);
                    let ending = ending(rng, self.silent);
                    if !process.rows(kernel, at_most) || ending != Ending::Whole {
                        let ending = note(history, *number, ending, &mut self.silent);
                        life = process.finish((kernel, directory), ending, now);
                    }
                }
                Tick::Read => {
                    life = process.cut(*number, directory, claims, now)?;
                    let position = process.meter.position();
                    history.note(|| format!("node {number}: cut and kept, next is {}", position.1));
                }
            },
        }
        if life == Life::Killed {
            history.fault(Fault::CollectorKilledKeeping, Some(self.number));
            self.kill();
        }
        Ok(())
    }

    /// It is asked to end: a last dump, a last cut.
    ///
    /// # Errors
    /// What it cuts is not what it must be.
    pub(crate) fn stop(&mut self, claims: &mut Claims, now: UnixNanos) -> Result<(), Violation> {
        let now = self.clock(now);
        let Self { number, kernel, directory, process: Some(process), .. } = self else { return Ok(()) };
        // The last cut waits for its place.
        if process.stopping || process.cuts.is_some() {
            return Ok(());
        }
        let life = process.whole_tick(*number, (kernel, directory), claims, now)?;
        process.stopping = true;
        if life == Life::Killed {
            self.kill();
        }
        Ok(())
    }

    /// The last state, and how far the last batches came.
    fn end_well(&mut self, history: &mut History) {
        let Self { directory, process: Some(process), .. } = self else { return };
        if process.keep(directory, &[]) == Life::Lives {
            directory.settle(process.window.progress().first);
        }
        let number = self.number;
        history.note(|| format!("node {number}: the collector has ended"));
        self.kill();
    }

    /// Dials, whatever stream there is.
    pub(crate) fn dial(&mut self) -> bool {
        let Some(process) = &self.process else { return false };
        if self.links.len() >= LINKS_MAX {
            return false;
        }
        let is_second = self.links.iter().any(|link| link.served);
        self.links.iter_mut().for_each(Link::hang_up);
        self.dialled += 1;
        self.links.push(Link::dial(self.dialled, process.window.held_epochs()));
        is_second
    }

    /// Whether it has a stream, as far as it knows.
    pub(crate) fn is_dialled(&self) -> bool {
        self.links.iter().any(|link| link.dialled)
    }

    /// One message goes up. Gives the batch.
    ///
    /// # Errors
    /// It is not the batch that was cut.
    pub(crate) fn send(&mut self, claims: &mut Claims) -> Result<Option<Arc<Batch>>, Violation> {
        let Self { number, process: Some(process), links, .. } = self else { return Ok(None) };
        let open = links.iter_mut().find(|link| link.dialled && link.welcomed && link.up.len() < UP_QUEUE);
        let Some(link) = open else { return Ok(None) };
        let Some(batch) = process.window.next_unsent() else { return Ok(None) };
        claims.sent(*number, &batch)?;
        if link.served {
            link.up.push_back(Up::Batch(Arc::clone(&batch)));
        }
        Ok(Some(batch))
    }

    /// One message is heard, or the end of the stream.
    ///
    /// # Errors
    /// The exporter acknowledges what cannot be.
    pub(crate) fn hear(&mut self, history: &mut History) -> Result<bool, Violation> {
        let Self { number, ahead, process: Some(process), links, .. } = self else { return Ok(false) };
        let Some(link) = links.iter_mut().find(|link| link.dialled) else { return Ok(false) };
        let message = link.down.pop_front();
        if let Some(message) = &message {
            history.note(|| format!("node {number}: hears on stream {}: {message}", link.number));
        }
        match message {
            Some(Down::Welcome(welcome)) => {
                process.window.welcomed(&welcome);
                link.welcomed = true;
            }
            Some(Down::Ack(ack)) => process.window.acknowledged(&ack).map_err(|error| {
                Violation(format!("node {number} hears an impossible acknowledgement: {error}"))
            })?,
            Some(Down::Scope(scope)) => {
                let as_of = if scope.as_of.0 == 0 { 0 } else { scope.as_of.0 + *ahead };
                process.scopes.push_back(Scope { as_of: UnixNanos(as_of), ..scope });
            }
            Some(Down::Redirect) => {
                process.window.redirected();
                link.hang_up();
            }
            None if link.served => return Ok(false),
            None => link.hang_up(),
        }
        Ok(true)
    }
}

/// How a dump goes on.
fn ending(rng: &mut Rng, silent: u8) -> Ending {
    match rng.below(40) {
        0 if silent < SILENT_MAX => Ending::Silent,
        1 => Ending::Interrupted,
        2 => Ending::Failed,
        _ => Ending::Whole,
    }
}

fn note(history: &mut History, node: u8, ending: Ending, silent: &mut u8) -> Ending {
    match ending {
        Ending::Whole => *silent = 0,
        Ending::Silent => {
            *silent += 1;
            history.fault(Fault::DumpShort, Some(node));
        }
        Ending::Interrupted => history.fault(Fault::DumpInterrupted, Some(node)),
        Ending::Failed => history.fault(Fault::DumpFailed, Some(node)),
    }
    ending
}
