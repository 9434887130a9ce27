//! Bytes that a real kernel wrote (see `captures/README.md`), read by the public reader.

use egressd_conntrack::netfilter::{Dump, Progress, codec};
use egressd_flow::{Completeness, Defects, Ended, Entry, L4, Snapshot, UnixNanos};

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
    let mut dump = Dump::new(SEQUENCE, PORT, UnixNanos(0));
    let (mut rows, mut progress) = (Vec::new(), Progress::More);
    for datagram in datagrams {
        progress = dump.feed(datagram, &mut |entry| rows.push(show(entry)));
    }
    (rows, dump.finish().0, progress)
}

fn ends(datagrams: &[Vec<u8>]) -> (Vec<Ended>, Defects) {
    let (mut ends, mut defects) = (Vec::new(), Defects::default());
    for datagram in datagrams {
        codec::ends(datagram, &mut defects, &mut |ended| ends.push(ended));
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
    let expected = Snapshot { completeness: complete, begun: UnixNanos(0), entries: 13, defects };
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
