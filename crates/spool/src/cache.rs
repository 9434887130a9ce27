//! The newest batches as they came, since sinks are at the end most of the time.
//!
//! Invariant: every batch behind `floor` is here. Bound: [`CACHE_BYTES_MAX`], or one batch.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

use egressd_flow::{Attributed, AttributedBatch, Position};

/// What the newest batches may take, in bytes of records; identities are shared with the index they came from.
pub const CACHE_BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(crate) struct Cache {
    batches: VecDeque<Arc<AttributedBatch>>,
    bytes: usize,
    /// The last position that is not here.
    floor: Position,
}

impl Cache {
    /// Empty, where the last position is `floor`.
    pub(crate) fn behind(floor: Position) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn push(&mut self, batch: &Arc<AttributedBatch>) {
        self.bytes += bytes(batch);
        self.batches.push_back(Arc::clone(batch));
        while self.bytes > CACHE_BYTES_MAX && self.batches.len() > 1 {
            self.pop();
        }
    }

    /// Lets go of what every sink has passed.
    pub(crate) fn let_go(&mut self, through: Position) {
        while self.batches.front().is_some_and(|oldest| oldest.position <= through) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= bytes(&oldest);
            self.floor = oldest.position;
        }
    }

    /// The batches behind `after`, one at least and up to `bytes_max`; `None` when some of them are not here.
    pub(crate) fn read(&self, after: Position, bytes_max: usize) -> Option<Vec<Arc<AttributedBatch>>> {
        if after < self.floor {
            return None;
        }
        let first = self.batches.partition_point(|batch| batch.position <= after);
        let mut left = bytes_max;
        let fits = |batch: &&Arc<AttributedBatch>| {
            let is_first = batch.position == self.batches[first].position;
            let room = left.checked_sub(bytes(batch));
            left = room.unwrap_or(0);
            is_first || room.is_some()
        };
        Some(self.batches.range(first..).take_while(fits).cloned().collect())
    }
}

fn bytes(batch: &AttributedBatch) -> usize {
    size_of::<AttributedBatch>() + batch.records.len() * size_of::<Attributed>()
}
