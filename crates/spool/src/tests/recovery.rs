//! Disks that are full, read-only, torn, damaged, or somebody else's.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use egressd_flow::{AttributedBatch, Epoch, Position, Sequence};

use super::disk::FaultyDisk;
use super::{ID, LARGE, NOW, fill, taken};
use crate::frame::{Piece, Pieces};
use crate::{Damage, Loss, Reason, Recovery, Spool, SpoolConfig, SpoolError};

const FIRST: &str = "segment-00000000000000000000";

fn open(disk: &FaultyDisk) -> Result<(Spool, Recovery), SpoolError> {
    Spool::on(Box::new(disk.clone()), LARGE, 99)
}

/// A spool of three segments' worth of batches, which a sink has not read.
fn filled(disk: &FaultyDisk) -> Vec<Arc<AttributedBatch>> {
    let config = SpoolConfig { bytes_max: 200_000, ..LARGE };
    let (mut spool, recovery) = Spool::on(Box::new(disk.clone()), config, ID).unwrap();
    assert_eq!(recovery, Recovery { is_new: true, ..Recovery::default() });
    spool.join("sink").unwrap();
    spool.advance("sink", Position(0), b"state").unwrap();
    fill(&mut spool, 60, 50)
}

/// Goal: on a full disk nothing is taken back and nothing is lost, the error says what to do, and room is enough to go on.
#[test]
fn a_full_disk_is_gone_on_from_when_there_is_room() {
    for room in [0, 1, 100, 1_000] {
        let disk = FaultyDisk::default();
        let (mut spool, _) = open(&disk).unwrap();
        spool.join("sink").unwrap();
        let mut batches = fill(&mut spool, 2, 30);
        disk.room(Some(room));
        let late = taken(3, "a", 1, 3, 200);
        spool.append(std::slice::from_ref(&late), NOW).unwrap();
        let error = spool.sync().unwrap_err();
        let expected = format!(
            "no room for {FIRST} on the spool's volume: make it larger, or lower the spool's bound in bytes"
        );
        assert_eq!((error.to_string(), error.is_transient()), (expected, true));
        batches.push(late.batch);
        assert_eq!(spool.read("sink", Position(0), usize::MAX).unwrap().batches, batches);
        assert!(spool.advance("sink", Position(3), b"3").is_err(), "a cursor is not ahead of the disk");
        disk.room(None);
        assert_eq!(spool.sync().unwrap(), Position(3));
        drop(spool);
        let (mut spool, recovery) = open(&disk).unwrap();
        assert_eq!(recovery, Recovery::default());
        assert_eq!(spool.read("sink", Position(0), usize::MAX).unwrap().batches, batches);
    }
}

/// Goal: what a failed sync left unsure is written again, so the next one that succeeds makes it safe.
#[test]
fn a_failed_sync_is_made_good_by_the_next() {
    let disk = FaultyDisk::default();
    let (mut spool, _) = open(&disk).unwrap();
    fill(&mut spool, 1, 5);
    disk.fail_syncs(true);
    spool.append(&[taken(2, "a", 1, 2, 5)], NOW).unwrap();
    assert!(matches!(spool.sync(), Err(SpoolError::Disk { .. })));
    disk.fail_syncs(false);
    assert_eq!(spool.sync().unwrap(), Position(2));
    disk.lose_power(0);
    assert_eq!(open(&disk).unwrap().0.last(), Position(2));
}

/// Goal: a tail that was never safe is cut off and said, at whatever byte it ends.
#[test]
fn a_torn_tail_is_cut_at_any_byte() {
    let whole = FaultyDisk::default();
    let (mut spool, _) = open(&whole).unwrap();
    fill(&mut spool, 3, 2);
    let (mut before, mut bytes) = (0, Vec::new());
    whole.edit(FIRST, |file| {
        bytes.clone_from(file);
        before = file.len();
    });
    spool.append(&[taken(4, "a", 1, 4, 2)], NOW).unwrap();
    spool.sync().unwrap();
    whole.edit(FIRST, |file| bytes.clone_from(file));
    for end in before..bytes.len() {
        whole.edit(FIRST, |file| *file = bytes[..end].to_vec());
        let (mut spool, recovery) = open(&whole).unwrap();
        let torn_bytes = (end - before) as u64;
        assert_eq!(recovery, Recovery { torn_bytes, ..Recovery::default() });
        assert_eq!(spool.last(), Position(3));
        let marks: Vec<_> = spool.watermarks().map(|(_, mark)| (mark.epoch, mark.sequence)).collect();
        assert_eq!(marks, [(Epoch(1), Sequence(3))]);
        spool.append(&[taken(4, "a", 1, 4, 2)], NOW).unwrap();
        spool.sync().unwrap();
    }
}

/// Goal: damage costs the frames it hits and no other, at whatever byte; it is named, and counted for a sink once.
#[test]
fn damage_costs_only_what_it_hits() {
    let disk = FaultyDisk::default();
    let batches = filled(&disk);
    let newest = disk.names().into_iter().rfind(|name| name.starts_with("segment-")).unwrap();
    // The newest segment's last frame could as well be torn.
    for (file, frames) in [(FIRST, 3), (&newest, 1)] {
        let hit = damage_everywhere(&disk, file, &batches);
        assert!(hit >= frames, "{hit} batches hit in {file}");
    }
}

/// Turns one bit in every 97th byte of a file, each time of the healthy one. How many batches that hit in all.
fn damage_everywhere(disk: &FaultyDisk, file: &str, batches: &[Arc<AttributedBatch>]) -> usize {
    let mut healthy = Vec::new();
    disk.edit(file, |bytes| healthy.clone_from(bytes));
    let safe = if file == FIRST { healthy.len() } else { last_frame(&healthy) };
    let mut hit = BTreeSet::new();
    for at in (0..safe).step_by(97) {
        disk.edit(file, |bytes| bytes[at] ^= 0x40);
        hit.extend(check_damage(disk, batches));
        disk.edit(file, |bytes| bytes.clone_from(&healthy));
    }
    hit.len()
}

fn last_frame(bytes: &[u8]) -> usize {
    let offsets = Pieces::of(bytes).map(|piece| match piece {
        Piece::Frame { offset, .. } | Piece::Damaged { offset, .. } => offset,
    });
    offsets.last().unwrap()
}

/// Which batch the damage cost; `None` when it hit watermarks for which later ones stand, or earlier ones and records.
fn check_damage(disk: &FaultyDisk, batches: &[Arc<AttributedBatch>]) -> Option<Position> {
    let (mut spool, recovery) = open(disk).unwrap();
    assert_eq!((recovery.torn_bytes, recovery.damaged_sinks.len(), spool.last()), (0, 0, Position(60)));
    let read = spool.read("sink", Position(0), usize::MAX).unwrap();
    let Some(Damage { after, last, loss, .. }) = recovery.damages.first().cloned() else {
        assert_eq!(read.batches, batches);
        return None;
    };
    assert_eq!((recovery.damages.len(), last.0), (1, after.0 + 1));
    let expected: Vec<_> = batches.iter().filter(|batch| batch.position != last).cloned().collect();
    assert_eq!(read.batches, expected);
    assert_eq!(read.losses[Reason::Damaged], loss);
    let lost = batches.iter().find(|batch| batch.position == last).unwrap();
    assert!(loss.traffic == lost.sum() || loss.traffic.is_zero(), "as much as its head tells");
    assert_eq!(spool.read("sink", Position(0), usize::MAX).unwrap().losses, read.losses);
    Some(last)
}

/// Goal: damage that a sink was told of is not counted again by the next process.
#[test]
fn damage_is_counted_once_across_restarts() {
    let disk = FaultyDisk::default();
    filled(&disk);
    disk.edit(FIRST, |file| {
        let middle = file.len() / 2;
        file[middle..middle + 3].fill(0xff);
    });
    let (mut spool, _) = open(&disk).unwrap();
    let lost = spool.read("sink", Position(0), 1).unwrap().losses;
    assert_eq!(lost[Reason::Damaged].batches, 1);
    spool.advance("sink", Position(1), &[]).unwrap();
    drop(spool);
    let (mut spool, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.damages.len(), 1);
    assert_eq!(spool.read("sink", Position(0), usize::MAX).unwrap().losses, lost);
}

/// Goal: a segment that is gone is found out by its neighbours.
#[test]
fn a_segment_that_is_gone_is_counted() {
    let disk = FaultyDisk::default();
    let batches = filled(&disk);
    let segments: Vec<String> =
        disk.names().into_iter().filter(|name| name.starts_with("segment-")).collect();
    let position = |name: &str| name["segment-".len()..].parse::<u64>().unwrap();
    let (after, last) = (Position(position(&segments[1])), Position(position(&segments[2])));
    crate::Disk::remove(&mut disk.clone(), &segments[1]).unwrap();
    let (mut spool, recovery) = open(&disk).unwrap();
    let loss = Loss { batches: last.0 - after.0, ..Loss::default() };
    assert_eq!(recovery.damages, [Damage { file: segments[2].clone(), offset: 0, after, last, loss }]);
    let read = spool.read("sink", Position(0), usize::MAX).unwrap();
    assert_eq!(
        (read.batches.len() as u64 + loss.batches, read.losses[Reason::Damaged]),
        (batches.len() as u64, loss)
    );
}

/// Goal: an oldest segment that is gone is counted for the sinks that had not passed it.
#[test]
fn a_front_that_is_gone_is_counted() {
    let disk = FaultyDisk::default();
    let batches = filled(&disk);
    crate::Disk::remove(&mut disk.clone(), FIRST).unwrap();
    let (mut spool, recovery) = open(&disk).unwrap();
    let read = spool.read("sink", Position(0), usize::MAX).unwrap();
    let lost = batches.len() - read.batches.len();
    let loss = Loss { batches: lost as u64, ..Loss::default() };
    assert_eq!(read.batches, batches[lost..]);
    assert_eq!(
        (recovery.damages.len(), recovery.damages[0].loss, read.losses[Reason::Damaged]),
        (1, loss, loss)
    );
}

/// Goal: where the disk lost what a sink had passed, its positions are not used again, and other sinks are told.
#[test]
fn positions_below_a_cursor_are_not_used_again() {
    let disk = FaultyDisk::default();
    let batches = filled(&disk);
    let (mut spool, _) = open(&disk).unwrap();
    spool.join("ahead").unwrap();
    drop(spool);
    let newest = disk.names().into_iter().rfind(|name| name.starts_with("segment-")).unwrap();
    crate::Disk::remove(&mut disk.clone(), &newest).unwrap();
    let (mut spool, _) = open(&disk).unwrap();
    assert_eq!(spool.last(), Position(60));
    let later = fill(&mut spool, 1, 3);
    assert_eq!(spool.read("ahead", Position(0), usize::MAX).unwrap().batches, later);
    let read = spool.read("sink", Position(0), usize::MAX).unwrap();
    let kept = read.batches.len() - 1;
    assert_eq!((&read.batches[..kept], &read.batches[kept..]), (&batches[..kept], &later[..]));
    assert_eq!(read.losses[Reason::Damaged].batches, 60 - kept as u64);
}

/// Goal: a damaged state does not cost the cursor; a damaged cursor costs its sink only, and is named.
#[test]
fn a_damaged_sink_is_named() {
    let disk = FaultyDisk::default();
    filled(&disk);
    disk.edit("sink-sink", |file| *file.last_mut().unwrap() ^= 1);
    let (spool, recovery) = open(&disk).unwrap();
    assert_eq!(recovery, Recovery::default());
    assert_eq!(spool.state("sink").unwrap(), None);
    disk.edit("sink-sink", |file| file.truncate(file.len() - 2));
    assert_eq!(open(&disk).unwrap().0.state("sink").unwrap(), None);
    disk.edit("sink-sink", |file| file[9] ^= 1);
    let (mut spool, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.damaged_sinks, ["sink-sink"]);
    assert_eq!(spool.join("sink").unwrap(), Position(60));
}

/// Goal: watermarks that the disk has lost are missed and said; those of a later segment stand for them.
#[test]
fn lost_watermarks_are_said_when_no_later_ones_stand_for_them() {
    let disk = FaultyDisk::default();
    filled(&disk);
    disk.edit(FIRST, |file| file[80] ^= 1);
    assert!(!open(&disk).unwrap().1.is_without_watermarks);
    let alone = FaultyDisk::default();
    let (mut spool, _) = open(&alone).unwrap();
    fill(&mut spool, 3, 2);
    alone.edit(FIRST, |file| file[80] ^= 1);
    let (spool, recovery) = open(&alone).unwrap();
    assert!(recovery.is_without_watermarks);
    assert_eq!(spool.last(), Position(3));
}

/// Goal: a directory that is not this spool's is refused with what to do, and left as it is.
#[test]
fn what_is_not_ours_is_refused() {
    let newer = [&b"egressdspool"[..], &9_u32.to_le_bytes(), &[0; 12]].concat();
    let foreign = |name: &str| format!("{name} is not of this spool: give the spool a directory of its own");
    let newer_says = "the spool has format 9, this release knows 1: run the release that wrote it".to_owned();
    let cases = [
        ("spool", &b"something else"[..], foreign("spool")),
        ("spool", &newer, newer_says),
        (FIRST, b"", foreign(FIRST)),
    ];
    for (name, bytes, expected) in cases {
        let disk = FaultyDisk::default();
        disk.put(name, bytes);
        assert_eq!(open(&disk).err().unwrap().to_string(), expected);
        assert_eq!(disk.names(), [name]);
    }
    let (one, other) = (FaultyDisk::default(), FaultyDisk::default());
    filled(&one);
    drop(Spool::on(Box::new(other.clone()), LARGE, ID + 1).unwrap());
    one.edit(FIRST, |file| other.put(FIRST, file));
    assert_eq!(open(&other).err().unwrap().to_string(), foreign(FIRST));
}

/// Goal: on the machine's own files: one process at a time, others' files stay, and what was synced is there again.
#[test]
fn a_directory_is_held_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let (mut spool, _) = Spool::open(&path, LARGE, ID).unwrap();
    let error = Spool::open(&path, LARGE, ID).err().unwrap();
    assert!(matches!(&error, SpoolError::InUse { path: used } if *used == path), "{error}");
    fs::write(path.join("lost+found"), "not ours").unwrap();
    spool.join("sink").unwrap();
    let batches = fill(&mut spool, 20, 100);
    spool.advance("sink", Position(5), b"five").unwrap();
    drop(spool);
    let (mut spool, recovery) = Spool::open(&path, LARGE, 99).unwrap();
    assert_eq!((recovery, spool.id(), spool.durable()), (Recovery::default(), ID, true));
    assert_eq!(spool.read("sink", Position(0), usize::MAX).unwrap().batches, batches[5..]);
    assert_eq!(spool.state("sink").unwrap().as_deref(), Some(&b"five"[..]));
    assert!(path.join("lost+found").exists());
}
