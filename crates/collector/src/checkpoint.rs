//! What survives this process: the meter's state and the batches that are not delivered, in `--state-dir`.
//!
//! ```text
//! lock                    held while a collector runs
//! state                   the meter, as of one cut; replaced as a whole
//! settled                 where a process that ended well was with its batches, after its last state
//! batch-<sequence>        a batch of the state's epoch, from before it is sent until it is delivered
//! ends-<ordinal>          ends that were heard since: see [`journal`](crate::journal)
//! ```
//!
//! A cut's batches are written first, then the state that counts past them, and only then are they sent: so a batch
//! without a state past it was never sent, and is cut anew from the baselines of the state before. One epoch goes on
//! from process to process.
//!
//! The directory is meant for a tmpfs of the node (`/run`): it survives a kill and an upgrade, and what it holds of
//! another boot is refused. It takes some 30 bytes an entry, twice that while a state replaces another, what the window
//! holds, and up to 64 MiB of ends; on a tmpfs that counts as this process's memory. Files of other names are not
//! touched. A state that is damaged, torn or another node's is refused as a whole, never in part.
//!
//! **May be lost**: what entries that ended while no process listened had grown since the last state. A state that
//! cannot be written after a cut takes its predecessor with it, until the next one: none is better than one from before
//! what was sent. Batches that could not be written, or whose state is not gone on from, are lost to the next process,
//! and counted there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use egressd_delivery::window::Progress;
use egressd_flow::{Batch, Epoch, NodeName, Sequence, UnixNanos};
use egressd_meter::{Meter, MeterConfig};
use egressd_protocol::{SpoolId, batch_from_bytes, batch_to_bytes};
use nix::fcntl::{Flock, FlockArg};

use crate::journal::{self, Journal, Replayed};

/// The first bytes of a state; the last two digits are the layout's.
const MAGIC: &[u8; 16] = b"egressd state 04";
const STATE: &str = "state";
/// A state before it is whole.
const STATE_NEW: &str = "state.new";
const BATCH_PREFIX: &str = "batch-";
/// Holds the sequence that the process before ended at.
const SETTLED: &str = "settled";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Larger than any batch that a peer takes.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Why the directory cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    #[error("cannot use the state directory {path}{}", remedy(.source))]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another collector uses the state directory {path}: give each its own")]
    InUse { path: PathBuf },
}

/// Why a state is not gone on from. It is removed, and this process begins anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    #[error("it is torn or damaged")]
    Damaged,
    #[error("it is of another version")]
    OtherVersion,
    #[error("it does not fit this process")]
    Unfit(#[source] io::Error),
    #[error("it is of another boot, node, source or network namespace, or of other --ct-zones")]
    Foreign,
}

/// Whose state it is. Entries that were not read before have no baseline, and would count whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'a> {
    pub(crate) node: &'a NodeName,
    /// What is read, in words that another source, or another part of this one, does not have.
    pub(crate) source: &'a str,
}

/// What the process before left.
pub(crate) struct Recovered {
    pub(crate) meter: Meter,
    pub(crate) batches: Vec<Batch>,
    pub(crate) spool: Option<SpoolId>,
    /// What it had heard since the state, which the meter knows now.
    pub(crate) replayed: Replayed,
}

/// What became of it.
pub(crate) struct Recovery {
    /// `None` when it left nothing; why not, when that cannot be gone on from.
    pub(crate) recovered: Result<Option<Recovered>, Refusal>,
    /// Batches that were held and are lost: not to be read, or of a state that is not gone on from.
    pub(crate) lost_batches: u64,
}

/// How far the rest of the collector is, as of a state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) progress: Progress,
    /// Ordinal of the first end that the meter does not know.
    pub(crate) heard: u64,
}

/// What to do, where the system's words alone do not tell.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (its owner or mode, or a policy such as SELinux, keeps this process out: see collector.seLinuxOptions of the \
             chart, or name another by --state-dir)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable, or name another by --state-dir)",
        io::ErrorKind::StorageFull => " (make room, or name another by --state-dir)",
        _ => "",
    }
}

/// The directory, held for this process.
pub(crate) struct StateDir {
    path: PathBuf,
    /// Says whose state it is, and of which boot.
    label: Vec<u8>,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if need be, and takes it.
    pub(crate) fn open(path: &Path, whose: Whose<'_>) -> Result<Self, StateDirError> {
        let unusable = |source| StateDirError::Unusable { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let boot = fs::read_to_string(BOOT_ID).map_err(unusable)?;
        let lock = create(&path.join("lock")).map_err(unusable)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StateDirError::InUse { path: path.to_owned() })?;
        let Whose { node, source } = whose;
        let label = format!("{}\n{}\n{source}\n", boot.trim(), node.0).into_bytes();
        Ok(Self { path: path.to_owned(), label, _lock: lock })
    }

    /// What the process before left. What cannot be gone on from is removed.
    pub(crate) fn recover(&mut self, config: MeterConfig, now: UnixNanos) -> Recovery {
        let recovered = self.read(config, now);
        if let Ok(Some((recovered, lost_batches))) = recovered {
            return Recovery { recovered: Ok(Some(recovered)), lost_batches };
        }
        let settled = self.settled();
        let held = kept(&self.path).unwrap_or_default().into_iter().filter(|sequence| *sequence >= settled);
        let lost_batches = held.count() as u64;
        self.forget_state();
        journal::forget(&self.path);
        // What stays is replaced by its name, or refused by its epoch.
        let _gone = let_go(&self.path, Sequence(u64::MAX));
        Recovery { recovered: recovered.map(|_| None), lost_batches }
    }

    /// Where the ends of `epoch` from ordinal `next` on are kept, and why they are not for now, if so.
    pub(crate) fn journal(&self, epoch: Epoch, next: u64) -> (Journal, io::Result<()>) {
        Journal::begin(&self.path, epoch, next)
    }

    fn read(&self, config: MeterConfig, now: UnixNanos) -> Result<Option<(Recovered, u64)>, Refusal> {
        let mut file = match File::open(self.state()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        check(&mut file)?;
        let mut input = BufReader::new(File::open(self.state())?);
        let (mut magic, mut label) = ([0; MAGIC.len()], vec![0; self.label.len()]);
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(Refusal::OtherVersion);
        }
        if read_u64(&mut input)? != self.label.len() as u64 {
            return Err(Refusal::Foreign);
        }
        input.read_exact(&mut label)?;
        if label != self.label {
            return Err(Refusal::Foreign);
        }
        let (spool, first) = (read_u64(&mut input)?, Sequence(read_u64(&mut input)?));
        let heard = read_u64(&mut input)?;
        let mut meter = Meter::restore(config, &mut input).map_err(Refusal::Unfit)?;
        let (epoch, next) = meter.position();
        let replayed = journal::replay(&self.path, epoch, heard, &mut |ended| meter.ended(ended, now));
        // They were cut and never kept, and what is cut anew under their numbers may find no room.
        let _gone = remove(&self.path, |sequence| sequence >= next);
        let (batches, lost_batches) = self.batches(epoch, first, next);
        let spool = (spool != 0).then_some(SpoolId(spool));
        Ok(Some((Recovered { meter, batches, spool, replayed }, lost_batches)))
    }

    /// The batches that were held, oldest first, but for those that were delivered and let go since. What has a gap
    /// behind it cannot be sent in order, and is lost with it.
    fn batches(&self, epoch: Epoch, first: Sequence, next: Sequence) -> (Vec<Batch>, u64) {
        let first = first.max(self.settled());
        let (mut batches, mut lost) = (Vec::new(), 0);
        for sequence in (first.0..next.0).map(Sequence) {
            match self.batch(epoch, sequence) {
                Some(batch) => batches.push(batch),
                None => lost += 1 + batches.drain(..).count() as u64,
            }
        }
        (batches, lost)
    }

    /// Where the process before ended, after its last state.
    fn settled(&self) -> Sequence {
        let text = fs::read_to_string(self.path.join(SETTLED)).unwrap_or_default();
        Sequence(text.trim().parse().unwrap_or(0))
    }

    fn batch(&self, epoch: Epoch, sequence: Sequence) -> Option<Batch> {
        let file = File::open(batch_path(&self.path, sequence)).ok()?;
        let mut bytes = Vec::new();
        file.take(BATCH_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let is_whole = crc32fast::hash(body) == u32::from_le_bytes(*sum);
        let batch = is_whole.then(|| batch_from_bytes(body).ok())??;
        (batch.epoch == epoch && batch.sequence == sequence).then_some(batch)
    }

    /// Keeps a cut's batches and the meter past them, and lets go of batches that need not be kept any more. Gives the
    /// state's size in bytes.
    ///
    /// # Errors
    /// It could not be written. Unless nothing was cut, there is no state then until the next one.
    pub(crate) fn save(&mut self, meter: &mut Meter, cut: &[Batch], standing: Standing) -> io::Result<u64> {
        let saved = self.try_save(meter, cut, standing);
        match saved {
            // What stays is sent again, and known there.
            Ok(_) => drop(let_go(&self.path, standing.progress.first)),
            Err(_) if cut.is_empty() => drop(fs::remove_file(self.path.join(STATE_NEW))),
            Err(_) => {
                self.forget_state();
                // Without a state a batch serves no more than to be counted.
                drop(let_go(&self.path, standing.progress.first));
            }
        }
        saved
    }

    /// The last word of a process that ended well: the batches before `first` need not be sent again.
    ///
    /// # Errors
    /// It could not be written down, or a batch not removed.
    pub(crate) fn settle(&mut self, first: Sequence) -> io::Result<()> {
        create(&self.path.join(SETTLED))?.write_all(first.to_string().as_bytes())?;
        let_go(&self.path, first)
    }

    fn try_save(&self, meter: &mut Meter, cut: &[Batch], standing: Standing) -> io::Result<u64> {
        let Standing { progress, heard } = standing;
        for batch in cut {
            let mut bytes = batch_to_bytes(batch);
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            create(&batch_path(&self.path, batch.sequence))?.write_all(&bytes)?;
        }
        let new = self.path.join(STATE_NEW);
        let summed = Summed { out: create(&new)?, hasher: Hasher::new(), length: 0 };
        // A sum by the buffer: one by the field takes several times as long.
        let mut out = BufWriter::with_capacity(1 << 16, summed);
        out.write_all(MAGIC)?;
        out.write_all(&(self.label.len() as u64).to_le_bytes())?;
        out.write_all(&self.label)?;
        out.write_all(&progress.spool.map_or(0, |spool| spool.0).to_le_bytes())?;
        out.write_all(&progress.first.0.to_le_bytes())?;
        out.write_all(&heard.to_le_bytes())?;
        meter.save(&mut out)?;
        let length = out.into_inner()?.finish()?;
        fs::rename(new, self.state())?;
        Ok(length)
    }

    /// Removes the state, as far as that goes: where nothing can be removed the disk is beyond our help.
    fn forget_state(&self) {
        for name in [STATE, STATE_NEW, SETTLED] {
            let _gone = fs::remove_file(self.path.join(name));
        }
    }

    fn state(&self) -> PathBuf {
        self.path.join(STATE)
    }
}

/// A file that nobody else reads: it names pods and peers.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}

/// The batches that there are files of.
fn kept(directory: &Path) -> io::Result<Vec<Sequence>> {
    let mut sequences = Vec::new();
    for file in fs::read_dir(directory)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(BATCH_PREFIX)?.parse().ok());
        sequences.extend(number.map(Sequence));
    }
    Ok(sequences)
}

/// Lets go of the batches before `first`, which need not be sent again.
///
/// # Errors
/// One could not be removed.
fn let_go(directory: &Path, first: Sequence) -> io::Result<()> {
    remove(directory, |sequence| sequence < first)
}

fn remove(directory: &Path, is_gone: impl Fn(Sequence) -> bool) -> io::Result<()> {
    for sequence in kept(directory)?.into_iter().filter(|sequence| is_gone(*sequence)) {
        match fs::remove_file(batch_path(directory, sequence)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn batch_path(directory: &Path, sequence: Sequence) -> PathBuf {
    directory.join(format!("{BATCH_PREFIX}{sequence}"))
}

fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// That a file's last four bytes are the sum of those before.
fn check(file: &mut File) -> Result<(), Refusal> {
    let length = file.metadata()?.len().checked_sub(4).ok_or(Refusal::Damaged)?;
    let mut hasher = Hasher::new();
    let mut body = BufReader::with_capacity(1 << 16, file).take(length);
    let mut chunk = [0; 1 << 12];
    loop {
        match body.read(&mut chunk)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    let mut sum = [0; 4];
    body.into_inner().read_exact(&mut sum)?;
    if hasher.finalize() == u32::from_le_bytes(sum) { Ok(()) } else { Err(Refusal::Damaged) }
}

/// Writes, and keeps the sum of what was written.
struct Summed<W> {
    out: W,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Summed<W> {
    /// Ends with the sum; how many bytes there are in all.
    fn finish(mut self) -> io::Result<u64> {
        self.out.write_all(&self.hasher.finalize().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.length + 4)
    }
}

#[cfg(test)]
mod tests;
