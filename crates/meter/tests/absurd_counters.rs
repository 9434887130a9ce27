//! Counters that no kernel should ever show: nothing panics, wraps or reaches a batch, and the rest is exact.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    Batch, Completeness, Counter, Counters, Defects, Ended, Entry, Epoch, Owner, Scope, Snapshot, UnixNanos,
};
use egressd_meter::{Books, Meter, MeterConfig};
use proptest::prelude::*;

const CONFIG: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 100,
    flows_max: 100,
    unclaimed_max: 100,
    tombstones_max: 100,
    retired_max: 100,
    batch_records_max: 100,
    batch_owners_max: 100,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};
const MAX: u64 = u64::MAX;
const MOST: u64 = Counter::GROWTH_MAX.bytes;

/// A meter that knows 10.0.0.1, at second 20 of its watch.
fn meter() -> Meter {
    let mut meter = Meter::new(CONFIG, Epoch(1), [7; 16], UnixNanos(0));
    let owner = Owner {
        address: "10.0.0.1".parse().unwrap(),
        pod_uid: "uid".into(),
        namespace: "shop".into(),
        name: "web".into(),
        labels: [].into(),
        since: UnixNanos(0),
        until: None,
        measure: true,
    };
    meter.scope(&Scope {
        as_of: UnixNanos(1),
        whole: true,
        owners: vec![Arc::new(owner)],
        node_addresses: vec!["203.0.113.1".parse().unwrap()],
    });
    meter.begin(UnixNanos(10_000_000_000));
    meter.finish(&snapshot());
    meter.begin(NOW);
    meter
}

const NOW: UnixNanos = UnixNanos(20_000_000_000);

fn snapshot() -> Snapshot {
    Snapshot {
        completeness: Completeness::Complete,
        begun: NOW,
        entries: 0,
        offloaded: 0,
        defects: Defects::default(),
    }
}

/// An entry made after the watch began, between the owner's `port` and an address of the node.
fn entry(port: u16, counters: Counters) -> Entry {
    let line = format!("tcp 10.0.0.1:{port}>203.0.113.1:80 start=15");
    Entry { counters: Some(counters), ..line.parse().unwrap() }
}

fn directed(tx: u64, rx: u64) -> Counters {
    Counters::Directed { tx: Counter { bytes: tx, packets: 1 }, rx: Counter { bytes: rx, packets: 1 } }
}

/// What a batch says, added without saturation.
fn exact_sum(batches: &[Batch]) -> (u128, u128) {
    let counters = batches.iter().flat_map(|batch| &batch.records).flat_map(|record| {
        let traffic = record.traffic;
        [traffic.tx, traffic.rx, traffic.undirected]
    });
    counters.fold((0, 0), |(bytes, packets), counter| {
        (bytes + u128::from(counter.bytes), packets + u128::from(counter.packets))
    })
}

/// Goal: a counter near 2^64, in a row or in an end, is counted as impossible and costs no other entry a byte.
#[test]
fn an_impossible_counter_is_counted_and_passed_over() {
    let packets = Counters::total(Counter { bytes: 1, packets: MAX });
    for absurd in [directed(MAX, MAX), directed(0, MAX), directed(MOST, 1), packets] {
        let mut meter = meter();
        meter.entry(&entry(1, absurd));
        meter.entry(&entry(2, directed(1000, 100)));
        meter.finish(&snapshot());
        meter.ended(&Ended { entry: entry(3, absurd), stop: None }, NOW);
        assert_eq!(exact_sum(&meter.cut(NOW)), (1100, 2), "{absurd:?}");
        let twice = Counter { bytes: 2200, packets: 4 };
        let found = meter.books();
        let expected = Books { received: twice, impossible: 2, ..found };
        assert_eq!((found, found.balance()), (expected, true), "{absurd:?}");
    }
}

/// Goal: what is possible is believed to the byte, however much it is, and no sum of it passes the bound.
#[test]
fn growth_up_to_the_bound_is_believed() {
    let mut meter = meter();
    meter.entry(&entry(1, directed(MOST / 2, 0)));
    meter.entry(&entry(2, directed(MOST / 2, 0)));
    assert_eq!(exact_sum(&meter.cut(NOW)).0, u128::from(MOST / 2));
    assert_eq!(meter.books().impossible, 1, "beside the first, the second is too much");
    meter.entry(&entry(3, directed(MOST / 2, 0)));
    assert_eq!(exact_sum(&meter.cut(NOW)).0, u128::from(MOST / 2), "after a cut there is room again");
}

fn any_figure() -> impl Strategy<Value = u64> {
    prop_oneof![0..100u64, Just(MOST / 2), Just(MOST), Just(1 << 63), Just(MAX), any::<u64>()]
}

proptest! {
    /// Goal: whatever the counters, nothing panics, the books balance and no cut says more than can be.
    #[test]
    fn no_counter_reaches_a_batch_that_cannot_be(
        steps in prop::collection::vec((1u16..4, any::<[bool; 2]>(), prop::array::uniform4(any_figure())), 1..15),
    ) {
        let mut meter = meter();
        for (port, [ends, cuts], [tx, tx_packets, rx, rx_packets]) in steps {
            let tx = Counter { bytes: tx, packets: tx_packets };
            let rx = Counter { bytes: rx, packets: rx_packets };
            let entry = entry(port, Counters::Directed { tx, rx });
            if ends {
                meter.ended(&Ended { entry, stop: None }, NOW);
            } else {
                meter.entry(&entry);
            }
            if cuts {
                let (bytes, packets) = exact_sum(&meter.cut(NOW));
                prop_assert!(bytes <= MOST.into() && packets <= MOST.into());
            }
            prop_assert!(meter.books().balance());
            prop_assert!(meter.books().received.bytes < MAX, "sums have not come to their end");
        }
    }
}
