//! The exporter's disk: full, killed amid a write, syncs that fail, power that goes.
//!
//! Invariant: what was synced stays, and of what was not a part may. Bound: the files of one history.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egressd_spool::Disk;

use crate::rng::Rng;

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// So many of them survive.
    safe: usize,
}

#[derive(Debug, Default)]
struct Files {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    full: bool,
    failing: bool,
    /// Steps until the process is killed; a write is torn then.
    life: Option<u64>,
    torn: u64,
}

/// A handle; clones are of the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Files>>);

impl SimDisk {
    /// Nothing more can be written, until there is room again.
    pub(crate) fn set_full(&self, full: bool) {
        self.files().full = full;
    }

    /// No sync succeeds, until they do again.
    pub(crate) fn set_failing(&self, failing: bool) {
        self.files().failing = failing;
    }

    /// The process is killed after so many steps.
    pub(crate) fn kill_after(&self, steps: u64) {
        self.files().life = Some(steps);
    }

    /// Whether the process that writes here was killed.
    pub(crate) fn has_killed(&self) -> bool {
        self.files().life == Some(0)
    }

    /// Another process begins. How many writes were torn by kills so far.
    pub(crate) fn restart(&self) -> u64 {
        let mut files = self.files();
        (files.life, files.full, files.failing) = (None, false, false);
        files.torn
    }

    /// The power goes: what is not safe stays as far as chance has it.
    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        let mut files = self.files();
        if rng.once_in(2) {
            files.names = files.safe_names.clone();
        }
        files.safe_names = files.names.clone();
        for file in &mut files.files {
            let unsafe_bytes = file.bytes.len() - file.safe;
            let kept = file.safe + rng.index(unsafe_bytes + 1);
            file.bytes.truncate(kept);
            if kept > file.safe && rng.once_in(3) {
                // Pages are written in any order.
                let from = file.safe + rng.index(kept - file.safe);
                let to = kept.min(from + 64);
                file.bytes[from..to].fill(0);
            }
            file.safe = kept;
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn step(&mut self) -> io::Result<()> {
        if self.life == Some(0) {
            return Err(io::Error::other("killed"));
        }
        self.life = self.life.map(|life| life - 1);
        Ok(())
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let index = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get_mut(index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = self.files();
        let sizes = files
            .names
            .iter()
            .filter_map(|(name, index)| Some((name.clone(), files.files.get(*index)?.bytes.len() as u64)));
        Ok(sizes.collect())
    }

    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let mut files = self.files();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let part = files.file(name)?.bytes.get(start..start + length);
        into.extend_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        let index = files.files.len();
        files.files.push(File::default());
        files.names.insert(name.to_owned(), index);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        if files.life == Some(1) {
            let torn = bytes.len() / 2;
            files.file(name)?.bytes.extend_from_slice(&bytes[..torn]);
            files.torn += 1;
            files.life = Some(0);
        }
        files.step()?;
        if files.full {
            let written = bytes.len() / 3;
            files.file(name)?.bytes.extend_from_slice(&bytes[..written]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        files.file(name)?.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        let file = files.file(name)?;
        file.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        file.safe = file.safe.min(file.bytes.len());
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        if files.failing {
            return Err(io::Error::other("the disk does not answer"));
        }
        let file = files.file(name)?;
        file.safe = file.bytes.len();
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        files.safe_names = files.names.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        let index = files.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        files.names.remove(name);
        Ok(())
    }
}
