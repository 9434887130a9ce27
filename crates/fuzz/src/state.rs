//! A meter's kept state: refused, or as good as one that was never written.
//!
//! - Reading it takes memory in proportion to its length, whatever lengths it claims.
//! - A meter that accepts it works on: no panic, the books balance, batches hold together.
//! - What that meter writes is accepted, and the meter read from it does the same from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    Batch, Completeness, Counter, Defects, Ended, Entry, Epoch, Owner, Record, Scope, Sequence, Snapshot,
    Traffic, UnixNanos,
};
use egressd_meter::{Books, Meter, MeterConfig};

use crate::memory::peak_of;

const CONFIG: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 1000,
    flows_max: 100,
    unclaimed_max: 100,
    tombstones_max: 100,
    retired_max: 100,
    batch_records_max: 10,
    batch_owners_max: 3,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};

/// What a meter takes that holds nothing, and what the least segment of each of its table's 256 takes.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The dearest byte of a state: entries whose fingerprints are chosen to crowd at a segment's end stand in the 32nd
/// part of it that is nobody's home, 48 bytes a slot for 21 of state at least, and twice while it grows.
const BYTES_PER_BYTE: usize = 2 * 32 * 9 / 8 * 48 / 21;

/// An address that states of seeds know, and one that is somebody's only later.
const KNOWN: &str = "10.0.0.1";
const LATER: &str = "10.0.0.9";

/// Reads a state, and has the meter go on from it.
pub(crate) fn check(input: &[u8]) {
    let (meter, bytes) = peak_of(|| Meter::restore(CONFIG, &mut &input[..]));
    assert!(bytes <= BYTES_AT_ONCE + input.len() * BYTES_PER_BYTE, "{bytes} bytes for {}", input.len());
    let Ok(mut meter) = meter else { return };
    let written = save(&mut meter);
    let mut again = Meter::restore(CONFIG, &mut &written[..]).expect("what a meter writes is a state");
    assert_eq!(again.position(), meter.position());
    assert_eq!(go_on(&mut again), go_on(&mut meter), "the same from then on");
}

fn save(meter: &mut Meter) -> Vec<u8> {
    let mut bytes = Vec::new();
    meter.save(&mut bytes).expect("a vector takes all that is written");
    bytes
}

/// What a meter told, by owner and protocol: which remotes fold into the rest is chance. Then its books, but for the
/// memory, which depends on how the table came to be.
type Story = (BTreeMap<(Arc<str>, u8), Traffic>, Books);

/// A read, ends, scopes and cuts, as any process goes on.
fn go_on(meter: &mut Meter) -> Story {
    let mut told = BTreeMap::new();
    let now = UnixNanos(1_000_000_000_000);
    cut(meter, &mut told);
    meter.begin(now);
    for port in 1..40 {
        meter.entry(&entry(KNOWN, port, u64::from(port) * 100));
        meter.entry(&entry(LATER, port, u64::from(port) * 100));
    }
    finish(meter, now);
    meter.ended(&Ended { entry: entry(KNOWN, 1, 101), stop: None }, now);
    cut(meter, &mut told);
    scope(meter, now, &[KNOWN, LATER]);
    cut(meter, &mut told);
    for _ in 0..4 {
        meter.begin(now);
        finish(meter, now);
    }
    scope(meter, UnixNanos(u64::MAX), &[]);
    cut(meter, &mut told);
    let books = meter.books();
    assert_eq!(books.held, Counter::default(), "a scope that is late enough leaves nothing open");
    (told, Books { table_bytes: 0, ..books })
}

fn cut(meter: &mut Meter, told: &mut BTreeMap<(Arc<str>, u8), Traffic>) {
    let (_, next) = meter.position();
    let before = meter.books();
    assert!(before.balance(), "{before:?}");
    let batches = meter.cut(UnixNanos(1_000_000_000_000));
    let mut emitted = before.emitted;
    for (batch, number) in batches.iter().zip(next.0..) {
        assert_eq!(batch.sequence, Sequence(number));
        assert!(batch.sum().can_be_growth(), "no exporter believes {:?}", batch.sum());
        emitted += batch.sum();
        batch.records.iter().for_each(|record| tell(batch, record, told));
    }
    let after = meter.books();
    assert_eq!(after.emitted, emitted);
    assert!(after.balance(), "{after:?}");
}

fn tell(batch: &Batch, record: &Record, told: &mut BTreeMap<(Arc<str>, u8), Traffic>) {
    let owner = &batch.owners[record.owner as usize];
    *told.entry((Arc::clone(&owner.pod_uid), record.protocol.0)).or_default() += record.traffic;
}

fn entry(address: &str, port: u16, bytes: u64) -> Entry {
    let line = format!("tcp {address}:{port}>203.0.113.1:80 start=15 tx={bytes}/1 rx=0/0");
    line.parse().expect("the line is an entry")
}

fn finish(meter: &mut Meter, begun: UnixNanos) {
    let completeness = Completeness::Complete;
    meter.finish(&Snapshot { completeness, begun, entries: 0, offloaded: 0, defects: Defects::default() });
}

fn scope(meter: &mut Meter, as_of: UnixNanos, addresses: &[&str]) {
    let owner = |address: &&str| {
        Arc::new(Owner {
            address: address.parse().expect("it is an address"),
            pod_uid: format!("uid-{address}").into(),
            namespace: "shop".into(),
            name: "web".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            since: UnixNanos(0),
            until: None,
            measure: true,
        })
    };
    let node_addresses = vec!["203.0.113.1".parse().expect("it is an address")];
    meter.scope(&Scope { as_of, whole: true, owners: addresses.iter().map(owner).collect(), node_addresses });
}

/// States of a meter that knows nothing, of one that has read and heard an end, of one that cut and lost an owner, and
/// of one with late flows.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let now = UnixNanos(20_000_000_000);
    let mut meter = Meter::new(CONFIG, Epoch(1), [7; 16], UnixNanos(0));
    let mut states = vec![save(&mut meter)];
    scope(&mut meter, now, &[KNOWN, "fd00::3"]);
    meter.begin(UnixNanos(10_000_000_000));
    finish(&mut meter, now);
    meter.begin(now);
    meter.entry(&entry(KNOWN, 1, 100));
    meter.entry(&entry(KNOWN, 2, 100));
    meter.entry(&entry(LATER, 3, 100));
    finish(&mut meter, now);
    meter.ended(&Ended { entry: entry(KNOWN, 2, 150), stop: None }, now);
    states.push(save(&mut meter));
    scope(&mut meter, now, &[LATER]);
    states.push(save(&mut meter));
    meter.cut(now);
    states.push(save(&mut meter));
    states
}
