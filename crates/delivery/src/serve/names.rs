//! DNS answers on their way to the next stage, and instants on theirs to our clock.

use egressd_flow::{Name, NodeName, UnixNanos};
use egressd_protocol::Hello;
use egressd_service::clock::unix_nanos;

use super::Shared;

/// DNS answers that a collector saw on its node, their instants by our clock.
#[derive(Debug)]
pub struct Heard {
    /// Which node.
    pub node: NodeName,
    /// At most [`NAMES_MAX`](egressd_protocol::limits::NAMES_MAX).
    pub names: Vec<Name>,
}

/// Makes nobody wait: names are worth less than batches.
pub(super) fn pass_on(shared: &Shared, hello: &Hello, mut names: Vec<Name>, clock_ahead: i128) {
    for name in &mut names {
        name.seen = by_our_clock(name.seen, clock_ahead);
    }
    let count = names.len() as u64;
    if shared.names.try_send(Heard { node: hello.node.clone(), names }).is_err() {
        shared.metrics.discarded_names.inc_by(count);
    }
}

/// A collector's instant by our clock, which is so much ahead of its own. What has come was before now, whatever it says.
pub(super) fn by_our_clock(at: UnixNanos, ahead: i128) -> UnixNanos {
    let shifted = (i128::from(at.0) + ahead).max(0);
    UnixNanos(u64::try_from(shifted).unwrap_or(u64::MAX)).min(UnixNanos(unix_nanos()))
}
