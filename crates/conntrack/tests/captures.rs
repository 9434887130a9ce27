//! Bytes that a real kernel wrote (see `captures/README.md`), read by the public reader.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::ops::Range;
use std::sync::LazyLock;

use egressd_conntrack::netfilter::codec::{self, Decoder};
use egressd_conntrack::netfilter::{CtZones, Dump, Progress};
use egressd_flow::{Completeness, Defects, Ended, Entry, L4, Snapshot, UnixNanos};
use proptest::prelude::*;
use proptest::sample::Index;

/// The request and the netlink port of the captured dump, as `captures/make.py` chose them.
const SEQUENCE: u32 = 1;
const PORT: u32 = 4242;

/// One datagram a line, in hexadecimal.
fn datagrams(lines: &str) -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).expect("captures are ASCII");
        u8::from_str_radix(digits, 16).expect("captures are hexadecimal")
    };
    lines.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

/// The entry as `flow` shows it, and what that leaves out.
fn show(entry: &Entry) -> String {
    let icmp = match entry.id.original.l4 {
        L4::Icmp { id, kind, code } => format!(" icmp={kind}/{code}/{id}"),
        L4::Ports { .. } | L4::None => String::new(),
    };
    let status = entry.status.map(|bits| format!(" status={bits:#x}")).unwrap_or_default();
    let timeout = entry.timeout_seconds.map(|seconds| format!(" timeout={seconds}")).unwrap_or_default();
    format!("{entry}{icmp}{status}{timeout}")
}

fn read(datagrams: &[Vec<u8>]) -> (Vec<String>, Snapshot, Progress) {
    let mut decoder = Decoder::new(CtZones::ALL);
    let mut dump = Dump::new(SEQUENCE, PORT, UnixNanos(0), &mut decoder);
    let (mut rows, mut progress) = (Vec::new(), Progress::More);
    for datagram in datagrams {
        progress = dump.feed(datagram, &mut |entry| rows.push(show(entry)));
    }
    (rows, dump.finish().0, progress)
}

fn ends(datagrams: &[Vec<u8>]) -> (Vec<Ended>, Defects) {
    let (mut ends, mut defects) = (Vec::new(), Defects::default());
    for datagram in datagrams {
        codec::ends(datagram, &CtZones::ALL, &mut defects, &mut |ended| ends.push(ended));
    }
    (ends, defects)
}

/// Goal: a kernel's dump of both families, NAT, conntrack zones in one and in both directions, ICMP, ESP, SCTP,
/// GRE and entries without counters reads as what was sent.
#[test]
fn a_captured_dump_reads_as_what_was_sent() {
    let (mut rows, snapshot, progress) = read(&datagrams(include_str!("captures/dump.hex")));
    rows.sort();
    assert_eq!(rows, DUMP);
    let defects = Defects { without_counters: 3, ..Defects::default() };
    let complete = Completeness::Complete;
    let begun = UnixNanos(0);
    let expected = Snapshot { completeness: complete, begun, entries: 13, offloaded: 0, defects };
    assert_eq!((snapshot, progress), (expected, Progress::Done));
}

/// Goal: DESTROY events carry the same entries with final counters, and a stop no earlier than the start.
#[test]
fn captured_ends_carry_final_counters_and_a_stop() {
    let (ends, defects) = ends(&datagrams(include_str!("captures/destroy.hex")));
    let mut rows: Vec<_> = ends.iter().map(|ended| show(&ended.entry)).collect();
    rows.sort();
    assert_eq!(rows, DESTROY);
    assert_eq!(defects, Defects { without_counters: 3, ..Defects::default() });
    for Ended { entry, stop } in ends {
        assert_eq!(stop.is_some(), entry.id.start.is_some(), "{entry}");
        assert!(stop >= entry.id.start, "{entry}");
    }
}

/// Goal: wherever a captured datagram is cut and whichever of its bytes is changed, it is read without a panic
/// and never yields more rows than it had.
#[test]
fn captured_bytes_may_be_damaged_anywhere() {
    let whole = datagrams(include_str!("captures/dump.hex")).swap_remove(0);
    for length in 0..whole.len() {
        let (rows, _, progress) = read(&[whole[..length].to_vec()]);
        assert!(rows.len() <= 13 && progress == Progress::More, "cut at {length}");
    }
    for position in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[position] ^= change;
            let (rows, snapshot, _) = read(&[damaged]);
            assert!(rows.len() <= 13, "{change:#x} at {position}");
            assert_eq!(rows.len() as u64, snapshot.entries);
        }
    }
}

/// Where lengths stand in a datagram: each message's, and those of its attributes however deep.
fn lengths(datagram: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 16 <= datagram.len() {
        let length = u32::from_ne_bytes(datagram[at..at + 4].try_into().unwrap()) as usize;
        found.push(Field { at, bytes: 4 });
        if length > 20 {
            attributes(datagram, at + 20..at + length, &mut found);
        }
        at += length.next_multiple_of(4);
    }
    found
}

fn attributes(datagram: &[u8], range: Range<usize>, found: &mut Vec<Field>) {
    let mut at = range.start;
    while at + 4 <= range.end {
        let half = |at| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let length = usize::from(half(at));
        found.push(Field { at, bytes: 2 });
        let is_nest = half(at + 2) & 0x8000 != 0;
        if is_nest {
            attributes(datagram, at + 4..at + length, found);
        }
        at += length.next_multiple_of(4);
    }
}

/// A length in a datagram.
#[derive(Clone, Copy, Debug)]
struct Field {
    at: usize,
    bytes: usize,
}

/// One thing done to a datagram.
#[derive(Clone, Debug)]
enum Damage {
    Cut(Index),
    Flip(Index, u8),
    Length(Index, Lie),
    Splice { from: Index, bytes: usize, to: Index },
    Remove { from: Index, bytes: usize },
}

/// What a length says in place of the truth.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Is(u32),
    Off(i8),
}

impl Damage {
    fn apply(&self, datagram: &mut Vec<u8>, lengths: &[Field]) {
        if datagram.is_empty() {
            return;
        }
        let size = datagram.len();
        match *self {
            Self::Cut(at) => datagram.truncate(at.index(size)),
            Self::Flip(at, bit) => datagram[at.index(size)] ^= 1 << bit,
            Self::Length(which, lie) => {
                let Field { at, bytes } = lengths[which.index(lengths.len())];
                let Some(field) = datagram.get_mut(at..at + bytes) else { return };
                let mut whole = [0; 4];
                whole[..bytes].copy_from_slice(field);
                let lie = match lie {
                    Lie::Is(length) => length,
                    Lie::Off(by) => u32::from_ne_bytes(whole).wrapping_add_signed(by.into()),
                };
                field.copy_from_slice(&lie.to_ne_bytes()[..bytes]);
            }
            Self::Splice { from, bytes, to } => {
                let from = from.index(size);
                let piece = datagram[from..(from + bytes).min(size)].to_vec();
                let to = to.index(size);
                datagram.splice(to..to, piece);
            }
            Self::Remove { from, bytes } => {
                let from = from.index(size);
                datagram.drain(from..(from + bytes).min(size));
            }
        }
    }
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let lie = prop_oneof![
        prop_oneof![Just(0), Just(1), Just(3), Just(4), Just(15), Just(16), Just(0xffff), Just(u32::MAX)]
            .prop_map(Lie::Is),
        any::<u32>().prop_map(Lie::Is),
        any::<i8>().prop_map(Lie::Off),
    ];
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Damage::Cut),
        (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), lie).prop_map(|(which, lie)| Damage::Length(which, lie)),
        (at(), 1..400usize, at()).prop_map(|(from, bytes, to)| Damage::Splice { from, bytes, to }),
        (at(), 1..400usize).prop_map(|(from, bytes)| Damage::Remove { from, bytes }),
    ]
}

fn damaged(whole: &[u8], damages: &[Damage]) -> Vec<u8> {
    let lengths = lengths(whole);
    let mut bytes = whole.to_vec();
    for damage in damages {
        damage.apply(&mut bytes, &lengths);
    }
    bytes
}

/// The captured datagrams, undamaged, and what the dump holds.
struct Sound {
    dump: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    destroy: Vec<Vec<u8>>,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let dump = datagrams(include_str!("captures/dump.hex"));
    let mut entries = Vec::new();
    Dump::new(SEQUENCE, PORT, UnixNanos(0), &mut Decoder::new(CtZones::ALL))
        .feed(&dump[0], &mut |entry| entries.push(*entry));
    Sound { dump, entries, destroy: datagrams(include_str!("captures/destroy.hex")) }
});

/// The shortest message is a header: no datagram holds more.
fn messages_max(datagram: &[u8]) -> u64 {
    datagram.len().div_ceil(16) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Goal: whatever is cut, flipped, moved or lied about in a dump, nothing panics, what is skipped is counted,
    /// and the next datagram is read whole.
    #[test]
    fn a_damaged_dump_costs_itself_alone(damages in prop::collection::vec(any_damage(), 1..6)) {
        let Sound { dump: whole, entries, .. } = &*SOUND;
        let bytes = damaged(&whole[0], &damages);
        let mut decoder = Decoder::new(CtZones::ALL);
        let mut dump = Dump::new(SEQUENCE, PORT, UnixNanos(0), &mut decoder);
        let mut rows = 0;
        let progress = dump.feed(&bytes, &mut |_| rows += 1);
        prop_assert!(rows <= messages_max(&bytes));
        if progress == Progress::More {
            let mut sound = Vec::new();
            prop_assert_eq!(dump.feed(&whole[0], &mut |entry| sound.push(*entry)), Progress::More);
            prop_assert_eq!(&sound, entries);
            rows += sound.len() as u64;
            prop_assert_eq!(dump.feed(&whole[1], &mut |_| rows += 1), Progress::Done);
        }
        let (snapshot, interruption) = dump.finish();
        prop_assert_eq!(snapshot.entries, rows);
        prop_assert_eq!(snapshot.completeness == Completeness::Partial, interruption.is_some());
    }

    /// Goal: the same damage to ends: nothing panics, and no message is both an end and a defect, or two of them.
    #[test]
    fn a_damaged_end_is_an_end_or_a_defect(
        which in any::<Index>(),
        damages in prop::collection::vec(any_damage(), 1..6),
    ) {
        let Sound { destroy: whole, .. } = &*SOUND;
        let bytes = damaged(&whole[which.index(whole.len())], &damages);
        let (found, defects) = ends(std::slice::from_ref(&bytes));
        prop_assert!(found.len() as u64 + defects.malformed + defects.unsupported <= messages_max(&bytes));
    }
}

const DUMP: [&str; 13] = [
    "132 10.0.0.1:3>10.0.0.2:4 id=3731214227 status=0x8 timeout=599",
    "47 10.0.0.1:5>10.0.0.2:6 id=3531881741 status=0x8 timeout=599",
    "50 127.0.0.1>127.0.0.1 id=144200825 start=1795372924 tx=52/1 rx=0/0 status=0x188 timeout=599",
    "icmp 127.0.0.1>127.0.0.1 reply=127.0.0.1>127.0.0.1 id=772368142 start=1795372924 tx=28/1 rx=28/1 icmp=8/0/77 status=0x18a timeout=29",
    "icmpv6 ::1>::1 reply=::1>::1 id=2234380689 start=1795372924 tx=48/1 rx=48/1 icmp=128/0/78 status=0x18a timeout=29",
    "tcp 127.0.0.1:4000>127.0.0.1:8080 id=3767313963 start=1795372924 tx=1268/5 rx=164/3 status=0x18e timeout=119",
    "tcp [::1]:4000>[::1]:8080 id=3489415753 start=1795372924 tx=1368/5 rx=224/3 status=0x18e timeout=119",
    "udp 10.0.0.1:1>10.0.0.2:2 id=1102958537 status=0x8 timeout=599",
    "udp 127.0.0.1:4000>10.96.0.1:53 reply=127.0.0.1:5353>127.0.0.1:4000 id=178716296 start=1795372924 tx=128/1 rx=228/1 status=0x1aa timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7001 id=594471552 start=1795372924 tx=128/1 rx=228/1 status=0x18a timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7003 ctzone=3 id=776665343 start=1795372924 tx=128/1 rx=228/1 status=0x18a timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7004 reply=127.0.0.1:7004>127.0.0.1:4000 ctzone=4 id=1378388344 start=1795372924 tx=128/1 rx=228/1 status=0x18a timeout=29",
    "udp [::1]:4000>[::1]:7001 id=568261616 start=1795372924 tx=148/1 rx=248/1 status=0x18a timeout=29",
];
const DESTROY: [&str; 13] = [
    "132 10.0.0.1:3>10.0.0.2:4 id=3731214227 status=0x208 timeout=599",
    "47 10.0.0.1:5>10.0.0.2:6 id=3531881741 status=0x208 timeout=599",
    "50 127.0.0.1>127.0.0.1 id=144200825 start=1795372924 tx=52/1 rx=0/0 status=0x388 timeout=599",
    "icmp 127.0.0.1>127.0.0.1 reply=127.0.0.1>127.0.0.1 id=772368142 start=1795372924 tx=28/1 rx=28/1 icmp=8/0/77 status=0x38a timeout=29",
    "icmpv6 ::1>::1 reply=::1>::1 id=2234380689 start=1795372924 tx=48/1 rx=48/1 icmp=128/0/78 status=0x38a timeout=29",
    "tcp 127.0.0.1:4000>127.0.0.1:8080 id=3767313963 start=1795372924 tx=1268/5 rx=164/3 status=0x38e timeout=119",
    "tcp [::1]:4000>[::1]:8080 id=3489415753 start=1795372924 tx=1368/5 rx=224/3 status=0x38e timeout=119",
    "udp 10.0.0.1:1>10.0.0.2:2 id=1102958537 status=0x208 timeout=599",
    "udp 127.0.0.1:4000>10.96.0.1:53 reply=127.0.0.1:5353>127.0.0.1:4000 id=178716296 start=1795372924 tx=128/1 rx=228/1 status=0x3aa timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7001 id=594471552 start=1795372924 tx=128/1 rx=228/1 status=0x38a timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7003 ctzone=3 id=776665343 start=1795372924 tx=128/1 rx=228/1 status=0x38a timeout=29",
    "udp 127.0.0.1:4000>127.0.0.1:7004 reply=127.0.0.1:7004>127.0.0.1:4000 ctzone=4 id=1378388344 start=1795372924 tx=128/1 rx=228/1 status=0x38a timeout=29",
    "udp [::1]:4000>[::1]:7001 id=568261616 start=1795372924 tx=148/1 rx=248/1 status=0x38a timeout=29",
];
