//! What a sink keeps for the life after this one, and how it gets to whoever keeps it.
//!
//! Invariant: a sink waits until a state is kept before it says what must not be said twice.
//! Bound: one state on its way a sink.

use egressd_flow::{Counter, Position};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{http, totals};

/// Where a sink goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Everything up to here was passed; the first batch that comes is behind it.
    pub position: Position,
    /// What was kept with that position: empty when nothing was, `None` when it is damaged.
    pub state: Option<Vec<u8>>,
    /// As far as the life before may have got. Nothing is pushed before all of it was taken in again.
    pub caught_up: Position,
}

/// What a state holds that its sink had taken in and that was not known to be accepted; nothing where it is not understood.
/// Of a range of deltas that was under way that is only what was set aside: the range is behind the position.
#[must_use]
pub fn unaccepted(state: &[u8]) -> Counter {
    totals::unaccepted(state).or_else(|| http::set_aside(state)).unwrap_or_default()
}

/// What was kept is damaged, or of another kind or release. The sink goes on without it: running totals begin anew from
/// zero, and of deltas everything that the life before may have sent goes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was kept is not understood")]
pub struct StateLost;

/// A state on its way to where it outlives the process.
#[derive(Debug)]
pub struct Save {
    /// Whose.
    pub sink: String,
    /// All up to here need not come again, with this state.
    pub position: Position,
    /// What the sink will want back.
    pub state: Vec<u8>,
    /// Told when it would survive the process; dropped when it never will.
    pub kept: oneshot::Sender<()>,
}

/// A sink's ties to whoever keeps its state.
#[derive(Debug)]
pub struct Keep {
    /// Where it goes on.
    pub resume: Resume,
    /// Where its states go.
    pub saves: mpsc::Sender<Save>,
    /// Fires when nothing new comes any more: one more push is tried, and what is not accepted is left to the next life.
    pub ending: CancellationToken,
}
