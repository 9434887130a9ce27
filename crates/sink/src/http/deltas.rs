//! Growth by flow since the last accepted request: the machine behind the cost API.
//!
//! A cycle freezes what has come in and cuts it into requests; growth meanwhile folds into the next one.
//! Invariant: what is frozen does not change until it is accepted, so that a request that is sent again says the
//! same, byte for byte. The position moves with the last request of the frozen range.
//! Bound: the flows of one table twice (open and frozen), and [`ITEMS_MAX`] items a request, which whoever encodes
//! it may cut further.

use std::ops::Range;

use egressd_flow::{Attributed, AttributedBatch, Counter, Position};

use super::ITEMS_MAX;
use crate::books::{Applied, Reason, Standing};
use crate::labels::{FlowKey, FlowView};
use crate::table::Table;

/// Sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) tx: Counter,
    pub(crate) rx: Counter,
}

/// The largest figure that the body's signed fields hold.
const FIGURE_MAX: u64 = i64::MAX.unsigned_abs();

impl Delta {
    /// Takes off as much as one item holds; `None` when nothing is left.
    fn split_off(&mut self) -> Option<Self> {
        let take = |from: &mut u64| {
            let part = (*from).min(FIGURE_MAX);
            *from -= part;
            part
        };
        let take =
            |from: &mut Counter| Counter { bytes: take(&mut from.bytes), packets: take(&mut from.packets) };
        let part = Self { tx: take(&mut self.tx), rx: take(&mut self.rx) };
        (part != Self::default()).then_some(part)
    }

    /// The items that say it: one, or up to three where a figure is beyond 2^63−1; none when all is zero.
    pub(crate) fn parts(mut self) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || self.split_off())
    }

    fn sum(self) -> Counter {
        let mut sum = self.tx;
        sum += self.rx;
        sum
    }
}

#[derive(Debug)]
struct Frozen {
    flows: Vec<(FlowKey, Delta)>,
    /// The flows of the current request; it is empty before the first.
    request: Range<usize>,
    /// The position that is accepted with the last request.
    through: Position,
}

/// The growth that one destination has not accepted yet.
#[derive(Debug)]
pub(crate) struct Deltas {
    open: Table<Delta>,
    frozen: Option<Frozen>,
    standing: Standing,
}

impl Deltas {
    pub(crate) fn new(flows_max: usize) -> Self {
        Self { open: Table::new(flows_max), frozen: None, standing: Standing::default() }
    }

    /// Folds a batch in. One whose position was applied before changes nothing.
    pub(crate) fn apply(&mut self, batch: &AttributedBatch) -> Applied {
        let mut applied = match Applied::begin(batch, &mut self.standing.applied) {
            Ok(begun) => begun,
            Err(repeated) => return repeated,
        };
        for record in &batch.records {
            self.apply_record(record, &mut applied);
        }
        applied
    }

    fn apply_record(&mut self, record: &Attributed, applied: &mut Applied) {
        applied.received += record.traffic.sum();
        applied.discard(Reason::undirected, record.traffic.undirected);
        let delta = Delta { tx: record.traffic.tx, rx: record.traffic.rx };
        if delta == Delta::default() {
            return;
        }
        if let Some(sum) = self.open.fold(FlowView::of(record), delta.sum(), applied) {
            self.standing.held += delta.sum();
            sum.tx += delta.tx;
            sum.rx += delta.rx;
        }
    }

    /// Begins a cycle, unless one is running.
    pub(crate) fn begin(&mut self) {
        if self.frozen.is_none() {
            let flows = self.open.take();
            self.frozen = Some(Frozen { flows, request: 0..0, through: self.standing.applied });
        }
    }

    /// The flows of the current request: the next ones when the last request was accepted, otherwise the same
    /// again. `None` when the cycle is over, with its position accepted.
    pub(crate) fn advance(&mut self) -> Option<&[(FlowKey, Delta)]> {
        let frozen = self.frozen.as_mut()?;
        if frozen.request.is_empty() {
            frozen.request.end = request_end(&frozen.flows, frozen.request.start);
        }
        if frozen.request.is_empty() {
            self.standing.accepted = frozen.through;
            self.frozen = None;
            return None;
        }
        let Frozen { flows, request, .. } = self.frozen.as_ref()?;
        flows.get(request.clone())
    }

    /// Leaves the current request with its first `flows`: the others go with the next.
    pub(crate) fn cut(&mut self, flows: usize) {
        if let Some(Frozen { request, .. }) = &mut self.frozen {
            request.end = request.end.min(request.start + flows);
        }
    }

    /// What the current request says.
    pub(crate) fn requested(&self) -> Counter {
        let flows = self.frozen.as_ref().and_then(|frozen| frozen.flows.get(frozen.request.clone()));
        flows.unwrap_or_default().iter().fold(Counter::default(), |mut sum, (_, delta)| {
            sum += delta.sum();
            sum
        })
    }

    /// The current request was accepted; what was let out by it.
    pub(crate) fn settle(&mut self) -> Counter {
        let emitted = self.requested();
        self.standing.held.release(emitted);
        if let Some(frozen) = &mut self.frozen {
            frozen.request.start = frozen.request.end;
        }
        emitted
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Flows held, those of the frozen range and of the open one.
    pub(crate) fn flows(&self) -> usize {
        self.open.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.flows.len() - frozen.request.start)
    }
}

/// The end of a request that starts at `start`: as many flows as make [`ITEMS_MAX`] items.
fn request_end(flows: &[(FlowKey, Delta)], start: usize) -> usize {
    let mut items = 0;
    let fitting = flows.iter().skip(start).take_while(|(_, delta)| {
        items += delta.parts().count();
        items <= ITEMS_MAX
    });
    start + fitting.count()
}

#[cfg(test)]
mod tests;
