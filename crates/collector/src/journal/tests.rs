//! The journal in real files, with ends as a kernel told them.

use egressd_conntrack::netfilter::{CtZones, codec};
use egressd_flow::Defects;

use super::*;

const EPOCH: Epoch = Epoch(7);

/// The ends that a kernel told of, a datagram each.
fn told() -> Vec<Vec<u8>> {
    let lines = include_str!("../../../conntrack/tests/captures/destroy.hex").lines();
    let byte = |hex: &[u8]| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap();
    let datagrams = lines.map(|line| line.trim().as_bytes().chunks(2).map(byte).collect::<Vec<_>>());
    let is_end = |datagram: &Vec<u8>| decoded(datagram).len() == 1;
    datagrams.filter(is_end).collect()
}

fn decoded(bytes: &[u8]) -> Vec<Ended> {
    let mut ends = Vec::new();
    codec::ends(bytes, &CtZones::ALL, &mut Defects::default(), &mut |ended| ends.push(ended));
    ends
}

/// Hears `told` in batches of three, of which each is kept.
fn hear(journal: &mut Journal, told: &[Vec<u8>]) {
    for batch in told.chunks(3) {
        journal.keep(&mut batch.iter().map(Vec::as_slice), batch.len());
    }
}

fn begin(directory: &Path, next: u64) -> Journal {
    let (journal, begun) = Journal::begin(directory, EPOCH, next);
    begun.unwrap();
    journal
}

/// What another process finds.
fn replayed(directory: &Path, held: u64) -> (Replayed, Vec<Ended>) {
    let mut ends = Vec::new();
    let replayed = replay(directory, EPOCH, held, &mut |ended| ends.push(*ended));
    (replayed, ends)
}

/// Goal: what no state holds is handed over once, in order, wherever in a batch the state stands, as often as it is
/// asked for.
#[test]
fn what_no_state_holds_is_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let (told, path) = (told(), directory.path());
    let all: Vec<Ended> = told.iter().flat_map(|datagram| decoded(datagram)).collect();
    let total = u64::try_from(all.len()).unwrap();
    assert!(total >= 9, "{total}");
    let mut journal = begin(path, 0);
    hear(&mut journal, &told);
    for held in (0..=total).chain(0..2) {
        let (found, ends) = replayed(path, held);
        assert_eq!(found, Replayed { ends: total - held, next: total, missing: 0, torn: 0 });
        assert_eq!(ends, all[usize::try_from(held).unwrap()..]);
    }
}

/// Goal: processes count on from each other, and a file goes when a state holds all that is in it, not before.
#[test]
fn a_file_stays_until_a_state_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let (told, path) = (told(), directory.path());
    let mut journal = begin(path, 100);
    hear(&mut journal, &told[..6]);
    journal.let_go(104).unwrap();
    assert_eq!(segments(path).unwrap(), [100, 106]);
    hear(&mut journal, &told[6..7]);
    drop(journal);
    assert_eq!(replayed(path, 104).0, Replayed { ends: 3, next: 107, missing: 0, torn: 0 });

    let mut journal = begin(path, 107);
    hear(&mut journal, &told[7..9]);
    assert_eq!(replayed(path, 104).0, Replayed { ends: 5, next: 109, missing: 0, torn: 0 });
    journal.let_go(109).unwrap();
    journal.let_go(109).unwrap();
    assert_eq!(segments(path).unwrap(), [109]);
    assert_eq!(replayed(path, 109).0, Replayed { ends: 0, next: 109, missing: 0, torn: 0 });
    forget(path);
    assert!(segments(path).unwrap().is_empty());
}

/// Goal: a file that is torn anywhere, damaged anywhere or of another epoch is counted; what stands before the damage
/// is handed over, nothing behind it, and other files are.
#[test]
fn what_is_torn_or_foreign_is_never_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (told, path) = (told(), directory.path());
    let mut journal = begin(path, 0);
    hear(&mut journal, &told[..6]);
    let file = super::path(path, 0);
    let whole = fs::read(&file).unwrap();
    let all = replayed(path, 0).1;
    journal.let_go(0).unwrap();
    hear(&mut journal, &told[6..7]);

    for at in (0..whole.len()).step_by(5) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        let sound = if at < SEGMENT_HEAD_BYTES {
            0
        } else {
            3 * usize::from(at >= SEGMENT_HEAD_BYTES + first_frame(&whole))
        };
        for bytes in [&damaged[..], &whole[..at]] {
            fs::write(&file, bytes).unwrap();
            let (found, ends) = replayed(path, 0);
            // A file that ends where a frame does is whole.
            let is_whole =
                bytes.len() == SEGMENT_HEAD_BYTES || bytes.len() == SEGMENT_HEAD_BYTES + first_frame(&whole);
            assert_eq!(found.torn, u64::from(!is_whole), "at {at}");
            assert_eq!((found.next, ends.len()), (7, sound + 1), "at {at}");
            assert_eq!(found.missing, 6 - sound as u64, "at {at}");
            assert_eq!(ends[..sound], all[..sound]);
        }
    }
    fs::write(&file, &whole).unwrap();
    let foreign = replay(path, Epoch(8), 0, &mut |ended| panic!("{ended:?}"));
    assert_eq!(foreign, Replayed { ends: 0, next: 0, missing: 0, torn: 2 });
}

fn first_frame(segment: &[u8]) -> usize {
    let head = segment[SEGMENT_HEAD_BYTES..].first_chunk().unwrap();
    frame::HEAD_BYTES + Head::parse(head).unwrap().body_bytes()
}

/// Goal: a file of another name's number, which could not be removed once, costs no other.
#[test]
fn a_stale_file_costs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (told, path) = (told(), directory.path());
    fs::write(super::path(path, 500), "stale").unwrap();
    let mut journal = begin(path, 0);
    hear(&mut journal, &told[..3]);
    journal.let_go(1).unwrap();
    assert_eq!(segments(path).unwrap(), [0, 3, 500]);
    assert_eq!(replayed(path, 1).0, Replayed { ends: 2, next: 3, missing: 0, torn: 1 });
}

/// Goal: a journal that is full, or cannot be written, counts what it could not keep, and keeps again after the next
/// state.
#[test]
fn what_cannot_be_kept_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (told, path) = (told(), directory.path());
    let mut journal = begin(path, 0);
    let mut heard: u64 = 0;
    while journal.unprotected() == 0 {
        hear(&mut journal, &told[..3]);
        heard += 3;
        assert!(heard < 400_000, "it is never full");
    }
    let bytes = usize::try_from(fs::metadata(super::path(path, 0)).unwrap().len()).unwrap();
    assert!(bytes <= SEGMENT_HEAD_BYTES + SEGMENT_BYTES_MAX && journal.wants_relief(), "{bytes}");
    assert_eq!(replayed(path, 0).0, Replayed { ends: heard - 3, next: heard - 3, missing: 0, torn: 0 });

    fs::create_dir(super::path(path, heard)).unwrap();
    assert!(journal.let_go(heard).is_err(), "a directory is in the way");
    hear(&mut journal, &told[..3]);
    assert_eq!(journal.unprotected(), 6);
    journal.let_go(heard).unwrap();
    hear(&mut journal, &told[..2]);
    assert_eq!((journal.unprotected(), journal.wants_relief()), (6, false));
    assert_eq!(replayed(path, heard).0, Replayed { ends: 2, next: heard + 5, missing: 3, torn: 1 });
}
