//! Both drivers over real sockets: a window against a desk, each against peers that do not behave, and each against
//! recorded peers of another version.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod halves;
mod hostile;
mod raw;
mod secure;
mod skew;
mod standby;

use std::net::SocketAddr;
use std::time::Duration;

use egressd_delivery::roster::Tally;
use egressd_delivery::serve::Heard;
use egressd_flow::{Name, NodeName, Position, Sequence, UnixNanos};
use egressd_protocol::{Source, Status, Up};
use egressd_service::clock::unix_nanos;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::Code;

use crate::halves::{Collector, Exporter, PATIENCE, Peer, batch, hello};

/// Goal: batches cross in order, leave the window only when delivered, and the scope comes back by our clock.
#[tokio::test]
async fn batches_leave_the_window_when_they_are_delivered() {
    let mut exporter = Exporter::start(1).await;
    let mut collector = Collector::start(exporter.address);
    collector.cut(1..=3).await;
    for expected in 1..=3 {
        assert_eq!(exporter.take().await, Sequence(expected));
    }
    assert_eq!(collector.metric("egressd_collector_window_held_batches"), 3);
    exporter.deliver();
    collector.until("egressd_collector_window_held_batches", 0).await;
    assert_eq!(collector.metric("egressd_collector_window_emitted_bytes_total"), 1 + 2 + 3);
    let scope = timeout(PATIENCE, collector.scopes.recv()).await.unwrap().unwrap();
    let age = UnixNanos(egressd_service::clock::unix_nanos()).since(scope.as_of);
    assert!(scope.whole && age < PATIENCE, "{age:?}");
    assert_eq!(collector.settings.borrow().read_interval, Some(Duration::from_secs(7)));
    collector.finish().await;
    exporter.stop().await;
}

/// Goal: a collector that stops waits until everything is taken, not until it is delivered.
#[tokio::test]
async fn a_collector_that_stops_waits_until_everything_is_taken() {
    let mut exporter = Exporter::start(1).await;
    let collector = Collector::start(exporter.address);
    collector.cut(1..=2).await;
    let finished = tokio::spawn(collector.finish());
    exporter.take().await;
    assert!(!finished.is_finished());
    exporter.take().await;
    finished.await.unwrap();
    exporter.stop().await;
}

/// Goal: an exporter that stops in good order acknowledges what it delivered; the rest goes to its successor, once.
#[tokio::test]
async fn a_successor_gets_what_was_not_taken() {
    let mut exporter = Exporter::start(1).await;
    let address = exporter.address;
    let collector = Collector::start(address);
    collector.cut(1..=3).await;
    exporter.take().await;
    exporter.take().await;
    exporter.stop_before_taking().await;
    collector.until("egressd_collector_window_held_batches", 1).await;
    let mut successor = Exporter::start_on(TcpListener::bind(address).await.unwrap(), 2);
    assert_eq!(successor.take().await, Sequence(3));
    assert_eq!(collector.metric("egressd_collector_window_maybe_twice_bytes_total"), 0);
    successor.deliver();
    collector.finish().await;
    successor.stop().await;
}

/// Goal: an exporter that dies is asked again with all that it did not call delivered, and the doubt is counted.
#[tokio::test]
async fn what_a_dead_exporter_took_is_sent_again() {
    let mut exporter = Exporter::start(1).await;
    let address = exporter.address;
    let collector = Collector::start(address);
    collector.cut(1..=2).await;
    exporter.take().await;
    exporter.take().await;
    exporter.served.abort();
    // Its streams' tasks live on in this process; without their channels they end like a dead process's.
    drop((exporter.takings, exporter.delivered));
    collector.until("egressd_collector_window_connected", 0).await;
    let mut successor = Exporter::start_on(bind_again(address).await, 2);
    assert_eq!((successor.take().await, successor.take().await), (Sequence(1), Sequence(2)));
    assert_eq!(collector.metric("egressd_collector_window_maybe_twice_bytes_total"), 1 + 2);
    collector.finish().await;
    successor.stop().await;
}

async fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn name(host: u8) -> Name {
    Name {
        address: [192, 0, 2, host].into(),
        name: format!("host-{host}.example.com").into(),
        time_to_live: Duration::from_secs(60),
        seen: UnixNanos(unix_nanos()),
        asker: Some([10, 0, 0, 1].into()),
    }
}

/// Goal: names are told before the batch that was cut after them, and again to an exporter that begins anew.
#[tokio::test]
async fn names_come_before_the_batch_and_again_on_a_new_stream() {
    let mut first = Exporter::start(1).await;
    let collector = Collector::start(first.address);
    for host in 1..=3 {
        collector.names.send(name(host)).await.unwrap();
    }
    collector.until("egressd_collector_names_received_total", 3).await;
    collector.cut(1..=1).await;
    first.take().await;
    let told = |heard: Heard| heard.names.into_iter().map(|name| name.name.to_string()).collect::<Vec<_>>();
    let names = [1, 2, 3].map(|host| format!("host-{host}.example.com"));
    let heard = first.heard.try_recv().expect("names before the batch");
    assert_eq!(heard.node, NodeName("node-a".into()));
    assert_eq!(told(heard), names);
    let address = first.address;
    first.served.abort();
    drop((first.takings, first.heard, first.delivered));
    collector.until("egressd_collector_window_connected", 0).await;
    let mut second = Exporter::start_on(bind_again(address).await, 2);
    second.take().await;
    assert_eq!(told(second.heard.try_recv().expect("all names again")), names);
}

/// Goal: a stream whose batch waits for the next stage goes on telling what is delivered.
#[tokio::test]
async fn a_batch_that_waits_holds_no_acknowledgement_up() {
    let mut exporter = Exporter::start(1).await;
    let mut peer = Peer::greet(&exporter).await;
    peer.say(&Up::Batch(batch(1))).await;
    exporter.take().await;
    assert_eq!(peer.hear_ack().await, (1, 0));
    peer.say(&Up::Batch(batch(2))).await;
    let waits = timeout(PATIENCE, exporter.takings.recv()).await.unwrap().unwrap();
    exporter.deliver();
    assert_eq!(peer.hear_ack().await, (1, 1));
    waits.taken.send(Position(2)).unwrap();
    assert_eq!(peer.hear_ack().await, (2, 1));
    exporter.stop().await;
}

/// Goal: a batch is taken once, however often it is sent, on this stream or the next.
#[tokio::test]
async fn a_batch_sent_again_is_acknowledged_and_not_taken() {
    let mut exporter = Exporter::start(1).await;
    let mut peer = Peer::greet(&exporter).await;
    peer.say(&Up::Batch(batch(1))).await;
    assert_eq!(exporter.take().await, Sequence(1));
    assert_eq!(peer.hear_ack().await, (1, 0));
    peer.say(&Up::Batch(batch(1))).await;
    assert_eq!(peer.hear_ack().await, (1, 0));
    exporter.deliver();
    assert_eq!(peer.hear_ack().await, (1, 1));
    let again = Peer::dial(&exporter).await;
    again.say(&Up::Hello(hello())).await;
    let (code, message) = peer.hear_end().await;
    assert_eq!((code, &*message), (Code::Aborted, "a newer stream of this node has taken over"));
    again.say(&Up::Batch(batch(1))).await;
    again.say(&Up::Batch(batch(2))).await;
    assert_eq!(exporter.take().await, Sequence(2));
    assert!(exporter.takings.try_recv().is_err());
}

/// Goal: the exporter knows of each node whether its collector is there and what it found wrong.
#[tokio::test]
async fn the_exporter_knows_how_its_nodes_are() {
    let exporter = Exporter::start(1).await;
    let tally = |connected, unwell| Tally { connected, unwell, foreign: connected, missing: 0 };
    let until = async |expected: Tally| {
        while exporter.roster.tally(UnixNanos(1)) != expected {
            tokio::task::yield_now().await;
        }
    };
    let peer = Peer::greet(&exporter).await;
    timeout(PATIENCE, until(tally(1, 0))).await.expect("it is connected");
    let diagnosis = "acct is off".to_owned();
    peer.say(&Up::Status(Status {
        source: Source::Netfilter,
        reason: String::new(),
        diagnosis,
        losses: vec![],
    }))
    .await;
    timeout(PATIENCE, until(tally(1, 1))).await.expect("it is not well");
    drop(peer);
    timeout(PATIENCE, until(tally(0, 0))).await.expect("it is gone");
}

/// Goal: an exporter's address is a host and a port, and nothing else.
#[test]
fn an_address_is_a_host_and_a_port() {
    use egressd_delivery::dial::ExporterAddress;
    for address in ["egressd-exporter:6062", "10.0.0.1:6062", "[fd00::1]:6062"] {
        assert_eq!(address.parse::<ExporterAddress>().unwrap().to_string(), address);
    }
    for address in
        ["", "exporter", ":6062", "exporter:port", "not an address", "http://exporter:6062", "exporter:1/x"]
    {
        assert!(address.parse::<ExporterAddress>().is_err(), "{address}");
    }
}
