//! A message about an entry: what it says, and what must be read of it.
//!
//! How it is written changes nothing (`encode`); one [`Fault`] makes the row one that has to be skipped.

mod encode;

use std::net::IpAddr;

use arbitrary::Arbitrary;
use egressd_conntrack::netfilter::codec::Defect;
use egressd_flow::{
    Counter, Counters, CtZone, Ended, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos, View,
};

/// What the kernel says about an entry, and how it is written down.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Row {
    addresses: Addresses,
    original: Direction,
    reply: Direction,
    ct_zone: Option<u16>,
    status: Option<u32>,
    timeout_seconds: Option<u32>,
    counters: Option<[Tally; 2]>,
    kernel_id: Option<u32>,
    /// Start and stop.
    timestamps: Option<[Instant; 2]>,
    unknown: Vec<Unknown>,
    /// Decides the order of attributes, their flag bits, and which are said twice.
    dice: u64,
    fault: Option<Fault>,
}

/// Original source and destination, then those of the reply.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Addresses {
    V4([[u8; 4]; 4]),
    V6([[u8; 16]; 4]),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Direction {
    protocol: u8,
    l4: Layer4,
    ct_zone: Option<u16>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Layer4 {
    None,
    Ports { src: u16, dst: u16 },
    Icmp { id: u16, kind: u8, code: u8 },
    IcmpV6 { id: u16, kind: u8, code: u8 },
}

/// Counters as kernels write them now, and as the header still has them.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Tally {
    Wide { bytes: u64, packets: u64 },
    Narrow { bytes: u32, packets: u32 },
}

/// An instant that is not said, one that is said to be none, and one.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Instant {
    Unsaid,
    Zero,
    At(u64),
}

/// An attribute of a kind that no kernel of today has.
#[derive(Arbitrary, Clone, Debug)]
struct Unknown {
    place: Place,
    kind: u16,
    value: Vec<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outer,
    Tuple,
    Addresses,
    Layer4,
    Counters,
    Timestamps,
}

/// The one thing that is wrong with a row.
#[derive(Arbitrary, Clone, Debug)]
enum Fault {
    Version(u8),
    Family(u8),
    /// `struct nfgenmsg` is not whole.
    Short(u8),
    NoTuple {
        reply: bool,
    },
    NoProtocol,
    OneAddress,
    OnePort,
    HalfAnIcmp,
    OneCounter,
    BytesWithoutPackets,
    Width {
        of: Scalar,
        bytes: u8,
    },
    /// A last attribute that says to be longer than the message.
    LyingTail {
        length: u16,
    },
    /// Bytes behind the last attribute, fewer than make one.
    Stub(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Scalar {
    Status,
    Timeout,
    Id,
    CtZone,
}

impl Row {
    /// What a reader must make of it as an end; as a dump's row the same without the stop.
    pub(crate) fn expected(&self) -> Result<Ended, Defect> {
        match self.fault {
            Some(Fault::Version(_) | Fault::Family(_)) => return Err(Defect::Unsupported),
            Some(_) => return Err(Defect::Malformed),
            None => {}
        }
        let [start, stop] = self.timestamps.map_or([None; 2], |both| both.map(Instant::read));
        let [src, dst, reply_src, reply_dst] = self.addresses.all();
        let entry = Entry {
            id: EntryId {
                original: self.original.tuple(src, dst, self.ct_zone),
                kernel_id: self.kernel_id.map(u64::from),
                start,
            },
            reply: self.reply.tuple(reply_src, reply_dst, self.ct_zone),
            view: View::Both,
            counters: self.counters.map(|[tx, rx]| Counters::Directed { tx: tx.counter(), rx: rx.counter() }),
            status: self.status,
            timeout_seconds: self.timeout_seconds,
        };
        Ok(Ended { entry, stop })
    }
}

impl Addresses {
    fn all(self) -> [IpAddr; 4] {
        match self {
            Self::V4(all) => all.map(IpAddr::from),
            Self::V6(all) => all.map(IpAddr::from),
        }
    }
}

impl Direction {
    /// Its own conntrack zone goes before the entry's; none is zone 0.
    fn tuple(&self, src: IpAddr, dst: IpAddr, entry_ct_zone: Option<u16>) -> Tuple {
        let l4 = match self.l4 {
            Layer4::None => L4::None,
            Layer4::Ports { src, dst } => L4::Ports { src, dst },
            Layer4::Icmp { id, kind, code } | Layer4::IcmpV6 { id, kind, code } => {
                L4::Icmp { id, kind, code }
            }
        };
        let ct_zone = CtZone(self.ct_zone.or(entry_ct_zone).unwrap_or_default());
        Tuple { protocol: IpProtocol(self.protocol), src, dst, l4, ct_zone }
    }
}

impl Instant {
    /// On the wire.
    fn nanos(self) -> Option<u64> {
        match self {
            Self::Unsaid => None,
            Self::Zero => Some(0),
            Self::At(nanos) => Some(nanos),
        }
    }

    /// As it must be read: the kernel writes 0 before there is one.
    fn read(self) -> Option<UnixNanos> {
        self.nanos().filter(|nanos| *nanos != 0).map(UnixNanos)
    }
}

impl Tally {
    fn counter(self) -> Counter {
        match self {
            Self::Wide { bytes, packets } => Counter { bytes, packets },
            Self::Narrow { bytes, packets } => Counter { bytes: bytes.into(), packets: packets.into() },
        }
    }
}
