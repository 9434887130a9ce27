//! Numbers of the kernel's netfilter interface, each once, under the header that defines it.
//!
//! Only those that are read or sent. All of them are user-space ABI, and none is younger than Linux 4.3,
//! the age of `CTA_TUPLE_ZONE`, unless it says so.

/// `linux/netlink.h`: `NLMSG_*`, message types below the families' own.
pub(super) mod control {
    pub(crate) const NOOP: u16 = 1;
    pub(crate) const ERROR: u16 = 2;
    pub(crate) const DONE: u16 = 3;
    pub(crate) const OVERRUN: u16 = 4;
}

/// `linux/netlink.h`: the dump is inconsistent.
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
/// `linux/netlink.h`: the bits of `nla_type` that are a type; the other two say nested and byte order.
pub(super) const NLA_TYPE_MASK: u16 = 0x3fff;

/// `linux/netfilter/nfnetlink.h`.
pub(super) const NFNETLINK_V0: u8 = 0;
/// `linux/netfilter/nfnetlink.h`: `NFNL_SUBSYS_CTNETLINK`, the upper byte of the message type.
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
/// `linux/netfilter/nfnetlink.h`, `enum nfnetlink_groups`.
pub(super) const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// `linux/socket.h`: address families as `nfgen_family` holds them.
pub(super) const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum cntl_msg_types`: an entry, in a dump as in a NEW event.
pub(super) const CT_NEW: u16 = NFNL_SUBSYS_CTNETLINK << 8;
/// The request that lists. Its neighbour 3, `GET_CTRZERO`, zeroes counters for every other reader: never used.
pub(super) const CT_GET: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 1;
/// An entry destroyed.
pub(super) const CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 2;

/// `linux/netfilter/nf_conntrack_common.h`, `enum ip_conntrack_status`: a flowtable forwards the entry's packets.
/// Since Linux 4.16.
pub(super) const IPS_OFFLOAD: u32 = 1 << 14;
/// As above, in hardware. Since Linux 5.8.
pub(super) const IPS_HW_OFFLOAD: u32 = 1 << 15;

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_type`.
pub(super) mod cta {
    pub(crate) const TUPLE_ORIG: u16 = 1;
    pub(crate) const TUPLE_REPLY: u16 = 2;
    pub(crate) const STATUS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 7;
    pub(crate) const COUNTERS_ORIG: u16 = 9;
    pub(crate) const COUNTERS_REPLY: u16 = 10;
    pub(crate) const ID: u16 = 12;
    pub(crate) const ZONE: u16 = 18;
    pub(crate) const TIMESTAMP: u16 = 20;
}

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_tuple`.
pub(super) mod tuple {
    pub(crate) const IP: u16 = 1;
    pub(crate) const PROTO: u16 = 2;
    pub(crate) const ZONE: u16 = 3;
}

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_ip`.
pub(super) mod ip {
    pub(crate) const V4_SRC: u16 = 1;
    pub(crate) const V4_DST: u16 = 2;
    pub(crate) const V6_SRC: u16 = 3;
    pub(crate) const V6_DST: u16 = 4;
}

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_l4proto`.
pub(super) mod proto {
    pub(crate) const NUM: u16 = 1;
    pub(crate) const SRC_PORT: u16 = 2;
    pub(crate) const DST_PORT: u16 = 3;
    pub(crate) const ICMP_ID: u16 = 4;
    pub(crate) const ICMP_TYPE: u16 = 5;
    pub(crate) const ICMP_CODE: u16 = 6;
    pub(crate) const ICMPV6_ID: u16 = 7;
    pub(crate) const ICMPV6_TYPE: u16 = 8;
    pub(crate) const ICMPV6_CODE: u16 = 9;
}

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_counters`. The header calls the 32-bit ones old and
/// unused; they are read all the same.
pub(super) mod counters {
    pub(crate) const PACKETS: u16 = 1;
    pub(crate) const BYTES: u16 = 2;
    pub(crate) const PACKETS_32: u16 = 3;
    pub(crate) const BYTES_32: u16 = 4;
}

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_tstamp`.
pub(super) mod timestamp {
    pub(crate) const START: u16 = 1;
    pub(crate) const STOP: u16 = 2;
}
