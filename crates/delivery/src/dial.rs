//! The collector's driver: cuts in, a stream to the exporter out, scopes back.
//!
//! One loop with a closed set of events. While no stream is open it goes on taking cuts as long as the window has
//! room; whoever cuts sees the channel full otherwise and lets its flows merge.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use egressd_flow::{Batch, Name, NodeName, Scope, UnixNanos};
use egressd_protocol::limits::{MESSAGE_BYTES_MAX, NAMES_MAX};
use egressd_protocol::v1::collection_client::CollectionClient;
use egressd_protocol::{CollectorFlags, Down, Hello, Settings, Source, Status as CollectorStatus};
use egressd_protocol::{Up, Welcome, v1};
use egressd_service::backoff::Backoff;
use egressd_service::bearer::AUTHORIZATION;
use egressd_service::clock::unix_nanos;
use egressd_service::figures::ReasonLabel;
use egressd_service::lifecycle::chain;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};

use crate::metrics::WindowMetrics;
use crate::outbox::{ANSWERS_MAX, Outbox};
use crate::window::{Progress, Window};

mod hangup;
mod security;

use hangup::Hangup;
pub use security::Security;

/// How long a connection and its Hello may take.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// How long the exporter may be silent; it says its scope's age four times a minute.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often Status is said when nothing changes.
const STATUS_EVERY: Duration = Duration::from_secs(30);
/// How often DNS answers are told while no batch goes; each batch has those before it that were seen before it was cut.
const NAMES_EVERY: Duration = Duration::from_secs(5);
const REDIAL_FIRST: Duration = Duration::from_millis(500);
/// How long the exporter may take to hang up after our last word.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// Messages on their way to the exporter; the window holds the rest.
const UP_QUEUE: usize = 4;

/// Whom to dial, and who we are.
#[derive(Clone, Debug)]
pub struct DialConfig {
    /// Whom to dial.
    pub exporter: ExporterAddress,
    /// How the stream is kept from others.
    pub security: Security,
    /// Our node.
    pub node: NodeName,
    /// Our version.
    pub version: &'static str,
    /// Where we read.
    pub source: Source,
    /// Flags that take effect there.
    pub flags: CollectorFlags,
    /// The longest wait before dialling again, and the bound of the random wait after a stream that was open: it
    /// keeps all collectors from dialling a restarted exporter at once. Not below half a second.
    pub redial_longest: Duration,
}

/// The driver's connections to the rest of the collector.
#[derive(Debug)]
pub struct Lines {
    /// Cuts to send. Closed after the last one.
    pub cuts: mpsc::Receiver<Vec<Batch>>,
    /// DNS answers to tell.
    pub names: mpsc::Receiver<Name>,
    /// Scopes, `as_of` already by our clock.
    pub scopes: mpsc::Sender<Scope>,
    /// The exporter's latest Settings.
    pub settings: watch::Sender<Settings>,
    /// How the collector is.
    pub status: watch::Receiver<CollectorStatus>,
    /// How far the window got.
    pub progress: watch::Sender<Progress>,
}

/// host:port of an exporter.
#[derive(Clone, Debug)]
pub struct ExporterAddress {
    text: String,
    /// With an empty path and no scheme that counts.
    uri: Uri,
}

/// Text that is no exporter's address. Whoever wrote it must correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not host:port")]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

impl FromStr for ExporterAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        let uri: Uri = format!("http://{text}").parse().map_err(|_| error())?;
        let is_authority_alone = uri.authority().is_some_and(|authority| authority.as_str() == text);
        if !is_authority_alone || uri.port().is_none() || text.starts_with(':') {
            return Err(error());
        }
        Ok(Self { text: text.to_owned(), uri })
    }
}

impl ExporterAddress {
    /// The name or the address before the port, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    fn endpoint(&self, scheme: &str) -> Endpoint {
        let uri: Uri = format!("{scheme}://{}", self.text).parse().expect("it was one with another scheme");
        Endpoint::from(uri)
            .connect_timeout(DIAL_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
    }
}

impl fmt::Display for ExporterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sends what is cut until the channel of cuts is closed and everything is in the exporter's hands, or `abandon`
/// fires.
pub async fn dial(
    config: DialConfig,
    window: Window,
    lines: Lines,
    metrics: WindowMetrics,
    abandon: CancellationToken,
) {
    let mut dialler = Dialler {
        exporter: config.exporter.clone(),
        window,
        lines,
        metrics,
        cuts_closed: false,
        status_due: true,
        status_every: tokio::time::interval(STATUS_EVERY),
        outbox: Outbox::new(ANSWERS_MAX),
        names_due: false,
        names_every: tokio::time::interval(NAMES_EVERY),
        backoff: Backoff::new(REDIAL_FIRST, config.redial_longest),
        link: Link::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO))),
        config,
    };
    tokio::select! {
        () = dialler.run() => tokio::select! {
            () = dialler.hang_up() => {}
            () = abandon.cancelled() => {}
        },
        () = abandon.cancelled() => {
            let held = dialler.window.books().held;
            warn!(bytes = held.bytes, packets = held.packets, "left with batches that the exporter does not have");
        }
    }
}

/// Where the stream is.
enum Link {
    /// Until the next try.
    Waiting(Pin<Box<Sleep>>),
    /// Being opened.
    Dialling(Pin<Box<dyn Future<Output = Result<Box<Session>, Hangup>> + Send>>),
    /// Open.
    Open(Box<Session>),
}

struct Session {
    up: mpsc::Sender<v1::Up>,
    down: Streaming<v1::Down>,
    /// Our clock less the exporter's, in nanoseconds; `None` before Welcome.
    clock_ahead: Option<i128>,
    heard: Instant,
}

enum Event {
    Cut(Option<Vec<Batch>>),
    Name(Name),
    NamesDue,
    StatusDue,
    Link(LinkEvent),
}

enum LinkEvent {
    DialNow,
    Dialled(Result<Box<Session>, Hangup>),
    Room,
    Heard(Result<Option<v1::Down>, Status>),
    Silent,
}

impl Link {
    /// Safe to drop and call again: what is under way stays in `self`.
    async fn event(&mut self, wants_to_send: bool) -> LinkEvent {
        match self {
            Self::Waiting(wait) => {
                wait.await;
                LinkEvent::DialNow
            }
            Self::Dialling(session) => LinkEvent::Dialled(session.await),
            Self::Open(session) => tokio::select! {
                heard = session.down.message() => LinkEvent::Heard(heard),
                // A closed channel shows itself as the end of `down`.
                Ok(_) = session.up.reserve(), if wants_to_send => LinkEvent::Room,
                () = tokio::time::sleep_until(session.heard + SILENCE_MAX) => LinkEvent::Silent,
            },
        }
    }
}

struct Dialler {
    /// The address to dial next: the configured one, or where the last exporter sent us.
    exporter: ExporterAddress,
    config: DialConfig,
    window: Window,
    lines: Lines,
    metrics: WindowMetrics,
    cuts_closed: bool,
    status_due: bool,
    status_every: Interval,
    outbox: Outbox,
    names_due: bool,
    names_every: Interval,
    backoff: Backoff,
    link: Link,
}

impl Dialler {
    async fn run(&mut self) {
        while !(self.cuts_closed && self.window.is_taken()) {
            match self.next_event().await {
                Event::Cut(None) => self.cuts_closed = true,
                Event::Cut(Some(batches)) => batches.into_iter().for_each(|batch| self.window.push(batch)),
                Event::Name(name) => self.note(name),
                Event::NamesDue => self.names_due = true,
                Event::StatusDue => self.status_due = true,
                Event::Link(event) => self.on_link(event).await,
            }
            self.metrics.publish(&self.window.books(), &self.outbox.books());
            self.tell_progress();
        }
    }

    fn tell_progress(&self) {
        let progress = self.window.progress();
        self.lines.progress.send_if_modified(|known| {
            let is_news = *known != progress;
            *known = progress;
            is_news
        });
    }

    async fn next_event(&mut self) -> Event {
        let tells_names = self.tells_names();
        let Self { lines, window, link, status_due, status_every, names_every, cuts_closed, .. } = self;
        let welcomed = matches!(link, Link::Open(session) if session.clock_ahead.is_some());
        let wants_to_send = welcomed && (*status_due || tells_names || window.has_unsent());
        tokio::select! {
            event = link.event(wants_to_send) => Event::Link(event),
            Some(name) = lines.names.recv() => Event::Name(name),
            _ = names_every.tick() => Event::NamesDue,
            cut = lines.cuts.recv(), if !*cuts_closed && window.has_room() => Event::Cut(cut),
            Ok(()) = lines.status.changed() => Event::StatusDue,
            _ = status_every.tick() => Event::StatusDue,
        }
    }

    async fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::DialNow => self.dial_now(),
            LinkEvent::Dialled(Ok(session)) => self.link = Link::Open(session),
            LinkEvent::Dialled(Err(hangup)) => self.redial(&hangup),
            LinkEvent::Room => self.send_next(),
            LinkEvent::Silent => self.redial(&Hangup::Silent),
            LinkEvent::Heard(Err(status)) => self.redial(&Hangup::of_status(status)),
            LinkEvent::Heard(Ok(None)) => self.redial(&Hangup::Closed),
            LinkEvent::Heard(Ok(Some(message))) => {
                if let Err(hangup) = self.hear(message).await {
                    self.redial(&hangup);
                }
            }
        }
    }

    fn dial_now(&mut self) {
        let hello = Hello {
            node: self.config.node.clone(),
            version: self.config.version.to_owned(),
            source: self.config.source,
            last_spool: self.window.spool(),
            epochs: self.window.held_epochs(),
            clock: UnixNanos(unix_nanos()),
            flags: self.config.flags.clone(),
        };
        debug!(exporter = %self.exporter, "dialling");
        let (exporter, security) = (self.exporter.clone(), self.config.security.clone());
        self.link = Link::Dialling(Box::pin(open(exporter, security, hello)));
    }

    fn redial(&mut self, hangup: &Hangup) {
        let was_open = matches!(&self.link, Link::Open(session) if session.clock_ahead.is_some());
        let mut spread = Backoff::new(self.config.redial_longest, self.config.redial_longest);
        let backoff = if was_open { &mut spread } else { &mut self.backoff };
        // Without randomness all wait for the whole bound, which is late but not wrong.
        let wait = backoff.next_wait(getrandom::u64().unwrap_or(u64::MAX));
        self.metrics.connected.set(0);
        if matches!(hangup, Hangup::Redirected) {
            info!(exporter = %self.exporter, wait_ms = wait.as_millis(), "redirected");
        } else {
            self.exporter.clone_from(&self.config.exporter);
            let reason = hangup.reason();
            self.metrics.dial_failures.get_or_create(&ReasonLabel { reason }).inc();
            let (error, advice) = (chain(hangup), hangup.advice());
            warn!(exporter = %self.exporter, reason, error, advice, wait_ms = wait.as_millis(), "no stream");
        }
        self.link = Link::Waiting(Box::pin(tokio::time::sleep(wait)));
    }

    /// Takes in all that there is of the kernel's answers by now.
    fn note(&mut self, name: Name) {
        self.outbox.note(name);
        for _ in 0..ANSWERS_MAX {
            let Ok(name) = self.lines.names.try_recv() else { return };
            self.outbox.note(name);
        }
    }

    /// Whether the next message is one of names: when it is time, when there is a whole one, and before a batch.
    fn tells_names(&self) -> bool {
        let due = self.outbox.due();
        due > 0 && (self.names_due || due >= NAMES_MAX || self.window.has_unsent())
    }

    /// There is room for one message: Status when it is due, else names, else the next batch.
    fn send_next(&mut self) {
        let tells_names = self.tells_names();
        let Link::Open(session) = &self.link else { return };
        let up = if std::mem::take(&mut self.status_due) {
            Up::Status(self.lines.status.borrow_and_update().clone()).to_wire()
        } else if tells_names {
            let names = self.outbox.take(NAMES_MAX);
            self.names_due &= self.outbox.due() > 0;
            Up::Names(names).to_wire()
        } else if let Some(batch) = self.window.next_unsent() {
            v1::Up::from(&*batch)
        } else {
            return;
        };
        // The room was there, and nobody else sends; a stream that is gone shows itself as the end of `down`.
        let _gone = session.up.try_send(up);
    }

    async fn hear(&mut self, message: v1::Down) -> Result<(), Hangup> {
        let Link::Open(session) = &mut self.link else { return Ok(()) };
        session.heard = Instant::now();
        let Some(message) = Down::from_wire(message)? else {
            self.metrics.unknown_messages.inc();
            return Ok(());
        };
        let Some(clock_ahead) = session.clock_ahead else {
            match message {
                Down::Welcome(welcome) => self.welcomed(&welcome),
                // A standby's: of what others took it knows nothing.
                Down::Redirect(address) => return Err(self.go_to(address)),
                _ => return Err(Hangup::NotWelcome),
            }
            return Ok(());
        };
        match message {
            Down::Welcome(_) => {}
            Down::Ack(ack) => self.window.acknowledged(&ack)?,
            Down::Settings(settings) => {
                self.lines.settings.send_replace(settings);
            }
            Down::Scope { mut scope, clock } => {
                scope.as_of = by_our_clock(scope.as_of, clock, clock_ahead);
                // A closed channel means that the last cut is made: no scope matters any more.
                let _late = self.lines.scopes.send(scope).await;
            }
            Down::Redirect(address) => {
                self.window.redirected();
                return Err(self.go_to(address));
            }
        }
        Ok(())
    }

    /// Where to dial next. An address that is none is as good as no address: the configured one leads to an exporter
    /// again.
    fn go_to(&mut self, address: Option<String>) -> Hangup {
        let elsewhere = address.and_then(|address| address.parse().ok());
        self.exporter = elsewhere.unwrap_or_else(|| self.config.exporter.clone());
        Hangup::Redirected
    }

    fn welcomed(&mut self, welcome: &Welcome) {
        let Link::Open(session) = &mut self.link else { return };
        session.clock_ahead = Some(i128::from(unix_nanos()) - i128::from(welcome.clock.0));
        self.window.welcomed(welcome);
        self.outbox.begin_anew(UnixNanos(unix_nanos()));
        self.backoff.reset();
        self.status_due = true;
        self.metrics.connected.set(1);
        self.metrics.dials.inc();
        info!(exporter = %self.exporter, version = %welcome.version, durable = welcome.durable, "stream opened");
    }

    /// Our half is closed; the exporter's end shows that it has read everything.
    async fn hang_up(self) {
        let Link::Open(session) = self.link else { return };
        let Session { up, mut down, .. } = *session;
        drop(up);
        let hung_up = async { while let Ok(Some(_)) = down.message().await {} };
        let _either = tokio::time::timeout(FAREWELL_MAX, hung_up).await;
    }
}

/// Opens a stream and says Hello.
async fn open(exporter: ExporterAddress, security: Security, hello: Hello) -> Result<Box<Session>, Hangup> {
    let dialled = async {
        let endpoint = security.endpoint(&exporter).await?;
        let proof = security.proof().await?;
        let channel: Channel = endpoint.connect().await.map_err(Hangup::of_transport)?;
        let mut client = CollectionClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (up, messages) = mpsc::channel(UP_QUEUE);
        up.try_send(Up::Hello(hello).to_wire()).map_err(|_| Hangup::Closed)?;
        let mut call = Request::new(ReceiverStream::new(messages));
        if let Some(proof) = proof {
            call.metadata_mut().insert(AUTHORIZATION, proof);
        }
        let answer = client.stream(call).await.map_err(Hangup::of_status)?;
        let down = answer.into_inner();
        Ok(Box::new(Session { up, down, clock_ahead: None, heard: Instant::now() }))
    };
    tokio::time::timeout(DIAL_WITHIN, dialled).await.map_err(|_| Hangup::TooSlow)?
}

/// Connects to an exporter, shakes hands and hangs up, saying nothing: whoever says Hello takes its node's stream over.
///
/// # Errors
/// It is not there, or one of both cannot trust the other; not that it would take no stream of ours.
pub async fn reach(exporter: &ExporterAddress, security: &Security) -> Result<(), OutOfReach> {
    let reached = async {
        let endpoint = security.endpoint(exporter).await?;
        endpoint.connect().await.map(drop).map_err(Hangup::of_transport)
    };
    let reached = tokio::time::timeout(DIAL_WITHIN, reached).await;
    reached.unwrap_or(Err(Hangup::TooSlow)).map_err(OutOfReach)
}

/// Why an exporter cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OutOfReach(Hangup);

impl OutOfReach {
    /// What an operator can do about it; `None` where waiting may help, or the words say it.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        self.0.advice()
    }
}

/// The exporter's instant `as_of`, said at its instant `clock`, on our clock.
///
/// Two estimates of how far our clock is ahead: at Welcome, and now, which is late by the message's time on its way.
/// The earlier result stands, so that neither a clock that was set back since nor a slow message makes a scope look
/// younger than it is.
fn by_our_clock(as_of: UnixNanos, clock: UnixNanos, ahead_at_welcome: i128) -> UnixNanos {
    let ahead_now = i128::from(unix_nanos()) - i128::from(clock.0);
    let shifted = (i128::from(as_of.0) + ahead_now.min(ahead_at_welcome)).max(0);
    UnixNanos(u64::try_from(shifted).unwrap_or(u64::MAX))
}
