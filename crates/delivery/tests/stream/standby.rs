//! Exporters that stand by, and collectors that find the one that leads.

use std::net::SocketAddr;
use std::time::Duration;

use egressd_delivery::serve::Role;
use egressd_flow::Sequence;
use egressd_protocol::{Down, Up};
use tokio::net::TcpListener;
use tonic::Code;

use crate::halves::{Collector, Exporter, PATIENCE, Peer, hello};

const REDIRECTED: &str = "egressd_exporter_ledger_redirected_streams_total";
const MAYBE_TWICE: &str = "egressd_collector_window_maybe_twice_bytes_total";

/// Where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Goal: a standby answers Hello with the leader's address and nothing else, and hangs up.
#[tokio::test]
async fn a_standby_names_the_leader_and_takes_nothing() {
    let mut standby = Exporter::start(1).await;
    for leader in [Some(nobody().await), None] {
        standby.stand_by(leader);
        let mut peer = Peer::dial(&standby).await;
        peer.say(&Up::Hello(hello())).await;
        let expected = leader.map(|leader| leader.to_string());
        assert!(matches!(peer.hear().await, Down::Redirect(address) if address == expected));
        let Peer { up, mut down } = peer;
        drop(up);
        let end = tokio::time::timeout(PATIENCE, down.message()).await.expect("it hangs up").unwrap_err();
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "another exporter leads"));
    }
    assert!(standby.takings.try_recv().is_err());
}

/// Goal: a collector that dials a standby comes to the leader, and what it held meanwhile is in no doubt.
#[tokio::test]
async fn a_collector_follows_to_the_leader() {
    let (standby, mut leader) = (Exporter::start(1).await, Exporter::start(2).await);
    standby.stand_by(Some(leader.address));
    let collector = Collector::start(standby.address);
    collector.cut(1..=2).await;
    assert_eq!([leader.take().await, leader.take().await], [1, 2].map(Sequence));
    assert_eq!(collector.metric(MAYBE_TWICE), 0);
    standby.until(REDIRECTED, 1).await;
    leader.deliver();
    collector.finish().await;
    leader.stop().await;
}

/// Goal: where the address of a dead leader is all that is known, the configured one is dialled again until another
/// leads; what the dead one had taken is in doubt, counted once, however many hops it took.
#[tokio::test]
async fn an_address_that_refuses_leads_back_to_the_configured_one() {
    let (mut standby, mut leader) = (Exporter::start(1).await, Exporter::start(2).await);
    standby.stand_by(Some(leader.address));
    let collector = Collector::start(standby.address);
    collector.cut(1..=2).await;
    assert_eq!([leader.take().await, leader.take().await], [1, 2].map(Sequence));
    leader.served.abort();
    drop((leader.takings, leader.delivered));
    standby.until_at_least(REDIRECTED, 3).await;
    assert_eq!(collector.metric(MAYBE_TWICE), 0);
    standby.role.send_replace(Role::Leader);
    assert_eq!([standby.take().await, standby.take().await], [1, 2].map(Sequence));
    assert_eq!(collector.metric(MAYBE_TWICE), 1 + 2);
    standby.deliver();
    collector.finish().await;
    standby.stop().await;
}

/// Goal: two standbys that name each other do not make a collector run in circles: it waits before each hop.
#[tokio::test]
async fn standbys_that_name_each_other_are_asked_slowly() {
    let (one, mut other) = (Exporter::start(1).await, Exporter::start(2).await);
    one.stand_by(Some(other.address));
    other.stand_by(Some(one.address));
    let began = tokio::time::Instant::now();
    let collector = Collector::start(one.address);
    collector.cut(1..=1).await;
    one.until_at_least(REDIRECTED, 5).await;
    // Eight waits of up to half a second each: all of them in this time has a chance below 1 in 10^9.
    assert!(began.elapsed() > Duration::from_millis(100), "{:?}", began.elapsed());
    other.role.send_replace(Role::Leader);
    assert_eq!(other.take().await, Sequence(1));
    other.deliver();
    collector.finish().await;
    other.stop().await;
}
