//! The meter's bounds.

use std::time::Duration;

use crate::retired::Retired;
use crate::table::DeltaTable;

/// How much the meter may hold.
#[derive(Clone, Copy, Debug)]
pub struct MeterConfig {
    /// Entries with a baseline, 27 million at most. Above it new entries are not admitted.
    pub entries_max: usize,
    /// Complete snapshots in a row without an entry after which it is gone: 1, or up to 3 for a source whose complete
    /// snapshots do not show every entry for certain.
    pub absent_snapshots_max: u8,
    /// Open flows between two cuts. Above it new remotes fold into the rest of their owner and protocol.
    pub flows_max: usize,
    /// Flows that no owner claims yet. Above it they are discarded, counted.
    pub unclaimed_max: usize,
    /// Ends remembered, so that a dump which still shows the entry does not count it again.
    pub tombstones_max: usize,
    /// Baselines kept of entries that went for being absent, should they come back; 0 where absence is an end.
    pub retired_max: usize,
    /// Records of one batch.
    pub batch_records_max: usize,
    /// Owners of one batch.
    pub batch_owners_max: usize,
    /// How much later than a flow's last growth a scope must be to say that nobody owns it.
    pub unclaimed_grace: Duration,
    /// How long an owner that ended stays known.
    pub ended_owner_kept: Duration,
}

impl MeterConfig {
    /// Bytes that a state takes at most, but for its owners, some 200 bytes each.
    #[must_use]
    pub fn state_bytes_max(&self) -> usize {
        // A fingerprint, four counters and a stamp, or none; two addresses, protocol, time, traffic and span; an owner's place, an
        // address, protocol and traffic. What was claimed late was unclaimed before.
        self.entries_max * 49 + self.retired_max * 48 + self.unclaimed_max * 2 * 107 + self.flows_max * 75
    }

    /// Bytes that all bounds together allow, tables at their worst load included.
    #[must_use]
    pub fn worst_case_bytes(&self) -> usize {
        // A hash table doubles when 7/8 full: while it does, the old one lives beside one of 16/7 slots an element,
        // with a control byte each.
        let table = |elements: usize, element_bytes: usize| elements * (element_bytes + 1) * 24 / 7;
        DeltaTable::worst_case_bytes(self.entries_max)
            + table(self.flows_max, crate::reduce::SLOT_BYTES)
            + table(self.unclaimed_max, crate::unclaimed::SLOT_BYTES)
            + table(self.unclaimed_max, crate::reduce::SLOT_BYTES)
            + table(self.tombstones_max * 2, size_of::<u128>())
            + table(self.retired_max, Retired::SLOT_BYTES)
    }
}
