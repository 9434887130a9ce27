//! Growth folded by (owner, remote address, protocol) between two cuts.

use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use egressd_flow::{Counter, IpProtocol, Owner, Record, Traffic};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::hashing::hash_address;
use crate::scope::{OwnerId, Owners};
use crate::state::{In, Out, malformed};

/// Memory of one open flow in the table.
pub(crate) const SLOT_BYTES: usize = size_of::<(FlowKey, Traffic)>();

#[derive(Clone, Copy, PartialEq, Eq)]
struct FlowKey {
    owner: OwnerId,
    remote: Option<IpAddr>,
    protocol: IpProtocol,
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { owner, remote, protocol } = *self;
        state.write_u64(u64::from(owner.0) << u8::BITS | u64::from(protocol.0));
        if let Some(remote) = remote {
            hash_address(remote, state);
        }
    }
}

/// Records and the owners that they name.
pub(crate) type Cut = (Vec<Arc<Owner>>, Vec<Record>);

/// The open flows of one node.
pub(crate) struct Reducer {
    flows_max: usize,
    flows: HashMap<FlowKey, Traffic, FixedState>,
    sum: Counter,
    /// Empty, and as large as the largest cut needed it.
    places: Places,
}

/// Where owners stand in the list of a cut.
type Places = HashMap<OwnerId, u32, foldhash::fast::RandomState>;

impl Reducer {
    pub(crate) fn new(flows_max: usize, seeded: FixedState) -> Self {
        let flows = HashMap::with_hasher(seeded);
        Self { flows_max, flows, sum: Counter::default(), places: HashMap::default() }
    }

    pub(crate) fn sum(&self) -> Counter {
        self.sum
    }

    /// Adds growth. A remote that has no room any more goes to the rest: resolution is lost, bytes are not.
    pub(crate) fn add(&mut self, owner: OwnerId, remote: IpAddr, protocol: IpProtocol, traffic: Traffic) {
        self.sum += traffic.sum();
        let key = FlowKey { owner, remote: Some(remote), protocol };
        if let Some(flow) = self.flows.get_mut(&key) {
            *flow += traffic;
            return;
        }
        let key = if self.flows.len() < self.flows_max { key } else { FlowKey { remote: None, ..key } };
        *self.flows.entry(key).or_default() += traffic;
    }

    /// Writes the flows; `place` is where an owner stands in the list that goes with them.
    pub(crate) fn save<W: Write>(
        &self,
        out: &mut Out<'_, W>,
        place: impl Fn(OwnerId) -> usize,
    ) -> io::Result<()> {
        out.len(self.flows.len())?;
        for (key, traffic) in &self.flows {
            out.len(place(key.owner))?;
            out.u8(key.remote.is_some().into())?;
            out.address(key.remote.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))?;
            out.u8(key.protocol.0)?;
            out.traffic(*traffic)?;
        }
        Ok(())
    }

    /// Reads flows back; `owners` is that list.
    pub(crate) fn restore<R: Read>(
        input: &mut In<'_, R>,
        (flows_max, seeded): (usize, FixedState),
        owners: &[Option<OwnerId>],
    ) -> io::Result<Self> {
        let mut reducer = Self::new(flows_max, seeded);
        // Rests may be more than the bound: one for each owner and protocol.
        for _ in 0..input.u64()? {
            let owner = usize::try_from(input.u64()?).ok().and_then(|place| *owners.get(place)?);
            let owner = owner.ok_or_else(|| malformed("a flow is of no owner"))?;
            let has_remote = input.u8()? != 0;
            let remote = Some(input.address()?).filter(|_| has_remote);
            let key = FlowKey { owner, remote, protocol: IpProtocol(input.u8()?) };
            let traffic = input.traffic()?;
            reducer.sum += traffic.sum();
            *reducer.flows.entry(key).or_default() += traffic;
        }
        Ok(reducer)
    }

    /// Empties the flows into cuts of at most `records_max` records that name at most `owners_max` owners. Memory is asked
    /// for what leaves with them, and for little else.
    pub(crate) fn drain(&mut self, owners: &Owners, records_max: usize, owners_max: usize) -> Vec<Cut> {
        let Self { flows, places, .. } = self;
        let (mut cuts, mut left) = (Vec::new(), flows.len());
        let open = |left: usize| -> Cut { (Vec::new(), Vec::with_capacity(left.min(records_max))) };
        let mut cut = open(left);
        for (key, traffic) in flows.drain() {
            if cut.1.len() == records_max || cut.0.len() == owners_max {
                places.clear();
                let (owners, mut records) = std::mem::replace(&mut cut, open(left));
                records.shrink_to_fit();
                cuts.push((owners, records));
            }
            push(&mut cut, places, owners, key, traffic);
            left -= 1;
        }
        places.clear();
        if !cut.1.is_empty() {
            cuts.push(cut);
        }
        self.sum = Counter::default();
        cuts
    }
}

fn push((owners, records): &mut Cut, places: &mut Places, known: &Owners, key: FlowKey, traffic: Traffic) {
    let owner = *places.entry(key.owner).or_insert_with(|| {
        let owner = known.get(key.owner).expect("owners outlive the flows that name them");
        owners.push(Arc::clone(owner));
        u32::try_from(owners.len() - 1).expect("a cut's owners are bounded")
    });
    records.push(Record { owner, remote: key.remote, protocol: key.protocol, traffic });
}
