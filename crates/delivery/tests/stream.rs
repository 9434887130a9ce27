//! Both drivers over real sockets: a window against a desk, and a desk against peers that do not behave.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_delivery::dial::{DialConfig, Lines, dial};
use egressd_delivery::roster::{Roster, Tally};
use egressd_delivery::serve::{Desk, ScopeRequest, Taking, serve};
use egressd_delivery::window::Window;
use egressd_delivery::{LedgerMetrics, WindowMetrics};
use egressd_flow::{
    Batch, Counter, Epoch, IpProtocol, NodeName, Owner, Position, Record, Scope, Sequence, Span, Traffic,
    UnixNanos,
};
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_protocol::v1::collection_client::CollectionClient;
use egressd_protocol::{
    Ack, CollectorFlags, Down, HeldEpoch, Hello, Settings, Source, SpoolId, Status, Up, v1,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

const EPOCH: Epoch = Epoch(7);
const PATIENCE: Duration = Duration::from_secs(10);

fn batch(sequence: u64) -> Batch {
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
    let traffic = Traffic { tx: Counter { bytes: sequence, packets: 1 }, ..Traffic::default() };
    Batch {
        epoch: EPOCH,
        sequence: Sequence(sequence),
        span: Span { from: UnixNanos(1), to: UnixNanos(2) },
        owners: vec![Arc::new(owner)],
        records: vec![Record {
            owner: 0,
            remote: Some("10.0.0.2".parse().unwrap()),
            protocol: IpProtocol::TCP,
            traffic,
        }],
    }
}

fn hello() -> Hello {
    Hello {
        node: NodeName("node-a".into()),
        version: "1".to_owned(),
        source: Source::Netfilter,
        last_spool: None,
        epochs: vec![HeldEpoch { epoch: EPOCH, first: Sequence(1) }],
        clock: UnixNanos(1),
        flags: CollectorFlags::default(),
    }
}

/// Tells every collector that its node has no pods.
fn tell_scopes() -> mpsc::Sender<ScopeRequest> {
    let (requests, mut asked) = mpsc::channel::<ScopeRequest>(4);
    tokio::spawn(async move {
        let mut feeds = Vec::new();
        while let Some(ScopeRequest { hello, feed }) = asked.recv().await {
            assert_eq!(hello.node.to_string(), "node-a");
            let as_of = UnixNanos(egressd_service::clock::unix_nanos());
            let whole = Scope { as_of, whole: true, owners: vec![], node_addresses: vec![] };
            feed.try_send(whole).unwrap();
            feeds.push(feed);
        }
    });
    requests
}

/// An exporter's half, with the test in the place of its next stages.
struct Exporter {
    address: SocketAddr,
    takings: mpsc::Receiver<Taking>,
    delivered: watch::Sender<Position>,
    stop: CancellationToken,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
    roster: Roster,
    position: u64,
}

impl Exporter {
    async fn start(spool: u64) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), spool)
    }

    fn start_on(listener: TcpListener, spool: u64) -> Self {
        let (intake, takings) = mpsc::channel(4);
        let (delivered, delivered_out) = watch::channel(Position(0));
        let (stop, roster) = (CancellationToken::new(), Roster::default());
        let desk = Desk {
            spool: SpoolId(spool),
            version: "1",
            intake,
            delivered: delivered_out,
            scopes: tell_scopes(),
            settings: Settings { read_interval: Some(Duration::from_secs(7)), fold: vec![] },
            metrics: LedgerMetrics::register(&mut Registry::default()),
            roster: roster.clone(),
        };
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, desk, stop.clone(), CancellationToken::new()));
        Self { address, takings, delivered, stop, served, roster, position: 0 }
    }

    /// The next batch that the ledger lets in, given a position.
    async fn take(&mut self) -> Sequence {
        let taking =
            timeout(PATIENCE, self.takings.recv()).await.expect("a batch comes").expect("streams are served");
        self.position += 1;
        taking.taken.send(Position(self.position)).expect("the stream waits for the position");
        taking.batch.sequence
    }

    fn deliver(&self) {
        self.delivered.send_replace(Position(self.position));
    }

    /// Stops as the daemon does, with a batch on its way that the next stage does not take any more.
    async fn stop_before_taking(mut self) {
        drop(timeout(PATIENCE, self.takings.recv()).await.expect("a batch is on its way"));
        self.stop.cancel();
        assert!(timeout(PATIENCE, self.takings.recv()).await.expect("the intake closes").is_none());
        self.deliver();
        drop(self.delivered);
        timeout(PATIENCE, self.served).await.expect("streams end").unwrap().unwrap();
    }

    /// Stops as the daemon does: nothing more is taken, everything is delivered, then all is said.
    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(taking) = timeout(PATIENCE, self.takings.recv()).await.expect("the intake closes") {
            self.position += 1;
            taking.taken.send(Position(self.position)).unwrap();
        }
        self.deliver();
        drop(self.delivered);
        timeout(PATIENCE, self.served).await.expect("streams end").unwrap().unwrap();
    }
}

/// A collector's half.
struct Collector {
    cuts: mpsc::Sender<Vec<Batch>>,
    scopes: mpsc::Receiver<Scope>,
    settings: watch::Receiver<Settings>,
    registry: Registry,
    dialling: JoinHandle<()>,
    _status: watch::Sender<Status>,
}

impl Collector {
    fn start(exporter: SocketAddr) -> Self {
        let mut registry = Registry::default();
        let (cuts, cuts_out) = mpsc::channel(1);
        let (scopes_in, scopes) = mpsc::channel(8);
        let (settings, settings_out) = watch::channel(Settings::default());
        let status = Status { source: Source::Netfilter, diagnosis: String::new(), losses: vec![] };
        let (status, status_out) = watch::channel(status);
        let config = DialConfig {
            exporter: exporter.to_string().parse().unwrap(),
            node: NodeName("node-a".into()),
            version: "1",
            source: Source::Netfilter,
            flags: CollectorFlags::default(),
            redial_longest: Duration::from_millis(500),
        };
        let dialling = tokio::spawn(dial(
            config,
            Window::new(EPOCH, 1 << 20, 1 << 20),
            Lines { cuts: cuts_out, scopes: scopes_in, settings, status: status_out },
            WindowMetrics::register(&mut registry),
            CancellationToken::new(),
        ));
        Self { cuts, scopes, settings: settings_out, registry, dialling, _status: status }
    }

    async fn cut(&self, sequences: std::ops::RangeInclusive<u64>) {
        self.cuts.send(sequences.map(batch).collect()).await.unwrap();
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line =
            text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the metric exists");
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    async fn until(&self, name: &str, value: u64) {
        let reached = async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} is {}, not {value}", self.metric(name));
        }
    }

    /// The last cut is made: ends when everything is taken.
    async fn finish(self) {
        drop(self.cuts);
        timeout(PATIENCE, self.dialling).await.expect("everything is taken").unwrap();
    }
}

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
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let mut successor = Exporter::start_on(listener, 2);
    assert_eq!((successor.take().await, successor.take().await), (Sequence(1), Sequence(2)));
    assert_eq!(collector.metric("egressd_collector_window_maybe_twice_bytes_total"), 1 + 2);
    collector.finish().await;
    successor.stop().await;
}

/// A peer that says what the test wants.
struct Peer {
    up: mpsc::Sender<v1::Up>,
    down: Streaming<v1::Down>,
}

impl Peer {
    async fn dial(exporter: &Exporter) -> Self {
        let mut client = CollectionClient::connect(format!("http://{}", exporter.address))
            .await
            .unwrap()
            .max_encoding_message_size(usize::MAX);
        let (up, messages) = mpsc::channel(4);
        let down = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { up, down }
    }

    async fn greet(exporter: &Exporter) -> Self {
        let mut peer = Self::dial(exporter).await;
        peer.say(&Up::Hello(hello())).await;
        assert!(matches!(peer.hear().await, Down::Welcome(welcome) if welcome.spool == SpoolId(1)));
        assert_eq!(peer.hear_ack().await, (0, 0));
        peer
    }

    async fn say(&self, message: &Up) {
        self.up.send(message.to_wire()).await.unwrap();
    }

    async fn hear(&mut self) -> Down {
        let message =
            timeout(PATIENCE, self.down.message()).await.expect("an answer comes").unwrap().unwrap();
        Down::from_wire(message).unwrap().unwrap()
    }

    async fn hear_ack(&mut self) -> (u64, u64) {
        loop {
            if let Down::Ack(Ack { epoch, taken, delivered }) = self.hear().await {
                assert_eq!(epoch, EPOCH);
                return (taken.0, delivered.0);
            }
        }
    }

    /// How the exporter ends the stream.
    async fn hear_end(&mut self) -> (Code, String) {
        loop {
            match timeout(PATIENCE, self.down.message()).await.expect("an answer comes") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
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

/// Goal: a peer that breaks the contract is told how, and nothing of it is taken.
#[tokio::test]
async fn a_peer_that_breaks_the_contract_is_told_how() {
    let mut exporter = Exporter::start(1).await;
    let unnamed_epoch = Batch { epoch: Epoch(8), ..batch(1) };
    let crooked = {
        let mut message = Up::Batch(batch(1)).to_wire();
        if let Some(v1::up::Message::Batch(batch)) = &mut message.message {
            batch.tx_bytes.push(1);
        }
        message
    };
    let huge = v1::Up {
        message: Some(v1::up::Message::Status(v1::Status {
            diagnosis: "x".repeat(MESSAGE_BYTES_MAX),
            ..v1::Status::default()
        })),
    };
    for (message, code, words) in [
        (Up::Batch(batch(2)).to_wire(), Code::OutOfRange, "batch 2 came where 1 was expected"),
        (Up::Batch(unnamed_epoch).to_wire(), Code::InvalidArgument, "an epoch that the Hello did not name"),
        (crooked, Code::InvalidArgument, "column batch.tx_bytes holds 2 rows, the batch has 1"),
        (huge, Code::OutOfRange, "4194304"),
    ] {
        let mut peer = Peer::greet(&exporter).await;
        peer.up.send(message).await.unwrap();
        let (found, text) = peer.hear_end().await;
        assert!(found == code && text.contains(words), "{found:?}: {text}");
    }
    let mut silent = Peer::dial(&exporter).await;
    silent.say(&Up::Batch(batch(1))).await;
    assert_eq!(silent.hear_end().await.0, Code::DeadlineExceeded, "Hello comes first");
    assert!(exporter.takings.try_recv().is_err());
}

/// Goal: the exporter knows of each node whether its collector is there and what it found wrong.
#[tokio::test]
async fn the_exporter_knows_how_its_nodes_are() {
    let exporter = Exporter::start(1).await;
    let tally = |connected, unwell| Tally { connected, unwell, foreign: connected, missing: 0 };
    let until = async |expected: Tally| {
        while exporter.roster.tally() != expected {
            tokio::task::yield_now().await;
        }
    };
    let peer = Peer::greet(&exporter).await;
    timeout(PATIENCE, until(tally(1, 0))).await.expect("it is connected");
    let diagnosis = "acct is off".to_owned();
    peer.say(&Up::Status(Status { source: Source::Netfilter, diagnosis, losses: vec![] })).await;
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
