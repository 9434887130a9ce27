//! The exporter's process: ledger, index, join, spool and sinks, in the order of design.md.
//!
//! check (reserves) → named once the watch had time → append → sync → commit → Ack. The drivers' order is said again here in
//! steps that a kill can fall between.
//!
//! Invariant: nothing is acknowledged as taken before the spool has synced it. Bound: one batch a stream waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use egressd_delivery::ledger::{HelloError, Ledger, StreamId, Verdict};
use egressd_enrich::{Grouping, Index, Names, ScopeChange, attribute};
use egressd_flow::{Batch, Epoch, NodeName, Owner, Position, Scope, Sequence, UnixNanos};
use egressd_protocol::{HeldEpoch, SpoolId, Welcome};
use egressd_spool::{Spool, SpoolConfig, Taken};

use crate::Violation;
use crate::claims::{Claims, key};
use crate::cluster::{Cluster, node_name};
use crate::disk::SimDisk;
use crate::history::History;
use crate::link::{Down, Link, Up};
use crate::sinks::{Name, Sink};

/// How long after its span a batch is named.
const PATIENCE: Duration = Duration::from_secs(3);

/// A batch that the ledger let in.
struct Waiting {
    node: u8,
    link: u64,
    batch: Batch,
    arrived: UnixNanos,
}

/// One that is in the spool, and not said to be.
struct Appended {
    node: u8,
    link: u64,
    epoch: Epoch,
    sequence: Sequence,
    position: Position,
    traffic: egressd_flow::Counter,
}

/// A running exporter.
pub(crate) struct Exporter {
    pub(crate) ledger: Ledger,
    pub(crate) spool: Spool,
    pub(crate) sinks: Vec<Sink>,
    index: Index,
    /// The next change that the API tells; `None` before everything was listed.
    watched: Option<usize>,
    /// The scopes reach to this instant.
    reaches: UnixNanos,
    waiting: VecDeque<Waiting>,
    appended: Vec<Appended>,
    /// The spool's last position that survives.
    pub(crate) synced: Position,
    delivered: Position,
}

impl Exporter {
    /// Begins on what the disk has, or on nothing where there is no disk; `id` names a spool that is new.
    ///
    /// # Errors
    /// The spool is not what it must be.
    pub(crate) fn start(
        disk: Option<&SimDisk>,
        config: SpoolConfig,
        request_bytes_max: usize,
        (id, now): (u64, UnixNanos),
    ) -> Result<Self, Violation> {
        let mut spool = match disk {
            Some(disk) => {
                let (spool, recovery) = Spool::on(Box::new(disk.clone()), config, id)
                    .map_err(|error| Violation(format!("the spool cannot be opened: {error}")))?;
                if !(recovery.damages.is_empty() && recovery.damaged_sinks.is_empty()) {
                    return Err(Violation(format!("the spool is damaged by kills alone: {recovery:?}")));
                }
                spool
            }
            None => Spool::in_memory(config, id),
        };
        let mut sinks = Vec::new();
        for name in Name::ALL {
            sinks.push(Sink::join(name, &mut spool, request_bytes_max, now)?);
        }
        Ok(Self {
            synced: spool.last(),
            ledger: Ledger::default(),
            spool,
            sinks,
            index: Index::new(Vec::new()),
            watched: None,
            reaches: UnixNanos(0),
            waiting: VecDeque::new(),
            appended: Vec::new(),
            delivered: Position(0),
        })
    }

    /// How far an epoch of a node is in the spool.
    pub(crate) fn watermark(&self, node: u8, epoch: Epoch) -> Option<Sequence> {
        let name = node_name(node);
        let mut marks = self.spool.watermarks();
        marks.find(|(known, mark)| *known == name && mark.epoch == epoch).map(|(_, mark)| mark.sequence)
    }

    /// The API tells all there is, or the next so many changes. Gives what each node has to hear.
    pub(crate) fn watch(
        &mut self,
        cluster: &Cluster,
        at_most: usize,
        now: UnixNanos,
    ) -> Vec<(NodeName, Scope)> {
        let Some(mut at) = self.watched else {
            let (nodes, pods, next) = cluster.list();
            self.index.apply(nodes, now);
            self.index.apply(pods, now);
            (self.watched, self.reaches) = (Some(next), now);
            return Vec::new();
        };
        let mut news = Vec::new();
        for _ in 0..at_most {
            let Some(change) = cluster.change(at) else { break };
            news.extend(self.index.apply(change.clone(), now));
            at += 1;
        }
        if cluster.change(at).is_none() {
            self.reaches = now;
        }
        self.watched = Some(at);
        let scope = |ScopeChange { node, owners, .. }| {
            (
                node,
                Scope {
                    as_of: UnixNanos(0),
                    whole: false,
                    owners: in_order(owners),
                    node_addresses: Vec::new(),
                },
            )
        };
        news.into_iter().map(scope).collect()
    }

    /// Whether everything was listed once: before that nothing is told or taken.
    pub(crate) fn is_synced(&self) -> bool {
        self.watched.is_some()
    }

    /// How old what is told is.
    pub(crate) fn age(&self) -> Scope {
        Scope { as_of: self.reaches, whole: false, owners: Vec::new(), node_addresses: Vec::new() }
    }

    /// Hears one message of a stream; `is_haunted` where a collector that is gone has another one that is served. False when
    /// it has to wait where it is.
    ///
    /// # Errors
    /// An honest peer cannot say that.
    pub(crate) fn hear(
        &mut self,
        node: u8,
        (link, is_haunted): (&mut Link, bool),
        history: &mut History,
        now: UnixNanos,
    ) -> Result<bool, Violation> {
        if !self.is_synced() || link.taking {
            return Ok(false);
        }
        match link.up.front() {
            None => return Ok(false),
            Some(Up::Hello(held)) => self.greet(node, &held.clone(), (link, is_haunted), now)?,
            Some(Up::Batch(batch)) => {
                let (Some(stream), batch) = (link.seat, Arc::clone(batch)) else {
                    return Err(Violation("a batch comes before Hello".into()));
                };
                if !self.offer(node, stream, &batch, link, now)? {
                    return Ok(false);
                }
            }
        }
        if let Some(message) = link.up.pop_front() {
            history.note(|| format!("exporter: hears on stream {} of node {node}: {message}", link.number));
        }
        Ok(true)
    }

    fn greet(
        &mut self,
        node: u8,
        held: &[HeldEpoch],
        (link, is_haunted): (&mut Link, bool),
        now: UnixNanos,
    ) -> Result<(), Violation> {
        let name = node_name(node);
        match self.ledger.hello(&name, held, now) {
            Ok(stream) => link.seat = Some(stream),
            // Of a life that is over and heard late, or in the way of which such a one is until its stream is found at its end:
            // that it is not turned away for good shows when all is quiet.
            Err(HelloError::Superseded { .. }) if !link.dialled || is_haunted => {
                link.close();
                return Ok(());
            }
            Err(error) => return Err(Violation(error.to_string())),
        }
        link.down.push_back(Down::Welcome(Welcome {
            spool: SpoolId(self.spool.id()),
            durable: self.spool.durable(),
            version: String::new(),
            clock: now,
        }));
        self.acknowledge(node, link);
        let mut scope = self.index.scope(&name, self.reaches);
        scope.owners = in_order(scope.owners);
        link.down.push_back(Down::Scope(scope));
        Ok(())
    }

    /// False when its predecessor is still on its way.
    fn offer(
        &mut self,
        node: u8,
        stream: StreamId,
        batch: &Arc<Batch>,
        link: &mut Link,
        now: UnixNanos,
    ) -> Result<bool, Violation> {
        match self.ledger.check(&node_name(node), stream, batch.epoch, batch.sequence, now) {
            Verdict::Take => {
                link.taking = true;
                let waiting = Waiting { node, link: link.number, batch: Batch::clone(batch), arrived: now };
                self.waiting.push_back(waiting);
            }
            Verdict::Reserved => return Ok(false),
            Verdict::Duplicate => {
                self.ledger.duplicate(batch.sum());
                self.acknowledge(node, link);
            }
            // A Hello that said a batch was lost may have come while the one before it was being taken: the next one says it
            // again. Whether anything else is missing shows when all is quiet.
            Verdict::Replaced | Verdict::Gap { .. } => link.close(),
            Verdict::UnknownEpoch => {
                return Err(Violation(format!("batch {} of node {node} is of no epoch", batch.sequence)));
            }
        }
        Ok(true)
    }

    /// Says how far each of a node's epochs got.
    pub(crate) fn acknowledge(&self, node: u8, link: &mut Link) {
        link.down.extend(self.ledger.acks(&node_name(node)).into_iter().map(Down::Ack));
    }

    /// Whether a batch waits to be named.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a batch is due to be named.
    pub(crate) fn is_due(&self, now: UnixNanos) -> bool {
        self.waiting.front().is_some_and(|waiting| now.since(waiting.arrived) >= PATIENCE)
    }

    /// Names the batch that waited longest and appends it. Where the disk fails it waits on.
    ///
    /// # Errors
    /// The spool takes a batch twice.
    pub(crate) fn name_next(&mut self, claims: &mut Claims, now: UnixNanos) -> Result<(), Violation> {
        let Some(Waiting { node, batch, .. }) = self.waiting.front() else { return Ok(()) };
        let (node, position) = (*node, Position(self.spool.last().0 + 1));
        let attributed =
            attribute(&self.index, &mut Names::new(0), &node_name(node), batch, Grouping::None, position);
        if attributed.sum() != batch.sum() {
            return Err(Violation(format!("naming changes batch {} of node {node}", batch.sequence)));
        }
        let (epoch, sequence, traffic) = (batch.epoch, batch.sequence, batch.sum());
        let taken = Taken { epoch, sequence, batch: Arc::new(attributed) };
        let Ok(known) = self.spool.append(std::slice::from_ref(&taken), now) else { return Ok(()) };
        if known.is_empty() {
            claims.appended(key(node, batch), position)?;
        }
        if let Some(Waiting { link, .. }) = self.waiting.pop_front() {
            self.appended.push(Appended { node, link, epoch, sequence, position, traffic });
        }
        Ok(())
    }

    /// Makes durable what was appended, and commits it. Gives the streams that go on: node and link.
    pub(crate) fn sync(&mut self, claims: &mut Claims) -> Vec<(u8, u64)> {
        let Ok(synced) = self.spool.sync() else { return Vec::new() };
        self.synced = synced;
        claims.synced();
        let commit = |Appended { node, link, epoch, sequence, position, traffic }| {
            self.ledger.commit(&node_name(node), epoch, sequence, position, traffic);
            (node, link)
        };
        self.appended.drain(..).map(commit).collect()
    }

    /// Notes what every sink has accepted; true when that is news.
    pub(crate) fn settle(&mut self, claims: &mut Claims) -> bool {
        let accepted = self.sinks.iter().map(Sink::accepted).min().unwrap_or_default();
        let is_news = accepted > self.delivered;
        if is_news {
            self.delivered = accepted;
            self.ledger.delivered(accepted);
            claims.delivered(accepted);
        }
        is_news
    }

    /// Whether everything that it ever took has left it.
    pub(crate) fn is_drained(&mut self) -> bool {
        let Self { sinks, spool, .. } = self;
        let is_idle = sinks.iter().all(|sink| sink.is_idle(spool));
        self.waiting.is_empty() && self.appended.is_empty() && is_idle
    }

    /// Its books.
    ///
    /// # Errors
    /// They do not balance.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        let books = self.ledger.books();
        let mut accounted = books.duplicate;
        accounted += books.emitted;
        accounted += books.held;
        if books.received != accounted {
            return Err(Violation(format!("the ledger's books do not balance: {books:?}")));
        }
        self.sinks.iter().try_for_each(Sink::check)
    }
}

/// The index tells owners in no order; a history has one.
fn in_order(mut owners: Vec<Arc<Owner>>) -> Vec<Arc<Owner>> {
    owners.sort_by(|one, two| (one.address, &one.pod_uid).cmp(&(two.address, &two.pod_uid)));
    owners
}
