//! One frame of a segment: a batch of ends in the kernel's own bytes, under a sum.
//!
//! ```text
//! ordinal of its first end (u64) · ends (u32) · length of the body (u32) · sum of all but this field (u32)
//! body: datagrams, each padded to 4 bytes
//! ```
//!
//! Pure. Bound: a body is of [`BODY_BYTES_MAX`] at most; one that says more is no frame.

use crc32fast::Hasher;
use egressd_conntrack::netfilter::{CtZones, codec};
use egressd_flow::{Defects, Ended};

pub(super) const HEAD_BYTES: usize = 8 + 4 + 4 + 4;
/// Many times what one receive fetches.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// netlink's alignment of messages (`NLMSG_ALIGNTO`), so that datagrams in a row are read as one.
const ALIGNMENT: usize = 4;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first: u64,
    pub(super) ends: u32,
    pub(super) length: u32,
    sum: u32,
}

impl Head {
    /// `None` where no frame can begin so.
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let &[f0, f1, f2, f3, f4, f5, f6, f7, e0, e1, e2, e3, l0, l1, l2, l3, s0, s1, s2, s3] = bytes;
        let head = Self {
            first: u64::from_le_bytes([f0, f1, f2, f3, f4, f5, f6, f7]),
            ends: u32::from_le_bytes([e0, e1, e2, e3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            sum: u32::from_le_bytes([s0, s1, s2, s3]),
        };
        (head.body_bytes() <= BODY_BYTES_MAX).then_some(head)
    }

    /// Length of the body, in bytes.
    pub(super) fn body_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// The ends of `body`; `None` where it is not what was written, or decodes to another number of them.
    pub(super) fn ends(&self, body: &[u8]) -> Option<Vec<Ended>> {
        if self.sum_of(body) != self.sum {
            return None;
        }
        let (mut ends, mut defects) = (Vec::new(), Defects::default());
        // What was passed over for its conntrack zone was not written.
        codec::ends(body, &CtZones::ALL, &mut defects, &mut |ended| ends.push(ended));
        (u32::try_from(ends.len()) == Ok(self.ends)).then_some(ends)
    }

    fn bytes(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.ends.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    fn sum_of(&self, body: &[u8]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&self.bytes()[..16]);
        hasher.update(body);
        hasher.finalize()
    }
}

/// Writes the frame of `ends` ends from ordinal `first` on into `frame`, in place of what is there; false when they are
/// more than a frame holds.
pub(super) fn write(
    frame: &mut Vec<u8>,
    first: u64,
    ends: u32,
    datagrams: &mut dyn Iterator<Item = &[u8]>,
) -> bool {
    frame.clear();
    frame.extend([0; HEAD_BYTES]);
    for datagram in datagrams {
        frame.extend(datagram);
        frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
    }
    let Some((place, body)) = frame.split_first_chunk_mut() else { return false };
    let Ok(length) = u32::try_from(body.len()) else { return false };
    let head = Head { first, ends, length, sum: 0 };
    *place = Head { sum: head.sum_of(body), ..head }.bytes();
    body.len() <= BODY_BYTES_MAX
}
