//! One dump's datagrams, in order, out of order, broken off and hostile.

use std::io;

use egressd_flow::{Completeness, Defects, Entry, Snapshot, UnixNanos};

use super::super::codec::Decoder;
use super::super::ct_zones::CtZones;
use super::super::encode::{self, message};
use super::super::uapi::{self, NLM_F_DUMP_INTR, control};
use super::{Dump, Progress};

const SEQUENCE: u32 = 3;
const PORT: u32 = 4242;
const NOW: UnixNanos = UnixNanos(1_000);
const LINE: &str = "udp 10.0.0.1:1>10.0.1.2:2 tx=10/1 rx=0/0";

fn reply(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    message(kind, flags, SEQUENCE, PORT, body)
}

fn row() -> Vec<u8> {
    reply(uapi::CT_NEW, 0, &encode::entry(&LINE.parse::<Entry>().unwrap()))
}

fn code(kind: u16, errno: i32) -> Vec<u8> {
    reply(kind, 0, &(-errno).to_ne_bytes())
}

fn done() -> Vec<u8> {
    code(control::DONE, 0)
}

/// Feeds the datagrams one by one; the snapshot, the interruption's text and how often a row came.
fn read(datagrams: &[Vec<u8>]) -> (Snapshot, Option<String>, Progress) {
    let mut decoder = Decoder::new(CtZones::ALL);
    let mut dump = Dump::new(SEQUENCE, PORT, NOW, &mut decoder);
    let (mut rows, mut progress) = (0, Progress::More);
    for datagram in datagrams {
        assert_eq!(progress, Progress::More, "nothing follows the end");
        progress = dump.feed(datagram, &mut |entry| {
            assert_eq!(entry.to_string(), LINE);
            rows += 1;
        });
    }
    let (snapshot, interruption) = dump.finish();
    assert_eq!(snapshot.entries, rows);
    (snapshot, interruption.map(|interruption| interruption.to_string()), progress)
}

fn snapshot(completeness: Completeness, entries: u64, defects: Defects) -> Snapshot {
    Snapshot { completeness, begun: NOW, entries, offloaded: 0, defects }
}

/// Goal: a dump is complete when the kernel said so after any number of datagrams, none of its rows included.
#[test]
fn a_dump_that_ends_well_is_complete() {
    for (datagrams, entries) in [
        (vec![done()], 0),
        (vec![[row(), done()].concat()], 1),
        (vec![[row(), row()].concat(), row(), done()], 3),
        (vec![[row(), code(control::ERROR, 0), reply(control::NOOP, 0, &[]), row()].concat(), done()], 2),
    ] {
        let complete = snapshot(Completeness::Complete, entries, Defects::default());
        assert_eq!(read(&datagrams), (complete, None, Progress::Done));
    }
}

/// Goal: whatever the kernel says against a dump makes it partial, under its own name, and costs no sound row.
#[test]
fn a_dump_that_is_disturbed_is_partial() {
    let intr = |kind, body: &[u8]| reply(kind, NLM_F_DUMP_INTR, body);
    let entry = encode::entry(&LINE.parse::<Entry>().unwrap());
    let foreign = message(uapi::CT_NEW, 0, SEQUENCE - 1, PORT, &entry);
    let stranger = message(control::DONE, 0, SEQUENCE, PORT + 1, &[0; 4]);
    let mut unframed = row();
    unframed[..4].copy_from_slice(&8u32.to_ne_bytes());
    let none = Defects::default();
    let malformed = Defects { malformed: 1, ..none };
    for (datagrams, entries, defects, reason) in [
        (vec![intr(uapi::CT_NEW, &entry), done()], 1, none, "the kernel marked the dump as inconsistent"),
        (vec![row(), intr(control::DONE, &[0; 4])], 1, none, "the kernel marked the dump as inconsistent"),
        (vec![row(), code(control::DONE, 12)], 1, none, "the kernel ended the dump with an error"),
        (vec![row(), code(control::ERROR, 1)], 1, none, "the kernel ended the dump with an error"),
        (
            vec![row(), reply(control::ERROR, 0, &[])],
            1,
            none,
            "a message of the dump has an impossible length",
        ),
        (
            vec![row(), reply(control::OVERRUN, 0, &[]), done()],
            1,
            none,
            "the kernel reported data lost in the dump",
        ),
        (
            vec![[foreign, row()].concat(), done()],
            1,
            none,
            "an answer to request 2 of port 4242 among those to the dump",
        ),
        (
            vec![stranger, row(), done()],
            1,
            none,
            "an answer to request 3 of port 4243 among those to the dump",
        ),
        (
            vec![[row(), unframed, row()].concat(), row(), done()],
            2,
            malformed,
            "a message of the dump has an impossible length",
        ),
    ] {
        let partial = snapshot(Completeness::Partial, entries, defects);
        assert_eq!(read(&datagrams), (partial, Some(reason.to_owned()), Progress::Done));
    }
}

/// Goal: a row that is not understood is counted and costs neither its neighbours nor completeness.
#[test]
fn a_bad_row_costs_only_itself() {
    let broken = reply(uapi::CT_NEW, 0, &[uapi::AF_INET, 0, 0, 0]);
    let bridge = reply(uapi::CT_NEW, 0, &[7, 0, 0, 0]);
    let event = reply(uapi::CT_DELETE, 0, &[]);
    let defects = Defects { malformed: 1, unsupported: 2, ..Defects::default() };
    assert_eq!(
        read(&[[row(), broken, bridge, row()].concat(), [event, row(), done()].concat()]),
        (snapshot(Completeness::Complete, 3, defects), None, Progress::Done)
    );
}

/// Goal: a row that a flowtable forwards, in software or in hardware, is handed over whole and counted as such, its
/// timeout and protocol state left out by the kernel (`ctnetlink_fill_info`).
///
/// By bytes: no kernel without `CONFIG_NF_FLOW_TABLE`, such as that of the machine where this was written, offloads.
#[test]
fn an_offloaded_row_is_handed_over_and_counted() {
    const SEEN_REPLY_CONFIRMED: u32 = 0b1010;
    let row = |status| Entry { status, ..LINE.parse().unwrap() };
    let rows = [
        row(Some(SEEN_REPLY_CONFIRMED)),
        row(Some(SEEN_REPLY_CONFIRMED | uapi::IPS_OFFLOAD)),
        row(Some(SEEN_REPLY_CONFIRMED | uapi::IPS_OFFLOAD | uapi::IPS_HW_OFFLOAD)),
        row(Some(SEEN_REPLY_CONFIRMED | uapi::IPS_HW_OFFLOAD)),
        row(None),
    ];
    let datagram: Vec<u8> =
        rows.iter().flat_map(|row| reply(uapi::CT_NEW, 0, &encode::entry(row))).chain(done()).collect();
    let mut decoder = Decoder::new(CtZones::ALL);
    let mut dump = Dump::new(SEQUENCE, PORT, NOW, &mut decoder);
    let mut found = Vec::new();
    assert_eq!(dump.feed(&datagram, &mut |entry| found.push(*entry)), Progress::Done);
    assert_eq!(found, rows);
    let (complete, none) = (Completeness::Complete, Defects::default());
    assert_eq!(dump.finish().0, Snapshot { offloaded: 3, ..snapshot(complete, 5, none) });
}

/// Goal: rows of conntrack zones that were not asked for are counted, and cost the read no completeness.
#[test]
fn rows_of_other_ct_zones_are_counted() {
    let mut decoder = Decoder::new("7".parse().unwrap());
    let mut dump = Dump::new(SEQUENCE, PORT, NOW, &mut decoder);
    let progress = dump.feed(&[row(), row(), done()].concat(), &mut |entry| panic!("{entry}"));
    let (snapshot_found, interruption) = dump.finish();
    let defects = Defects { other_ct_zones: 2, ..Defects::default() };
    assert_eq!(snapshot_found, snapshot(Completeness::Complete, 0, defects));
    assert_eq!((progress, interruption.is_none()), (Progress::Done, true));
}

/// Goal: the error that a refusal carries is the kernel's own, the lowest number included.
#[test]
fn a_refusal_carries_the_kernels_number() {
    for (number, expected) in [(-1, 1), (-105, 105), (i32::MIN, i32::MAX), (5, -5)] {
        let mut decoder = Decoder::new(CtZones::ALL);
        let mut dump = Dump::new(SEQUENCE, PORT, NOW, &mut decoder);
        let bytes = reply(control::ERROR, 0, &i32::to_ne_bytes(number));
        assert_eq!(dump.feed(&bytes, &mut |_| {}), Progress::Done);
        let (_, interruption) = dump.finish();
        let source = std::error::Error::source(interruption.as_ref().unwrap()).unwrap();
        let errno = source.downcast_ref::<io::Error>().unwrap().raw_os_error();
        assert_eq!(errno, Some(expected));
    }
}
