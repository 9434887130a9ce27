//! The two tables and whose turn it is: the driver.
//!
//! A table is idle, told or at rest. What the programs fill is the other one. A read turns the tables when the resting
//! one is empty, and hands over the one that rests then; [`Counts::settle`] empties it, once its rows are safe with
//! whoever keeps them. So a process that dies in between leaves rows that the next one reads again, as the same entries
//! with the same counters; nothing is lost by it and nothing counts twice.
//!
//! Invariant: a table is turned to only when it is empty, and read only while no program can write to it.
//! Bound: a configured number of entries in each table; what finds it full is counted.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;

use egressd_flow::{Completeness, Counter, Defects, Ended, Entry, Snapshot, UnixNanos};
use libbpf_rs::{MapCore as _, MapFlags};
use nix::time::{ClockId, clock_gettime};

use super::error::{OpenError, ReadError};
use super::kernel::{Batch, Walk};
use super::program::Attached;
use super::row;
use super::runs::{self, Runs};

/// What counts, and where.
#[derive(Clone, Debug)]
pub struct CountsConfig {
    /// The cgroup whose sockets are counted; the root of the cgroup v2 hierarchy unless given.
    pub cgroup: Option<PathBuf>,
    /// A directory on a BPF file system where programs and tables outlive this process; else they end with it.
    pub pin_dir: Option<PathBuf>,
    /// Entries of one table.
    pub entries_max: NonZeroU32,
}

impl CountsConfig {
    /// Memory of the kernel's that both tables take when they are full: 136 bytes an element, and 16 for each bucket, of which
    /// there are as many, rounded up to a power of two (measured by what the kernel says of such a map, Linux 6.18).
    #[must_use]
    pub fn worst_case_bytes(entries_max: NonZeroU32) -> u64 {
        let elements = u64::from(entries_max.get());
        2 * (elements * 136 + elements.next_power_of_two() * 16)
    }
}

/// Something that is less than asked for, and no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Nothing can be pinned there.
    #[error(
        "{} is on no BPF file system: what is counted between the last read and a restart is lost; mount one, or the \
         node's /sys/fs/bpf", .path.display()
    )]
    NoBpffs {
        /// As configured.
        path: PathBuf,
    },
    /// The tables were made by a process before, with another bound.
    #[error("the tables that are there stay as they were made, with room for {entries_max} entries each")]
    OldBound {
        /// Theirs.
        entries_max: u32,
    },
}

/// What is in no row, since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// The table had no room for another pair of addresses.
    pub full: Counter,
    /// Neither IPv4 nor IPv6, or cut short.
    pub unread: Counter,
}

/// The table that is not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing is in it.
    Empty,
    /// It may hold rows that were not handed over by this process, or not all.
    Untold,
    /// All of it was handed over.
    Told,
}

/// Programs that count, and the tables that they fill.
pub struct Counts {
    attached: Attached,
    batch: Batch,
    /// Index of the table that is not written to.
    resting: usize,
    rest: Rest,
}

impl Counts {
    /// Loads and attaches, or goes on with what a process before left pinned.
    ///
    /// # Errors
    /// [`OpenError`], each for an operator.
    pub fn open(config: &CountsConfig, now: UnixNanos) -> Result<Self, OpenError> {
        let clock = |error: nix::errno::Errno| OpenError::Look(io::Error::from(error).into());
        let booted = booted(now).map_err(clock)?;
        let attached = Attached::new(config, &booted.0.to_ne_bytes())?;
        let (resting, rest) = match attached.is_continued {
            true => (1 - active(&attached).map_err(OpenError::Look)?, Rest::Untold),
            false => (1, Rest::Empty),
        };
        Ok(Self { attached, batch: Batch::new(), resting, rest })
    }

    /// Less than was asked for.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.attached.warnings
    }

    /// Whether the tables are those of a process before.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.attached.is_continued
    }

    /// Empties the table that the last read handed over, and tells its entries' ends: their counters are those that were
    /// read. Call it before a read, when what was read before is safe.
    ///
    /// # Errors
    /// [`ReadError::Rows`]; the rest of the table is handed over by the next read again.
    pub fn settle(&mut self, each: &mut dyn FnMut(&Ended)) -> Result<(), ReadError> {
        if self.rest == Rest::Told {
            self.walk(Walk::Take, &mut |entry| each(&Ended { entry: *entry, stop: None }))?;
            self.rest = Rest::Empty;
        }
        Ok(())
    }

    /// Hands over what was counted up to now, or, once after a restart and until [`settle`](Self::settle) was called, what
    /// the last read handed over. `now` is when the read begins, by the real-time clock.
    ///
    /// # Errors
    /// [`ReadError`]; rows that were handed over before it come again as they were.
    pub fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, ReadError> {
        let mut snapshot = Snapshot {
            completeness: Completeness::Complete,
            begun: now,
            entries: 0,
            offloaded: 0,
            defects: Defects::default(),
        };
        if self.rest != Rest::Empty {
            self.tell(&mut snapshot, each)?;
            if self.rest == Rest::Told {
                return Ok(snapshot);
            }
        }
        self.turn(now)?;
        self.tell(&mut snapshot, each)?;
        Ok(snapshot)
    }

    /// What is in no row.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn uncounted(&self) -> Result<Uncounted, ReadError> {
        let lost = self.attached.maps.lost.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY);
        let mut uncounted = Uncounted::default();
        for of_processor in lost.map_err(ReadError::Turn)?.unwrap_or_default() {
            let mut words = of_processor
                .chunks_exact(8)
                .filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
            let mut counter = || Counter {
                bytes: words.next().unwrap_or_default(),
                packets: words.next().unwrap_or_default(),
            };
            uncounted.full += counter();
            uncounted.unread += counter();
        }
        Ok(uncounted)
    }

    /// Runs of the program that counts what is sent and of the one that counts what is received, as far as
    /// [`measure_runs`](super::measure_runs) had them measured; needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn runs(&self) -> Result<Vec<Runs>, ReadError> {
        self.attached.links.iter().map(runs::of).collect::<Result<_, _>>().map_err(ReadError::Turn)
    }

    /// Hands over the resting table.
    fn tell(&mut self, snapshot: &mut Snapshot, each: &mut dyn FnMut(&Entry)) -> Result<(), ReadError> {
        self.rest = Rest::Untold;
        snapshot.defects.unsupported += self.walk(Walk::Look, &mut |entry| {
            snapshot.entries += 1;
            each(entry);
        })?;
        let is_empty = snapshot.entries + snapshot.defects.unsupported == 0;
        self.rest = if is_empty { Rest::Empty } else { Rest::Told };
        Ok(())
    }

    /// How many rows of the resting table were passed over.
    fn walk(&mut self, walk: Walk, each: &mut dyn FnMut(&Entry)) -> Result<u64, ReadError> {
        let booted = self.stamp()?;
        let mut unsupported = 0;
        let table = self.attached.maps.tables[self.resting].as_fd();
        let walked = self.batch.walk(table, walk, &mut |pair, sums| match row::entry(pair, sums, booted) {
            Ok(entry) => each(&entry),
            Err(row::UnknownFamily(_)) => unsupported += 1,
        });
        walked.map_err(ReadError::Rows)?;
        Ok(unsupported)
    }

    /// Has the programs fill the resting table, which is empty, and gives rest to the other. When the kernel has taken a
    /// map into a map, no program that saw the one before is running any more (`maybe_wait_bpf_programs`,
    /// `kernel/bpf/syscall.c`, Linux 4.18).
    fn turn(&mut self, now: UnixNanos) -> Result<(), ReadError> {
        let booted = booted(now).map_err(|errno| ReadError::Clock(errno.into()))?;
        let slot = u32::try_from(self.resting).unwrap_or_default().to_ne_bytes();
        self.attached
            .maps
            .booted
            .update(&slot, &booted.0.to_ne_bytes(), MapFlags::ANY)
            .map_err(ReadError::Turn)?;
        let table = self.attached.maps.tables[self.resting].as_fd().as_raw_fd().to_ne_bytes();
        self.attached
            .maps
            .active
            .update(&0u32.to_ne_bytes(), &table, MapFlags::ANY)
            .map_err(ReadError::Turn)?;
        self.resting = 1 - self.resting;
        self.rest = Rest::Untold;
        Ok(())
    }

    /// When the machine was booted, as it was told when the resting table's turn began: its rows keep their starts
    /// whatever becomes of the clock.
    fn stamp(&self) -> Result<UnixNanos, ReadError> {
        let slot = u32::try_from(self.resting).unwrap_or_default().to_ne_bytes();
        let stamp = self.attached.maps.booted.lookup(&slot, MapFlags::ANY).map_err(ReadError::Turn)?;
        let stamp = stamp.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
        Ok(UnixNanos(stamp))
    }
}

/// The real-time clock less the time since boot: what the programs stamp with is the latter.
fn booted(now: UnixNanos) -> nix::Result<UnixNanos> {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(now.saturating_sub(up.into()))
}

/// Index of the table that the programs fill. Read, a map's slot gives the number of the map in it.
fn active(attached: &Attached) -> libbpf_rs::Result<usize> {
    let slot = attached.maps.active.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?;
    let id = slot.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let is_second = id == Some(attached.maps.tables[1].info()?.info.id);
    Ok(usize::from(is_second))
}
