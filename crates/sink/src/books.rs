//! The figures in which a sink's books balance: received = emitted + discarded + held.

use std::ops::AddAssign;

use egressd_flow::{AttributedBatch, Counter, Position};
use prometheus_client::encoding::EncodeLabelValue;

/// Why bytes leave a sink's books without reaching its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values")]
pub enum Reason {
    /// Received bytes, and the configuration does not ask for them (`sendReceivedBytesMetric`).
    not_asked,
    /// The direction is unknown, and the destination takes only sent and received.
    undirected,
    /// The table of flows is full, even for the rest that this flow would fold into.
    flows_full,
    /// The batch's position was applied before.
    repeated,
    /// The destination refused the flow for a day, or more flows than may be set aside.
    refused,
    /// The sink was taken out of the configuration, and its destination did not accept what it held in time.
    removed,
}

impl Reason {
    /// Every reason there is.
    pub const ALL: [Self; 6] =
        [Self::not_asked, Self::undirected, Self::flows_full, Self::repeated, Self::refused, Self::removed];
}

/// What applying one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) records: u64,
    pub(crate) received: Counter,
    /// Folded into a rest for want of room: resolution is lost, bytes are not.
    pub(crate) folded: Counter,
    discarded: [Counter; Reason::ALL.len()],
}

impl Applied {
    /// Begins the account of a batch that comes after `applied`, which moves on to it.
    ///
    /// # Errors
    /// The whole account of a batch that was applied before: nothing of it is to be folded in.
    pub(crate) fn begin(batch: &AttributedBatch, applied: &mut Position) -> Result<Self, Box<Self>> {
        let mut account = Self { records: batch.records.len() as u64, ..Self::default() };
        if batch.position <= *applied {
            account.received = batch.sum();
            account.discard(Reason::repeated, account.received);
            return Err(Box::new(account));
        }
        *applied = batch.position;
        Ok(account)
    }

    pub(crate) fn discard(&mut self, reason: Reason, traffic: Counter) {
        if let Some(sum) = self.discarded.get_mut(reason as usize) {
            *sum += traffic;
        }
    }

    pub(crate) fn discarded(&self, reason: Reason) -> Counter {
        self.discarded.get(reason as usize).copied().unwrap_or_default()
    }
}

/// Where a destination's machine stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The last batch that was folded in.
    pub(crate) applied: Position,
    /// Every byte up to here was accepted.
    pub(crate) accepted: Position,
    /// Folded in and not known to be accepted.
    pub(crate) held: Held,
}

impl Standing {
    pub(crate) fn is_all_accepted(&self) -> bool {
        self.accepted == self.applied
    }
}

/// Bytes and packets that were taken in and not yet let out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held(pub(crate) Counter);

impl AddAssign<Counter> for Held {
    fn add_assign(&mut self, more: Counter) {
        self.0 += more;
    }
}

impl Held {
    /// What was let out. Saturates, like the sums: once a figure has reached 2^64 the books no longer balance.
    pub(crate) fn release(&mut self, emitted: Counter) {
        self.0.bytes = self.0.bytes.saturating_sub(emitted.bytes);
        self.0.packets = self.0.packets.saturating_sub(emitted.packets);
    }
}
