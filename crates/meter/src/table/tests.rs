//! The table against a map from the standard library, and its promises about memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn seen(bytes: u64) -> Seen {
    Seen { original: Counter { bytes, packets: bytes / 2 }, reply: Counter { bytes: !bytes, packets: 0 } }
}

/// As uniform as a fingerprint is.
fn scattered(number: u64) -> Fingerprint {
    let high = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (high ^ high >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Fingerprint(u128::from(mixed ^ mixed >> 32) << 64 | u128::from(number))
}

fn content(table: &DeltaTable) -> BTreeMap<Fingerprint, (Seen, u8)> {
    let entries: Vec<_> = table.iter().collect();
    assert!(entries.is_sorted_by_key(|(fingerprint, ..)| *fingerprint));
    entries.into_iter().map(|(fingerprint, seen, stamp)| (fingerprint, (seen, stamp))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Fingerprint, u64, u8),
    Remove(Fingerprint),
    Evict(u8),
    Shrink,
}

/// Few segments, and homes close together: long runs, and runs that reach an array's end.
fn fingerprints() -> impl Strategy<Value = Fingerprint> {
    let crowded = (0u128..2, 0u128..4, 0u128..60).prop_map(|(segment, home, rest)| {
        Fingerprint(segment << 120 | ((home << 118) & (u128::MAX >> 8)) | rest)
    });
    let at_the_end = (0u128..40).prop_map(|rest| Fingerprint((u128::MAX >> 8) - rest));
    prop_oneof![crowded, at_the_end, any::<u8>().prop_map(|number| scattered(number.into()))]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (fingerprints(), any::<u64>(), 0..STAMPS).prop_map(|(id, bytes, stamp)| Step::Upsert(id, bytes, stamp)),
        4 => fingerprints().prop_map(Step::Remove),
        1 => (0..STAMPS).prop_map(Step::Evict),
        1 => Just(Step::Shrink),
    ]
}

proptest! {
    /// Goal: whatever is done to it, the table answers and holds what an ordered map would.
    #[test]
    fn the_table_is_a_map(steps in prop::collection::vec(steps(), 1..600)) {
        const ENTRIES_MAX: usize = 150;
        let mut table = DeltaTable::new(ENTRIES_MAX);
        let mut model: BTreeMap<Fingerprint, (Seen, u8)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert(id, bytes, stamp) => {
                    let before = match model.get(&id) {
                        Some((seen, _)) => Before::Known(*seen),
                        None if model.len() == ENTRIES_MAX => Before::Full,
                        None => Before::New,
                    };
                    prop_assert_eq!(table.upsert(id, seen(bytes), stamp), before);
                    if before != Before::Full {
                        model.insert(id, (seen(bytes), stamp));
                    }
                }
                Step::Remove(id) => prop_assert_eq!(table.remove(id), model.remove(&id).map(|(seen, _)| seen)),
                Step::Evict(gone) => {
                    table.evict(gone, |_, _| {});
                    model.retain(|_, (_, stamp)| *stamp != gone);
                }
                Step::Shrink => table.shrink(),
            }
            prop_assert_eq!(table.len(), model.len());
        }
        prop_assert_eq!(content(&table), model);
    }
}

/// Goal: from twenty thousand entries up an entry takes at most 64 bytes at every size on the way, and never more than
/// was announced.
#[test]
fn an_entry_takes_at_most_64_bytes_while_the_table_grows() {
    let mut table = DeltaTable::new(usize::MAX);
    for number in 0..200_000 {
        table.upsert(scattered(number), seen(number), 0);
        let len = table.len();
        if len.is_multiple_of(1000) {
            assert!(table.bytes() <= DeltaTable::worst_case_bytes(len), "{len} entries");
            assert!(len < 20_000 || table.bytes() <= len * 64, "{len} entries in {} bytes", table.bytes());
        }
    }
    assert_eq!(table.len(), 200_000);
}

/// Goal: memory that a burst took is given back once most of the burst is gone.
#[test]
fn an_emptied_table_gives_memory_back() {
    let mut table = DeltaTable::new(usize::MAX);
    for number in 0..50_000 {
        table.upsert(scattered(number), seen(number), u8::from(number.is_multiple_of(10)));
    }
    let full = table.bytes();
    table.evict(0, |_, _| {});
    table.shrink();
    assert_eq!(table.len(), 5000);
    assert!(table.bytes() < full / 7, "{} of {full}", table.bytes());
    assert_eq!(table.remove(scattered(40)), Some(seen(40)));
    assert_eq!(table.remove(scattered(41)), None);
}
