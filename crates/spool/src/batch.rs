//! One attributed batch as bytes.
//!
//! ```text
//! length (u32, of all that follows)
//! position, epoch, sequence, span (u64 each) · node
//! texts · identities, by texts, a DNS name first · addresses of 4 bytes · addresses of 16 bytes
//! records: tag, local address, local identity, [remote address], [remote identity], protocol, counters that are not 0
//! ```
//!
//! What repeats is said once a batch and named by its place: texts by value, identities by the `Arc` that records share
//! (equal ones behind two `Arc`s are said twice), addresses by value. A record is some 20 bytes
//! then, and 33 with its share of what is said once (measured: DESIGN.md). Lists stand after their length, numbers
//! without a unit are varints.
//!
//! Invariant: what is written reads back equal, and no bytes make reading panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Counter, End, Epoch, Identity, IpProtocol, NodeName, PodName,
};
use egressd_flow::{Position, Sequence, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::code::{In, Out};

/// Stands before the place of a DNS name and the other texts of an identity that has one: no text has this place, as a
/// batch is smaller. Batches of before there were any have none.
const DNS_NAME: u64 = u32::MAX as u64;

/// What came first in a batch's bytes: all that recovery needs of it.
#[derive(Clone, Copy)]
pub(crate) struct Label<'b> {
    pub(crate) position: Position,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: Sequence,
    span: Span,
    pub(crate) node: &'b str,
}

/// Places of what was said already, cleared for each batch and kept for the room they have.
#[derive(Default)]
pub(crate) struct Encoder {
    texts: Dictionary<Arc<str>>,
    identities: HashMap<usize, usize, FixedState>,
    addresses_v4: Dictionary<Ipv4Addr>,
    addresses_v6: Dictionary<Ipv6Addr>,
    /// Identities as bytes, while their texts are still gathered.
    named: Vec<u8>,
}

/// Values in the order in which they were first named.
struct Dictionary<T> {
    places: HashMap<T, usize, FixedState>,
    values: Vec<T>,
}

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Self { places: HashMap::default(), values: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Dictionary<T> {
    fn place(&mut self, value: &T) -> usize {
        if let Some(place) = self.places.get(value) {
            return *place;
        }
        let place = self.values.len();
        self.places.insert(value.clone(), place);
        self.values.push(value.clone());
        place
    }

    fn clear(&mut self) {
        self.places.clear();
        self.values.clear();
    }
}

impl Encoder {
    /// Adds a batch to `bytes`, which stay below 4 GiB.
    pub(crate) fn encode(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        batch: &AttributedBatch,
        bytes: &mut Vec<u8>,
    ) {
        let start = bytes.len();
        let mut out = Out(bytes);
        out.u32(0);
        for part in [batch.position.0, epoch.0, sequence.0, batch.span.from.0, batch.span.to.0] {
            out.u64(part);
        }
        out.text(&batch.node.0);
        self.gather(&batch.records);
        self.write_dictionaries(&mut out);
        out.len(batch.records.len());
        for record in &batch.records {
            self.write_record(record, &mut out);
        }
        let length = u32::try_from(bytes.len() - start - 4).unwrap_or(u32::MAX);
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn gather(&mut self, records: &[Attributed]) {
        self.texts.clear();
        self.identities.clear();
        self.addresses_v4.clear();
        self.addresses_v6.clear();
        self.named.clear();
        for record in records {
            self.name(&record.local);
            if let Ok(identity) = &record.remote.identity {
                self.name(identity);
            }
            for address in [Some(record.local_address), record.remote.address].into_iter().flatten() {
                match address {
                    IpAddr::V4(v4) => self.addresses_v4.place(&v4),
                    IpAddr::V6(v6) => self.addresses_v6.place(&v6),
                };
            }
        }
    }

    fn name(&mut self, identity: &Arc<Identity>) {
        let (next, address) = (self.identities.len(), Arc::as_ptr(identity).addr());
        if self.identities.contains_key(&address) {
            return;
        }
        self.identities.insert(address, next);
        let Identity { pod, workload, node, topology_zone, region, dns_name } = &**identity;
        let texts = [
            pod.as_ref().map(|pod| &pod.namespace),
            pod.as_ref().map(|pod| &pod.name),
            workload.as_ref().map(|workload| &workload.kind),
            workload.as_ref().map(|workload| &workload.name),
            node.as_ref().map(|node| &node.0),
            topology_zone.as_ref().map(|topology_zone| &topology_zone.0),
            region.as_ref(),
        ];
        let mut out = Out(&mut self.named);
        if let Some(dns_name) = dns_name {
            out.varint(DNS_NAME);
            out.len(self.texts.place(dns_name) + 1);
        }
        // A place one higher than in the list of texts; 0 is none.
        texts.into_iter().for_each(|text| out.len(text.map_or(0, |text| self.texts.place(text) + 1)));
    }

    fn write_dictionaries(&self, out: &mut Out<'_>) {
        out.len(self.texts.values.len());
        self.texts.values.iter().for_each(|text| out.text(text));
        out.len(self.identities.len());
        out.0.extend_from_slice(&self.named);
        out.len(self.addresses_v4.values.len());
        self.addresses_v4.values.iter().for_each(|v4| out.0.extend_from_slice(&v4.octets()));
        out.len(self.addresses_v6.values.len());
        self.addresses_v6.values.iter().for_each(|v6| out.0.extend_from_slice(&v6.octets()));
    }

    fn write_record(&mut self, record: &Attributed, out: &mut Out<'_>) {
        out.u8(Tag::of(record).to_byte());
        out.len(self.address(record.local_address));
        out.len(self.identity(&record.local));
        if let Some(address) = record.remote.address {
            out.len(self.address(address));
        }
        if let Ok(identity) = &record.remote.identity {
            out.len(self.identity(identity));
        }
        out.u8(record.protocol.0);
        let Traffic { tx, rx, undirected } = record.traffic;
        [tx, rx, undirected].into_iter().filter(|part| !part.is_zero()).for_each(|part| out.counter(part));
    }

    /// 16-byte addresses stand behind those of 4.
    fn address(&mut self, address: IpAddr) -> usize {
        match address {
            IpAddr::V4(v4) => self.addresses_v4.place(&v4),
            IpAddr::V6(v6) => self.addresses_v4.values.len() + self.addresses_v6.place(&v6),
        }
    }

    fn identity(&self, identity: &Arc<Identity>) -> usize {
        self.identities.get(&Arc::as_ptr(identity).addr()).copied().unwrap_or_default()
    }
}

/// What of a record follows. Bits from the lowest: tx, rx, undirected, an address, class (2), identity (2).
#[derive(Clone, Copy)]
struct Tag {
    counters: u8,
    has_address: bool,
    class: Option<AddressClass>,
    unattributed: Option<Unattributed>,
}

impl Tag {
    fn of(record: &Attributed) -> Self {
        let Traffic { tx, rx, undirected } = record.traffic;
        let bit = |counter: Counter, bit: u8| if counter.is_zero() { 0 } else { bit };
        Self {
            counters: bit(tx, 1) | bit(rx, 2) | bit(undirected, 4),
            has_address: record.remote.address.is_some(),
            class: record.remote.class,
            unattributed: record.remote.identity.as_ref().err().copied(),
        }
    }

    fn to_byte(self) -> u8 {
        let class = match self.class {
            None => 0,
            Some(AddressClass::Private) => 1,
            Some(AddressClass::Public) => 2,
        };
        let identity = match self.unattributed {
            None => 0,
            Some(Unattributed::Unknown) => 1,
            Some(Unattributed::Ambiguous) => 2,
            Some(Unattributed::Folded) => 3,
        };
        self.counters | u8::from(self.has_address) << 3 | class << 4 | identity << 6
    }

    fn from_byte(byte: u8) -> Option<Self> {
        let class = match byte >> 4 & 3 {
            0 => None,
            1 => Some(AddressClass::Private),
            2 => Some(AddressClass::Public),
            _ => return None,
        };
        let unattributed = match byte >> 6 {
            0 => None,
            1 => Some(Unattributed::Unknown),
            2 => Some(Unattributed::Ambiguous),
            _ => Some(Unattributed::Folded),
        };
        Some(Self { counters: byte & 7, has_address: byte & 8 != 0, class, unattributed })
    }
}

/// Splits the first batch off, its label read and the rest of it not; `None` when it does not hold together.
pub(crate) fn split<'b>(input: &mut In<'b>) -> Option<(Label<'b>, In<'b>)> {
    let length = usize::try_from(input.u32()?).ok()?;
    let mut rest = In(input.bytes(length)?);
    let (position, epoch, sequence) = (Position(rest.u64()?), Epoch(rest.u64()?), Sequence(rest.u64()?));
    let span = Span { from: UnixNanos(rest.u64()?), to: UnixNanos(rest.u64()?) };
    let label = Label { position, epoch, sequence, span, node: rest.text()? };
    Some((label, rest))
}

/// Reads what [`split`] left.
pub(crate) fn decode(label: Label<'_>, mut rest: In<'_>) -> Option<AttributedBatch> {
    let texts: Vec<Arc<str>> = list(&mut rest, |input| input.text().map(Arc::from))?;
    let identities = list(&mut rest, |input| identity(input, &texts))?;
    let mut addresses = list(&mut rest, |input| Some(IpAddr::from(input.array::<4>()?)))?;
    addresses.extend(list(&mut rest, |input| Some(IpAddr::from(input.array::<16>()?)))?);
    let records = list(&mut rest, |input| record(input, &identities, &addresses))?;
    let node = NodeName(label.node.into());
    let is_whole = rest.0.is_empty();
    is_whole.then_some(AttributedBatch { position: label.position, node, span: label.span, records })
}

fn list<'i, T>(input: &mut In<'i>, one: impl Fn(&mut In<'i>) -> Option<T>) -> Option<Vec<T>> {
    (0..input.len()?).map(|_| one(input)).collect()
}

fn identity(input: &mut In<'_>, texts: &[Arc<str>]) -> Option<Arc<Identity>> {
    let text = |place: u64| match usize::try_from(place).ok()? {
        0 => Some(None),
        place => Some(Some(texts.get(place - 1)?.clone())),
    };
    let mut first = input.varint()?;
    let mut dns_name = None;
    if first == DNS_NAME {
        dns_name = text(input.varint()?)?;
        first = input.varint()?;
    }
    let mut found: [Option<Arc<str>>; 7] = Default::default();
    found[0] = text(first)?;
    for place in &mut found[1..] {
        *place = text(input.varint()?)?;
    }
    let [namespace, pod, kind, workload, node, topology_zone, region] = found;
    let pod = match (namespace, pod) {
        (Some(namespace), Some(name)) => Some(PodName { namespace, name }),
        (None, None) => None,
        _ => return None,
    };
    let workload = match (kind, workload) {
        (Some(kind), Some(name)) => Some(Workload { kind, name }),
        (None, None) => None,
        _ => return None,
    };
    let (node, topology_zone) = (node.map(NodeName), topology_zone.map(TopologyZone));
    Some(Arc::new(Identity { pod, workload, node, topology_zone, region, dns_name }))
}

fn record(input: &mut In<'_>, identities: &[Arc<Identity>], addresses: &[IpAddr]) -> Option<Attributed> {
    let tag = Tag::from_byte(input.u8()?)?;
    let address = |input: &mut In<'_>| addresses.get(usize::try_from(input.varint()?).ok()?).copied();
    let identity = |input: &mut In<'_>| identities.get(usize::try_from(input.varint()?).ok()?).cloned();
    let (local_address, local) = (address(input)?, identity(input)?);
    let remote_address = if tag.has_address { Some(address(input)?) } else { None };
    let remote_identity = match tag.unattributed {
        None => Ok(identity(input)?),
        Some(reason) => Err(reason),
    };
    let remote = End { address: remote_address, class: tag.class, identity: remote_identity };
    let (protocol, traffic) = (IpProtocol(input.u8()?), input.traffic(tag.counters)?);
    Some(Attributed { local_address, local, remote, protocol, traffic })
}
