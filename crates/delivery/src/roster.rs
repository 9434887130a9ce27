//! Who collects on which node: what each node's collector last said of itself, and which nodes have none.
//!
//! Written by the streams and by whoever knows the cluster, read by the exporter's own pages.
//! Bound: the nodes of the cluster, and collectors' nodes up to [`NODES_MAX`]; one that hung up stays for
//! [`GONE_KEPT`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::{NodeName, UnixNanos};
use egressd_protocol::{Hello, Loss, Source, Status};

use crate::ledger::NODES_MAX;

/// How long a collector that hung up is told of.
pub const GONE_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long after its last loss a collector is called unwell: twice what the alert of it waits, so that one that goes on
/// losing is told of, and one that lost once is not for ever.
pub const LOSS_RECENT: Duration = Duration::from_secs(30 * 60);

/// What is known of all nodes; clones speak of the same.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Each with whether a collector is to be there.
    cluster: BTreeMap<NodeName, bool>,
    collectors: BTreeMap<NodeName, Collector>,
}

/// A node's collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its version.
    pub version: String,
    /// Where it reads.
    pub source: Source,
    /// When it dialled, by our clock.
    pub dialled: UnixNanos,
    /// When it last said how it is, by our clock.
    pub heard: UnixNanos,
    /// When it hung up; `None` while its stream is open.
    pub gone: Option<UnixNanos>,
    /// Why it reads there, and how, in its words; empty until it says.
    pub reason: String,
    /// What is wrong with it, in its words; empty when nothing is.
    pub diagnosis: String,
    /// What it lost since it started; `None` until it says.
    pub losses: Option<Vec<Loss>>,
    /// When it last lost something, by our clock; `None` when it has not since we know of its losses.
    pub lost: Option<UnixNanos>,
}

/// A node of the cluster, or one that a collector says it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Whether the cluster has it.
    pub in_cluster: bool,
    /// Whether a collector is to be there. Never where the cluster does not have it.
    pub to_collect: bool,
    /// `None`: no collector dialled within [`GONE_KEPT`].
    pub collector: Option<Collector>,
}

/// How many nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// A collector's stream is open.
    pub connected: u64,
    /// A collector is to be there, and none has an open stream: their traffic is not counted now.
    pub missing: u64,
    /// Connected, and something is wrong or was lost within [`LOSS_RECENT`].
    pub unwell: u64,
    /// Connected from a node that the cluster does not have: nothing there is anybody's.
    pub foreign: u64,
}

impl Roster {
    /// The nodes of the cluster, all of them, each with whether a collector is to be there.
    pub fn cluster(&self, nodes: impl Iterator<Item = (NodeName, bool)>) {
        self.lock().cluster = nodes.collect();
    }

    /// Every node in the order of names.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let State { cluster, collectors } = &*self.lock();
        let names: BTreeSet<&NodeName> = cluster.keys().chain(collectors.keys()).collect();
        let node = |name: &NodeName| Node {
            name: name.clone(),
            in_cluster: cluster.contains_key(name),
            to_collect: cluster.get(name).is_some_and(|to_collect| *to_collect),
            collector: collectors.get(name).cloned(),
        };
        names.into_iter().map(node).collect()
    }

    /// How many nodes are how at `now`.
    #[must_use]
    pub fn tally(&self, now: UnixNanos) -> Tally {
        let State { cluster, collectors } = &*self.lock();
        let mut tally = Tally::default();
        let is_here =
            |name| collectors.get(name).is_some_and(|collector: &Collector| collector.gone.is_none());
        for (name, collector) in collectors.iter().filter(|(_, collector)| collector.gone.is_none()) {
            tally.connected += 1;
            tally.foreign += u64::from(!cluster.contains_key(name));
            tally.unwell += u64::from(collector.is_unwell(now));
        }
        let awaited = cluster.iter().filter(|(_, to_collect)| **to_collect);
        tally.missing = awaited.filter(|(name, _)| !is_here(*name)).count() as u64;
        tally
    }

    pub(crate) fn dialled(&self, hello: &Hello, now: UnixNanos) {
        let collectors = &mut self.lock().collectors;
        collectors.retain(|_, known| known.gone.is_none_or(|gone| now.since(gone) < GONE_KEPT));
        if collectors.len() >= NODES_MAX && !collectors.contains_key(&hello.node) {
            // Names that were claimed and left make room for a collector that is here.
            let gone = collectors.iter().filter_map(|(name, known)| Some((known.gone?, name)));
            let Some((_, longest)) = gone.min() else { return };
            let longest = longest.clone();
            collectors.remove(&longest);
        }
        // One that dials again may be the same, so what it had lost is no news.
        let before = collectors.remove(&hello.node);
        let (losses, lost) = before.map(|known| (known.losses, known.lost)).unwrap_or_default();
        let collector = Collector {
            version: hello.version.clone(),
            source: hello.source,
            dialled: now,
            heard: now,
            gone: None,
            reason: String::new(),
            diagnosis: String::new(),
            losses,
            lost,
        };
        collectors.insert(hello.node.clone(), collector);
    }

    pub(crate) fn said(&self, node: &NodeName, status: Status, now: UnixNanos) {
        if let Some(collector) = self.lock().collectors.get_mut(node) {
            collector.heard = now;
            collector.source = status.source;
            collector.reason = status.reason;
            collector.diagnosis = status.diagnosis;
            // A process that started anew counts anew, so a number that is lower is of new losses too. What was lost
            // before we knew of any is no news.
            if let Some(known) = &collector.losses
                && status.losses.iter().any(|loss| !known.contains(loss))
            {
                collector.lost = Some(now);
            }
            collector.losses = Some(status.losses);
        }
    }

    /// Not for a stream that a newer one replaced.
    pub(crate) fn hung_up(&self, node: &NodeName, now: UnixNanos) {
        if let Some(collector) = self.lock().collectors.get_mut(node) {
            collector.gone = Some(now);
        }
    }

    /// Nobody panics while holding it, and each step is whole in any case.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector {
    fn is_unwell(&self, now: UnixNanos) -> bool {
        !self.diagnosis.is_empty() || self.lost.is_some_and(|lost| now.since(lost) < LOSS_RECENT)
    }
}

#[cfg(test)]
mod tests {
    use egressd_protocol::CollectorFlags;

    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    fn name(text: &str) -> NodeName {
        NodeName(text.into())
    }

    fn hello(node: &str) -> Hello {
        Hello {
            node: name(node),
            version: "1".to_owned(),
            source: Source::Netfilter,
            last_spool: None,
            epochs: vec![],
            clock: UnixNanos(0),
            flags: CollectorFlags::default(),
        }
    }

    /// Goal: nodes without a collector, collectors without a node, and those that are not well are told apart.
    #[test]
    fn every_node_is_told_with_its_collector() {
        let roster = Roster::default();
        roster.cluster(
            [("a", true), ("b", true), ("c", true), ("windows", false)]
                .map(|(node, to_collect)| (name(node), to_collect))
                .into_iter(),
        );
        for node in ["a", "b", "x"] {
            roster.dialled(&hello(node), UnixNanos(HOUR));
        }
        let diagnosis = "acct is off".to_owned();
        let status = Status { source: Source::Netfilter, reason: String::new(), diagnosis, losses: vec![] };
        roster.said(&name("a"), status, UnixNanos(2 * HOUR));
        assert_eq!(
            roster.tally(UnixNanos(2 * HOUR)),
            Tally { connected: 3, missing: 1, unwell: 1, foreign: 1 }
        );
        roster.hung_up(&name("b"), UnixNanos(2 * HOUR));
        assert_eq!(
            roster.tally(UnixNanos(2 * HOUR)),
            Tally { connected: 2, missing: 2, unwell: 1, foreign: 1 }
        );
        let told = |roster: &Roster| -> Vec<(String, bool, Option<bool>)> {
            let gone = |collector: Collector| collector.gone.is_some();
            let nodes = roster.nodes().into_iter();
            nodes.map(|node| (node.name.to_string(), node.in_cluster, node.collector.map(gone))).collect()
        };
        let row = |node: &str, in_cluster, gone| (node.to_owned(), in_cluster, gone);
        let expected = [
            row("a", true, Some(false)),
            row("b", true, Some(true)),
            row("c", true, None),
            row("windows", true, None),
            row("x", false, Some(false)),
        ];
        assert_eq!(told(&roster), expected);
        roster.dialled(&hello("a"), UnixNanos(27 * HOUR));
        assert_eq!(told(&roster)[1], row("b", true, None), "forgotten after a day");
    }

    /// Goal: a collector is unwell for as long as its losses are recent, whether it grew them, dialled again or started anew;
    /// what it had lost before it was known of, and what it goes on telling, is no news.
    #[test]
    fn a_loss_is_told_of_while_it_is_recent() {
        let roster = Roster::default();
        let minute = HOUR / 60;
        let say = |count: u64, minutes: u64| {
            let loss = Loss { reason: "lost_ends".to_owned(), count, bytes: 0 };
            let losses = Some(loss).filter(|_| count > 0).into_iter().collect();
            let (reason, diagnosis) = (String::new(), String::new());
            let status = Status { source: Source::Netfilter, reason, diagnosis, losses };
            roster.said(&name("a"), status, UnixNanos(HOUR + minutes * minute));
        };
        let is_unwell = |minutes: u64| roster.tally(UnixNanos(HOUR + minutes * minute)).unwell == 1;
        roster.dialled(&hello("a"), UnixNanos(HOUR));
        say(7, 0);
        assert!(!is_unwell(0), "lost before this exporter started");
        say(8, 1);
        assert!(is_unwell(1));
        say(8, 20);
        assert!(is_unwell(30) && !is_unwell(31), "it does not go on");
        say(9, 40);
        say(10, 60);
        assert!(is_unwell(80), "it goes on");
        roster.dialled(&hello("a"), UnixNanos(HOUR + 100 * minute));
        say(10, 100);
        assert!(!is_unwell(100), "the same one dialled again");
        say(0, 110);
        assert!(!is_unwell(110), "it started anew");
        say(3, 111);
        assert!(is_unwell(111), "and lost something");
    }

    /// Goal: peers that claim ever more nodes fill no more than the bound.
    #[test]
    fn claimed_nodes_are_bounded() {
        let roster = Roster::default();
        for number in 0..NODES_MAX + 10 {
            roster.dialled(&hello(&number.to_string()), UnixNanos(1));
        }
        assert_eq!(roster.nodes().len(), NODES_MAX);
        let knows = |node| roster.nodes().iter().any(|known| known.name == name(node));
        roster.dialled(&hello("new"), UnixNanos(1));
        assert!(!knows("new"), "all of them are here");
        roster.hung_up(&name("7"), UnixNanos(2));
        roster.hung_up(&name("5"), UnixNanos(3));
        roster.dialled(&hello("new"), UnixNanos(4));
        assert!(knows("new") && knows("5") && !knows("7"), "who is gone longest makes room");
    }
}
