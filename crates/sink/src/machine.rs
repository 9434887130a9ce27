//! The machine of a sink without its driver, for whoever drives it by a clock and a network of its own.
//!
//! Invariant: nothing is decided here; a call does what the driver's call does. Bound: that of the sink's table.

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};

use crate::books::Reason;
use crate::config::Kind;
use crate::destination::{Destination, Settled, Verdict};
use crate::http::CostApi;
use crate::keep::{Resume, StateLost};
use crate::remote_write::{RemoteWrite, SAMPLES_MAX};
use crate::table::FLOWS_MAX;

/// What folding a batch in did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// All of it.
    pub received: Counter,
    /// What of that leaves the books at once, whatever the [`Reason`].
    pub discarded: Counter,
}

/// What one destination is still to be told.
#[derive(Debug)]
pub struct Machine(Inner);

#[derive(Debug)]
enum Inner {
    CostApi(Box<CostApi>),
    RemoteWrite(Box<RemoteWrite>),
}

impl Machine {
    /// One that has nothing yet, whose requests have `bytes_max` before compression.
    #[must_use]
    pub fn bounded(kind: &Kind, bytes_max: usize) -> Self {
        Self(match kind {
            Kind::Http(settings) => Inner::CostApi(Box::new(CostApi::bounded(settings, bytes_max))),
            Kind::RemoteWrite(settings) => {
                let machine = RemoteWrite::bounded(settings.clone(), FLOWS_MAX, SAMPLES_MAX, bytes_max);
                Inner::RemoteWrite(Box::new(machine))
            }
        })
    }

    /// Keeps states from now on, and goes on by what was kept. Gives what is held from the life before.
    ///
    /// # Errors
    /// What was kept is not understood, and nothing of it is held.
    pub fn resume(&mut self, resume: &Resume, now: UnixNanos) -> Result<Counter, StateLost> {
        self.destination_mut().resume(resume, now)
    }

    /// Whether batches are taken in now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.destination().has_room()
    }

    /// Whether a state has to be kept before anything else is said.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.destination().is_due()
    }

    /// The state that has to be kept before anything else is said, and the position up to which no batch has to come again
    /// once it is; `None` when none has to, and while one is on its way.
    pub fn due(&mut self) -> Option<(Position, Vec<u8>)> {
        let destination = self.destination_mut();
        destination.is_due().then(|| destination.state())
    }

    /// That state is kept.
    pub fn kept(&mut self) {
        self.destination_mut().kept();
    }

    /// Folds a batch in. One whose position was applied before is discarded whole.
    pub fn apply(&mut self, batch: &AttributedBatch, now: UnixNanos) -> Folded {
        let applied = self.destination_mut().apply(batch, now);
        let mut discarded = Counter::default();
        Reason::ALL.into_iter().for_each(|reason| discarded += applied.discarded(reason));
        Folded { received: applied.received, discarded }
    }

    /// Requests that may be under way at once, each in a lane of its own, from 0 on.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.destination().lanes()
    }

    /// The body of a lane's next request, or of the same one again until that is answered; begins a push where none is
    /// going on. `None` when all that the push was begun for is accepted, while a state is due, while other lanes have to
    /// be answered first, and before all is taken in again that the life before may have said.
    pub fn request(&mut self, lane: usize, now: UnixNanos) -> Option<Bytes> {
        let destination = self.destination_mut();
        destination.begin();
        destination.request(lane, now)
    }

    /// Takes note of the answer to a lane's request, at `now`.
    pub fn settle(&mut self, lane: usize, verdict: Verdict, now: UnixNanos) -> Settled {
        self.destination_mut().settle(lane, verdict, now)
    }

    /// The last batch that was folded in.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.destination().standing().applied
    }

    /// Every byte up to here was accepted.
    #[must_use]
    pub fn accepted(&self) -> Position {
        self.destination().standing().accepted
    }

    /// Folded in and not known to be accepted.
    #[must_use]
    pub fn held(&self) -> Counter {
        self.destination().standing().held.0
    }

    fn destination(&self) -> &dyn Destination {
        match &self.0 {
            Inner::CostApi(machine) => &**machine,
            Inner::RemoteWrite(machine) => &**machine,
        }
    }

    fn destination_mut(&mut self) -> &mut dyn Destination {
        match &mut self.0 {
            Inner::CostApi(machine) => &mut **machine,
            Inner::RemoteWrite(machine) => &mut **machine,
        }
    }
}
