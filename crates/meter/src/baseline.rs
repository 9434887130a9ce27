//! Growth of an entry: its counters less what was seen of it before.
//!
//! A baseline goes when its entry's end is told, or when so many complete snapshots in a row as the source needs do not
//! show it: netfilter needs [`ABSENT_SNAPSHOTS_MAX`], since a table resize ends one dump early and silently (325,377 of
//! 999,997 entries, Linux 6.18), so absence from one proves nothing. It goes when the snapshot after those begins, by when
//! an end that came amid them is applied, and is [retired](crate::retired) then: nor do several prove anything there, so
//! an entry that comes back goes on from it.

use std::io::{self, Read, Write};
use std::time::Duration;

use egressd_flow::{Counter, Counters, EntryId, Traffic, UnixNanos};
use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::config::MeterConfig;
use crate::fingerprint::{Fingerprint, Fingerprints, Keyed};
use crate::retired::Retired;
use crate::state::{In, Out, malformed};
use crate::table::{Before, DeltaTable, STAMPS, Seen};

/// Complete snapshots in a row without an entry after which its baseline goes, at most.
const ABSENT_SNAPSHOTS_MAX: u8 = 3;

/// How long a [`Meter`](crate::Meter) may be without word of the clock, so that nothing is lost when that turns out to
/// have been set back.
pub const LOOKS_APART_MAX: Duration = Duration::from_secs(10);

// A stamp tells apart the snapshots that an entry may be absent from, the one that shows it, and the one that runs.
const _: () = assert!(ABSENT_SNAPSHOTS_MAX + 1 < STAMPS);

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
    fingerprints: Fingerprints,
    tombstones_max: usize,
    absent_snapshots_max: u8,
    table: DeltaTable,
    retired: Retired,
    /// Ends told since the running or last snapshot began.
    tombstones: HashSet<Fingerprint, Keyed>,
    /// Ends told between the beginnings of the last two.
    tombstones_before: HashSet<Fingerprint, Keyed>,
    /// Stamp of the running snapshot; it moves on when that is complete, so it counts complete ones, modulo
    /// [`STAMPS`].
    stamp: u8,
    /// When the first snapshot began, or what a clock that was set back makes of it: what started later is wholly ours.
    watched_since: Option<UnixNanos>,
    /// The clock at the last look.
    looked: UnixNanos,
    /// A complete snapshot refused nothing: what it did not show began later, whether or not that says when.
    surveyed: bool,
    /// A snapshot is running, and refused nothing so far. Not kept over a restart: the snapshot is not gone on with, and
    /// the next one says as much.
    surveying: bool,
}

impl Baselines {
    pub(crate) fn new(key: [u8; 16], config: &MeterConfig) -> Self {
        Self {
            fingerprints: Fingerprints::new(key),
            tombstones_max: config.tombstones_max,
            absent_snapshots_max: config.absent_snapshots_max.min(ABSENT_SNAPSHOTS_MAX),
            table: DeltaTable::new(config.entries_max),
            retired: Retired::new(config.retired_max),
            tombstones: HashSet::default(),
            tombstones_before: HashSet::default(),
            stamp: 0,
            watched_since: None,
            looked: UnixNanos(0),
            surveyed: false,
            surveying: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Baselines of absent entries that were forgotten for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.retired.forgotten()
    }

    /// What the tables beside this one hash by.
    pub(crate) fn seeded(&self) -> FixedState {
        self.fingerprints.seeded()
    }

    /// Memory of the table now.
    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Writes all of it but the tombstones.
    pub(crate) fn save<W: Write>(&self, out: &mut Out<'_, W>) -> io::Result<()> {
        out.bytes(&self.fingerprints.key())?;
        out.u8(self.stamp)?;
        out.u8(self.surveyed.into())?;
        out.optional_time(self.watched_since)?;
        out.time(self.looked)?;
        out.len(self.table.len())?;
        for (Fingerprint(bits), seen, stamp) in self.table.iter() {
            out.bytes(&bits.to_le_bytes())?;
            out.counter(seen.original)?;
            out.counter(seen.reply)?;
            out.u8(stamp)?;
        }
        self.retired.save(out)
    }

    /// Reads back what was written, which must not be more than `config` lets it hold.
    pub(crate) fn restore<R: Read>(input: &mut In<'_, R>, config: &MeterConfig) -> io::Result<Self> {
        let mut baselines = Self::new(input.array()?, config);
        baselines.stamp = stamp(input)?;
        baselines.surveyed = input.u8()? != 0;
        baselines.watched_since = input.optional_time()?;
        baselines.looked = input.time()?;
        for _ in 0..input.u64()? {
            let fingerprint = Fingerprint(input.u128()?);
            let seen = Seen { original: input.counter()?, reply: input.counter()? };
            // Without its baseline an entry would count whole once more.
            if baselines.table.upsert(fingerprint, stamp(input)?, |_| seen) == Before::Full {
                return Err(malformed("there are more entries than may be held"));
            }
        }
        baselines.retired = Retired::restore(input, config.retired_max)?;
        Ok(baselines)
    }

    /// The clock is at `now`.
    ///
    /// Set back, it stamps new entries with instants that may be before the watch began. All of them started after the
    /// look before, so none is stamped more than [`LOOKS_APART_MAX`] before `now`, and the watch is taken to reach back
    /// that far: no later start is missed. What is older than the watch by less than that is claimed with them, and so is
    /// what the clock stamped alike before it was set back; but only without a baseline, and a complete snapshot that
    /// refused nothing gave each of these one.
    /// A step back that is shorter than the time between two looks may go unnoticed: what it stamps with instants just
    /// before the watch began counts as older.
    pub(crate) fn look(&mut self, now: UnixNanos) {
        if now < self.looked {
            let reach = now.saturating_sub(LOOKS_APART_MAX);
            self.watched_since = self.watched_since.map(|since| since.min(reach));
        }
        self.looked = now;
    }

    /// A snapshot begins at `now`, and all ends that were told before the last one was over are applied.
    /// How many entries went for being absent: their end was never told.
    pub(crate) fn begin(&mut self, now: UnixNanos) -> usize {
        self.look(now);
        self.watched_since.get_or_insert(now);
        self.surveying = true;
        self.rotate_tombstones();
        let absent = self.absent_snapshots_max + 1..STAMPS;
        let Self { table, retired, stamp, .. } = self;
        let evict = |age| {
            table.evict((*stamp + STAMPS - age) % STAMPS, |fingerprint, seen| retired.add(fingerprint, seen))
        };
        let vanished = absent.map(evict).sum();
        self.table.rewind();
        vanished
    }

    /// The snapshot is over; `complete` as its source says.
    pub(crate) fn finish(&mut self, complete: bool) {
        let surveying = std::mem::take(&mut self.surveying);
        // Absence is counted in snapshots, so one that could not show everything must not count.
        if complete {
            self.surveyed |= surveying;
            self.stamp = (self.stamp + 1) % STAMPS;
        }
    }

    /// An entry as a snapshot shows it.
    pub(crate) fn sighted(&mut self, id: &EntryId, counters: Counters) -> Growth {
        let fingerprint = self.fingerprints.of(id);
        if self.tombstones.contains(&fingerprint) || self.tombstones_before.contains(&fingerprint) {
            return Growth::Tombstone;
        }
        match self.table.upsert(fingerprint, self.stamp, |before| seen(counters, before)) {
            Before::Known(before) => grown(counters, before),
            Before::Full => {
                self.surveying = false;
                Growth::NotAdmitted
            }
            Before::New => self.first(fingerprint, id.start, counters),
        }
    }

    /// An entry's last words.
    pub(crate) fn ended(&mut self, id: &EntryId, counters: Counters) -> Growth {
        let fingerprint = self.fingerprints.of(id);
        if self.tombstones.len() >= self.tombstones_max {
            self.rotate_tombstones();
        }
        self.tombstones.insert(fingerprint);
        match self.table.remove(fingerprint) {
            Some(before) => grown(counters, before),
            None => self.first(fingerprint, id.start, counters),
        }
    }

    /// Growth of an entry that has no baseline in the table.
    fn first(&mut self, fingerprint: Fingerprint, start: Option<UnixNanos>, counters: Counters) -> Growth {
        match start.and_then(|_| self.retired.take(fingerprint)) {
            Some(before) => grown(counters, before),
            None if self.is_ours_whole(start) => Growth::Grown(whole(counters)),
            None => Growth::Preexisting,
        }
    }

    /// Whether an entry that has no baseline counts from zero.
    fn is_ours_whole(&self, start: Option<UnixNanos>) -> bool {
        match (start, self.watched_since) {
            (Some(start), Some(since)) => start > since,
            (Some(_), None) => false,
            (None, _) => self.surveyed,
        }
    }

    fn rotate_tombstones(&mut self) {
        std::mem::swap(&mut self.tombstones, &mut self.tombstones_before);
        self.tombstones.clear();
    }
}

fn stamp<R: Read>(input: &mut In<'_, R>) -> io::Result<u8> {
    let stamp = input.u8()?;
    if stamp < STAMPS { Ok(stamp) } else { Err(malformed("a stamp is none")) }
}

fn seen(counters: Counters, before: Option<Seen>) -> Seen {
    match counters {
        Counters::Directed { tx, rx } => Seen { original: tx, reply: rx },
        Counters::Total { main, beside: Some(beside) } => Seen { original: main, reply: beside },
        // What cannot be read now was seen before, and may be read again.
        Counters::Total { main, beside: None } => {
            Seen { original: main, reply: before.map_or(Counter::default(), |before| before.reply) }
        }
    }
}

fn whole(counters: Counters) -> Traffic {
    match counters {
        Counters::Directed { tx, rx } => Traffic { tx, rx, ..Traffic::default() },
        Counters::Total { .. } => Traffic { undirected: counters.sum(), ..Traffic::default() },
    }
}

/// A direction that went back means that the entry was made anew, and then both directions were.
///
/// A total is counted in the same two places as directions are, so an entry may be read as either from one snapshot to
/// the next, and grows by what it grew: only whether that has a direction changes.
fn grown(counters: Counters, before: Seen) -> Growth {
    let grown = match counters {
        Counters::Directed { tx, rx } => tx
            .growth(before.original)
            .zip(rx.growth(before.reply))
            .map(|(tx, rx)| Traffic { tx, rx, ..Traffic::default() }),
        Counters::Total { main, beside } => main
            .growth(before.original)
            .zip(beside.map_or(Some(Counter::default()), |beside| beside.growth(before.reply)))
            .map(|(main, beside)| {
                let undirected = Counters::Total { main, beside: Some(beside) }.sum();
                Traffic { undirected, ..Traffic::default() }
            }),
    };
    grown.map_or_else(|| Growth::Reset(whole(counters)), Growth::Grown)
}
