//! Rows of Cilium's conntrack maps: every byte of key and value is chosen, and so is who is said to write them.
//!
//! - Nothing panics, and what is no connection by its flags or sizes is never an entry.
//! - An entry has the opener and its peer where the key has them, turned once, and no two keys make one identity.
//! - Counters are those that the layout says, read here again by offsets of this file's own: a direction only where the
//!   writer told one, an address never as bytes, and nothing for nothing.

use std::net::IpAddr;

use egressd_conntrack::cilium::codec::Row;
use egressd_conntrack::cilium::{Accounting, Choice, Layout, Reading, Release, Tells};
use egressd_flow::{Counter, Counters, Entry, View};

/// An entry to write over.
const ANY: &str = "tcp 10.0.0.1:1>10.0.0.2:2";
const MAP: u32 = 7;

/// Who is said to write.
struct Said {
    choice: Choice,
    minor: Option<u32>,
    off: bool,
}

/// Takes the first bytes for who writes, and the rest for a key and a value.
pub(crate) fn check(input: &[u8]) {
    let Some((&[who, minor], row)) = input.split_first_chunk::<2>() else { return };
    let said = Said {
        choice: match who & 3 {
            0 => Choice::Is(Layout::Directional),
            1 => Choice::Is(Layout::Combined),
            _ => Choice::Auto,
        },
        minor: (who & 4 == 0).then_some(u32::from(minor % 32)),
        off: who & 8 != 0,
    };
    let key_bytes = if who & 16 == 0 { 14 } else { 38 };
    let key_bytes = if who & 32 == 0 { key_bytes } else { usize::from(minor) };
    let (key, value) = row.split_at(key_bytes.min(row.len()));
    check_row(&said, key, &value[..value.len().min(56)]);
}

fn check_row(said: &Said, key: &[u8], value: &[u8]) {
    let row = match (Row::new(key, value), due(key, value)) {
        (Ok(row), true) => row,
        (Err(_), false) => return,
        (row, due) => panic!("{row:?} where {due} is due"),
    };
    let release = said.minor.map(|minor| Release { major: 1, minor });
    let accounting = said.off.then_some(Accounting::Off);
    let tells = Tells { release, accounting, ..Tells::default() };
    let reading = Reading::choose(said.choice, &tells, release);
    let mut entry: Entry = ANY.parse().expect("it is an entry");
    row.decode(MAP, reading, &mut entry);
    check_ends(key, &entry);
    check_counters(said, reading.layout, key, value, &entry);
    // It also reads as text, as a dump prints it.
    assert!(!entry.to_string().is_empty());
}

/// Whether there is to be an entry.
fn due(key: &[u8], value: &[u8]) -> bool {
    let Some(&flags) = key.last() else { return false };
    let marks = value.get(36).copied().unwrap_or_default();
    let translated = marks & 0b1010_1000 != 0;
    matches!(key.len(), 14 | 38) && value.len() == 56 && (flags == 1 || flags == 0 && !translated)
}

fn check_ends(key: &[u8], entry: &Entry) {
    let address = |at: usize| match key.len() {
        14 => IpAddr::from(<[u8; 4]>::try_from(&key[at * 4..][..4]).expect("four bytes")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&key[at * 16..][..16]).expect("sixteen bytes")),
    };
    let original = entry.id.original;
    assert_eq!((original.src, original.dst), (address(0), address(1)));
    assert_eq!(entry.reply, original.inverted());
    let (protocol, flags) = (key[key.len() - 2], key[key.len() - 1]);
    assert_eq!(original.protocol.0, protocol);
    assert_eq!(entry.view, if flags == 0 { View::Source } else { View::Destination });
    assert_eq!(entry.id.kernel_id, Some(u64::from(MAP) * 256 + u64::from(flags)));
    let ports = &key[key.len() - 6..key.len() - 2];
    if let Some((src, dst)) = original.ports() {
        assert_eq!([dst.to_be_bytes(), src.to_be_bytes()].concat(), ports);
    } else {
        assert!(protocol != 6 && protocol != 17 && (ports[..2] == [0, 0] || ports[2..] == [0, 0]));
    }
}

fn check_counters(said: &Said, layout: Layout, key: &[u8], value: &[u8], entry: &Entry) {
    let number = |at: usize| u64::from_ne_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    let counter = |at: usize| Counter { packets: number(at), bytes: number(at + 8) };
    let second = counter(16);
    let (addressable, inward) =
        (key[key.len() - 1] == 0 && (key.len() == 38 || value[40..42] != [0, 0]), key[key.len() - 1] == 1);
    let first = match counter(0) {
        Counter { packets: 0, .. } => Some(Counter::default()),
        first if addressable && (first.packets >> 40 != 0 || first.bytes >> 50 != 0) => None,
        _ if addressable && said.minor >= Some(19) => None,
        first => Some(first),
    };
    // TCP that is past its first packet, or a row inward, without a packet received: nobody who told directions made it.
    let gone_on = key[key.len() - 2] == 6 && value[36] & 0b1_0011 != 0;
    let summed = first == Some(Counter::default()) && (inward || gone_on) && said.choice == Choice::Auto;
    match entry.counters {
        Some(Counters::Directed { tx, rx }) => {
            assert_eq!((layout, tx, Some(rx)), (Layout::Directional, second, first));
            assert!(!summed);
        }
        Some(Counters::Total { main, beside }) => {
            assert!(layout != Layout::Directional || first.is_none() || summed);
            assert_eq!((main, beside), (second, first));
        }
        None => {
            let told_apart = first.is_some_and(|first| first.packets > 0) && layout == Layout::Directional;
            let counted = told_apart || second.packets > 0;
            assert!(!counted || said.off && layout != Layout::Combined, "{first:?} {second:?} say something");
        }
    }
}

/// Rows of each kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (who, minor) in [(0, 0), (1, 0), (2, 15), (2, 18), (2, 19), (6, 0), (10, 15)] {
        for flags in [0, 1, 2, 3, 4] {
            for (family, addresses) in [(0, 8), (16, 32)] {
                let mut seed = vec![who | family, minor];
                seed.extend((0..addresses).map(|byte| byte + 10));
                seed.extend([0x01, 0xbb, 0x9c, 0x41, 6, flags]);
                for number in [3u64, 3102, 14, 15929, 0, 0, 0] {
                    seed.extend(number.to_ne_bytes());
                }
                seeds.push(seed);
            }
        }
    }
    seeds
}
