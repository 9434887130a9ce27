//! Faults 3 to 8 of the tool that this one replaces, one test each: our rule, and what its rule would have said.
//!
//! What another stage decides stands there: public and private addresses (8) in `enrich::ranges`, rows without counters
//! (7) in conntrack's kernel tests, a stop under traffic (3) in the testbed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Completeness, Defects, Ended, Entry, Epoch, Owner, Scope, Snapshot, UnixNanos};
use egressd_meter::{Discard, Meter, MeterConfig};

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

const fn seconds(at: u64) -> UnixNanos {
    UnixNanos(at * 1_000_000_000)
}

/// A node that is watched since second 10, and its clock.
struct Node {
    meter: Meter,
    now: UnixNanos,
}

impl Node {
    /// With these pods' addresses.
    fn with(pods: &[&str]) -> Self {
        let mut node = Self { meter: Meter::new(CONFIG, Epoch(1), [7; 16], seconds(0)), now: seconds(10) };
        node.scope(1, pods);
        node.read(10, &[]);
        node
    }

    fn scope(&mut self, as_of: u64, pods: &[&str]) {
        let owner = |address: &&str| Owner {
            address: address.parse().unwrap(),
            pod_uid: format!("uid-{address}").into(),
            namespace: "shop".into(),
            name: "web".into(),
            labels: [].into(),
            since: seconds(0),
            until: None,
            measure: true,
        };
        let owners = pods.iter().map(|address| Arc::new(owner(address))).collect();
        self.meter.scope(&Scope { as_of: seconds(as_of), whole: true, owners, node_addresses: Vec::new() });
    }

    /// A complete read.
    fn read(&mut self, at: u64, rows: &[Entry]) {
        self.now = seconds(at);
        self.meter.begin(self.now);
        rows.iter().for_each(|row| self.meter.entry(row));
        self.meter.finish(&Snapshot {
            completeness: Completeness::Complete,
            begun: self.now,
            entries: u64::try_from(rows.len()).unwrap(),
            offloaded: 0,
            defects: Defects::default(),
        });
    }

    fn ended(&mut self, at: u64, entry: Entry) {
        self.now = seconds(at);
        self.meter.ended(&Ended { entry, stop: Some(self.now) }, self.now);
    }

    /// What the records of a cut say, as `pod remote tx/rx` in bytes, in order.
    fn cut(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for batch in self.meter.cut(self.now) {
            for record in &batch.records {
                let (owner, remote) = (&batch.owners[record.owner as usize].address, record.remote.unwrap());
                let (tx, rx) = (record.traffic.tx.bytes, record.traffic.rx.bytes);
                lines.push(format!("{owner} {remote} {tx}/{rx}"));
            }
        }
        lines.sort();
        lines
    }
}

fn row(line: &str) -> Entry {
    line.parse().unwrap()
}

/// Goal: the first sight of an entry that is younger than the watch counts, and what grew after the last tick is in
/// the cut of the last read. The original takes its first read as a baseline and flushes nothing at its end: it would
/// say 0 twice.
#[test]
fn fault_3_neither_the_first_nor_the_last_read_is_lost() {
    let mut node = Node::with(&["10.0.0.1"]);
    node.read(20, &[row("tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100/2 rx=50/1")]);
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 100/50"]);
    node.read(23, &[row("tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=130/3 rx=51/2")]);
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 30/1"]);
}

/// Goal: bytes of a pod that nobody knows yet wait for its name, and those of an address that stays nobody's are
/// counted as such. The original drops both at once and counts neither.
#[test]
fn fault_4_bytes_of_an_unknown_pod_wait_or_are_counted() {
    let mut node = Node::with(&[]);
    node.read(
        20,
        &[
            row("tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100/2 rx=50/1"),
            row("tcp 10.0.0.9:1>203.0.113.1:80 start=15 tx=7/1 rx=0/0"),
        ],
    );
    assert_eq!(node.cut(), [""; 0]);
    node.scope(200, &["10.0.0.1"]);
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 100/50"]);
    let books = node.meter.books();
    // Each of the two entries has a far side as well, which is nobody's.
    assert_eq!(books.discarded[Discard::NotLocal as usize].bytes, 150 + 7 + 7);
    assert!(books.balance() && books.held.is_zero());
}

/// Goal: a 5-tuple that is used again counts as a new entry, whether its end was heard of, only its counters tell, or
/// another conntrack zone or kernel id does. The original clamps growth to 0 until the new counters pass the old
/// ones, and takes entries that differ in zone or id for one: it would say 1000 in place of 1060, and at most 500 of
/// 1000.
#[test]
fn fault_5_a_reused_tuple_is_another_entry() {
    const TUPLE: &str = "tcp 10.0.0.1:1>203.0.113.1:80";
    for second in ["id=7 start=25", "id=8 start=15", "id=7 start=15"] {
        let mut node = Node::with(&["10.0.0.1"]);
        let first = row(&format!("{TUPLE} id=7 start=15 tx=1000/9 rx=0/0"));
        let again = row(&format!("{TUPLE} {second} tx=60/1 rx=0/0"));
        node.read(20, &[first]);
        node.read(30, &[again]);
        assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 1060/0"], "between two reads: {second}");
    }
    let mut node = Node::with(&["10.0.0.1"]);
    for at in 20..30 {
        node.ended(at, row(&format!("{TUPLE} id=7 start={at} tx=100/1 rx=0/0")));
    }
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 1000/0"], "ten times between two reads");
    let mut node = Node::with(&["10.0.0.1"]);
    let ct_zones =
        ["ctzone=1", "ctzone=2"].map(|ct_zone| row(&format!("{TUPLE} {ct_zone} start=15 tx=500/1 rx=0/0")));
    node.read(20, &ct_zones);
    node.read(30, &ct_zones);
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 1000/0"], "in two zones at once");
}

/// Goal: an offloaded flow, which has no timeout, counts once however long it stays. The original's cached entry
/// expires every 2 minutes and the whole counter is growth again: it would say 3,000,000 after an hour.
#[test]
fn fault_6_an_entry_without_a_timeout_counts_once() {
    let mut node = Node::with(&["10.0.0.1"]);
    let offloaded = row("tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100000/9 rx=0/0");
    assert_eq!(offloaded.timeout_seconds, None);
    for at in (20..3620).step_by(15) {
        node.read(at, &[offloaded]);
    }
    assert_eq!(node.cut(), ["10.0.0.1 203.0.113.1 100000/0"]);
}

/// Goal: entries without ports count like any other: ICMP, ESP, IPIP, and GRE, which has them. The original says
/// nothing of the first three.
#[test]
fn fault_7_entries_without_ports_count() {
    let mut node = Node::with(&["10.0.0.1"]);
    let remotes = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"];
    let rows = ["icmp", "50", "4", "47"].iter().zip(remotes).map(|(protocol, remote)| {
        let ports = if *protocol == "47" { (":1", ":2") } else { ("", "") };
        row(&format!("{protocol} 10.0.0.1{}>{remote}{} start=15 tx=84/1 rx=84/1", ports.0, ports.1))
    });
    node.read(20, &rows.collect::<Vec<_>>());
    assert_eq!(node.cut(), remotes.map(|remote| format!("10.0.0.1 {remote} 84/84")));
}

/// Goal: IPv6 counts like IPv4, towards pods, nodes and the internet. The original says nothing of it.
#[test]
fn fault_8_ipv6_counts() {
    let mut node = Node::with(&["fd00::1", "fd00::2"]);
    node.read(
        20,
        &[
            row("tcp [fd00::1]:1>[fd00::2]:80 start=15 tx=100/2 rx=50/1"),
            row("udp [fd00::1]:1>[2001:db8::1]:53 start=15 tx=7/1 rx=9/1"),
        ],
    );
    assert_eq!(node.cut(), ["fd00::1 2001:db8::1 7/9", "fd00::1 fd00::2 100/50", "fd00::2 fd00::1 50/100"]);
}
