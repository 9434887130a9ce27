//! The file system as a spool needs it: one flat directory of files that only grow, are cut, or are replaced whole.
//!
//! A trait, since a simulation is a disk too: one that tears writes, fills up, and loses what was not synced.
//! Invariant: no rule of the spool is here. Bound: none of its own; what is read is as long as the caller says.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::SpoolError;

/// Files by name. What was written is certain to survive a crash after [`sync`](Self::sync) of its file and
/// [`sync_names`](Self::sync_names) after the file was made or renamed, and not before.
pub trait Disk: Send {
    /// Every file with its length in bytes, in no order.
    ///
    /// # Errors
    /// What the kernel says, as for every other method.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Adds `length` bytes from `offset` on to `into`, or fails.
    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()>;
    /// Makes an empty file in the place of whatever has the name.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Writes at the end. After a failure, any part of `bytes` may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to its first `length` bytes.
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// What the file holds survives.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// What files there are survives.
    fn sync_names(&mut self) -> io::Result<()>;
    /// Gives `from` the name `to`, in the place of what had it, in one step.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. One that does not exist is removed.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A directory of the machine's, held by a lock for as long as this lives. Files of other names are not touched.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The file written last, since most writes follow one to the same.
    open: Option<(String, File)>,
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, and takes it.
    ///
    /// # Errors
    /// [`SpoolError::InUse`], or what is wrong with the disk.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::disk(&path.display().to_string(), source);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        File::open(path.join("..")).and_then(|parent| parent.sync_all()).map_err(failed)?;
        let lock = options().create(true).truncate(false).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), open: None, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(SpoolError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            let file = options().append(true).open(self.path.join(name))?;
            self.open = Some((name.to_owned(), file));
        }
        self.open.as_mut().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Files that nobody else reads: they name pods and peers.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            let metadata = file.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), file.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let file = File::open(self.path.join(name))?;
        let start = into.len();
        into.resize(start + length, 0);
        file.read_exact_at(&mut into[start..], offset).inspect_err(|_| into.truncate(start))
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        options().create(true).truncate(true).open(self.path.join(name)).map(drop)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open = None;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// No disk at all: what the process holds ends with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn file(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        self.0.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.0.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let part = start.checked_add(length).and_then(|end| bytes.get(start..end));
        into.extend_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.0.insert(name.to_owned(), Vec::new());
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&mut self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let bytes = self.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.0.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name);
        Ok(())
    }
}
