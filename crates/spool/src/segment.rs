//! One file of frames, and what is known of it without reading it.
//!
//! Bound: one [`Block`] for every [`BLOCK_BYTES`] of file, so 1 GiB takes 1 MiB of memory.

use egressd_flow::{Position, UnixNanos};

use crate::frame::{Head, Kind};
use crate::loss::Loss;

const PREFIX: &str = "segment-";
/// How much is read at a time to find a place within a segment.
const BLOCK_BYTES: u64 = 64 << 10;

/// Frames that are read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// The last position before it.
    pub(crate) after: Position,
    sum: Loss,
}

/// A segment.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The last position before it, which names it.
    pub(crate) after: Position,
    /// The last position in it.
    pub(crate) last: Position,
    /// Bytes, those that are not written yet with them.
    pub(crate) bytes: u64,
    /// When its first and its last batch were appended; `None` while it has none.
    pub(crate) times: Option<(UnixNanos, UnixNanos)>,
    blocks: Vec<Block>,
}

impl Segment {
    pub(crate) fn new(after: Position) -> Self {
        Self { after, last: after, bytes: 0, times: None, blocks: Vec::new() }
    }

    pub(crate) fn name(&self) -> String {
        name(self.after)
    }

    /// A frame stands at `offset`, behind all that were pushed before.
    pub(crate) fn push(&mut self, offset: u64, head: &Head) {
        if self.blocks.last().is_none_or(|block| offset - block.offset >= BLOCK_BYTES) {
            self.blocks.push(Block { offset, after: self.last, sum: Loss::default() });
        }
        if let Some(block) = self.blocks.last_mut() {
            block.sum += head.sum;
        }
        if head.kind == Kind::Batches {
            let (first, _) = *self.times.get_or_insert((head.at, head.at));
            self.times = Some((first, head.at));
        }
        self.last = head.last;
        self.bytes = offset + head.bytes();
    }

    /// Each block with the offset and the position that it ends at, from the first that reaches behind `after`.
    pub(crate) fn blocks_behind(&self, after: Position) -> impl Iterator<Item = (Block, u64, Position)> {
        // The last block that begins at or before `after`, since it may go on behind it.
        let first = self.blocks.partition_point(|block| block.after <= after).saturating_sub(1);
        (first..self.blocks.len()).map(|index| {
            let end =
                self.blocks.get(index + 1).map_or((self.bytes, self.last), |next| (next.offset, next.after));
            (self.blocks[index], end.0, end.1)
        })
    }

    /// What is in it behind `after`: the sum of whole blocks, and the block that must be read for the rest.
    pub(crate) fn unread(&self, after: Position) -> (Loss, Option<(Block, u64)>) {
        let (mut sum, mut parted) = (Loss::default(), None);
        for (block, end, _) in self.blocks_behind(after).filter(|(_, _, last)| *last > after) {
            if block.after >= after {
                sum += block.sum;
            } else {
                parted = Some((block, end));
            }
        }
        (sum, parted)
    }
}

impl Block {
    /// All that is in it.
    pub(crate) fn sum(&self) -> Loss {
        self.sum
    }
}

pub(crate) fn name(after: Position) -> String {
    format!("{PREFIX}{:020}", after.0)
}

/// The position that names a segment; `None` when the file is none.
pub(crate) fn parse_name(file: &str) -> Option<Position> {
    let after = Position(file.strip_prefix(PREFIX)?.parse().ok()?);
    (name(after) == file).then_some(after)
}
