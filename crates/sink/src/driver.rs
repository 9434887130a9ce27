//! The loop of a sink that pushes: takes batches at all times, pushes on an interval, tries again, drains at the end.
//!
//! Invariant: each lane of the machine has one request under way at most, and one state is; the position that is told is
//! that of the machine. While the process does not [lead](Lead) no request is begun.
//! Bound: nothing is queued here; a batch is folded in as soon as it is received, also during a push.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use reqwest::Method;
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::attempts::Attempts;
use crate::books::{Held, Reason, Standing};
use crate::client::{Answer, Endpoint};
use crate::config::{Kind, SinkConfig};
use crate::credentials::ClientError;
use crate::destination::{Destination, Heard, Settled, Verdict};
use crate::http::{self, CostApi};
use crate::keep::{Keep, Save};
use crate::lead::Lead;
use crate::metrics::{OneSink, Outcome, SinkMetrics};
use crate::remote_write::{self, RemoteWrite};
use crate::retry::{Complaints, Retry};
use crate::words;

/// How often a sink that goes on looks whether it has again what the life before had.
const CATCH_UP_LOOK: Duration = Duration::from_millis(200);

/// Reads the wall clock.
pub type Clock = Arc<dyn Fn() -> UnixNanos + Send + Sync>;

/// The system's real-time clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| UnixNanos(egressd_service::clock::unix_nanos()))
}

/// What a sink left behind when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last batch that it took.
    pub applied: Position,
    /// Every byte up to here was accepted.
    pub accepted: Position,
    /// Taken and not known to be accepted; lost with the process, unless the collectors still have it.
    pub held: Counter,
    /// Flows that these are of.
    pub held_flows: u64,
}

/// Settings, and the endpoint that they make.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    config: SinkConfig,
    endpoint: Endpoint,
}

impl Prepared {
    pub(crate) fn new(config: SinkConfig) -> Result<Self, ClientError> {
        let endpoint = match &config.kind {
            Kind::Http(settings) => Endpoint::new(
                settings.method.clone(),
                settings.url.clone(),
                http::headers(&settings.headers, settings.gzip),
                settings.timeout,
                settings.access.clone(),
            ),
            Kind::RemoteWrite(settings) => Endpoint::new(
                Method::POST,
                settings.url.clone(),
                remote_write::headers(&settings.headers),
                settings.timeout,
                settings.access.clone(),
            ),
        }?;
        Ok(Self { config, endpoint })
    }

    #[cfg(test)]
    pub(crate) fn into_endpoint(self) -> Endpoint {
        self.endpoint
    }
}

/// Tries whether a sink could be made as configured now: its files are read, nothing is connected.
///
/// # Errors
/// When one of them cannot be used, or there is no usable certificate store.
///
/// # Panics
/// When the process has installed no default TLS provider (`rustls::crypto`).
pub fn check(config: &SinkConfig) -> Result<(), ClientError> {
    Prepared::new(config.clone()).map(drop)
}

/// A destination that is pushed to, ready to run.
pub struct Sink {
    settings: watch::Receiver<Prepared>,
    metrics: OneSink,
    clock: Clock,
    lead: Lead,
}

/// What changes the settings of a running sink.
#[derive(Debug)]
pub struct Controls(watch::Sender<Prepared>);

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("settings", &self.settings.borrow().config).finish_non_exhaustive()
    }
}

impl Sink {
    /// Prepares a sink; nothing is connected yet.
    ///
    /// # Errors
    /// As [`check`].
    ///
    /// # Panics
    /// As there.
    pub fn new(
        config: SinkConfig,
        metrics: &SinkMetrics,
        clock: Clock,
    ) -> Result<(Self, Controls), ClientError> {
        let metrics = metrics.of(&config.name);
        let (controls, settings) = watch::channel(Prepared::new(config)?);
        Ok((Self { settings, metrics, clock, lead: Lead::always() }, Controls(controls)))
    }

    /// Has it push only while this process leads.
    #[must_use]
    pub fn led_by(self, lead: Lead) -> Self {
        Self { lead, ..self }
    }
}

impl Controls {
    /// Has the sink go on by `config`, which must be of the same name and kind, from its next request on. What it
    /// holds stays; where a remote write sink gets another URL or other labels, its series begin anew from zero with
    /// what was not accepted under the old ones.
    ///
    /// # Errors
    /// As [`check`]; nothing changes then.
    ///
    /// # Panics
    /// As there.
    pub fn change(&self, config: SinkConfig) -> Result<(), ClientError> {
        self.0.send_replace(Prepared::new(config)?);
        Ok(())
    }
}

/// Runs a sink until `batches` is closed and everything is accepted, or `abandon` fires.
///
/// `accepted` is told each position that is reached beyond its own. When `batches` closes, what is held is pushed at once, whatever
/// the wait was, and then on with the usual retries. A sink that is given a `keep` goes on where it says; at the end it
/// tries once, and leaves what is not accepted to its next life.
pub async fn run(
    sink: Sink,
    batches: mpsc::Receiver<Arc<AttributedBatch>>,
    accepted: watch::Sender<Position>,
    keep: Option<Keep>,
    abandon: CancellationToken,
) -> Report {
    let Sink { settings, metrics, clock, lead } = sink;
    let kind = settings.borrow().config.kind.clone();
    let send = {
        let (clock, lead) = (Arc::clone(&clock), lead.clone());
        move |endpoint: &Endpoint, body| {
            let attempt = lead.clone().over(endpoint.send(body, clock()));
            async { attempt.await.unwrap_or_else(Answer::Overdue) }
        }
    };
    let pusher = Pusher::new(settings, metrics, clock, lead, accepted).keeping(keep);
    match kind {
        Kind::Http(settings) => pusher.drive(CostApi::new(&settings), send, batches, abandon).await,
        Kind::RemoteWrite(settings) => pusher.drive(RemoteWrite::new(settings), send, batches, abandon).await,
    }
}

/// The part of the loop that is the same for every destination.
pub(crate) struct Pusher {
    name: String,
    settings: watch::Receiver<Prepared>,
    /// Where to, for the log.
    origin: String,
    interval: Duration,
    endpoint: Endpoint,
    metrics: OneSink,
    clock: Clock,
    lead: Lead,
    accepted: watch::Sender<Position>,
    retry: Retry,
    failures: Complaints,
    losses: Complaints,
    refusals: Complaints,
    unread: Complaints,
    undirected_told: bool,
    /// When the next push begins, unless one is going on.
    next_push: Instant,
    keep: Option<Keep>,
}

/// How far a sink's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Batches come.
    NotYet,
    /// The last one is in, or nothing new will follow.
    Near,
    /// What is held stays for the next life.
    GaveUp,
}

/// What to do next.
enum Next {
    /// Send this.
    Send(Bytes),
    /// Keep a state.
    Keep,
    /// Wait for answers.
    Hear,
    /// Wait for the next push.
    Wait,
    /// Wait for what the life before had.
    CatchUp,
}

impl Pusher {
    pub(crate) fn new(
        mut settings: watch::Receiver<Prepared>,
        metrics: OneSink,
        clock: Clock,
        lead: Lead,
        accepted: watch::Sender<Position>,
    ) -> Self {
        let Prepared { config, endpoint } = settings.borrow_and_update().clone();
        words::of_start("pushing", &config);
        Self {
            next_push: Instant::now() + config.interval,
            origin: config.origin(),
            name: config.name,
            settings,
            interval: config.interval,
            endpoint,
            metrics,
            clock,
            lead,
            accepted,
            retry: Retry::new(),
            failures: Complaints::default(),
            losses: Complaints::default(),
            refusals: Complaints::default(),
            unread: Complaints::default(),
            undirected_told: false,
            keep: None,
        }
    }

    pub(crate) fn keeping(self, keep: Option<Keep>) -> Self {
        Self { keep, ..self }
    }

    /// The loop. `send` makes one attempt.
    pub(crate) async fn drive<D, S, F>(
        mut self,
        mut destination: D,
        send: S,
        mut batches: mpsc::Receiver<Arc<AttributedBatch>>,
        abandon: CancellationToken,
    ) -> Report
    where
        D: Destination,
        S: Fn(&Endpoint, Bytes) -> F,
        F: Future<Output = Answer>,
    {
        self.resume(&mut destination);
        let (mut open, mut end) = (true, End::NotYet);
        let mut due = self.next_push;
        let mut attempts = Attempts::none();
        // Nothing more is to be said before an answer.
        let mut all_said = false;
        let mut saving: Option<oneshot::Receiver<()>> = None;
        let ending = self.keep.as_ref().map_or_else(CancellationToken::new, |keep| keep.ending.clone());
        loop {
            if destination.is_due() && saving.is_none() {
                saving = self.save(&mut destination);
            }
            let is_quiet = attempts.are_none() && saving.is_none();
            if is_quiet && (end == End::GaveUp || !open && destination.standing().is_all_accepted()) {
                break;
            }
            let lane = attempts.idle();
            let settings_wait = self.settings.has_changed().unwrap_or(false);
            let may_speak = !(all_said || settings_wait || end == End::GaveUp || lane >= destination.lanes());
            tokio::select! {
                () = abandon.cancelled() => break,
                batch = batches.recv(), if open && end != End::GaveUp && destination.has_room() => match batch {
                    Some(batch) => self.apply(&mut destination, &batch),
                    None => {
                        (open, end) = (false, End::Near);
                        due = Instant::now();
                    }
                },
                () = ending.cancelled(), if end == End::NotYet => {
                    end = End::Near;
                    due = Instant::now();
                }
                kept = kept(&mut saving), if saving.is_some() => {
                    saving = None;
                    match kept {
                        Ok(()) => destination.kept(),
                        // Whoever keeps states has ended; its own error says why.
                        Err(_) => break,
                    }
                }
                (lane, begun, answer) = attempts.answered(), if !attempts.are_none() => {
                    all_said = false;
                    if let Some(wait) = self.settle(&mut destination, (lane, &answer), begun.elapsed()) {
                        due = Instant::now() + wait;
                        // What need not wait says something else.
                        if ending.is_cancelled() && !wait.is_zero() {
                            end = End::GaveUp;
                        }
                    }
                }
                Ok(()) = self.settings.changed(), if is_quiet => {
                    self.take_up(&mut destination);
                    due = Instant::now();
                }
                () = due_and_led(due, &mut self.lead), if may_speak && saving.is_none() => {
                    match self.next(&mut destination, lane) {
                        Next::Send(body) => attempts.begin(lane, send(&self.endpoint, body)),
                        Next::Keep => {}
                        Next::Hear => all_said = true,
                        Next::Wait => due = if open { self.next_push } else { Instant::now() },
                        Next::CatchUp if open => due = Instant::now() + CATCH_UP_LOOK,
                        // It will not come now.
                        Next::CatchUp => end = End::GaveUp,
                    }
                }
            }
        }
        // What is on its way is held too.
        batches.close();
        while let Ok(batch) = batches.try_recv() {
            self.apply(&mut destination, &batch);
        }
        self.report(&destination)
    }

    /// Goes on by what the life before kept.
    fn resume<D: Destination>(&self, destination: &mut D) {
        let Some(Keep { resume, .. }) = &self.keep else { return };
        match destination.resume(resume, (self.clock)()) {
            Ok(held) => self.metrics.received(held),
            Err(error) => {
                self.metrics.state_lost();
                error!(sink = self.name, %error, "what the life before kept for this sink is lost: see its documentation");
            }
        }
        self.levels(destination);
    }

    /// Sends the state on its way; `None` when nobody takes it any more.
    fn save<D: Destination>(&self, destination: &mut D) -> Option<oneshot::Receiver<()>> {
        let Keep { saves, .. } = self.keep.as_ref()?;
        let (position, state) = destination.state();
        let (kept, is_kept) = oneshot::channel();
        // There is a place for each sink's one; where nobody listens, the receiver hears that.
        let _told = saves.try_send(Save { sink: self.name.clone(), position, state, kept });
        Some(is_kept)
    }

    /// Goes on by new settings, at once and without a wait that the old ones caused.
    fn take_up<D: Destination>(&mut self, destination: &mut D) {
        let Prepared { config, endpoint } = self.settings.borrow_and_update().clone();
        words::of_start("pushing by new settings", &config);
        destination.reconfigure(&config.kind);
        self.origin = config.origin();
        self.interval = config.interval;
        self.endpoint = endpoint;
        (self.retry, self.failures) = (Retry::new(), Complaints::default());
        self.next_push = Instant::now();
    }

    fn apply<D: Destination>(&mut self, destination: &mut D, batch: &AttributedBatch) {
        let applied = destination.apply(batch, (self.clock)());
        self.metrics.applied(&applied);
        self.levels(destination);
        if !applied.discarded(Reason::undirected).is_zero() && !self.undirected_told {
            self.undirected_told = true;
            warn!(
                sink = self.name,
                reason = "undirected",
                "traffic of unknown direction is kept from this sink, which takes only sent and received"
            );
        }
        let lost = applied.discarded(Reason::flows_full);
        if !lost.is_zero()
            && let Some(withheld) = self.losses.speak(Instant::now())
        {
            error!(sink = self.name, reason = "flows_full", bytes = lost.bytes, withheld, "bytes discarded");
        }
    }

    /// What comes next in an idle lane; tells the position when a push is complete.
    fn next<D: Destination>(&mut self, destination: &mut D, lane: usize) -> Next {
        let now = Instant::now();
        destination.begin();
        if !destination.is_pushing() {
            return Next::CatchUp;
        }
        if let Some(body) = destination.request(lane, (self.clock)()) {
            self.refresh();
            self.endpoint.write(destination.headers());
            return Next::Send(body);
        }
        if destination.is_pushing() {
            return if destination.is_due() { Next::Keep } else { Next::Hear };
        }
        // A push that took longer than the interval is followed by the next at once, not by those it delayed.
        self.next_push = (self.next_push + self.interval).max(now);
        let reached = destination.standing().accepted;
        self.accepted.send_if_modified(|known| {
            let is_news = reached > *known;
            *known = reached.max(*known);
            is_news
        });
        self.levels(destination);
        Next::Wait
    }

    /// Takes up what its files hold now; what cannot be read leaves what was read before.
    fn refresh(&mut self) {
        let Err(error) = self.endpoint.refresh() else { return };
        self.metrics.unread();
        if let Some(withheld) = self.unread.speak(Instant::now()) {
            words::of_unread(&self.name, &error, withheld);
        }
    }

    /// Takes note of an answer; how long to wait before the next request, `None` where that is decided already.
    fn settle<D: Destination>(
        &mut self,
        destination: &mut D,
        (lane, answer): (usize, &Answer),
        took: Duration,
    ) -> Option<Duration> {
        match destination.hear(lane, answer) {
            Heard::AsItSays => {}
            Heard::NotUnderstood => return Some(self.not_understood(answer, took)),
            Heard::Unwritten { samples, sent } => self.unwritten(samples, sent),
        }
        self.metrics.pushed(answer.outcome(), took);
        let settled = destination.settle(lane, answer.verdict(), (self.clock)());
        self.metrics.emitted(settled.emitted);
        self.metrics.ambiguous(settled.ambiguous);
        self.metrics.refused(settled.discarded);
        self.levels(destination);
        if settled.is_late {
            return None;
        }
        if answer.verdict() == Verdict::Accepted {
            let failures = self.retry.succeeded();
            if failures > 0 {
                info!(sink = self.name, failures, "accepted again");
            }
            debug!(sink = self.name, bytes = settled.emitted.bytes, ?took, "accepted");
            return Some(Duration::ZERO);
        }
        self.say_refused(&settled, answer);
        if settled.goes_on {
            return Some(Duration::ZERO);
        }
        self.complain(answer);
        Some(self.retry.failed(answer.retry_after(), draw()))
    }

    /// Names what is set aside, and what is given up.
    fn say_refused(&mut self, settled: &Settled, answer: &Answer) {
        let Answer::Refused { status, excerpt, .. } = answer else { return };
        let (sink, status) = (&self.name, status.as_u16());
        if let Some(flow) = &settled.aside
            && let Some(withheld) = self.refusals.speak(Instant::now())
        {
            error!(
                sink,
                status,
                ?excerpt,
                flow,
                withheld,
                "a flow is refused, it is set aside and tried again at each push, the others go on"
            );
        }
        if !settled.discarded.is_zero() {
            let Counter { bytes, .. } = settled.discarded;
            error!(
                sink,
                status,
                ?excerpt,
                reason = "refused",
                bytes,
                "bytes discarded: refused for a day, or more flows than may be set aside"
            );
        }
    }

    /// The same goes at once, in other words.
    fn not_understood(&self, answer: &Answer, took: Duration) -> Duration {
        self.metrics.pushed(Outcome::not_understood, took);
        words::of_fallback(&self.name, &self.origin, answer);
        Duration::ZERO
    }

    fn unwritten(&mut self, samples: u64, sent: u64) {
        self.metrics.unwritten(samples);
        if let Some(withheld) = self.losses.speak(Instant::now()) {
            words::of_unwritten(&self.name, samples, sent, withheld);
        }
    }

    fn levels<D: Destination>(&self, destination: &D) {
        self.metrics.levels(destination.standing().held.0, destination.flows());
        self.metrics.aside(destination.flows_aside());
    }

    fn complain(&mut self, answer: &Answer) {
        let Some(withheld) = self.failures.speak(Instant::now()) else {
            return;
        };
        words::of_failure(&self.name, &self.origin, answer, withheld);
    }

    fn report<D: Destination>(&self, destination: &D) -> Report {
        self.levels(destination);
        let Standing { applied, accepted, held: Held(held) } = destination.standing();
        let report = Report { applied, accepted, held, held_flows: destination.held_flows() };
        words::of_end(&self.name, &report, self.keep.is_some());
        report
    }
}

/// Whether the state under way is kept; never when there is none.
async fn kept(saving: &mut Option<oneshot::Receiver<()>>) -> Result<(), RecvError> {
    match saving {
        Some(saving) => saving.await,
        None => pending().await,
    }
}

/// When the next request may begin.
async fn due_and_led(due: Instant, lead: &mut Lead) {
    sleep_until(due).await;
    lead.held().await;
}

/// Uniformly random; the middle where the system has no randomness, which costs only the jitter.
fn draw() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}
