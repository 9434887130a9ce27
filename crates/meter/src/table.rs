//! The delta table: counters last seen, by fingerprint, in the order in which dumps show entries.
//!
//! The kernel walks its buckets in the same order each time, so the next row of a dump is mostly the entry that stood
//! behind the last one in the dump before. Entries are kept in that order, in [leaves](leaf) of [`LEAF_ENTRIES`] that point
//! to the next, and a cursor goes along with a dump: what is wanted lies where the processor fetches by itself. An entry
//! that is not among the next [`AHEAD`] is found by an [index](index), and moves to the cursor: so does a new one, and a
//! table that the kernel has sorted anew is followed within one dump.
//!
//! A leaf that is full pushes its last entry into the one behind it, or gives half to a leaf of its own. Those that
//! removals leave half empty are filled up again all at once, in one pass, when less than [`FILL_MIN`] of a leaf is in use
//! on average: for as long as that takes there are a tenth more leaves at most, and never a second copy.
//!
//! A place takes 50 bytes and the index 5 to 6, so an entry takes some 55 bytes in a table that fills up, 63 where many come
//! and go, and 67 at worst when a dump begins. A dump in a new order may leave more room in leaves until the next begins, within
//! what `entries_max` allows.
//!
//! Measured (Linux 6.18, one core, from dump to records): open addressing in the order of fingerprints, 16 entries touched
//! together before they were looked up, took 300 ns an entry beside the kernel's 1,360 in a dump of 100,000, and 230 beside
//! 270 in 500,000 of Cilium's; in the order of the dump it is 180 and 125.
//!
//! Invariant: nothing is dropped but by [`DeltaTable::remove`] and [`DeltaTable::evict`]. Bound: `entries_max`
//! entries. It allocates a leaf for every twenty or so entries that it did not have before, and when the index outgrows
//! itself; otherwise only to fill leaves up again.

mod index;
mod leaf;

use egressd_flow::Counter;

use crate::fingerprint::Fingerprint;
use index::{Index, LEAVES_MAX, LeafId};
use leaf::{LEAF_ENTRIES, Leaf, Slot};

/// Places behind the cursor that are looked at before the index is: entries that have ended, unnoticed so far, are passed.
const AHEAD: usize = 8;
/// Entries of a leaf that was filled up: the others are room for those that come between them.
const FILLED: usize = 29;
/// Entries of a leaf, on average, below which leaves are filled up.
const FILL_MIN: usize = 26;

// Filling up gives room, however many entries there are.
const _: () = assert!(FILL_MIN < FILLED && FILLED < LEAF_ENTRIES);

/// Stamps are below this.
pub(crate) const STAMPS: u8 = 8;

/// What was last seen of an entry. A source without directions uses `original` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) original: Counter,
    pub(crate) reply: Counter,
}

/// What was there before an upsert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The entry, seen like this; it is replaced.
    Known(Seen),
    /// Nothing; the entry is added.
    New,
    /// Nothing, and no room: the table is as it was.
    Full,
}

/// Before the entry of `leaf` at `at`; behind its last where that is how many it has.
#[derive(Clone, Copy)]
struct Place {
    leaf: LeafId,
    at: usize,
}

const START: Place = Place { leaf: LeafId::FIRST, at: 0 };

/// Counters by fingerprint.
pub(crate) struct DeltaTable {
    /// By number; the first is the beginning.
    #[expect(clippy::vec_box, reason = "a longer list of them must not copy them")]
    leaves: Vec<Box<Leaf>>,
    leaves_max: usize,
    index: Index,
    cursor: Place,
    /// What stood behind the entry that last moved to the cursor, if that was not the last of its leaf. Where it is wanted
    /// next, the dump goes on there, and so does the cursor.
    follower: Option<Fingerprint>,
    entries_max: usize,
    /// Entries by their stamp: where there is none, an eviction has nothing to look for.
    by_stamp: [usize; STAMPS as usize],
}

impl DeltaTable {
    pub(crate) fn new(entries_max: usize) -> Self {
        let entries_max = entries_max.min((LEAVES_MAX - 2) * FILL_MIN);
        Self {
            leaves: vec![Leaf::empty()],
            leaves_max: leaves_max(entries_max),
            index: Index::new(0),
            cursor: START,
            follower: None,
            entries_max,
            by_stamp: [0; STAMPS as usize],
        }
    }

    /// Memory at worst.
    pub(crate) fn worst_case_bytes(entries_max: usize) -> usize {
        leaves_max(entries_max)
            .saturating_mul(LEAF_BYTES)
            .saturating_add(Index::worst_case_bytes(entries_max))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_stamp.iter().sum()
    }

    /// Memory now.
    pub(crate) fn bytes(&self) -> usize {
        self.leaves.len() * LEAF_BYTES + self.index.bytes()
    }

    /// A dump begins: its first row is looked for at the beginning. Fills leaves up where that gives memory back.
    pub(crate) fn rewind(&mut self) {
        (self.cursor, self.follower) = (START, None);
        if self.leaves.len() > self.len() / FILL_MIN + 1 {
            self.fill_up();
        }
    }

    /// Notes how an entry is seen now, under a stamp below [`STAMPS`]; `seen` makes that of what it was before.
    pub(crate) fn upsert(
        &mut self,
        fingerprint: Fingerprint,
        stamp: u8,
        seen: impl FnOnce(Option<Seen>) -> Seen,
    ) -> Before {
        let place = match self.ahead(fingerprint) {
            Some(place) => place,
            None => match self.look_up(fingerprint) {
                Some(place) if self.follower == Some(fingerprint) => place,
                Some(place) => {
                    let before = self.take(place);
                    self.follower = self.leaves[place.leaf.number()].fingerprint(place.at);
                    self.insert(Slot { fingerprint, seen: seen(Some(before)), stamp });
                    return Before::Known(before);
                }
                None if self.len() >= self.entries_max => return Before::Full,
                None => {
                    self.insert(Slot { fingerprint, seen: seen(None), stamp });
                    return Before::New;
                }
            },
        };
        self.cursor = Place { at: place.at + 1, ..place };
        let (before, stamped) = self.leaf(place.leaf).replace(place.at, stamp, |before| seen(Some(before)));
        self.by_stamp[usize::from(stamped)] -= 1;
        self.by_stamp[usize::from(stamp)] += 1;
        Before::Known(before)
    }

    /// Forgets an entry, and tells how it was last seen.
    pub(crate) fn remove(&mut self, fingerprint: Fingerprint) -> Option<Seen> {
        self.look_up(fingerprint).map(|place| self.take(place))
    }

    /// Hands over and forgets every entry of this stamp; how many there were.
    pub(crate) fn evict(&mut self, stamp: u8, mut gone: impl FnMut(Fingerprint, Seen)) -> usize {
        let evicted = std::mem::take(&mut self.by_stamp[usize::from(stamp)]);
        let mut left = evicted;
        let Self { leaves, index, cursor, .. } = self;
        for (leaf, id) in leaves.iter_mut().zip(LeafId::all()) {
            if left == 0 {
                break;
            }
            left -= leaf.evict(stamp, |fingerprint, seen| {
                index.remove(fingerprint, id);
                gone(fingerprint, seen);
            });
        }
        cursor.at = cursor.at.min(leaves[cursor.leaf.number()].len());
        evicted
    }

    /// Every entry with how it was last seen and its stamp, in the order of the table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Fingerprint, Seen, u8)> {
        let first = self.leaves.first().map(Box::as_ref);
        let leaves = std::iter::successors(first, |leaf| Some(self.leaves[leaf.next?.number()].as_ref()));
        leaves.flat_map(|leaf| leaf.slots()).map(|slot| (slot.fingerprint, slot.seen, slot.stamp))
    }

    fn leaf(&mut self, id: LeafId) -> &mut Leaf {
        &mut self.leaves[id.number()]
    }

    /// Where the entry is, if it is one of the next.
    fn ahead(&self, fingerprint: Fingerprint) -> Option<Place> {
        let Place { leaf: id, at } = self.cursor;
        let leaf = &self.leaves[id.number()];
        if let Some(at) = leaf.find(fingerprint, at..at + AHEAD) {
            return Some(Place { leaf: id, at });
        }
        let left = AHEAD.checked_sub(leaf.len() - at)?;
        let next = leaf.next?;
        let at = self.leaves[next.number()].find(fingerprint, 0..left)?;
        Some(Place { leaf: next, at })
    }

    /// Where the entry is.
    fn look_up(&self, fingerprint: Fingerprint) -> Option<Place> {
        self.index.leaves_of(fingerprint).find_map(|leaf| {
            let at = self.leaves[leaf.number()].find(fingerprint, 0..LEAF_ENTRIES)?;
            Some(Place { leaf, at })
        })
    }

    fn take(&mut self, place: Place) -> Seen {
        if self.cursor.leaf == place.leaf && self.cursor.at > place.at {
            self.cursor.at -= 1;
        }
        let taken = self.leaf(place.leaf).remove(place.at);
        self.index.remove(taken.fingerprint, place.leaf);
        self.by_stamp[usize::from(taken.stamp)] -= 1;
        taken.seen
    }

    /// Adds an entry at the cursor.
    fn insert(&mut self, slot: Slot) {
        if self.index.is_full() {
            self.index_anew();
        }
        let place = self.make_room();
        self.leaf(place.leaf).insert(place.at, slot);
        self.index.insert(slot.fingerprint, place.leaf);
        self.by_stamp[usize::from(slot.stamp)] += 1;
        self.cursor = Place { at: place.at + 1, ..place };
    }

    /// Where an entry at the cursor goes, in a leaf that is not full.
    fn make_room(&mut self) -> Place {
        let Place { leaf: id, at } = self.cursor;
        if !self.leaf(id).is_full() {
            return self.cursor;
        }
        let next = self.leaf(id).next;
        match next.filter(|next| !self.leaf(*next).is_full()) {
            Some(next) if at == LEAF_ENTRIES => Place { leaf: next, at: 0 },
            Some(next) => {
                self.push_last(id, next);
                self.cursor
            }
            None if self.leaves.len() >= self.leaves_max => {
                self.fill_up();
                self.make_room()
            }
            None if at == LEAF_ENTRIES => Place { leaf: self.split(id, at), at: 0 },
            // What comes next comes here as well, so the cursor's half is the one with room.
            None => {
                self.split(id, at.max(LEAF_ENTRIES / 2));
                self.cursor
            }
        }
    }

    /// Moves the last entry of a leaf to the beginning of the next one, which has room.
    fn push_last(&mut self, id: LeafId, next: LeafId) {
        let leaf = self.leaf(id);
        let last = leaf.remove(leaf.len() - 1);
        self.leaf(next).insert(0, last);
        self.index.replace(last.fingerprint, id, next);
    }

    /// Moves the entries of a leaf from `at` on, if any, to a new one behind it.
    fn split(&mut self, id: LeafId, at: usize) -> LeafId {
        let behind = LeafId::new(self.leaves.len());
        let leaf = self.leaf(id).split_off(at, behind);
        leaf.slots().for_each(|slot| self.index.replace(slot.fingerprint, id, behind));
        self.leaves.push(leaf);
        behind
    }

    /// Puts [`FILLED`] entries into each leaf, in their order, and gives back the leaves that are left over.
    fn fill_up(&mut self) {
        let mut old: Vec<Option<Box<Leaf>>> =
            std::mem::take(&mut self.leaves).into_iter().map(Some).collect();
        let (mut spare, mut moved, mut before_cursor) = (Vec::new(), 0, 0);
        let mut next = Some(LeafId::FIRST);
        while let Some(id) = next {
            let Some(mut leaf) = old[id.number()].take() else { break };
            if id == self.cursor.leaf {
                before_cursor = moved + self.cursor.at;
            }
            for slot in leaf.slots() {
                if moved % FILLED == 0 {
                    self.leaves.push(spare.pop().unwrap_or_else(Leaf::empty));
                }
                let last = self.leaves.len() - 1;
                self.leaves[last].insert(moved % FILLED, slot);
                moved += 1;
            }
            next = leaf.next;
            leaf.clear();
            spare.push(leaf);
        }
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::empty());
        }
        let behind = (1..self.leaves.len()).map(|number| Some(LeafId::new(number))).chain([None]);
        self.leaves.iter_mut().zip(behind).for_each(|(leaf, next)| leaf.next = next);
        let leaf = (before_cursor / FILLED).min(self.leaves.len() - 1);
        self.cursor = Place { leaf: LeafId::new(leaf), at: before_cursor - leaf * FILLED };
        self.index_anew();
    }

    fn index_anew(&mut self) {
        // The old one goes before the new one comes.
        self.index = Index::new(0);
        self.index = Index::new(self.len() + 1);
        for (leaf, id) in self.leaves.iter().zip(LeafId::all()) {
            leaf.slots().for_each(|slot| self.index.insert(slot.fingerprint, id));
        }
    }
}

const LEAF_BYTES: usize = size_of::<Leaf>() + size_of::<Box<Leaf>>();

fn leaves_max(entries_max: usize) -> usize {
    entries_max / FILL_MIN + 2
}

#[cfg(test)]
mod tests;
