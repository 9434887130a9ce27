//! Which maps are read, and every row of them once.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use egressd_testbed::cilium::{CtMap, Shape, mount_bpf};
use nix::unistd::{Uid, setfsuid};

use super::*;

const ONE: [u64; 4] = [1, 60, 2, 150];

/// Goal: global, per-endpoint and per-cluster maps of both families are found by name and sizes, as LRU tables or plain
/// ones, each once however often it is pinned; what has another name or other sizes is not read, and the latter told.
#[test]
fn maps_are_found_by_name_and_by_size() {
    let directory = mount_bpf().unwrap();
    let pod = |at: u8| format!("10.0.0.{at}");
    let put = |map: &CtMap, at: u8| map.put(&key((&pod(at), 1), ("10.1.0.1", 2), OUT), &value(ONE)).unwrap();
    let hash = Shape { lru: false, ..Shape::V4 };
    let names = ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_ct4_01234", "cilium_ct_any4_01234"];
    let mut pinned: Vec<CtMap> = names
        .iter()
        .zip([Shape::V4, hash, hash, Shape::V4])
        .map(|(name, shape)| CtMap::pin(&directory, name, shape).unwrap())
        .collect();
    let (alone, again) = (
        CtMap::unpinned(Shape::V4).unwrap(),
        CtMap::pin(&directory, "cilium_per_cluster_ct_tcp4_2", Shape::V4).unwrap(),
    );
    pinned.push(CtMap::pin_array(&directory, "cilium_per_cluster_ct_tcp4", &[&alone, &again]).unwrap());
    for (at, map) in (1..).zip(pinned[..4].iter().chain([&alone, &again])) {
        put(map, at);
    }
    let v6 = CtMap::pin(&directory, "cilium_ct6_global", Shape::V6).unwrap();
    v6.put(&key(("fd00::1", 1), ("fd00::2", 2), IN), &value(ONE)).unwrap();
    let elsewhere = CtMap::pin(&directory, "cilium_snat_v4_external", Shape::V4).unwrap();
    put(&elsewhere, 99);
    for (name, shape) in [
        ("cilium_ct4_new", Shape { value_bytes: 64, ..Shape::V4 }),
        ("cilium_ct6_new", Shape { key_bytes: 40, ..Shape::V6 }),
    ] {
        pinned.push(CtMap::pin(&directory, name, shape).unwrap());
    }

    let mut maps = maps(&directory, DIRECTIONAL);
    let mut expected: Vec<String> =
        (1..=6).map(|at| format!("tcp {}:1>10.1.0.1:2 view=source tx=150/2 rx=60/1", pod(at))).collect();
    expected.push("tcp [fd00::1]:1>[fd00::2]:2 view=destination tx=150/2 rx=60/1".to_owned());
    expected.sort();
    assert_eq!(rows(&mut maps), expected);
    assert_eq!(maps.foreign(), 2);
}

/// Goal: maps that appear are read, one whose pin is replaced is read on beside its successor, and one that is gone for a
/// minute is let go.
#[test]
fn maps_come_and_go_while_running() {
    let directory = mount_bpf().unwrap();
    let mut maps = maps(&directory, DIRECTIONAL);
    assert!(matches!(read(&mut maps), Err(error @ ReadError::NoMaps { .. }) if error.is_transient()));

    let old = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    assert_eq!(rows(&mut maps), [""; 0], "an empty map is a complete read of nothing");
    old.put(&key(("10.0.0.1", 1), ("10.1.0.1", 2), OUT), &value(ONE)).unwrap();
    fs::remove_file(directory.join("cilium_ct4_global")).unwrap();
    assert_eq!(rows(&mut maps).len(), 1, "programs may still count in it");
    let new = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    new.put(&key(("10.0.0.1", 1), ("10.1.0.1", 2), OUT), &value(ONE)).unwrap();
    assert_eq!(rows(&mut maps).len(), 2);
    let mut reads = 2;
    while rows(&mut maps).len() == 2 {
        reads += 1;
        assert!(reads < 20, "a map that is gone is let go");
    }
    assert_eq!(reads, 12);
}

/// Goal: a map that must not be opened is told, and what the others hold is complete; once its pin is gone, nothing is told.
#[test]
fn a_map_that_must_not_be_opened_leaves_the_others_complete() {
    let directory = mount_bpf().unwrap();
    let [open, shut] = ["cilium_ct4_global", "cilium_ct_any4_global"].map(|name| {
        let map = CtMap::pin(&directory, name, Shape::V4).unwrap();
        map.put(&key(("10.0.0.1", 1), ("10.1.0.1", 2), OUT), &value(ONE)).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        (map, directory.join(name))
    });
    fs::set_permissions(&shut.1, fs::Permissions::from_mode(0o600)).unwrap();
    // What this thread opens, it opens as somebody who is not root.
    setfsuid(Uid::from_raw(1));
    let mut maps = maps(&directory, DIRECTIONAL);
    for _ in 0..3 {
        assert_eq!(rows(&mut maps).len(), 1);
        let (count, error) = maps.unopened().unwrap();
        assert_eq!((count, maps.interruption()), (1, None));
        assert!(error.contains("cilium_ct_any4_global") && error.contains("CAP_BPF"), "{error}");
    }
    setfsuid(Uid::from_raw(0));
    fs::set_permissions(&shut.1, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(rows(&mut maps).len(), 1, "what it counted for hours is not new");
    assert!(maps.unopened().is_some());
    fs::remove_file(&shut.1).unwrap();
    assert_eq!((rows(&mut maps).len(), maps.unopened()), (1, None));
    fs::remove_file(&open.1).unwrap();

    setfsuid(Uid::from_raw(1));
    let mut maps = self::maps(&directory, DIRECTIONAL);
    assert!(matches!(read(&mut maps), Err(ReadError::NoMaps { .. })));
    setfsuid(Uid::from_raw(0));
    let _shut = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    setfsuid(Uid::from_raw(1));
    let refused = read(&mut maps).unwrap_err();
    assert!(matches!(refused, ReadError::Map { .. }) && !refused.is_transient(), "{refused}");
}

/// Goal: a map that cannot be opened this time makes the read partial, and the next one that can is complete.
#[test]
fn a_map_that_fails_once_makes_that_read_partial() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    map.put(&key(("10.0.0.1", 1), ("10.1.0.1", 2), OUT), &value(ONE)).unwrap();
    let broken = directory.join("cilium_ct_any4_global");
    std::os::unix::fs::symlink(&broken, &broken).unwrap();
    let mut maps = maps(&directory, DIRECTIONAL);
    let (read_rows, snapshot) = read(&mut maps).unwrap();
    assert_eq!((read_rows.len(), snapshot.completeness), (1, Completeness::Partial));
    assert!(maps.interruption().unwrap().contains("cilium_ct_any4_global"));
    assert_eq!(maps.unopened(), None);
    fs::remove_file(&broken).unwrap();
    assert_eq!(rows(&mut maps).len(), 1);
    assert_eq!(maps.interruption(), None);
}

/// Goal: services and their like are passed over and counted; a directory that is not there, and a pin that is no map of
/// ours, are told.
#[test]
fn what_is_not_read_is_counted_or_told() {
    let directory = mount_bpf().unwrap();
    let map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    map.put(&key(("10.0.0.1", 1), ("10.96.0.1", 80), SERVICE), &value([0, 7, 0, 0])).unwrap();
    map.put(&key(("10.0.0.1", 1), ("10.96.0.1", 80), 0xf0), &value(ONE)).unwrap();
    let (read_rows, snapshot) = read(&mut maps(&directory, DIRECTIONAL)).unwrap();
    assert!(read_rows.is_empty());
    assert_eq!((snapshot.defects.passed_over, snapshot.defects.malformed), (1, 1));

    let error = read(&mut maps(Path::new("/no/such/place"), DIRECTIONAL)).unwrap_err();
    assert!(error.to_string().contains("/no/such/place") && error.is_transient(), "{error}");
}

/// Goal: a hundred thousand entries are read each once while others are removed and made all the time; those that stay
/// are all there.
#[test]
fn entries_that_stay_are_read_once_whatever_goes_meanwhile() {
    const STAY: u32 = 100_000;
    const GO: u32 = 20_000;
    let directory = mount_bpf().unwrap();
    let shape = Shape { entries_max: 262_144, ..Shape::V4 };
    let map = CtMap::pin(&directory, "cilium_ct4_global", shape).unwrap();
    let numbered = |number: u32, port: u16| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        key((&address, port), ("10.255.0.1", 2), OUT)
    };
    for number in 0..STAY {
        map.put(&numbered(number, 1), &value(ONE)).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..GO {
                    map.put(&numbered(number, 2), &value(ONE)).unwrap();
                }
                for number in 0..GO {
                    map.remove(&numbered(number, 2));
                }
            }
        });
        let mut maps = maps(&directory, DIRECTIONAL);
        for _ in 0..5 {
            let (mut stayed, mut went) = (HashSet::new(), HashSet::new());
            let snapshot = maps.read(UnixNanos(1), &mut |entry| {
                let (src, ports) = (entry.id.original.src, entry.id.original.ports().unwrap());
                let seen = if ports.0 == 1 { &mut stayed } else { &mut went };
                assert!(seen.insert(src), "{entry} was read twice");
            });
            assert_eq!(snapshot.unwrap().completeness, Completeness::Complete);
            assert_eq!(stayed.len(), STAY as usize);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
