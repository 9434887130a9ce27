//! What every machine of a destination does, and what the driver makes of an answer.
//!
//! Invariant: a machine is pure; time, answers and kept states come in, bodies and states go out.

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use reqwest::header::{HeaderName, HeaderValue};

use crate::books::{Applied, Standing};
use crate::client::Answer;
use crate::config::Kind;
use crate::keep::{Resume, StateLost};

/// What an answer means for the data of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The destination has it.
    Accepted,
    /// The destination does not have it, whatever it says.
    Refused,
    /// The destination does not have it, for what it says.
    Rejected,
    /// The destination does not have it, for its size.
    TooLarge,
    /// It may have it.
    Ambiguous,
    /// It may have it, and failed, perhaps at what it says.
    Failed,
}

impl Verdict {
    /// Whether the destination may have it without our knowing.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Ambiguous | Self::Failed)
    }
}

/// What an answer did to the books, and what follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Accepted for the first time.
    pub emitted: Counter,
    /// Will be sent again, and may have been taken, by this attempt.
    pub ambiguous: Counter,
    /// Given up: refused for a day, or without a place to be set aside.
    pub discarded: Counter,
    /// The flow that the destination refuses, as it was set aside.
    pub aside: Option<String>,
    /// The next request says something else, and need not wait.
    pub goes_on: bool,
    /// The request began before another that failed: whether and when the next may go is decided.
    pub is_late: bool,
}

/// What an answer says beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing.
    AsItSays,
    /// The request was not taken for what it is. The destination says the same otherwise from now on.
    NotUnderstood,
    /// It was accepted, and not all of it was written.
    Unwritten { samples: u64, sent: u64 },
}

/// The machine of a destination: pure, told the time.
pub(crate) trait Destination {
    /// Goes on by new settings of its own kind, while no request is under way.
    fn reconfigure(&mut self, kind: &Kind);
    /// Keeps states from now on, and goes on by what was kept. Gives what is held from the life before.
    ///
    /// # Errors
    /// What was kept is not understood, and nothing of it is held.
    fn resume(&mut self, resume: &Resume, now: UnixNanos) -> Result<Counter, StateLost>;
    /// Whether batches are taken in now.
    fn has_room(&self) -> bool;
    /// Whether a state has to be kept before anything else is said.
    fn is_due(&self) -> bool;
    /// The state, and the position up to which no batch has to come again once it is kept.
    fn state(&mut self) -> (Position, Vec<u8>);
    /// That state is kept.
    fn kept(&mut self);
    /// Folds a batch in.
    fn apply(&mut self, batch: &AttributedBatch, now: UnixNanos) -> Applied;
    /// Begins to push what was applied by now, unless that is going on or the life before was further.
    fn begin(&mut self);
    /// Whether a push is going on.
    fn is_pushing(&self) -> bool;
    /// Requests that may be under way at once, each in a lane of its own, from 0 on.
    fn lanes(&self) -> usize;
    /// The body of a lane's next request, or of the same one again until that is answered; `None` when all that the
    /// push was begun for is accepted, while a state is due, and while other lanes have to be answered first.
    fn request(&mut self, lane: usize, now: UnixNanos) -> Option<Bytes>;
    /// What tells how the next body is written, over the headers of the settings.
    fn headers(&self) -> &'static [(HeaderName, HeaderValue)] {
        &[]
    }
    /// Looks at the answer to that request before it is settled.
    fn hear(&mut self, _lane: usize, _answer: &Answer) -> Heard {
        Heard::AsItSays
    }
    /// Takes note of the answer to that request; not of one to a request that was not understood.
    fn settle(&mut self, lane: usize, verdict: Verdict, now: UnixNanos) -> Settled;
    /// What was folded in, what of it was accepted, and what is held.
    fn standing(&self) -> Standing;
    /// Flows in memory.
    fn flows(&self) -> usize;
    /// Flows with something held.
    fn held_flows(&self) -> u64;
    /// Flows that the destination refuses; what is held of them keeps nobody.
    fn flows_aside(&self) -> usize;
}
