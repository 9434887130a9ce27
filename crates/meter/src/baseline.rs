//! Growth of an entry: its counters less what was seen of it before.
//!
//! A baseline goes when its entry's end is told, or when [`ABSENT_SNAPSHOTS_MAX`] complete snapshots in a row do not
//! show it: a table resize ends one dump early and silently (325,377 of 999,997 entries, Linux 6.18), so absence
//! from one proves nothing.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use egressd_flow::{Counter, Counters, EntryId, Traffic, UnixNanos};
use hashbrown::hash_map::Entry as Slot;
use hashbrown::{HashMap, HashSet};
use siphasher::sip128::{Hasher128, SipHasher13};

/// Complete snapshots in a row that an entry must be absent from before its baseline goes.
const ABSENT_SNAPSHOTS_MAX: u32 = 3;

/// Memory of one baseline in the table.
pub(crate) const SLOT_BYTES: usize = size_of::<(Fingerprint, Baseline)>();

/// Stands for an [`EntryId`]: SipHash-1-3 with 128 bits under a random key.
///
/// Two of n live entries share one with a probability of at most n² / 2^129: 1.5 · 10^−27 for a million.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint(u128);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// Takes a fingerprint's own low bits: they are as good as random.
#[derive(Default)]
struct Passthrough(u64);

impl Hasher for Passthrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a fingerprint is written as one u128");
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half of a uniform hash is a uniform hash")]
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type Keyed = BuildHasherDefault<Passthrough>;

/// Counters last seen, and when. A source without directions uses `original` alone.
#[derive(Clone, Copy)]
struct Baseline {
    original: Counter,
    reply: Counter,
    /// Number of the last complete or partial snapshot that showed the entry.
    seen_in: u32,
}

/// What one sighting of an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// As the original direction sees it; may be zero.
    Grown(Traffic),
    /// Lower than the baseline: a new entry under an old identity, so all of it is growth.
    Reset(Traffic),
    /// Older than the watch: what it counted before is not ours.
    Preexisting,
    /// The table is full.
    NotAdmitted,
    /// Its end was told already; the dump still shows it.
    Tombstone,
}

/// The baselines of one node.
pub(crate) struct Baselines {
    key: [u8; 16],
    entries_max: usize,
    tombstones_max: usize,
    slots: HashMap<Fingerprint, Baseline, Keyed>,
    /// Ends told since the running or last snapshot began.
    tombstones: HashSet<Fingerprint, Keyed>,
    /// Ends told between the beginnings of the last two.
    tombstones_before: HashSet<Fingerprint, Keyed>,
    snapshot: u32,
    /// When the first snapshot began: what started later is wholly ours.
    watched_since: Option<UnixNanos>,
    begun: UnixNanos,
    /// A complete snapshot was taken.
    surveyed: bool,
}

impl Baselines {
    pub(crate) fn new(key: [u8; 16], entries_max: usize, tombstones_max: usize) -> Self {
        Self {
            key,
            entries_max,
            tombstones_max,
            slots: HashMap::default(),
            tombstones: HashSet::default(),
            tombstones_before: HashSet::default(),
            snapshot: 0,
            watched_since: None,
            begun: UnixNanos(0),
            surveyed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A snapshot begins at `now`.
    pub(crate) fn begin(&mut self, now: UnixNanos) {
        let since = self.watched_since.get_or_insert(now);
        // A clock that was set back stamps new entries with instants before the watch began.
        if now < self.begun {
            *since = (*since).min(now);
        }
        self.begun = now;
        self.snapshot = self.snapshot.wrapping_add(1);
        self.rotate_tombstones();
    }

    /// The snapshot is over; `complete` as its source says.
    pub(crate) fn finish(&mut self, complete: bool) {
        if !complete {
            // Absence is counted in snapshots, so one that could not show everything must not count.
            self.snapshot = self.snapshot.wrapping_sub(1);
            return;
        }
        self.surveyed = true;
        let snapshot = self.snapshot;
        self.slots.retain(|_, baseline| snapshot.wrapping_sub(baseline.seen_in) < ABSENT_SNAPSHOTS_MAX);
    }

    /// An entry as a snapshot shows it.
    pub(crate) fn sighted(&mut self, id: &EntryId, counters: Counters) -> Growth {
        let fingerprint = self.fingerprint(id);
        if self.tombstones.contains(&fingerprint) || self.tombstones_before.contains(&fingerprint) {
            return Growth::Tombstone;
        }
        let ours = self.is_ours_whole(id);
        let full = self.slots.len() >= self.entries_max;
        let now = baseline_of(counters, self.snapshot);
        match self.slots.entry(fingerprint) {
            Slot::Occupied(mut slot) => {
                let before = slot.insert(now);
                grown(counters, before)
            }
            Slot::Vacant(_) if full => Growth::NotAdmitted,
            Slot::Vacant(slot) => {
                slot.insert(now);
                if ours { Growth::Grown(whole(counters)) } else { Growth::Preexisting }
            }
        }
    }

    /// An entry's last words.
    pub(crate) fn ended(&mut self, id: &EntryId, counters: Counters) -> Growth {
        let fingerprint = self.fingerprint(id);
        if self.tombstones.len() >= self.tombstones_max {
            self.rotate_tombstones();
        }
        self.tombstones.insert(fingerprint);
        match self.slots.remove(&fingerprint) {
            Some(before) => grown(counters, before),
            None if self.is_ours_whole(id) => Growth::Grown(whole(counters)),
            None => Growth::Preexisting,
        }
    }

    /// Whether an entry that has no baseline counts from zero.
    fn is_ours_whole(&self, id: &EntryId) -> bool {
        match (id.start, self.watched_since) {
            (Some(start), Some(since)) => start > since,
            (Some(_), None) => false,
            (None, _) => self.surveyed,
        }
    }

    fn rotate_tombstones(&mut self) {
        std::mem::swap(&mut self.tombstones, &mut self.tombstones_before);
        self.tombstones.clear();
    }

    fn fingerprint(&self, id: &EntryId) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        id.hash(&mut hasher);
        Fingerprint(hasher.finish128().as_u128())
    }
}

fn baseline_of(counters: Counters, seen_in: u32) -> Baseline {
    match counters {
        Counters::Directed { tx, rx } => Baseline { original: tx, reply: rx, seen_in },
        Counters::Total(total) => Baseline { original: total, reply: Counter::default(), seen_in },
    }
}

fn whole(counters: Counters) -> Traffic {
    match counters {
        Counters::Directed { tx, rx } => Traffic { tx, rx, ..Traffic::default() },
        Counters::Total(undirected) => Traffic { undirected, ..Traffic::default() },
    }
}

/// A direction that went back means that the entry was made anew, and then both directions were.
fn grown(counters: Counters, before: Baseline) -> Growth {
    let grown = match counters {
        Counters::Directed { tx, rx } => tx
            .growth(before.original)
            .zip(rx.growth(before.reply))
            .map(|(tx, rx)| Traffic { tx, rx, ..Traffic::default() }),
        Counters::Total(total) => {
            total.growth(before.original).map(|undirected| Traffic { undirected, ..Traffic::default() })
        }
    };
    grown.map_or_else(|| Growth::Reset(whole(counters)), Growth::Grown)
}
