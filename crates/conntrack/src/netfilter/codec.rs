//! One ctnetlink message body (`struct nfgenmsg` and attributes) into an [`Entry`] or an [`Ended`].
//!
//! Pure, and allocates nothing. Layout: `linux/netfilter/nfnetlink_conntrack.h`; the kernel writes it in
//! `ctnetlink_fill_info` and `ctnetlink_conntrack_event` (`net/netfilter/nf_conntrack_netlink.c`). Values are in
//! network byte order, headers in the host's.
//!
//! An attribute that is not read here is passed over, as netlink asks of readers older than the kernel. What is
//! read must be whole: a value of the wrong length, half a tuple or half a counter makes the row malformed.

use std::net::{IpAddr, Ipv4Addr};

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

const BLANK_TUPLE: Tuple = Tuple {
    protocol: IpProtocol::ANY,
    src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    l4: L4::None,
    ct_zone: CtZone(0),
};

/// What [`decode`] writes over.
pub(super) const BLANK: Entry = Entry {
    id: EntryId { original: BLANK_TUPLE, kernel_id: None, start: None },
    reply: BLANK_TUPLE,
    view: View::Both,
    counters: None,
    status: None,
    timeout_seconds: None,
};

/// Decodes an entry as a dump shows it.
///
/// # Errors
/// [`Defect`] when the row has to be skipped.
pub fn entry(body: &[u8], ct_zones: &CtZones) -> Result<Entry, Defect> {
    let mut entry = BLANK;
    decode(body, ct_zones, &mut entry)?;
    Ok(entry)
}

/// Decodes an entry's end: the body of a DESTROY event.
///
/// # Errors
/// [`Defect`] when the event has to be skipped.
pub fn ended(body: &[u8], ct_zones: &CtZones) -> Result<Ended, Defect> {
    let mut entry = BLANK;
    let stop = decode(body, ct_zones, &mut entry)?;
    Ok(Ended { entry, stop })
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

/// Decodes into `entry`, which means nothing where that fails; tells when the entry stopped. Field by field, since an
/// entry that is moved from one function to the next costs about as much as its attributes.
///
/// The one place where conntrack zones are chosen. A row of another is not looked at further.
pub(super) fn decode(
    body: &[u8],
    ct_zones: &CtZones,
    entry: &mut Entry,
) -> Result<Option<UnixNanos>, Defect> {
    let (family, attributes) = family(body)?;
    let fields = fields(attributes)?;
    let Entry { id: EntryId { original, kernel_id, start }, reply, view, counters, status, timeout_seconds } =
        entry;
    direction(fields.original.ok_or(Defect::Malformed)?, family, fields.ct_zone, original)?;
    if !ct_zones.contains(original.ct_zone) {
        return Err(Defect::OtherCtZone);
    }
    direction(fields.reply.ok_or(Defect::Malformed)?, family, fields.ct_zone, reply)?;
    *counters = match (fields.tx, fields.rx) {
        (Some(tx), Some(rx)) => Some(Counters::Directed { tx, rx }),
        (None, None) => None,
        _ => return Err(Defect::Malformed),
    };
    (*kernel_id, *start, *view) = (fields.kernel_id.map(u64::from), fields.start, View::Both);
    (*status, *timeout_seconds) = (fields.status, fields.timeout_seconds);
    Ok(fields.stop)
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
fn direction(nest: &[u8], family: Family, entry_ct_zone: CtZone, into: &mut Tuple) -> Result<(), Defect> {
    let (mut has_ends, mut has_protocol) = (false, false);
    into.ct_zone = entry_ct_zone;
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        match kind {
            tuple::IP => {
                addresses(value, family, into)?;
                has_ends = true;
            }
            tuple::PROTO => {
                (into.protocol, into.l4) = protocol(value)?;
                has_protocol = true;
            }
            tuple::ZONE => into.ct_zone = CtZone(be16(value)?),
            _ => {}
        }
    }
    if has_ends && has_protocol { Ok(()) } else { Err(Defect::Malformed) }
}

fn addresses(nest: &[u8], family: Family, into: &mut Tuple) -> Result<(), Defect> {
    let (mut has_src, mut has_dst) = (false, false);
    for attribute in Attributes::new(nest) {
        let (kind, value) = attribute?;
        let (address, has_address) = match (family, kind) {
            (Family::V4, ip::V4_SRC) | (Family::V6, ip::V6_SRC) => (&mut into.src, &mut has_src),
            (Family::V4, ip::V4_DST) | (Family::V6, ip::V6_DST) => (&mut into.dst, &mut has_dst),
            _ => continue,
        };
        *address = match family {
            Family::V4 => IpAddr::V4(array::<4>(value)?.into()),
            Family::V6 => IpAddr::V6(array::<16>(value)?.into()),
        };
        *has_address = true;
    }
    if has_src && has_dst { Ok(()) } else { Err(Defect::Malformed) }
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
