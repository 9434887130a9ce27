//! What the process before left: segments, watermarks, sinks.
//!
//! Every frame is read and held against its sum once, a segment at a time.
//! A torn tail was never said to be safe, and is cut off. Damage before something that was synced later is kept out of
//! the way: frames before and after it stand, what is missing between them is counted for each sink, once.
//!
//! Invariant: nothing that was synced and still reads is left behind. Bound: one segment in memory at a time.

use std::collections::{BTreeMap, VecDeque};

use egressd_flow::Position;

use crate::batch;
use crate::code::{In, Out};
use crate::cursor::{self, Cursor, NEW};
use crate::disk::Disk;
use crate::error::SpoolError;
use crate::frame::{Head, Kind, Piece, Pieces};
use crate::log::{Gap, Log, length};
use crate::loss::Damage;
use crate::segment::{self, Segment};
use crate::watermarks::Watermarks;

/// The file that makes a directory a spool.
const IDENTITY: &str = "spool";
const MAGIC: &[u8; 12] = b"egressdspool";
/// Bytes of the identity: magic, version, id, sum.
const IDENTITY_BYTES: usize = MAGIC.len() + 4 + 8 + 4;
const VERSION: u32 = 1;
/// Damages that are named; further ones are counted for the sinks all the same.
const DAMAGES_MAX: usize = 100;

/// What was found. All of it deserves a line in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was no spool before.
    pub is_new: bool,
    /// Bytes at the end that were never said to be safe, and were cut off.
    pub torn_bytes: u64,
    /// What was safe and is lost, the first hundred of it.
    pub damages: Vec<Damage>,
    /// Sinks' files whose heads are damaged: these sinks join as new ones.
    pub damaged_sinks: Vec<String>,
    /// Watermarks from before the oldest segment are lost: a replay might be taken twice. Begin anew with another id unless
    /// that can be borne.
    pub is_without_watermarks: bool,
}

pub(crate) struct Recovered {
    pub(crate) log: Log,
    pub(crate) watermarks: Watermarks,
    pub(crate) sinks: BTreeMap<String, Cursor>,
    /// The last position that was used.
    pub(crate) last: Position,
    pub(crate) recovery: Recovery,
}

/// Recovers a spool, or begins one with `id`.
pub(crate) fn recover(mut disk: Box<dyn Disk>, id: u64) -> Result<Recovered, SpoolError> {
    let files = disk.list().map_err(|source| SpoolError::disk("the directory", source))?;
    let (id, is_new) = identify(&mut *disk, &files, id)?;
    let mut walk = Walk { id, recovery: Recovery { is_new, ..Recovery::default() }, ..Walk::default() };
    clean(&mut *disk, &files)?;
    walk.load_sinks(&*disk, &files)?;
    walk.load_segments(&mut *disk, &files)?;
    let last = walk.settle_tail();
    let Walk { segments, watermarks, sinks, recovery, .. } = walk;
    Ok(Recovered { log: Log::new(disk, id, segments), watermarks, sinks, last, recovery })
}

/// Refuses a directory that is not a spool of ours.
pub(crate) fn check(disk: &dyn Disk) -> Result<(), SpoolError> {
    let files = disk.list().map_err(|source| SpoolError::disk("the directory", source))?;
    find(disk, &files).map(drop)
}

/// Whose spool it is; makes it `id`'s when it is nobody's.
fn identify(disk: &mut dyn Disk, files: &[(String, u64)], id: u64) -> Result<(u64, bool), SpoolError> {
    if let Some(known) = find(disk, files)? {
        return Ok((known, false));
    }
    begin(disk, id).map_err(|source| SpoolError::disk(IDENTITY, source))?;
    Ok((id, true))
}

/// Whose spool it is; `None` when it is nobody's.
fn find(disk: &dyn Disk, files: &[(String, u64)]) -> Result<Option<u64>, SpoolError> {
    let foreign = |name: &str| SpoolError::Foreign { name: name.to_owned() };
    let Some((_, bytes)) = files.iter().find(|(name, _)| name == IDENTITY) else {
        let ours = |name: &str| segment::parse_name(name).is_some() || cursor::is_file_name(name);
        if let Some((name, _)) = files.iter().find(|(name, _)| ours(name)) {
            return Err(foreign(name));
        }
        return Ok(None);
    };
    let mut found = Vec::new();
    let read = disk.read(IDENTITY, 0, length(*bytes).min(IDENTITY_BYTES), &mut found);
    read.map_err(|source| SpoolError::disk(IDENTITY, source))?;
    let version = parse_identity(&found).ok_or_else(|| foreign(IDENTITY))?;
    version.map(Some).map_err(|found| SpoolError::NewerVersion { found, known: VERSION })
}

fn begin(disk: &mut dyn Disk, id: u64) -> std::io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    let mut out = Out(&mut bytes);
    out.u32(VERSION);
    out.u64(id);
    let sum = crc32fast::hash(&bytes);
    Out(&mut bytes).u32(sum);
    cursor::replace(disk, IDENTITY, &[&bytes])
}

/// The id, or the version that is not ours; `None` when it is no identity.
fn parse_identity(bytes: &[u8]) -> Option<Result<u64, u32>> {
    let mut input = In(bytes.strip_prefix(MAGIC)?);
    let version = input.u32()?;
    if version != VERSION {
        return Some(Err(version));
    }
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let id = input.u64()?;
    (crc32fast::hash(body) == u32::from_le_bytes(*sum)).then_some(Ok(id))
}

/// Removes what was not put into its place.
fn clean(disk: &mut dyn Disk, files: &[(String, u64)]) -> Result<(), SpoolError> {
    let is_ours = |name: &str| name == IDENTITY || cursor::is_file_name(name);
    for (name, _) in files.iter().filter(|(name, _)| name.strip_suffix(NEW).is_some_and(is_ours)) {
        disk.remove(name).map_err(|source| SpoolError::disk(name, source))?;
    }
    Ok(())
}

/// The walk over all files.
#[derive(Default)]
struct Walk {
    id: u64,
    segments: VecDeque<Segment>,
    watermarks: Watermarks,
    sinks: BTreeMap<String, Cursor>,
    recovery: Recovery,
    /// What is missing since the last whole frame; `None` before the first segment.
    gap: Option<Gap>,
    has_watermarks: bool,
}

impl Walk {
    fn load_sinks(&mut self, disk: &dyn Disk, files: &[(String, u64)]) -> Result<(), SpoolError> {
        for (name, bytes) in files.iter().filter(|(name, _)| cursor::is_file_name(name)) {
            match Cursor::load(disk, name, *bytes).map_err(|source| SpoolError::disk(name, source))? {
                Some((sink, cursor)) => drop(self.sinks.insert(sink, cursor)),
                None => self.recovery.damaged_sinks.push(name.clone()),
            }
        }
        Ok(())
    }

    fn load_segments(&mut self, disk: &mut dyn Disk, files: &[(String, u64)]) -> Result<(), SpoolError> {
        let parse = |(name, bytes): &(String, u64)| Some((segment::parse_name(name)?, *bytes));
        let mut found: Vec<_> = files.iter().filter_map(parse).collect();
        found.sort_unstable();
        let mut bytes = Vec::new();
        for (index, (after, file_bytes)) in found.iter().enumerate() {
            let mut segment = Segment::new(*after);
            let name = segment.name();
            let failed = |source| SpoolError::disk(&name, source);
            bytes.clear();
            disk.read(&name, 0, length(*file_bytes), &mut bytes).map_err(failed)?;
            let is_newest = index + 1 == found.len();
            let whole = self.load_segment(&mut segment, &bytes, is_newest)?;
            if whole < *file_bytes {
                self.recovery.torn_bytes += file_bytes - whole;
                disk.truncate(&name, whole).map_err(failed)?;
            }
            if whole == 0 {
                // It was about to begin; the next one may have its name.
                disk.remove(&name).map_err(failed)?;
                continue;
            }
            if is_newest {
                // What a killed process wrote reads as if it were safe.
                disk.sync(&name).and_then(|()| disk.sync_names()).map_err(failed)?;
            }
            segment.bytes = whole;
            self.segments.push_back(segment);
        }
        self.recovery.is_without_watermarks = !self.segments.is_empty() && !self.has_watermarks;
        Ok(())
    }

    /// Takes a segment's frames; gives how many of its bytes stay.
    fn load_segment(
        &mut self,
        segment: &mut Segment,
        bytes: &[u8],
        is_newest: bool,
    ) -> Result<u64, SpoolError> {
        let safe = if is_newest { safe_bytes(bytes) } else { bytes.len() as u64 };
        self.gap.get_or_insert_with(|| Gap::behind(segment.after));
        for piece in Pieces::of(bytes) {
            match piece {
                Piece::Damaged { offset, .. } if offset as u64 >= safe => return Ok(offset as u64),
                Piece::Damaged { offset, head } => {
                    if let Some(gap) = &mut self.gap {
                        gap.damaged(offset as u64, head);
                    }
                }
                Piece::Frame { offset, head, body } => self.frame(segment, offset as u64, &head, body)?,
            }
        }
        Ok(bytes.len() as u64)
    }

    fn frame(
        &mut self,
        segment: &mut Segment,
        offset: u64,
        head: &Head,
        body: &[u8],
    ) -> Result<(), SpoolError> {
        let name = segment.name();
        match head.kind {
            Kind::Watermarks => {
                let mut input = In(body);
                if input.u64() != Some(self.id) {
                    return Err(SpoolError::Foreign { name });
                }
                if let Some(watermarks) = Watermarks::read(&mut input) {
                    (self.watermarks, self.has_watermarks) = (watermarks, true);
                }
            }
            Kind::Batches => {
                self.watermarks.expire(head.at);
                let mut input = In(body);
                while let Some((label, _)) = batch::split(&mut input) {
                    self.watermarks.raise(label.node, label.epoch, label.sequence, head.at);
                }
            }
        }
        let damage = self.gap.replace(Gap::behind(head.last));
        if let Some(damage) = damage.and_then(|gap| gap.close(&name, offset, head.after)) {
            self.damaged(damage);
        }
        segment.push(offset, head);
        Ok(())
    }

    fn damaged(&mut self, damage: Damage) {
        self.sinks.values_mut().for_each(|cursor| cursor.damaged(&damage));
        if self.recovery.damages.len() < DAMAGES_MAX {
            self.recovery.damages.push(damage);
        }
    }

    /// Counts what a sink has passed and the segments do not have, and what they had before their first and a sink has not
    /// passed. Gives the last position that was used.
    fn settle_tail(&mut self) -> Position {
        let passed = self.sinks.values().map(|cursor| cursor.position).max().unwrap_or_default();
        let unpassed = self.sinks.values().map(|cursor| cursor.position).min().unwrap_or_default();
        let (first, last) = match (self.segments.front(), self.segments.back()) {
            (Some(oldest), Some(newest)) => (oldest.after, newest.last),
            _ => (Position(0), Position(0)),
        };
        for (after, last) in [(unpassed, first), (last, passed)] {
            let file = segment::name(after);
            if let Some(damage) = Gap::behind(after).close(&file, 0, last).filter(|_| !self.sinks.is_empty())
            {
                self.damaged(damage);
            }
        }
        last.max(passed)
    }
}

/// How many of the newest segment's bytes had been synced for sure: as far as a later frame says.
fn safe_bytes(bytes: &[u8]) -> u64 {
    let durable = |piece| match piece {
        Piece::Frame { head, .. } => head.durable,
        Piece::Damaged { .. } => 0,
    };
    Pieces::of(bytes).map(durable).max().unwrap_or(0)
}
