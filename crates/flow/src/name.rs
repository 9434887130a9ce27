//! What DNS said of an address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::time::UnixNanos;

/// No answer is believed for less: an answer of 0 seconds is used too, and traffic is known up to a read interval late.
pub const TIME_TO_LIVE_MIN: Duration = Duration::from_secs(60);

/// No answer is believed for longer, whatever it says. What is talked to all along keeps its name beyond it.
pub const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a name in text, without the final dot: 255 on the wire (RFC 1035, 3.1), less lengths and the root.
pub const NAME_BYTES_MAX: usize = 253;

/// A DNS answer: this address stands behind that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The address that was answered.
    pub address: IpAddr,
    /// The name that was asked, in lower case and without the final dot.
    pub name: Arc<str>,
    /// How long the answer holds, from [`TIME_TO_LIVE_MIN`] to [`TIME_TO_LIVE_MAX`].
    pub time_to_live: Duration,
    /// When it was seen.
    pub seen: UnixNanos,
    /// The address of the node or of a pod on it that the answer went to; `None` where that is not known.
    pub asker: Option<IpAddr>,
}
