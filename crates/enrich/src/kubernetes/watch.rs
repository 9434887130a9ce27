//! Two watches, their errors, and how far what they told reaches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use egressd_flow::{NodeName, UnixNanos};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use futures_util::{Stream, StreamExt as _};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tower::timeout::TimeoutLayer;
use tracing::{debug, info, warn};

use super::object::{NodeObject, ObjectError, PodObject};
use crate::cluster::Change;

#[cfg(test)]
mod tests;

/// How often the API is asked whether it is there, and how long it may take to say so.
const PULSE_EVERY: Duration = Duration::from_secs(10);
/// The same while something may be missing.
const PULSE_SOON: Duration = Duration::from_secs(2);
const PULSE_WITHIN: Duration = Duration::from_secs(5);
/// A broken watch is tried again after 1, 2, 4 and then every 8 seconds. The library's own pace, made for thousands of
/// clients, reaches a minute (30 s and as much again by jitter), for which nothing would be known after an outage.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(8);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a request may take to be answered, the connection included; what is answered may then take its time. An
/// API server that is busy lets a request wait for a quarter of a minute and then refuses it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// A watch that is broken fails again within [`RETRY_MAX`] and [`ANSWERED_WITHIN`]; the rest is for what it missed to
/// come in.
const BROKEN_FOR: Duration = Duration::from_secs(28);
const _: () = assert!(RETRY_MAX.as_secs() + ANSWERED_WITHIN.as_secs() + 5 <= BROKEN_FOR.as_secs());
/// How long a watch call may stay open. A connection that died without a word is noticed by then at the latest.
const WATCH_SECONDS: u32 = 60;
/// How long a streaming list may take before it is taken for one that this server does not know.
const STREAMING_LIST_WITHIN: Duration = Duration::from_secs(60);
/// The first minor version of 1.x that knows streaming lists; older ones pass over the parameter and never end.
const STREAMING_LISTS_SINCE: u32 = 27;

/// Why there is no client. The operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] KubeconfigError),
    /// Neither in a cluster nor a kubeconfig at hand.
    #[error("no Kubernetes API is at hand: run in a cluster, pass --kubeconfig FILE or --inventory FILE")]
    Nowhere(#[source] kube::config::InferConfigError),
    /// The client cannot be built.
    #[error("cannot build the Kubernetes client")]
    Client(#[source] kube::Error),
}

/// A client after `kubeconfig`, else after the environment: a pod's service account, or `KUBECONFIG`.
///
/// # Errors
/// What is missing or wrong.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => read_kubeconfig(path).await?,
        None => kube::Config::infer().await.map_err(ConnectError::Nowhere)?,
    };
    // Failures are seen and counted here; the library would hide them for minutes.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_WITHIN);
    // A watch is silent until something happens: it must not be taken for dead before its own end.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 10));
    let client = ClientBuilder::try_from(config).map_err(ConnectError::Client)?;
    Ok(client.with_layer(&TimeoutLayer::new(ANSWERED_WITHIN)).build())
}

/// Whether a kubeconfig can be used, as far as it and the files that it names tell: nobody is asked.
///
/// # Errors
/// What is missing or wrong.
pub async fn check_kubeconfig(path: &Path) -> Result<(), ConnectError> {
    read_kubeconfig(path).await.map(drop)
}

async fn read_kubeconfig(path: &Path) -> Result<kube::Config, ConnectError> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(ConnectError::Kubeconfig)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(ConnectError::Kubeconfig)
}

/// Up to when what was told is known to be complete; clones share it.
///
/// It stands still while the API is away or a watch is broken.
#[derive(Clone, Debug, Default)]
pub struct Knowledge(Arc<KnowledgeState>);

#[derive(Debug, Default)]
struct KnowledgeState {
    reaches: AtomicU64,
    interrupted: AtomicBool,
}

impl Knowledge {
    /// By this machine's clock; 0 before the first list.
    #[must_use]
    pub fn reaches(&self) -> UnixNanos {
        UnixNanos(self.0.reaches.load(Ordering::Acquire))
    }

    /// Whether things may have happened since that nobody could tell: a watch broke or the API did not answer, and it
    /// is not sure yet that all of it was made up for.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Acquire)
    }

    /// Everything up to `to` was told.
    pub fn advance(&self, to: UnixNanos) {
        self.0.reaches.fetch_max(to.0, Ordering::AcqRel);
        self.0.interrupted.store(false, Ordering::Release);
    }

    /// From now on something may be missing.
    pub fn interrupt(&self) {
        self.0.interrupted.store(true, Ordering::Release);
    }
}

/// What happened on the watches since the start.
#[derive(Clone, Debug, Default)]
pub struct WatchCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    lists: AtomicU64,
    errors: AtomicU64,
    set_aside: AtomicU64,
}

impl WatchCounts {
    /// Whole lists taken in, of pods and of nodes.
    #[must_use]
    pub fn lists(&self) -> u64 {
        self.0.lists.load(Ordering::Relaxed)
    }

    /// Requests that failed and watches that broke; each was tried again.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.0.errors.load(Ordering::Relaxed)
    }

    /// Objects that were not understood.
    #[must_use]
    pub fn set_aside(&self) -> u64 {
        self.0.set_aside.load(Ordering::Relaxed)
    }
}

/// Tells every change of the cluster's pods and nodes until `changes` is closed.
pub async fn watch(client: Client, changes: mpsc::Sender<Change>, knowledge: Knowledge, counts: WatchCounts) {
    let feed = |what| Feed::new(what, changes.clone(), counts.clone(), knowledge.clone());
    let (pods, nodes) = (feed("pods"), feed("nodes"));
    let (pods_well, nodes_well) = (pods.well.clone(), nodes.well.clone());
    let pulse = pulse(client.clone(), knowledge.clone(), [pods_well, nodes_well]);
    tokio::select! {
        () = pods.run::<PodObject>(&client) => {}
        () = nodes.run::<NodeObject>(&client) => {}
        () = pulse => {}
        () = changes.closed() => {}
    }
}

/// Asks the API now and then whether it is there; while it is, and both watches are well, knowledge reaches to the
/// moment of asking.
async fn pulse(client: Client, knowledge: Knowledge, feeds: [Well; 2]) {
    loop {
        let asked = UnixNanos(unix_nanos());
        let answered = tokio::time::timeout(PULSE_WITHIN, client.apiserver_version()).await;
        let is_there = matches!(answered, Ok(Ok(_)));
        let pause = if is_there && feeds.iter().all(|feed| feed.is_well(asked)) {
            if knowledge.is_interrupted() {
                info!("the API answers, and both watches are whole");
            }
            knowledge.advance(asked);
            PULSE_EVERY
        } else {
            // A first list that is under way is no interruption.
            if !is_there {
                knowledge.interrupt();
            }
            PULSE_SOON
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether a watch has listed everything and is not broken.
///
/// A list makes it whole, until another one is due: what happened in between is only in that one. The library does not
/// say when a watch that goes on without a list is whole again, and a quiet cluster sends nothing on it. While it is
/// broken it fails again within [`BROKEN_FOR`], so one that has not failed for that long is whole.
#[derive(Clone, Debug, Default)]
struct Well(Arc<WellState>);

#[derive(Debug, Default)]
struct WellState {
    listed: AtomicBool,
    /// By this machine's clock, nanoseconds since 1970; 0 before the first.
    failed_at: AtomicU64,
}

impl Well {
    /// A list is whole, whatever was missed before it.
    fn listed(&self) {
        self.0.failed_at.store(0, Ordering::Release);
        self.0.listed.store(true, Ordering::Release);
    }

    /// It lists anew; whether it had listed everything before.
    fn lists_anew(&self) -> bool {
        self.0.listed.swap(false, Ordering::AcqRel)
    }

    fn failed(&self, now: UnixNanos) {
        self.0.failed_at.store(now.0, Ordering::Release);
    }

    fn is_well(&self, now: UnixNanos) -> bool {
        let failed_at = UnixNanos(self.0.failed_at.load(Ordering::Acquire));
        self.0.listed.load(Ordering::Acquire) && now.since(failed_at) > BROKEN_FOR
    }
}

/// An object of the API that turns into changes.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static {
    type Told;
    fn read(self) -> Result<Self::Told, ObjectError>;
    /// Gone by `now` at the latest.
    fn gone(self, now: UnixNanos) -> Result<Change, ObjectError>;
    fn one(told: Self::Told) -> Change;
    fn all(told: Vec<Self::Told>) -> Change;
}

impl Watched for PodObject {
    type Told = crate::cluster::Pod;

    fn read(self) -> Result<Self::Told, ObjectError> {
        self.pod()
    }

    fn gone(self, now: UnixNanos) -> Result<Change, ObjectError> {
        self.gone(now).map(Change::PodGone)
    }

    fn one(told: Self::Told) -> Change {
        Change::Pod(told)
    }

    fn all(told: Vec<Self::Told>) -> Change {
        Change::Pods(told)
    }
}

impl Watched for NodeObject {
    type Told = crate::cluster::Node;

    fn read(self) -> Result<Self::Told, ObjectError> {
        self.node()
    }

    fn gone(self, _now: UnixNanos) -> Result<Change, ObjectError> {
        let name = self.meta().name.clone().ok_or(ObjectError::Missing { field: "name" })?;
        Ok(Change::NodeGone(NodeName(name.into())))
    }

    fn one(told: Self::Told) -> Change {
        Change::Node(told)
    }

    fn all(told: Vec<Self::Told>) -> Change {
        Change::Nodes(told)
    }
}

/// Why a stream of events is left.
enum Left {
    /// Nobody listens any more.
    Closed,
    /// This server has no streaming lists.
    NoStreamingLists,
}

/// One watch and where its changes go.
struct Feed {
    what: &'static str,
    changes: mpsc::Sender<Change>,
    counts: WatchCounts,
    knowledge: Knowledge,
    well: Well,
    complaint: Complaint,
}

impl Feed {
    fn new(
        what: &'static str,
        changes: mpsc::Sender<Change>,
        counts: WatchCounts,
        knowledge: Knowledge,
    ) -> Self {
        Self { what, changes, counts, knowledge, well: Well::default(), complaint: Complaint::default() }
    }

    async fn run<K: Watched>(mut self, client: &Client) {
        let mut strategy = strategy(client).await;
        loop {
            let mut config = Config::default().timeout(WATCH_SECONDS);
            config.initial_list_strategy = strategy.clone();
            let events = watch_objects(Api::<K>::all(client.clone()), config).backoff(Retry::default());
            let streaming = strategy == InitialListStrategy::StreamingList;
            match self.follow(events.boxed(), streaming).await {
                Left::Closed => return,
                Left::NoStreamingLists => {}
            }
            info!(what = self.what, "the API has no streaming lists, listing in pages");
            strategy = InitialListStrategy::ListWatch;
        }
    }

    async fn follow<K: Watched>(
        &mut self,
        mut events: impl Stream<Item = watcher::Result<Event<K>>> + Unpin,
        streaming: bool,
    ) -> Left {
        let mut listed = Vec::new();
        let mut list_by = None::<Instant>;
        loop {
            let event = match list_by.filter(|_| streaming) {
                Some(deadline) => timeout_at(deadline, events.next()).await,
                None => Ok(events.next().await),
            };
            let Ok(Some(event)) = event else { return Left::NoStreamingLists };
            let mut is_list = false;
            let change = match event {
                Err(error) => {
                    if streaming && is_refused(&error) {
                        return Left::NoStreamingLists;
                    }
                    self.failed(&error);
                    continue;
                }
                Ok(Event::Init) => {
                    self.lists_anew();
                    listed.clear();
                    list_by = Some(Instant::now() + STREAMING_LIST_WITHIN);
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.extend(self.understood(&object.name_any(), object.read()));
                    continue;
                }
                Ok(Event::InitDone) => {
                    list_by = None;
                    is_list = true;
                    self.counts.0.lists.fetch_add(1, Ordering::Relaxed);
                    debug!(what = self.what, objects = listed.len(), "listed");
                    Some(K::all(std::mem::take(&mut listed)))
                }
                Ok(Event::Apply(object)) => self.understood(&object.name_any(), object.read()).map(K::one),
                Ok(Event::Delete(object)) => {
                    self.understood(&object.name_any(), object.gone(UnixNanos(unix_nanos())))
                }
            };
            if let Some(change) = change
                && self.changes.send(change).await.is_err()
            {
                return Left::Closed;
            }
            self.complaint.over();
            // Not before the list is on its way: whoever hears that all is known has it to read.
            if is_list {
                self.well.listed();
            }
        }
    }

    /// What was known is old until the list is in.
    fn lists_anew(&self) {
        if self.well.lists_anew() {
            self.knowledge.interrupt();
        }
    }

    fn failed(&mut self, error: &watcher::Error) {
        self.counts.0.errors.fetch_add(1, Ordering::Relaxed);
        let now = UnixNanos(unix_nanos());
        if self.well.is_well(now) {
            self.complaint.over();
        }
        // The count tells how often it was tried.
        let text = chain(error);
        if self.complaint.is_news(&text) {
            warn!(what = self.what, error = %text, "the watch is broken, trying again");
        }
        self.well.failed(now);
        self.knowledge.interrupt();
        if needs_list(error) {
            self.lists_anew();
        }
    }

    /// One object that makes no sense costs nobody else their name.
    fn understood<T>(&self, name: &str, read: Result<T, ObjectError>) -> Option<T> {
        match read {
            Ok(told) => Some(told),
            Err(error) => {
                self.counts.0.set_aside.fetch_add(1, Ordering::Relaxed);
                warn!(what = self.what, name, %error, "set aside");
                None
            }
        }
    }
}

/// What was last said of a watch that is broken, so that each reason is said once.
#[derive(Debug, Default)]
struct Complaint(Option<String>);

impl Complaint {
    /// Whether `text` was not what was said last; from now on it is.
    fn is_news(&mut self, text: &str) -> bool {
        let is_news = self.0.as_deref() != Some(text);
        if is_news {
            self.0 = Some(text.to_owned());
        }
        is_news
    }

    /// The watch went on: when it breaks again, that is news.
    fn over(&mut self) {
        self.0 = None;
    }
}

/// The pauses before a broken watch is tried again.
#[derive(Debug, Default)]
struct Retry(Option<Duration>);

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = Some(self.0.map_or(RETRY_FIRST, |last| RETRY_MAX.min(last * 2)));
        self.0
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0 = None;
    }
}

async fn strategy(client: &Client) -> InitialListStrategy {
    let version = client.apiserver_version().await;
    let digits = |minor: &str| minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match version.ok().and_then(|version| digits(&version.minor)) {
        Some(minor) if minor >= STREAMING_LISTS_SINCE => InitialListStrategy::StreamingList,
        _ => InitialListStrategy::ListWatch,
    }
}

/// After these the library lists anew; it says so only once a streaming list is answered.
fn needs_list(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

/// A server that knows the parameter and has the feature switched off answers 422 or 400.
fn is_refused(error: &watcher::Error) -> bool {
    let (watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::InitialListFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    matches!(status.code, 400 | 422)
}
