//! Peers that ask for too much, ask nonsense, or never read.

use std::time::Duration;

use egressd_protocol::limits::{FILTER_TEXT_BYTES_MAX, FILTER_VALUES_MAX};
use egressd_protocol::v1;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use super::server::{Heard, PATIENCE, Server};
use super::{batch_of, record};
use crate::driver::{Patience, SUBSCRIBERS_MAX};

/// Goal: a request that is too large or makes no sense is refused with the name of its field, and nothing is kept of it.
#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let server = Server::start().await;
    let filter = v1::FlowFilter::default;
    let many = |value: &str| vec![value.to_owned(); FILTER_VALUES_MAX + 1];
    let invalid = Code::InvalidArgument;
    for (filter, code, message) in [
        (
            v1::FlowFilter { namespaces: many("web"), ..filter() },
            invalid,
            "filter.namespaces holds 33, at most 32 are allowed",
        ),
        (
            v1::FlowFilter { nodes: vec!["n".repeat(FILTER_TEXT_BYTES_MAX + 1)], ..filter() },
            invalid,
            "filter.nodes holds 318, at most 317 are allowed",
        ),
        (
            v1::FlowFilter { topology_zones: vec![String::new()], ..filter() },
            invalid,
            "filter.topology_zones is not a name: it is empty",
        ),
        (
            v1::FlowFilter { pods: vec!["a/b/c".to_owned()], ..filter() },
            invalid,
            "filter.pods is not a name or namespace/name",
        ),
        (
            v1::FlowFilter { remote_names: vec!["/db".to_owned()], ..filter() },
            invalid,
            "filter.remote_names is not a name or namespace/name",
        ),
        (
            v1::FlowFilter { remote_ranges: vec!["10.0.0.0/33".to_owned()], ..filter() },
            invalid,
            "filter.remote_ranges is not an address or a range",
        ),
        (
            v1::FlowFilter { protocols: vec![6, 256], ..filter() },
            invalid,
            "filter.protocols is 256, out of its range",
        ),
        (
            v1::FlowFilter { protocols: vec![6; FILTER_VALUES_MAX + 1], ..filter() },
            invalid,
            "filter.protocols holds 33, at most 32 are allowed",
        ),
    ] {
        let request = v1::SubscribeRequest { filter: Some(filter) };
        let refused = server.client().await.subscribe(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, message));
    }
    let huge = v1::FlowFilter { namespaces: vec!["n".repeat(1 << 20)], ..filter() };
    let refused =
        server.client().await.subscribe(v1::SubscribeRequest { filter: Some(huge) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");

    let pod = v1::Dimension::Pod.into();
    let summary = |window_minutes, dimensions: &[i32], order, rows_max| v1::SummaryRequest {
        window_minutes,
        dimensions: dimensions.to_vec(),
        order,
        rows_max,
    };
    for (request, message) in [
        (summary(0, &[], 0, 0), "dimensions is missing"),
        (summary(0, &[pod, pod], 0, 0), "dimensions says something twice"),
        (summary(0, &[0], 0, 0), "dimensions is 0, out of its range"),
        (summary(0, &[pod, 99], 0, 0), "dimensions is 99, out of its range"),
        (summary(61, &[pod], 0, 0), "window_minutes is 61, out of its range"),
        (summary(0, &[pod], 4, 0), "order is 4, out of its range"),
        (summary(0, &[pod], 0, 1_001), "rows_max is 1001, out of its range"),
    ] {
        let refused = server.client().await.summary(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (invalid, message));
    }
    assert_eq!(server.metric("egressd_exporter_flows_refused_total"), 15);
    assert_eq!(server.metric("egressd_exporter_flows_subscribers"), 0);
    server.stop().await;
}

/// Goal: of 10,000 subscribers as many are served as there are places, the rest is refused at once, and a place is free
/// again when one leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_subscribers_find_as_many_places_as_there_are() {
    const CONNECTIONS: usize = 10;
    let server = Server::start().await;
    let (mut places, mut refused) = (Vec::new(), 0);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.client().await);
    }
    let mut calls: FuturesUnordered<_> = (0..10_000)
        .map(|number| {
            let mut client = clients[number % CONNECTIONS].clone();
            async move { client.subscribe(v1::SubscribeRequest::default()).await }
        })
        .collect();
    while let Some(answer) = calls.next().await {
        match answer {
            Ok(told) => places.push(told),
            Err(status) => {
                assert_eq!(
                    (status.code(), status.message()),
                    (Code::ResourceExhausted, "there are 32 subscribers")
                );
                refused += 1;
            }
        }
    }
    assert_eq!((places.len(), refused), (SUBSCRIBERS_MAX, 10_000 - SUBSCRIBERS_MAX));
    server.until("egressd_exporter_flows_subscribers", SUBSCRIBERS_MAX as u64).await;
    places.pop();
    server.until("egressd_exporter_flows_subscribers", SUBSCRIBERS_MAX as u64 - 1).await;
    server.subscribe(v1::FlowFilter::default()).await.snapshot().await;
    server.stop().await;
}

/// Goal: a subscriber that never reads is let go after a time, and one beside it that reads has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_never_reads_is_let_go() {
    let brief = Duration::from_millis(200);
    let server = Server::with_patience(Patience { unread: brief, idle: PATIENCE }).await;
    let mut reader = server.subscribe(v1::FlowFilter::default()).await;
    reader.snapshot().await;
    let _never = server.subscribe(v1::FlowFilter::default()).await;
    server.until("egressd_exporter_flows_subscribers", 2).await;
    let one = record("web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=10/1");
    let mut position = 0;
    while server.metric("egressd_exporter_flows_let_go_total") == 0 {
        position += 1;
        server.put(batch_of(position, vec![one.clone(); 1_000])).await;
        let heard = reader.read(1_000).await;
        assert_eq!(heard, Heard { records: 1_000, bytes: 10_000, ..Heard::default() });
    }
    server.until("egressd_exporter_flows_subscribers", 1).await;
    server.stop().await;
}

/// Goal: a connection on which nobody asks anything is cut off.
#[tokio::test]
async fn a_connection_that_says_nothing_is_cut_off() {
    let brief = Duration::from_millis(50);
    let server = Server::with_patience(Patience { unread: PATIENCE, idle: brief }).await;
    let mut dumb = TcpStream::connect(server.address).await.unwrap();
    let mut said = Vec::new();
    // HTTP/2 says its settings first.
    let _either = tokio::time::timeout(PATIENCE, dumb.read_to_end(&mut said)).await.unwrap();
    server.stop().await;
}
