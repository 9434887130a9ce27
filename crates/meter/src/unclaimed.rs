//! Growth of sides that no owner claims yet: a pod that the exporter has not told of, or another node's address.

use std::net::IpAddr;
use std::time::Duration;

use egressd_flow::{Counter, IpProtocol, Span, Traffic, UnixNanos};
use hashbrown::HashMap;

/// Memory of one unclaimed flow in the table.
pub(crate) const SLOT_BYTES: usize = size_of::<(Key, Held)>();

/// One side's flow, apart by the second in which its entries started: an address may change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) start_second: UnixNanos,
}

#[derive(Clone, Copy)]
struct Held {
    traffic: Traffic,
    /// From when the first growth may be, to when the last was seen.
    span: Span,
}

/// What a new scope says of one unclaimed flow.
pub(crate) enum Verdict {
    /// Nothing new.
    Keep,
    /// It was settled.
    Settled,
}

/// The unclaimed flows of one node.
pub(crate) struct Unclaimed {
    flows_max: usize,
    flows: HashMap<Key, Held, foldhash::fast::RandomState>,
    sum: Counter,
}

impl Unclaimed {
    pub(crate) fn new(flows_max: usize) -> Self {
        Self { flows_max, flows: HashMap::default(), sum: Counter::default() }
    }

    pub(crate) fn sum(&self) -> Counter {
        self.sum
    }

    /// Holds `traffic` of `span`; false when there is no room for another flow.
    pub(crate) fn hold(&mut self, key: Key, traffic: Traffic, span: Span) -> bool {
        if let Some(held) = self.flows.get_mut(&key) {
            held.traffic += traffic;
            held.span.to = span.to;
        } else if self.flows.len() < self.flows_max {
            self.flows.insert(key, Held { traffic, span });
        } else {
            return false;
        }
        self.sum += traffic.sum();
        true
    }

    /// Shows every flow to `judge`, with the time of its traffic and whether a scope as of `as_of` is late enough to say that nobody owns it.
    pub(crate) fn review(
        &mut self,
        as_of: UnixNanos,
        grace: Duration,
        mut judge: impl FnMut(&Key, Traffic, Span, bool) -> Verdict,
    ) {
        let mut held_sum = Counter::default();
        self.flows.retain(|key, held| {
            let late_enough = as_of >= held.span.to.saturating_add(grace);
            let keep = matches!(judge(key, held.traffic, held.span, late_enough), Verdict::Keep);
            if keep {
                held_sum += held.traffic.sum();
            }
            keep
        });
        self.sum = held_sum;
    }
}
