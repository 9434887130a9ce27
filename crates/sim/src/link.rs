//! Streams between a collector and the exporter: in order each, in any order among each other, cut at any time.
//!
//! Invariant: what one end sent the other hears in order, up to where the stream was cut. Bound: [`UP_QUEUE`] batches on
//! their way up; down, what one exchange says.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use egressd_delivery::ledger::StreamId;
use egressd_flow::{Batch, Scope};
use egressd_protocol::{Ack, HeldEpoch, Welcome};

/// As the dialler has it.
pub(crate) const UP_QUEUE: usize = 4;

/// From the collector.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello(Vec<HeldEpoch>),
    Batch(Arc<Batch>),
}

/// From the exporter.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome(Welcome),
    Ack(Ack),
    Scope(Scope),
    Redirect,
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(held) => {
                write!(f, "Hello")?;
                held.iter().try_for_each(|held| write!(f, " {} from {}", held.epoch, held.first))
            }
            Self::Batch(batch) => write!(f, "batch {}", batch.sequence),
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Welcome(welcome) => write!(f, "Welcome of spool {:x}", welcome.spool.0),
            Self::Ack(ack) => write!(f, "Ack {}, {}", ack.taken, ack.delivered),
            Self::Scope(scope) => {
                let whole = if scope.whole { "whole " } else { "" };
                write!(f, "{whole}scope of {} owners as of {}", scope.owners.len(), scope.as_of)
            }
            Self::Redirect => f.write_str("Redirect"),
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Link {
    /// Tells the streams of one node apart, in the order in which they were dialled.
    pub(crate) number: u64,
    pub(crate) up: VecDeque<Up>,
    pub(crate) down: VecDeque<Down>,
    /// The collector's end is open.
    pub(crate) dialled: bool,
    /// The collector has heard Welcome.
    pub(crate) welcomed: bool,
    /// The exporter's end is open.
    pub(crate) served: bool,
    /// Since Hello.
    pub(crate) seat: Option<StreamId>,
    /// A batch of it is being taken: nothing more is read meanwhile.
    pub(crate) taking: bool,
}

impl Link {
    pub(crate) fn dial(number: u64, held: Vec<HeldEpoch>) -> Self {
        Self {
            number,
            up: [Up::Hello(held)].into(),
            down: VecDeque::new(),
            dialled: true,
            welcomed: false,
            served: true,
            seat: None,
            taking: false,
        }
    }

    /// Whether nobody is at either end.
    pub(crate) fn is_over(&self) -> bool {
        !self.dialled && !self.served
    }

    /// The collector's end goes: it hears nothing more.
    pub(crate) fn hang_up(&mut self) {
        self.dialled = false;
        self.down.clear();
    }

    /// The exporter's end goes: it hears nothing more.
    pub(crate) fn close(&mut self) {
        self.served = false;
        self.up.clear();
    }
}
