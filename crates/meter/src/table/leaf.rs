//! Some entries that stand one behind the other.
//!
//! Fields apart, since a look-up passes the fingerprints of a few entries and needs the counters of one.

use std::ops::Range;

use super::Seen;
use super::index::LeafId;
use crate::fingerprint::Fingerprint;

/// Entries of one leaf, at most.
pub(super) const LEAF_ENTRIES: usize = 32;

/// What is kept of an entry.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) fingerprint: Fingerprint,
    pub(super) seen: Seen,
    pub(super) stamp: u8,
}

pub(super) struct Leaf {
    pub(super) next: Option<LeafId>,
    len: usize,
    fingerprints: [Fingerprint; LEAF_ENTRIES],
    seen: [Seen; LEAF_ENTRIES],
    stamps: [u8; LEAF_ENTRIES],
}

impl Leaf {
    pub(super) fn empty() -> Box<Self> {
        Box::new(Self {
            next: None,
            len: 0,
            fingerprints: [Fingerprint(0); LEAF_ENTRIES],
            seen: [Seen::default(); LEAF_ENTRIES],
            stamps: [0; LEAF_ENTRIES],
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == LEAF_ENTRIES
    }

    pub(super) fn clear(&mut self) {
        (self.len, self.next) = (0, None);
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.len).map(|at| self.slot(at))
    }

    fn slot(&self, at: usize) -> Slot {
        Slot { fingerprint: self.fingerprints[at], seen: self.seen[at], stamp: self.stamps[at] }
    }

    /// Of the entry at `at`, if there is one.
    pub(super) fn fingerprint(&self, at: usize) -> Option<Fingerprint> {
        self.fingerprints[..self.len].get(at).copied()
    }

    /// Where the entry is, if it is within this range.
    pub(super) fn find(&self, fingerprint: Fingerprint, within: Range<usize>) -> Option<usize> {
        (within.start..within.end.min(self.len)).find(|&at| self.fingerprints[at] == fingerprint)
    }

    /// Gives an entry another stamp and other counters; its stamp and counters before.
    pub(super) fn replace(&mut self, at: usize, stamp: u8, seen: impl FnOnce(Seen) -> Seen) -> (Seen, u8) {
        let before = self.seen[at];
        self.seen[at] = seen(before);
        (before, std::mem::replace(&mut self.stamps[at], stamp))
    }

    /// Adds an entry before the one at `at`; there must be room.
    pub(super) fn insert(&mut self, at: usize, slot: Slot) {
        self.shift(at..self.len, at + 1);
        self.put(at, slot);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, at: usize) -> Slot {
        let removed = self.slot(at);
        self.shift(at + 1..self.len, at);
        self.len -= 1;
        removed
    }

    /// Moves the entries from `at` on, if any, to a new leaf behind this one, which gets this number.
    pub(super) fn split_off(&mut self, at: usize, behind: LeafId) -> Box<Self> {
        let mut leaf = Self::empty();
        for slot in (at..self.len).map(|at| self.slot(at)) {
            leaf.insert(leaf.len, slot);
        }
        leaf.next = self.next.replace(behind);
        self.len = at;
        leaf
    }

    /// Hands over and forgets every entry of this stamp; how many there were.
    pub(super) fn evict(&mut self, stamp: u8, mut gone: impl FnMut(Fingerprint, Seen)) -> usize {
        if !self.stamps[..self.len].contains(&stamp) {
            return 0;
        }
        let before = std::mem::take(&mut self.len);
        for at in 0..before {
            let slot = self.slot(at);
            if slot.stamp == stamp {
                gone(slot.fingerprint, slot.seen);
            } else {
                self.put(self.len, slot);
                self.len += 1;
            }
        }
        before - self.len
    }

    fn put(&mut self, at: usize, Slot { fingerprint, seen, stamp }: Slot) {
        (self.fingerprints[at], self.seen[at], self.stamps[at]) = (fingerprint, seen, stamp);
    }

    fn shift(&mut self, from: Range<usize>, to: usize) {
        self.fingerprints.copy_within(from.clone(), to);
        self.seen.copy_within(from.clone(), to);
        self.stamps.copy_within(from, to);
    }
}
