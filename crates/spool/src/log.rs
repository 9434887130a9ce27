//! The segments: appended to in memory, made durable by one write and one sync, read by block, let go whole.
//!
//! An append goes into a buffer, where it can be read at once; [`flush`](Log::flush) writes the buffer. A write or a
//! sync that fails leaves the buffer as it is: the file is cut to what was durable, and all of the buffer is written
//! again the next time. (After a failed fsync the kernel may take its pages for clean, so a second fsync alone would
//! prove nothing.)
//!
//! Invariant: a segment before the newest is durable as a whole, and each begins with every watermark before it.
//! Bound: [`UNSYNCED_BYTES_MAX`] in the buffer; beyond it an append flushes first.

use std::collections::VecDeque;
use std::sync::Arc;

use egressd_flow::{AttributedBatch, Position, UnixNanos};

use crate::Taken;
use crate::batch::{self, Encoder};
use crate::code::{In, Out};
use crate::disk::Disk;
use crate::error::SpoolError;
use crate::frame::{self, Head, Kind, Piece, Pieces};
use crate::loss::{Damage, Loss};
use crate::segment::{Block, Segment};
use crate::watermarks::Watermarks;

/// What may be appended and not durable, and so one append at most: in bytes.
pub const UNSYNCED_BYTES_MAX: usize = 32 << 20;

pub(crate) struct Log {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) id: u64,
    /// Oldest first; the last one is written.
    pub(crate) segments: VecDeque<Segment>,
    /// What of the last segment is not durable.
    buffer: Vec<u8>,
    /// What of it is, in bytes.
    flushed: u64,
    /// Whether its file may hold more than that.
    stained: bool,
    /// The last position that is durable.
    durable: Position,
    encoder: Encoder,
}

/// Batches that were read.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) batches: Vec<Arc<AttributedBatch>>,
    pub(crate) damages: Vec<Damage>,
    bytes: usize,
    is_full: bool,
}

impl Log {
    /// Goes on behind `segments`, all of which is durable.
    pub(crate) fn new(disk: Box<dyn Disk>, id: u64, segments: VecDeque<Segment>) -> Self {
        let (flushed, durable) = segments.back().map_or((0, Position(0)), |last| (last.bytes, last.last));
        let encoder = Encoder::default();
        Self { disk, id, segments, buffer: Vec::new(), flushed, stained: false, durable, encoder }
    }

    /// The last position.
    pub(crate) fn last(&self) -> Position {
        self.segments.back().map_or(Position(0), |segment| segment.last)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Begins a segment behind position `after`, of which the next flush makes a file. All before it is flushed.
    pub(crate) fn begin_segment(&mut self, after: Position, watermarks: &Watermarks, now: UnixNanos) {
        (self.flushed, self.stained) = (0, false);
        self.segments.push_back(Segment::new(after));
        let start = frame::begin(&mut self.buffer);
        let mut out = Out(&mut self.buffer);
        out.u64(self.id);
        watermarks.write(&mut out);
        self.seal(start, Kind::Watermarks, after, now, Loss::default());
    }

    /// Appends one frame.
    pub(crate) fn append(&mut self, taken: &[&Taken], now: UnixNanos) -> Result<(), SpoolError> {
        if self.try_append(taken, now).is_err() {
            self.flush()?;
            self.try_append(taken, now)?;
        }
        Ok(())
    }

    fn try_append(&mut self, taken: &[&Taken], now: UnixNanos) -> Result<(), SpoolError> {
        let Some(newest) = taken.last() else { return Ok(()) };
        let start = frame::begin(&mut self.buffer);
        let mut sum = Loss::default();
        for Taken { epoch, sequence, batch } in taken {
            self.encoder.encode(*epoch, *sequence, batch, &mut self.buffer);
            sum += Loss { batches: 1, traffic: batch.sum() };
        }
        let bytes = self.buffer.len();
        if bytes > UNSYNCED_BYTES_MAX {
            self.buffer.truncate(start);
            return Err(SpoolError::TooLarge { bytes, bytes_max: UNSYNCED_BYTES_MAX });
        }
        self.seal(start, Kind::Batches, newest.batch.position, now, sum);
        Ok(())
    }

    fn seal(&mut self, start: usize, kind: Kind, last: Position, at: UnixNanos, sum: Loss) {
        let after = self.last();
        let head = Head { kind, length: 0, after, last, durable: self.flushed, at, sum };
        let head = frame::seal(&mut self.buffer, start, head);
        if let Some(segment) = self.segments.back_mut() {
            segment.push(self.flushed + start as u64, &head);
        }
    }

    /// Makes all durable that was appended: one write, one sync.
    pub(crate) fn flush(&mut self) -> Result<Position, SpoolError> {
        if let Some(segment) = self.segments.back().filter(|_| !self.buffer.is_empty()) {
            let (name, last) = (segment.name(), segment.last);
            self.write(&name).map_err(|source| SpoolError::disk(&name, source)).inspect_err(|_| {
                // Gives the room back at once where it can; else the next write does.
                self.stained = self.disk.truncate(&name, self.flushed).is_err();
            })?;
            self.flushed += self.buffer.len() as u64;
            self.durable = last;
            self.buffer.clear();
        }
        Ok(self.durable)
    }

    fn write(&mut self, name: &str) -> std::io::Result<()> {
        if self.flushed == 0 {
            self.disk.create(name)?;
        } else if self.stained {
            self.disk.truncate(name, self.flushed)?;
        }
        self.disk.append(name, &self.buffer)?;
        self.disk.sync(name)?;
        if self.flushed == 0 {
            self.disk.sync_names()?;
        }
        self.stained = false;
        Ok(())
    }

    /// Lets the oldest segment go. The newest stays, for its watermarks.
    pub(crate) fn remove_oldest(&mut self) -> Result<(), SpoolError> {
        if let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) {
            let name = oldest.name();
            let removed = self.disk.remove(&name).and_then(|()| self.disk.sync_names());
            removed.map_err(|source| SpoolError::disk(&name, source))?;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// The batches behind `after`, one at least and up to `bytes_max` as they are encoded.
    pub(crate) fn read(&self, after: Position, bytes_max: usize) -> Result<Found, SpoolError> {
        let mut found = Found::default();
        let mut bytes = Vec::new();
        let first = self.segments.partition_point(|segment| segment.last <= after);
        for segment in self.segments.range(first..) {
            for (block, end, last) in segment.blocks_behind(after) {
                self.load(segment, &block, end, &mut bytes)?;
                found.take(segment, &block, last, &bytes, after, bytes_max);
                if found.is_full {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// What the oldest segment has behind `after`. Of a block that does not read any more, all is counted.
    pub(crate) fn unread_of_oldest(&self, after: Position) -> Loss {
        self.segments.front().map(|oldest| self.unread_of(oldest, after)).unwrap_or_default()
    }

    /// The same of all there is.
    pub(crate) fn unread(&self, after: Position) -> Loss {
        let behind = self.segments.iter().filter(|segment| segment.last > after);
        behind.map(|segment| self.unread_of(segment, after)).fold(Loss::default(), |mut sum, loss| {
            sum += loss;
            sum
        })
    }

    fn unread_of(&self, segment: &Segment, after: Position) -> Loss {
        let (mut sum, parted) = segment.unread(after);
        if let Some((block, end)) = parted {
            let mut bytes = Vec::new();
            if self.load(segment, &block, end, &mut bytes).is_err() {
                sum += block.sum();
                return sum;
            }
            let mut found = Found::default();
            found.take(segment, &block, after, &bytes, after, usize::MAX);
            for batch in found.batches {
                sum += Loss { batches: 1, traffic: batch.sum() };
            }
        }
        sum
    }

    /// Reads one block: from the file as far as it is written, from the buffer behind that.
    fn load(&self, segment: &Segment, block: &Block, end: u64, into: &mut Vec<u8>) -> Result<(), SpoolError> {
        into.clear();
        let is_newest = self.segments.back().is_some_and(|newest| newest.after == segment.after);
        let flushed = if is_newest { self.flushed } else { u64::MAX };
        let written = end.min(flushed).saturating_sub(block.offset);
        if written > 0 {
            let name = segment.name();
            let read = self.disk.read(&name, block.offset, length(written), into);
            read.map_err(|source| SpoolError::disk(&name, source))?;
        }
        if end > flushed {
            let part = length(block.offset.saturating_sub(flushed))..length(end - flushed);
            into.extend_from_slice(&self.buffer[part]);
        }
        Ok(())
    }
}

/// Lengths of segments and parts of them: what was in memory once.
pub(crate) fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Found {
    /// Takes what is behind `after` out of a block that ends with position `last`.
    fn take(
        &mut self,
        segment: &Segment,
        block: &Block,
        last: Position,
        bytes: &[u8],
        after: Position,
        bytes_max: usize,
    ) {
        let mut gap = Gap::behind(block.after.max(after));
        for piece in Pieces::of(bytes) {
            match piece {
                Piece::Damaged { offset, head } => gap.damaged(block.offset + offset as u64, head),
                Piece::Frame { offset, head, body } => {
                    let offset = block.offset + offset as u64;
                    self.damages.extend(gap.close(&segment.name(), offset, head.after));
                    self.take_batches(head, body, after, bytes_max, |position| {
                        let before = Position(position.0.saturating_sub(1));
                        Gap::behind(before).close(&segment.name(), offset, position)
                    });
                    if self.is_full {
                        return;
                    }
                    gap = Gap::behind(head.last.max(after));
                }
            }
        }
        self.damages.extend(gap.close(&segment.name(), block.offset + bytes.len() as u64, last));
    }

    fn take_batches(
        &mut self,
        head: Head,
        body: &[u8],
        after: Position,
        bytes_max: usize,
        unread: impl Fn(Position) -> Option<Damage>,
    ) {
        if head.kind != Kind::Batches || head.last <= after {
            return;
        }
        let mut input = In(body);
        while let Some((label, rest)) = batch::split(&mut input) {
            if label.position <= after {
                continue;
            }
            self.is_full = !self.batches.is_empty() && self.bytes + rest.0.len() > bytes_max;
            if self.is_full {
                return;
            }
            self.bytes += rest.0.len();
            match batch::decode(label, rest) {
                Some(batch) => self.batches.push(Arc::new(batch)),
                // Its frame's sum was right: it was written wrongly.
                None => self.damages.extend(unread(label.position)),
            }
        }
    }
}

/// Positions that should follow, until a frame shows which ones do.
pub(crate) struct Gap {
    after: Position,
    offset: Option<u64>,
    traffic: Loss,
}

impl Gap {
    pub(crate) fn behind(after: Position) -> Self {
        Self { after, offset: None, traffic: Loss::default() }
    }

    /// At `offset` there is no whole frame.
    pub(crate) fn damaged(&mut self, offset: u64, head: Option<Head>) {
        self.offset.get_or_insert(offset);
        if let Some(head) = head.filter(|head| head.last > self.after) {
            self.traffic += head.sum;
        }
    }

    /// Positions go on behind `last`, at `offset` of `file`: what was lost before, if anything.
    pub(crate) fn close(&self, file: &str, offset: u64, last: Position) -> Option<Damage> {
        let batches = last.0.checked_sub(self.after.0).filter(|batches| *batches > 0)?;
        let loss = Loss { batches, traffic: self.traffic.traffic };
        let offset = self.offset.unwrap_or(offset);
        Some(Damage { file: file.to_owned(), offset, after: self.after, last, loss })
    }
}
