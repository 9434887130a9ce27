//! Whether a collector may speak for the node that it names. Who decides is not here: it is asked, and waited for.
//!
//! Bound: [`ADMITTED_WITHIN`] of waiting, in which the stream has its place among the connections.

use std::time::Duration;

use egressd_flow::NodeName;
use egressd_protocol::v1;
use egressd_service::bearer::Token;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use super::{Hangup, Shared};

/// Below the minute for which a collector waits for Welcome.
const ADMITTED_WITHIN: Duration = Duration::from_secs(30);

/// A collector that wants to speak for a node.
#[derive(Debug)]
pub struct Claim {
    /// What it shows; `None` when it shows nothing.
    pub token: Option<Token>,
    /// For which node.
    pub node: NodeName,
    /// Dropped when it cannot be told.
    pub answer: oneshot::Sender<Result<(), NotAdmitted>>,
}

/// Why a collector may not speak for a node. All but the last three need an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Nothing is shown.
    #[error("no token is shown, and this exporter wants one: set the collector's --token-file")]
    NoToken,
    /// The API does not know it, or not any more.
    #[error("the token is not valid: {reason}")]
    NotAuthentic {
        /// The API's words.
        reason: String,
    },
    /// It is for others.
    #[error("the token is not for the audience {audience:?}: {reason}")]
    OtherAudience {
        /// Ours.
        audience: String,
        /// The API's words, or ours.
        reason: String,
    },
    /// Any pod may have a token for any audience made.
    #[error("the token is of {found}, and collectors are {expected}")]
    OtherAccount {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// It would be good on every node.
    #[error("the token is not bound to a pod: project it into the pod, where the kubelet asks for it")]
    Unbound,
    /// A node speaks for itself alone.
    #[error("the token is of a pod on node {found}, and the stream is to speak for node {claimed}")]
    OtherNode {
        /// The pod's.
        found: NodeName,
        /// The Hello's.
        claimed: NodeName,
    },
    /// The pod has ended, whatever the API still says of its token.
    #[error("the pod that the token is bound to has ended")]
    PodEnded,
    /// The API does not say on which node the pod is, and its watch does not yet.
    #[error("the pod that the token is bound to is not known yet, come back")]
    PodUnknown,
    /// Nobody can tell.
    #[error("the Kubernetes API does not answer, so nobody can tell whose the token is, come back")]
    ApiAway,
    /// Too many at once.
    #[error("too many collectors wait to be admitted, come back")]
    Busy,
}

impl NotAdmitted {
    /// The value of the metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::NotAuthentic { .. } => "not_authentic",
            Self::OtherAudience { .. } => "other_audience",
            Self::OtherAccount { .. } => "other_account",
            Self::Unbound => "unbound",
            Self::OtherNode { .. } => "other_node",
            Self::PodEnded => "pod_ended",
            Self::PodUnknown => "pod_unknown",
            Self::ApiAway => "api_away",
            Self::Busy => "busy",
        }
    }

    pub(super) fn status(&self) -> Status {
        let code = match self {
            Self::NoToken | Self::NotAuthentic { .. } | Self::OtherAudience { .. } => Code::Unauthenticated,
            Self::OtherAccount { .. } | Self::Unbound | Self::OtherNode { .. } | Self::PodEnded => {
                Code::PermissionDenied
            }
            Self::PodUnknown | Self::ApiAway | Self::Busy => Code::Unavailable,
        };
        Status::new(code, self.to_string())
    }
}

/// Asks, and waits for the answer as long as the collector does.
pub(super) async fn admit(
    shared: &Shared,
    token: Option<Token>,
    node: &NodeName,
    down: &mpsc::Sender<Result<v1::Down, Status>>,
) -> Result<(), Hangup> {
    let Some(claims) = &shared.admission else { return Ok(()) };
    let (answer, answered) = oneshot::channel();
    let claim = Claim { token, node: node.clone(), answer };
    let told = async {
        claims.send(claim).await.map_err(|_| Hangup::Stopping)?;
        answered.await.map_err(|_| Hangup::Stopping)
    };
    tokio::select! {
        told = tokio::time::timeout(ADMITTED_WITHIN, told) => match told {
            Err(_) => Err(NotAdmitted::Busy.into()),
            Ok(told) => told?.map_err(Hangup::from),
        },
        () = down.closed() => Err(Hangup::Closed),
    }
}
