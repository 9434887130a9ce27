//! What outlives a collector: its state directory, on a disk that is written step by step.
//!
//! The real one is `collector/src/checkpoint.rs` and `journal.rs`, which are file handling through and through; their
//! order is modelled here: a cut's batches, then the state past them beside the old one, then its name, then the batches
//! that need not be kept, then the journal up to what the state knows. Bytes are the product's: `Meter::save` and
//! `batch_to_bytes`.
//!
//! Invariant: a step is done whole or not at all, but for the appending of an end, which may be torn. Bound: that of what
//! is kept.

use std::collections::BTreeMap;

use egressd_delivery::window::Progress;
use egressd_enrich::PodUid;
use egressd_flow::{Batch, Sequence, UnixNanos};
use egressd_meter::{Meter, MeterConfig};
use egressd_protocol::{SpoolId, batch_from_bytes, batch_to_bytes};

use crate::kernel::{Heard, Kernel};
use crate::watch::Watch;

/// Why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The process was killed before it.
    Killed,
    /// There is no room.
    Full,
}

/// A state as it stands under its name.
#[derive(Clone, Debug)]
struct State {
    meter: Vec<u8>,
    progress: Progress,
    /// Ordinal of the first end that the meter does not know.
    heard: u64,
    /// What was owed by then.
    watch: Watch,
    /// Its sum does not fit any more.
    damaged: bool,
}

/// What the process before left.
pub(crate) struct Recovered {
    pub(crate) meter: Meter,
    pub(crate) watch: Watch,
    pub(crate) batches: Vec<Batch>,
    /// Sequences that were held and cannot be read.
    pub(crate) lost: Vec<Sequence>,
    pub(crate) spool: Option<SpoolId>,
    pub(crate) heard: u64,
}

/// The directory.
#[derive(Debug, Default)]
pub(crate) struct StateDir {
    state: Option<State>,
    batches: BTreeMap<u64, Vec<u8>>,
    settled: Sequence,
    /// By ordinal.
    journal: BTreeMap<u64, Heard>,
    pub(crate) full: bool,
    /// Steps until the process is killed.
    pub(crate) life: Option<u64>,
}

impl StateDir {
    /// What the process before left; `None` when that is nothing, or cannot be gone on from and is forgotten.
    pub(crate) fn recover(
        &mut self,
        config: MeterConfig,
        kernel: &Kernel,
        now: UnixNanos,
    ) -> Option<Recovered> {
        let state = self.state.take_if(|state| !state.damaged);
        let Some(State { meter, progress, heard, mut watch, .. }) = state.clone() else {
            *self = Self { full: self.full, ..Self::default() };
            return None;
        };
        self.state = state;
        let mut meter = Meter::restore(config, &mut &*meter).expect("what was saved is restored");
        let mut next = heard;
        for (ordinal, heard) in self.journal.range(heard..) {
            meter.ended(&heard.ended, now);
            watch.ended(kernel, heard.serial, &heard.ended.entry);
            next = ordinal + 1;
        }
        // What was cut and never kept is cut anew.
        self.batches.retain(|sequence, _| *sequence < meter.position().1.0);
        let (batches, lost) = self.held(progress.first, meter.position().1);
        Some(Recovered { meter, watch, batches, lost, spool: progress.spool, heard: next })
    }

    /// Batches in order; behind a gap everything before it is lost too.
    fn held(&self, first: Sequence, next: Sequence) -> (Vec<Batch>, Vec<Sequence>) {
        let (mut batches, mut lost) = (Vec::<Batch>::new(), Vec::new());
        for sequence in first.max(self.settled).0..next.0 {
            match self.batches.get(&sequence).and_then(|bytes| batch_from_bytes(bytes).ok()) {
                Some(batch) => batches.push(batch),
                None => {
                    lost.extend(batches.drain(..).map(|batch| batch.sequence));
                    lost.push(Sequence(sequence));
                }
            }
        }
        (batches, lost)
    }

    /// Keeps a cut and the meter past it.
    ///
    /// # Errors
    /// The process was killed on the way, or there was no room: then there is no state, unless nothing was cut.
    pub(crate) fn keep(
        &mut self,
        meter: &mut Meter,
        watch: &Watch,
        cut: &[Batch],
        (progress, heard): (Progress, u64),
    ) -> Result<(), Stop> {
        let kept = self.try_keep(meter, watch, cut, (progress, heard));
        if kept == Err(Stop::Killed) {
            return kept;
        }
        if kept.is_err() && !cut.is_empty() {
            (self.state, self.settled) = (None, Sequence(0));
        }
        while let Some((&oldest, _)) =
            self.batches.first_key_value().filter(|(oldest, _)| **oldest < progress.first.0)
        {
            self.live()?;
            self.batches.remove(&oldest);
        }
        kept?;
        while let Some((&oldest, _)) = self.journal.first_key_value().filter(|(oldest, _)| **oldest < heard) {
            self.live()?;
            self.journal.remove(&oldest);
        }
        Ok(())
    }

    fn try_keep(
        &mut self,
        meter: &mut Meter,
        watch: &Watch,
        cut: &[Batch],
        (progress, heard): (Progress, u64),
    ) -> Result<(), Stop> {
        for batch in cut {
            self.write()?;
            self.batches.insert(batch.sequence.0, batch_to_bytes(batch));
        }
        let mut bytes = Vec::new();
        meter.save(&mut bytes).expect("a vector grows as needed");
        self.write()?;
        // Until here it stood beside the old one.
        self.live()?;
        self.state = Some(State { meter: bytes, progress, heard, watch: watch.clone(), damaged: false });
        Ok(())
    }

    /// Keeps an end before it is applied. False when it could not be, and is unprotected.
    ///
    /// # Errors
    /// The process was killed meanwhile; what was written is torn.
    pub(crate) fn append(&mut self, ordinal: u64, heard: Heard) -> Result<bool, Stop> {
        match self.write() {
            Ok(()) => drop(self.journal.insert(ordinal, heard)),
            Err(Stop::Full) => return Ok(false),
            Err(Stop::Killed) => return Err(Stop::Killed),
        }
        Ok(true)
    }

    /// Whether the next process will know a pod.
    pub(crate) fn knows(&self, pod: &PodUid) -> bool {
        self.state.as_ref().is_some_and(|state| state.watch.knows(pod))
    }

    /// The last word of a process that ended well.
    pub(crate) fn settle(&mut self, first: Sequence) {
        if self.full {
            return;
        }
        self.settled = first;
        self.batches.retain(|sequence, _| *sequence >= first.0);
    }

    /// The disk damages what is there; false when nothing is.
    pub(crate) fn damage_state(&mut self) -> bool {
        self.state.as_mut().is_some_and(|state| {
            state.damaged = true;
            true
        })
    }

    /// The disk damages a batch; false when there is none.
    pub(crate) fn damage_batch(&mut self, which: u64) -> bool {
        let len = self.batches.len() as u64;
        let nth = usize::try_from(which % len.max(1)).unwrap_or(0);
        self.batches.values_mut().nth(nth).is_some_and(|bytes| {
            bytes.clear();
            true
        })
    }

    fn write(&mut self) -> Result<(), Stop> {
        self.live()?;
        if self.full { Err(Stop::Full) } else { Ok(()) }
    }

    fn live(&mut self) -> Result<(), Stop> {
        if self.life == Some(0) {
            return Err(Stop::Killed);
        }
        self.life = self.life.map(|life| life - 1);
        Ok(())
    }
}
