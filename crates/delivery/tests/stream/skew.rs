//! Collector and exporter of different versions: the first shape that landed, recorded, and one that is still to come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egressd_flow::{Counter, IpProtocol, NodeName, Owner, Record, Scope, Sequence, Traffic, UnixNanos};
use egressd_protocol::{CollectorFlags, Down, HeldEpoch, Hello, Settings, Source, SpoolId, Up, v1};
use prost::Message as _;
use tokio::time::timeout;
use tonic::Streaming;

use crate::halves::{Collector, EPOCH, Exporter, PATIENCE, batch};
use crate::raw;

/// What the recorded halves said; see `recorded/README.md`.
fn recorded(way: &str) -> Vec<Bytes> {
    let lines = include_str!("recorded/first.hex").lines();
    let messages = lines.filter_map(|line| line.split_once(' ').filter(|(said, _)| *said == way));
    messages.map(|(_, hex)| bytes_of(hex)).collect()
}

fn bytes_of(hex: &str) -> Bytes {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// The same message as a later version may say it: unknown fields at both levels, of every wire type in use.
fn of_the_future(message: &Bytes) -> Bytes {
    /// Field 1000, a varint; 1001, 64 bits; 1002, bytes; 1003, 32 bits.
    const UNKNOWN: &[u8] = b"\xc0\x3e\x01\xc9\x3e64 bits.\xd2\x3e\x03new\xdd\x3e32b.";
    // Each message is one field: a tag of one byte, a length, and its body.
    let mut body = message.slice(1..);
    let length = prost::encoding::decode_varint(&mut body).unwrap();
    assert_eq!(length, body.len() as u64);
    let mut later = vec![message[0]];
    prost::encoding::encode_varint((body.len() + UNKNOWN.len()) as u64, &mut later);
    [&later, &body[..], UNKNOWN, UNKNOWN].concat().into()
}

/// A message of a kind that this version does not know: member 200 of the oneof.
const UNKNOWN_KIND: &[u8] = &[0xc2, 0x0c, 0x02, 0x08, 0x01];

async fn hear(down: &mut Streaming<Bytes>) -> Down {
    let message = timeout(PATIENCE, down.message()).await.expect("an answer comes").unwrap().unwrap();
    Down::from_wire(v1::Down::decode(message).unwrap()).unwrap().unwrap()
}

/// The next Ack's sequences, taken and delivered.
async fn hear_ack(down: &mut Streaming<Bytes>) -> (u64, u64) {
    loop {
        if let Down::Ack(ack) = hear(down).await {
            assert_eq!(ack.epoch, EPOCH);
            return (ack.taken.0, ack.delivered.0);
        }
    }
}

fn owner(address: &str, until: Option<UnixNanos>, measure: bool) -> Arc<Owner> {
    Arc::new(Owner {
        address: address.parse().unwrap(),
        pod_uid: "3f1c0de5-uid".into(),
        namespace: "shop".into(),
        name: "web-0".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        since: UnixNanos(1_795_372_000_000_000_000),
        until,
        measure,
    })
}

fn record(owner: u32, remote: Option<&str>, protocol: IpProtocol, traffic: Traffic) -> Record {
    Record { owner, remote: remote.map(|address| address.parse().unwrap()), protocol, traffic }
}

fn tx(bytes: u64, packets: u64) -> Traffic {
    Traffic { tx: Counter { bytes, packets }, ..Traffic::default() }
}

/// What the recorded batches say.
fn recorded_batches() -> [(Vec<Arc<Owner>>, Vec<Record>); 3] {
    let web = owner("10.0.0.1", None, true);
    let both = Traffic { rx: Counter { bytes: 90_000, packets: 70 }, ..tx(1000, 10) };
    let undirected = Traffic { undirected: Counter { bytes: 5, packets: 1 }, ..Traffic::default() };
    let first = vec![
        record(0, Some("10.0.1.2"), IpProtocol::TCP, both),
        record(1, Some("2001:db8::7"), IpProtocol::UDP, tx(148, 1)),
        record(0, None, IpProtocol::TCP, undirected),
    ];
    let small = |bytes| vec![record(0, Some("198.51.100.7"), IpProtocol::TCP, tx(bytes, 1))];
    [
        (vec![web.clone(), owner("fd00::1", None, true)], first),
        (vec![web.clone()], small(2)),
        (vec![web], small(3)),
    ]
}

/// Plays a collector's messages to today's exporter: every batch is taken once, as it was said.
async fn plays_to_the_exporter(messages: Vec<Bytes>, source: Source) -> Exporter {
    let mut exporter = Exporter::start(1).await;
    let (up, mut down) = raw::open(raw::connect(exporter.address).await).await;
    for message in messages {
        up.send(message).await.unwrap();
    }
    assert!(matches!(hear(&mut down).await, Down::Welcome(welcome) if welcome.spool == SpoolId(1)));
    assert_eq!(hear_ack(&mut down).await, (0, 0));
    for (taken, (owners, records)) in (1..).zip(recorded_batches()) {
        let (hello, batch) = exporter.take_whole().await;
        let expected = Hello {
            node: NodeName("node-a".into()),
            version: "0.0.0".to_owned(),
            source,
            last_spool: None,
            epochs: vec![HeldEpoch { epoch: EPOCH, first: Sequence(1) }],
            clock: hello.clock,
            flags: CollectorFlags {
                exclude_namespaces: vec!["kube-system".to_owned()],
                group_public_ips: true,
            },
        };
        assert_eq!(*hello, expected);
        assert_eq!((batch.epoch, batch.sequence), (EPOCH, Sequence(taken)));
        assert_eq!((batch.owners, batch.records), (owners, records));
        // Played faster than it was recorded, a batch comes before its time, and is cut at now.
        let length = batch.span.to.since(batch.span.from);
        assert!((Duration::from_secs(14)..=Duration::from_secs(15)).contains(&length), "{length:?}");
        let age = UnixNanos(egressd_service::clock::unix_nanos()).since(batch.span.to);
        assert!(age < PATIENCE, "{age:?}");
        assert_eq!(hear_ack(&mut down).await, (taken, 0));
    }
    exporter.deliver();
    assert_eq!(hear_ack(&mut down).await, (3, 3));
    exporter
}

/// Goal: a collector of the first shape is served by today's exporter as by its own.
#[tokio::test]
async fn a_collector_of_the_first_shape_is_served() {
    let exporter = plays_to_the_exporter(recorded("up"), Source::Netfilter).await;
    exporter.until("egressd_exporter_ledger_unknown_messages_total", 0).await;
}

/// Goal: what a later collector says beyond today's contract is passed over, and the rest is taken.
#[tokio::test]
async fn a_later_collector_is_served() {
    let mut messages: Vec<Bytes> = recorded("up").iter().map(of_the_future).collect();
    // A source that is still to come, in Hello's field 3: of a field said twice, the last one stands.
    let mut hello = v1::Up::decode(messages[0].clone()).unwrap();
    if let Some(v1::up::Message::Hello(hello)) = &mut hello.message {
        hello.source = 99;
    }
    messages[0] = of_the_future(&hello.encode_to_vec().into());
    for place in [messages.len(), 2, 1] {
        messages.insert(place, Bytes::from_static(UNKNOWN_KIND));
    }
    let exporter = plays_to_the_exporter(messages, Source::Unknown).await;
    exporter.until("egressd_exporter_ledger_unknown_messages_total", 3).await;
}

/// Plays an exporter's messages to today's collector, each Ack once its batch has come: scopes and settings take
/// effect, and every batch leaves the window.
async fn plays_to_the_collector(messages: Vec<Bytes>) -> Collector {
    let (address, mut calls) = raw::exporter().await;
    let mut collector = Collector::start(address);
    let mut call = timeout(PATIENCE, calls.recv()).await.expect("it dials").unwrap();
    let (mut cut, mut scopes) = (0, Vec::new());
    for message in messages {
        let known = v1::Down::decode(message.clone()).unwrap();
        match Down::from_wire(known).unwrap() {
            Some(Down::Ack(ack)) if ack.taken.0 > cut => {
                cut = ack.taken.0;
                collector.cut(cut..=cut).await;
                assert_eq!(next_batch(&mut call.up).await, Up::Batch(batch(cut)));
                call.down.send(Ok(message)).await.unwrap();
            }
            Some(Down::Scope { .. }) => {
                call.down.send(Ok(message)).await.unwrap();
                scopes.push(timeout(PATIENCE, collector.scopes.recv()).await.expect("it is told").unwrap());
            }
            _ => call.down.send(Ok(message)).await.unwrap(),
        }
    }
    // The recording ends with a Redirect.
    timeout(PATIENCE, calls.recv()).await.expect("it dials again").unwrap();
    assert_eq!(cut, 3);
    assert_eq!(collector.metric("egressd_collector_window_held_batches"), 0);
    assert_eq!(collector.metric("egressd_collector_window_emitted_bytes_total"), 1 + 2 + 3);
    let settings = Settings {
        read_interval: Some(Duration::from_secs(7)),
        fold: vec![("198.51.100.0".parse().unwrap(), 24), ("2001:db8::".parse().unwrap(), 32)],
    };
    assert_eq!(*collector.settings.borrow(), settings);
    assert_scopes(&scopes);
    collector
}

async fn next_batch(up: &mut Streaming<Bytes>) -> Up {
    loop {
        let message = timeout(PATIENCE, up.message()).await.expect("a batch comes").unwrap().unwrap();
        let said = Up::from_wire(v1::Up::decode(message).unwrap()).unwrap().unwrap();
        if matches!(said, Up::Batch(_)) {
            return said;
        }
    }
}

/// The recorded scopes, as old on our clock as they were on the exporter's at its Welcome.
fn assert_scopes(scopes: &[Scope]) {
    let [first, second] = scopes else { panic!("{scopes:?}") };
    let whole = Scope {
        as_of: first.as_of,
        whole: true,
        owners: vec![owner("10.0.0.1", None, true), owner("fd00::1", None, false)],
        node_addresses: vec!["172.18.0.2".parse().unwrap()],
    };
    assert_eq!(*first, whole);
    let age = UnixNanos(egressd_service::clock::unix_nanos()).since(first.as_of);
    assert!((Duration::from_secs(5)..PATIENCE).contains(&age), "{age:?}");
    let ended = second.owners[0].until;
    assert!(ended.is_some());
    let change = Scope {
        as_of: second.as_of,
        whole: false,
        owners: vec![owner("10.0.0.1", ended, true)],
        node_addresses: vec![],
    };
    assert_eq!(*second, change);
    let between = second.as_of.since(first.as_of);
    assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&between), "{between:?}");
}

/// Goal: an exporter of the first shape, whose scopes tell no clock, is understood by today's collector.
#[tokio::test]
async fn an_exporter_of_the_first_shape_is_understood() {
    let collector = plays_to_the_collector(recorded("down")).await;
    assert_eq!(collector.metric("egressd_collector_window_unknown_messages_total"), 0);
}

/// Goal: what a later exporter says beyond today's contract is passed over, and the rest is understood.
#[tokio::test]
async fn a_later_exporter_is_understood() {
    let mut messages: Vec<Bytes> = recorded("down").iter().map(of_the_future).collect();
    for place in [messages.len() - 1, 2, 1] {
        messages.insert(place, Bytes::from_static(UNKNOWN_KIND));
    }
    let collector = plays_to_the_collector(messages).await;
    assert_eq!(collector.metric("egressd_collector_window_unknown_messages_total"), 3);
}
