//! What an append takes and refuses, what sinks see, and what bounds cost.

use std::time::Duration;

use egressd_flow::{Attributed, Epoch, Position, Sequence};

use super::disk::FaultyDisk;
use super::{ID, LARGE, NOW, fill, taken};
use crate::cache::{CACHE_BYTES_MAX, Cache};
use crate::log::UNSYNCED_BYTES_MAX;
use crate::{Loss, Losses, Reason, SINKS_MAX, Spool, SpoolConfig, SpoolError, Watermark};

fn spool(disk: &FaultyDisk, config: SpoolConfig) -> Spool {
    Spool::on(Box::new(disk.clone()), config, ID).unwrap().0
}

fn marks(spool: &Spool) -> Vec<(String, Epoch, Sequence)> {
    let mut marks: Vec<_> =
        spool.watermarks().map(|(node, mark)| (node.0.to_string(), mark.epoch, mark.sequence)).collect();
    marks.sort_unstable();
    marks
}

/// Goal: what is at or below the watermark is refused, within one step and after a restart, and the rest is taken.
#[test]
fn a_replay_is_refused_also_within_a_step() {
    let disk = FaultyDisk::default();
    let mut first = spool(&disk, LARGE);
    let step =
        [taken(1, "a", 1, 1, 2), taken(2, "b", 1, 1, 2), taken(3, "a", 1, 1, 2), taken(4, "a", 2, 1, 2)];
    assert_eq!(first.append(&step, NOW).unwrap(), [Position(3)]);
    assert_eq!(first.sync().unwrap(), Position(4));
    drop(first);
    let mut second = spool(&disk, LARGE);
    assert_eq!(second.last(), Position(4));
    let step = [taken(5, "a", 1, 1, 2), taken(6, "a", 1, 2, 2), taken(7, "b", 1, 1, 2)];
    assert_eq!(second.append(&step, NOW).unwrap(), [Position(5), Position(7)]);
    let mark = |node: &str, epoch, sequence| (node.to_owned(), Epoch(epoch), Sequence(sequence));
    assert_eq!(marks(&second), [mark("a", 1, 2), mark("a", 2, 1), mark("b", 1, 1)]);
    assert_eq!(second.last(), Position(7));
}

/// Goal: a position that does not follow is the caller's error, and nothing of the step is taken.
#[test]
fn a_step_out_of_order_takes_nothing() {
    let mut spool = Spool::in_memory(LARGE, ID);
    let step = [taken(1, "a", 1, 1, 2), taken(3, "a", 1, 2, 2)];
    let error = spool.append(&step, NOW).unwrap_err();
    assert_eq!(error.to_string(), "position 2 was expected, 3 came");
    assert_eq!((spool.last(), spool.bytes(), marks(&spool)), (Position(0), 0, vec![]));
}

/// Goal: a step beyond the bound of what is not durable is refused, and the spool goes on as if it had not come.
#[test]
fn a_step_too_large_takes_nothing() {
    let mut spool = Spool::in_memory(LARGE, ID);
    fill(&mut spool, 1, 1);
    let error = spool.append(&[taken(2, &"n".repeat(UNSYNCED_BYTES_MAX), 1, 2, 0)], NOW).unwrap_err();
    assert!(matches!(error, SpoolError::TooLarge { bytes_max: UNSYNCED_BYTES_MAX, .. }), "{error}");
    assert_eq!(marks(&spool), [("a".to_owned(), Epoch(1), Sequence(1))]);
    fill(&mut spool, 1, 1);
}

/// Goal: the last four epochs of a node are known, and each for a day without a batch.
#[test]
fn epochs_are_forgotten_after_four_and_after_a_day() {
    let mut spool = Spool::in_memory(LARGE, ID);
    let mut now = NOW;
    for epoch in 1..=5 {
        now = now.saturating_add(Duration::from_secs(1));
        spool.append(&[taken(epoch, "a", epoch, 9, 0)], now).unwrap();
    }
    let epochs = |spool: &Spool| marks(spool).into_iter().map(|(_, epoch, _)| epoch.0).collect::<Vec<_>>();
    assert_eq!(epochs(&spool), [2, 3, 4, 5]);
    let next_day = now.saturating_add(Duration::from_hours(24)).saturating_sub(Duration::from_secs(1));
    spool.append(&[taken(6, "a", 4, 9, 0), taken(7, "a", 4, 10, 0)], next_day).unwrap();
    let known = Watermark { epoch: Epoch(4), sequence: Sequence(10), at: next_day };
    assert_eq!(epochs(&spool), [4, 5]);
    assert!(spool.watermarks().any(|(_, mark)| mark == known));
}

/// Goal: with a clock that is set back the epochs appended last are known, and which of them was the last, also after a
/// restart.
#[test]
fn a_clock_that_is_set_back_forgets_no_newer_epoch() {
    let disk = FaultyDisk::default();
    let mut opened = spool(&disk, LARGE);
    let mut now = NOW;
    for (position, epoch) in (1..).zip([1, 2, 3, 4, 5, 2]) {
        now = now.saturating_sub(Duration::from_secs(1));
        opened.append(&[taken(position, "a", epoch, position, 0)], now).unwrap();
    }
    opened.sync().unwrap();
    let epochs = |spool: &Spool| spool.watermarks().map(|(_, mark)| mark.epoch.0).collect::<Vec<_>>();
    assert_eq!(epochs(&opened), [3, 4, 5, 2]);
    drop(opened);
    assert_eq!(epochs(&spool(&disk, LARGE)), [3, 4, 5, 2]);
}

/// Goal: a sink that joins begins at the end, one that is known stays, and one that leaves leaves nothing behind.
#[test]
fn sinks_join_at_the_end_and_leave_nothing() {
    let disk = FaultyDisk::default();
    let mut spool = spool(&disk, LARGE);
    fill(&mut spool, 2, 3);
    assert_eq!(spool.join("cost/api").unwrap(), Position(2));
    let batches = fill(&mut spool, 2, 3);
    assert_eq!(spool.read("cost/api", Position(0), 1 << 20).unwrap().batches, batches);
    let unread = spool.unread("cost/api");
    assert_eq!(unread.batches, batches.len() as u64);
    let bytes: u64 = batches.iter().map(|batch| batch.sum().bytes).sum();
    assert_eq!((unread.traffic.bytes, spool.unread("unknown").batches), (bytes, 0));
    assert_eq!(spool.advance("cost/api", Position(3), b"totals").unwrap(), Position(3));
    assert_eq!(spool.join("cost/api").unwrap(), Position(3));
    assert_eq!(spool.state("cost/api").unwrap().as_deref(), Some(&b"totals"[..]));
    assert!(disk.names().contains(&"sink-cost%2fapi".to_owned()), "{:?}", disk.names());
    spool.leave("cost/api").unwrap();
    assert_eq!(disk.names(), ["segment-00000000000000000000", "spool"]);
    let error = spool.read("cost/api", Position(0), 1).unwrap_err();
    assert_eq!(error.to_string(), "the spool has no sink cost/api");
    assert_eq!(spool.join("cost/api").unwrap(), Position(4));
    assert_eq!(spool.state("cost/api").unwrap().as_deref(), Some(&b""[..]));
}

/// Goal: there are as many sinks as are allowed, and their names are files' names.
#[test]
fn sinks_are_bounded_in_number_and_name() {
    let mut spool = Spool::in_memory(LARGE, ID);
    for name in [String::new(), "x".repeat(81)] {
        assert!(matches!(spool.join(&name), Err(SpoolError::TooManySinks { .. })), "{name}");
    }
    for sink in 0..SINKS_MAX {
        spool.join(&format!("sink {sink}")).unwrap();
    }
    assert!(matches!(spool.join("one more"), Err(SpoolError::TooManySinks { .. })));
}

/// Goal: a cursor goes neither back nor ahead of what was appended.
#[test]
fn a_cursor_goes_forward_only() {
    let mut spool = Spool::in_memory(LARGE, ID);
    spool.join("sink").unwrap();
    fill(&mut spool, 3, 1);
    assert_eq!(spool.advance("sink", Position(2), b"2").unwrap(), Position(2));
    assert_eq!(spool.advance("sink", Position(1), b"1").unwrap(), Position(2));
    let error = spool.advance("sink", Position(4), b"4").unwrap_err();
    assert_eq!(error.to_string(), "a cursor cannot be at 4, the last batch is at 3");
    assert_eq!(spool.state("sink").unwrap().as_deref(), Some(&b"1"[..]));
}

/// Goal: reads are cut by bytes, give one batch at least, and are the same from memory, from disk and from the buffer.
#[test]
fn reads_are_bounded_and_the_same_from_everywhere() {
    let disk = FaultyDisk::default();
    let mut first = spool(&disk, LARGE);
    first.join("sink").unwrap();
    let mut batches = fill(&mut first, 40, 50);
    drop(first);
    let mut spool = spool(&disk, LARGE);
    let unsynced = taken(41, "a", 1, 41, 50);
    spool.append(std::slice::from_ref(&unsynced), NOW).unwrap();
    batches.push(unsynced.batch);
    for (bytes_max, batches_max) in [(1, 1), (4_000, 8), (usize::MAX, 41)] {
        let (mut after, mut found) = (Position(0), Vec::new());
        loop {
            let read = spool.read("sink", after, bytes_max).unwrap();
            assert_eq!(read.losses, Losses::default());
            assert!(read.batches.len() <= batches_max, "{} at {bytes_max}", read.batches.len());
            let Some(last) = read.batches.last() else { break };
            after = last.position;
            found.extend(read.batches);
        }
        assert_eq!(found, batches);
    }
}

/// Goal: segments go when every sink has passed them, and not before.
#[test]
fn what_every_sink_has_passed_is_let_go() {
    let disk = FaultyDisk::default();
    let mut spool = spool(&disk, SpoolConfig { bytes_max: 160_000, ..LARGE });
    spool.join("fast").unwrap();
    spool.join("slow").unwrap();
    fill(&mut spool, 60, 50);
    let before = spool.bytes();
    spool.advance("fast", Position(60), &[]).unwrap();
    spool.let_go(NOW).unwrap();
    assert_eq!(spool.bytes(), before);
    spool.advance("slow", Position(60), &[]).unwrap();
    spool.let_go(NOW).unwrap();
    assert_eq!(disk.names().iter().filter(|name| name.starts_with("segment-")).count(), 1);
    assert_eq!(marks(&spool), [("a".to_owned(), Epoch(1), Sequence(60))]);
    drop(spool);
    let spool = self::spool(&disk, LARGE);
    assert_eq!(marks(&spool), [("a".to_owned(), Epoch(1), Sequence(60))]);
    assert_eq!(spool.last(), Position(60));
}

/// Goal: over either bound the oldest goes, and each sink that had not passed it is told what it lost.
#[test]
fn over_a_bound_the_oldest_goes_and_is_counted() {
    for reason in [Reason::Bytes, Reason::Age] {
        let mut spool = Spool::in_memory(SpoolConfig { bytes_max: 160_000, ..LARGE }, ID);
        spool.join("away").unwrap();
        spool.join("here").unwrap();
        let mut batches = fill(&mut spool, 50, 50);
        if reason == Reason::Bytes {
            batches.extend(fill(&mut spool, 350, 50));
            assert!(spool.bytes() <= 160_000 + 12_000, "{}", spool.bytes());
        } else {
            spool.let_go(NOW.saturating_add(LARGE.age_max + Duration::from_secs(1))).unwrap();
            assert_eq!(
                spool.read("here", Position(0), usize::MAX).unwrap().batches,
                [],
                "the newest goes as well"
            );
        }
        let read = spool.read("away", Position(0), usize::MAX).unwrap();
        let lost = batches.len() - read.batches.len();
        assert_eq!(read.batches, batches[lost..]);
        let mut expected = Losses::default();
        batches[..lost]
            .iter()
            .for_each(|batch| expected[reason] += Loss { batches: 1, traffic: batch.sum() });
        assert_eq!(read.losses, expected);
        assert!(lost > 0);
    }
}

/// Goal: memory mode says that nothing survives, and otherwise does the same.
#[test]
fn memory_mode_is_not_durable() {
    let mut spool = Spool::in_memory(LARGE, ID);
    spool.join("sink").unwrap();
    let batches = fill(&mut spool, 3, 4);
    assert!(!spool.durable());
    assert_eq!(spool.id(), ID);
    assert_eq!(spool.read("sink", Position(1), usize::MAX).unwrap().batches, batches[1..]);
}

/// Goal: what is appended without a sync stays within its bound, by syncing.
#[test]
fn an_append_beyond_the_buffer_syncs() {
    let disk = FaultyDisk::default();
    let mut spool = spool(&disk, LARGE);
    let name = "n".repeat(UNSYNCED_BYTES_MAX / 3);
    for position in 1..=3 {
        spool.append(&[taken(position, &name, 1, position, 0)], NOW).unwrap();
    }
    drop(spool);
    disk.lose_power(0);
    assert_eq!(self::spool(&disk, LARGE).last(), Position(2));
}

/// Goal: the cache never stands for what it has let go, be that for its bound or because it was passed.
#[test]
fn the_cache_gives_all_or_none() {
    let mut cache = Cache::behind(Position(0));
    let records = CACHE_BYTES_MAX / size_of::<Attributed>();
    let batches = [1, 2, 3].map(|position| taken(position, "a", 1, position, records / 2).batch);
    batches.iter().for_each(|batch| cache.push(batch));
    assert_eq!(cache.read(Position(0), usize::MAX), None);
    assert_eq!(cache.read(Position(2), usize::MAX).as_deref(), Some(&batches[2..]));
    cache.let_go(Position(3));
    assert_eq!(cache.read(Position(2), usize::MAX), None);
    assert_eq!(cache.read(Position(3), usize::MAX).as_deref(), Some(&[][..]));
}
