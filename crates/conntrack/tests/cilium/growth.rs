//! What a meter counts of maps that are read again and again: each byte once, whoever writes it.

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Epoch, Owner, Scope};
use egressd_meter::{Meter, MeterConfig};
use egressd_testbed::cilium::{self, CtMap, Shape, mount_bpf};

use super::*;

const CONFIG: MeterConfig = MeterConfig {
    absent_snapshots_max: 1,
    entries_max: 1000,
    flows_max: 1000,
    unclaimed_max: 1000,
    tombstones_max: 1000,
    retired_max: 0,
    batch_records_max: 1000,
    batch_owners_max: 1000,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};

/// A node with the pods `a` (10.0.0.1, fd00::1) and `b` (10.0.0.2).
struct Watch {
    maps: Maps,
    meter: Meter,
    now: UnixNanos,
}

impl Watch {
    fn new(maps: Maps) -> Self {
        let mut meter = Meter::new(CONFIG, Epoch(1), [7; 16], UnixNanos(0));
        let owner = |address: &str, name: &str| {
            Arc::new(Owner {
                address: address.parse().unwrap(),
                pod_uid: name.into(),
                namespace: "shop".into(),
                name: name.into(),
                labels: [].into(),
                since: UnixNanos(0),
                until: None,
                measure: true,
            })
        };
        let owners = vec![owner("10.0.0.1", "a"), owner("fd00::1", "a"), owner("10.0.0.2", "b")];
        meter.scope(&Scope { as_of: UnixNanos(1), whole: true, owners, node_addresses: Vec::new() });
        Self { maps, meter, now: UnixNanos(1) }
    }

    /// What each pod's flows grew by since the last look, sorted: sent, received, neither said.
    fn look(&mut self) -> Vec<String> {
        self.now = UnixNanos(self.now.0 + 5_000_000_000);
        let Self { maps, meter, now } = self;
        meter.begin(*now);
        let snapshot = maps.read(*now, &mut |entry| meter.entry(entry)).unwrap();
        meter.finish(&snapshot);
        let mut lines = Vec::new();
        for batch in meter.cut(*now) {
            for record in &batch.records {
                let owner = &batch.owners[record.owner as usize];
                let traffic = record.traffic;
                let (tx, rx, total) = (traffic.tx.bytes, traffic.rx.bytes, traffic.undirected.bytes);
                lines.push(format!("{} {} {tx}/{rx}/{total}", owner.name, record.remote.unwrap()));
            }
        }
        lines.sort();
        lines
    }
}

/// Goal: a pair of pods of one node is two rows, each its own pod's; both are right in scan after scan.
#[test]
fn a_pair_of_one_node_is_right_at_both_ends() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let (a, b) = (("10.0.0.1", 4000), ("10.0.0.2", 80));
    let counted = |sent: u64, answered: u64| {
        map.put(&key(a, b, OUT), &value([answered, answered * 100, sent, sent * 60])).unwrap();
        map.put(&key(a, b, IN), &value([sent, sent * 60, answered, answered * 100])).unwrap();
    };
    counted(5, 3);
    let mut watch = Watch::new(maps(&directory, DIRECTIONAL));
    assert_eq!(watch.look(), [""; 0], "it is older than the watch");
    for (sent, answered, told) in [
        (7, 4, ["a 10.0.0.2 120/100/0", "b 10.0.0.1 100/120/0"]),
        (17, 6, ["a 10.0.0.2 600/200/0", "b 10.0.0.1 200/600/0"]),
        (18, 16, ["a 10.0.0.2 60/1000/0", "b 10.0.0.1 1000/60/0"]),
    ] {
        counted(sent, answered);
        assert_eq!(watch.look(), told);
    }
}

/// Goal: what begins after the watch counts whole, what is made anew counts from zero, what the agent collects is gone,
/// and accounting that is switched on counts from there.
#[test]
fn entries_begin_end_and_begin_again() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let key = key(("10.0.0.1", 4000), ("10.1.0.1", 80), OUT);
    let put = |counters| map.put(&key, &value(counters)).unwrap();
    let mut watch = Watch::new(maps(&directory, DIRECTIONAL));
    assert_eq!(watch.look(), [""; 0]);
    put([1, 74, 2, 140]);
    assert_eq!(watch.look(), ["a 10.1.0.1 140/74/0"]);
    put([0, 0, 1, 60]);
    assert_eq!(watch.look(), ["a 10.1.0.1 60/0/0"], "lower counters are a new entry");
    map.remove(&key);
    assert_eq!(watch.look(), [""; 0]);
    put([1, 74, 9, 900]);
    assert_eq!(watch.look(), ["a 10.1.0.1 900/74/0"], "the one before had been collected");
    map.remove(&key);
    watch.look();
    put([0; 4]);
    assert_eq!(watch.look(), [""; 0]);
    put([1, 74, 1, 60]);
    assert_eq!(watch.look(), ["a 10.1.0.1 60/74/0"]);
}

/// Goal: without anybody to ask, counters that grow at offset 0 say that directions are told, from the second look on; up to
/// then, and when they stop to, what grows is a total.
#[test]
fn growth_tells_the_layout() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let key = key(("10.0.0.1", 4000), ("10.1.0.1", 80), OUT);
    let mut watch = Watch::new(maps(&directory, Choice::Auto));
    let mut look = |counters| {
        map.put(&key, &value(counters)).unwrap();
        let told = watch.look();
        (told, watch.maps.layout())
    };
    let one = |told: &str| vec![format!("a 10.1.0.1 {told}")];
    assert_eq!(look([10, 1000, 20, 2000]), (vec![], Layout::Unknown));
    assert_eq!(look([11, 1100, 22, 2200]), (one("200/100/0"), Layout::Directional));
    // One that counts both in one goes on.
    assert_eq!(look([11, 1100, 25, 2500]), (one("0/0/300"), Layout::Unknown));
    assert_eq!(look([12, 1101, 26, 2501]), (one("1/1/0"), Layout::Directional));
}

/// Goal: while nobody can be asked and an upgrade moves one endpoint after another, directions are told of the endpoint whose
/// counters grow at offset 0, and of no other.
#[test]
fn growth_at_one_endpoint_says_nothing_of_another() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let (a, b) =
        (key(("10.0.0.1", 4000), ("10.1.0.1", 80), OUT), key(("10.2.0.1", 4000), ("10.0.0.2", 80), IN));
    let mut watch = Watch::new(maps(&directory, Choice::Auto));
    let mut look = |of_a, of_b| {
        map.put(&a, &value(of_a)).unwrap();
        map.put(&b, &value(of_b)).unwrap();
        watch.look()
    };
    assert_eq!(look([10, 1000, 20, 2000], [10, 1000, 20, 2000]), [""; 0]);
    assert_eq!(
        look([11, 1100, 22, 2200], [11, 1100, 22, 2200]),
        ["a 10.1.0.1 200/100/0", "b 10.2.0.1 200/100/0"]
    );
    // The programs of b are of 1.16 by now.
    assert_eq!(
        look([12, 1200, 23, 2300], [11, 1100, 25, 2500]),
        ["a 10.1.0.1 100/100/0", "b 10.2.0.1 0/0/300"]
    );
    assert_eq!(
        look([12, 1200, 24, 2400], [11, 1100, 26, 2600]),
        ["a 10.1.0.1 0/0/100", "b 10.2.0.1 0/0/100"]
    );
}

/// Goal: after a roll-back the sums that are there, and those that programs of the later release go on adding to until
/// each endpoint has its own anew, become no transmit: whether the later release was heard of, or only left its rows.
#[test]
fn a_roll_back_books_no_sum_as_sent() {
    let directory = mount_bpf().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let socket = outside.path().join("cilium.sock");
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let (old, new) =
        (key(("10.0.0.1", 4000), ("10.1.0.1", 80), OUT), key(("10.2.0.1", 4000), ("10.0.0.2", 80), IN));
    let asking = || {
        let places = Places { socket: socket.clone(), state_dir: PathBuf::new() };
        Watch::new(Maps::new(directory.clone(), Choice::Auto, Agent::new(places)))
    };
    let put = |key: &[u8], counters| map.put(key, &value(counters)).unwrap();
    let agent = cilium::Agent::start(&socket, "1.18.3", true).unwrap();
    let mut watch = asking();
    put(&old, [0, 0, 20, 2000]);
    assert_eq!(watch.look(), [""; 0]);
    drop(agent);

    let _agent = cilium::Agent::start(&socket, "1.15.7", true).unwrap();
    put(&old, [0, 0, 25, 2500]);
    assert_eq!(watch.look(), ["a 10.1.0.1 0/0/500"]);
    assert!(watch.maps.is_rolled_back());
    let told = watch.maps.description().unwrap();
    assert!(
        told.contains("layout unknown since its agent is 1.15, and a release that counts both"),
        "{told}"
    );
    put(&old, [1, 70, 26, 2560]);
    put(&new, [0, 0, 9, 900]);
    assert_eq!(watch.look(), ["a 10.1.0.1 0/0/130", "b 10.2.0.1 0/0/900"]);

    let mut fresh = asking();
    assert_eq!(fresh.look(), [""; 0]);
    put(&old, [2, 140, 27, 2620]);
    put(&new, [0, 0, 10, 1000]);
    assert_eq!(fresh.look(), ["a 10.1.0.1 60/70/0", "b 10.2.0.1 0/0/100"]);
    assert!(!fresh.maps.is_rolled_back());
}

/// Goal: over an upgrade of the agent each byte counts once: with directions as long as the old one is there, as a total
/// while nobody answers and from the new one on; the entries that it leaves behind, IPv6 ones where 1.19 may put an
/// address too, never count again.
#[test]
fn an_upgrade_counts_nothing_twice() {
    let directory = mount_bpf().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let socket = outside.path().join("cilium.sock");
    let v4 = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let v6 = CtMap::pin(&directory, "cilium_ct6_global", Shape::V6).unwrap();
    let (v4_key, v6_key) =
        (key(("10.0.0.1", 4000), ("10.1.0.1", 80), OUT), key(("fd00::1", 4000), ("2001:db8::1", 80), OUT));
    let places = Places { socket: socket.clone(), state_dir: PathBuf::new() };
    let mut watch = Watch::new(Maps::new(directory.clone(), Choice::Auto, Agent::new(places)));
    let mut look = |counters| {
        v4.put(&v4_key, &value(counters)).unwrap();
        v6.put(&v6_key, &value(counters)).unwrap();
        watch.look()
    };
    let both = |told: &str| [format!("a 10.1.0.1 {told}"), format!("a 2001:db8::1 {told}")];
    let agent = cilium::Agent::start(&socket, "1.15.7", true).unwrap();
    assert_eq!(look([1, 100, 2, 200]), [""; 0]);
    assert_eq!(look([2, 150, 3, 270]), both("70/50/0"));
    drop(agent);
    assert_eq!(look([3, 160, 4, 275]), both("0/0/15"));
    for version in ["1.18.3", "1.19.1", "1.18.4"] {
        let agent = cilium::Agent::start(&socket, version, true).unwrap();
        let before = u64::from(version == "1.19.1") * 10 + u64::from(version == "1.18.4") * 20;
        assert_eq!(
            look([3, 160, 5 + before, 300 + before]),
            both(if before == 0 { "0/0/25" } else { "0/0/9" })
        );
        assert_eq!(look([3, 160, 6 + before, 301 + before]), both("0/0/1"));
        drop(agent);
        assert_eq!(look([3, 160, 6 + before, 301 + before]), [""; 0]);
    }
}
