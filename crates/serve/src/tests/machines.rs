//! Filter, queue, window and summary, each from a table; and that nothing is ever missing from a sum.

use std::collections::HashMap;
use std::time::Duration;

use egressd_flow::{Counter, Span, Traffic, UnixNanos};
use egressd_protocol::{
    Dimension, FlowEnd, FlowEvent, FlowFilter, Missed, NamePattern, SummaryOrder, SummaryQuery,
};
use proptest::prelude::*;

use super::{batch, batch_of, record, traffic};
use crate::board::Board;
use crate::feed::Unseen;
use crate::filter::matches;
use crate::question::summarise;
use crate::queue::Queue;
use crate::window::Window;

const NOW: UnixNanos = UnixNanos(10_000_000_000_000);

fn named(namespace: Option<&str>, name: &str) -> NamePattern {
    NamePattern { namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

fn texts(text: &str) -> Vec<String> {
    vec!["other".to_owned(), text.to_owned()]
}

/// Goal: each field of a filter looks at its own part of a record, compares it whole, and an end without a name never
/// has the name asked for.
#[test]
fn a_filter_lets_through_what_was_asked_for() {
    let line =
        "web/app-0=Deployment/app@n1/a 10.0.0.1 > pg/db-0=StatefulSet/db@n2/b 10.0.1.2 tcp tx=10/1 rx=5/1";
    let unnamed = "web/app-0@n1/a 10.0.0.1 > unknown 10.0.1.2 tcp tx=10/1";
    let folded = "web/app-0@n1/a 10.0.0.1 > folded - tcp tx=10/1";
    let any = FlowFilter::default();
    for (filter, expected) in [
        (any.clone(), [true, true, true]),
        (FlowFilter { namespaces: texts("web"), ..any.clone() }, [true, true, true]),
        (FlowFilter { namespaces: texts("pg"), ..any.clone() }, [false, false, false]),
        (FlowFilter { pods: vec![named(None, "app-0")], ..any.clone() }, [true, true, true]),
        (FlowFilter { pods: vec![named(Some("web"), "app-0")], ..any.clone() }, [true, true, true]),
        (FlowFilter { pods: vec![named(Some("pg"), "app-0")], ..any.clone() }, [false, false, false]),
        (FlowFilter { pods: vec![named(None, "app")], ..any.clone() }, [false, false, false]),
        (FlowFilter { nodes: texts("n1"), ..any.clone() }, [true, true, true]),
        (FlowFilter { nodes: texts("n2"), ..any.clone() }, [false, false, false]),
        (FlowFilter { topology_zones: texts("a"), ..any.clone() }, [true, true, true]),
        (FlowFilter { topology_zones: texts("b"), ..any.clone() }, [false, false, false]),
        (
            FlowFilter { remote_ranges: vec!["10.0.1.0/24".parse().unwrap()], ..any.clone() },
            [true, true, false],
        ),
        (
            FlowFilter { remote_ranges: vec!["fd00::/8".parse().unwrap()], ..any.clone() },
            [false, false, false],
        ),
        (FlowFilter { remote_names: vec![named(None, "db")], ..any.clone() }, [true, false, false]),
        (FlowFilter { remote_names: vec![named(Some("pg"), "db-0")], ..any.clone() }, [true, false, false]),
        (FlowFilter { remote_names: vec![named(Some("web"), "db")], ..any.clone() }, [false, false, false]),
        (FlowFilter { remote_names: vec![named(None, "n2")], ..any.clone() }, [true, false, false]),
        (FlowFilter { remote_names: vec![named(None, "unknown")], ..any.clone() }, [false, false, false]),
        (FlowFilter { protocols: vec![record(line).protocol], ..any.clone() }, [true, true, true]),
        (FlowFilter { protocols: vec![egressd_flow::IpProtocol::UDP], ..any.clone() }, [false, false, false]),
        (FlowFilter { least_bytes: 15, ..any.clone() }, [true, false, false]),
        (FlowFilter { least_bytes: 16, ..any.clone() }, [false, false, false]),
        (
            FlowFilter { namespaces: texts("web"), remote_names: vec![named(None, "nobody")], ..any },
            [false, false, false],
        ),
    ] {
        let found = [line, unnamed, folded].map(|line| matches(&filter, &record(line)));
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// Goal: a public address is found, told and summed up by its DNS name, whichever of its addresses it was.
#[test]
fn a_dns_name_is_filtered_and_summed_by() {
    let api = ["192.0.2.1", "192.0.2.2"]
        .map(|address| format!("web/app@n1/a 10.0.0.1 > dns:api.example.com {address} tcp tx=10/1"));
    let filter = |name| FlowFilter { remote_names: vec![name], ..FlowFilter::default() };
    for (name, expected) in [
        (named(None, "api.example.com"), true),
        (named(None, "example.com"), false),
        (named(Some("web"), "api.example.com"), false),
    ] {
        assert_eq!(matches(&filter(name), &record(&api[0])), expected);
    }
    let mut window = Window::new(9);
    window.add(&batch(1, &[&api[0], &api[1]]));
    let query = query(&[Dimension::Remote], SummaryOrder::Sent, 9);
    let [row] = &summarise(&window.view(5, Duration::ZERO), &query, NOW).rows[..] else {
        panic!("not one row")
    };
    let remote = FlowEnd { dns_name: Some("api.example.com".into()), ..FlowEnd::default() };
    assert_eq!((&row.remote, row.traffic.tx.bytes), (&remote, 20));
}

/// Goal: a full queue takes nothing of a batch that does not fit, says how much that was where it is missing, and goes
/// on when there is room.
#[test]
fn a_full_queue_says_what_is_missing_and_where() {
    let flow = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp tx=10/1";
    let mut queue = Queue::new(3);
    let lost = |records, bytes| Missed { records, bytes, ..Missed::default() };
    assert_eq!(queue.offer(batch(1, &[flow, flow])), Ok(()));
    assert_eq!(queue.offer(batch(2, &[flow, flow])), Err(lost(2, 20)));
    assert_eq!(queue.offer(batch(3, &[flow, flow])), Err(lost(2, 20)));
    assert_eq!(queue.offer(batch(4, &[flow])), Ok(()));
    queue.miss(Missed { unseen_records: 7, unseen_bytes: 70, ..Missed::default() });
    assert_eq!(queue.offer(batch(5, &[flow])), Err(lost(1, 10)));
    assert_eq!(queue.take(), Some(FlowEvent::Batch(batch(1, &[flow, flow]))));
    assert_eq!(queue.offer(batch(6, &[flow, flow])), Ok(()));
    let rest: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
    assert_eq!(
        rest,
        [
            FlowEvent::Missed(lost(4, 40)),
            FlowEvent::Batch(batch(4, &[flow])),
            FlowEvent::Missed(Missed { records: 1, bytes: 10, unseen_records: 7, unseen_bytes: 70 }),
            FlowEvent::Batch(batch(6, &[flow, flow])),
        ]
    );
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// The bytes sent of each remote address in a view of so many minutes, and what has none.
fn seen(window: &Window, back: u32, now: Duration) -> (Vec<(String, u64)>, u64) {
    let view = window.view(back, now);
    let mut sums: HashMap<String, u64> = HashMap::new();
    for flow in view.flows() {
        *sums.entry(flow.remote.address.unwrap().to_string()).or_default() += flow.traffic.tx.bytes;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort();
    (sums, view.folded().tx.bytes)
}

fn to(remote: &str, bytes: u64) -> String {
    format!("web/app@n1/a 10.0.0.1 > unknown {remote} tcp tx={bytes}/1")
}

/// Goal: a window without room folds the oldest minute first, whole; a minute that alone is too large folds what is new
/// to it; and bytes stay in the sum until they are an hour old.
#[test]
fn a_window_without_room_folds_the_oldest_minute() {
    let mut window = Window::new(3);
    let add = |window: &mut Window, now, remotes: &[(&str, u64)]| {
        let lines: Vec<String> = remotes.iter().map(|(remote, bytes)| to(remote, *bytes)).collect();
        let let_go = window.advance(now);
        window.add(&batch(1, &lines.iter().map(String::as_str).collect::<Vec<_>>()));
        let_go.bytes
    };
    let pairs = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
        pairs.iter().map(|(remote, bytes)| ((*remote).to_owned(), *bytes)).collect()
    };
    assert_eq!(add(&mut window, minutes(0), &[("8.0.0.1", 1), ("8.0.0.2", 2), ("8.0.0.1", 4)]), 0);
    assert_eq!(seen(&window, 0, minutes(0)), (pairs(&[("8.0.0.1", 5), ("8.0.0.2", 2)]), 0));
    assert_eq!(add(&mut window, minutes(1), &[("8.0.0.1", 8)]), 0);
    assert_eq!(seen(&window, 1, minutes(1)), (pairs(&[("8.0.0.1", 13), ("8.0.0.2", 2)]), 0));
    assert_eq!(seen(&window, 0, minutes(1)), (pairs(&[("8.0.0.1", 8)]), 0));
    assert_eq!(add(&mut window, minutes(2), &[("8.0.0.3", 16)]), 0);
    assert_eq!(seen(&window, 2, minutes(2)), (pairs(&[("8.0.0.1", 8), ("8.0.0.3", 16)]), 7));
    let crowd = [("8.0.0.4", 1), ("8.0.0.5", 1), ("8.0.0.6", 1), ("8.0.0.7", 1), ("8.0.0.4", 1)];
    assert_eq!(add(&mut window, minutes(3), &crowd), 0);
    let last = pairs(&[("8.0.0.4", 2), ("8.0.0.5", 1), ("8.0.0.6", 1)]);
    assert_eq!(seen(&window, 3, minutes(3)), (last.clone(), 7 + 8 + 16 + 1));
    assert_eq!((window.rows(), window.folded_bytes(), window.held().bytes), (3, 32, 36));
    assert_eq!(add(&mut window, minutes(61), &[]), 7);
    assert_eq!(seen(&window, 60, minutes(61)), (last, 8 + 16 + 1));
    assert_eq!(add(&mut window, minutes(64), &[]), 29);
    assert_eq!(seen(&window, 60, minutes(64)), (vec![], 0));
}

fn query(dimensions: &[Dimension], order: SummaryOrder, rows_max: usize) -> SummaryQuery {
    SummaryQuery { window_minutes: 5, dimensions: dimensions.to_vec(), order, rows_max }
}

/// A row as text: both ends as far as they are told, and bytes sent, received and undirected.
fn text(local: &FlowEnd, remote: &FlowEnd, traffic: Traffic) -> String {
    let end = |end: &FlowEnd| {
        let parts = [
            end.address.map(|address| address.to_string()),
            end.namespace.as_deref().map(|name| format!("{name}/")),
            end.pod.as_deref().map(str::to_owned),
            end.workload.as_ref().map(|workload| format!("{}.{}", workload.kind, workload.name)),
            end.node.as_ref().map(|node| format!("@{node}")),
            end.topology_zone.as_ref().map(|domain| format!("({})", domain.0)),
            end.unattributed.map(|reason| format!("[{}]", reason.reason())),
        ];
        parts.into_iter().flatten().collect::<String>()
    };
    let Traffic { tx, rx, undirected } = traffic;
    format!("{} > {}: {}/{}/{}", end(local), end(remote), tx.bytes, rx.bytes, undirected.bytes)
}

const LINES: &[&str] = &[
    "web/app-0=Deployment/app@n1/a 10.0.0.1 > pg/db-0=StatefulSet/db@n2/b 10.0.1.2 tcp tx=100/1 rx=9/1",
    "web/app-1=Deployment/app@n2/b 10.0.1.1 > pg/db-0=StatefulSet/db@n2/b 10.0.1.2 tcp tx=50/1 rx=1/1",
    "web/bare@n1/a 10.0.0.3 > unknown 8.8.8.8 udp tx=30/1 un=500/1",
    "web/bare@n1/a 10.0.0.3 > ambiguous 10.0.1.9 udp tx=20/1",
    "@n1/a 172.18.0.2 > @n2/b 172.18.0.3 tcp rx=70/1",
    "web/bare@n1/a 10.0.0.3 > folded - udp tx=3/1",
];

/// Goal: rows are told apart by what was asked and by nothing else, sorted by the figure asked for, an end without a
/// name shows why, and rows, rest and folded are the total.
#[test]
fn a_summary_has_rows_by_what_was_asked() {
    use Dimension::{Namespace, Node, Pod, Remote, TopologyZones, Workload};
    use SummaryOrder::{All, Received, Sent};
    let mut window = Window::new(100);
    window.advance(minutes(1));
    window.add(&batch(1, LINES));
    let cases: [(&[Dimension], _, usize, &[&str], &str); 9] = [
        (
            &[Pod],
            Sent,
            9,
            &["web/app-0 > : 100/9/0", "web/bare > : 53/0/500", "web/app-1 > : 50/1/0", "@n1 > : 0/70/0"],
            "0: 0/0/0",
        ),
        (&[Workload], Sent, 2, &["web/Deployment.app > : 150/10/0", "web/bare > : 53/0/500"], "1: 0/70/0"),
        (&[Namespace], Sent, 9, &["web/ > : 203/10/500", " > : 0/70/0"], "0: 0/0/0"),
        (&[Node], Received, 9, &["@n1 > : 153/79/500", "@n2 > : 50/1/0"], "0: 0/0/0"),
        (
            &[TopologyZones],
            Sent,
            9,
            &[
                "(a) > (b): 100/79/0",
                "(b) > (b): 50/1/0",
                "(a) > [unknown]: 30/0/500",
                "(a) > [ambiguous]: 20/0/0",
                "(a) > [folded]: 3/0/0",
            ],
            "0: 0/0/0",
        ),
        (
            &[Remote],
            Sent,
            9,
            &[
                " > pg/StatefulSet.db: 150/10/0",
                " > 8.8.8.8[unknown]: 30/0/500",
                " > 10.0.1.9[ambiguous]: 20/0/0",
                " > [folded]: 3/0/0",
                " > @n2: 0/70/0",
            ],
            "0: 0/0/0",
        ),
        (&[Remote], All, 1, &[" > 8.8.8.8[unknown]: 30/0/500"], "4: 173/80/0"),
        (&[Remote], Received, 1, &[" > @n2: 0/70/0"], "4: 203/10/500"),
        (&[Pod, Node, Remote], Sent, 1, &["web/app-0@n1 > pg/StatefulSet.db: 100/9/0"], "5: 103/71/500"),
    ];
    for (dimensions, order, rows_max, rows, rest) in cases {
        let summary = summarise(&window.view(5, minutes(1)), &query(dimensions, order, rows_max), NOW);
        let found: Vec<_> =
            summary.rows.iter().map(|row| text(&row.local, &row.remote, row.traffic)).collect();
        assert_eq!(found, rows, "{dimensions:?}");
        let Traffic { tx, rx, undirected } = summary.rest;
        let found = format!("{}: {}/{}/{}", summary.rest_rows, tx.bytes, rx.bytes, undirected.bytes);
        assert_eq!(found, rest, "{dimensions:?}");
        assert_eq!(summary.total, traffic(&["tx=203/5", "rx=80/3", "un=500/1"]));
        assert_eq!(summary.span, Span { from: NOW.saturating_sub(minutes(1)), to: NOW });
    }
}

/// Goal: a window begins at a whole minute, a minute or less before what was asked, and never before the start.
#[test]
fn a_view_says_how_far_back_it_reaches() {
    for (seconds, minutes, expected) in
        [(0, 5, 0), (30, 5, 30), (359, 5, 359), (360, 5, 300), (3_661, 60, 3_601)]
    {
        let mut window = Window::new(1);
        window.advance(Duration::from_secs(seconds));
        let view = window.view(minutes, Duration::from_secs(seconds));
        assert_eq!(view.reaches_back, Duration::from_secs(expected), "{seconds} s");
    }
}

fn plus(mut one: Traffic, other: Traffic) -> Traffic {
    one += other;
    one
}

proptest! {
    /// Goal: whatever comes whenever, however little room there is, a summary's rows, rest and folded are exactly what
    /// was put in within its window, and the books balance.
    #[test]
    fn every_byte_is_in_a_sum(
        steps in prop::collection::vec((0_u64..200, prop::collection::vec((0_u8..12, 0_u64..1_000, 0_u64..1_000), 0..8)), 1..40),
        rows_max in 1_usize..20,
        window_minutes in 1_u32..=60,
        answer_rows_max in 1_usize..5,
        lost in 0_u64..100,
    ) {
        let mut board = Board::new(rows_max, 10);
        let mut put_in: Vec<(u64, Traffic)> = Vec::new();
        let mut now = Duration::ZERO;
        for (position, (wait, records)) in (1..).zip(&steps) {
            now += Duration::from_secs(*wait);
            let records: Vec<_> = records
                .iter()
                .map(|(remote, tx, rx)| {
                    record(&format!("web/app@n1/a 10.0.0.1 > unknown 8.0.0.{remote} tcp tx={tx}/1 rx={rx}/1"))
                })
                .collect();
            put_in.extend(records.iter().map(|record| (now.as_secs() / 60, record.traffic)));
            board.add(&batch_of(position, records), now);
        }
        board.miss(Unseen { records: 1, traffic: Counter { bytes: lost, packets: 1 } });

        let first = (now.as_secs() / 60).saturating_sub(window_minutes.into());
        let within = put_in.iter().filter(|(minute, _)| *minute >= first).map(|(_, traffic)| *traffic);
        let expected = within.fold(Traffic::default(), plus);
        let query = query(&[Dimension::Remote], SummaryOrder::Sent, answer_rows_max);
        let summary = summarise(&board.view(window_minutes, now), &query, NOW);
        let rows = summary.rows.iter().map(|row| row.traffic).fold(Traffic::default(), plus);
        prop_assert_eq!(plus(plus(rows, summary.rest), summary.folded), expected);
        prop_assert_eq!(summary.total, expected);

        let books = board.books();
        let mut accounted = books.emitted;
        accounted += books.held;
        accounted += books.unseen;
        prop_assert_eq!(books.received, accounted);
        prop_assert!(books.rows <= rows_max, "{} rows", books.rows);
    }
}
