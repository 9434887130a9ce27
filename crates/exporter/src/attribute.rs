//! The one who knows the cluster: takes in its changes, tells collectors their scopes, gives batches their names.
//!
//! One loop owns the index, so a batch is joined before a change or after it, never meanwhile. Nothing is told and
//! nothing is named before everything was listed once. A batch waits until the watch had time to tell of the pods in
//! it; while the watch is interrupted, until that is made up for, or for [`HELD_MAX`]. Batches are named in the order
//! of their positions, each when there is room for it on its way to the spool: a disk that takes nothing keeps nobody
//! from being told a scope.
//! Bound: [`WAITING_BYTES_MAX`] of batches that wait, names as it is told, and the index, which is bounded by the cluster.
//!
//! Scopes say no more while the watch is interrupted, for [`HELD_MAX`] at most: half of what happened would give an
//! address to a pod whose end, and whose successor, are still to be told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use egressd_delivery::roster::Roster;
use egressd_delivery::serve::{Heard, ScopeRequest, Taking};
use egressd_enrich::kubernetes::Knowledge;
use egressd_enrich::{Change, Grouping, Index, Names, PodUid};
use egressd_flow::{Batch, NodeName, Owner, Position, Record, Scope, UnixNanos};
use egressd_protocol::Hello;
use egressd_service::admin::Part;
use egressd_service::clock::unix_nanos;
use egressd_spool::Taken;
use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::EnrichMetrics;
use crate::placement::{LeftOut, Placement};
use crate::tokens::{PodQuestion, Standing};

#[cfg(test)]
mod tests;

/// Four times a minute: collectors let go of what nobody owns a minute after a scope does not name it.
const REFRESH: Duration = Duration::from_secs(15);
/// How long a batch waits for a cluster that cannot be watched. What is exported meanwhile is that much older; what is
/// still not known then is exported as unknown.
const HELD_MAX: Duration = Duration::from_secs(180);
/// How often it is looked whether the watch goes on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Memory of the batches that wait for their names, of all collectors together. The batch that reaches it is still
/// taken, and at a stop those in the queue of takings; the rest wait in their streams.
pub(crate) const WAITING_BYTES_MAX: usize = 100 << 20;
/// A node of the tree that an owner's labels are in, with the allocator's share: eleven pairs of strings. One is there
/// for five labels at least.
const LABELS_NODE_BYTES: usize = 576;
const LABELS_OF_A_NODE: usize = 5;
/// The counts of an [`Arc`] and the allocator's share.
const SHARED_BYTES: usize = 32;

/// The spool's task is gone; its own error says why.
#[derive(Debug, thiserror::Error)]
#[error("the spool takes nothing any more")]
pub(crate) struct SpoolGone;

/// A place on the way to the spool.
type Place = OwnedPermit<Taken>;

/// Where the cluster is known from.
pub(crate) enum Cluster {
    /// A file: everything, for ever.
    Inventory(Box<Index>),
    /// The API: what it tells, and up to when that is complete.
    Kubernetes(mpsc::Receiver<Change>, Knowledge),
}

/// What the loop waits for.
pub(crate) struct Inputs {
    pub(crate) takings: mpsc::Receiver<Taking>,
    pub(crate) names: mpsc::Receiver<Heard>,
    pub(crate) scope_requests: mpsc::Receiver<ScopeRequest>,
    pub(crate) pod_questions: mpsc::Receiver<PodQuestion>,
    pub(crate) stop: CancellationToken,
}

enum Event {
    Change(Option<Change>),
    ScopeRequest(ScopeRequest),
    Heard(Heard),
    PodQuestion(PodQuestion),
    Taking(Option<Taking>),
    Due(Result<Place, SpoolGone>),
    Look,
    Refresh,
    Stop,
}

/// A batch that waits for its names.
struct Waiting {
    hello: Arc<Hello>,
    batch: Batch,
    /// What it takes of our memory.
    bytes: usize,
    position: Position,
    /// The end of its span, by our clock; its arrival, where the collector's clock is ahead of it.
    seen: UnixNanos,
    /// How long ago that was when it came.
    age: Duration,
    /// Waits are measured from here: a clock that is set back prolongs none.
    arrived: Instant,
}

/// A collector that is told its scope.
struct Feed {
    scopes: mpsc::Sender<Scope>,
    excluded: Vec<String>,
    /// It missed something: it is told the whole again.
    behind: bool,
}

pub(crate) struct Attribution {
    index: Index,
    changes: Option<mpsc::Receiver<Change>>,
    knowledge: Option<Knowledge>,
    names: Names,
    listed: Listed,
    host_network: bool,
    feeds: HashMap<NodeName, Feed>,
    /// Something happened while the watch was interrupted, and collectors do not know it yet.
    untold: bool,
    /// Since when the watch is interrupted, as far as it was looked at; `None` while it is not.
    interrupted_since: Option<Instant>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    waiting_bytes_max: usize,
    /// How long after its span a batch is named.
    patience: Duration,
    /// The last that was given to a batch.
    position: Position,
    appends: mpsc::Sender<Taken>,
    /// Where who follows flows hears of them; it never makes us wait.
    followers: Option<egressd_serve::Feed>,
    metrics: EnrichMetrics,
    roster: Roster,
    /// Nodes that no collector is for.
    left_out: LeftOut,
    ready: Part,
}

/// What was listed whole at least once.
#[derive(Clone, Copy)]
struct Listed {
    pods: bool,
    nodes: bool,
}

/// How addresses are judged and named.
#[derive(Debug, Default)]
pub(crate) struct Naming {
    /// Ranges that are the cluster's beside those of its nodes; an inventory has its own.
    pub(crate) ranges: Vec<ipnet::IpNet>,
    /// How long after its span a batch of a cluster that changes is named.
    pub(crate) patience: Duration,
    /// Whether nodes are measured too: the pods on their network have no address of their own.
    pub(crate) host_network: bool,
    /// Of the DNS names of all nodes.
    pub(crate) names_bytes_max: usize,
}

impl Attribution {
    /// Batches go to the spool, each with a position behind `last`.
    pub(crate) fn new(
        cluster: Cluster,
        naming: Naming,
        (last, appends): (Position, mpsc::Sender<Taken>),
        metrics: EnrichMetrics,
        roster: Roster,
        ready: Part,
    ) -> Self {
        let (index, changes, knowledge, is_listed) = match cluster {
            Cluster::Inventory(index) => (*index, None, None, true),
            Cluster::Kubernetes(changes, knowledge) => {
                (Index::new(naming.ranges), Some(changes), Some(knowledge), false)
            }
        };
        ready.set(is_listed);
        Self {
            index,
            patience: if changes.is_some() { naming.patience } else { Duration::ZERO },
            changes,
            knowledge,
            names: Names::new(naming.names_bytes_max),
            listed: Listed { pods: is_listed, nodes: is_listed },
            host_network: naming.host_network,
            feeds: HashMap::new(),
            untold: false,
            interrupted_since: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waiting_bytes_max: WAITING_BYTES_MAX,
            position: last,
            appends,
            followers: None,
            metrics,
            roster,
            left_out: LeftOut::default(),
            ready,
        }
    }

    /// Misses no collector where none is to run.
    pub(crate) fn with_collectors_on(self, placement: Option<Placement>) -> Self {
        Self { left_out: LeftOut::by(placement), ..self }
    }

    /// Tells followers of flows too.
    pub(crate) fn with_followers(self, followers: Option<egressd_serve::Feed>) -> Self {
        Self { followers, ..self }
    }

    /// Runs until the ledger's driver lets nothing more in; then the spool sees its queue close.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<(), SpoolGone> {
        self.call_the_roll();
        let mut refresh = tokio::time::interval_at(Instant::now() + REFRESH, REFRESH);
        loop {
            match self.next_event(&mut inputs, &mut refresh).await {
                Event::Change(Some(change)) => self.change(change),
                Event::Change(None) => self.changes = None,
                Event::ScopeRequest(request) => self.dialled(request),
                Event::Heard(Heard { node, names }) => self.names.hear(&node, names),
                Event::PodQuestion(PodQuestion { pod, answer }) => {
                    // Who asked may have gone.
                    let _unheard = answer.send(self.standing(&pod));
                }
                Event::Taking(Some(taking)) => self.take(taking),
                Event::Due(place) => self.name_next(place?),
                Event::Look => {}
                Event::Refresh => self.refresh(),
                // Who asks for a stop before anything was listed gets no names, and the collectors keep everything.
                Event::Stop => return Ok(()),
                Event::Taking(None) => {
                    while !self.waiting.is_empty() {
                        let place = self.place().await?;
                        self.name_next(place);
                    }
                    return Ok(());
                }
            }
            if self.untold && !self.is_silenced() {
                self.untold = false;
                self.refresh();
            }
            self.metrics.cluster(&self.index);
            self.metrics.names(&self.names.books());
        }
    }

    async fn next_event(&mut self, inputs: &mut Inputs, refresh: &mut tokio::time::Interval) -> Event {
        let (synced, has_room) = (self.is_synced(), self.waiting_bytes < self.waiting_bytes_max);
        // The streams take nothing more then, and what they sent has to be seen to end.
        let takes = synced && (has_room || inputs.stop.is_cancelled());
        let due = self.waiting.front().map(|waiting| self.due_in(waiting));
        let place = self.place();
        let Inputs { takings, names, scope_requests, pod_questions, stop } = inputs;
        tokio::select! {
            biased;
            // First, so that nothing is named or said before what was told earlier.
            change = next_change(&mut self.changes) => Event::Change(change),
            Some(request) = scope_requests.recv() => Event::ScopeRequest(request),
            // What a collector told before a batch is known when that is named.
            Some(heard) = names.recv() => Event::Heard(heard),
            Some(question) = pod_questions.recv() => Event::PodQuestion(question),
            _ = refresh.tick() => Event::Refresh,
            () = stop.cancelled(), if !synced => Event::Stop,
            place = place, if due == Some(Duration::ZERO) => Event::Due(place),
            () = tokio::time::sleep(due.unwrap_or_default().min(LOOK_AGAIN)), if due > Some(Duration::ZERO) => Event::Look,
            taking = takings.recv(), if takes => Event::Taking(taking),
        }
    }

    fn is_synced(&self) -> bool {
        self.listed.pods && self.listed.nodes
    }

    fn due_in(&self, waiting: &Waiting) -> Duration {
        let missing =
            |knowledge: &Knowledge| knowledge.is_interrupted() && knowledge.reaches() < waiting.seen;
        let held = self.knowledge.as_ref().is_some_and(missing);
        let waits = if held { HELD_MAX } else { self.patience };
        waits.saturating_sub(waiting.age).saturating_sub(waiting.arrived.elapsed())
    }

    /// Its stream is told at once, so that it goes on telling scopes; its collector keeps the batch until the spool has it
    /// safe, or every sink has it.
    fn take(&mut self, Taking { hello, batch, taken }: Taking) {
        self.position = Position(self.position.0 + 1);
        self.metrics.taken(batch.sum());
        let bytes = memory_of(&batch);
        self.waiting_bytes += bytes;
        let (position, now) = (self.position, UnixNanos(unix_nanos()));
        let seen = batch.span.to.min(now);
        let (age, arrived) = (now.since(seen), Instant::now());
        self.waiting.push_back(Waiting { hello, batch, bytes, position, seen, age, arrived });
        // A stream that is gone does not undo what was taken: its next one hears of it.
        let _gone = taken.send(position);
    }

    /// Room for one batch on its way to the spool.
    fn place(&self) -> impl Future<Output = Result<Place, SpoolGone>> + use<> {
        let reserved = self.appends.clone().reserve_owned();
        async { reserved.await.map_err(|_| SpoolGone) }
    }

    fn change(&mut self, mut change: Change) {
        let was_synced = self.is_synced();
        match &change {
            Change::Pods(_) => self.listed.pods = true,
            Change::Nodes(_) => self.listed.nodes = true,
            Change::Pod(_) | Change::PodGone(_) | Change::Node(_) | Change::NodeGone(_) => {}
        }
        self.left_out.hear(&mut change);
        let news = self.index.apply(change, UnixNanos(unix_nanos()));
        if !self.is_synced() {
            return;
        }
        if !was_synced {
            info!(nodes = self.index.nodes(), pods = self.index.pods(), "the cluster is known");
            self.call_the_roll();
            self.ready.set(true);
            let nodes: Vec<NodeName> = self.feeds.keys().cloned().collect();
            nodes.iter().for_each(|node| self.catch_up(node));
            return;
        }
        let interrupted = self.is_silenced();
        self.untold |= interrupted;
        for change in news {
            let Some(feed) = self.feeds.get_mut(&change.node) else { continue };
            feed.behind |= interrupted || change.renewed;
            if change.renewed && !interrupted {
                self.catch_up(&change.node);
                continue;
            }
            // Who is behind is told the whole soon.
            if !feed.behind {
                let owners = change.owners.into_iter().map(|owner| feed.judged(owner)).collect();
                // What was told up to now says nothing of the pods that are still to come.
                feed.tell(Scope { as_of: UnixNanos(0), whole: false, owners, node_addresses: Vec::new() });
            }
        }
    }

    /// Which nodes there are, and which of them have a collector to wait for.
    fn call_the_roll(&self) {
        let nodes = self.index.node_names().map(|node| (node.clone(), !self.left_out.has(node)));
        self.roster.cluster(nodes);
    }

    fn standing(&self, pod: &PodUid) -> Standing {
        match self.index.pod(pod) {
            Some(pod) if pod.until.is_some() => Standing::Ended,
            Some(pod) => pod.node.clone().map_or(Standing::Unknown, Standing::Lives),
            None => Standing::Unknown,
        }
    }

    fn dialled(&mut self, request: ScopeRequest) {
        let node = request.hello.node.clone();
        let excluded = request.hello.flags.exclude_namespaces.clone();
        self.feeds.insert(node.clone(), Feed { scopes: request.feed, excluded, behind: true });
        if self.is_synced() {
            if !self.index.knows_node(&node) {
                warn!(%node, "a collector says that it is on a node that the cluster does not have: it measures nothing");
            }
            // The whole is half known until the watch goes on; then it is told.
            let is_silenced = self.is_silenced();
            if !(self.untold && is_silenced) {
                self.catch_up(&node);
            }
        }
    }

    /// Tells everybody how old the scopes are, and the whole to those who missed something, once it is known.
    fn refresh(&mut self) {
        self.feeds.retain(|_, feed| !feed.scopes.is_closed());
        // Batches of so long ago may still wait for their names.
        self.names.expire(UnixNanos(unix_nanos()).saturating_sub(HELD_MAX));
        if !self.is_synced() {
            return;
        }
        self.call_the_roll();
        let (as_of, interrupted) = (self.reaches(), self.is_silenced());
        let nodes: Vec<NodeName> = self.feeds.keys().cloned().collect();
        for node in nodes {
            match self.feeds.get_mut(&node) {
                Some(feed) if !feed.behind || interrupted => {
                    // Who missed something hears that we are there, and of no time up to which it knows all.
                    let as_of = if feed.behind { UnixNanos(0) } else { as_of };
                    feed.tell(Scope { as_of, whole: false, owners: Vec::new(), node_addresses: Vec::new() });
                }
                _ => self.catch_up(&node),
            }
        }
    }

    fn catch_up(&mut self, node: &NodeName) {
        let scope = self.index.scope(node, self.reaches());
        let Some(feed) = self.feeds.get_mut(node) else { return };
        let mut owners: Vec<_> = scope.owners.into_iter().map(|owner| feed.judged(owner)).collect();
        if self.host_network {
            let of_node = |&address| Arc::new(Owner::of_node(address, node));
            owners.extend(scope.node_addresses.iter().map(of_node));
        }
        feed.behind = false;
        feed.tell(Scope { owners, ..scope });
    }

    /// Whether scopes say nothing new, as the watch is interrupted. One that stays so must not keep new pods from being
    /// measured: after [`HELD_MAX`] what is known is told.
    fn is_silenced(&mut self) -> bool {
        if !self.knowledge.as_ref().is_some_and(Knowledge::is_interrupted) {
            self.interrupted_since = None;
            return false;
        }
        self.interrupted_since.get_or_insert_with(Instant::now).elapsed() < HELD_MAX
    }

    fn reaches(&self) -> UnixNanos {
        self.knowledge.as_ref().map_or_else(|| UnixNanos(unix_nanos()), Knowledge::reaches)
    }

    fn name_next(&mut self, place: Place) {
        let Some(Waiting { hello, batch, bytes, position, .. }) = self.waiting.pop_front() else { return };
        self.waiting_bytes -= bytes;
        let grouping = if hello.flags.group_public_ips { Grouping::Public } else { Grouping::None };
        let Self { index, names, .. } = self;
        let attributed = egressd_enrich::attribute(index, names, &hello.node, &batch, grouping, position);
        self.metrics.attributed(&attributed);
        let attributed = Arc::new(attributed);
        if let Some(followers) = &self.followers {
            followers.offer(&attributed);
        }
        let Batch { epoch, sequence, .. } = batch;
        // It is sent to the place, which gives back the way to the next one.
        drop(place.send(Taken { epoch, sequence, batch: attributed }));
    }
}

impl Feed {
    /// The owner as this collector should see it.
    fn judged(&self, owner: Arc<Owner>) -> Arc<Owner> {
        if self.excluded.iter().any(|namespace| **namespace == *owner.namespace) {
            Arc::new(Owner { measure: false, ..Owner::clone(&owner) })
        } else {
            owner
        }
    }

    fn tell(&mut self, scope: Scope) {
        match self.scopes.try_send(scope) {
            // A collector that is gone is forgotten at the next refresh.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.behind = true,
        }
    }
}

/// About what a batch takes while it waits, in bytes, rounded up; an empty one takes its place in the queue.
fn memory_of(batch: &Batch) -> usize {
    let owners = batch.owners.iter().map(|owner| {
        let labels: usize = owner.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        let text = owner.pod_uid.len() + owner.namespace.len() + owner.name.len() + labels;
        let nodes = owner.labels.len().div_ceil(LABELS_OF_A_NODE);
        // The owner and its three names are shared each by itself; a label is two strings.
        let apart = 4 + 2 * owner.labels.len();
        size_of::<Arc<Owner>>() + size_of::<Owner>() + text + nodes * LABELS_NODE_BYTES + apart * SHARED_BYTES
    });
    size_of::<Waiting>() + batch.records.capacity() * size_of::<Record>() + owners.sum::<usize>()
}

/// The next change of a cluster that changes; of another there is none.
async fn next_change(changes: &mut Option<mpsc::Receiver<Change>>) -> Option<Change> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}
