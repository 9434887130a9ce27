//! What the next process goes on from, kept as this one works: a state at each cut, and the ends in between.
//!
//! Invariant: a cut is kept before it is sent. A failure costs protection and nothing else: it is counted, said once,
//! and tried again at the next cut, that of the journal alone also before.

use std::io;

use egressd_conntrack::netfilter::Keeper;
use egressd_delivery::window::Progress;
use egressd_flow::Batch;
use egressd_meter::Meter;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use crate::checkpoint::{Standing, StateDir};
use crate::journal::Journal;
use crate::metrics::CheckpointMetrics;

/// The state directory of this process, in use.
pub(crate) struct Kept {
    directory: StateDir,
    journal: Journal,
    progress: watch::Receiver<Progress>,
    metrics: CheckpointMetrics,
    /// It was told that something cannot be written.
    failing: bool,
}

impl Kept {
    pub(crate) fn new(
        directory: StateDir,
        journal: Journal,
        progress: watch::Receiver<Progress>,
        metrics: CheckpointMetrics,
    ) -> Self {
        Self { directory, journal, progress, metrics, failing: false }
    }

    /// Takes the ends as they come.
    pub(crate) fn keeper(&self) -> Box<dyn Keeper> {
        Box::new(self.journal.clone())
    }

    /// Whether something could not be written last time.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Ends that were heard and could not be kept.
    pub(crate) fn unprotected(&self) -> u64 {
        self.journal.unprotected()
    }

    /// Keeps a cut and the meter past it, which knows the ends before ordinal `heard`.
    pub(crate) fn save(&mut self, meter: &mut Meter, cut: &[Batch], heard: u64) {
        let began = Instant::now();
        // Bound first: the stream waits for whoever borrows it.
        let progress = *self.progress.borrow();
        let saved = self.directory.save(meter, cut, Standing { progress, heard });
        if let Ok(bytes) = &saved {
            self.metrics.written(*bytes, began.elapsed());
        }
        let outcome = match saved {
            Err(source) => {
                Err(("no state can be written: what a restart goes on from is older, or nothing", source))
            }
            Ok(_) => self.journal.let_go(heard).map_err(|source| {
                ("ends cannot be kept: a kill before the next state loses those heard since", source)
            }),
        };
        self.metrics.unprotected(self.unprotected());
        self.say(outcome);
    }

    /// Writes down how far the last batches came, under the directory's lock. Where that fails, what was delivered since
    /// the last state is sent again.
    pub(crate) fn settle(&mut self) {
        let first = self.progress.borrow().first;
        let settled = self.directory.settle(first);
        self.say(settled.map_err(|source| ("how far the batches came cannot be written down", source)));
    }

    /// Many ends came since the last state: another one makes room for more. Not while nothing can be written.
    pub(crate) fn relieve(&mut self, meter: &mut Meter, heard: u64) {
        if self.journal.wants_relief() && !self.failing {
            self.save(meter, &[], heard);
        }
    }

    fn say(&mut self, outcome: Result<(), (&str, io::Error)>) {
        let was_failing = std::mem::replace(&mut self.failing, outcome.is_err());
        match outcome {
            Err((what, error)) => {
                self.metrics.failures.inc();
                if !was_failing {
                    error!(%error, "{what}");
                }
            }
            Ok(()) if was_failing => info!("checkpoints are written again"),
            Ok(()) => {}
        }
    }
}
