//! Rows as the datapath writes them, byte by byte, and what they say.

use super::super::layout::{Accounting, Choice, Reading, Release, Tells};
use super::*;

const NODE_PORT: u16 = 1 << 5;
const SEEN_NON_SYN: u16 = 1 << 4;

/// `daddr saddr dport sport protocol flags`, as they stand in a key.
fn key(daddr: &str, saddr: &str, dport: u16, sport: u16, protocol: u8, flags: u8) -> Vec<u8> {
    let mut key = Vec::new();
    for address in [daddr, saddr] {
        match address.parse().unwrap() {
            IpAddr::V4(address) => key.extend(address.octets()),
            IpAddr::V6(address) => key.extend(address.octets()),
        }
    }
    key.extend(dport.to_be_bytes());
    key.extend(sport.to_be_bytes());
    key.extend([protocol, flags]);
    key
}

/// Counters at 0, 8, 16 and 24.
fn value(counters: [u64; 4], flags: u16) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    for (at, counter) in counters.iter().enumerate() {
        value[at * 8..][..8].copy_from_slice(&counter.to_ne_bytes());
    }
    value[36..38].copy_from_slice(&flags.to_ne_bytes());
    value
}

fn with_address(mut value: Vec<u8>, at: usize, address: &[u8], port: u16) -> Vec<u8> {
    value[at..at + address.len()].copy_from_slice(address);
    value[40..42].copy_from_slice(&port.to_be_bytes());
    value
}

fn by(minor: u32) -> Reading {
    let release = Some(Release { major: 1, minor });
    Reading::choose(Choice::Auto, &Tells { release, ..Tells::default() }, release)
}

fn by_nobody() -> Reading {
    Reading::choose(Choice::Auto, &Tells::default(), None)
}

fn by_operator() -> Reading {
    Reading::choose(Choice::Is(Layout::Directional), &Tells::default(), None)
}

/// As text; why it is skipped, where it is.
fn read(key: &[u8], value: &[u8], reading: Reading) -> String {
    match Row::new(key, value) {
        Ok(row) => {
            let mut entry = BLANK;
            row.decode(9, reading, &mut entry);
            entry.to_string()
        }
        Err(skipped) => format!("{skipped:?}"),
    }
}

/// Goal: addresses are turned and ports are not, for both families, and map and flags make the identity.
#[test]
fn a_key_is_turned_once() {
    let value = value([6, 7644, 4, 406], SEEN_NON_SYN);
    let out = key("10.0.1.11", "10.0.1.12", 5432, 40002, 6, 0);
    let inward = key("10.0.1.11", "10.0.1.12", 5432, 40002, 6, 1);
    let v6 = key("fd00::b", "2606::46", 53, 40007, 17, 0);
    for (key, told) in [
        (&out, "tcp 10.0.1.11:40002>10.0.1.12:5432 view=source id=2304 tx=406/4 rx=7644/6"),
        (&inward, "tcp 10.0.1.11:40002>10.0.1.12:5432 view=destination id=2305 tx=406/4 rx=7644/6"),
        (&v6, "udp [fd00::b]:40007>[2606::46]:53 view=source id=2304 tx=406/4 rx=7644/6"),
    ] {
        assert_eq!(read(key, &value, by(15)), told);
    }
}

/// Goal: ICMP's identifier is kept wherever it stands, other protocols have ports where there are any, and no two keys
/// make one tuple.
#[test]
fn a_key_without_ports_keeps_what_it_has() {
    let l4 = |protocol, dport, sport| {
        let key = key("10.0.1.11", "10.0.1.12", dport, sport, protocol, 0);
        let value = value([1, 98, 1, 98], 0);
        let mut entry = BLANK;
        Row::new(&key, &value).unwrap().decode(9, by(15), &mut entry);
        entry.id.original.l4
    };
    for (protocol, dport, sport, expected) in [
        (1, 0, 0x1234, L4::Icmp { id: 0x1234, kind: 8, code: 0 }),
        (1, 0x1234, 0, L4::Icmp { id: 0x1234, kind: 0, code: 0 }),
        (58, 0, 7, L4::Icmp { id: 7, kind: 128, code: 0 }),
        (58, 7, 0, L4::Icmp { id: 7, kind: 129, code: 0 }),
        (1, 0, 0, L4::Icmp { id: 0, kind: 8, code: 0 }),
        (1, 1, 2, L4::Ports { src: 2, dst: 1 }),
        (132, 80, 4000, L4::Ports { src: 4000, dst: 80 }),
        (50, 0, 0, L4::None),
        (6, 0, 0, L4::Ports { src: 0, dst: 0 }),
    ] {
        assert_eq!(l4(protocol, dport, sport), expected, "{protocol} {dport} {sport}");
    }
}

/// Goal: services, ICMP errors and the openers' rows of node ports, DSR and loopback are passed over; rows inward with
/// the same marks are not; flags and sizes that no release has are malformed.
#[test]
fn what_is_no_connection_is_passed_over() {
    let counted = |flags| value([1, 74, 1, 74], flags);
    let (no_connection, malformed) = ("NoConnection", "Malformed");
    for (flags, mark, told) in [
        (4, 0, no_connection),
        (2, 0, no_connection),
        (3, 0, no_connection),
        (5, 0, no_connection),
        (0, NODE_PORT, no_connection),
        (0, 1 << 7, no_connection),
        (0, 1 << 3, no_connection),
        (0, 1 << 6, "tcp 10.0.0.1:2>10.0.0.2:1 view=source id=2304 tx=74/1 rx=74/1"),
        (1, NODE_PORT, "tcp 10.0.0.1:2>10.0.0.2:1 view=destination id=2305 tx=74/1 rx=74/1"),
        (8, 0, malformed),
        (0xff, 0, malformed),
    ] {
        assert_eq!(read(&key("10.0.0.1", "10.0.0.2", 1, 2, 6, flags), &counted(mark), by(15)), told);
    }
    let key = key("10.0.0.1", "10.0.0.2", 1, 2, 6, 0);
    for (key, value) in [(&key[..13], &counted(0)[..]), (&[], &counted(0)), (&key, &counted(0)[..55])] {
        assert_eq!(read(key, value, by(15)), malformed);
    }
}

/// Goal: what counters say hangs on who writes them and who wrote them before; a direction is told only where somebody
/// knows it.
#[test]
fn counters_are_read_by_who_writes() {
    let key = key("10.0.0.1", "10.0.0.2", 1, 2, 6, 0);
    let old = value([3, 3102, 14, 15929], SEEN_NON_SYN);
    let new = value([0, 0, 17, 19031], SEEN_NON_SYN);
    // Up to 1.15 offset 8 of an entry without packets there may hold anything.
    let stale = value([0, 7, 17, 19031], SEEN_NON_SYN);
    for (reading, value, told) in [
        (by(11), &old, "tx=15929/14 rx=3102/3"),
        (by(15), &new, "total=19031/17"),
        (by(15), &stale, "total=19031/17"),
        (by_operator(), &new, "tx=19031/17 rx=0/0"),
        (by_operator(), &stale, "tx=19031/17 rx=0/0"),
        (by(16), &old, "total=15929/14 beside=3102/3"),
        (by(18), &new, "total=19031/17"),
        (by(18), &stale, "total=19031/17"),
        (by(20), &old, "total=15929/14 beside=3102/3"),
        (by_nobody(), &old, "total=15929/14 beside=3102/3"),
        (by_nobody(), &new, "total=19031/17"),
    ] {
        let told = format!("tcp 10.0.0.1:2>10.0.0.2:1 view=source id=2304 {told}");
        assert_eq!(read(&key, value, reading), told, "{reading:?}");
    }
}

/// Goal: under an agent that tells directions, a row that none of its kind can have written is a total; one that it may
/// have written is not.
#[test]
fn a_row_that_no_directional_writer_made_is_a_total() {
    let of = |protocol, flags| key("10.0.0.1", "10.0.0.2", 1, 2, protocol, flags);
    let (one_way, both_ways) = ([0, 0, 17, 19031], [1, 60, 17, 19031]);
    for (protocol, flags, mark, counters, told) in [
        (6, 0, 0, one_way, "tx=19031/17 rx=0/0"),
        (6, 0, SEEN_NON_SYN, one_way, "total=19031/17"),
        (6, 1, 0, one_way, "total=19031/17"),
        (17, 1, 0, one_way, "total=19031/17"),
        (17, 0, 0, one_way, "tx=19031/17 rx=0/0"),
        (6, 1, SEEN_NON_SYN, both_ways, "tx=19031/17 rx=60/1"),
    ] {
        let read = read(&of(protocol, flags), &value(counters, mark), by(15));
        assert!(read.ends_with(told), "{read} is not {told}");
    }
}

/// Goal: an address that 1.19 and later put before the counters is never counted, of IPv6 where the release is known or no
/// counter can be that, of IPv4 where a port stands beside it; rows inward have none.
#[test]
fn an_address_in_place_of_counters_is_not_counted() {
    let v6 = |flags| key("fd00::1", "fd00::2", 1, 2, 6, flags);
    let v4 = |flags| key("10.0.0.1", "10.0.0.2", 1, 2, 6, flags);
    let total = || value([0, 0, 17, 19031], SEEN_NON_SYN);
    let node: std::net::Ipv6Addr = "fd00:10:0:1::b".parse().unwrap();
    let addressed = with_address(total(), 0, &node.octets(), 30080);
    let unmarked = with_address(total(), 0, &node.octets(), 0);
    let addressed_v4 = with_address(total(), 12, &[192, 0, 2, 1], 30080);
    let old = value([3, 3102, 14, 15929], SEEN_NON_SYN);
    let old_marked = with_address(old.clone(), 0, &[], 9);
    for (key, value, reading, told) in [
        (v6(0), &addressed, by(19), "total=19031/17 beside=?"),
        (v6(0), &unmarked, by(20), "total=19031/17 beside=?"),
        (v6(0), &unmarked, by_nobody(), "total=19031/17 beside=?"),
        (v6(0), &unmarked, by(18), "total=19031/17 beside=?"),
        (v6(0), &unmarked, by(15), "total=19031/17 beside=?"),
        (v6(0), &unmarked, by_operator(), "total=19031/17 beside=?"),
        (v6(0), &old, by(15), "tx=15929/14 rx=3102/3"),
        (v6(0), &old, by(19), "total=15929/14 beside=?"),
        (v6(0), &old, by(18), "total=15929/14 beside=3102/3"),
        (v6(0), &old, by_nobody(), "total=15929/14 beside=3102/3"),
        (v6(1), &old, by(19), "total=15929/14 beside=3102/3"),
        (v4(0), &addressed_v4, by(19), "total=19031/17"),
        (v4(0), &addressed_v4, by_nobody(), "total=19031/17"),
        (v4(0), &old, by(19), "total=15929/14 beside=3102/3"),
        (v4(0), &old_marked, by(19), "total=15929/14 beside=?"),
        (v4(1), &old_marked, by(19), "total=15929/14 beside=3102/3"),
    ] {
        let read = read(&key, value, reading);
        assert!(read.ends_with(told), "{read} is not {told}: {reading:?}");
    }
}

/// Goal: an entry that nothing was counted of says nothing, and neither does the one packet that 1.15 keeps of an entry
/// made while accounting is off; what was counted before stays.
#[test]
fn what_was_not_counted_is_not_zero() {
    let key = key("10.0.0.1", "10.0.0.2", 1, 2, 6, 0);
    let off = |minor| {
        let release = Some(Release { major: 1, minor });
        let tells = Tells { release, accounting: Some(Accounting::Off), ..Tells::default() };
        Reading::choose(Choice::Auto, &tells, release)
    };
    let (nothing, one, more) = ([0; 4], [0, 0, 1, 74], [1, 74, 1, 74]);
    for (reading, counters, is_told) in [
        (by(15), nothing, false),
        (by(18), nothing, false),
        (by_nobody(), nothing, false),
        (by(15), one, true),
        (by(18), one, true),
        (off(15), one, false),
        (off(15), more, true),
        (off(18), nothing, false),
        (off(18), one, true),
    ] {
        let told = read(&key, &value(counters, SEEN_NON_SYN), reading).contains('=');
        let told = told && read(&key, &value(counters, SEEN_NON_SYN), reading).contains("/1");
        assert_eq!(told, is_told, "{reading:?} {counters:?}");
    }
}
