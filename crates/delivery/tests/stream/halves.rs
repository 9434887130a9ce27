//! The halves under test, with the test in the place of what is around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_delivery::dial::{DialConfig, Lines, Security, dial};
use egressd_delivery::ledger::Ledger;
use egressd_delivery::roster::Roster;
use egressd_delivery::serve::{Desk, Heard, Patience, Role, ScopeRequest, Taking, serve};
use egressd_delivery::window::Window;
use egressd_delivery::{LedgerMetrics, WindowMetrics};
use egressd_flow::{
    Batch, Counter, Epoch, IpProtocol, Name, NodeName, Owner, Position, Record, Scope, Sequence, Span,
    Traffic, UnixNanos,
};
use egressd_protocol::v1::collection_client::CollectionClient;
use egressd_protocol::{
    Ack, CollectorFlags, Down, HeldEpoch, Hello, Settings, Source, SpoolId, Status, Up, v1,
};
use egressd_service::tls::{HandshakeMetrics, Shown, Tls};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

pub(crate) const EPOCH: Epoch = Epoch(7);
const LEDGER: &str = "egressd_exporter_ledger";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn batch(sequence: u64) -> Batch {
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

pub(crate) fn hello() -> Hello {
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

/// Tells every collector that its node has no pods. Feeds stay open, as long as their streams do.
fn tell_scopes() -> mpsc::Sender<ScopeRequest> {
    let (requests, mut asked) = mpsc::channel::<ScopeRequest>(4);
    tokio::spawn(async move {
        let mut feeds = Vec::new();
        while let Some(ScopeRequest { feed, .. }) = asked.recv().await {
            let as_of = UnixNanos(egressd_service::clock::unix_nanos());
            let whole = Scope { as_of, whole: true, owners: vec![], node_addresses: vec![] };
            // A collector may have gone meanwhile.
            let _gone = feed.try_send(whole);
            feeds.retain(|feed: &mpsc::Sender<Scope>| !feed.is_closed());
            feeds.push(feed);
        }
    });
    requests
}

/// An exporter's half, with the test in the place of its next stages.
pub(crate) struct Exporter {
    pub(crate) address: SocketAddr,
    pub(crate) takings: mpsc::Receiver<Taking>,
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) delivered: watch::Sender<Position>,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<Result<(), tonic::transport::Error>>,
    registry: Registry,
    pub(crate) roster: Roster,
    pub(crate) role: watch::Sender<Role>,
    position: u64,
}

impl Exporter {
    pub(crate) async fn start(spool: u64) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), spool)
    }

    pub(crate) async fn with_patience(patience: Patience) -> Self {
        Self::start_with(TcpListener::bind("127.0.0.1:0").await.unwrap(), 1, patience, None)
    }

    /// One that shows what is shown there.
    pub(crate) async fn start_secure(spool: u64, shown: &Shown) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_with(listener, spool, Patience::USUAL, Some(shown.clone()))
    }

    pub(crate) fn start_on(listener: TcpListener, spool: u64) -> Self {
        Self::start_with(listener, spool, Patience::USUAL, None)
    }

    fn start_with(listener: TcpListener, spool: u64, patience: Patience, shown: Option<Shown>) -> Self {
        let mut registry = Registry::default();
        let (intake, takings) = mpsc::channel(4);
        let (names, heard) = mpsc::channel(4);
        let (delivered, delivered_out) = watch::channel(Position(0));
        let (stop, roster) = (CancellationToken::new(), Roster::default());
        let (role, role_out) = watch::channel(Role::Leader);
        let desk = Desk {
            spool: SpoolId(spool),
            version: "1",
            intake,
            names,
            ledger: Ledger::default(),
            delivered: delivered_out,
            scopes: tell_scopes(),
            settings: Settings { read_interval: Some(Duration::from_secs(7)), fold: vec![] },
            patience,
            metrics: LedgerMetrics::register(&mut registry),
            roster: roster.clone(),
            role: role_out,
            admission: None,
            tls: shown.map(|shown| Tls::new(shown, HandshakeMetrics::register(&mut registry, LEDGER))),
        };
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, desk, stop.clone(), CancellationToken::new()));
        Self { address, takings, heard, delivered, stop, served, registry, roster, role, position: 0 }
    }

    /// From now on new streams are sent on to `leader`.
    pub(crate) fn stand_by(&self, leader: Option<SocketAddr>) {
        self.role.send_replace(Role::Standby(leader.map(|leader| leader.to_string())));
    }

    /// The next batch that the ledger lets in, given a position.
    pub(crate) async fn take(&mut self) -> Sequence {
        self.take_whole().await.1.sequence
    }

    /// The same, with what it says and who says it.
    pub(crate) async fn take_whole(&mut self) -> (Arc<Hello>, Batch) {
        let Taking { hello, batch, taken } =
            timeout(PATIENCE, self.takings.recv()).await.expect("a batch comes").expect("streams are served");
        self.position += 1;
        taken.send(Position(self.position)).expect("the stream waits for the position");
        (hello, batch)
    }

    pub(crate) async fn until(&self, name: &str, value: u64) {
        until(&self.registry, name, value).await;
    }

    pub(crate) async fn until_at_least(&self, name: &str, value: u64) {
        reached(&self.registry, name, |found| found >= value).await;
    }

    pub(crate) fn deliver(&self) {
        self.delivered.send_replace(Position(self.position));
    }

    /// Stops as the daemon does, with a batch on its way that the next stage does not take any more.
    pub(crate) async fn stop_before_taking(mut self) {
        drop(timeout(PATIENCE, self.takings.recv()).await.expect("a batch is on its way"));
        self.stop.cancel();
        assert!(timeout(PATIENCE, self.takings.recv()).await.expect("the intake closes").is_none());
        self.deliver();
        drop(self.delivered);
        timeout(PATIENCE, self.served).await.expect("streams end").unwrap().unwrap();
    }

    /// Stops as the daemon does: nothing more is taken, everything is delivered, then all is said.
    pub(crate) async fn stop(mut self) {
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

fn metric(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    // What is counted by reason is there once it is counted.
    let Some(line) = line else { return if name.contains('{') { 0 } else { panic!("no {name}") } };
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn until(registry: &Registry, name: &str, value: u64) {
    reached(registry, name, |found| found == value).await;
}

async fn reached(registry: &Registry, name: &str, is_enough: impl Fn(u64) -> bool) {
    let reached = async {
        while !is_enough(metric(registry, name)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, reached).await.is_err() {
        panic!("{name} is still {}", metric(registry, name));
    }
}

/// A collector's half.
pub(crate) struct Collector {
    cuts: mpsc::Sender<Vec<Batch>>,
    pub(crate) names: mpsc::Sender<Name>,
    pub(crate) scopes: mpsc::Receiver<Scope>,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) registry: Registry,
    pub(crate) dialling: JoinHandle<()>,
    pub(crate) abandon: CancellationToken,
    _status: watch::Sender<Status>,
}

impl Collector {
    pub(crate) fn start(exporter: SocketAddr) -> Self {
        Self::start_with(exporter, Security::Plain)
    }

    pub(crate) fn start_with(exporter: SocketAddr, security: Security) -> Self {
        let mut registry = Registry::default();
        let (cuts, cuts_out) = mpsc::channel(1);
        let (scopes_in, scopes) = mpsc::channel(8);
        let (names, names_out) = mpsc::channel(8);
        let (settings, settings_out) = watch::channel(Settings::default());
        let status = Status {
            source: Source::Netfilter,
            reason: String::new(),
            diagnosis: String::new(),
            losses: vec![],
        };
        let (status, status_out) = watch::channel(status);
        let window = Window::new(EPOCH, 1 << 20, 1 << 20);
        let (progress, _) = watch::channel(window.progress());
        let config = DialConfig {
            exporter: exporter.to_string().parse().unwrap(),
            security,
            node: NodeName("node-a".into()),
            version: "1",
            source: Source::Netfilter,
            flags: CollectorFlags::default(),
            redial_longest: Duration::from_millis(500),
        };
        let abandon = CancellationToken::new();
        let dialling = tokio::spawn(dial(
            config,
            window,
            Lines {
                cuts: cuts_out,
                names: names_out,
                scopes: scopes_in,
                settings,
                status: status_out,
                progress,
            },
            WindowMetrics::register(&mut registry),
            abandon.clone(),
        ));
        Self { cuts, names, scopes, settings: settings_out, registry, dialling, abandon, _status: status }
    }

    pub(crate) async fn cut(&self, sequences: std::ops::RangeInclusive<u64>) {
        self.cuts.send(sequences.map(batch).collect()).await.unwrap();
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.registry, name)
    }

    pub(crate) async fn until(&self, name: &str, value: u64) {
        until(&self.registry, name, value).await;
    }

    /// The last cut is made: ends when everything is taken.
    pub(crate) async fn finish(self) {
        drop(self.cuts);
        timeout(PATIENCE, self.dialling).await.expect("everything is taken").unwrap();
    }
}

/// A peer that says what the test wants.
pub(crate) struct Peer {
    pub(crate) up: mpsc::Sender<v1::Up>,
    pub(crate) down: Streaming<v1::Down>,
}

impl Peer {
    pub(crate) async fn dial(exporter: &Exporter) -> Self {
        let mut client = CollectionClient::connect(format!("http://{}", exporter.address))
            .await
            .unwrap()
            .max_encoding_message_size(usize::MAX);
        let (up, messages) = mpsc::channel(4);
        let down = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { up, down }
    }

    pub(crate) async fn greet(exporter: &Exporter) -> Self {
        Self::greet_from(exporter, "node-a").await
    }

    pub(crate) async fn greet_from(exporter: &Exporter, node: &str) -> Self {
        let mut peer = Self::dial(exporter).await;
        peer.say(&Up::Hello(Hello { node: NodeName(node.into()), ..hello() })).await;
        assert!(matches!(peer.hear().await, Down::Welcome(welcome) if welcome.spool == SpoolId(1)));
        assert_eq!(peer.hear_ack().await, (0, 0));
        peer
    }

    pub(crate) async fn say(&self, message: &Up) {
        self.say_wire(message.to_wire()).await;
    }

    pub(crate) async fn say_wire(&self, message: v1::Up) {
        self.up.send(message).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Down {
        let message =
            timeout(PATIENCE, self.down.message()).await.expect("an answer comes").unwrap().unwrap();
        Down::from_wire(message).unwrap().unwrap()
    }

    pub(crate) async fn hear_ack(&mut self) -> (u64, u64) {
        loop {
            if let Down::Ack(Ack { epoch, taken, delivered }) = self.hear().await {
                assert_eq!(epoch, EPOCH);
                return (taken.0, delivered.0);
            }
        }
    }

    /// How the exporter ends the stream.
    pub(crate) async fn hear_end(&mut self) -> (Code, String) {
        loop {
            match timeout(PATIENCE, self.down.message()).await.expect("an answer comes") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
}
