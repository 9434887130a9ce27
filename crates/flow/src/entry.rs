//! What a source of connection tracking says: rows, ends, and how far one read got.

use crate::counters::Counters;
use crate::time::UnixNanos;
use crate::tuple::Tuple;

/// What makes two sightings the same entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId {
    /// The original direction, zone included.
    pub original: Tuple,
    /// Netfilter: `CTA_ID`, which repeats when a tuple does, so never an identity alone.
    /// Cilium: the map's kernel id and the key's flags. `None` where the source offers nothing.
    pub kernel_id: Option<u64>,
    /// When the entry was made, by the kernel's real-time clock.
    /// `None` without `nf_conntrack_timestamp`, and for Cilium always.
    pub start: Option<UnixNanos>,
}

/// Which of an entry's two sides a row speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Netfilter: one row for both ends; counters are original and reply.
    Both,
    /// Cilium OUT: the original source's row; counters are as that end sees them.
    Source,
    /// Cilium IN: the reply source's row; counters are as that end sees them.
    Destination,
}

/// One conntrack row as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Identity, with the original tuple.
    pub id: EntryId,
    /// The reply tuple: its source is the real peer after DNAT.
    pub reply: Tuple,
    /// The side or sides that this row speaks for.
    pub view: View,
    /// `None` when the kernel keeps no counters for it (made under `nf_conntrack_acct=0`).
    pub counters: Option<Counters>,
    /// `IPS_*` bits (`linux/netfilter/nf_conntrack_common.h`); `None` where the source has none.
    pub status: Option<u32>,
    /// Seconds until the kernel drops the entry; `None` for an offloaded flow.
    pub timeout_seconds: Option<u32>,
}

/// An entry's last words: its identity and final counters, sent once when the kernel destroys it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The entry with its final counters.
    pub entry: Entry,
    /// When the kernel stopped tracking it; `None` without `nf_conntrack_timestamp`.
    pub stop: Option<UnixNanos>,
}

/// Whether a read saw the whole table, as far as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// The kernel reached the table's end. A resize meanwhile may still have cut it short, silently.
    Complete,
    /// The kernel said that the read is inconsistent, or it broke off.
    Partial,
}

/// Rows of a read that are not in the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defects {
    /// Rows whose bytes do not parse; skipped.
    pub malformed: u64,
    /// Rows of an address family or layout that this version does not know; skipped.
    pub unsupported: u64,
    /// Rows without counters; kept, and worth nothing.
    pub without_counters: u64,
    /// Rows of conntrack zones that were not asked for; skipped.
    pub other_ct_zones: u64,
    /// Rows that are no connection of an endpoint: Cilium's services, their other halves and ICMP errors; skipped.
    pub passed_over: u64,
}

/// One read of a source at one tick, its rows already handed over one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How far it got.
    pub completeness: Completeness,
    /// Real-time clock just before the read.
    pub begun: UnixNanos,
    /// Rows handed over.
    pub entries: u64,
    /// Those of them that a flowtable forwards (`IPS_OFFLOAD`, `IPS_HW_OFFLOAD`): unless it has the `counter` flag,
    /// their counters stand still.
    pub offloaded: u64,
    /// Rows that were not, or that are worth nothing.
    pub defects: Defects,
}
