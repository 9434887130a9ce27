//! Bytes for the kernel: netlink messages that make or delete an entry, and a UDP packet with its IP header.
//!
//! Numbers are those of `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `nfnetlink_conntrack.h`, written from
//! the headers once more: what checks the reader shares no table with it.

use std::net::{IpAddr, SocketAddr};

use super::plan::{Planned, TCP, UDP, Way};

const HEADER_BYTES: usize = 16;
/// `NFNL_SUBSYS_CTNETLINK << 8`, and `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
const CT_NEW: u16 = 0x100;
const CT_DELETE: u16 = 0x102;
/// `NLMSG_ERROR`, of which an acknowledgement is the one with 0.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`; `NLM_F_ACK`; `NLM_F_EXCL | NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x200 | 0x400;
const NESTED: u16 = 0x8000;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED`: never dropped early, and not waiting for an answer.
const STATUS: u32 = 0x2 | 0x4 | 0x8;
/// Longer than any bench.
const TIMEOUT_SECONDS: u32 = 24 * 3600;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;

/// Appends the message that makes an entry.
pub(super) fn create(batch: &mut Vec<u8>, planned: &Planned, last: bool) {
    message(batch, CT_NEW, CREATE, planned, last, |batch| {
        tuple(batch, 2, planned.protocol, planned.reply);
        attribute(batch, 3, &STATUS.to_be_bytes());
        attribute(batch, 7, &TIMEOUT_SECONDS.to_be_bytes());
        if planned.protocol == TCP {
            nest(batch, 4, |batch| nest(batch, 1, |batch| attribute(batch, 1, &[ESTABLISHED])));
        }
    });
}

/// Appends the message that deletes an entry.
pub(super) fn delete(batch: &mut Vec<u8>, planned: &Planned, last: bool) {
    message(batch, CT_DELETE, 0, planned, last, |_| {});
}

/// The error number that an answer carries, 0 for none; `None` when it is no such answer.
pub(super) fn error_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let code = i32::from_ne_bytes(*answer.get(HEADER_BYTES..)?.first_chunk()?);
    (kind == ERROR).then_some(code.checked_neg()?)
}

/// Writes a UDP packet whose payload is zeros. The kernel fills in the length and checksum of an IPv4 header
/// (`raw(7)`), and checks none of UDP on the way out.
pub(super) fn datagram(packet: &mut Vec<u8>, way: Way, payload_bytes: u16) {
    let udp_bytes = payload_bytes.saturating_add(8);
    packet.clear();
    match (way.src.ip(), way.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
        }
        (src, dst) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(udp_bytes.to_be_bytes());
            packet.extend([UDP, 64]);
            octets(packet, src);
            octets(packet, dst);
        }
    }
    for field in [way.src.port(), way.dst.port(), udp_bytes, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.resize(packet.len() + usize::from(payload_bytes), 0);
}

fn message(
    batch: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    planned: &Planned,
    last: bool,
    more: impl FnOnce(&mut Vec<u8>),
) {
    let start = batch.len();
    batch.extend([0; 4]);
    batch.extend(kind.to_ne_bytes());
    batch.extend((REQUEST | flags | if last { ACK } else { 0 }).to_ne_bytes());
    batch.extend([0; 8]);
    batch.extend([if planned.original.src.is_ipv6() { AF_INET6 } else { AF_INET }, 0, 0, 0]);
    tuple(batch, 1, planned.protocol, planned.original);
    more(batch);
    let length = u32::try_from(batch.len() - start).expect("a message is a few hundred bytes");
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn tuple(batch: &mut Vec<u8>, kind: u16, protocol: u8, way: Way) {
    nest(batch, kind, |batch| {
        nest(batch, 1, |batch| {
            let first = if way.src.is_ipv6() { 3 } else { 1 };
            for (address, kind) in [way.src, way.dst].map(|end| end.ip()).into_iter().zip(first..) {
                let mut value = Vec::new();
                octets(&mut value, address);
                attribute(batch, kind, &value);
            }
        });
        nest(batch, 2, |batch| {
            attribute(batch, 1, &[protocol]);
            for (port, kind) in [way.src, way.dst].map(|end: SocketAddr| end.port()).into_iter().zip(2..) {
                attribute(batch, kind, &port.to_be_bytes());
            }
        });
    });
}

fn octets(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

fn attribute(batch: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let start = open(batch, kind);
    batch.extend(value);
    close(batch, start);
    batch.resize(batch.len().next_multiple_of(4), 0);
}

fn nest(batch: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = open(batch, kind | NESTED);
    inside(batch);
    close(batch, start);
}

fn open(batch: &mut Vec<u8>, kind: u16) -> usize {
    let start = batch.len();
    batch.extend([0; 2]);
    batch.extend(kind.to_ne_bytes());
    start
}

fn close(batch: &mut [u8], start: usize) {
    let length = u16::try_from(batch.len() - start).expect("an attribute is a few hundred bytes");
    batch[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}
