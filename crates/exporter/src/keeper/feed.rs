//! Hands one sink what the spool has for it, in order, as fast as it takes it.
//!
//! Invariant: each batch once, and none before it is safe. Bound: one read.

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Counter, Position};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Request;

/// How long to wait after the disk failed.
const RETRY: Duration = Duration::from_secs(1);

/// A sink's supply.
pub(crate) struct Feed {
    pub(crate) sink: String,
    /// The last that it has.
    pub(crate) after: Position,
    pub(crate) requests: mpsc::Sender<Request>,
    /// How far batches are safe; closed behind the last.
    pub(crate) safe: watch::Receiver<Position>,
    pub(crate) batches: mpsc::Sender<Arc<AttributedBatch>>,
    /// Fires when the sink is not configured any more: it gets what is there by then.
    pub(crate) leave: CancellationToken,
}

impl Feed {
    /// Runs until the last batch is handed over, or the sink takes nothing any more. Gives what a sink that leaves did not
    /// take of what was there for it.
    pub(crate) async fn run(mut self) -> Counter {
        let mut left = Counter::default();
        loop {
            let is_last = self.leave.is_cancelled() || self.safe.has_changed().is_err();
            let target = *self.safe.borrow_and_update();
            let mut is_open = self.hand_over(target, &mut left).await;
            is_open |= self.leave.is_cancelled();
            if is_last || !is_open {
                return left;
            }
            let Self { safe, leave, batches, .. } = &mut self;
            tokio::select! {
                // What ends it is looked at above.
                _ = safe.changed() => {}
                () = leave.cancelled() => {}
                () = batches.closed() => {}
            }
        }
    }

    /// Hands over all through `target`; whether the sink took it. What one that leaves does not take is added up.
    async fn hand_over(&mut self, target: Position, left: &mut Counter) -> bool {
        let mut is_open = !self.batches.is_closed();
        while self.after < target && (is_open || self.leave.is_cancelled()) {
            let Some(batches) = self.read().await else { return false };
            if batches.is_empty() {
                // Positions that were given back, or lost.
                self.after = target;
            }
            for batch in batches {
                self.after = batch.position;
                let traffic = batch.sum();
                if !is_open || self.batches.send(batch).await.is_err() {
                    is_open = false;
                    *left += traffic;
                }
            }
        }
        is_open
    }

    /// The next batches; `None` when the spool is closed.
    async fn read(&self) -> Option<Vec<Arc<AttributedBatch>>> {
        loop {
            let (answer, answered) = oneshot::channel();
            let read = Request::Read { sink: self.sink.clone(), after: self.after, answer };
            self.requests.send(read).await.ok()?;
            match answered.await {
                Ok(batches) => return Some(batches),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}
