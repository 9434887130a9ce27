//! What this process takes of memory at worst, said in one figure when it starts.
//!
//! Not in it: the cluster's index, which is as large as the cluster, and what each stream has of its own.
//! Invariant: a part that grows with what comes in from outside is in the sum.

use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_serve::SUBSCRIBERS_MAX;
use egressd_sink::{SinkConfig, page_bytes_max};
use egressd_spool::{CACHE_BYTES_MAX, Spool, SpoolConfig, UNSYNCED_BYTES_MAX};
use tracing::info;

use crate::attribute::WAITING_BYTES_MAX;
use crate::sinks::BATCHES_QUEUE;

/// The last hour of flows, and what waits for one subscriber.
const WINDOW_BYTES_MAX: usize = 84_000_000;
const SUBSCRIBER_BYTES_MAX: usize = 10_000_000;

/// Says the sum and its parts.
pub(crate) fn tell(sinks: &[SinkConfig], spool: &Spool, config: SpoolConfig, has_flows: bool) {
    let sinks = sinks.iter().map(SinkConfig::worst_case_bytes).sum::<usize>();
    let page = page_bytes_max();
    // Decoded and on their way to be named, then waiting for their names.
    let batches = BATCHES_QUEUE * MESSAGE_BYTES_MAX + WAITING_BYTES_MAX;
    let spool = spool_bytes_max(spool.durable(), config);
    let flows = if has_flows { WINDOW_BYTES_MAX + SUBSCRIBERS_MAX * SUBSCRIBER_BYTES_MAX } else { 0 };
    info!(
        sum_bytes = sinks + page + batches + spool + flows,
        sinks,
        page,
        batches,
        spool,
        flows,
        "memory at worst, beside the index of the cluster; a table takes it at 917,504 flows"
    );
}

fn spool_bytes_max(is_durable: bool, SpoolConfig { bytes_max, .. }: SpoolConfig) -> usize {
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    // On a disk, where the blocks of segments are.
    let segments = if is_durable { bytes_max / 1_000 } else { bytes_max };
    segments + CACHE_BYTES_MAX + UNSYNCED_BYTES_MAX
}
