//! The ends that were heard since the last state, in `--state-dir`: what a killed process knew and had not kept.
//!
//! ```text
//! ends-<ordinal>          the ends from this one on, as the kernel told them
//!   head                  magic, epoch
//!   frame, repeated       ordinal of its first end, ends, length, sum of all that; then datagrams, each padded to 4 bytes
//! ```
//!
//! The thread that receives ends writes each of its batches before anybody can drain it, so an ordinal, which counts
//! ends in the order of their draining, says which of them a state holds already. One process goes on counting where
//! the one before ended.
//!
//! Invariant: an end is written before it is applied, and its file stays until a state holds it. Bound:
//! [`SEGMENT_BYTES_MAX`] in each of two files; what does not fit is applied all the same, and counted as unprotected.
//!
//! **May be lost** of a process that is killed: ends that waited in the kernel, of some 4 ms.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc32fast::Hasher;
use egressd_conntrack::netfilter::{CtZones, Keeper, codec};
use egressd_flow::{Defects, Ended, Epoch};

/// The first bytes of a segment; the last two digits are the layout's.
const MAGIC: &[u8; 16] = b"egressd  ends 01";
const HEAD_BYTES: usize = MAGIC.len() + 8;
const FRAME_HEAD_BYTES: usize = 8 + 4 + 4 + 4;
const PREFIX: &str = "ends-";
/// Some 60,000 ends.
const SEGMENT_BYTES_MAX: usize = 16 << 20;
/// What the files take at most, in bytes.
pub(crate) const BYTES_MAX: usize = 2 * SEGMENT_BYTES_MAX;
/// From here on a state is due, so that a new segment can begin: one for some 45,000 ends, since a state of a large
/// table costs as much as they do.
const LARGE_BYTES: usize = SEGMENT_BYTES_MAX / 4 * 3;
/// netlink's alignment of messages (`NLMSG_ALIGNTO`), so that datagrams in a row are read as one.
const ALIGNMENT: usize = 4;

/// The journal of one process; clones are of the same one.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Mutex<Segment>>);

/// The segment that is written.
struct Segment {
    directory: PathBuf,
    epoch: Epoch,
    /// `None` after a failure, until the next segment.
    file: Option<File>,
    /// Ordinal of the next end.
    next: u64,
    bytes: usize,
    unprotected: u64,
    frame: Vec<u8>,
}

/// What the process before had heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Ends handed over.
    pub(crate) ends: u64,
    /// Ordinal behind the last one.
    pub(crate) next: u64,
    /// Segments that are torn, damaged, of another epoch or not readable; what stands before the damage was handed over.
    pub(crate) torn: u64,
}

impl Journal {
    /// A journal of `epoch`'s ends that counts on from ordinal `next`.
    ///
    /// # Errors
    /// Its first segment cannot be begun.
    pub(crate) fn begin(directory: &Path, epoch: Epoch, next: u64) -> io::Result<Self> {
        let directory = directory.to_owned();
        let mut segment =
            Segment { directory, epoch, file: None, next, bytes: 0, unprotected: 0, frame: Vec::new() };
        segment.begin()?;
        Ok(Self(Arc::new(Mutex::new(segment))))
    }

    /// A state holds every end before ordinal `held`: begins another segment, and lets go of those that are held whole.
    ///
    /// # Errors
    /// No segment can be begun: ends are unprotected until the next try.
    pub(crate) fn let_go(&self, held: u64) -> io::Result<()> {
        let (begun, directory) = {
            let mut segment = self.lock();
            (segment.begin(), segment.directory.clone())
        };
        // What a segment holds comes before the next one's first.
        for pair in segments(&directory)?.windows(2).filter(|pair| pair[1] <= held) {
            fs::remove_file(path(&directory, pair[0]))?;
        }
        begun
    }

    /// Whether a state should be kept so that another segment can begin.
    pub(crate) fn is_large(&self) -> bool {
        self.lock().bytes >= LARGE_BYTES
    }

    /// Ends that were heard and could not be kept.
    pub(crate) fn unprotected(&self) -> u64 {
        self.lock().unprotected
    }

    /// A panic elsewhere leaves at worst a torn frame, which is known by its sum.
    fn lock(&self) -> MutexGuard<'_, Segment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Journal {
    fn keep(&mut self, datagrams: &mut dyn Iterator<Item = &[u8]>, ends: usize) {
        self.lock().append(datagrams, ends);
    }
}

impl Segment {
    /// Begins a file named by the next end, unless the one that is open has nothing yet.
    fn begin(&mut self) -> io::Result<()> {
        if self.file.is_some() && self.bytes == 0 {
            return Ok(());
        }
        self.file = None;
        let file = path(&self.directory, self.next);
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(file)?;
        file.write_all(MAGIC)?;
        file.write_all(&self.epoch.0.to_le_bytes())?;
        (self.file, self.bytes) = (Some(file), 0);
        Ok(())
    }

    fn append(&mut self, datagrams: &mut dyn Iterator<Item = &[u8]>, ends: usize) {
        let count = u32::try_from(ends).unwrap_or(u32::MAX);
        let framed = self.frame(datagrams, count);
        self.next += u64::from(count);
        let is_kept = framed && self.write();
        if !is_kept {
            self.unprotected += u64::from(count);
        }
    }

    /// Makes the next frame; false when it has no room.
    fn frame(&mut self, datagrams: &mut dyn Iterator<Item = &[u8]>, ends: u32) -> bool {
        let frame = &mut self.frame;
        frame.clear();
        frame.extend([0; FRAME_HEAD_BYTES]);
        for datagram in datagrams {
            frame.extend(datagram);
            frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
        }
        let Ok(length) = u32::try_from(frame.len() - FRAME_HEAD_BYTES) else { return false };
        let head = FrameHead { first: self.next, ends, length };
        let Some((place, body)) = frame.split_first_chunk_mut() else { return false };
        *place = head.with_sum(body);
        self.bytes + frame.len() <= SEGMENT_BYTES_MAX
    }

    /// Writes the frame; false when it could not be. What a failure leaves is torn, so nothing may follow it.
    fn write(&mut self) -> bool {
        let Some(file) = &mut self.file else { return false };
        let is_written = file.write_all(&self.frame).is_ok();
        if is_written {
            self.bytes += self.frame.len();
        } else {
            self.file = None;
        }
        is_written
    }
}

#[derive(Clone, Copy)]
struct FrameHead {
    first: u64,
    ends: u32,
    length: u32,
}

impl FrameHead {
    fn with_sum(self, body: &[u8]) -> [u8; FRAME_HEAD_BYTES] {
        let mut bytes = [0; FRAME_HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.ends.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        let mut hasher = Hasher::new();
        hasher.update(&bytes[..16]);
        hasher.update(body);
        bytes[16..].copy_from_slice(&hasher.finalize().to_le_bytes());
        bytes
    }

    /// Splits off one frame; `None` when it is torn or damaged.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let &[f0, f1, f2, f3, f4, f5, f6, f7, e0, e1, e2, e3, l0, l1, l2, l3, ..] = head;
        let head_found = Self {
            first: u64::from_le_bytes([f0, f1, f2, f3, f4, f5, f6, f7]),
            ends: u32::from_le_bytes([e0, e1, e2, e3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
        };
        let (body, rest) = rest.split_at_checked(usize::try_from(head_found.length).ok()?)?;
        (head_found.with_sum(body) == *head).then_some((head_found, body, rest))
    }
}

/// Hands over what was heard from ordinal `held` on and no state holds, in the order in which it was heard.
pub(crate) fn replay(directory: &Path, epoch: Epoch, held: u64, each: &mut dyn FnMut(&Ended)) -> Replayed {
    let mut replayed = Replayed { next: held, ..Replayed::default() };
    for first in segments(directory).unwrap_or_default() {
        let bytes = read(&path(directory, first)).unwrap_or_default();
        if !replay_segment(&bytes, epoch, &mut replayed, each) {
            replayed.torn += 1;
        }
    }
    replayed
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(HEAD_BYTES + SEGMENT_BYTES_MAX).unwrap_or(u64::MAX);
    File::open(file)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// True when it is sound to its end.
fn replay_segment(bytes: &[u8], epoch: Epoch, replayed: &mut Replayed, each: &mut dyn FnMut(&Ended)) -> bool {
    let Some((head, mut rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return false };
    if head[..MAGIC.len()] != *MAGIC || head[MAGIC.len()..] != epoch.0.to_le_bytes() {
        return false;
    }
    while !rest.is_empty() {
        let Some((head, body, behind)) = FrameHead::split(rest) else { return false };
        let (mut ordinal, mut defects) = (head.first, Defects::default());
        codec::ends(body, &CtZones::ALL, &mut defects, &mut |ended| {
            if ordinal >= replayed.next {
                each(&ended);
                replayed.ends += 1;
            }
            ordinal += 1;
        });
        replayed.next = replayed.next.max(ordinal);
        rest = behind;
    }
    true
}

/// Removes every segment, as far as that goes: what stays is of another epoch, or is written over.
pub(crate) fn forget(directory: &Path) {
    for first in segments(directory).unwrap_or_default() {
        let _gone = fs::remove_file(path(directory, first));
    }
}

/// First ordinals of the segments, in order.
fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for file in fs::read_dir(directory)? {
        let name = file?.file_name();
        let first = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
        firsts.extend(first);
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{first}"))
}

#[cfg(test)]
mod tests;
