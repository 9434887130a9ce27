//! Flows that the cost API refuses, each with all that it was to be told: tried before anything else of a cycle, and
//! never with the rest.
//!
//! Bound: [`ASIDE_MAX`] flows, and [`TRIES_MAX`] refused requests of them a cycle.

use std::collections::VecDeque;

use egressd_flow::{Counter, Position, UnixNanos};
use prost::Message;

use super::deltas::Delta;
use super::proto::{PodNetworkMetric, PodNetworkMetricBatch};
use crate::destination::Verdict;
use crate::labels::FlowView;
use crate::portion::{ASIDE_FOR, ASIDE_MAX, Portion, Step, TRIES_MAX};
use crate::table::Table;

/// One of them, also as it is kept for the life after this one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refused {
    /// Its names, without figures.
    #[prost(message, required, tag = "1")]
    names: PodNetworkMetric,
    #[prost(uint64, tag = "2")]
    tx_bytes: u64,
    #[prost(uint64, tag = "3")]
    tx_packets: u64,
    #[prost(uint64, tag = "4")]
    rx_bytes: u64,
    #[prost(uint64, tag = "5")]
    rx_packets: u64,
    /// When it was set aside, in seconds since 1970.
    #[prost(uint64, tag = "6")]
    since_seconds: u64,
    /// The end of the last range that it was in.
    #[prost(uint64, tag = "7")]
    through: u64,
    /// What of the figures is of that range.
    #[prost(uint64, tag = "8")]
    fresh_bytes: u64,
    #[prost(uint64, tag = "9")]
    fresh_packets: u64,
    /// Lives that may have told it, and were not counted for that.
    #[prost(uint64, tag = "10")]
    lives: u64,
}

impl Refused {
    pub(super) fn new(names: PodNetworkMetric, delta: Delta, through: Position, now: UnixNanos) -> Self {
        let fresh = delta.sum();
        Self {
            names,
            tx_bytes: delta.tx.bytes,
            tx_packets: delta.tx.packets,
            rx_bytes: delta.rx.bytes,
            rx_packets: delta.rx.packets,
            since_seconds: now.0 / 1_000_000_000,
            through: through.0,
            fresh_bytes: fresh.bytes,
            fresh_packets: fresh.packets,
            lives: 0,
        }
    }

    /// The same flow, refused again.
    fn merge(&mut self, later: Self) {
        for (sum, more) in [
            (&mut self.tx_bytes, later.tx_bytes),
            (&mut self.tx_packets, later.tx_packets),
            (&mut self.rx_bytes, later.rx_bytes),
            (&mut self.rx_packets, later.rx_packets),
        ] {
            *sum = sum.saturating_add(more);
        }
        let Self { through, fresh_bytes, fresh_packets, .. } = later;
        (self.through, self.fresh_bytes, self.fresh_packets) = (through, fresh_bytes, fresh_packets);
    }

    fn delta(&self) -> Delta {
        Delta {
            tx: Counter { bytes: self.tx_bytes, packets: self.tx_packets },
            rx: Counter { bytes: self.rx_bytes, packets: self.rx_packets },
        }
    }

    fn since(&self) -> UnixNanos {
        UnixNanos(self.since_seconds.saturating_mul(1_000_000_000))
    }

    /// What of it is of the range that ends there, if that is the last it was in.
    pub(super) fn fresh_of(&self, through: Position) -> Counter {
        let is_of = Position(self.through) == through;
        let fresh = Counter { bytes: self.fresh_bytes, packets: self.fresh_packets };
        if is_of { fresh } else { Counter::default() }
    }

    /// Appends its items to a message, which is the one before with these joined.
    fn append(&self, message: &mut Vec<u8>) {
        let items = self.delta().parts().map(|part| {
            let mut item = self.names.clone();
            super::measure(&mut item, part);
            item
        });
        let batch = PodNetworkMetricBatch { items: items.collect() };
        batch.encode(message).expect("a vector grows as needed");
    }
}

#[derive(Debug)]
pub(super) struct Aside {
    /// The next to be tried first.
    flows: VecDeque<Refused>,
    /// Those of this life, so that their growth need not be refused to be found.
    known: Table<()>,
    /// Of the current request, from the first on.
    named: usize,
    /// Not yet tried in this cycle, from the first on.
    untried: usize,
    tries: usize,
    portion: Portion,
}

impl Aside {
    pub(super) fn new() -> Self {
        // An eighth of a table is for rests.
        let known = Table::new(ASIDE_MAX * 8 / 7 + 1);
        Self { flows: VecDeque::new(), known, named: 0, untried: 0, tries: 0, portion: Portion::ONE }
    }

    /// Those of the life before.
    pub(super) fn restore(&mut self, flows: Vec<Refused>) {
        self.flows = flows.into();
        self.flows.iter_mut().for_each(|flow| flow.lives = flow.lives.saturating_add(1));
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = &Refused> {
        self.flows.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.flows.len() < ASIDE_MAX
    }

    /// Whether growth of this flow is to be added without being tried.
    pub(super) fn knows(&self, flow: FlowView<'_>) -> bool {
        self.known.len() > 0 && self.known.slot_of(flow).is_some()
    }

    /// Adds a flow, or what there is more of one.
    pub(super) fn add(&mut self, flow: FlowView<'_>, refused: Refused) {
        // Without room it is only found once more.
        let _known = self.known.admit(flow);
        match self.flows.iter_mut().find(|known| known.names == refused.names) {
            Some(known) => known.merge(refused),
            None => self.flows.push_back(refused),
        }
    }

    /// A cycle begins.
    pub(super) fn begin(&mut self) {
        (self.untried, self.tries, self.portion) = (self.flows.len(), TRIES_MAX, Portion::ONE);
    }

    /// Whether there are more to be tried in this cycle.
    pub(super) fn is_untried(&self) -> bool {
        self.tries > 0 && self.untried > 0
    }

    /// The message of the next request; `None` when this cycle has tried enough of them.
    pub(super) fn request(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let flows_max = if self.tries == 0 { 0 } else { self.untried.min(self.portion.flows()) };
        let mut message = Vec::new();
        self.named = 0;
        for flow in self.flows.iter().take(flows_max) {
            let fitting = message.len();
            flow.append(&mut message);
            if fitting > 0 && message.len() > bytes_max {
                message.truncate(fitting);
                break;
            }
            self.named += 1;
        }
        (self.named > 0).then_some(message)
    }

    /// Whether the current request is of these flows.
    pub(super) fn is_asked(&self) -> bool {
        self.named > 0
    }

    /// What the current request says, and how much of it lives before may have said; the latter once.
    pub(super) fn requested(&mut self) -> (Counter, Counter) {
        let said = sum(self.flows.iter().take(self.named));
        let mut doubtful = Counter::default();
        for flow in self.flows.iter_mut().take(self.named) {
            doubtful += super::times(flow.delta().sum(), std::mem::take(&mut flow.lives));
        }
        (said, doubtful)
    }

    /// The current request was accepted; what was let out by it.
    pub(super) fn accepted(&mut self) -> Counter {
        self.portion.accepted();
        self.untried -= self.named;
        // Which of them were known is not; those that are refused on are found again.
        self.known.take();
        sum(self.flows.drain(..std::mem::take(&mut self.named)).collect::<Vec<_>>().iter())
    }

    /// The current request was not accepted; what is given up, and whether the next request says something else.
    pub(super) fn refused(&mut self, verdict: Verdict, now: UnixNanos) -> (Counter, bool) {
        let step = self.portion.refused(verdict, std::mem::take(&mut self.named));
        let goes_on = step != Step::Again && !self.portion.is_hopeless();
        self.tries -= usize::from(step != Step::Again).min(self.tries);
        if step != Step::Aside {
            return (Counter::default(), goes_on);
        }
        let Some(flow) = self.flows.pop_front() else { return (Counter::default(), goes_on) };
        self.untried -= 1;
        if now.since(flow.since()) >= ASIDE_FOR {
            self.known.take();
            return (flow.delta().sum(), goes_on);
        }
        self.flows.push_back(flow);
        (Counter::default(), goes_on)
    }
}

/// Of some of them.
pub(super) fn sum<'f>(flows: impl Iterator<Item = &'f Refused>) -> Counter {
    flows.fold(Counter::default(), |mut sum, flow| {
        sum += flow.delta().sum();
        sum
    })
}
