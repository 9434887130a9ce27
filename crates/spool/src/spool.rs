//! The spool: what was taken, until every sink has passed it.
//!
//! Invariant: what [`Spool::sync`] said to be durable is given to each sink until it advances past it, or is counted in
//! its losses; a batch at or below its node's watermark is not taken again. Bounds: [`SpoolConfig`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Epoch, NodeName, Position, Sequence, UnixNanos};

use crate::cache::Cache;
use crate::cursor::{Cursor, SINK_NAME_BYTES_MAX, SINKS_MAX, STATE_BYTES_MAX, file_name};
use crate::disk::{Directory, Disk, Memory};
use crate::error::SpoolError;
use crate::log::Log;
use crate::loss::{Loss, Losses, Reason};
use crate::recovery::{self, Recovery};
use crate::watermarks::{Watermark, Watermarks};

/// One of so many parts of the bound is a segment, and one of so many of the age.
const PARTS: u64 = 16;
const SEGMENT_BYTES_MAX: u64 = 32 << 20;

/// How much is kept for sinks that do not keep up.
#[derive(Clone, Copy, Debug)]
pub struct SpoolConfig {
    /// Bytes of segments, beside which each sink has its state. Exceeded by a segment and an append at most: what is let
    /// go is let go before the next segment begins.
    pub bytes_max: u64,
    /// How long a batch is kept that a sink does not take, by the clock that the caller hands in. Let go a sixteenth of that
    /// late at most.
    pub age_max: Duration,
}

impl SpoolConfig {
    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / PARTS).min(SEGMENT_BYTES_MAX)
    }

    fn segment_age(&self) -> Duration {
        self.age_max / 16
    }
}

/// One batch with what it came under.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The life of the collector that sent it.
    pub epoch: Epoch,
    /// Its place in that life.
    pub sequence: Sequence,
    /// It, with its position and its node.
    pub batch: Arc<AttributedBatch>,
}

/// What a sink reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// In order of position; empty when the sink is at the end.
    pub batches: Vec<Arc<AttributedBatch>>,
    /// What the sink did not get, since it joined.
    pub losses: Losses,
}

/// Attributed batches, watermarks and sinks.
pub struct Spool {
    log: Log,
    config: SpoolConfig,
    watermarks: Watermarks,
    sinks: BTreeMap<String, Cursor>,
    cache: Cache,
    /// The last position that was offered.
    offered: Position,
    is_durable: bool,
}

impl Spool {
    /// Opens the spool in a directory, which is made if need be; `id` is its random name if it is new.
    ///
    /// # Errors
    /// Another process has it, it is no spool of ours, or the disk fails.
    pub fn open(path: &Path, config: SpoolConfig, id: u64) -> Result<(Self, Recovery), SpoolError> {
        Self::on(Box::new(Directory::open(path)?), config, id)
    }

    /// Whether [`open`](Self::open) would find a spool of ours in a directory, or make one; one that is in use is one. Makes
    /// nothing but its lock.
    ///
    /// # Errors
    /// It is no spool of ours, or the disk fails.
    pub fn check(path: &Path) -> Result<(), SpoolError> {
        if !path.exists() {
            return Ok(());
        }
        match Directory::open(path) {
            Ok(directory) => recovery::check(&directory),
            Err(SpoolError::InUse { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens the spool on a disk; otherwise as [`open`](Self::open).
    ///
    /// # Errors
    /// It is no spool of ours, or the disk fails.
    pub fn on(disk: Box<dyn Disk>, config: SpoolConfig, id: u64) -> Result<(Self, Recovery), SpoolError> {
        let recovered = recovery::recover(disk, id)?;
        let offered = recovered.last;
        let spool = Self {
            log: recovered.log,
            config,
            watermarks: recovered.watermarks,
            sinks: recovered.sinks,
            cache: Cache::behind(offered),
            offered,
            is_durable: true,
        };
        Ok((spool, recovered.recovery))
    }

    /// A spool that ends with this process. It takes `bytes_max` of memory.
    #[must_use]
    pub fn in_memory(config: SpoolConfig, id: u64) -> Self {
        Self {
            log: Log::new(Box::new(Memory::default()), id, [].into()),
            config,
            watermarks: Watermarks::default(),
            sinks: BTreeMap::new(),
            cache: Cache::behind(Position(0)),
            offered: Position(0),
            is_durable: false,
        }
    }

    /// The id that tells this spool from one that was begun anew.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.log.id
    }

    /// Whether it survives this process: whether what is synced may be let go elsewhere.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.is_durable
    }

    /// The last position that was offered; the next one is one higher.
    #[must_use]
    pub fn last(&self) -> Position {
        self.offered
    }

    /// Bytes of segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// How far each epoch of each node is here: nodes in no order, a node's epochs in the order in which they were last
    /// appended to.
    pub fn watermarks(&self) -> impl Iterator<Item = (NodeName, Watermark)> {
        self.watermarks.iter()
    }

    /// Every sink that has joined.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, &Cursor)> {
        self.sinks.iter().map(|(name, cursor)| (name.as_str(), cursor))
    }

    /// Takes batches, whose positions go on from [`last`](Self::last) by 1, in one atomic step: they can be read at once,
    /// and are durable after the next [`sync`](Self::sync). What is at or below its epoch's watermark is not taken; its
    /// positions are given back, and stay empty.
    ///
    /// # Errors
    /// Nothing was taken.
    pub fn append(&mut self, taken: &[Taken], now: UnixNanos) -> Result<Vec<Position>, SpoolError> {
        let offered = self.check_order(taken)?;
        self.watermarks.expire(now);
        let (fresh, known) = self.watermarks.part(taken);
        if !fresh.is_empty() {
            self.rotate(now)?;
            self.log.append(&fresh, now)?;
        }
        for Taken { epoch, sequence, batch } in fresh {
            self.watermarks.raise(&batch.node.0, *epoch, *sequence, now);
            self.cache.push(batch);
        }
        self.offered = offered;
        Ok(known.into_iter().map(|taken| taken.batch.position).collect())
    }

    fn check_order(&self, taken: &[Taken]) -> Result<Position, SpoolError> {
        let mut last = self.offered;
        for Taken { batch, .. } in taken {
            let expected = Position(last.0 + 1);
            if batch.position != expected {
                return Err(SpoolError::OutOfOrder { expected, found: batch.position });
            }
            last = expected;
        }
        Ok(last)
    }

    /// Begins a segment where it is time, after making room for it.
    fn rotate(&mut self, now: UnixNanos) -> Result<(), SpoolError> {
        let is_due = self.log.segments.back().is_none_or(|newest| {
            newest.times.is_some_and(|(first, _)| {
                newest.bytes >= self.config.segment_bytes() || now.since(first) >= self.config.segment_age()
            })
        });
        if is_due {
            self.let_go(now)?;
            self.begin_segment(now);
        }
        Ok(())
    }

    /// Begins a segment, unless the newest one has no batch yet. All before is flushed. Positions up to the last one stored
    /// or passed are behind it.
    fn begin_segment(&mut self, now: UnixNanos) {
        if self.log.segments.back().is_none_or(|newest| newest.times.is_some()) {
            let passed = self.sinks.values().map(|cursor| cursor.position).max().unwrap_or_default();
            self.log.begin_segment(self.log.last().max(passed), &self.watermarks, now);
        }
    }

    /// Makes durable all that was appended, and says through which position that is. Returns at once when it all is.
    ///
    /// # Errors
    /// It is not durable yet, and can be read as before; the next call tries all of it again.
    pub fn sync(&mut self) -> Result<Position, SpoolError> {
        self.log.flush()
    }

    /// The next batches of a sink behind `after`, or behind its cursor where that is further: one at least and up to
    /// `bytes_max` if there are any. They may not be durable yet: [`advance`](Self::advance) before they leave the process.
    ///
    /// # Errors
    /// [`SpoolError::UnknownSink`], or the disk fails.
    pub fn read(&mut self, sink: &str, after: Position, bytes_max: usize) -> Result<Read, SpoolError> {
        let cursor = self.sinks.get_mut(sink).ok_or_else(|| unknown(sink))?;
        let after = after.max(cursor.position);
        let batches = match self.cache.read(after, bytes_max) {
            Some(batches) => batches,
            None => {
                let found = self.log.read(after, bytes_max)?;
                found.damages.iter().for_each(|damage| cursor.damaged(damage));
                found.batches
            }
        };
        Ok(Read { batches, losses: cursor.losses })
    }

    /// A sink joins. A new one begins at the end, without a state; one that is known stays where it is. Gives its position.
    ///
    /// # Errors
    /// There is no room for it, or the disk fails; it has not joined then.
    pub fn join(&mut self, sink: &str) -> Result<Position, SpoolError> {
        if let Some(known) = self.sinks.get(sink) {
            return Ok(known.position);
        }
        let is_named = (1..=SINK_NAME_BYTES_MAX).contains(&sink.len());
        if !is_named || self.sinks.len() >= SINKS_MAX {
            let name = sink.to_owned();
            let (sinks_max, name_bytes_max) = (SINKS_MAX, SINK_NAME_BYTES_MAX);
            return Err(SpoolError::TooManySinks { name, sinks_max, name_bytes_max });
        }
        self.log.flush()?;
        let cursor = Cursor::at(self.log.last()).advanced(self.log.last(), &[]);
        self.put(sink, cursor, &[])?;
        Ok(cursor.position)
    }

    /// What a sink has not passed of what is here: to the batch, or, where the disk does not read, to the block, which may be
    /// more. Nothing of one that is not known.
    #[must_use]
    pub fn unread(&self, sink: &str) -> Loss {
        self.sinks.get(sink).map(|cursor| self.log.unread(cursor.position)).unwrap_or_default()
    }

    /// A sink leaves: its cursor and its state go.
    ///
    /// # Errors
    /// The disk fails; the sink may be there again after a restart.
    pub fn leave(&mut self, sink: &str) -> Result<(), SpoolError> {
        if self.sinks.remove(sink).is_some() {
            let name = file_name(sink);
            let removed = self.log.disk.remove(&name).and_then(|()| self.log.disk.sync_names());
            removed.map_err(|source| SpoolError::disk(&name, source))?;
        }
        Ok(())
    }

    /// A sink has passed all through `position`, and keeps `state` with that, in one atomic step that is durable when this
    /// returns; everything appended before is durable with it. Gives where the sink is, which is further where what it
    /// had not passed was let go meanwhile.
    ///
    /// # Errors
    /// Position and state are both as before; should the process end now, the next one may find both moved.
    pub fn advance(&mut self, sink: &str, position: Position, state: &[u8]) -> Result<Position, SpoolError> {
        let cursor = *self.sinks.get(sink).ok_or_else(|| unknown(sink))?;
        if state.len() > STATE_BYTES_MAX {
            return Err(SpoolError::TooLarge { bytes: state.len(), bytes_max: STATE_BYTES_MAX });
        }
        if position > self.offered {
            return Err(SpoolError::Ahead { found: position, last: self.offered });
        }
        // A cursor must not be ahead of what a crash leaves.
        self.log.flush()?;
        let cursor = cursor.advanced(position.min(self.log.last()), state);
        self.put(sink, cursor, state)?;
        self.cache.let_go(self.passed());
        Ok(cursor.position)
    }

    /// What a sink keeps: empty before its first [`advance`](Self::advance), `None` when the disk has damaged it.
    ///
    /// # Errors
    /// [`SpoolError::UnknownSink`], or the disk fails.
    pub fn state(&self, sink: &str) -> Result<Option<Vec<u8>>, SpoolError> {
        self.sinks.get(sink).ok_or_else(|| unknown(sink))?.state(&*self.log.disk, sink)
    }

    fn put(&mut self, sink: &str, cursor: Cursor, state: &[u8]) -> Result<(), SpoolError> {
        cursor.save(&mut *self.log.disk, sink, state)?;
        self.sinks.insert(sink.to_owned(), cursor);
        Ok(())
    }

    /// What every sink has passed.
    fn passed(&self) -> Position {
        self.sinks.values().map(|cursor| cursor.position).min().unwrap_or(self.log.last())
    }

    /// Removes what every sink has passed and what is over a bound, whole segments at a time. Called by an append when a
    /// segment is full; a caller with time to spare calls it as well, so that age counts while nothing comes.
    ///
    /// # Errors
    /// The disk fails; what was not removed is tried again by the next call.
    pub fn let_go(&mut self, now: UnixNanos) -> Result<(), SpoolError> {
        let newest = self.log.segments.back().and_then(|newest| newest.times);
        if newest.is_some_and(|(_, last)| now.since(last) > self.config.age_max) {
            self.log.flush()?;
            self.begin_segment(now);
        }
        // The newest segment's watermarks stand for those of every one that goes.
        self.log.flush()?;
        while self.log.segments.len() > 1
            && let Some(reason) = self.is_due(now)
        {
            if let Some(reason) = reason {
                self.count_unread(reason);
            }
            self.log.remove_oldest()?;
        }
        Ok(())
    }

    /// Whether the oldest segment goes, and why if some sink has not passed it.
    fn is_due(&self, now: UnixNanos) -> Option<Option<Reason>> {
        let oldest = self.log.segments.front()?;
        if oldest.last <= self.passed() {
            Some(None)
        } else if self.log.bytes() > self.config.bytes_max {
            Some(Some(Reason::Bytes))
        } else if oldest.times.is_some_and(|(_, last)| now.since(last) > self.config.age_max) {
            Some(Some(Reason::Age))
        } else {
            None
        }
    }

    /// Moves every sink past the oldest segment, and counts what it had not passed.
    fn count_unread(&mut self, reason: Reason) {
        let Some(last) = self.log.segments.front().map(|oldest| oldest.last) else { return };
        for (sink, cursor) in self.sinks.iter_mut().filter(|(_, cursor)| cursor.position < last) {
            cursor.losses[reason] += self.log.unread_of_oldest(cursor.position);
            cursor.position = last;
            let disk = &mut *self.log.disk;
            // On a full disk the count would keep what it counts from making room. It is written with the next advance; should
            // the process end before, recovery counts the batches that are missing then, without their bytes.
            let _kept = cursor.raw_state(disk, sink).map(|state| cursor.save(disk, sink, &state));
        }
    }
}

fn unknown(sink: &str) -> SpoolError {
    SpoolError::UnknownSink { name: sink.to_owned() }
}
