//! Why a collector's stream ends, and what it is told.

use std::time::Duration;

use egressd_protocol::WireError;
use egressd_service::lifecycle::chain;
use tonic::{Code, Status};

use super::admission::NotAdmitted;
use crate::ledger::HelloError;

/// Why a conversation ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hangup {
    #[error("the collector hung up")]
    Closed,
    #[error("the stream broke")]
    Broken(#[source] Status),
    #[error("no Hello within {0:?}")]
    NoHello(Duration),
    #[error("it speaks before Hello")]
    NotHello,
    #[error("silent for {0:?}")]
    Silent(Duration),
    #[error("left its messages unread for {0:?}")]
    Unread(Duration),
    #[error("a newer stream of this node has taken over")]
    Replaced,
    #[error("the message cannot be")]
    Wire(#[from] WireError),
    #[error("batch {found} came where {expected} was expected")]
    Gap { expected: u64, found: u64 },
    #[error("no account for this node")]
    NoAccount(#[from] HelloError),
    #[error("not admitted")]
    NotAdmitted(#[from] NotAdmitted),
    #[error("a batch of an epoch that the Hello did not name")]
    UnknownEpoch,
    #[error("the exporter is stopping")]
    Stopping,
    #[error("another exporter leads")]
    Standby,
}

impl Hangup {
    /// What the collector is told.
    pub(super) fn status(&self) -> Option<Status> {
        let text = chain(self);
        match self {
            Self::Closed | Self::Unread(_) => None,
            // A message that is too large, for one; of a connection that is gone nobody hears.
            Self::Broken(status) => Some(status.clone()),
            Self::NotHello | Self::Wire(_) | Self::UnknownEpoch => Some(Status::invalid_argument(text)),
            Self::Gap { .. } => Some(Status::out_of_range(text)),
            Self::NoHello(_) | Self::Silent(_) => Some(Status::deadline_exceeded(text)),
            Self::Replaced => Some(Status::aborted(text)),
            Self::NoAccount(HelloError::TooManyNodes { .. }) => Some(Status::resource_exhausted(text)),
            Self::NoAccount(HelloError::Superseded { .. }) => Some(Status::failed_precondition(text)),
            Self::NotAdmitted(why) => Some(why.status()),
            Self::Stopping | Self::Standby => Some(Status::unavailable(text)),
        }
    }

    /// Whether the collector need only come back.
    pub(super) fn may_pass(&self) -> bool {
        use NotAdmitted::{ApiAway, Busy, PodUnknown};
        matches!(self, Self::NotAdmitted(ApiAway | Busy | PodUnknown))
    }

    /// Who may not speak for its node, and why, as the metric's label has it.
    pub(super) fn not_admitted(&self) -> Option<&'static str> {
        match self {
            Self::NotAdmitted(why) => Some(why.reason()),
            Self::NoAccount(HelloError::Superseded { .. }) => Some("superseded"),
            _ => None,
        }
    }

    pub(super) fn is_peers_fault(&self) -> bool {
        match self {
            Self::NoHello(_) | Self::NotHello | Self::Wire(_) | Self::Gap { .. } | Self::UnknownEpoch => true,
            // What tonic says of a message that it cannot decode, and of one that is too large.
            Self::Broken(status) => matches!(status.code(), Code::Internal | Code::OutOfRange),
            _ => false,
        }
    }
}
