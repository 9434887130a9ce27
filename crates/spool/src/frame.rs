//! Frames: what a segment consists of. One append is one frame, so it is there whole or not at all.
//!
//! ```text
//! mark, length of the body, kind, batches          u32 each
//! after, last, durable, time, bytes, packets       u64 each
//! sum of the body, sum of the head                 u32 each (CRC-32)
//! body
//! ```
//!
//! A head stands by itself: of a frame whose body is damaged it still says what is lost, and a whole head behind damage
//! is found again by its mark. `durable` tells a torn tail from damage: everything before that offset of the file had been
//! synced when the frame was written, so damage before it is damage, and what lies behind every such proof was never
//! said to be safe.
//!
//! Invariant: no bytes make reading panic.

use egressd_flow::{Counter, Position, UnixNanos};

use crate::code::{In, Out};
use crate::loss::Loss;

/// "egf" and the layout's number.
const MARK: [u8; 4] = *b"egf\x01";
/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 4 * 4 + 6 * 8 + 2 * 4;

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The spool's id and every watermark; the first frame of a segment.
    Watermarks,
    /// Batches of one append.
    Batches,
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// Bytes of the body.
    pub(crate) length: usize,
    /// The last position before.
    pub(crate) after: Position,
    /// The last position in it; `after` when there is none.
    pub(crate) last: Position,
    /// How many bytes of the file had been synced when this was written.
    pub(crate) durable: u64,
    /// When it was appended.
    pub(crate) at: UnixNanos,
    /// Batches, bytes and packets in it.
    pub(crate) sum: Loss,
}

impl Head {
    /// Bytes of the whole frame.
    pub(crate) fn bytes(&self) -> u64 {
        (HEAD_BYTES + self.length) as u64
    }

    fn parse(bytes: &[u8]) -> Option<(Self, u32)> {
        let (head, sum) = bytes.get(..HEAD_BYTES)?.split_last_chunk::<4>()?;
        if !head.starts_with(&MARK) || crc32fast::hash(head) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut input = In(&head[MARK.len()..]);
        let length = usize::try_from(input.u32()?).ok()?;
        let kind = match input.u32()? {
            0 => Kind::Watermarks,
            1 => Kind::Batches,
            _ => return None,
        };
        let batches = u64::from(input.u32()?);
        let (after, last, durable) = (Position(input.u64()?), Position(input.u64()?), input.u64()?);
        let at = UnixNanos(input.u64()?);
        let traffic = Counter { bytes: input.u64()?, packets: input.u64()? };
        let sum = Loss { batches, traffic };
        Some((Self { kind, length, after, last, durable, at, sum }, input.u32()?))
    }
}

/// Leaves room for a head; the body follows, then [`seal`].
pub(crate) fn begin(bytes: &mut Vec<u8>) -> usize {
    let start = bytes.len();
    bytes.resize(start + HEAD_BYTES, 0);
    start
}

/// Writes the head of the frame that begins at `start` and ends where `bytes` do; `head.length` is set from that.
pub(crate) fn seal(bytes: &mut [u8], start: usize, mut head: Head) -> Head {
    let frame = &mut bytes[start..];
    head.length = frame.len() - HEAD_BYTES;
    let mut place = Vec::with_capacity(HEAD_BYTES);
    place.extend_from_slice(&MARK);
    let mut out = Out(&mut place);
    out.u32(u32::try_from(head.length).unwrap_or(u32::MAX));
    out.u32(match head.kind {
        Kind::Watermarks => 0,
        Kind::Batches => 1,
    });
    out.u32(u32::try_from(head.sum.batches).unwrap_or(u32::MAX));
    let traffic = head.sum.traffic;
    for part in [head.after.0, head.last.0, head.durable, head.at.0, traffic.bytes, traffic.packets] {
        out.u64(part);
    }
    out.u32(crc32fast::hash(&frame[HEAD_BYTES..]));
    let sum = crc32fast::hash(&place);
    Out(&mut place).u32(sum);
    frame[..HEAD_BYTES].copy_from_slice(&place);
    head
}

/// What stands at one place.
pub(crate) enum Piece<'b> {
    /// A whole frame.
    Frame { offset: usize, head: Head, body: &'b [u8] },
    /// Bytes that are none, with the head when that much is whole.
    Damaged { offset: usize, head: Option<Head> },
}

/// Walks over some bytes that begin with a frame.
pub(crate) struct Pieces<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Pieces<'b> {
    pub(crate) fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next whole head is, behind damage.
    fn next_head(&self) -> usize {
        let candidates = self.at + 1..self.bytes.len();
        let is_head =
            |at: &usize| self.bytes[*at..].starts_with(&MARK) && Head::parse(&self.bytes[*at..]).is_some();
        candidates.into_iter().find(is_head).unwrap_or(self.bytes.len())
    }
}

impl<'b> Iterator for Pieces<'b> {
    type Item = Piece<'b>;

    fn next(&mut self) -> Option<Piece<'b>> {
        let offset = self.at;
        let bytes = self.bytes.get(offset..).filter(|bytes| !bytes.is_empty())?;
        let head = Head::parse(bytes);
        let body = head.and_then(|(head, sum)| {
            let body = bytes[HEAD_BYTES..].get(..head.length)?;
            Some((head, body, crc32fast::hash(body) == sum))
        });
        let head = head.map(|(head, _)| head);
        self.at = match body {
            Some((_, body, _)) => offset + HEAD_BYTES + body.len(),
            None => self.next_head(),
        };
        Some(match body {
            Some((head, body, true)) => Piece::Frame { offset, head, body },
            _ => Piece::Damaged { offset, head },
        })
    }
}
