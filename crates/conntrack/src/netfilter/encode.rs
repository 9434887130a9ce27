//! Writes what the kernel writes, for tests: the codec's inverse, after `ctnetlink_fill_info`.

use std::net::IpAddr;

use egressd_flow::{Counter, Counters, CtZone, Ended, Entry, IpProtocol, L4, Tuple, UnixNanos};

use super::uapi::{self, counters, cta, ip, proto, timestamp, tuple};

/// `linux/netlink.h`: `NLA_F_NESTED`, which the kernel sets and readers must ignore.
const NESTED: u16 = 0x8000;
/// `linux/netfilter/nfnetlink_conntrack.h`: attributes that every message has and nobody here reads.
const CTA_MARK: u16 = 8;
const CTA_USE: u16 = 11;

/// One message with its header.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(port.to_ne_bytes());
    bytes.extend(body);
    pad(&mut bytes);
    bytes
}

/// The body that the kernel would write about `entry`.
pub(super) fn entry(entry: &Entry) -> Vec<u8> {
    body(entry, None)
}

/// The body that the kernel would write about its end.
pub(super) fn ended(ended: &Ended) -> Vec<u8> {
    body(&ended.entry, ended.stop)
}

/// One attribute with its padding.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    pad(&mut bytes);
    bytes
}

/// An attribute that holds attributes.
pub(super) fn nest(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

fn body(entry: &Entry, stop: Option<UnixNanos>) -> Vec<u8> {
    let (original, reply) = (&entry.id.original, &entry.reply);
    let shared = if original.ct_zone == reply.ct_zone { original.ct_zone } else { CtZone::default() };
    let family = if original.src.is_ipv4() { uapi::AF_INET } else { uapi::AF_INET6 };
    let mut body = vec![family, uapi::NFNETLINK_V0, 0, 0];
    body.extend(direction(cta::TUPLE_ORIG, original, shared));
    body.extend(direction(cta::TUPLE_REPLY, reply, shared));
    if shared != CtZone::default() {
        body.extend(attribute(cta::ZONE, &shared.0.to_be_bytes()));
    }
    body.extend(entry.status.map(|status| attribute(cta::STATUS, &status.to_be_bytes())).unwrap_or_default());
    body.extend(attribute(CTA_MARK, &7u32.to_be_bytes()));
    let timeout = entry.timeout_seconds.map(|seconds| attribute(cta::TIMEOUT, &seconds.to_be_bytes()));
    body.extend(timeout.unwrap_or_default());
    if let Some(Counters::Directed { tx, rx }) = entry.counters {
        body.extend(counter(cta::COUNTERS_ORIG, tx));
        body.extend(counter(cta::COUNTERS_REPLY, rx));
    }
    body.extend(instants(entry.id.start, stop));
    if let Some(id) = entry.id.kernel_id {
        body.extend(attribute(cta::ID, &u32::try_from(id).unwrap().to_be_bytes()));
    }
    body.extend(attribute(CTA_USE, &1u32.to_be_bytes()));
    body
}

fn direction(kind: u16, said: &Tuple, shared: CtZone) -> Vec<u8> {
    let addresses = match (said.src, said.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [attribute(ip::V4_SRC, &src.octets()), attribute(ip::V4_DST, &dst.octets())]
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [attribute(ip::V6_SRC, &src.octets()), attribute(ip::V6_DST, &dst.octets())]
        }
        mixed => panic!("one entry, two families: {mixed:?}"),
    };
    let mut parts = vec![nest(tuple::IP, &addresses), nest(tuple::PROTO, &layer4(said))];
    if said.ct_zone != shared {
        parts.push(attribute(tuple::ZONE, &said.ct_zone.0.to_be_bytes()));
    }
    nest(kind, &parts)
}

fn layer4(said: &Tuple) -> Vec<Vec<u8>> {
    let mut parts = vec![attribute(proto::NUM, &[said.protocol.0])];
    match said.l4 {
        L4::None => {}
        L4::Ports { src, dst } => parts.extend([
            attribute(proto::SRC_PORT, &src.to_be_bytes()),
            attribute(proto::DST_PORT, &dst.to_be_bytes()),
        ]),
        L4::Icmp { id, kind, code } => {
            let kinds = if said.protocol == IpProtocol::ICMPV6 {
                [proto::ICMPV6_ID, proto::ICMPV6_TYPE, proto::ICMPV6_CODE]
            } else {
                [proto::ICMP_ID, proto::ICMP_TYPE, proto::ICMP_CODE]
            };
            parts.extend([
                attribute(kinds[0], &id.to_be_bytes()),
                attribute(kinds[1], &[kind]),
                attribute(kinds[2], &[code]),
            ]);
        }
    }
    parts
}

fn counter(kind: u16, counter: Counter) -> Vec<u8> {
    nest(
        kind,
        &[
            attribute(counters::PACKETS, &counter.packets.to_be_bytes()),
            attribute(counters::BYTES, &counter.bytes.to_be_bytes()),
        ],
    )
}

fn instants(start: Option<UnixNanos>, stop: Option<UnixNanos>) -> Vec<u8> {
    let instant = |kind, at: UnixNanos| attribute(kind, &at.0.to_be_bytes());
    let parts: Vec<_> = start
        .map(|at| instant(timestamp::START, at))
        .into_iter()
        .chain(stop.map(|at| instant(timestamp::STOP, at)))
        .collect();
    if parts.is_empty() { Vec::new() } else { nest(cta::TIMESTAMP, &parts) }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
