//! A server under test on loopback, and its clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::AttributedBatch;
use egressd_protocol::v1;
use egressd_protocol::v1::flows_client::FlowsClient;
use egressd_protocol::v1::subscribe_response::Event;
use egressd_service::bearer::Guard;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::driver::{Entrance, Patience, serve};
use crate::feed::{Feed, feed};
use crate::metrics::FlowsMetrics;

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

pub(super) struct Server {
    pub(super) feed: Feed,
    pub(super) address: SocketAddr,
    registry: Registry,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with_patience(Patience { unread: PATIENCE, idle: PATIENCE }).await
    }

    pub(super) async fn with_patience(patience: Patience) -> Self {
        Self::start_with(patience, Entrance::default()).await
    }

    /// One that asks readers for a token.
    pub(super) async fn guarded(readers: Guard) -> Self {
        let patience = Patience { unread: PATIENCE, idle: PATIENCE };
        Self::start_with(patience, Entrance { tls: None, readers: Some(readers) }).await
    }

    async fn start_with(patience: Patience, entrance: Entrance) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        let metrics = FlowsMetrics::register(&mut registry);
        let (feed, inbox) = feed();
        let served =
            tokio::spawn(serve(listener, entrance, inbox, patience, metrics, CancellationToken::new()));
        Self { feed, address, registry, served }
    }

    pub(super) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(super) async fn client(&self) -> FlowsClient<Channel> {
        FlowsClient::new(self.channel().await)
    }

    pub(super) async fn subscribe(&self, filter: v1::FlowFilter) -> Follower {
        let request = v1::SubscribeRequest { filter: Some(filter) };
        let told = self.client().await.subscribe(request).await.unwrap().into_inner();
        Follower { told }
    }

    /// Puts a batch in, however long that takes.
    pub(super) async fn put(&self, batch: Arc<AttributedBatch>) {
        self.feed.batches.send(batch).await.unwrap();
    }

    pub(super) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    pub(super) async fn until(&self, name: &str, expected: u64) {
        let reached = async {
            while self.metric(name) != expected {
                tokio::time::sleep(POLL).await;
            }
        };
        let found = timeout(PATIENCE, reached).await;
        assert!(found.is_ok(), "{name} is {} and not {expected}", self.metric(name));
    }

    /// Nothing more comes; ends when everybody was told.
    pub(super) async fn stop(self) {
        drop(self.feed);
        timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
    }
}

pub(super) struct Follower {
    told: Streaming<v1::SubscribeResponse>,
}

/// What a follower heard of, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) missed_records: u64,
    pub(super) missed_bytes: u64,
}

impl Follower {
    pub(super) async fn next(&mut self) -> Result<Event, Status> {
        let message = timeout(PATIENCE, self.told.message()).await.unwrap()?;
        Ok(message.expect("a stream ends with a status").event.unwrap())
    }

    /// The snapshot's flows and its end.
    pub(super) async fn snapshot(&mut self) -> (Vec<v1::Flow>, v1::SnapshotEnd) {
        let mut flows = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Event::SnapshotPart(part) => flows.extend(part.flows),
                Event::SnapshotEnd(end) => return (flows, end),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads until so many records came or were missed. Positions rise.
    pub(super) async fn read(&mut self, records: u64) -> Heard {
        let mut heard = Heard::default();
        let mut position = 0;
        while heard.records + heard.missed_records < records {
            match self.next().await.unwrap() {
                Event::Batch(batch) => {
                    assert!(position <= batch.position, "{position} {}", batch.position);
                    position = batch.position;
                    heard.records += batch.flows.len() as u64;
                    heard.bytes += batch.flows.iter().map(bytes).sum::<u64>();
                }
                Event::Missed(missed) => {
                    heard.missed_records += missed.records;
                    heard.missed_bytes += missed.bytes;
                    assert_eq!(missed.unseen_records, 0);
                }
                other => panic!("{other:?}"),
            }
        }
        heard
    }
}

/// Of all directions.
pub(super) fn bytes(flow: &v1::Flow) -> u64 {
    let traffic = flow.traffic.unwrap();
    traffic.tx_bytes + traffic.rx_bytes + traffic.undirected_bytes
}
