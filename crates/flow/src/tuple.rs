//! One direction's addressing, and the numbers in it.

use std::fmt;
use std::net::IpAddr;

/// An IP protocol number as IANA assigns it (`/etc/protocols`).
///
/// `Display` is the one table of names: it gives the value of the exported label `proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// 0: Cilium's "any"; as an IP header value it is hop-by-hop options, which conntrack never reports.
    pub const ANY: Self = Self(0);
    /// 1.
    pub const ICMP: Self = Self(1);
    /// 6.
    pub const TCP: Self = Self(6);
    /// 17.
    pub const UDP: Self = Self(17);
    /// 58.
    pub const ICMPV6: Self = Self(58);
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("ANY"),
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// A conntrack zone: a partition of the kernel's table, and so part of an entry's identity. 0 is the default zone.
///
/// Not a failure domain: that is [`TopologyZone`](crate::TopologyZone).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CtZone(pub u16);

/// What tells apart two conversations between the same addresses, by protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4 {
    /// The protocol has neither (ESP, IPIP, a generic entry).
    #[default]
    None,
    /// TCP, UDP, SCTP, DCCP; GRE's call ids stand in the same kernel fields.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// Echo identifier.
        id: u16,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// Protocol, addresses and ports of one direction, in the conntrack zone of that direction.
///
/// The kernel's `nf_conntrack_tuple`. Not an identity by itself: the same tuple comes back within milliseconds
/// (see [`EntryId`](crate::EntryId)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: IpProtocol,
    /// Source address of a packet that goes this way.
    pub src: IpAddr,
    /// Destination address of a packet that goes this way.
    pub dst: IpAddr,
    /// Ports, or ICMP's fields.
    pub l4: L4,
    /// The zone that a packet of this direction is looked up in; equal in both directions unless a rule says
    /// `ct original zone` or `ct reply zone`.
    pub ct_zone: CtZone,
}

impl Tuple {
    /// Source and destination port, `None` where the protocol has none.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.l4 {
            L4::Ports { src, dst } => Some((src, dst)),
            L4::None | L4::Icmp { .. } => None,
        }
    }

    /// The tuple that answers this one when nothing is translated.
    #[must_use]
    pub fn inverted(&self) -> Self {
        let l4 = match self.l4 {
            L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
            other => other,
        };
        Self { src: self.dst, dst: self.src, l4, ..*self }
    }
}
