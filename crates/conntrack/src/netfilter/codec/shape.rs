//! Where in a message's body the fields of an entry stand.
//!
//! An attribute that is not read here is passed over, as netlink asks of readers older than the kernel. What is
//! read must be whole: a value of the wrong length, half a tuple or half a counter makes the row malformed.
//!
//! Invariant: headers alone decide a shape. Whatever has the same headers at the same places has this one, and only
//! values differ.

use std::net::IpAddr;
use std::ops::Range;

use egressd_flow::{Counter, Counters, CtZone, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos, View};

use super::super::ct_zones::CtZones;
use super::super::message::{Attribute, Attributes};
use super::super::uapi::{self, counters, cta, ip, proto, timestamp, tuple};
use super::Defect;

/// `linux/netfilter/nfnetlink.h`: `struct nfgenmsg`: family, version, two bytes of no meaning here.
const HEAD_BYTES: usize = 4;

/// Hears where each header stands that decided about a shape.
pub(super) type Note<'n> = &'n mut dyn FnMut(usize);

/// Offset of a value in the body.
type At = usize;

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    original: Direction,
    reply: Direction,
    /// Original and reply.
    counters: Option<(Count, Count)>,
    ct_zone: Option<At>,
    kernel_id: Option<At>,
    status: Option<At>,
    timeout_seconds: Option<At>,
    start: Option<At>,
    stop: Option<At>,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug)]
struct Direction {
    family: Family,
    src: At,
    dst: At,
    protocol: At,
    l4: Layer4,
    /// Said only when the directions differ; goes before the entry's.
    ct_zone: Option<At>,
}

#[derive(Clone, Copy, Debug)]
enum Layer4 {
    None,
    Ports { src: At, dst: At },
    Icmp { id: At, kind: At, code: At },
}

#[derive(Clone, Copy, Debug)]
struct Count {
    bytes: Number,
    packets: Number,
}

/// The header calls the 32-bit counters old and unused; they are read all the same.
#[derive(Clone, Copy, Debug)]
enum Number {
    Narrow(At),
    Wide(At),
}

impl Shape {
    /// Finds the fields. Tuples are looked into when all of the outer level is known: the last of two counts.
    pub(super) fn of(body: &[u8], note: Note<'_>) -> Result<Self, Defect> {
        let family = family(body)?;
        let (mut original, mut reply) = (None, None);
        let (mut tx, mut rx) = (None, None);
        let (mut ct_zone, mut kernel_id, mut status, mut timeout_seconds) = (None, None, None, None);
        let (mut start, mut stop) = (None, None);
        for attribute in Attributes::new(body, HEAD_BYTES..body.len()) {
            let attribute = noted(attribute, note)?;
            match attribute.kind {
                cta::TUPLE_ORIG => original = Some(attribute.value),
                cta::TUPLE_REPLY => reply = Some(attribute.value),
                cta::STATUS => status = Some(whole(&attribute, 4)?),
                cta::TIMEOUT => timeout_seconds = Some(whole(&attribute, 4)?),
                cta::COUNTERS_ORIG => tx = Some(count(body, attribute.value, note)?),
                cta::COUNTERS_REPLY => rx = Some(count(body, attribute.value, note)?),
                cta::ID => kernel_id = Some(whole(&attribute, 4)?),
                cta::ZONE => ct_zone = Some(whole(&attribute, 2)?),
                cta::TIMESTAMP => (start, stop) = timestamps(body, attribute.value, note)?,
                _ => {}
            }
        }
        let counters = match (tx, rx) {
            (Some(tx), Some(rx)) => Some((tx, rx)),
            (None, None) => None,
            _ => return Err(Defect::Malformed),
        };
        let mut direction = |nest: Option<_>| direction(body, nest.ok_or(Defect::Malformed)?, family, note);
        let (original, reply) = (direction(original)?, direction(reply)?);
        Ok(Self { original, reply, counters, ct_zone, kernel_id, status, timeout_seconds, start, stop })
    }

    /// Reads the fields of a body of this shape into `entry`, which means nothing where that fails; tells when the entry
    /// stopped.
    ///
    /// The one place where conntrack zones are chosen. A row of another is not looked at further.
    pub(super) fn read(
        &self,
        body: &[u8],
        ct_zones: &CtZones,
        entry: &mut Entry,
    ) -> Result<Option<UnixNanos>, Defect> {
        let Entry {
            id: EntryId { original, kernel_id, start },
            reply,
            view,
            counters,
            status,
            timeout_seconds,
        } = entry;
        let ct_zone = self.ct_zone.map_or(Ok(0), |at| be16(body, at)).map(CtZone)?;
        self.original.read(body, ct_zone, original)?;
        if !ct_zones.contains(original.ct_zone) {
            return Err(Defect::OtherCtZone);
        }
        self.reply.read(body, ct_zone, reply)?;
        *counters = match &self.counters {
            Some((tx, rx)) => Some(Counters::Directed { tx: tx.read(body)?, rx: rx.read(body)? }),
            None => None,
        };
        let optional = |at: Option<At>| at.map(|at| be32(body, at)).transpose();
        (*kernel_id, *start) = (optional(self.kernel_id)?.map(u64::from), instant(body, self.start)?);
        (*status, *timeout_seconds) = (optional(self.status)?, optional(self.timeout_seconds)?);
        *view = View::Both;
        instant(body, self.stop)
    }
}

impl Direction {
    #[inline]
    fn read(&self, body: &[u8], entry_ct_zone: CtZone, into: &mut Tuple) -> Result<(), Defect> {
        (into.src, into.dst) = match self.family {
            Family::V4 => {
                (IpAddr::from(value::<4>(body, self.src)?), IpAddr::from(value::<4>(body, self.dst)?))
            }
            Family::V6 => {
                (IpAddr::from(value::<16>(body, self.src)?), IpAddr::from(value::<16>(body, self.dst)?))
            }
        };
        into.protocol = IpProtocol(byte(body, self.protocol)?);
        into.l4 = match self.l4 {
            Layer4::None => L4::None,
            Layer4::Ports { src, dst } => L4::Ports { src: be16(body, src)?, dst: be16(body, dst)? },
            Layer4::Icmp { id, kind, code } => {
                L4::Icmp { id: be16(body, id)?, kind: byte(body, kind)?, code: byte(body, code)? }
            }
        };
        into.ct_zone = self.ct_zone.map_or(Ok(entry_ct_zone), |at| be16(body, at).map(CtZone))?;
        Ok(())
    }
}

impl Count {
    #[inline]
    fn read(&self, body: &[u8]) -> Result<Counter, Defect> {
        Ok(Counter { bytes: self.bytes.read(body)?, packets: self.packets.read(body)? })
    }
}

impl Number {
    #[inline]
    fn read(self, body: &[u8]) -> Result<u64, Defect> {
        match self {
            Self::Narrow(at) => be32(body, at).map(u64::from),
            Self::Wide(at) => value(body, at).map(u64::from_be_bytes),
        }
    }
}

fn family(body: &[u8]) -> Result<Family, Defect> {
    let &[family, version, ..] = body.first_chunk::<HEAD_BYTES>().ok_or(Defect::Malformed)?;
    match (version, family) {
        (uapi::NFNETLINK_V0, uapi::AF_INET) => Ok(Family::V4),
        (uapi::NFNETLINK_V0, uapi::AF_INET6) => Ok(Family::V6),
        _ => Err(Defect::Unsupported),
    }
}

fn direction(body: &[u8], nest: Range<usize>, family: Family, note: Note<'_>) -> Result<Direction, Defect> {
    let (mut ends, mut layer4, mut ct_zone) = (None, None, None);
    for attribute in Attributes::new(body, nest) {
        let attribute = noted(attribute, note)?;
        match attribute.kind {
            tuple::IP => ends = Some(addresses(body, attribute.value, family, note)?),
            tuple::PROTO => layer4 = Some(protocol(body, attribute.value, note)?),
            tuple::ZONE => ct_zone = Some(whole(&attribute, 2)?),
            _ => {}
        }
    }
    let (Some((src, dst)), Some((protocol, l4))) = (ends, layer4) else { return Err(Defect::Malformed) };
    Ok(Direction { family, src, dst, protocol, l4, ct_zone })
}

fn addresses(body: &[u8], nest: Range<usize>, family: Family, note: Note<'_>) -> Result<(At, At), Defect> {
    let (mut src, mut dst) = (None, None);
    for attribute in Attributes::new(body, nest) {
        let attribute = noted(attribute, note)?;
        match (family, attribute.kind) {
            (Family::V4, ip::V4_SRC) => src = Some(whole(&attribute, 4)?),
            (Family::V4, ip::V4_DST) => dst = Some(whole(&attribute, 4)?),
            (Family::V6, ip::V6_SRC) => src = Some(whole(&attribute, 16)?),
            (Family::V6, ip::V6_DST) => dst = Some(whole(&attribute, 16)?),
            _ => {}
        }
    }
    src.zip(dst).ok_or(Defect::Malformed)
}

/// Ports also stand for GRE's call ids, SCTP's and DCCP's ports; a protocol that the kernel tracks as generic has
/// neither ports nor ICMP fields.
fn protocol(body: &[u8], nest: Range<usize>, note: Note<'_>) -> Result<(At, Layer4), Defect> {
    let (mut number, mut src, mut dst) = (None, None, None);
    let (mut id, mut kind, mut code) = (None, None, None);
    for attribute in Attributes::new(body, nest) {
        let attribute = noted(attribute, note)?;
        match attribute.kind {
            proto::NUM => number = Some(whole(&attribute, 1)?),
            proto::SRC_PORT => src = Some(whole(&attribute, 2)?),
            proto::DST_PORT => dst = Some(whole(&attribute, 2)?),
            proto::ICMP_ID | proto::ICMPV6_ID => id = Some(whole(&attribute, 2)?),
            proto::ICMP_TYPE | proto::ICMPV6_TYPE => kind = Some(whole(&attribute, 1)?),
            proto::ICMP_CODE | proto::ICMPV6_CODE => code = Some(whole(&attribute, 1)?),
            _ => {}
        }
    }
    let l4 = match (src, dst, id, kind, code) {
        (Some(src), Some(dst), None, None, None) => Layer4::Ports { src, dst },
        (None, None, Some(id), Some(kind), Some(code)) => Layer4::Icmp { id, kind, code },
        (None, None, None, None, None) => Layer4::None,
        _ => return Err(Defect::Malformed),
    };
    Ok((number.ok_or(Defect::Malformed)?, l4))
}

fn count(body: &[u8], nest: Range<usize>, note: Note<'_>) -> Result<Count, Defect> {
    let (mut bytes, mut packets) = (None, None);
    for attribute in Attributes::new(body, nest) {
        let attribute = noted(attribute, note)?;
        match attribute.kind {
            counters::BYTES => bytes = Some(Number::Wide(whole(&attribute, 8)?)),
            counters::PACKETS => packets = Some(Number::Wide(whole(&attribute, 8)?)),
            counters::BYTES_32 => bytes = Some(Number::Narrow(whole(&attribute, 4)?)),
            counters::PACKETS_32 => packets = Some(Number::Narrow(whole(&attribute, 4)?)),
            _ => {}
        }
    }
    let (Some(bytes), Some(packets)) = (bytes, packets) else { return Err(Defect::Malformed) };
    Ok(Count { bytes, packets })
}

/// Start and stop.
fn timestamps(body: &[u8], nest: Range<usize>, note: Note<'_>) -> Result<(Option<At>, Option<At>), Defect> {
    let (mut start, mut stop) = (None, None);
    for attribute in Attributes::new(body, nest) {
        let attribute = noted(attribute, note)?;
        match attribute.kind {
            timestamp::START => start = Some(whole(&attribute, 8)?),
            timestamp::STOP => stop = Some(whole(&attribute, 8)?),
            _ => {}
        }
    }
    Ok((start, stop))
}

fn noted<E: Into<Defect>>(attribute: Result<Attribute, E>, note: Note<'_>) -> Result<Attribute, Defect> {
    let attribute = attribute.map_err(Into::into)?;
    note(attribute.header);
    Ok(attribute)
}

/// Where the value is, which must be of this many bytes.
fn whole(attribute: &Attribute, bytes: usize) -> Result<At, Defect> {
    if attribute.value.len() == bytes { Ok(attribute.value.start) } else { Err(Defect::Malformed) }
}

/// The kernel fills the start in when the entry enters the table: 0 is no start yet, not 1970.
#[inline]
fn instant(body: &[u8], at: Option<At>) -> Result<Option<UnixNanos>, Defect> {
    let Some(at) = at else { return Ok(None) };
    let nanos = u64::from_be_bytes(value(body, at)?);
    Ok((nanos != 0).then_some(UnixNanos(nanos)))
}

#[inline]
fn byte(body: &[u8], at: At) -> Result<u8, Defect> {
    value(body, at).map(|[byte]: [u8; 1]| byte)
}

#[inline]
fn be16(body: &[u8], at: At) -> Result<u16, Defect> {
    value(body, at).map(u16::from_be_bytes)
}

#[inline]
fn be32(body: &[u8], at: At) -> Result<u32, Defect> {
    value(body, at).map(u32::from_be_bytes)
}

#[inline]
fn value<const N: usize>(body: &[u8], at: At) -> Result<[u8; N], Defect> {
    body.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Defect::Malformed)
}
