//! Flows by all that is told of them, each with its sum.
//!
//! Invariant: a flow stands in the table once. Two flows are one when everything but their traffic is the same.

use std::hash::BuildHasher;
use std::sync::Arc;

use egressd_flow::{Attributed, Identity};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Records added up by flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlowTable {
    rows: HashTable<Attributed>,
    hasher: foldhash::fast::RandomState,
}

impl FlowTable {
    /// Flows in it.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds a record to its flow; false for a flow that is not there when no new one may come. Allocates nothing for
    /// one that is there.
    pub(crate) fn add(&mut self, record: &Attributed, may_grow: bool) -> bool {
        let hasher = &self.hasher;
        let rehash = |row: &Attributed| hash(hasher, row);
        match self.rows.entry(hash(hasher, record), |row| is_same_flow(row, record), rehash) {
            Entry::Occupied(mut row) => row.get_mut().traffic += record.traffic,
            Entry::Vacant(_) if !may_grow => return false,
            Entry::Vacant(place) => {
                place.insert(record.clone());
            }
        }
        true
    }

    /// Every flow, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Attributed> {
        self.rows.iter()
    }

    /// Every flow, in no particular order.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = Attributed> {
        self.rows.into_iter()
    }
}

/// Only what changes most often is hashed.
fn hash(hasher: &foldhash::fast::RandomState, record: &Attributed) -> u64 {
    hasher.hash_one((record.local_address, record.remote.address, record.protocol))
}

fn is_same_flow(one: &Attributed, other: &Attributed) -> bool {
    one.local_address == other.local_address
        && one.remote.address == other.remote.address
        && one.protocol == other.protocol
        && one.remote.class == other.remote.class
        && is_same(&one.local, &other.local)
        && match (&one.remote.identity, &other.remote.identity) {
            (Ok(one), Ok(other)) => is_same(one, other),
            (one, other) => one == other,
        }
}

/// Most often both are the same allocation, since the index hands out one identity for an address.
fn is_same(one: &Arc<Identity>, other: &Arc<Identity>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
