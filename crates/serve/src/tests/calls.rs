//! What clients are told, over real sockets.

use std::collections::BTreeMap;

use egressd_protocol::v1;
use egressd_protocol::v1::subscribe_response::Event;
use egressd_service::bearer::{AUTHORIZATION, Guard};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::server::{Heard, Server, bytes};
use super::{batch, batch_of, record};

/// Goal: what is told of a flow is all that is known of it, with the reason where there is no name, in the snapshot and
/// after it; a filter holds for both.
#[tokio::test]
async fn flows_are_told_by_name_first_as_sums_then_as_they_come() {
    let server = Server::start().await;
    let (web, pg) = (
        "web/app-0=Deployment/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp tx=10/1 rx=2/1",
        "pg/db@n2/b fd00::2 > web/app-0=Deployment/app@n1/a fd00::1 udp un=7/1",
    );
    server.put(batch(1, &[web, pg])).await;
    server.put(batch(2, &[web])).await;
    server.until("egressd_exporter_flows_received_bytes_total", 10 + 2 + 7 + 10 + 2).await;
    let only_pg = v1::FlowFilter { namespaces: vec!["pg".to_owned()], ..Default::default() };
    let mut all = server.subscribe(v1::FlowFilter::default()).await;
    let mut some = server.subscribe(only_pg).await;

    let app = v1::FlowEnd {
        address: "10.0.0.1".to_owned(),
        namespace: "web".to_owned(),
        pod: "app-0".to_owned(),
        workload_kind: "Deployment".to_owned(),
        workload: "app".to_owned(),
        node: "n1".to_owned(),
        topology_zone: "a".to_owned(),
        ..Default::default()
    };
    let unknown = v1::FlowEnd {
        address: "8.8.8.8".to_owned(),
        unnamed: v1::Unnamed::Unknown.into(),
        ..Default::default()
    };
    let db = v1::FlowEnd {
        address: "fd00::2".to_owned(),
        namespace: "pg".to_owned(),
        pod: "db".to_owned(),
        node: "n2".to_owned(),
        topology_zone: "b".to_owned(),
        ..Default::default()
    };
    let flow = |local: &v1::FlowEnd, remote: &v1::FlowEnd, protocol, traffic| v1::Flow {
        local: Some(local.clone()),
        remote: Some(remote.clone()),
        protocol,
        traffic: Some(traffic),
    };
    let twice =
        v1::FlowTraffic { tx_bytes: 20, tx_packets: 2, rx_bytes: 4, rx_packets: 2, ..Default::default() };
    let once =
        v1::FlowTraffic { tx_bytes: 10, tx_packets: 1, rx_bytes: 2, rx_packets: 1, ..Default::default() };
    let undirected = v1::FlowTraffic { undirected_bytes: 7, undirected_packets: 1, ..Default::default() };
    let to_app = v1::FlowEnd { address: "fd00::1".to_owned(), ..app.clone() };
    let of_pg = flow(&db, &to_app, 17, undirected);
    let (flows, end) = all.snapshot().await;
    assert_eq!(flows, [flow(&app, &unknown, 6, twice), of_pg.clone()]);
    assert_eq!((end.position, end.rest_flows), (2, 0));
    assert!(end.from_unix_ns < end.to_unix_ns);
    let (flows, end) = some.snapshot().await;
    assert_eq!((flows, end.position), (vec![of_pg.clone()], 2));

    server.put(batch(3, &[web])).await;
    server.put(batch(4, &[pg, web])).await;
    let told = |position, flows| {
        Event::Batch(v1::FlowBatch { node: "n1".to_owned(), position, from_unix_ns: 1, to_unix_ns: 2, flows })
    };
    let of_web = flow(&app, &unknown, 6, once);
    assert_eq!(all.next().await.unwrap(), told(3, vec![of_web.clone()]));
    assert_eq!(all.next().await.unwrap(), told(4, vec![of_pg.clone(), of_web]));
    assert_eq!(some.next().await.unwrap(), told(4, vec![of_pg]));
    let (subscribers, sent) = (
        server.metric("egressd_exporter_flows_subscribers"),
        server.metric("egressd_exporter_flows_sent_records_total"),
    );
    assert_eq!((subscribers, sent), (2, 4));
    server.stop().await;
    let last = all.next().await.unwrap_err();
    assert_eq!((last.code(), last.message()), (Code::Unavailable, "the exporter is stopping"));
}

/// Goal: whenever subscribers join amid batches, snapshot and what follows have every byte of every flow once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_record_is_missing_or_twice_at_the_boundary() {
    const BATCHES: u64 = 300;
    const REMOTES: u64 = 40;
    let server = Server::start().await;
    let line = |position: u64| {
        format!("web/app@n1/a 10.0.0.1 > unknown 8.0.0.{} tcp tx={position}/1", position % REMOTES)
    };
    let mut truth: BTreeMap<String, u64> = BTreeMap::new();
    (1..=BATCHES).for_each(|position| {
        *truth.entry(format!("8.0.0.{}", position % REMOTES)).or_default() += position;
    });
    let feeding = async {
        for position in 1..=BATCHES {
            server.put(batch(position, &[&line(position)])).await;
            tokio::task::yield_now().await;
        }
    };
    let following = async {
        let mut boundaries = Vec::new();
        for _ in 0..8 {
            let mut follower = server.subscribe(v1::FlowFilter::default()).await;
            let (flows, end) = follower.snapshot().await;
            boundaries.push((follower, flows, end.position));
        }
        boundaries
    };
    let ((), boundaries) = tokio::join!(feeding, following);
    for (mut follower, flows, boundary) in boundaries {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |flow: &v1::Flow| {
            *sums.entry(flow.remote.clone().unwrap().address).or_default() += bytes(flow);
        };
        flows.iter().for_each(&mut add);
        for position in boundary + 1..=BATCHES {
            let Event::Batch(batch) = follower.next().await.unwrap() else { panic!("{position}") };
            assert_eq!(batch.position, position);
            batch.flows.iter().for_each(&mut add);
        }
        assert_eq!(sums, truth, "joined after {boundary}");
    }
    server.stop().await;
}

/// Goal: a subscriber that reads nothing for a while is told exactly what it missed, and one that reads misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_subscriber_is_told_what_it_missed_and_a_fast_one_misses_nothing() {
    const BATCHES: u64 = 100;
    const RECORDS: usize = 1_000;
    let server = Server::start().await;
    let mut fast = server.subscribe(v1::FlowFilter::default()).await;
    let mut slow = server.subscribe(v1::FlowFilter::default()).await;
    fast.snapshot().await;
    slow.snapshot().await;
    let one = record("web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=10/1 rx=1/1");
    let records = RECORDS as u64;
    for position in 1..=BATCHES {
        server.put(batch_of(position, vec![one.clone(); RECORDS])).await;
        let heard = fast.read(records).await;
        assert_eq!(heard, Heard { records, bytes: 11 * records, ..Heard::default() });
    }

    let all = BATCHES * records;
    let heard = slow.read(all).await;
    assert_eq!(heard.records + heard.missed_records, all);
    assert_eq!((heard.bytes, heard.missed_bytes), (11 * heard.records, 11 * heard.missed_records));
    assert!(heard.missed_records > 0 && heard.records > 0, "{heard:?}");
    assert_eq!(server.metric("egressd_exporter_flows_missed_records_total"), heard.missed_records);
    assert_eq!(server.metric("egressd_exporter_flows_missed_bytes_total"), heard.missed_bytes);
    server.stop().await;
}

/// Goal: what the feed had no room for is counted, and told to whoever follows as not looked at.
#[tokio::test]
async fn what_found_no_room_on_its_way_is_told() {
    let server = Server::start().await;
    let mut follower = server.subscribe(v1::FlowFilter::default()).await;
    follower.snapshot().await;
    let batches = 2 * crate::FEED_BATCHES_MAX as u64;
    let line = "web/app@n1/a 10.0.0.1 > unknown 8.0.0.1 tcp tx=10/1";
    // Nothing else runs meanwhile: this test has one thread and does not yield.
    for position in 1..=batches {
        server.feed.offer(&batch(position, &[line]));
    }
    let (mut seen, mut unseen) = (0, 0);
    while seen + unseen < batches {
        match follower.next().await.unwrap() {
            Event::Batch(batch) => seen += batch.flows.len() as u64,
            Event::Missed(missed) => {
                assert_eq!((missed.records, missed.unseen_bytes), (0, 10 * missed.unseen_records));
                unseen += missed.unseen_records;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, crate::FEED_BATCHES_MAX as u64);
    let lost = server.metric("egressd_exporter_flows_discarded_bytes_total{reason=\"feed_full\"}");
    assert_eq!(
        (lost, server.metric("egressd_exporter_flows_received_bytes_total")),
        (10 * unseen, 10 * batches)
    );
    server.stop().await;
}

/// Goal: a summary over a socket says the rows asked for, its defaults, and totals that are everything.
#[tokio::test]
async fn a_summary_is_told() {
    let server = Server::start().await;
    let lines: Vec<String> = (0..12)
        .map(|pod| format!("web/app-{pod}@n1/a 10.0.0.{pod} > unknown 8.0.0.1 tcp tx={}/1 rx=1/1", 100 - pod))
        .collect();
    server.put(batch(1, &lines.iter().map(String::as_str).collect::<Vec<_>>())).await;
    server.until("egressd_exporter_flows_received_packets_total", 24).await;
    let request = v1::SummaryRequest { dimensions: vec![v1::Dimension::Pod.into()], ..Default::default() };
    let summary = server.client().await.summary(request).await.unwrap().into_inner();
    let rows: Vec<_> = summary.rows.iter().map(|row| row.local.clone().unwrap().pod).collect();
    let expected: Vec<_> = (0..10).map(|pod| format!("app-{pod}")).collect();
    assert_eq!((rows, summary.rest_rows), (expected, 2));
    let traffic = |tx_bytes, count| v1::FlowTraffic {
        tx_bytes,
        tx_packets: count,
        rx_bytes: count,
        rx_packets: count,
        ..Default::default()
    };
    assert_eq!(summary.rest, Some(traffic(90 + 89, 2)));
    assert_eq!(summary.total, Some(traffic((89..=100).sum(), 12)));
    assert_eq!(summary.folded, Some(v1::FlowTraffic::default()));
    server.stop().await;
}

/// Goal: a client that knows nothing learns which services there are, what they take, and that they are up.
#[tokio::test]
async fn reflection_lists_the_services_and_health_says_they_are_up() {
    let server = Server::start().await;
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("egressd.v1.SubscribeRequest".to_owned())),
    ];
    let answers =
        reflection.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    let answers: Vec<ServerReflectionResponse> =
        tokio_stream::StreamExt::collect::<Vec<_>>(answers).await.into_iter().map(Result::unwrap).collect();
    let [
        Some(MessageResponse::ListServicesResponse(list)),
        Some(MessageResponse::FileDescriptorResponse(file)),
    ] = [0, 1].map(|index: usize| answers[index].message_response.clone())
    else {
        panic!("{answers:?}")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let expected = ["egressd.v1.Flows", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    assert_eq!(names, expected);
    assert!(
        file.file_descriptor_proto
            .iter()
            .any(|file| { file.windows(10).any(|window| window == b"FlowFilter") })
    );
    for service in ["", "egressd.v1.Flows"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(server.channel().await).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service}");
    }
    server.stop().await;
}

/// Goal: where readers must show a token, flows and sums are told to nobody without it, which is counted; health needs none.
#[tokio::test]
async fn readers_show_their_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "secret").unwrap();
    let server = Server::guarded(Guard::new(path).unwrap()).await;
    let mut client = server.client().await;
    for (shown, expected) in [
        (None, Err(Code::Unauthenticated)),
        (Some("Bearer other"), Err(Code::Unauthenticated)),
        (Some("Bearer secret"), Ok(())),
    ] {
        let mut summary = Request::new(v1::SummaryRequest::default());
        let mut subscribe = Request::new(v1::SubscribeRequest::default());
        if let Some(shown) = shown {
            summary.metadata_mut().insert(AUTHORIZATION, shown.parse().unwrap());
            subscribe.metadata_mut().insert(AUTHORIZATION, shown.parse().unwrap());
        }
        assert_eq!(client.subscribe(subscribe).await.map(drop).map_err(|refused| refused.code()), expected);
        let refused = client.summary(summary).await.map(drop).map_err(|refused| refused.code());
        assert_eq!(refused == Err(Code::Unauthenticated), expected.is_err(), "{shown:?}");
    }
    assert!(server.metric("egressd_exporter_flows_refused_total") >= 4);
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
}
