//! A disk that fails on demand: full, killed at any byte, syncs that fail, power that goes.
//!
//! Honest: what was synced is kept, and of what was not any part may be.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::Disk;

/// What a file holds now, and what of it is safe.
#[derive(Clone, Debug, Default)]
struct Node {
    bytes: Vec<u8>,
    safe: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    /// Bytes that may still be written before the disk is full.
    room: Option<usize>,
    /// Bytes that are still written before the process is killed.
    life: Option<usize>,
    sync_fails: bool,
}

/// A handle; clones are of the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<Inner>>);

impl FaultyDisk {
    pub(super) fn room(&self, bytes: Option<usize>) {
        self.inner().room = bytes;
    }

    pub(super) fn kill_after(&self, bytes: usize) {
        self.inner().life = Some(bytes);
    }

    pub(super) fn fail_syncs(&self, fails: bool) {
        self.inner().sync_fails = fails;
    }

    /// The process is gone, the machine is not.
    pub(super) fn restart(&self) {
        let mut inner = self.inner();
        (inner.life, inner.room, inner.sync_fails) = (None, None, false);
    }

    /// The power goes. `chance` says how much of what was not safe is there after all.
    pub(super) fn lose_power(&self, chance: u64) {
        self.restart();
        let mut inner = self.inner();
        if chance.is_multiple_of(2) {
            inner.names = inner.safe_names.clone();
        }
        inner.safe_names = inner.names.clone();
        for (node, chance) in inner.nodes.iter_mut().zip((0..).map(|index| chance.rotate_left(index * 7))) {
            node.survive(chance);
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.inner().names.keys().cloned().collect()
    }

    /// Lets a test damage a file.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let node = inner.names[name];
        edit(&mut inner.nodes[node].bytes);
        inner.nodes[node].safe = inner.nodes[node].bytes.clone();
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.clone();
        disk.create(name).unwrap();
        disk.append(name, bytes).unwrap();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Node {
    fn survive(&mut self, chance: u64) {
        let Some(unsafe_bytes) = self.bytes.strip_prefix(&*self.safe).filter(|bytes| !bytes.is_empty())
        else {
            // It was cut, and that may be undone.
            if chance.is_multiple_of(3) {
                self.bytes = self.safe.clone();
            }
            self.safe = self.bytes.clone();
            return;
        };
        let kept = usize::try_from(chance >> 8).unwrap_or(0) % (unsafe_bytes.len() + 1);
        let mut tail = unsafe_bytes[..kept].to_vec();
        if chance.is_multiple_of(5) && kept > 0 {
            // Pages are written in any order.
            let from = usize::try_from(chance >> 16).unwrap_or(0) % kept;
            let to = kept.min(from + 64);
            tail[from..to].fill(0);
        }
        self.safe.extend(tail);
        self.bytes = self.safe.clone();
    }
}

impl Inner {
    fn alive(&self) -> io::Result<()> {
        if self.life == Some(0) { Err(io::Error::other("killed")) } else { Ok(()) }
    }

    /// A step that is no write ends a life as well, now and then.
    fn step(&mut self) -> io::Result<()> {
        self.alive()?;
        self.life = self.life.map(|life| life - 1);
        Ok(())
    }

    fn node(&mut self, name: &str) -> io::Result<&mut Node> {
        let node = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.nodes[node])
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let inner = self.inner();
        Ok(inner
            .names
            .iter()
            .map(|(name, node)| (name.clone(), inner.nodes[*node].bytes.len() as u64))
            .collect())
    }

    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let mut inner = self.inner();
        let start = usize::try_from(offset).unwrap();
        let bytes = &inner.node(name)?.bytes;
        into.extend_from_slice(bytes.get(start..start + length).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        let node = inner.nodes.len();
        inner.nodes.push(Node::default());
        inner.names.insert(name.to_owned(), node);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.alive()?;
        let written = bytes.len().min(inner.room.unwrap_or(usize::MAX)).min(inner.life.unwrap_or(usize::MAX));
        inner.node(name)?.bytes.extend_from_slice(&bytes[..written]);
        inner.room = inner.room.map(|room| room - written);
        inner.life = inner.life.map(|life| life - written);
        inner.alive()?;
        if written < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        inner.node(name)?.bytes.truncate(usize::try_from(length).unwrap());
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        if inner.sync_fails {
            return Err(io::Error::other("the disk does not answer"));
        }
        let node = inner.node(name)?;
        node.safe = node.bytes.clone();
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        inner.safe_names = inner.names.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        let node = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step()?;
        inner.names.remove(name);
        Ok(())
    }
}
