//! The parts that files are written in: fixed integers, varints, texts. Little-endian.
//!
//! Invariant: reading never panics and never allocates more than there are bytes; what does not read is `None`.

use egressd_flow::{Counter, Traffic};

/// Writes parts at the end of some bytes.
pub(crate) struct Out<'o>(pub(crate) &'o mut Vec<u8>);

impl Out<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Seven bits a byte, lowest first, the eighth says that more follow (LEB128).
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    pub(crate) fn len(&mut self, len: usize) {
        self.varint(len as u64);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.len(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn counter(&mut self, counter: Counter) {
        self.varint(counter.bytes);
        self.varint(counter.packets);
    }
}

/// Reads parts from the front of some bytes.
#[derive(Clone, Copy)]
pub(crate) struct In<'i>(pub(crate) &'i [u8]);

impl<'i> In<'i> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'i [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if part > u64::MAX >> shift {
                return None;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A list's length: no list has more members than there are bytes.
    pub(crate) fn len(&mut self) -> Option<usize> {
        let len = usize::try_from(self.varint()?).ok()?;
        (len <= self.0.len()).then_some(len)
    }

    pub(crate) fn text(&mut self) -> Option<&'i str> {
        let len = self.len()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    pub(crate) fn counter(&mut self) -> Option<Counter> {
        Some(Counter { bytes: self.varint()?, packets: self.varint()? })
    }

    /// The parts of `traffic` that `present` has a bit for: tx, rx, undirected from the lowest.
    pub(crate) fn traffic(&mut self, present: u8) -> Option<Traffic> {
        let mut part = |bit: u8| if present & bit == 0 { Some(Counter::default()) } else { self.counter() };
        Some(Traffic { tx: part(1)?, rx: part(2)?, undirected: part(4)? })
    }
}
