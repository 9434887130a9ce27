//! What kind of server it is, and what is wrong with it: all that a test can switch while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::resource::Resource;

/// What the server does with `sendInitialEvents`, and the release that it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamingLists {
    /// Serves it, as 1.34.
    Served,
    /// 422: the feature gate is off, as in 1.31.
    GateOff,
    /// 422: `resourceVersionMatch` is forbidden for watch, as before 1.27, which know no streaming list.
    Unknown,
    /// Takes no notice of it: an ordinary watch, whose initial events never end. No release does so; a proxy or
    /// another server of the API may.
    Ignored,
}

impl StreamingLists {
    pub(super) fn minor(self) -> u32 {
        match self {
            Self::Served => 34,
            Self::GateOff => 31,
            Self::Unknown | Self::Ignored => 26,
        }
    }
}

/// What a kind of request gets in place of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is wrong.
    None,
    /// This status, with its Status object.
    Status {
        /// The code; 429, 500, 503 and 504 have the words of a real server.
        code: u16,
        /// The header `Retry-After`, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// The request is read and never answered. Open watches stay open and say nothing; they go on when it is over.
    Stall,
}

/// How the server behaves. Changed by [`KubernetesApi::change`](super::KubernetesApi::change); holds from the next
/// request on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of lists.
    pub lists: Fault,
    /// What becomes of watches: of new ones, but for [`Fault::Stall`], which silences open ones too.
    pub watches: Fault,
    /// What becomes of reading and writing one object.
    pub objects: Fault,
    /// What becomes of token reviews.
    pub reviews: Fault,
    /// What becomes of all other requests, `/version` and health among them.
    pub others: Fault,
    /// Every answer, and every delivery of events in an open watch, comes so much later.
    pub delay: Duration,
    /// Streaming lists, and the release.
    pub streaming_lists: StreamingLists,
    /// Between two bookmarks of a watch that wants them. About a minute in a real server.
    pub bookmark_interval: Duration,
    /// The bearer token that every request must carry; `None` lets everyone in.
    pub token: Option<String>,
    /// Resources that may not be asked for: 403.
    pub forbidden: BTreeSet<Resource>,
    /// Whether a token review names the node that a token's pod is on, as from 1.30 on.
    pub names_nodes: bool,
}

impl Settings {
    /// A healthy server of today that asks for `token`.
    pub(super) fn healthy(token: Option<String>) -> Self {
        Self {
            lists: Fault::None,
            watches: Fault::None,
            objects: Fault::None,
            reviews: Fault::None,
            others: Fault::None,
            delay: Duration::ZERO,
            streaming_lists: StreamingLists::Served,
            bookmark_interval: Duration::from_secs(60),
            token,
            forbidden: BTreeSet::new(),
            names_nodes: true,
        }
    }

    /// The same fault for every kind of request; [`Fault::None`] heals.
    pub fn all(&mut self, fault: Fault) {
        (self.lists, self.watches, self.objects) = (fault, fault, fault);
        (self.reviews, self.others) = (fault, fault);
    }
}
