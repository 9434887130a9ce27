//! Growth of sides that no owner claims yet: a pod that the exporter has not told of, or another node's address.

use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use egressd_flow::{Counter, IpProtocol, Span, Traffic, UnixNanos};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::hashing::hash_address;
use crate::state::{In, Out};

/// Memory of one unclaimed flow in the table.
pub(crate) const SLOT_BYTES: usize = size_of::<(Key, Held)>();

/// One side's flow, apart by the second in which its entries started: an address may change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) start_second: UnixNanos,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { local, remote, protocol, start_second } = *self;
        hash_address(local, state);
        hash_address(remote, state);
        state.write_u64(start_second.0 ^ u64::from(protocol.0));
    }
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
    flows: HashMap<Key, Held, FixedState>,
    sum: Counter,
}

impl Unclaimed {
    pub(crate) fn new(flows_max: usize, seeded: FixedState) -> Self {
        Self { flows_max, flows: HashMap::with_hasher(seeded), sum: Counter::default() }
    }

    pub(crate) fn sum(&self) -> Counter {
        self.sum
    }

    /// Holds `traffic` of `span`; false when there is no room for another flow.
    pub(crate) fn hold(&mut self, key: Key, traffic: Traffic, span: Span) -> bool {
        if let Some(held) = self.flows.get_mut(&key) {
            held.traffic += traffic;
            // A clock that was set back ends a span where it begins.
            held.span = Span { from: held.span.from.min(span.to), to: span.to };
        } else if self.flows.len() < self.flows_max {
            self.flows.insert(key, Held { traffic, span });
        } else {
            return false;
        }
        self.sum += traffic.sum();
        true
    }

    pub(crate) fn save<W: Write>(&self, out: &mut Out<'_, W>) -> io::Result<()> {
        out.len(self.flows.len())?;
        for (key, held) in &self.flows {
            out.address(key.local)?;
            out.address(key.remote)?;
            out.u8(key.protocol.0)?;
            out.time(key.start_second)?;
            out.traffic(held.traffic)?;
            out.span(held.span)?;
        }
        Ok(())
    }

    pub(crate) fn restore<R: Read>(
        input: &mut In<'_, R>,
        flows_max: usize,
        seeded: FixedState,
    ) -> io::Result<Self> {
        let mut unclaimed = Self::new(flows_max, seeded);
        for _ in 0..input.len(flows_max as u64)? {
            let (local, remote) = (input.address()?, input.address()?);
            let key = Key { local, remote, protocol: IpProtocol(input.u8()?), start_second: input.time()? };
            let traffic = input.traffic()?;
            unclaimed.hold(key, traffic, input.span()?);
        }
        Ok(unclaimed)
    }

    /// Shows every flow to `judge`, with the time of its traffic and whether a scope as of `as_of` is late enough to say
    /// that nobody owns it.
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
