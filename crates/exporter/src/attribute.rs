//! Batches from the ledger to every sink, with names.
//!
//! A batch has a place in every sink's queue before it gets its position, so that it reaches all of them or none.

use std::sync::Arc;

use egressd_delivery::serve::Taking;
use egressd_enrich::{Grouping, Index};
use egressd_flow::{AttributedBatch, Position};
use tokio::sync::mpsc;

use crate::metrics::EnrichMetrics;

/// A sink's task is gone; its own error says why.
#[derive(Debug, thiserror::Error)]
#[error("a sink takes nothing any more")]
pub(crate) struct SinkGone;

/// Runs until the ledger's driver lets nothing more in; then the sinks see their queues close.
pub(crate) async fn attribute(
    mut takings: mpsc::Receiver<Taking>,
    index: Arc<Index>,
    sinks: Vec<mpsc::Sender<Arc<AttributedBatch>>>,
    mut metrics: EnrichMetrics,
) -> Result<(), SinkGone> {
    let mut position = Position(0);
    while let Some(Taking { hello, batch, taken }) = takings.recv().await {
        let mut places = Vec::with_capacity(sinks.len());
        for sink in &sinks {
            places.push(sink.reserve().await.map_err(|_| SinkGone)?);
        }
        position = Position(position.0 + 1);
        let grouping = if hello.flags.group_public_ips { Grouping::Public } else { Grouping::None };
        let attributed = egressd_enrich::attribute(&index, &hello.node, &batch, grouping, position);
        metrics.attributed(&attributed);
        let attributed = Arc::new(attributed);
        for place in places {
            place.send(Arc::clone(&attributed));
        }
        // A stream that is gone does not undo what was taken: its next one hears of it.
        let _gone = taken.send(position);
    }
    Ok(())
}
