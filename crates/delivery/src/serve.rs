//! The exporter's driver: collectors' streams in, batches for the next stage out.
//!
//! Each stream has a task of its own. A batch that the ledger lets in goes to the next stage as a [`Taking`]; when
//! that says at which position it stands, it is committed and acknowledged. While it waits for room there its stream
//! reads nothing more, so one batch a stream is held here, and goes on telling acknowledgements and scopes. A stop
//! follows the data: nothing more is taken, the next stage sees its channel close and lets everything out, then each
//! collector gets its last Ack and a Redirect. A standby answers Hello with a Redirect to the leader, and takes nothing.
//! Where collectors have to show who they are, Hello is answered when it is known that they speak for their own node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::{Batch, NodeName, Position, Scope, UnixNanos};
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_protocol::v1::collection_server::{Collection, CollectionServer};
use egressd_protocol::{Ack, Down, Hello, Settings, SpoolId, Up, Welcome, v1};
use egressd_service::bearer::Token;
use egressd_service::clock::unix_nanos;
use egressd_service::connections::{Line, Talk, connections};
use egressd_service::figures::ReasonLabel;
use egressd_service::lifecycle::chain;
use egressd_service::seldom::Seldom;
use egressd_service::tls::Tls;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::ledger::{HelloError, Ledger, NODES_MAX, StreamId};
use crate::metrics::LedgerMetrics;
use crate::roster::Roster;

mod admission;
mod hangup;
mod names;
mod offer;
mod role;

use admission::admit;
pub use admission::{Claim, NotAdmitted};
use hangup::Hangup;
pub use names::Heard;
use offer::{News, Offer, Offering, next_of};
pub use role::Role;
use role::send_on;

/// How long a peer may keep us waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From a stream's beginning to its Hello. A connection without a conversation is cut off after twice this.
    pub hello: Duration,
    /// Between two messages of a collector.
    pub silence: Duration,
    /// For a message to leave the queue of those on their way to a collector.
    pub unread: Duration,
}

impl Patience {
    /// Hello is the first thing a collector says; it says its Status twice a minute, and reads all the time.
    pub const USUAL: Self = Self {
        hello: Duration::from_secs(10),
        silence: Duration::from_secs(120),
        unread: Duration::from_secs(30),
    };
}

/// One for each node that may have an account, and for those that are coming or going.
const CONNECTIONS_MAX: usize = NODES_MAX + 1_000;
/// How often the log says that collectors are told to come back.
const COMPLAINED_EVERY: Duration = Duration::from_secs(10);
/// How long a redirected collector may take to hang up.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// How often a stream looks whether its predecessor's last batch is taken by now.
const RESERVED_POLL: Duration = Duration::from_millis(20);
/// Messages on their way to one collector.
const DOWN_QUEUE: usize = 64;
/// Scopes on their way to one stream: a burst of pods, while the collector reads.
const SCOPES_QUEUE: usize = 64;

/// A batch that the ledger let in.
#[derive(Debug)]
pub struct Taking {
    /// Whose it is.
    pub hello: Arc<Hello>,
    /// What came; its span is by our clock.
    pub batch: Batch,
    /// Where it stands now; dropped when it could not be taken.
    pub taken: oneshot::Sender<Position>,
}

/// A collector that wants to know its node's scope.
#[derive(Debug)]
pub struct ScopeRequest {
    /// Whose.
    pub hello: Arc<Hello>,
    /// Where to: the whole scope first, then changes and how old it is, for as long as the receiver lives.
    pub feed: mpsc::Sender<Scope>,
}

/// What the driver needs from the rest of the exporter.
pub struct Desk {
    /// The spool's id.
    pub spool: SpoolId,
    /// Our version.
    pub version: &'static str,
    /// Where batches go. Closed when the last taking is over after `stop`.
    pub intake: mpsc::Sender<Taking>,
    /// Where DNS answers go; what it has no room for is discarded, counted.
    pub names: mpsc::Sender<Heard>,
    /// The account to go on with: that of a durable spool, or none.
    pub ledger: Ledger,
    /// Up to where every sink has accepted, or where the ledger's durable spool is safe. Its sender goes when nothing more
    /// will be.
    pub delivered: watch::Receiver<Position>,
    /// Who tells what is whose on a node.
    pub scopes: mpsc::Sender<ScopeRequest>,
    /// What we decide for collectors.
    pub settings: Settings,
    /// How long collectors may keep us waiting.
    pub patience: Patience,
    /// Our figures.
    pub metrics: LedgerMetrics,
    /// Where collectors are told of.
    pub roster: Roster,
    /// Whether streams are taken or sent on. One that is open goes on until `stop`.
    pub role: watch::Receiver<Role>,
    /// `None`: plain text.
    pub tls: Option<Tls>,
    /// Who says which collector may speak for which node; `None`: each for any.
    pub admission: Option<mpsc::Sender<Claim>>,
}

/// Serves collectors until `stop` fires and every one of them has its last word, or `abandon` fires.
///
/// # Errors
/// HTTP/2 could not be set up; no peer can cause it.
pub async fn serve(
    listener: TcpListener,
    desk: Desk,
    stop: CancellationToken,
    abandon: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let mut delivered = desk.delivered.clone();
    let idle_max = 2 * desk.patience.hello;
    let shared = Arc::new(Shared {
        is_durable: desk.ledger.is_durable(),
        ledger: Mutex::new(desk.ledger),
        streams: Mutex::default(),
        intake: Mutex::new(Some(desk.intake)),
        names: desk.names,
        spool: desk.spool,
        version: desk.version,
        delivered: desk.delivered,
        scopes: desk.scopes,
        settings: desk.settings,
        patience: desk.patience,
        metrics: desk.metrics,
        roster: desk.roster,
        role: desk.role,
        admission: desk.admission,
        complaints: Seldom::new(COMPLAINED_EVERY),
        stop: stop.clone(),
    });
    let closing = Arc::clone(&shared);
    let settled = async move {
        stop.cancelled().await;
        closing.close_intake();
        // The sender goes when the sinks have let everything out.
        while delivered.changed().await.is_ok() {}
    };
    let service = CollectionServer::new(Service(shared))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = connections(listener, CONNECTIONS_MAX, idle_max, desk.tls);
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // A collector's one stream.
        .max_concurrent_streams(1)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, settled);
    tokio::select! {
        served = serving => served,
        () = abandon.cancelled() => Ok(()),
    }
}

struct Shared {
    is_durable: bool,
    ledger: Mutex<Ledger>,
    /// Each node's stream; a newer one ends it.
    streams: Mutex<HashMap<NodeName, CancellationToken>>,
    /// `None` once nothing more is taken. Streams clone it for one taking at a time, so that it closes then.
    intake: Mutex<Option<mpsc::Sender<Taking>>>,
    names: mpsc::Sender<Heard>,
    spool: SpoolId,
    version: &'static str,
    delivered: watch::Receiver<Position>,
    scopes: mpsc::Sender<ScopeRequest>,
    settings: Settings,
    patience: Patience,
    metrics: LedgerMetrics,
    roster: Roster,
    role: watch::Receiver<Role>,
    admission: Option<mpsc::Sender<Claim>>,
    complaints: Seldom,
    stop: CancellationToken,
}

impl Shared {
    /// Nobody panics while holding it, and the ledger's steps are whole in any case.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<NodeName, CancellationToken>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intake(&self) -> Option<mpsc::Sender<Taking>> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn close_intake(&self) {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Notes what the sinks accepted and writes the figures.
    fn settle(&self) {
        let through = *self.delivered.borrow();
        let mut ledger = self.ledger();
        ledger.delivered(through);
        self.metrics.publish(&ledger.books());
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Collection for Service {
    type StreamStream = ReceiverStream<Result<v1::Down, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::Up>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        if self.0.stop.is_cancelled() {
            return Err(Status::unavailable("the exporter is stopping"));
        }
        let line = request.extensions().get::<Line>().cloned();
        let line = line.ok_or_else(|| Status::internal("the connection is not ours"))?;
        let token = Token::shown_in(request.metadata());
        let (down, answers) = mpsc::channel(DOWN_QUEUE);
        let shared = Arc::clone(&self.0);
        let caller = Caller { line, token };
        // Of its own, so that a batch which is being taken is committed also when the collector hangs up.
        tokio::spawn(async move { converse(shared, request.into_inner(), down, caller).await });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Who called, as far as the call tells.
struct Caller {
    line: Line,
    token: Option<Token>,
}

async fn converse(
    shared: Arc<Shared>,
    up: Streaming<v1::Up>,
    down: mpsc::Sender<Result<v1::Down, Status>>,
    caller: Caller,
) {
    shared.metrics.streams.inc();
    let answers = down.clone();
    let peer = caller.line.peer;
    let hangup = match Conversation::open(Arc::clone(&shared), up, down, caller).await {
        Ok(mut conversation) => {
            let hangup = conversation.run().await;
            info!(node = %conversation.hello.node, reason = %chain(&hangup), "stream closed");
            hangup
        }
        Err(Hangup::Standby) => {
            debug!(%peer, "stream redirected");
            Hangup::Standby
        }
        Err(hangup) => {
            // Five thousand that are told to come back are one fact.
            if !hangup.may_pass() || shared.complaints.may() {
                warn!(%peer, reason = %chain(&hangup), "stream refused");
            }
            hangup
        }
    };
    if let Some(reason) = hangup.not_admitted() {
        shared.metrics.not_admitted.get_or_create(&ReasonLabel { reason }).inc();
    }
    shared.metrics.streams.dec();
    if hangup.is_peers_fault() {
        shared.metrics.refused.inc();
    }
    if let Some(status) = hangup.status() {
        // A full queue means that nobody reads: there is nobody to tell.
        let _unread = answers.try_send(Err(status));
    }
}

/// A node's place among the streams, given back when its stream ends, however it ends.
struct Seat {
    shared: Arc<Shared>,
    node: NodeName,
    stream: StreamId,
    replaced: CancellationToken,
    _talk: Talk,
}

impl Seat {
    /// Ends the node's older stream and takes its place.
    fn take(shared: &Arc<Shared>, hello: &Hello, talk: Talk) -> Result<Self, HelloError> {
        let stream = shared.ledger().hello(&hello.node, &hello.epochs, UnixNanos(unix_nanos()))?;
        let replaced = CancellationToken::new();
        if let Some(older) = shared.streams().insert(hello.node.clone(), replaced.clone()) {
            older.cancel();
        }
        Ok(Self { shared: Arc::clone(shared), node: hello.node.clone(), stream, replaced, _talk: talk })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut streams = self.shared.streams();
        if !self.replaced.is_cancelled() {
            self.shared.roster.hung_up(&self.node, UnixNanos(unix_nanos()));
            streams.remove(&self.node);
        }
        drop(streams);
        self.shared.ledger().left(&self.node, self.stream);
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stream's stack")]
enum Event {
    Said(Result<Option<v1::Up>, Status>),
    Delivered { more_to_come: bool },
    Offered(Result<News, Hangup>),
    Scope(Scope),
    Replaced,
    Stop,
    Silent,
}

struct Conversation {
    shared: Arc<Shared>,
    hello: Arc<Hello>,
    /// Our clock less the collector's, in nanoseconds, late by Hello's time on its way.
    clock_ahead: i128,
    seat: Seat,
    up: Streaming<v1::Up>,
    down: mpsc::Sender<Result<v1::Down, Status>>,
    delivered: watch::Receiver<Position>,
    scopes: mpsc::Receiver<Scope>,
    acked: Vec<Ack>,
    /// The batch heard last, until it is taken: nothing more is read meanwhile.
    offer: Option<Offer>,
    heard: Instant,
    taking: bool,
    diagnosis: String,
}

impl Conversation {
    /// Hears Hello and answers it.
    async fn open(
        shared: Arc<Shared>,
        mut up: Streaming<v1::Up>,
        down: mpsc::Sender<Result<v1::Down, Status>>,
        Caller { line, token }: Caller,
    ) -> Result<Self, Hangup> {
        let within = shared.patience.hello;
        let first = tokio::time::timeout(within, up.message())
            .await
            .map_err(|_| Hangup::NoHello(within))?
            .map_err(Hangup::Broken)?
            .ok_or(Hangup::Closed)?;
        let Some(Up::Hello(hello)) = Up::from_wire(first)? else { return Err(Hangup::NotHello) };
        let leads = *shared.role.borrow() == Role::Leader;
        if !leads {
            send_on(&shared, &mut up, &down).await?;
            shared.metrics.redirected.inc();
            return Err(Hangup::Standby);
        }
        // It may take longer than a connection without a conversation may last.
        let talk = line.converse();
        admit(&shared, token, &hello.node, &down).await?;
        let seat = Seat::take(&shared, &hello, talk)?;
        info!(node = %hello.node, version = %hello.version, source = ?hello.source, "stream opened");
        let hello = Arc::new(hello);
        let (feed, scopes) = mpsc::channel(SCOPES_QUEUE);
        let request = ScopeRequest { hello: Arc::clone(&hello), feed };
        shared.scopes.send(request).await.map_err(|_| Hangup::Stopping)?;
        let mut conversation = Self {
            delivered: shared.delivered.clone(),
            scopes,
            clock_ahead: i128::from(unix_nanos()) - i128::from(hello.clock.0),
            hello,
            shared,
            seat,
            up,
            down,
            acked: Vec::new(),
            offer: None,
            heard: Instant::now(),
            taking: true,
            diagnosis: String::new(),
        };
        let welcome = Welcome {
            spool: conversation.shared.spool,
            durable: conversation.shared.is_durable,
            version: conversation.shared.version.to_owned(),
            clock: UnixNanos(unix_nanos()),
        };
        conversation.say(&Down::Welcome(welcome)).await?;
        conversation.say(&Down::Settings(conversation.shared.settings.clone())).await?;
        conversation.acknowledge(News::Again).await?;
        conversation.shared.roster.dialled(&conversation.hello, UnixNanos(unix_nanos()));
        Ok(conversation)
    }

    async fn run(&mut self) -> Hangup {
        loop {
            let event = self.next_event().await;
            let outcome = match event {
                Event::Said(Ok(Some(message))) => self.hear(message),
                Event::Said(Ok(None)) => Err(Hangup::Closed),
                Event::Said(Err(status)) => Err(Hangup::Broken(status)),
                Event::Scope(scope) => self.say(&Down::Scope { scope, clock: UnixNanos(unix_nanos()) }).await,
                Event::Replaced => Err(Hangup::Replaced),
                Event::Silent => Err(Hangup::Silent(self.shared.patience.silence)),
                Event::Stop => {
                    self.taking = false;
                    Ok(())
                }
                Event::Offered(offered) => self.offered(offered).await,
                Event::Delivered { more_to_come: true } => {
                    self.shared.settle();
                    self.acknowledge(News::Taken).await
                }
                Event::Delivered { more_to_come: false } => self.farewell().await,
            };
            if let Err(hangup) = outcome {
                let _settled = self.offer_ends().await;
                return hangup;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let silent_at = self.heard + self.shared.patience.silence;
        let listens = self.taking && self.offer.is_none();
        tokio::select! {
            // Acknowledgements first: they free the collector's memory.
            biased;
            changed = self.delivered.changed() => Event::Delivered { more_to_come: changed.is_ok() },
            Some(scope) = self.scopes.recv() => Event::Scope(scope),
            () = self.seat.replaced.cancelled() => Event::Replaced,
            () = self.shared.stop.cancelled(), if self.taking => Event::Stop,
            Some(offered) = next_of(&mut self.offer) => Event::Offered(offered),
            said = self.up.message(), if listens => Event::Said(said),
            () = tokio::time::sleep_until(silent_at), if listens => Event::Silent,
        }
    }

    fn hear(&mut self, message: v1::Up) -> Result<(), Hangup> {
        self.heard = Instant::now();
        match Up::from_wire(message)? {
            Some(Up::Batch(batch)) => {
                let (shared, hello) = (Arc::clone(&self.shared), Arc::clone(&self.hello));
                let offer =
                    Offering { shared, hello, stream: self.seat.stream, clock_ahead: self.clock_ahead };
                self.offer = Some(Box::pin(offer.take(batch)));
                Ok(())
            }
            Some(Up::Status(status)) => {
                self.note(status);
                Ok(())
            }
            Some(Up::Names(names)) => {
                names::pass_on(&self.shared, &self.hello, names, self.clock_ahead);
                Ok(())
            }
            // A second Hello says nothing new.
            Some(Up::Hello(_)) => Ok(()),
            None => {
                self.shared.metrics.unknown_messages.inc();
                Ok(())
            }
        }
    }

    /// Says once what is wrong with a collector, and that it no longer is.
    fn note(&mut self, status: egressd_protocol::Status) {
        let diagnosis = status.diagnosis.clone();
        self.shared.roster.said(&self.hello.node, status, UnixNanos(unix_nanos()));
        if diagnosis == self.diagnosis {
            return;
        }
        if diagnosis.is_empty() {
            info!(node = %self.hello.node, "the node's collector is well again");
        } else {
            warn!(node = %self.hello.node, %diagnosis, "the node's collector is not well");
        }
        self.diagnosis = diagnosis;
    }

    async fn offered(&mut self, offered: Result<News, Hangup>) -> Result<(), Hangup> {
        self.offer = None;
        self.heard = Instant::now();
        self.acknowledge(offered?).await
    }

    /// Brings the batch that is on its way, if one is, to its end.
    async fn offer_ends(&mut self) -> Option<Result<News, Hangup>> {
        let offered = next_of(&mut self.offer).await;
        self.offer = None;
        offered
    }

    async fn acknowledge(&mut self, news: News) -> Result<(), Hangup> {
        let acks = self.shared.ledger().acks(&self.hello.node);
        for ack in acks.iter().filter(|ack| news == News::Again || !self.acked.contains(ack)) {
            self.say(&Down::Ack(*ack)).await?;
        }
        self.acked = acks;
        Ok(())
    }

    /// Everything is let out: the last word, and the collector hangs up.
    async fn farewell(&mut self) -> Result<(), Hangup> {
        // What the next stage took it took before it let everything out.
        let _settled = self.offer_ends().await;
        self.shared.settle();
        self.acknowledge(News::Taken).await?;
        send_on(&self.shared, &mut self.up, &self.down).await?;
        Err(Hangup::Stopping)
    }

    async fn say(&self, message: &Down) -> Result<(), Hangup> {
        say(&self.down, message, self.shared.patience.unread).await
    }
}

async fn say(
    down: &mpsc::Sender<Result<v1::Down, Status>>,
    message: &Down,
    within: Duration,
) -> Result<(), Hangup> {
    for message in message.to_wire() {
        tokio::time::timeout(within, down.send(Ok(message)))
            .await
            .map_err(|_| Hangup::Unread(within))?
            .map_err(|_| Hangup::Closed)?;
    }
    Ok(())
}
