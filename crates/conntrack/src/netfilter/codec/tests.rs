//! The codec by table, by capture and by arbitrary bytes; an encoder of the tests' own is the second opinion.

use std::net::IpAddr;

use egressd_flow::View;
use egressd_flow::{
    Counter, Counters, CtZone, Defects, Ended, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos,
};
use proptest::prelude::*;

use super::super::ct_zones::CtZones;
use super::super::encode::{self, attribute, message, nest};
use super::super::uapi::{self, counters, cta, ip, proto, timestamp, tuple};
use super::{Decoder, Defect};

fn entry(body: &[u8]) -> Result<Entry, Defect> {
    super::entry(body, &CtZones::ALL)
}

fn ended(body: &[u8]) -> Result<Ended, Defect> {
    super::ended(body, &CtZones::ALL)
}

/// The ends of one datagram in the conntrack zones of `text`, and what else was in it.
fn ends(datagram: &[u8], ct_zones: &str) -> (Vec<Ended>, Defects) {
    let (mut found, mut defects) = (Vec::new(), Defects::default());
    super::ends(datagram, &ct_zones.parse().unwrap(), &mut defects, &mut |ended| found.push(ended));
    (found, defects)
}

fn text(line: &str) -> Entry {
    line.parse().unwrap()
}

/// A TCP entry by hand, with what is appended to it.
fn body(family: u8, version: u8, extra: &[Vec<u8>]) -> Vec<u8> {
    let addresses =
        nest(tuple::IP, &[attribute(ip::V4_SRC, &[10, 0, 0, 1]), attribute(ip::V4_DST, &[10, 0, 0, 2])]);
    let ports = nest(
        tuple::PROTO,
        &[
            attribute(proto::NUM, &[6]),
            attribute(proto::SRC_PORT, &4000u16.to_be_bytes()),
            attribute(proto::DST_PORT, &80u16.to_be_bytes()),
        ],
    );
    let mut body = vec![family, version, 0, 0];
    body.extend(nest(cta::TUPLE_ORIG, &[addresses.clone(), ports.clone()]));
    body.extend(nest(cta::TUPLE_REPLY, &[addresses, ports]));
    body.extend(extra.concat());
    body
}

/// Goal: what the kernel wrote about an entry is what is read, for each shape that a tuple can have.
#[test]
fn each_shape_of_entry_is_read_whole() {
    let icmp = |protocol, kind| L4::Icmp { id: 7, kind, code: u8::from(protocol == IpProtocol::ICMP) };
    let mut shapes = vec![
        text("tcp 10.0.0.1:4000>10.0.1.2:80 id=7 start=5 tx=10/1 rx=20/2"),
        text("udp [fd00::1]:4000>[fd00::2]:53 ctzone=3 id=7 tx=10/1 rx=0/0"),
        text("tcp 10.0.0.1:4000>10.96.0.1:80 reply=10.0.1.9:8080>10.0.0.1:4000 id=4294967295"),
        text("50 10.0.0.1>10.0.1.2 tx=10/1 rx=0/0"),
        text("132 10.0.0.1:1>10.0.1.2:2 tx=10/1 rx=0/0"),
    ];
    for (line, protocol, request, answer) in [
        ("icmp 10.0.0.1>10.0.1.2", IpProtocol::ICMP, 8, 0),
        ("icmpv6 fd00::1>fd00::2", IpProtocol::ICMPV6, 128, 129),
    ] {
        let mut shape = text(line);
        shape.id.original.l4 = icmp(protocol, request);
        shape.reply.l4 = icmp(protocol, answer);
        shapes.push(shape);
    }
    let mut split = text("udp 10.0.0.1:1>10.0.1.2:2 tx=10/1 rx=0/0");
    split.id.original.ct_zone = CtZone(9);
    split.status = Some(0x18e);
    split.timeout_seconds = Some(120);
    shapes.push(split);
    for shape in shapes {
        assert_eq!(entry(&encode::entry(&shape)), Ok(shape));
    }
}

/// Goal: an end carries when it was; a dump's row does not need it.
#[test]
fn an_end_carries_its_stop() {
    let last = Ended {
        entry: text("tcp 10.0.0.1:4000>10.0.1.2:80 id=7 start=5 tx=10/1 rx=20/2"),
        stop: Some(UnixNanos(6_000_000_001)),
    };
    assert_eq!(ended(&encode::ended(&last)), Ok(last));
    assert_eq!(ended(&encode::entry(&last.entry)), Ok(Ended { stop: None, ..last }));
}

/// Goal: counters of old kernels are read, a timestamp of 0 is none, and attributes not known here do no harm.
#[test]
fn rare_attributes_have_their_meaning() {
    let counter_32 = |kind, bytes: u32, packets: u32| {
        let parts = [
            attribute(counters::BYTES_32, &bytes.to_be_bytes()),
            attribute(counters::PACKETS_32, &packets.to_be_bytes()),
        ];
        nest(kind, &parts)
    };
    let extra = [
        counter_32(cta::COUNTERS_ORIG, u32::MAX, 1),
        counter_32(cta::COUNTERS_REPLY, 2, 3),
        nest(cta::TIMESTAMP, &[attribute(timestamp::START, &0u64.to_be_bytes())]),
        attribute(0x3ff, b"of a later kernel"),
    ];
    let found = entry(&body(uapi::AF_INET, 0, &extra)).unwrap();
    assert_eq!(
        found.to_string(),
        "tcp 10.0.0.1:4000>10.0.0.2:80 reply=10.0.0.1:4000>10.0.0.2:80 tx=4294967295/1 rx=2/3"
    );
    assert_eq!(found.id.start, None);
}

/// Goal: every kind of damage is refused under its own name.
#[test]
fn damage_is_named() {
    use Defect::{Malformed, Unsupported};
    let whole = |extra: &[Vec<u8>]| body(uapi::AF_INET, 0, extra);
    let bytes_only = nest(cta::COUNTERS_ORIG, &[attribute(counters::BYTES, &[0; 8])]);
    let counter = nest(
        cta::COUNTERS_ORIG,
        &[attribute(counters::BYTES, &[0; 8]), attribute(counters::PACKETS, &[0; 8])],
    );
    let port_and_icmp = nest(
        cta::TUPLE_ORIG,
        &[nest(tuple::PROTO, &[attribute(proto::NUM, &[6]), attribute(proto::SRC_PORT, &[0, 1])])],
    );
    let mut overlong = whole(&[]);
    overlong.extend([200, 0, 0, 0]);
    let mut headless = whole(&[]);
    headless.extend([3, 0, 0, 0]);
    for (what, bytes, defect) in [
        ("nothing", Vec::new(), Malformed),
        ("half a header", vec![uapi::AF_INET, 0], Malformed),
        ("no tuples", vec![uapi::AF_INET, 0, 0, 0], Malformed),
        ("IPv4 addresses in an IPv6 entry", body(uapi::AF_INET6, 0, &[]), Malformed),
        ("family of a bridge", body(7, 0, &[]), Unsupported),
        ("a later nfnetlink", body(uapi::AF_INET, 1, &[]), Unsupported),
        ("a short id", whole(&[attribute(cta::ID, &[1, 2])]), Malformed),
        ("a long conntrack zone", whole(&[attribute(cta::ZONE, &[0; 4])]), Malformed),
        ("bytes without packets", whole(&[bytes_only]), Malformed),
        ("one direction's counters", whole(&[counter]), Malformed),
        ("half the ports", whole(&[port_and_icmp]), Malformed),
        ("an attribute longer than the message", overlong, Malformed),
        ("an attribute shorter than its header", headless, Malformed),
    ] {
        assert_eq!(entry(&bytes), Err(defect), "{what}");
        assert_eq!(ended(&bytes), Err(defect), "{what}");
    }
}

/// Goal: a bad message costs itself; one with an impossible length costs the rest, and each is counted.
#[test]
fn a_bad_event_does_not_cost_its_neighbours() {
    let good = Ended { entry: text("udp 10.0.0.1:1>10.0.1.2:2 tx=10/1 rx=0/0"), stop: None };
    let uncounted = Ended { entry: text("udp 10.0.0.1:1>10.0.1.2:2"), stop: None };
    let event = |ended: &Ended| message(uapi::CT_DELETE, 0, 0, 0, &encode::ended(ended));
    let mut unframed = event(&good);
    unframed[..4].copy_from_slice(&1_000_000u32.to_ne_bytes());
    let datagram = [
        event(&good),
        message(uapi::CT_DELETE, 0, 0, 0, &[uapi::AF_INET, 0, 0, 0]),
        message(uapi::CT_NEW, 0, 0, 0, &encode::entry(&good.entry)),
        message(uapi::control::NOOP, 0, 0, 0, &[]),
        event(&uncounted),
        event(&good),
        unframed,
        event(&good),
    ]
    .concat();
    let (found, defects) = ends(&datagram, "all");
    assert_eq!(found, [good, uncounted, good]);
    assert_eq!(defects, Defects { malformed: 2, unsupported: 1, without_counters: 1, ..Defects::default() });
}

/// Goal: of entries in several conntrack zones those whose original direction stands in a listed one are read, in a
/// dump's row and in an end alike; the rest are counted, whatever the reply's.
#[test]
fn only_listed_ct_zones_are_read() {
    let in_ct_zones = |original: u16, reply: u16| {
        let mut entry = text("udp 10.0.0.1:1>10.0.1.2:2 tx=10/1 rx=0/0");
        (entry.id.original.ct_zone, entry.reply.ct_zone) = (CtZone(original), CtZone(reply));
        entry
    };
    let standing = [(0, 0), (5, 5), (9, 0), (0, 9)].map(|(original, reply)| in_ct_zones(original, reply));
    let event = |entry: &Entry| {
        message(uapi::CT_DELETE, 0, 0, 0, &encode::ended(&Ended { entry: *entry, stop: None }))
    };
    let datagram = standing.iter().flat_map(event).collect::<Vec<u8>>();
    for (listed, expected) in
        [("all", &standing[..]), ("0", &[standing[0], standing[3]]), ("5,9", &standing[1..3]), ("7", &[])]
    {
        let (found, defects) = ends(&datagram, listed);
        assert_eq!(found.iter().map(|ended| ended.entry).collect::<Vec<_>>(), expected, "{listed}");
        let other_ct_zones = (standing.len() - expected.len()) as u64;
        assert_eq!(defects, Defects { other_ct_zones, ..Defects::default() }, "{listed}");
        for entry in standing {
            let read = super::entry(&encode::entry(&entry), &listed.parse().unwrap());
            let wanted = if expected.contains(&entry) { Ok(entry) } else { Err(Defect::OtherCtZone) };
            assert_eq!(read, wanted, "{listed}");
        }
    }
}

prop_compose! {
    fn any_entry()(
        v6 in any::<bool>(),
        addresses in any::<[u128; 4]>(),
        protocol in any::<u8>(),
        ports in any::<[u16; 4]>(),
        icmp in any::<[u8; 4]>(),
        shape in 0..3u8,
        ct_zones in prop_oneof![Just([0, 0]), Just([7, 7]), any::<[u16; 2]>()],
        kernel_id in any::<Option<u32>>(),
        start in proptest::option::of(1..=u64::MAX),
        counts in any::<Option<[u64; 4]>>(),
        status in any::<Option<u32>>(),
        timeout_seconds in any::<Option<u32>>(),
    ) -> Entry {
        let address = |index: usize| -> IpAddr {
            let octets = addresses[index].to_be_bytes();
            if v6 { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() }
        };
        let direction = |way: usize| Tuple {
            protocol: IpProtocol(protocol),
            src: address(way),
            dst: address(way + 2),
            l4: match shape {
                0 => L4::None,
                1 => L4::Ports { src: ports[way], dst: ports[way + 2] },
                _ => L4::Icmp { id: ports[way], kind: icmp[way], code: icmp[way + 2] },
            },
            ct_zone: CtZone(ct_zones[way]),
        };
        Entry {
            id: EntryId {
                original: direction(0),
                kernel_id: kernel_id.map(u64::from),
                start: start.map(UnixNanos),
            },
            reply: direction(1),
            view: View::Both,
            counters: counts.map(|[a, b, c, d]| Counters::Directed {
                tx: Counter { bytes: a, packets: b },
                rx: Counter { bytes: c, packets: d },
            }),
            status,
            timeout_seconds,
        }
    }
}

proptest! {
    /// Goal: every entry survives being written as the kernel writes it and read back.
    #[test]
    fn entries_survive_a_round_trip(original in any_entry()) {
        prop_assert_eq!(entry(&encode::entry(&original)), Ok(original));
    }

    /// Goal: what a decoder learnt from other rows, damaged ones and more shapes than it keeps among them, changes nothing
    /// of what a row says.
    #[test]
    fn a_row_is_read_as_it_is_alone(
        rows in proptest::collection::vec(any_entry(), 1..60),
        change in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        let mut decoder = Decoder::new(CtZones::ALL);
        for row in rows {
            let whole = encode::entry(&row);
            let mut damaged = whole.clone();
            damaged[change.0.index(whole.len())] = change.1;
            for body in [&whole, &damaged, &whole[..whole.len() - 4].to_vec()] {
                prop_assert_eq!(decoder.entry(body).copied(), entry(body));
            }
        }
    }

    /// Goal: no bytes whatever make the reader panic, and it returns.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        ends(&bytes, "all");
        prop_assert_eq!(entry(&bytes), ended(&bytes).map(|ended| ended.entry));
    }

    /// Goal: a message with some bytes changed or its tail cut is read or counted, and the sound one behind it is
    /// read as ever.
    #[test]
    fn a_mutated_message_does_not_reach_its_neighbour(
        original in any_entry(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut mutated = encode::entry(&original);
        for (index, value) in changes {
            let index = index.index(mutated.len());
            mutated[index] = value;
        }
        mutated.truncate(cut.index(mutated.len() + 1));
        let event = |body: &[u8]| message(uapi::CT_DELETE, 0, 0, 0, body);
        let neighbour = Ended { entry: original, stop: None };
        let datagram = [event(&mutated), event(&encode::ended(&neighbour))].concat();
        let (found, defects) = ends(&datagram, "all");
        prop_assert_eq!(found.last(), Some(&neighbour));
        prop_assert_eq!(found.len() as u64 + defects.malformed + defects.unsupported, 2);
    }
}
