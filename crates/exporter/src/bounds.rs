//! What this process takes of memory at worst, said in one figure when it starts.
//!
//! Not in it: the cluster's index, which is as large as the cluster, and what each stream has of its own.
//! Invariant: a part that grows with what comes in from outside is in the sum.

use egressd_flow::Attributed;
use egressd_protocol::limits::{BATCH_RECORDS_MAX, MESSAGE_BYTES_MAX};
use egressd_serve::SUBSCRIBERS_MAX;
use egressd_sink::{SinkConfig, page_bytes_max};
use egressd_spool::{CACHE_BYTES_MAX, STATE_BYTES_MAX, Spool, SpoolConfig, UNSYNCED_BYTES_MAX};
use tracing::info;

use crate::attribute::WAITING_BYTES_MAX;
use crate::keeper::GROUP_MAX;
use crate::sinks::BATCHES_QUEUE;

/// The last hour of flows, and what waits for one subscriber.
const WINDOW_BYTES_MAX: usize = 84_000_000;
const SUBSCRIBER_BYTES_MAX: usize = 10_000_000;

/// A named batch that no message can exceed.
const BATCH_BYTES_MAX: usize = BATCH_RECORDS_MAX * size_of::<Attributed>();

/// Says the sum and its parts.
pub(crate) fn tell(
    sinks: &[SinkConfig],
    spool: &Spool,
    config: SpoolConfig,
    has_flows: bool,
    dns_names: usize,
) {
    let sinks_len = sinks.len();
    let sinks = sinks.iter().map(SinkConfig::worst_case_bytes).sum::<usize>();
    let page = page_bytes_max();
    // Decoded and on their way to be named; waiting for their names; named, on their way to the disk and in the step that
    // writes them; and those that a sink which is behind has read and not taken.
    let named = (2 * GROUP_MAX + sinks_len * BATCHES_QUEUE) * BATCH_BYTES_MAX;
    let batches = BATCHES_QUEUE * MESSAGE_BYTES_MAX + WAITING_BYTES_MAX + named;
    let is_durable = spool.durable();
    let spool = spool_bytes_max(is_durable, config);
    // On their way to the disk, one a sink.
    let states = if is_durable { sinks_len * STATE_BYTES_MAX } else { 0 };
    let flows = if has_flows { WINDOW_BYTES_MAX + SUBSCRIBERS_MAX * SUBSCRIBER_BYTES_MAX } else { 0 };
    info!(
        sum_bytes = sinks + page + batches + spool + states + flows + dns_names,
        sinks,
        page,
        batches,
        spool,
        states,
        flows,
        dns_names,
        "memory at worst, beside the index of the cluster; a table takes it at 917,504 flows"
    );
}

fn spool_bytes_max(is_durable: bool, SpoolConfig { bytes_max, .. }: SpoolConfig) -> usize {
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    // On a disk, where the blocks of segments are.
    let segments = if is_durable { bytes_max / 1_000 } else { bytes_max };
    segments + CACHE_BYTES_MAX + UNSYNCED_BYTES_MAX
}
