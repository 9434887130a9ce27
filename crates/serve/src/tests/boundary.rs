//! Where a snapshot ends and what follows begins.

use std::time::Duration;

use egressd_flow::{Position, Traffic, UnixNanos};
use egressd_protocol::{FlowEvent, FlowFilter, Missed};

use super::{batch, record};
use crate::board::Board;
use crate::feed::Unseen;
use crate::question::snapshot;

const NOW: UnixNanos = UnixNanos(1);

fn snapshot_of(
    board: &mut Board,
    filter: &FlowFilter,
    flows_max: usize,
) -> (crate::board::SubscriberId, [FlowEvent; 2]) {
    let beginning = board.subscribe(filter.clone(), Duration::ZERO);
    let events = snapshot(&beginning.view, filter, flows_max, beginning.position, NOW);
    (beginning.subscriber, events)
}

/// Goal: wherever among the batches a subscriber joins, each record is told once: in the snapshot's sums, or after it.
#[test]
fn every_record_is_told_once_wherever_a_subscriber_joins() {
    let lines = ["8.0.0.1", "8.0.0.2", "8.0.0.1", "8.0.0.3"];
    let batches: Vec<_> = (1_u64..)
        .zip(lines)
        .map(|(position, remote)| {
            batch(
                position,
                &[&format!("web/app@n1/a 10.0.0.1 > unknown {remote} tcp tx={}/1", 1 << position)],
            )
        })
        .collect();
    for joins_after in 0..=batches.len() {
        let mut board = Board::new(100, 100);
        let (before, after) = batches.split_at(joins_after);
        before.iter().for_each(|batch| board.add(batch, Duration::ZERO));
        let (subscriber, events) = snapshot_of(&mut board, &FlowFilter::default(), 100);
        after.iter().for_each(|batch| board.add(batch, Duration::ZERO));

        let [FlowEvent::Snapshot(flows), FlowEvent::SnapshotEnd(end)] = events else { panic!("{events:?}") };
        assert_eq!(end.position, Position(joins_after as u64));
        let of_snapshot: u64 = flows.iter().map(|flow| flow.traffic.tx.bytes).sum();
        let of_before: u64 = before.iter().map(|batch| batch.sum().bytes).sum();
        assert_eq!(of_snapshot, of_before);
        let followed: Vec<_> = std::iter::from_fn(|| board.take(subscriber)).collect();
        let expected: Vec<_> = after.iter().cloned().map(FlowEvent::Batch).collect();
        assert_eq!(followed, expected);
    }
}

/// Goal: a snapshot has the flows asked for, each once, the largest first; what it has no room for is its rest.
#[test]
fn a_snapshot_has_the_largest_flows_and_their_rest() {
    let mut board = Board::new(100, 100);
    board.add(
        &batch(
            1,
            &[
                "web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=10/1",
                "web/app@n1/a 10.0.0.1 > unknown 8.0.0.2 tcp tx=40/1",
                "web/two@n1/a 10.0.0.2 > unknown 8.0.0.1 tcp tx=99/1",
            ],
        ),
        Duration::ZERO,
    );
    board.add(
        &batch(
            2,
            &[
                "web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=20/1",
                "web/app@n1/a 10.0.0.1 > unknown 8.0.0.3 tcp tx=25/2",
                "web/app@n1/a 10.0.0.1 > unknown 8.0.0.4 tcp tx=24/1",
            ],
        ),
        Duration::ZERO,
    );
    let filter = FlowFilter { least_bytes: 25, pods: vec![], nodes: vec![], ..FlowFilter::default() };
    let filter = FlowFilter {
        pods: vec![egressd_protocol::NamePattern { namespace: None, name: "app".to_owned() }],
        ..filter
    };
    let (_, events) = snapshot_of(&mut board, &filter, 2);
    let [FlowEvent::Snapshot(flows), FlowEvent::SnapshotEnd(end)] = events else { panic!("{events:?}") };
    let expected = [
        record("web/app@n1/a 10.0.0.1 > unknown 8.0.0.2 tcp tx=40/1"),
        record("web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=30/2"),
    ];
    assert_eq!(flows, expected);
    let rest = record("web/app@n1/a 10.0.0.1 > unknown 8.0.0.3 tcp tx=25/2").traffic;
    assert_eq!((end.rest_flows, end.rest, end.folded), (1, rest, Traffic::default()));
}

/// Goal: a subscriber's filter decides what it is told and what it is told to have missed; what nobody looked at is told
/// to all.
#[test]
fn a_subscriber_misses_only_what_it_asked_for() {
    let mut board = Board::new(100, 1);
    let filter = FlowFilter { namespaces: vec!["web".to_owned()], ..FlowFilter::default() };
    let (subscriber, _) = snapshot_of(&mut board, &filter, 100);
    let (web, pg) = (
        "web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=10/1",
        "pg/db@n1/a 10.0.0.2 > unknown 8.0.0.1 tcp tx=99/1",
    );
    board.add(&batch(1, &[pg]), Duration::ZERO);
    board.add(&batch(2, &[pg, web]), Duration::ZERO);
    board.add(&batch(3, &[web, pg]), Duration::ZERO);
    let traffic = record(pg).traffic.sum();
    board.miss(Unseen { records: 4, traffic });
    let missed = Missed { records: 1, bytes: 10, unseen_records: 4, unseen_bytes: 99 };
    assert_eq!(board.books().missed, missed);
    let told: Vec<_> = std::iter::from_fn(|| board.take(subscriber)).collect();
    assert_eq!(told, [FlowEvent::Batch(batch(2, &[web])), FlowEvent::Missed(missed)]);
    board.leave(subscriber);
    board.add(&batch(4, &[web]), Duration::ZERO);
    assert_eq!((board.take(subscriber), board.books().subscribers), (None, 0));
}
