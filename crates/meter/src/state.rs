//! The meter as bytes, so that the next process goes on where this one was.
//!
//! ```text
//! fingerprint key, epoch, next sequence, clocks, stamp
//! baselines · those retired · owners · node addresses · unclaimed flows · open flows · late flows
//! ```
//!
//! Little-endian, every list after its length; counters as varints (LEB128), since most are far below 2^64. Whoever keeps the bytes checks them: what is damaged and still reads
//! as a state is taken for one. Tombstones are not kept: an entry that a dump still shows beside its end is gone
//! before another process dumps.
//!
//! Bound: what [`MeterConfig`] bounds, also for what is read back: entries, flows and owners beyond it are refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use egressd_flow::{Counter, Owner, Span, Traffic, UnixNanos};

/// Owners, addresses and labels of one state: far more than a node has, and no more than fits memory.
const OWNERS_MAX: u64 = 100_000;
const TEXT_BYTES_MAX: u64 = 4_096;

/// Seven bits to a byte.
const VARINT_BYTES_MAX: usize = 10;

/// Writes the parts of a state.
pub(crate) struct Out<'w, W>(pub(crate) &'w mut W);

impl<W: Write> Out<'_, W> {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn u8(&mut self, value: u8) -> io::Result<()> {
        self.bytes(&[value])
    }

    pub(crate) fn u64(&mut self, value: u64) -> io::Result<()> {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn len(&mut self, len: usize) -> io::Result<()> {
        self.u64(len as u64)
    }

    pub(crate) fn time(&mut self, at: UnixNanos) -> io::Result<()> {
        self.u64(at.0)
    }

    pub(crate) fn optional_time(&mut self, at: Option<UnixNanos>) -> io::Result<()> {
        self.u8(at.is_some().into())?;
        self.time(at.unwrap_or_default())
    }

    pub(crate) fn span(&mut self, span: Span) -> io::Result<()> {
        self.time(span.from)?;
        self.time(span.to)
    }

    /// Both parts in one write: there are two of these an entry.
    pub(crate) fn counter(&mut self, counter: Counter) -> io::Result<()> {
        let mut varints = [0; 2 * VARINT_BYTES_MAX];
        let bytes_end = put_varint(&mut varints, 0, counter.bytes);
        let end = put_varint(&mut varints, bytes_end, counter.packets);
        self.bytes(&varints[..end])
    }

    pub(crate) fn traffic(&mut self, traffic: Traffic) -> io::Result<()> {
        [traffic.tx, traffic.rx, traffic.undirected].into_iter().try_for_each(|part| self.counter(part))
    }

    pub(crate) fn address(&mut self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(v4) => {
                self.u8(4)?;
                self.bytes(&v4.octets())
            }
            IpAddr::V6(v6) => {
                self.u8(6)?;
                self.bytes(&v6.octets())
            }
        }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.len(text.len())?;
        self.bytes(text.as_bytes())
    }

    pub(crate) fn owner(&mut self, owner: &Owner) -> io::Result<()> {
        self.address(owner.address)?;
        [&owner.pod_uid, &owner.namespace, &owner.name].into_iter().try_for_each(|text| self.text(text))?;
        self.len(owner.labels.len())?;
        for (name, value) in &owner.labels {
            self.text(name)?;
            self.text(value)?;
        }
        self.time(owner.since)?;
        self.optional_time(owner.until)?;
        self.u8(owner.measure.into())
    }
}

/// Puts a value behind the first `at` bytes; where it ends. Seven bits a byte, the lowest first; the eighth says that
/// more follow.
#[expect(clippy::cast_possible_truncation, reason = "the low byte is what is wanted")]
fn put_varint(out: &mut [u8; 2 * VARINT_BYTES_MAX], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Reads the parts of a state.
pub(crate) struct In<'r, R>(pub(crate) &'r mut R);

/// Bytes that are no state.
pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> In<'_, R> {
    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> io::Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> io::Result<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// A list's length, at most `max`.
    pub(crate) fn len(&mut self, max: u64) -> io::Result<u64> {
        let len = self.u64()?;
        if len > max { Err(malformed("a list is longer than it may be")) } else { Ok(len) }
    }

    pub(crate) fn owners_len(&mut self) -> io::Result<u64> {
        self.len(OWNERS_MAX)
    }

    fn flag(&mut self) -> io::Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed("a flag is neither yes nor no")),
        }
    }

    pub(crate) fn time(&mut self) -> io::Result<UnixNanos> {
        self.u64().map(UnixNanos)
    }

    pub(crate) fn optional_time(&mut self) -> io::Result<Option<UnixNanos>> {
        let is_some = self.flag()?;
        let at = self.time()?;
        Ok(is_some.then_some(at))
    }

    pub(crate) fn span(&mut self) -> io::Result<Span> {
        Ok(Span { from: self.time()?, to: self.time()? })
    }

    pub(crate) fn counter(&mut self) -> io::Result<Counter> {
        Ok(Counter { bytes: self.varint()?, packets: self.varint()? })
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..VARINT_BYTES_MAX).map(|place| 7 * place) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("a counter is more than 64 bits"))
    }

    pub(crate) fn traffic(&mut self) -> io::Result<Traffic> {
        Ok(Traffic { tx: self.counter()?, rx: self.counter()?, undirected: self.counter()? })
    }

    pub(crate) fn address(&mut self) -> io::Result<IpAddr> {
        match self.u8()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(malformed("an address is of no family")),
        }
    }

    fn text(&mut self) -> io::Result<Arc<str>> {
        let len = self.len(TEXT_BYTES_MAX)?;
        let mut bytes = Vec::new();
        self.0.by_ref().take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        String::from_utf8(bytes).map(Arc::from).map_err(|_| malformed("a name is no text"))
    }

    pub(crate) fn owner(&mut self) -> io::Result<Arc<Owner>> {
        let (address, pod_uid, namespace, name) = (self.address()?, self.text()?, self.text()?, self.text()?);
        let mut labels = BTreeMap::new();
        for _ in 0..self.owners_len()? {
            labels.insert(self.text()?.to_string(), self.text()?.to_string());
        }
        let (since, until, measure) = (self.time()?, self.optional_time()?, self.flag()?);
        Ok(Arc::new(Owner { address, pod_uid, namespace, name, labels, since, until, measure }))
    }
}
