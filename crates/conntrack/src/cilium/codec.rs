//! One key and value of a conntrack map into an [`Entry`].
//!
//! Pure, and allocates nothing. A key is `struct ipv4_ct_tuple` or `ipv6_ct_tuple`, a value `struct ct_entry`
//! (`bpf/lib/common.h`), packed alike since Cilium 1.11; ports are in network byte order, counters in the host's.
//!
//! In a key of a connection the addresses stand in the order of a reply and the ports in that of the opener: the opener
//! is `daddr:sport`, its peer `saddr:dport`. They are turned here, once, and no later stage knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egressd_flow::{Counter, Counters, CtZone, Defects, Entry, EntryId, IpProtocol, L4, Tuple, View};

use super::layout::{Layout, Reading};

/// Bytes of an IPv4 key.
pub const KEY_V4_BYTES: usize = 14;
/// Bytes of an IPv6 key.
pub const KEY_V6_BYTES: usize = 38;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 56;

/// The key's flags: `TUPLE_F_OUT`, `_IN`, `_RELATED`, `_SERVICE`.
mod tuple_flags {
    pub(super) const OUT: u8 = 0;
    pub(super) const IN: u8 = 1;
    pub(super) const RELATED: u8 = 2;
    pub(super) const SERVICE: u8 = 4;
}

/// The value's flags, a bit field at offset 36.
mod entry_flags {
    pub(super) const RX_CLOSING: u16 = 1 << 0;
    pub(super) const TX_CLOSING: u16 = 1 << 1;
    pub(super) const LOOPBACK: u16 = 1 << 3;
    pub(super) const SEEN_NON_SYN: u16 = 1 << 4;
    pub(super) const NODE_PORT: u16 = 1 << 5;
    pub(super) const DSR: u16 = 1 << 7;
}

/// Why a row is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// Of a size or with flags that no release has.
    #[error("malformed row of a conntrack map")]
    Malformed,
    /// Not a connection of an endpoint: a service's, a node port's other half, an ICMP error's.
    #[error("row of a conntrack map that is no connection")]
    NoConnection,
}

impl Skipped {
    /// Adds this one.
    pub fn count(self, defects: &mut Defects) {
        match self {
            Self::Malformed => defects.malformed += 1,
            Self::NoConnection => defects.passed_over += 1,
        }
    }
}

/// What an entry is written over from.
pub(super) const BLANK: Entry = Entry {
    id: EntryId { original: BLANK_TUPLE, kernel_id: None, start: None },
    reply: BLANK_TUPLE,
    view: View::Source,
    counters: None,
    status: None,
    timeout_seconds: None,
};

const BLANK_TUPLE: Tuple = Tuple {
    protocol: IpProtocol::ANY,
    src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    l4: L4::None,
    ct_zone: CtZone(0),
};

/// A connection's row, not yet turned into an entry: what decides about layouts looks at this.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    key: &'a [u8],
    value: &'a [u8; VALUE_BYTES],
    flags: u8,
    entry_flags: u16,
}

impl<'a> Row<'a> {
    /// Looks at the flags of a row, of which only connections of endpoints go on.
    ///
    /// # Errors
    /// [`Skipped`] for every other.
    pub fn new(key: &'a [u8], value: &'a [u8]) -> Result<Self, Skipped> {
        let value: &[u8; VALUE_BYTES] = value.try_into().map_err(|_| Skipped::Malformed)?;
        let (KEY_V4_BYTES | KEY_V6_BYTES, Some(&flags)) = (key.len(), key.last()) else {
            return Err(Skipped::Malformed);
        };
        let entry_flags = u16::from_ne_bytes([value[36], value[37]]);
        let translated = entry_flags::NODE_PORT | entry_flags::DSR | entry_flags::LOOPBACK;
        match flags {
            tuple_flags::OUT if entry_flags & translated != 0 => Err(Skipped::NoConnection),
            tuple_flags::OUT | tuple_flags::IN => Ok(Self { key, value, flags, entry_flags }),
            _ if flags & !(tuple_flags::IN | tuple_flags::RELATED | tuple_flags::SERVICE) == 0 => {
                Err(Skipped::NoConnection)
            }
            _ => Err(Skipped::Malformed),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// Whether the first 16 bytes may hold an address in place of counters: Cilium 1.19 writes the translated address
    /// of an opener there, IPv6 without any mark, IPv4 into the last four with its port beside.
    #[must_use]
    pub fn may_hold_address(&self) -> bool {
        let is_v6 = self.key.len() == KEY_V6_BYTES;
        self.flags == tuple_flags::OUT && (is_v6 || self.value[40..42] != [0, 0])
    }

    /// What was counted up to 1.15 of packets to the endpoint, and by later releases never; garbage where there may be an
    /// address.
    #[must_use]
    pub fn first(&self) -> Counter {
        Counter { packets: self.u64(0), bytes: self.u64(8) }
    }

    /// What was counted up to 1.15 of packets from the endpoint, and by later releases of both directions.
    #[must_use]
    pub fn second(&self) -> Counter {
        Counter { packets: self.u64(16), bytes: self.u64(24) }
    }

    /// Until when the entry lives unless it is used, by the clock that the agent chose: later is more lately used.
    #[must_use]
    pub fn lifetime(&self) -> u32 {
        let [a, b, c, d] = [self.value[32], self.value[33], self.value[34], self.value[35]];
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Whether more than one packet must have passed, whatever was counted.
    #[must_use]
    pub fn has_gone_on(&self) -> bool {
        let is_tcp = self.protocol() == IpProtocol::TCP;
        let further = entry_flags::SEEN_NON_SYN | entry_flags::RX_CLOSING | entry_flags::TX_CLOSING;
        is_tcp && self.entry_flags & further != 0
    }

    /// Writes it as an entry of the map with kernel id `map`.
    pub fn decode(&self, map: u32, reading: Reading, entry: &mut Entry) {
        let protocol = self.protocol();
        let (src, dst) = self.ends();
        let l4 = self.layer4(protocol);
        let original = Tuple { protocol, src, dst, l4, ct_zone: CtZone(0) };
        entry.reply = original.inverted();
        entry.id.original = original;
        entry.id.kernel_id = Some(u64::from(map) << 8 | u64::from(self.flags));
        entry.view = if self.flags == tuple_flags::OUT { View::Source } else { View::Destination };
        entry.counters = self.counters(reading);
    }

    fn counters(&self, reading: Reading) -> Option<Counters> {
        let second = self.second();
        let first = match self.first() {
            // Without a packet there is no byte; up to 1.15 something else may stand there.
            Counter { packets: 0, .. } => Some(Counter::default()),
            first if self.may_hold_address() && !reading.counts_where_addresses_may_be(first) => None,
            first => Some(first),
        };
        if let (Layout::Directional, Some(first)) = (reading.layout, first)
            && (reading.is_by_operator() || !self.is_of_one_sum(first))
        {
            let packets = first.packets.saturating_add(second.packets);
            // With accounting off it keeps the packet that made the entry, for ever.
            let least = if reading.counts_nothing { 2 } else { 1 };
            return (packets >= least).then_some(Counters::Directed { tx: second, rx: first });
        }
        let packets = second.packets.saturating_add(first.map_or(0, |first| first.packets));
        let least = if reading.counts_nothing && reading.layout != Layout::Combined { 2 } else { 1 };
        (packets >= least).then_some(Counters::Total { main: second, beside: first })
    }

    /// Whether no release up to 1.15 wrote it, so that what stands second is a sum: there a row inward begins with a packet
    /// received, and TCP goes on once there was an answer.
    fn is_of_one_sum(&self, first: Counter) -> bool {
        first.packets == 0 && (self.flags == tuple_flags::IN || self.has_gone_on())
    }

    /// The end that is an endpoint of the node.
    pub(super) fn endpoint(&self) -> IpAddr {
        let (src, dst) = self.ends();
        if self.flags == tuple_flags::OUT { src } else { dst }
    }

    fn protocol(&self) -> IpProtocol {
        IpProtocol(self.key[self.key.len() - 2])
    }

    /// The opener and its peer.
    fn ends(&self) -> (IpAddr, IpAddr) {
        if let Some((&daddr, rest)) = self.key.split_first_chunk::<16>()
            && let Some(&saddr) = rest.first_chunk::<16>()
        {
            return (Ipv6Addr::from(daddr).into(), Ipv6Addr::from(saddr).into());
        }
        let [a, b, c, d, e, f, g, h] =
            self.key.first_chunk::<8>().copied().expect("a key is 14 or 38 bytes long");
        (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into())
    }

    /// ICMP has its identifier in place of the opener's port, or of the peer's where a reply came first.
    fn layer4(&self, protocol: IpProtocol) -> L4 {
        let ports = self.key.len() - 6;
        let port = |at: usize| u16::from_be_bytes([self.key[at], self.key[at + 1]]);
        let (dst, src) = (port(ports), port(ports + 2));
        match (protocol, src, dst) {
            (IpProtocol::ICMP, id, 0) => L4::Icmp { id, kind: 8, code: 0 },
            (IpProtocol::ICMPV6, id, 0) => L4::Icmp { id, kind: 128, code: 0 },
            (IpProtocol::ICMP, 0, id) => L4::Icmp { id, kind: 0, code: 0 },
            (IpProtocol::ICMPV6, 0, id) => L4::Icmp { id, kind: 129, code: 0 },
            (IpProtocol::TCP | IpProtocol::UDP, ..) => L4::Ports { src, dst },
            (_, 0, 0) => L4::None,
            _ => L4::Ports { src, dst },
        }
    }

    fn u64(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.value[at..at + 8]);
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests;
