//! Flows by final key, each with a value: what every sink keeps in place of batches.
//!
//! Invariant: a key stands in the table once, and its slot does not move while it stays, so a sweep can go on
//! where it stopped although flows came and went meanwhile.
//! Bound: [`FLOWS_MAX`] flows. Near it a new flow is folded into the rest of its local end and protocol: resolution
//! is lost, bytes are not.

use std::hash::BuildHasher;

use egressd_flow::Counter;
use hashbrown::HashTable;

use crate::books::{Applied, Reason};
use crate::labels::{FlowKey, FlowView};

/// Flows that one table holds at most: what a hash table of 2^20 buckets takes at a load of 7/8.
///
/// Worst case for a remote write sink, whose values are the largest: 2^20 slots of at most 208 bytes and 2^20 index
/// entries of 5 bytes, 213 MiB, and half as much again for the moment of the last growth. Names are shared with the
/// index that gave them; each identity that only this table still knows costs its own text.
pub const FLOWS_MAX: usize = 917_504;

const _: () = assert!(FLOWS_MAX < u32::MAX as usize, "slots are numbered by u32");

/// Bytes of a full table at worst, in the moment of its last growth; names that only it still knows come on top.
pub(crate) const fn worst_case_bytes<V>() -> usize {
    // Slots, and an index entry with its control byte.
    let slot = size_of::<Option<(FlowKey, V)>>() + size_of::<u32>() + 1;
    (1 << 20) * slot * 3 / 2
}

/// How a flow entered the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    /// Under its own key.
    Own,
    /// Into the rest of its local end and protocol, since the table is full.
    Rest,
}

/// Flows by final key.
#[derive(Debug)]
pub(crate) struct Table<V> {
    index: HashTable<u32>,
    slots: Vec<Option<(FlowKey, V)>>,
    vacant: Vec<u32>,
    hasher: foldhash::fast::RandomState,
    flows_max: usize,
}

impl<V: Default> Table<V> {
    /// An empty table of at most `flows_max` flows, an eighth of which only rests may take.
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            vacant: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            flows_max: flows_max.min(FLOWS_MAX),
        }
    }

    /// Flows held.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The value of a flow, new when the flow is; `None` when there is no room even for the rest that it folds
    /// into. Allocates nothing for a flow that is there.
    pub(crate) fn admit(&mut self, flow: FlowView<'_>) -> Option<(Fold, &mut V)> {
        let (fold, slot) = self.slot_for(flow)?;
        Some((fold, self.value_mut(slot)?))
    }

    /// As [`admit`](Self::admit), and says in `applied` what it means for the record's `traffic`.
    pub(crate) fn fold(
        &mut self,
        flow: FlowView<'_>,
        traffic: Counter,
        applied: &mut Applied,
    ) -> Option<&mut V> {
        let Some((fold, value)) = self.admit(flow) else {
            applied.discard(Reason::flows_full, traffic);
            return None;
        };
        if fold == Fold::Rest {
            applied.folded += traffic;
        }
        Some(value)
    }

    fn slot_for(&mut self, flow: FlowView<'_>) -> Option<(Fold, u32)> {
        if let Some(slot) = self.find_or_insert(flow) {
            return Some((Fold::Own, slot));
        }
        if flow.is_rest() {
            return None;
        }
        self.find_or_insert(flow.rest()).map(|slot| (Fold::Rest, slot))
    }

    /// The slot of a flow that is there.
    pub(crate) fn slot_of(&self, flow: FlowView<'_>) -> Option<u32> {
        let is_it = |slot: &u32| view(&self.slots, *slot).is_some_and(|held| held == flow);
        self.index.find(self.hasher.hash_one(flow), is_it).copied()
    }

    fn find_or_insert(&mut self, flow: FlowView<'_>) -> Option<u32> {
        if let Some(slot) = self.slot_of(flow) {
            return Some(slot);
        }
        let hash = self.hasher.hash_one(flow);
        let reserved = if flow.is_rest() { 0 } else { self.flows_max / 8 };
        (self.index.len() < self.flows_max - reserved).then(|| self.insert(hash, flow))?
    }

    /// `None` only if slots outgrew their number, which [`FLOWS_MAX`] rules out.
    fn insert(&mut self, hash: u64, flow: FlowView<'_>) -> Option<u32> {
        let entry = Some((FlowKey::from(flow), V::default()));
        let slot = match self.vacant.pop() {
            Some(slot) => {
                *self.slots.get_mut(slot as usize)? = entry;
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(entry);
                slot
            }
        };
        let rehash = |slot: &u32| view(&self.slots, *slot).map_or(0, |held| self.hasher.hash_one(held));
        self.index.insert_unique(hash, slot, rehash);
        Some(slot)
    }

    /// The value in a slot.
    pub(crate) fn value_mut(&mut self, slot: u32) -> Option<&mut V> {
        self.slots.get_mut(slot as usize)?.as_mut().map(|(_, value)| value)
    }

    /// The flow and value in a slot.
    pub(crate) fn get(&self, slot: u32) -> Option<(FlowView<'_>, &V)> {
        self.slots.get(slot as usize)?.as_ref().map(|(key, value)| (key.view(), value))
    }

    /// Flows from a slot on, in the order of slots.
    pub(crate) fn iter_from(&self, slot: u32) -> impl Iterator<Item = (u32, FlowView<'_>, &V)> {
        (slot..).zip(self.slots.get(slot as usize..).unwrap_or_default()).filter_map(|(slot, entry)| {
            let (key, value) = entry.as_ref()?;
            Some((slot, key.view(), value))
        })
    }

    /// One past the last slot in use.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Forgets the flow in a slot.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some((key, _)) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        let hash = self.hasher.hash_one(key.view());
        if let Ok(entry) = self.index.find_entry(hash, |held| *held == slot) {
            entry.remove();
        }
        self.vacant.push(slot);
    }

    /// All flows, leaving the table empty.
    pub(crate) fn take(&mut self) -> Vec<(FlowKey, V)> {
        self.index = HashTable::new();
        self.vacant = Vec::new();
        std::mem::take(&mut self.slots).into_iter().flatten().collect()
    }
}

/// The flow in a slot.
fn view<V>(slots: &[Option<(FlowKey, V)>], slot: u32) -> Option<FlowView<'_>> {
    slots.get(slot as usize)?.as_ref().map(|(key, _)| key.view())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::record;

    fn admit(table: &mut Table<u64>, line: &str) -> Option<Fold> {
        let record = record(line);
        let (fold, value) = table.admit(FlowView::of(&record))?;
        *value += record.traffic.tx.bytes;
        Some(fold)
    }

    fn values(table: &Table<u64>) -> Vec<(u32, u64)> {
        table.iter_from(0).map(|(slot, _, value)| (slot, *value)).collect()
    }

    /// Goal: at the bound new flows fold into their rest, then are refused, and what is there still grows.
    #[test]
    fn full_table_folds_then_refuses() {
        let mut table = Table::new(16);
        for host in 0..14 {
            let line = format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx=1/1");
            assert_eq!(admit(&mut table, &line), Some(Fold::Own));
        }
        for (line, expected) in [
            ("web/app@n1/a 10.0.0.1 > unknown 9.9.9.1 tcp tx=10/1", Some(Fold::Rest)),
            ("web/app@n1/a 10.0.0.1 > unknown 9.9.9.2 tcp tx=20/1", Some(Fold::Rest)),
            ("web/app@n1/a 10.0.0.1 > unknown 9.9.9.2 udp tx=40/1", Some(Fold::Rest)),
            ("web/two@n1/a 10.0.0.2 > unknown 9.9.9.2 udp tx=1/1", None),
            ("web/two@n1/a 10.0.0.2 > folded - udp tx=1/1", None),
            ("web/app@n1/a 10.0.0.1 > unknown 8.8.8.3 tcp tx=5/1", Some(Fold::Own)),
            ("web/app@n1/a 10.0.0.1 > folded - udp tx=2/1", Some(Fold::Own)),
        ] {
            assert_eq!(admit(&mut table, line), expected, "{line}");
        }
        let expected = (0..14).map(|slot| (slot, if slot == 3 { 6 } else { 1 }));
        assert_eq!(values(&table), expected.chain([(14, 30), (15, 42)]).collect::<Vec<_>>());
    }

    /// Goal: a flow keeps its slot while others go, and a vacant slot is taken again.
    #[test]
    fn slots_stay_and_are_reused() {
        let mut table = Table::new(16);
        for (host, bytes) in [(1, 1), (2, 2), (3, 3)] {
            let line = format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx={bytes}/1");
            assert_eq!(admit(&mut table, &line), Some(Fold::Own));
        }
        table.remove(1);
        table.remove(1);
        assert_eq!((table.len(), values(&table)), (2, vec![(0, 1), (2, 3)]));
        admit(&mut table, "web/app@n1/a 10.0.0.1 > unknown 8.8.8.2 tcp tx=7/1");
        assert_eq!((table.len(), values(&table)), (3, vec![(0, 1), (1, 7), (2, 3)]));
    }

    /// Goal: growth of a known flow clones no name and grows no storage.
    #[test]
    fn known_flow_is_looked_up_by_borrowing() {
        let record = record("web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1");
        let mut table: Table<u64> = Table::new(16);
        for _ in 0..2 {
            assert!(table.admit(FlowView::of(&record)).is_some());
            let shared = (Arc::strong_count(&record.local), table.slots.capacity(), table.index.capacity());
            assert_eq!(shared, (2, 4, 3));
        }
    }
}
