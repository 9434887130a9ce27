//! The gRPC server: batches in, answers out.
//!
//! One loop puts batches on the board; a task for each subscriber takes from it and waits for its reader, so that
//! nobody waits for anybody else. Questions are answered one at a time on a thread of their own.
//! A stop follows the data: the feed closes, each subscriber is told what waits for it and that this is the end.
//! Bound: [`CONNECTIONS_MAX`], [`SUBSCRIBERS_MAX`], and [`CALLS_MAX`] calls of a connection, whose requests are of
//! [`FLOW_REQUEST_BYTES_MAX`] each: 168 MB if all peers mean harm at once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::UnixNanos;
use egressd_protocol::limits::{FLOW_REQUEST_BYTES_MAX, MESSAGE_BYTES_MAX};
use egressd_protocol::v1::flows_server::{Flows, FlowsServer};
use egressd_protocol::{FLOWS_DESCRIPTOR, FlowEvent, FlowFilter, SummaryQuery, WireError, v1};
use egressd_service::bearer::{AUTHORIZATION, Guard};
use egressd_service::clock::unix_nanos;
use egressd_service::connections::{Line, Talk, connections};
use egressd_service::tls::Tls;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};
use tracing::debug;

use crate::board::{Board, SubscriberId};
use crate::feed::Inbox;
use crate::metrics::FlowsMetrics;
use crate::question::{SNAPSHOT_FLOWS_MAX, snapshot, summarise};
use crate::queue::QUEUE_RECORDS_MAX;
use crate::window::ROWS_MAX;

/// Who may follow flows at the same time.
pub const SUBSCRIBERS_MAX: usize = 32;
/// Connections, for subscribers and for those who ask once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// Calls of one connection at the same time: more than there can be subscribers, so that these leave room for a
/// question.
const CALLS_MAX: u32 = 40;

const _: () = assert!(SUBSCRIBERS_MAX < CALLS_MAX as usize);

/// How often the window moves on though nothing comes.
const TICK: Duration = Duration::from_secs(10);
/// How long subscribers may take to read the last of it at a stop.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// How long a peer may keep us waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a subscriber to make room for one message.
    pub unread: Duration,
    /// For a connection on which nobody subscribes and no summary is being made.
    pub idle: Duration,
}

impl Patience {
    /// A reader of any kind reads twice a minute; who asks once has asked within a minute.
    pub const USUAL: Self = Self { unread: Duration::from_secs(30), idle: Duration::from_secs(60) };
}

/// Who gets in, and how.
#[derive(Clone, Default)]
pub struct Entrance {
    /// `None`: plain text.
    pub tls: Option<Tls>,
    /// Who asks for a token before flows are told; `None`: nobody. Health and reflection tell nothing of flows.
    pub readers: Option<Guard>,
}

/// Serves until the feed has closed and every subscriber has its last word, or `abandon` fires.
///
/// # Errors
/// HTTP/2 could not be set up; no peer can cause it.
pub async fn serve(
    listener: TcpListener,
    entrance: Entrance,
    inbox: Inbox,
    patience: Patience,
    metrics: FlowsMetrics,
    abandon: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let shared = Arc::new(Shared {
        board: Mutex::new(Board::new(ROWS_MAX, QUEUE_RECORDS_MAX)),
        began: Instant::now(),
        changes: watch::Sender::default(),
        over: CancellationToken::new(),
        seats: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
        // One at a time, so that questions take one core at most, and one view is held at a time.
        questions: Arc::new(Semaphore::new(1)),
        patience,
        metrics,
    });
    let over = shared.over.clone();
    let collecting = collect(inbox, Arc::clone(&shared));
    let serving = answer(listener, entrance, shared);
    let farewell = async {
        over.cancelled().await;
        tokio::time::sleep(FAREWELL_MAX).await;
    };
    let served = async {
        tokio::select! {
            served = serving => served,
            () = farewell => Ok(()),
        }
    };
    tokio::select! {
        (served, ()) = async { tokio::join!(served, collecting) } => served,
        () = abandon.cancelled() => Ok(()),
    }
}

async fn answer(
    listener: TcpListener,
    Entrance { tls, readers }: Entrance,
    shared: Arc<Shared>,
) -> Result<(), tonic::transport::Error> {
    let (health, checks) = tonic_health::server::health_reporter();
    health.set_serving::<FlowsServer<Service>>().await;
    let over = shared.over.clone();
    let flows = FlowsServer::new(Service(Arc::clone(&shared)))
        .max_decoding_message_size(FLOW_REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let asking = Arc::clone(&shared);
    let flows = InterceptedService::new(flows, move |call: Request<()>| {
        let shown = call.metadata().get(AUTHORIZATION).map(|shown| shown.as_encoded_bytes());
        match &readers {
            Some(readers) if !readers.lets_in(shown) => Err(asking.refuse(Status::unauthenticated(
                "show the token of the exporter's --readers-token-file, as authorization: Bearer",
            ))),
            _ => Ok(call),
        }
    });
    let is_built_in = "the descriptions are those that this binary was built from";
    let v1 = reflection().build_v1().expect(is_built_in);
    let v1alpha = reflection().build_v1alpha().expect(is_built_in);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(CALLS_MAX)
        .add_service(flows)
        .add_service(checks.max_decoding_message_size(FLOW_REQUEST_BYTES_MAX))
        .add_service(v1.max_decoding_message_size(FLOW_REQUEST_BYTES_MAX))
        .add_service(v1alpha.max_decoding_message_size(FLOW_REQUEST_BYTES_MAX))
        .serve_with_incoming_shutdown(
            connections(listener, CONNECTIONS_MAX, shared.patience.idle, tls),
            over.cancelled_owned(),
        )
        .await
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FLOWS_DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Puts batches on the board until nothing more comes.
async fn collect(mut inbox: Inbox, shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            batch = inbox.batches.recv() => Some(batch),
            _ = tick.tick() => None,
        };
        let unseen = inbox.unseen();
        let is_over = matches!(batch, Some(None));
        shared.change(|board, uptime| {
            match batch.flatten() {
                Some(batch) => board.add(&batch, uptime),
                None => board.advance(uptime),
            }
            board.miss(unseen);
        });
        shared.changes.send_replace(());
        if is_over {
            shared.over.cancel();
            return;
        }
    }
}

struct Shared {
    board: Mutex<Board>,
    began: Instant,
    /// Told whenever there may be something to take from the board.
    changes: watch::Sender<()>,
    /// Nothing more is put on the board.
    over: CancellationToken,
    seats: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    patience: Patience,
    metrics: FlowsMetrics,
}

impl Shared {
    /// Nobody panics while holding it, and the board's steps are whole in any case.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// One step of the board, and its figures after it.
    fn change<T>(&self, step: impl FnOnce(&mut Board, Duration) -> T) -> T {
        let mut board = self.board();
        let outcome = step(&mut board, self.uptime());
        self.metrics.publish(&board.books());
        outcome
    }

    fn refuse(&self, status: Status) -> Status {
        self.metrics.refused.inc();
        status
    }

    /// Waits for its turn, then answers from what `look` sees. The turn lasts as long as the work, also where who asked
    /// has hung up.
    async fn ask<L: Send + 'static, A: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Board, Duration) -> L,
        work: impl FnOnce(L) -> A + Send + 'static,
    ) -> Result<A, Status> {
        let turn = Arc::clone(&self.questions).acquire_owned().await.expect("nobody closes the questions");
        let seen = self.change(look);
        let working = tokio::task::spawn_blocking(move || {
            let answer = work(seen);
            drop(turn);
            answer
        });
        working.await.map_err(|error| Status::internal(error.to_string()))
    }
}

struct Service(Arc<Shared>);

type Telling = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Flows for Service {
    type SubscribeStream = Telling;

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Telling>, Status> {
        let shared = &self.0;
        let talk = talk(&request)?;
        let filter =
            FlowFilter::from_wire(request.into_inner()).map_err(|error| shared.refuse(invalid(&error)))?;
        let seat = Arc::clone(&shared.seats).try_acquire_owned().map_err(|_| {
            shared.refuse(Status::resource_exhausted(format!("there are {SUBSCRIBERS_MAX} subscribers")))
        })?;
        // The last message may wait for its reader; whatever follows it waits in the channel.
        let (tell, told) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let subscription =
            Subscription { shared: Arc::clone(shared), subscriber: None, _seat: seat, _talk: talk };
        tokio::spawn(async move {
            let status = subscription.run(filter, &tell).await;
            // Who hung up does not hear it.
            let _unheard = end.send(status);
        });
        let last = async { Err(ended.await.unwrap_or_else(|_| Status::internal("the subscription broke"))) };
        Ok(Response::new(Box::pin(ReceiverStream::new(told).chain(stream::once(last)))))
    }

    async fn summary(
        &self,
        request: Request<v1::SummaryRequest>,
    ) -> Result<Response<v1::SummaryResponse>, Status> {
        let shared = &self.0;
        let _talk = talk(&request)?;
        let query =
            SummaryQuery::from_wire(request.get_ref()).map_err(|error| shared.refuse(invalid(&error)))?;
        let minutes = query.window_minutes;
        let summary = shared
            .ask(
                |board, uptime| (board.view(minutes, uptime), UnixNanos(unix_nanos())),
                move |(view, now)| summarise(&view, &query, now),
            )
            .await?;
        shared.metrics.summaries.inc();
        Ok(Response::new(summary.to_wire()))
    }
}

fn talk<T>(request: &Request<T>) -> Result<Talk, Status> {
    let line = request.extensions().get::<Line>();
    Ok(line.ok_or_else(|| Status::internal("the connection is not ours"))?.converse())
}

fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A subscriber's place, given back however its stream ends.
struct Subscription {
    shared: Arc<Shared>,
    /// `None` before it is on the board.
    subscriber: Option<SubscriberId>,
    _seat: OwnedSemaphorePermit,
    _talk: Talk,
}

type Tell = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

impl Subscription {
    /// Tells the snapshot, then what comes, and returns why that ended.
    async fn run(mut self, filter: FlowFilter, tell: &Tell) -> Status {
        let mut changes = self.shared.changes.subscribe();
        let ended = async {
            let subscriber = self.begin(filter, tell).await?;
            loop {
                let is_over = self.shared.over.is_cancelled();
                changes.mark_unchanged();
                while let Some(event) = self.next_event(subscriber) {
                    self.say(tell, event).await?;
                }
                if is_over {
                    return Err(Status::unavailable("the exporter is stopping"));
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    () = self.shared.over.cancelled() => {}
                    () = tell.closed() => return Err(Status::cancelled("the subscriber hung up")),
                }
            }
        };
        let ended: Result<(), Status> = ended.await;
        let status = ended.err().unwrap_or_else(|| Status::internal("the subscription ended"));
        debug!(reason = status.message(), "a subscriber left");
        status
    }

    /// Joins the board and tells what was there before.
    async fn begin(&mut self, filter: FlowFilter, tell: &Tell) -> Result<SubscriberId, Status> {
        debug!(?filter, "a subscriber came");
        let asked = filter.clone();
        let joined = &mut self.subscriber;
        let events = self
            .shared
            .ask(
                |board, uptime| {
                    let beginning = board.subscribe(filter, uptime);
                    *joined = Some(beginning.subscriber);
                    (beginning, UnixNanos(unix_nanos()))
                },
                move |(beginning, now)| {
                    snapshot(&beginning.view, &asked, SNAPSHOT_FLOWS_MAX, beginning.position, now)
                },
            )
            .await?;
        for event in events {
            self.say(tell, event).await?;
        }
        self.subscriber.ok_or_else(|| Status::internal("the subscriber is not on the board"))
    }

    fn next_event(&self, subscriber: SubscriberId) -> Option<FlowEvent> {
        self.shared.board().take(subscriber)
    }

    async fn say(&self, tell: &Tell, event: FlowEvent) -> Result<(), Status> {
        let within = self.shared.patience.unread;
        for message in event.messages() {
            match tokio::time::timeout(within, tell.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::cancelled("the subscriber hung up")),
                Err(_) => {
                    self.shared.metrics.let_go.inc();
                    return Err(Status::deadline_exceeded(format!("messages stayed unread for {within:?}")));
                }
            }
        }
        if let FlowEvent::Batch(batch) = &event {
            self.shared.metrics.sent(batch.records.len() as u64, batch.sum().bytes);
        }
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(subscriber) = self.subscriber {
            self.shared.change(|board, _| board.leave(subscriber));
        }
    }
}
