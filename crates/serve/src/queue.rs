//! What waits for one subscriber, and what it missed.
//!
//! Invariant: what is taken out is in the order in which it was put in, and each gap stands where it is.
//! Bound: [`QUEUE_RECORDS_MAX`] records; two gaps never follow each other, so there are fewer gaps than batches.

use std::collections::VecDeque;
use std::sync::Arc;

use egressd_flow::AttributedBatch;
use egressd_protocol::limits::BATCH_RECORDS_MAX;
use egressd_protocol::{FlowEvent, Missed};

/// Records that wait for one subscriber: two of the largest batches.
pub const QUEUE_RECORDS_MAX: usize = 2 * BATCH_RECORDS_MAX;

/// Batches and gaps.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: VecDeque<FlowEvent>,
    records: usize,
    records_max: usize,
}

impl Queue {
    pub(crate) fn new(records_max: usize) -> Self {
        Self { waiting: VecDeque::new(), records: 0, records_max }
    }

    /// Puts in the matching records of a batch; all of them, or what is missed is returned.
    pub(crate) fn offer(&mut self, batch: Arc<AttributedBatch>) -> Result<(), Missed> {
        let records = batch.records.len();
        if self.records + records > self.records_max {
            let missed = Missed { records: records as u64, bytes: batch.sum().bytes, ..Missed::default() };
            self.miss(missed);
            return Err(missed);
        }
        self.records += records;
        self.waiting.push_back(FlowEvent::Batch(batch));
        Ok(())
    }

    /// Notes a gap after what was put in last.
    pub(crate) fn miss(&mut self, missed: Missed) {
        match self.waiting.back_mut() {
            Some(FlowEvent::Missed(gap)) => *gap += missed,
            _ => self.waiting.push_back(FlowEvent::Missed(missed)),
        }
    }

    /// Takes out what comes next.
    pub(crate) fn take(&mut self) -> Option<FlowEvent> {
        let next = self.waiting.pop_front()?;
        if let FlowEvent::Batch(batch) = &next {
            self.records -= batch.records.len();
        }
        Some(next)
    }
}
