//! The way in: batches as they are attributed, from a stage that must not wait for us.
//!
//! Bound: [`FEED_BATCHES_MAX`] batches. What finds no room is counted here, and the other end hears how much it was.

use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use egressd_flow::{AttributedBatch, Counter};
use tokio::sync::mpsc;

/// Batches on their way in. Those of other stages are shared, so most often this costs no memory.
pub const FEED_BATCHES_MAX: usize = 64;

/// The end that batches are put into. When it is dropped nothing more comes.
#[derive(Debug)]
pub struct Feed {
    pub(crate) batches: mpsc::Sender<Arc<AttributedBatch>>,
    unseen: Arc<Mutex<Unseen>>,
}

/// The end that [`serve`](crate::serve) takes.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) batches: mpsc::Receiver<Arc<AttributedBatch>>,
    unseen: Arc<Mutex<Unseen>>,
}

/// What found no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unseen {
    pub(crate) records: u64,
    pub(crate) traffic: Counter,
}

/// A way in.
#[must_use]
pub fn feed() -> (Feed, Inbox) {
    let (batches, queue) = mpsc::channel(FEED_BATCHES_MAX);
    let unseen = Arc::default();
    (Feed { batches, unseen: Arc::clone(&unseen) }, Inbox { batches: queue, unseen })
}

impl Feed {
    /// Passes a batch on where there is room; never waits.
    pub fn offer(&self, batch: &Arc<AttributedBatch>) {
        if self.batches.try_send(Arc::clone(batch)).is_err() {
            let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
            unseen.records = unseen.records.saturating_add(batch.records.len() as u64);
            unseen.traffic += batch.sum();
        }
    }
}

impl Inbox {
    /// What found no room since this was asked last.
    pub(crate) fn unseen(&self) -> Unseen {
        take(&mut self.unseen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
