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
    table.iter().map(|(fingerprint, seen, stamp)| (fingerprint, (seen, stamp))).collect()
}

/// The numbers that were scattered, in the order of the table.
#[expect(clippy::cast_possible_truncation, reason = "a number is the low half of its fingerprint")]
fn order(table: &DeltaTable) -> Vec<u64> {
    table.iter().map(|(fingerprint, ..)| fingerprint.0 as u64).collect()
}

/// One dump, whose entries all have this stamp.
fn dump(table: &mut DeltaTable, numbers: impl IntoIterator<Item = u64>, stamp: u8) {
    table.rewind();
    for number in numbers {
        table.upsert(scattered(number), stamp, |_| seen(number));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Fingerprint, u64, u8),
    Remove(Fingerprint),
    Evict(u8),
    Rewind,
}

/// Some of one home and one tag, so that buckets overflow and codes are the same; some at the end of the index.
fn fingerprints() -> impl Strategy<Value = Fingerprint> {
    let crowded = (0u128..4, 0u128..60).prop_map(|(home, rest)| Fingerprint(home << 126 | rest << 12));
    let at_the_end = (0u128..40).prop_map(|rest| Fingerprint(u128::MAX - (rest << 12)));
    prop_oneof![crowded, at_the_end, any::<u8>().prop_map(|number| scattered(number.into()))]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (fingerprints(), any::<u64>(), 0..STAMPS).prop_map(|(id, bytes, stamp)| Step::Upsert(id, bytes, stamp)),
        4 => fingerprints().prop_map(Step::Remove),
        1 => (0..STAMPS).prop_map(Step::Evict),
        1 => Just(Step::Rewind),
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
                    prop_assert_eq!(table.upsert(id, stamp, |_| seen(bytes)), before);
                    if before != Before::Full {
                        model.insert(id, (seen(bytes), stamp));
                    }
                }
                Step::Remove(id) => prop_assert_eq!(table.remove(id), model.remove(&id).map(|(seen, _)| seen)),
                Step::Evict(gone) => {
                    table.evict(gone, |id, seen| assert_eq!(model.get(&id), Some(&(seen, gone))));
                    model.retain(|_, (_, stamp)| *stamp != gone);
                }
                Step::Rewind => table.rewind(),
            }
            prop_assert_eq!(table.len(), model.len());
        }
        prop_assert_eq!(content(&table), model.clone());
        for (id, (seen, _)) in model {
            prop_assert_eq!(table.remove(id), Some(seen));
        }
    }
}

/// Goal: a table that fills up takes at most 64 bytes an entry at every size on the way.
#[test]
fn an_entry_takes_at_most_64_bytes_while_the_table_fills_up() {
    let mut table = DeltaTable::new(usize::MAX);
    for number in 0..200_000 {
        table.upsert(scattered(number), 0, |_| seen(number));
        let len = table.len();
        if len.is_multiple_of(1000) {
            assert!(table.bytes() <= DeltaTable::worst_case_bytes(len), "{len} entries");
            assert!(table.bytes() <= len * 64, "{len} entries in {} bytes", table.bytes());
        }
    }
    assert_eq!(table.len(), 200_000);
}

/// Goal: where a tenth of the entries are others in each dump, at places all over it, the table stays in the order of the
/// dump, and an entry takes no more than was announced, and mostly 64 bytes.
#[test]
fn a_table_whose_entries_come_and_go_stays_small_and_in_order() {
    const ENTRIES: u64 = 20_000;
    // Those that have gone stay until the next dump.
    const ENTRIES_MAX: usize = 24_000;
    let mut table = DeltaTable::new(ENTRIES_MAX);
    let (mut numbers, mut next, mut bytes): (Vec<u64>, u64, usize) = ((0..ENTRIES).collect(), ENTRIES, 0);
    for round in 0..60u64 {
        let stamp = u8::from(round.is_multiple_of(2));
        dump(&mut table, numbers.iter().copied(), stamp);
        table.evict(1 - stamp, |_, _| {});
        assert!(order(&table) == numbers, "another order at {round}");
        assert!(table.bytes() <= DeltaTable::worst_case_bytes(ENTRIES_MAX), "{} bytes", table.bytes());
        bytes += table.bytes();
        for at in (0..ENTRIES).step_by(10) {
            // Where an entry goes and where one comes are far apart.
            numbers.remove((at.wrapping_mul(7919).wrapping_add(round) % ENTRIES) as usize);
            numbers.insert((at.wrapping_mul(104_729).wrapping_add(round) % ENTRIES) as usize, next);
            next += 1;
        }
    }
    let mean = bytes / 60 / numbers.len();
    assert!(mean <= 64, "{mean} bytes an entry");
}

/// Goal: where the kernel has sorted its table anew, one dump is enough for the table to follow: hardly an entry that the
/// dump shows next is not the next of the table.
#[test]
fn the_table_takes_the_order_of_a_dump() {
    let mut table = DeltaTable::new(usize::MAX);
    dump(&mut table, 0..5000, 0);
    assert!(order(&table).into_iter().eq(0..5000));
    let mut sorted_anew: Vec<u64> = (0..5000).collect();
    sorted_anew.sort_by_key(|number| scattered(*number));
    dump(&mut table, sorted_anew.iter().copied(), 1);
    let order = order(&table);
    let follows: BTreeMap<u64, u64> = order.iter().copied().zip(order.iter().copied().skip(1)).collect();
    let breaks = sorted_anew.windows(2).filter(|pair| follows.get(&pair[0]) != Some(&pair[1])).count();
    assert!(breaks < 25, "{breaks} breaks");
    assert_eq!(content(&table), (0..5000).map(|number| (scattered(number), (seen(number), 1))).collect());
}

/// Goal: a dump in a new order, of a table that is as full as it may be, stays within what was announced.
#[test]
fn a_full_table_is_sorted_anew_within_its_bound() {
    const ENTRIES: usize = 20_000;
    let mut table = DeltaTable::new(ENTRIES);
    dump(&mut table, 0..ENTRIES as u64, 0);
    let mut sorted_anew: Vec<u64> = (0..ENTRIES as u64).collect();
    sorted_anew.sort_by_key(|number| scattered(*number));
    table.rewind();
    for number in sorted_anew {
        assert_eq!(table.upsert(scattered(number), 1, |_| seen(number)), Before::Known(seen(number)));
        assert!(table.bytes() <= DeltaTable::worst_case_bytes(ENTRIES), "{} bytes", table.bytes());
    }
    assert_eq!(table.len(), ENTRIES);
}

/// Goal: a dump that passes many entries over goes on behind them without moving what it shows.
#[test]
fn a_gap_in_a_dump_moves_one_entry() {
    let mut table = DeltaTable::new(usize::MAX);
    dump(&mut table, 0..5000, 0);
    dump(&mut table, (0..1000).chain(3000..5000), 1);
    let moved = (0..1000).chain([3000]).chain(1000..3000).chain(3001..5000);
    assert!(order(&table).into_iter().eq(moved));
}

/// Goal: memory that a burst took is given back once most of the burst is gone.
#[test]
fn an_emptied_table_gives_memory_back() {
    let mut table = DeltaTable::new(usize::MAX);
    for number in 0..50_000 {
        table.upsert(scattered(number), u8::from(number.is_multiple_of(10)), |_| seen(number));
    }
    let full = table.bytes();
    table.evict(0, |_, _| {});
    table.rewind();
    assert_eq!(table.len(), 5000);
    assert!(table.bytes() < full / 7, "{} of {full}", table.bytes());
    assert_eq!(table.remove(scattered(40)), Some(seen(40)));
    assert_eq!(table.remove(scattered(41)), None);
}
