//! Reads all maps, in batches: the driver of `codec` and `layout`.
//!
//! Bound: two buffers of [`BATCH_ENTRIES`] keys and values, which grow only when one bucket of a map holds more; no
//! allocation per entry. A map is walked bucket by bucket while others write, so a row is of the moment that its bucket
//! was read at; one that is made or removed meanwhile is shown or not.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use egressd_flow::{Completeness, Defects, Entry, Snapshot, UnixNanos};

use super::agent::Agent;
use super::codec::{self, KEY_V6_BYTES, Row, VALUE_BYTES};
use super::edge::{Batch, Map};
use super::error::ReadError;
use super::layout::{Choice, Layout, Reading, Release, SaidBy, Tells};
use super::maps::Pinned;
use super::probes::Probes;

/// Keys and values of one batch: 188 KiB, about what a second-level cache holds.
const BATCH_ENTRIES: usize = 2048;
/// No bucket of a hash table with as many buckets as entries holds more.
const BATCH_ENTRIES_MAX: usize = 1 << 20;

/// The conntrack maps of a node.
#[derive(Debug)]
pub struct Maps {
    pinned: Pinned,
    directory: PathBuf,
    choice: Choice,
    agent: Agent,
    newest: Option<Release>,
    probes: Probes,
    /// Endpoints for which the directions were told apart since the read before.
    told_apart: HashSet<IpAddr>,
    buffers: Buffers,
    last: Option<Last>,
}

/// What the last read was like.
#[derive(Debug)]
struct Last {
    reading: Reading,
    tells: Tells,
    counted: Counted,
    foreign: u64,
    refused: u64,
    maps: usize,
    interruption: Option<(PathBuf, io::Error)>,
}

/// How far connections were counted, whatever anybody says of accounting.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    connections: u64,
    /// No packet.
    nothing: u64,
    /// One packet where more have passed.
    stuck: u64,
    /// More than one.
    more: u64,
    /// Counters at offset 0 that can be no address.
    first: u64,
}

impl Counted {
    fn see(&mut self, row: &Row<'_>) {
        let first = if row.may_hold_address() { 0 } else { row.first().packets };
        self.connections += 1;
        self.first += u64::from(first > 0);
        match first.saturating_add(row.second().packets) {
            0 => self.nothing += 1,
            1 => self.stuck += u64::from(row.has_gone_on()),
            _ => self.more += 1,
        }
    }

    /// Nobody counts: all is zero, as with 1.16 and later, or stays at the packet that made it, as up to 1.15.
    fn is_nothing(&self) -> bool {
        self.more == 0 && self.connections > 0 && (self.nothing == self.connections || self.stuck > 0)
    }
}

impl Maps {
    /// The maps that are pinned in `directory`, of which `agent` may know more. Nothing is opened yet.
    #[must_use]
    pub fn new(directory: PathBuf, choice: Choice, agent: Agent) -> Self {
        Self {
            pinned: Pinned::new(directory.clone()),
            directory,
            choice,
            agent,
            newest: None,
            probes: Probes::default(),
            told_apart: HashSet::new(),
            buffers: Buffers::new(BATCH_ENTRIES),
            last: None,
        }
    }

    /// Hands over every connection of every map, in no order, by the rules that hold now. Nothing is changed by it.
    ///
    /// `now` is when the read begins, by the real-time clock. A map that cannot be read to its end makes the snapshot
    /// partial, with [`Maps::interruption`] saying why. One that must not be opened does not: it never will be, and what
    /// it holds is in no snapshot ([`Maps::unopened`]).
    ///
    /// # Errors
    /// [`ReadError`] when there is no map, or none that can be read.
    pub fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, ReadError> {
        let look = self.pinned.look()?;
        let tells = self.ask();
        let reading = self.choose(&tells);
        let mut walk = Walk {
            reading,
            // Where somebody says who writes, nobody need look whether counters grow.
            probes: matches!(reading.said_by, SaidBy::Nobody | SaidBy::Growth).then_some(&mut self.probes),
            told_apart: (reading.said_by == SaidBy::Growth).then_some(&self.told_apart),
            counted: Counted::default(),
            defects: Defects::default(),
            entries: 0,
            entry: codec::BLANK,
            each,
        };
        let mut interruption = look.failed;
        let mut maps = 0;
        for (map, path) in self.pinned.maps() {
            let walked = self.buffers.walk(map, &mut |keys, values| {
                let rows = keys.chunks_exact(map.key_bytes).zip(values.chunks_exact(VALUE_BYTES));
                rows.for_each(|(key, value)| walk.row(map.id, key, value));
            });
            match walked {
                Ok(()) => maps += 1,
                Err(error) => {
                    interruption.get_or_insert_with(|| (path.clone(), error));
                }
            }
        }
        let Walk { counted, defects, entries, .. } = walk;
        if maps == 0 && entries == 0 {
            return Err(match interruption {
                Some((map, source)) => ReadError::Map { map, source },
                None => {
                    self.refused().unwrap_or_else(|| ReadError::NoMaps { directory: self.directory.clone() })
                }
            });
        }
        let completeness =
            if interruption.is_none() { Completeness::Complete } else { Completeness::Partial };
        self.last = Some(Last {
            reading,
            tells,
            counted,
            foreign: look.foreign,
            refused: look.refused,
            maps,
            interruption,
        });
        Ok(Snapshot { completeness, begun: now, entries, offloaded: 0, defects })
    }

    /// Has the kernel hand over every row and looks at none: the floor of a [`read`](Self::read). How many there are.
    ///
    /// # Errors
    /// As of a read, and when a map could not be read to its end.
    pub fn walk(&mut self) -> Result<u64, ReadError> {
        self.pinned.look()?;
        let mut rows = 0;
        for (map, path) in self.pinned.maps() {
            let count = &mut |_: &[u8], values: &[u8]| rows += (values.len() / VALUE_BYTES) as u64;
            let walked = self.buffers.walk(map, count);
            walked.map_err(|source| ReadError::Map { map: path.clone(), source })?;
        }
        Ok(rows)
    }

    fn ask(&mut self) -> Tells {
        let said = self.agent.ask();
        self.told_apart = self.probes.first_grew(|id| self.pinned.map(id));
        self.probes.clear();
        let configured = said.since_1_17.then_some(Release::FIRST_CONFIGURED);
        self.newest = self.newest.max(said.release.or(configured));
        Tells { first_grew: !self.told_apart.is_empty(), ..said }
    }

    fn choose(&self, tells: &Tells) -> Reading {
        let mut reading = Reading::choose(self.choice, tells, self.newest);
        reading.counts_nothing |= self.counts_nothing();
        reading
    }

    /// Why the last read was partial; `None` when it was complete.
    #[must_use]
    pub fn interruption(&self) -> Option<String> {
        let (path, error) = self.last.as_ref()?.interruption.as_ref()?;
        Some(format!("{}: {error}", path.display()))
    }

    /// Connections of the last read were there and none was counted further than to one packet.
    #[must_use]
    pub fn counts_nothing(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.counted.is_nothing())
    }

    /// What was heard before the last read.
    #[must_use]
    pub fn tells(&self) -> Tells {
        self.last.as_ref().map_or_else(Tells::default, |last| last.tells)
    }

    /// By which layout the last read was made.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.last.as_ref().map_or(Layout::Unknown, |last| last.reading.layout)
    }

    /// The last read tells no direction since a release that counts both in one was followed by one that does not.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        let said_by = self.last.as_ref().map(|last| last.reading.said_by);
        matches!(said_by, Some(SaidBy::RolledBack(_)))
    }

    /// Pinned maps that are named like one of conntrack and have other sizes.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.foreign)
    }

    /// Maps that this process must not open, beside those of the last read, and why the first; `None` where it may open all.
    #[must_use]
    pub fn unopened(&self) -> Option<(u64, String)> {
        let refused = self.last.as_ref()?.refused;
        Some((refused, self.refused().filter(|_| refused > 0)?.to_string()))
    }

    fn refused(&self) -> Option<ReadError> {
        let (map, error) = self.pinned.refused()?;
        Some(ReadError::Map { map: map.clone(), source: io::Error::from_raw_os_error(error.raw_os_error()?) })
    }

    /// Entries that a release up to 1.15 made are among those of the last read: whoever writes now.
    #[must_use]
    pub fn has_directional_entries(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.counted.first > 0)
    }

    /// How the last read was made, in words.
    #[must_use]
    pub fn description(&self) -> Option<String> {
        let Last { reading, tells, maps, .. } = self.last.as_ref()?;
        let clock = tells.clock.map_or("unknown".to_owned(), |clock| clock.to_string());
        Some(format!("{maps} maps, layout {} {}, clock {clock}", reading.layout, reading.said_by))
    }
}

/// One read under way.
struct Walk<'a> {
    reading: Reading,
    probes: Option<&'a mut Probes>,
    /// `Some`: of every other endpoint nobody knows.
    told_apart: Option<&'a HashSet<IpAddr>>,
    counted: Counted,
    defects: Defects,
    entries: u64,
    entry: Entry,
    each: &'a mut dyn FnMut(&Entry),
}

impl Walk<'_> {
    fn row(&mut self, map: u32, key: &[u8], value: &[u8]) {
        let row = match Row::new(key, value) {
            Ok(row) => row,
            Err(skipped) => return skipped.count(&mut self.defects),
        };
        self.counted.see(&row);
        if let Some(probes) = &mut self.probes {
            probes.see(map, &row);
        }
        let is_known = self.told_apart.is_none_or(|endpoints| endpoints.contains(&row.endpoint()));
        let reading = if is_known { self.reading } else { self.reading.without_direction() };
        row.decode(map, reading, &mut self.entry);
        self.entries += 1;
        self.defects.without_counters += u64::from(self.entry.counters.is_none());
        (self.each)(&self.entry);
    }
}

/// Keys and values of one batch.
#[derive(Debug)]
struct Buffers {
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Buffers {
    fn new(entries: usize) -> Self {
        Self { keys: vec![0; entries * KEY_V6_BYTES], values: vec![0; entries * VALUE_BYTES] }
    }

    /// Hands over a map's entries, keys and values one behind the other, a batch at a time.
    fn walk(&mut self, map: &Map, each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut cursor = None;
        loop {
            let room = self.values.len() / VALUE_BYTES;
            let keys = &mut self.keys[..room * map.key_bytes];
            match map.batch(&mut cursor, keys, &mut self.values) {
                Ok(Batch { entries, is_last }) => {
                    each(&keys[..entries * map.key_bytes], &self.values[..entries * VALUE_BYTES]);
                    if is_last {
                        return Ok(());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < BATCH_ENTRIES_MAX => {
                    *self = Self::new(room * 2);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
