//! One datagram, read as part of a dump and as ends: what must hold whatever the bytes are.
//!
//! - Nothing panics.
//! - Each message is handed over, or skipped and counted, or netlink's own: rows handed over + skipped = rows seen.
//! - A read is complete only if the frames are whole, all answers are ours, and the kernel objected to nothing.
//! - A message means the same alone as among others: ends may be kept and read back as one slice.

use egressd_conntrack::netfilter::codec::{self, Decoder};
use egressd_conntrack::netfilter::{CtZones, Dump, Progress};
use egressd_flow::{Completeness, Defects, Ended, Entry, Snapshot, UnixNanos};

use crate::frames::{Frame, walk};

/// The request that fuzzed dumps answer: that of the captures, so that these are answers too.
pub(crate) const SEQUENCE: u32 = 1;
pub(crate) const PORT: u32 = 4242;

/// `linux/netlink.h` and `linux/netfilter/nfnetlink_conntrack.h`: netlink's own messages, and those about an entry.
pub(crate) mod kind {
    pub(crate) const NOOP: u16 = 1;
    pub(crate) const ERROR: u16 = 2;
    pub(crate) const DONE: u16 = 3;
    pub(crate) const OVERRUN: u16 = 4;
    pub(crate) const NEW: u16 = 0x100;
    pub(crate) const DELETE: u16 = 0x102;
}

/// `linux/netlink.h`: `NLM_F_DUMP_INTR`.
pub(crate) const INTERRUPTED: u16 = 0x10;

/// What became of a datagram as part of a dump.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Snapshot,
    pub(crate) progress: Progress,
}

/// `linux/netfilter/nf_conntrack_common.h`: `IPS_OFFLOAD` and `IPS_HW_OFFLOAD`.
const OFFLOADED: u32 = 1 << 14 | 1 << 15;

/// Entries that the kernel handed to a flowtable.
pub(crate) fn offloaded(entries: &[Entry]) -> u64 {
    count(entries, |entry| entry.status.is_some_and(|status| status & OFFLOADED != 0))
}

/// Reads a datagram as part of a dump.
pub(crate) fn read(datagram: &[u8]) -> Read {
    read_of(datagram, CtZones::ALL)
}

fn read_of(datagram: &[u8], ct_zones: CtZones) -> Read {
    let mut decoder = Decoder::new(ct_zones);
    let mut dump = Dump::new(SEQUENCE, PORT, UnixNanos(0), &mut decoder);
    let mut entries = Vec::new();
    let progress = dump.feed(datagram, &mut |entry| entries.push(*entry));
    let (snapshot, interruption) = dump.finish();
    assert_eq!(
        snapshot.completeness == Completeness::Partial,
        interruption.is_some(),
        "a reason, if partial"
    );
    Read { entries, snapshot, progress }
}

/// Reads a datagram as ends.
pub(crate) fn ends(datagram: &[u8]) -> (Vec<Ended>, Defects) {
    ends_of(datagram, &CtZones::ALL)
}

fn ends_of(datagram: &[u8], ct_zones: &CtZones) -> (Vec<Ended>, Defects) {
    let (mut ends, mut defects) = (Vec::new(), Defects::default());
    codec::ends(datagram, ct_zones, &mut defects, &mut |ended| ends.push(ended));
    (ends, defects)
}

/// Holds both paths to the rules above.
pub(crate) fn check(datagram: &[u8]) {
    let (frames, is_broken) = walk(datagram);
    check_dump(datagram, &frames, is_broken);
    check_ends(datagram, &frames, is_broken);
    check_ct_zones(datagram);
}

/// A list reads what all would have read of it, and counts the rest: one that is passed over is not looked at further,
/// so that something malformed in it may stay unseen.
fn check_ct_zones(datagram: &[u8]) {
    let ct_zones: CtZones = "0,3".parse().expect("a list");
    let is_listed = |entry: &Entry| ct_zones.contains(entry.id.original.ct_zone);
    let check_defects = |all: Defects, listed: Defects, others: u64| {
        assert!(listed.other_ct_zones >= others, "{others} of {listed:?}");
        assert_eq!(listed.malformed + listed.other_ct_zones, all.malformed + others);
        assert_eq!(listed.unsupported, all.unsupported);
    };
    let (all, listed) = (read(datagram), read_of(datagram, ct_zones.clone()));
    let others = count(&all.entries, |entry| !is_listed(entry));
    check_defects(all.snapshot.defects, listed.snapshot.defects, others);
    assert_eq!(listed.entries, all.entries.into_iter().filter(is_listed).collect::<Vec<_>>());
    let ((all, all_defects), (listed, defects)) = (ends(datagram), ends_of(datagram, &ct_zones));
    check_defects(all_defects, defects, count(&all, |ended| !is_listed(&ended.entry)));
    assert_eq!(listed, all.into_iter().filter(|ended| is_listed(&ended.entry)).collect::<Vec<_>>());
}

/// What the frames alone say about a dump.
#[derive(Default)]
struct Due {
    entries: Vec<Entry>,
    rows: u64,
    unknown: u64,
    is_partial: bool,
    is_done: bool,
}

impl Due {
    fn of(datagram: &[u8], frames: &[Frame]) -> Self {
        let mut due = Self::default();
        for frame in frames {
            due.meet(frame, &datagram[frame.body.clone()]);
            if due.is_done {
                break;
            }
        }
        due
    }

    fn meet(&mut self, frame: &Frame, body: &[u8]) {
        if (frame.sequence, frame.port) != (SEQUENCE, PORT) {
            self.is_partial = true;
            return;
        }
        self.is_partial |= frame.flags & INTERRUPTED != 0;
        match frame.kind {
            kind::NEW => {
                self.rows += 1;
                self.entries.extend(codec::entry(body, &CtZones::ALL).ok());
            }
            kind::NOOP => {}
            kind::OVERRUN => self.is_partial = true,
            kind::ERROR if body.starts_with(&[0; 4]) => {}
            kind::ERROR | kind::DONE => {
                self.is_done = true;
                self.is_partial |= !body.starts_with(&[0; 4]);
            }
            _ => self.unknown += 1,
        }
    }
}

fn check_dump(datagram: &[u8], frames: &[Frame], is_broken: bool) {
    let due = Due::of(datagram, frames);
    let broken = u64::from(is_broken && !due.is_done);
    let Read { entries, snapshot, progress } = read(datagram);
    let Defects { malformed, unsupported, without_counters, other_ct_zones, passed_over } = snapshot.defects;

    assert_eq!(entries, due.entries, "each row as it is alone");
    assert_eq!(snapshot.entries, entries.len() as u64);
    assert_eq!(snapshot.entries + malformed + unsupported, due.rows + due.unknown + broken, "rows seen");
    assert!(malformed >= broken && unsupported >= due.unknown, "{:?}", snapshot.defects);
    assert_eq!(without_counters, count(&entries, |entry| entry.counters.is_none()));
    assert_eq!((snapshot.offloaded, other_ct_zones, passed_over), (offloaded(&entries), 0, 0));
    let is_partial = due.is_partial || broken != 0;
    assert_eq!(snapshot.completeness == Completeness::Partial, is_partial, "complete only if nothing broke");
    assert_eq!(progress == Progress::Done, due.is_done);
}

fn check_ends(datagram: &[u8], frames: &[Frame], is_broken: bool) {
    let (found, defects) = ends(datagram);
    let bodies = frames.iter().filter(|frame| frame.kind == kind::DELETE).map(|frame| frame.body.clone());
    let alone: Vec<_> = bodies.filter_map(|body| codec::ended(&datagram[body], &CtZones::ALL).ok()).collect();
    assert_eq!(found, alone, "each end as it is alone");

    let skipped = defects.malformed + defects.unsupported;
    let seen = count(frames, |frame| frame.kind != kind::NOOP) + u64::from(is_broken);
    assert_eq!(found.len() as u64 + skipped, seen, "rows seen");
    assert_eq!(defects.without_counters, count(&found, |ended| ended.entry.counters.is_none()));
    if !is_broken {
        let mut parted = (Vec::new(), Defects::default());
        for frame in frames {
            codec::ends(&datagram[frame.whole.clone()], &CtZones::ALL, &mut parted.1, &mut |ended| {
                parted.0.push(ended)
            });
        }
        assert_eq!(parted, (found, defects), "the same message by message");
    }
}

fn count<T>(all: &[T], which: impl Fn(&T) -> bool) -> u64 {
    all.iter().filter(|one| which(one)).count() as u64
}

/// The captured datagrams, and all that ended as the one slice that a journal makes of them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let dump = unhex(include_str!("../../conntrack/tests/captures/dump.hex"));
    let destroy = unhex(include_str!("../../conntrack/tests/captures/destroy.hex"));
    let journal = destroy.concat();
    dump.into_iter().chain(destroy).chain([journal]).collect()
}

/// One datagram a line, in hexadecimal.
fn unhex(lines: &str) -> Vec<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let datagram = |line: &str| line.as_bytes().chunks(2).map(byte).collect::<Option<_>>();
    lines.lines().map(|line| datagram(line).expect("captures are hexadecimal")).collect()
}
