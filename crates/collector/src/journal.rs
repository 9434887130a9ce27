//! The ends that were heard since the last state, in `--state-dir`: what a killed process knew and had not kept.
//!
//! ```text
//! ends-<ordinal>          the ends from this one on, as the kernel told them
//!   head                  magic, epoch
//!   frame, repeated       see `frame`
//! ```
//!
//! The thread that receives ends writes each of its batches before anybody can drain it, so an ordinal, which counts
//! ends in the order of their draining, says which of them a state holds already. One process goes on counting where
//! the one before ended.
//!
//! Invariant: an end is written before it is applied, and its file stays until a state holds it. Bound:
//! [`SEGMENT_BYTES_MAX`] from one state to the next, beside what that state holds; what does not fit or cannot be
//! written is applied all the same, and counted as unprotected.
//!
//! **May be lost** of a process that is killed: what is unprotected, and the ends that waited in the kernel, of some
//! 4 ms.

mod frame;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egressd_conntrack::netfilter::Keeper;
use egressd_flow::{Ended, Epoch};

use self::frame::Head;

/// The first bytes of a segment; the last two digits are the layout's.
const MAGIC: &[u8; 16] = b"egressd  ends 01";
const SEGMENT_HEAD_BYTES: usize = MAGIC.len() + 8;
const PREFIX: &str = "ends-";
/// Some 120,000 ends. A read begins with room for three quarters of them at least.
const SEGMENT_BYTES_MAX: usize = 32 << 20;
/// What the files take in the ordinary course, in bytes: one that is written, and one that a state is about to hold.
pub(crate) const BYTES_MAX: usize = 2 * SEGMENT_BYTES_MAX;
/// From here on a state is due, so that a new segment can begin: one for some 30,000 ends, since a state of a large
/// table costs as much as they do, and a long read needs room for more.
const LARGE_BYTES: usize = SEGMENT_BYTES_MAX / 4;

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
    /// Ends that were heard, before others that were kept, and are not here.
    pub(crate) missing: u64,
    /// Files that are torn, damaged, of another epoch or not readable; what stands before the damage was handed over.
    pub(crate) torn: u64,
}

impl Journal {
    /// A journal of `epoch`'s ends that counts on from ordinal `next`, and why it keeps none for now, if so.
    pub(crate) fn begin(directory: &Path, epoch: Epoch, next: u64) -> (Self, io::Result<()>) {
        let directory = directory.to_owned();
        let mut segment =
            Segment { directory, epoch, file: None, next, bytes: 0, unprotected: 0, frame: Vec::new() };
        let begun = segment.begin();
        (Self(Arc::new(Mutex::new(segment))), begun)
    }

    /// A state holds every end before ordinal `held`: begins another segment, and lets go of those that are held whole.
    ///
    /// # Errors
    /// No segment can be begun: ends are unprotected until the next try.
    pub(crate) fn let_go(&self, held: u64) -> io::Result<()> {
        let (begun, directory, current) = {
            let mut segment = self.lock();
            (segment.begin(), segment.directory.clone(), segment.next)
        };
        // What a segment holds comes before the next one's first. None of ours begins beyond the next end.
        let held = held.min(current);
        for pair in segments(&directory)?.windows(2).filter(|pair| pair[1] <= held) {
            fs::remove_file(path(&directory, pair[0]))?;
        }
        begun
    }

    /// Whether a state should be kept so that another segment can begin: this one is large, or cannot be written.
    pub(crate) fn wants_relief(&self) -> bool {
        let segment = self.lock();
        segment.file.is_none() || segment.bytes >= LARGE_BYTES
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
        let ends = u32::try_from(ends).unwrap_or(u32::MAX);
        let is_framed = frame::write(&mut self.frame, self.next, ends, datagrams);
        self.next += u64::from(ends);
        let has_room = self.bytes + self.frame.len() <= SEGMENT_BYTES_MAX;
        if !(is_framed && has_room && self.write()) {
            self.unprotected += u64::from(ends);
        }
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

/// Hands over what was heard from ordinal `held` on and no state holds, in the order in which it was heard.
pub(crate) fn replay(directory: &Path, epoch: Epoch, held: u64, each: &mut dyn FnMut(&Ended)) -> Replayed {
    let mut replayed = Replayed { next: held, ..Replayed::default() };
    for first in segments(directory).unwrap_or_default() {
        let is_sound = replay_segment(&path(directory, first), epoch, &mut replayed, each).unwrap_or(false);
        replayed.torn += u64::from(!is_sound);
    }
    replayed
}

/// True when it is sound to its end. Bound: one frame in memory.
fn replay_segment(
    file: &Path,
    epoch: Epoch,
    replayed: &mut Replayed,
    each: &mut dyn FnMut(&Ended),
) -> io::Result<bool> {
    let mut input = BufReader::new(File::open(file)?);
    let mut head = [0; SEGMENT_HEAD_BYTES];
    input.read_exact(&mut head)?;
    if head[..MAGIC.len()] != *MAGIC || head[MAGIC.len()..] != epoch.0.to_le_bytes() {
        return Ok(false);
    }
    let mut body = Vec::new();
    while let Some(head) = next_head(&mut input)? {
        body.resize(head.body_bytes(), 0);
        input.read_exact(&mut body)?;
        let Some(ends) = head.ends(&body) else { return Ok(false) };
        replayed.take(&head, &ends, each);
    }
    Ok(true)
}

/// `None` at the end.
fn next_head(input: &mut impl Read) -> io::Result<Option<Head>> {
    let mut bytes = [0; frame::HEAD_BYTES];
    match input.read(&mut bytes)? {
        0 => Ok(None),
        read => {
            input.read_exact(&mut bytes[read..])?;
            Head::parse(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

impl Replayed {
    fn take(&mut self, head: &Head, ends: &[Ended], each: &mut dyn FnMut(&Ended)) {
        let known = self.next.saturating_sub(head.first);
        let new = ends.iter().skip(usize::try_from(known).unwrap_or(usize::MAX));
        for ended in new {
            each(ended);
            self.ends += 1;
        }
        self.missing += head.first.saturating_sub(self.next);
        self.next = self.next.max(head.first.saturating_add(head.ends.into()));
    }
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
