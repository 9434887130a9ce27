//! The encoder: netlink messages and attributes, and the numbers of conntrack's, after the kernel's headers.
//!
//! Invariant: independent of the decoder, so that what both get wrong is wrong twice over.

use std::net::IpAddr;

/// `linux/netfilter/nfnetlink_conntrack.h`, `enum ctattr_type`: those that are read, and two that are not.
pub(crate) mod outer {
    pub(crate) const TUPLE_ORIG: u16 = 1;
    pub(crate) const TUPLE_REPLY: u16 = 2;
    pub(crate) const STATUS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 7;
    pub(crate) const MARK: u16 = 8;
    pub(crate) const COUNTERS_ORIG: u16 = 9;
    pub(crate) const COUNTERS_REPLY: u16 = 10;
    pub(crate) const USE: u16 = 11;
    pub(crate) const ID: u16 = 12;
    pub(crate) const ZONE: u16 = 18;
    pub(crate) const TIMESTAMP: u16 = 20;
}

/// A message's header but for its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
}

/// A message with its true length, unpadded.
pub(crate) fn message(header: Header, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).expect("inputs are far below 4 GiB");
    [
        &length.to_ne_bytes()[..],
        &header.kind.to_ne_bytes(),
        &header.flags.to_ne_bytes(),
        &header.sequence.to_ne_bytes(),
        &header.port.to_ne_bytes(),
        body,
    ]
    .concat()
}

/// An attribute with its true length and its padding. What is longer than an attribute can be is cut.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let value = &value[..value.len().min(usize::from(u16::MAX) - 4)];
    let length = u16::try_from(value.len() + 4).expect("cut above");
    padded([&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat())
}

/// Fills up to a whole number of words.
pub(crate) fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
    bytes
}

/// Source and destination, `enum ctattr_ip`.
pub(crate) fn addresses(src: IpAddr, dst: IpAddr) -> [Vec<u8>; 2] {
    let of = |address: IpAddr, v4, v6| match address {
        IpAddr::V4(address) => attribute(v4, &address.octets()),
        IpAddr::V6(address) => attribute(v6, &address.octets()),
    };
    [of(src, 1, 3), of(dst, 2, 4)]
}
