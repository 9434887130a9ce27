//! The directory in real files: what comes back, and what is refused.

use std::num::NonZeroU64;
use std::time::Duration;

use egressd_conntrack::netfilter::{CtZones, Keeper as _, codec};
use egressd_flow::{Defects, Ended, Owner, Scope, UnixNanos};

use super::*;

const CONFIG: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 100,
    flows_max: 100,
    unclaimed_max: 100,
    tombstones_max: 100,
    retired_max: 100,
    batch_records_max: 100,
    batch_owners_max: 100,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};

const NOW: UnixNanos = UnixNanos(8_000_000_000);

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

fn open(path: &Path, name: &str, ct_zones: &str) -> Result<StateDir, StateDirError> {
    open_in(path, name, "net:[4026531840]", ct_zones)
}

fn open_in(path: &Path, name: &str, namespace: &str, ct_zones: &str) -> Result<StateDir, StateDirError> {
    StateDir::open(path, Whose { node: &node(name), source: &format!("{namespace}\n{ct_zones}") })
}

fn standing(first: u64, heard: u64) -> Standing {
    let spool = NonZeroU64::new(9).map(|spool| SpoolId(spool.get()));
    Standing { progress: Progress { spool, first: Sequence(first) }, heard }
}

/// A meter that knows a pod.
fn meter() -> Meter {
    let mut meter = Meter::new(CONFIG, Epoch(7), [3; 16], UnixNanos(0));
    let owner = Owner {
        address: "10.0.0.1".parse().unwrap(),
        pod_uid: "uid".into(),
        namespace: "shop".into(),
        name: "web".into(),
        labels: [].into(),
        since: UnixNanos(0),
        until: None,
        measure: true,
    };
    let scope =
        Scope { as_of: UnixNanos(1), whole: true, owners: vec![owner.into()], node_addresses: vec![] };
    meter.scope(&scope);
    meter.begin(UnixNanos(1));
    meter
}

/// What one more connection of `bytes` makes of the meter: a cut.
fn cut(meter: &mut Meter, bytes: u64) -> Vec<Batch> {
    let line = format!("tcp 10.0.0.1:{bytes}>203.0.113.1:80 start=5 tx={bytes}/1 rx=0/0");
    let ended = Ended { entry: line.parse().unwrap(), stop: None };
    meter.ended(&ended, UnixNanos(6_000_000_000));
    meter.cut(UnixNanos(7_000_000_000))
}

/// A directory with two batches, of which the first may be let go.
fn left_behind(path: &Path) {
    let mut directory = open(path, "a", "all").unwrap();
    assert!(directory.recover(CONFIG, NOW).recovered.unwrap().is_none(), "there is nothing yet");
    let mut meter = meter();
    for bytes in [10, 20] {
        let batches = cut(&mut meter, bytes);
        directory.save(&mut meter, &batches, standing(1, 0)).unwrap();
    }
}

/// What the next process of node `a` finds: the sums of its batches, and how many were lost.
fn found(path: &Path) -> Result<Option<(Vec<u64>, u64)>, Refusal> {
    let Recovery { recovered, lost_batches } = open(path, "a", "all").unwrap().recover(CONFIG, NOW);
    Ok(recovered?.map(|recovered| {
        assert_eq!((recovered.meter.position().0, recovered.spool), (Epoch(7), Some(SpoolId(9))));
        let sums = recovered.batches.iter().map(|batch| batch.sum().bytes).collect();
        (sums, lost_batches)
    }))
}

/// What a process goes on from.
fn go_on(directory: &mut StateDir) -> Recovered {
    directory.recover(CONFIG, NOW).recovered.unwrap().unwrap()
}

/// Goal: a process finds the batches that were not let go and goes on behind them, as often as it is started.
#[test]
fn a_process_goes_on_from_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path());
    for _ in 0..2 {
        assert_eq!(found(directory.path()).unwrap(), Some((vec![10, 20], 0)));
    }
    let mut again = open(directory.path(), "a", "all").unwrap();
    let Recovered { mut meter, .. } = go_on(&mut again);
    let batches = cut(&mut meter, 30);
    assert_eq!(batches[0].sequence, Sequence(3));
    again.save(&mut meter, &batches, standing(2, 0)).unwrap();
    drop(again);
    assert_eq!(found(directory.path()).unwrap(), Some((vec![20, 30], 0)));
    open(directory.path(), "a", "all").unwrap().settle(Sequence(4)).unwrap();
    assert_eq!(found(directory.path()).unwrap(), Some((vec![], 0)));
}

/// An end with counters as a kernel told it, and the growth that it makes of nothing.
fn told() -> (Vec<u8>, u64) {
    let byte = |hex: &[u8]| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap();
    let lines = include_str!("../../../conntrack/tests/captures/destroy.hex").lines();
    let datagrams = lines.map(|line| line.trim().as_bytes().chunks(2).map(byte).collect::<Vec<_>>());
    let growth = |datagram: &[u8]| {
        let mut meter = meter();
        codec::ends(datagram, &CtZones::ALL, &mut Defects::default(), &mut |ended| meter.ended(&ended, NOW));
        meter.books().received.bytes
    };
    let grown = datagrams.map(|datagram| (growth(&datagram), datagram)).find(|(growth, _)| *growth > 0);
    grown.map(|(growth, datagram)| (datagram, growth)).unwrap()
}

/// Goal: what was heard after the state, and before the process was killed, the next one knows, once.
#[test]
fn what_was_heard_since_is_known() {
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path());
    let (end, growth) = told();
    let mut first = open(directory.path(), "a", "all").unwrap();
    let Recovered { mut meter, .. } = go_on(&mut first);
    let before = meter.books().received.bytes;
    let (mut journal, begun) = first.journal(Epoch(7), 0);
    begun.unwrap();
    journal.keep(&mut [&end[..]].into_iter(), 1);
    first.save(&mut meter, &[], standing(1, 0)).unwrap();
    drop((first, journal));
    for _ in 0..2 {
        let Recovered { mut meter, replayed, .. } = go_on(&mut open(directory.path(), "a", "all").unwrap());
        assert_eq!(replayed, Replayed { ends: 1, next: 1, missing: 0, torn: 0 });
        assert_eq!(meter.books().received.bytes, before + growth);
        assert!(meter.cut(NOW).is_empty(), "nobody owns it yet");
    }
    let mut first = open(directory.path(), "a", "all").unwrap();
    let Recovered { mut meter, replayed, .. } = go_on(&mut first);
    first.save(&mut meter, &[], standing(1, replayed.next)).unwrap();
    drop(first);
    let Recovered { meter, replayed, .. } = go_on(&mut open(directory.path(), "a", "all").unwrap());
    assert_eq!((replayed.ends, meter.books().received.bytes), (0, before + growth));

    fs::remove_file(directory.path().join("state")).unwrap();
    assert!(found(directory.path()).unwrap().is_none());
    assert!(!directory.path().join("ends-0").exists(), "without its state it says nothing");
}

/// Goal: a batch that was written and not yet counted past by a state was never sent, and is not taken for one that
/// was; nor later, when the one that is cut anew under its number cannot be written.
#[test]
fn a_batch_without_a_state_past_it_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path());
    let never_kept = directory.path().join("batch-3");
    fs::copy(directory.path().join("batch-2"), &never_kept).unwrap();
    assert_eq!(found(directory.path()).unwrap(), Some((vec![10, 20], 0)));
    assert!(!never_kept.exists());
}

/// Goal: a batch that cannot be read is lost with those before it, counted, and those after it are sent.
#[test]
fn a_damaged_batch_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path());
    let path = directory.path().join("batch-1");
    let mut bytes = fs::read(&path).unwrap();
    bytes[3] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(found(directory.path()).unwrap(), Some((vec![20], 1)));
}

/// Goal: a state that is torn anywhere, damaged anywhere, of another node or of another boot is refused and removed.
#[test]
fn a_state_that_is_not_ours_is_refused_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    left_behind(directory.path());
    let whole = fs::read(&state).unwrap();
    let torn = (0..whole.len()).step_by(7).map(|len| whole[..len].to_vec());
    let damaged = (0..whole.len()).step_by(7).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for bytes in torn.chain(damaged) {
        fs::write(&state, bytes).unwrap();
        assert!(matches!(found(directory.path()), Err(Refusal::Damaged)));
        assert!(!state.exists());
    }
    let ours = "net:[4026531840]";
    for (node, namespace, ct_zones) in [("b", ours, "all"), ("a", "net:[1]", "all"), ("a", ours, "0")] {
        left_behind(directory.path());
        let mut other = open_in(directory.path(), node, namespace, ct_zones).unwrap();
        let Recovery { recovered, lost_batches } = other.recover(CONFIG, NOW);
        assert!(matches!(recovered, Err(Refusal::Foreign)));
        assert_eq!((lost_batches, kept(directory.path()).unwrap().len()), (2, 0));
    }
}

/// Goal: a state that cannot be written leaves none until the next one, which has the batches from before it; a batch
/// that was never written is counted; two collectors do not share a directory.
#[test]
fn no_state_is_better_than_an_old_one() {
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path());
    let mut held = open(directory.path(), "a", "all").unwrap();
    assert!(matches!(open(directory.path(), "a", "all"), Err(StateDirError::InUse { .. })));
    let Recovered { mut meter, .. } = go_on(&mut held);
    let in_the_way = directory.path().join("state.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(held.save(&mut meter, &[], standing(1, 0)).is_err());
    assert!(directory.path().join("state").exists(), "nothing was cut: it is as right as it was");
    let batches = cut(&mut meter, 30);
    assert!(held.save(&mut meter, &batches, standing(1, 0)).is_err());
    assert!(!directory.path().join("state").exists());
    fs::remove_dir(&in_the_way).unwrap();
    held.save(&mut meter, &[], standing(1, 0)).unwrap();
    drop(held);
    assert_eq!(found(directory.path()).unwrap(), Some((vec![10, 20, 30], 0)));
    fs::remove_file(directory.path().join("batch-1")).unwrap();
    assert_eq!(found(directory.path()).unwrap(), Some((vec![20, 30], 1)));
}

/// Goal: a directory that may not be written says what keeps it from that and what to do.
#[test]
fn a_directory_that_may_not_be_written_says_what_to_do() {
    // Nobody makes a directory there, root included.
    let error = open(Path::new("/sys/egressd-state"), "a", "all").err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot use the state directory /sys/egressd-state (its owner or mode, or a policy such as SELinux, keeps this \
         process out: see collector.seLinuxOptions of the chart, or name another by --state-dir)"
    );
}

/// Goal: what is not ours stays, whatever is refused or found missing.
#[test]
fn foreign_files_are_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = ["other.pid", "batch-x", "state.bak"].map(|name| directory.path().join(name));
    for path in &foreign {
        fs::write(path, "theirs").unwrap();
    }
    assert!(found(directory.path()).unwrap().is_none());
    fs::write(directory.path().join("state"), "no state").unwrap();
    assert!(found(directory.path()).is_err());
    assert!(foreign.iter().all(|path| path.exists()));
}
