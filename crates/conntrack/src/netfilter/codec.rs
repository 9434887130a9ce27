//! One ctnetlink message body (`struct nfgenmsg` and attributes) into an [`Entry`] or an [`Ended`].
//!
//! Pure, and allocates nothing. Layout: `linux/netfilter/nfnetlink_conntrack.h`; the kernel writes it in
//! `ctnetlink_fill_info` and `ctnetlink_conntrack_event` (`net/netfilter/nf_conntrack_netlink.c`). Values are in
//! network byte order, headers in the host's.
//!
//! An attribute that is not read here is passed over, as netlink asks of readers older than the kernel. What is
//! read must be whole: a value of the wrong length, half a tuple or half a counter makes the row malformed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egressd_flow::View;
use egressd_flow::{
    Counter, Counters, CtZone, Defects, Ended, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos,
};

use super::ct_zones::CtZones;
use super::message::{Attributes, Messages, Unframed};
use super::uapi::{self, counters, cta, ip, proto, timestamp, tuple};

/// Why a row was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The bytes contradict themselves, or something that every entry has is missing.
    #[error("malformed conntrack message")]
    Malformed,
    /// Neither IPv4 nor IPv6, another version of nfnetlink, or a message that is not about an entry.
    #[error("conntrack message of an unknown kind")]
    Unsupported,
    /// The original direction stands in a conntrack zone that was not asked for: nothing is wrong with it.
    #[error("entry of another conntrack zone")]
    OtherCtZone,
}

impl Defect {
    /// Adds this one.
    pub fn count(self, defects: &mut Defects) {
        match self {
            Self::Malformed => defects.malformed += 1,
            Self::Unsupported => defects.unsupported += 1,
            Self::OtherCtZone => defects.other_ct_zones += 1,
        }
    }
}

impl From<Unframed> for Defect {
    fn from(_: Unframed) -> Self {
        Self::Malformed
    }
}

/// Decodes an entry as a dump shows it.
///
/// # Errors
/// [`Defect`] when the row has to be skipped.
pub fn entry(body: &[u8], ct_zones: &CtZones) -> Result<Entry, Defect> {
    decode(body, ct_zones).map(|(entry, _)| entry)
}

/// Decodes an entry's end: the body of a DESTROY event.
///
/// # Errors
/// [`Defect`] when the event has to be skipped.
pub fn ended(body: &[u8], ct_zones: &CtZones) -> Result<Ended, Defect> {
    decode(body, ct_zones).map(|(entry, stop)| Ended { entry, stop })
}

/// Decodes the DESTROY events of one datagram, skipping and counting what is not one or not of `ct_zones`.
pub fn ends(datagram: &[u8], ct_zones: &CtZones, defects: &mut Defects, each: &mut dyn FnMut(Ended)) {
    for message in Messages::new(datagram) {
        let decoded = match message {
            Ok(message) if message.kind == uapi::CT_DELETE => ended(message.body, ct_zones),
            Ok(message) if message.kind == uapi::control::NOOP => continue,
            Ok(_) => Err(Defect::Unsupported),
            Err(unframed) => Err(unframed.into()),
        };
        match decoded {
            Ok(ended) => {
                defects.without_counters += u64::from(ended.entry.counters.is_none());
                each(ended);
            }
            Err(defect) => defect.count(defects),
        }
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// Attributes of the outer level. Tuples stay bytes until the conntrack zone is known, which comes after them.
#[derive(Default)]
struct Fields<'a> {
    original: Option<&'a [u8]>,
    reply: Option<&'a [u8]>,
    tx: Option<Counter>,
    rx: Option<Counter>,
    ct_zone: CtZone,
    kernel_id: Option<u32>,
    status: Option<u32>,
    timeout_seconds: Option<u32>,
    start: Option<UnixNanos>,
    stop: Option<UnixNanos>,
}

/// The one place where conntrack zones are chosen. A row of another is not looked at further.
fn decode(body: &[u8], ct_zones: &CtZones) -> Result<(Entry, Option<UnixNanos>), Defect> {
    let (family, attributes) = family(body)?;
    let fields = fields(attributes)?;
    let original = direction(fields.original.ok_or(Defect::Malformed)?, family, fields.ct_zone)?;
    if !ct_zones.contains(original.ct_zone) {
        return Err(Defect::OtherCtZone);
    }
    let reply = direction(fields.reply.ok_or(Defect::Malformed)?, family, fields.ct_zone)?;
    let counters = match (fields.tx, fields.rx) {
        (Some(tx), Some(rx)) => Some(Counters::Directed { tx, rx }),
        (None, None) => None,
        _ => return Err(Defect::Malformed),
    };
    let entry = Entry {
        id: EntryId { original, kernel_id: fields.kernel_id.map(u64::from), start: fields.start },
        reply,
        view: View::Both,
        counters,
        status: fields.status,
        timeout_seconds: fields.timeout_seconds,
    };
    Ok((entry, fields.stop))
}

/// Splits off `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`): family, version, two bytes of no meaning here.
fn family(body: &[u8]) -> Result<(Family, &[u8]), Defect> {
    let (&[family, version, ..], attributes) = body.split_first_chunk::<4>().ok_or(Defect::Malformed)?;
    match (version, family) {
        (uapi::NFNETLINK_V0, uapi::AF_INET) => Ok((Family::V4, attributes)),
        (uapi::NFNETLINK_V0, uapi::AF_INET6) => Ok((Family::V6, attributes)),
        _ => Err(Defect::Unsupported),
    }
}

fn fields(attributes: &[u8]) -> Result<Fields<'_>, Defect> {
    let mut fields = Fields::default();
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        match kind {
            cta::TUPLE_ORIG => fields.original = Some(value),
            cta::TUPLE_REPLY => fields.reply = Some(value),
            cta::STATUS => fields.status = Some(be32(value)?),
            cta::TIMEOUT => fields.timeout_seconds = Some(be32(value)?),
            cta::COUNTERS_ORIG => fields.tx = Some(counter(value)?),
            cta::COUNTERS_REPLY => fields.rx = Some(counter(value)?),
            cta::ID => fields.kernel_id = Some(be32(value)?),
            cta::ZONE => fields.ct_zone = CtZone(be16(value)?),
            cta::TIMESTAMP => (fields.start, fields.stop) = timestamps(value)?,
            _ => {}
        }
    }
    Ok(fields)
}

/// Decodes one direction's tuple. Its own conntrack zone, said only when the directions differ, goes before the
/// entry's.
fn direction(nest: &[u8], family: Family, entry_ct_zone: CtZone) -> Result<Tuple, Defect> {
    let (mut ends, mut layer4, mut ct_zone) = (None, None, entry_ct_zone);
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        match kind {
            tuple::IP => ends = Some(addresses(value, family)?),
            tuple::PROTO => layer4 = Some(protocol(value)?),
            tuple::ZONE => ct_zone = CtZone(be16(value)?),
            _ => {}
        }
    }
    let (Some((src, dst)), Some((protocol, l4))) = (ends, layer4) else { return Err(Defect::Malformed) };
    Ok(Tuple { protocol, src, dst, l4, ct_zone })
}

fn addresses(nest: &[u8], family: Family) -> Result<(IpAddr, IpAddr), Defect> {
    let (mut src, mut dst) = (None, None);
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        match (family, kind) {
            (Family::V4, ip::V4_SRC) => src = Some(v4(value)?),
            (Family::V4, ip::V4_DST) => dst = Some(v4(value)?),
            (Family::V6, ip::V6_SRC) => src = Some(v6(value)?),
            (Family::V6, ip::V6_DST) => dst = Some(v6(value)?),
            _ => {}
        }
    }
    src.zip(dst).ok_or(Defect::Malformed)
}

/// Ports also stand for GRE's call ids, SCTP's and DCCP's ports; a protocol that the kernel tracks as generic has
/// neither ports nor ICMP fields.
fn protocol(nest: &[u8]) -> Result<(IpProtocol, L4), Defect> {
    let mut number = None;
    let (mut src, mut dst) = (None, None);
    let (mut id, mut kind, mut code) = (None, None, None);
    for attribute in Attributes::new(nest) {
        let (attribute, value) = attribute?;
        match attribute {
            proto::NUM => number = Some(byte(value)?),
            proto::SRC_PORT => src = Some(be16(value)?),
            proto::DST_PORT => dst = Some(be16(value)?),
            proto::ICMP_ID | proto::ICMPV6_ID => id = Some(be16(value)?),
            proto::ICMP_TYPE | proto::ICMPV6_TYPE => kind = Some(byte(value)?),
            proto::ICMP_CODE | proto::ICMPV6_CODE => code = Some(byte(value)?),
            _ => {}
        }
    }
    let l4 = match (src, dst, id, kind, code) {
        (Some(src), Some(dst), None, None, None) => L4::Ports { src, dst },
        (None, None, Some(id), Some(kind), Some(code)) => L4::Icmp { id, kind, code },
        (None, None, None, None, None) => L4::None,
        _ => return Err(Defect::Malformed),
    };
    Ok((IpProtocol(number.ok_or(Defect::Malformed)?), l4))
}

fn counter(nest: &[u8]) -> Result<Counter, Defect> {
    let (mut bytes, mut packets) = (None, None);
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        match kind {
            counters::BYTES => bytes = Some(be64(value)?),
            counters::PACKETS => packets = Some(be64(value)?),
            counters::BYTES_32 => bytes = Some(be32(value)?.into()),
            counters::PACKETS_32 => packets = Some(be32(value)?.into()),
            _ => {}
        }
    }
    let (Some(bytes), Some(packets)) = (bytes, packets) else { return Err(Defect::Malformed) };
    Ok(Counter { bytes, packets })
}

/// Start and stop. The kernel fills the start in when the entry enters the table: 0 is no start yet, not 1970.
fn timestamps(nest: &[u8]) -> Result<(Option<UnixNanos>, Option<UnixNanos>), Defect> {
    let (mut start, mut stop) = (None, None);
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        match kind {
            timestamp::START => start = instant(be64(value)?),
            timestamp::STOP => stop = instant(be64(value)?),
            _ => {}
        }
    }
    Ok((start, stop))
}

fn instant(nanos: u64) -> Option<UnixNanos> {
    (nanos != 0).then_some(UnixNanos(nanos))
}

fn v4(value: &[u8]) -> Result<IpAddr, Defect> {
    array(value).map(|octets: [u8; 4]| Ipv4Addr::from(octets).into())
}

fn v6(value: &[u8]) -> Result<IpAddr, Defect> {
    array(value).map(|octets: [u8; 16]| Ipv6Addr::from(octets).into())
}

fn byte(value: &[u8]) -> Result<u8, Defect> {
    array(value).map(|[byte]: [u8; 1]| byte)
}

fn be16(value: &[u8]) -> Result<u16, Defect> {
    array(value).map(u16::from_be_bytes)
}

fn be32(value: &[u8]) -> Result<u32, Defect> {
    array(value).map(u32::from_be_bytes)
}

fn be64(value: &[u8]) -> Result<u64, Defect> {
    array(value).map(u64::from_be_bytes)
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Defect> {
    value.try_into().map_err(|_| Defect::Malformed)
}

#[cfg(test)]
mod tests;
