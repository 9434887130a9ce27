//! What came in, what went out and what was let go, in bytes and packets.

use egressd_flow::Counter;

/// Why growth of a side never reaches a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discard {
    /// A scope that is late enough names no owner: the side is another node's, or the world's.
    NotLocal,
    /// The side is the node itself.
    NodeAddress,
    /// Its owner is known and not to be measured.
    NotMeasured,
    /// More unclaimed flows than may be held.
    UnclaimedFull,
}

impl Discard {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::NotLocal, Self::NodeAddress, Self::NotMeasured, Self::UnclaimedFull];

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotLocal => "not_local",
            Self::NodeAddress => "node_address",
            Self::NotMeasured => "not_measured",
            Self::UnclaimedFull => "unclaimed_full",
        }
    }
}

/// The meter's account since it began. Each entry has up to two sides, and each side's growth is counted.
///
/// received = emitted + the sum of discarded + held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Growth of all sides.
    pub received: Counter,
    /// Cut into batches.
    pub emitted: Counter,
    /// By [`Discard`].
    pub discarded: [Counter; Discard::ALL.len()],
    /// Unclaimed and open flows.
    pub held: Counter,
    /// Entries that are older than the watch, or may be: counted from their first sight on.
    pub preexisting_entries: u64,
    /// Entries whose counters were lower than their baseline.
    pub resets: u64,
    /// Sightings and ends whose growth cannot be ([`Counter::GROWTH_MAX`]): none of it is in any figure here.
    pub impossible: u64,
    /// Entries whose end was never told: what they had grown since they were last seen is unknown.
    pub vanished_entries: u64,
    /// Of those, baselines that were kept in case their entry came back, and forgotten for want of room: one that comes back
    /// counts whole once more.
    pub forgotten_baselines: u64,
    /// Sightings of entries that had no room in the table.
    pub not_admitted: u64,
    /// Entries with a baseline now.
    pub entries: u64,
    /// Memory that the table of baselines takes now, in bytes.
    pub table_bytes: u64,
    /// Entries that grew in the last snapshot.
    pub entries_active: u64,
}

impl Books {
    pub(crate) fn discard(&mut self, reason: Discard, traffic: Counter) {
        self.discarded[reason as usize] += traffic;
    }

    /// True when nothing is unaccounted for.
    #[must_use]
    pub fn balance(&self) -> bool {
        let mut accounted = self.emitted;
        accounted += self.held;
        for discarded in self.discarded {
            accounted += discarded;
        }
        self.received == accounted
    }
}
