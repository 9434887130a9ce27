//! Address to identity, over time; and each node's share of it.
//!
//! One owner changes it, between two joins: a relist is taken in whole, so no join ever sees half of one.
//! Bounded by the cluster: pods and nodes that exist, and pods that ended no longer than [`ENDED_KEPT`] ago.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    AddressClass, Identity, NodeName, Owner, PodName, Scope, Span, Unattributed, UnixNanos, Workload,
};
use ipnet::IpNet;

use crate::cluster::{Change, Node, Pod, PodUid};
use crate::ranges::Ranges;

/// How long a pod that ended stays known, for what its collector sends late.
pub const ENDED_KEPT: Duration = Duration::from_secs(600);

/// Who had an address, from when to when.
#[derive(Clone, Debug)]
struct Tenure {
    /// `None` for a node.
    pod: Option<PodUid>,
    since: UnixNanos,
    until: Option<UnixNanos>,
    identity: Arc<Identity>,
}

impl Tenure {
    fn overlaps(&self, span: Span) -> bool {
        self.since <= span.to && self.until.is_none_or(|until| span.from < until)
    }
}

/// News for one node's collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeChange {
    /// Whose.
    pub node: NodeName,
    /// Owners that are new or changed.
    pub owners: Vec<Arc<Owner>>,
    /// The node is new, or its own addresses changed: only its whole scope tells that.
    pub renewed: bool,
}

/// What is known of a cluster.
#[derive(Debug, Default)]
pub struct Index {
    pods: HashMap<PodUid, Pod>,
    nodes: HashMap<NodeName, Node>,
    pods_on: HashMap<NodeName, HashSet<PodUid>>,
    tenures: HashMap<IpAddr, Vec<Tenure>>,
    /// Ended pods by when, so that those to forget are found without a search.
    ended: BTreeSet<(UnixNanos, PodUid)>,
    configured: Vec<IpNet>,
    ranges: Ranges,
    /// A node came, changed or went since the ranges were worked out.
    ranges_stale: bool,
}

impl Index {
    /// An index of nothing; `configured` are ranges that the operator calls the cluster's.
    #[must_use]
    pub fn new(configured: Vec<IpNet>) -> Self {
        Self { ranges: Ranges::new(configured.clone()), configured, ..Self::default() }
    }

    /// How many addresses have an identity.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.tenures.len()
    }

    /// How many nodes are known.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes known, in no order.
    pub fn node_names(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Whether there is such a node.
    #[must_use]
    pub fn knows_node(&self, name: &NodeName) -> bool {
        self.nodes.contains_key(name)
    }

    /// A pod that is known, lately ended ones included.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// How many pods are known, lately ended ones included.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Takes in what happened; returns what collectors have to be told.
    pub fn apply(&mut self, change: Change, now: UnixNanos) -> Vec<ScopeChange> {
        let mut news = News::default();
        match change {
            Change::Pod(pod) => self.upsert_pod(pod, now, &mut news),
            Change::PodGone(pod) => self.end_pod(pod, now, &mut news),
            Change::Pods(pods) => self.replace_pods(pods, now, &mut news),
            Change::Node(node) => self.upsert_node(node, &mut news),
            Change::NodeGone(name) => self.remove_node(&name),
            Change::Nodes(nodes) => self.replace_nodes(nodes, &mut news),
        }
        self.forget_ended(now);
        if std::mem::take(&mut self.ranges_stale) {
            let of_nodes = self.nodes.values().flat_map(|node| node.pod_ranges.iter().copied());
            self.ranges = Ranges::new(self.configured.iter().copied().chain(of_nodes).collect());
        }
        news.into_changes()
    }

    /// Who had `address` during `span`.
    ///
    /// # Errors
    /// Nobody that the cluster knows, or more than one.
    pub fn lookup(&self, address: IpAddr, span: Span) -> Result<&Arc<Identity>, Unattributed> {
        let tenures = self.tenures.get(&address).map_or(&[][..], Vec::as_slice);
        let mut holders =
            tenures.iter().filter(|tenure| tenure.overlaps(span)).map(|tenure| &tenure.identity);
        let first = holders.next().ok_or(Unattributed::Unknown)?;
        if holders.any(|other| other != first) { Err(Unattributed::Ambiguous) } else { Ok(first) }
    }

    /// Who had the address of `owner` on `node` during `span`, where the owner had ended before: an entry that the
    /// collector gave to it for want of news, or by its start, was another's by then. `None` where nobody else had the
    /// address, or more than one.
    pub fn successor(&self, owner: &Owner, node: &NodeName, span: Span) -> Option<&Arc<Identity>> {
        let until = self.pods.get(&PodUid(Arc::clone(&owner.pod_uid)))?.until?;
        let holder = self.lookup(owner.address, span).ok().filter(|_| until <= span.from)?;
        Some(holder).filter(|identity| identity.pod.is_some() && identity.node.as_ref() == Some(node))
    }

    /// Private for whatever the cluster knows, else by range.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> AddressClass {
        if self.tenures.contains_key(&address) { AddressClass::Private } else { self.ranges.class(address) }
    }

    /// The identity of an owner as it names itself, on `node`.
    #[must_use]
    pub fn identity_of(&self, owner: &Owner, node: &NodeName) -> Identity {
        if owner.is_node() {
            return self.identity(None, None, node);
        }
        let pod = PodName { namespace: Arc::clone(&owner.namespace), name: Arc::clone(&owner.name) };
        let known = self.pods.get(&PodUid(Arc::clone(&owner.pod_uid)));
        self.identity(Some(pod), known.and_then(|pod| pod.workload.clone()), node)
    }

    /// The whole scope of `node`. A node that is not known has no owners.
    #[must_use]
    pub fn scope(&self, node: &NodeName, as_of: UnixNanos) -> Scope {
        let pods = self.pods_on.get(node).into_iter().flatten().filter_map(|uid| self.pods.get(uid));
        let node_addresses = self.nodes.get(node).map(|node| node.addresses.clone()).unwrap_or_default();
        Scope { as_of, whole: true, owners: pods.flat_map(owners_of).collect(), node_addresses }
    }

    fn replace_pods(&mut self, pods: Vec<Pod>, now: UnixNanos, news: &mut News) {
        let listed: HashSet<&PodUid> = pods.iter().map(|pod| &pod.uid).collect();
        let gone: Vec<Pod> = self
            .pods
            .values()
            .filter(|known| known.until.is_none() && !listed.contains(&known.uid))
            .cloned()
            .collect();
        let mut begun: HashMap<IpAddr, Vec<UnixNanos>> = HashMap::new();
        if !gone.is_empty() {
            for pod in &pods {
                pod.addresses.iter().for_each(|address| begun.entry(*address).or_default().push(pod.since));
            }
        }
        for mut pod in gone {
            // Nobody saw it end, but whoever has its address now began when it was over.
            let heirs = pod.addresses.iter().filter_map(|address| begun.get(address)).flatten();
            pod.until = heirs.copied().filter(|&since| since > pod.since).min();
            self.end_pod(pod, now, news);
        }
        for pod in pods {
            self.upsert_pod(pod, now, news);
        }
    }

    /// A pod whose object does not say when it ended has ended by now.
    fn end_pod(&mut self, mut pod: Pod, now: UnixNanos, news: &mut News) {
        if let Some(known) = self.pods.get(&pod.uid) {
            pod.until = pod.until.or(known.until);
        }
        pod.until = Some(pod.until.unwrap_or(now));
        self.upsert_pod(pod, now, news);
    }

    fn upsert_pod(&mut self, pod: Pod, now: UnixNanos, news: &mut News) {
        let Some(node) = pod.node.clone() else { return };
        if self.pods.get(&pod.uid) == Some(&pod) {
            return;
        }
        let stale = pod.until.is_some_and(|until| until.saturating_add(ENDED_KEPT) < now);
        self.remove_pod(&pod.uid);
        // An ended pod that is listed for hours, as Jobs are, is not taken in again each time it is told.
        if stale {
            return;
        }
        if let Some(until) = pod.until {
            self.ended.insert((until, pod.uid.clone()));
        }
        self.pods_on.entry(node.clone()).or_default().insert(pod.uid.clone());
        self.add_tenures(&pod, &node);
        news.add(node, owners_of(&pod));
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove_pod(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if let Some(until) = pod.until {
            self.ended.remove(&(until, uid.clone()));
        }
        if let Some(on_node) = pod.node.as_ref().and_then(|node| self.pods_on.get_mut(node)) {
            on_node.remove(uid);
        }
        self.remove_tenures(&pod.addresses, Some(uid));
    }

    fn forget_ended(&mut self, now: UnixNanos) {
        while let Some((until, uid)) = self.ended.first().cloned() {
            if until.saturating_add(ENDED_KEPT) >= now {
                return;
            }
            self.remove_pod(&uid);
        }
    }

    fn replace_nodes(&mut self, nodes: Vec<Node>, news: &mut News) {
        let listed: HashSet<&NodeName> = nodes.iter().map(|node| &node.name).collect();
        let gone: Vec<NodeName> = self.nodes.keys().filter(|name| !listed.contains(name)).cloned().collect();
        for name in gone {
            self.remove_node(&name);
        }
        for node in nodes {
            self.upsert_node(node, news);
        }
    }

    fn upsert_node(&mut self, node: Node, news: &mut News) {
        let known = self.nodes.get(&node.name);
        if known == Some(&node) {
            return;
        }
        if known.is_none_or(|known| known.addresses != node.addresses) {
            news.renew(node.name.clone());
        }
        let moved = known
            .is_none_or(|known| (&known.topology_zone, &known.region) != (&node.topology_zone, &node.region));
        let name = node.name.clone();
        self.remove_node(&name);
        let addresses = node.addresses.clone();
        self.nodes.insert(name.clone(), node);
        let identity = Arc::new(self.identity(None, None, &name));
        for address in addresses {
            let always =
                Tenure { pod: None, since: UnixNanos(0), until: None, identity: Arc::clone(&identity) };
            self.tenures.entry(address).or_default().push(always);
        }
        self.ranges_stale = true;
        if moved {
            self.name_anew(&name);
        }
    }

    fn remove_node(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.remove(name) else { return };
        self.remove_tenures(&node.addresses, None);
        self.ranges_stale = true;
    }

    /// The node's place is in the identity of each of its pods.
    fn name_anew(&mut self, node: &NodeName) {
        let uids: Vec<PodUid> = self.pods_on.get(node).into_iter().flatten().cloned().collect();
        for uid in uids {
            let Some(pod) = self.pods.get(&uid).cloned() else { continue };
            self.remove_tenures(&pod.addresses, Some(&uid));
            self.add_tenures(&pod, node);
        }
    }

    fn add_tenures(&mut self, pod: &Pod, node: &NodeName) {
        let name = PodName { namespace: Arc::clone(&pod.namespace), name: Arc::clone(&pod.name) };
        let identity = Arc::new(self.identity(Some(name), pod.workload.clone(), node));
        for address in &pod.addresses {
            self.tenures.entry(*address).or_default().push(Tenure {
                pod: Some(pod.uid.clone()),
                since: pod.since,
                until: pod.until,
                identity: Arc::clone(&identity),
            });
        }
    }

    fn remove_tenures(&mut self, addresses: &[IpAddr], of: Option<&PodUid>) {
        for address in addresses {
            let Some(tenures) = self.tenures.get_mut(address) else { continue };
            tenures.retain(|tenure| tenure.pod.as_ref() != of);
            if tenures.is_empty() {
                self.tenures.remove(address);
            }
        }
    }

    fn identity(&self, pod: Option<PodName>, workload: Option<Workload>, node: &NodeName) -> Identity {
        let known = self.nodes.get(node);
        Identity {
            pod,
            workload,
            node: Some(node.clone()),
            topology_zone: known.and_then(|node| node.topology_zone.clone()),
            region: known.and_then(|node| node.region.clone()),
            dns_name: None,
        }
    }
}

fn owners_of(pod: &Pod) -> impl Iterator<Item = Arc<Owner>> + '_ {
    pod.addresses.iter().map(|&address| {
        Arc::new(Owner {
            address,
            pod_uid: Arc::clone(&pod.uid.0),
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            labels: pod.labels.clone(),
            since: pod.since,
            until: pod.until,
            measure: true,
        })
    })
}

/// Scope changes by node, in the order in which the nodes were first met.
#[derive(Default)]
struct News {
    changes: Vec<ScopeChange>,
    of_node: HashMap<NodeName, usize>,
}

impl News {
    fn add(&mut self, node: NodeName, owners: impl Iterator<Item = Arc<Owner>>) {
        self.of(node).owners.extend(owners);
    }

    fn renew(&mut self, node: NodeName) {
        self.of(node).renewed = true;
    }

    fn of(&mut self, node: NodeName) -> &mut ScopeChange {
        let changes = &mut self.changes;
        let place = *self.of_node.entry(node.clone()).or_insert_with(|| {
            changes.push(ScopeChange { node, owners: Vec::new(), renewed: false });
            changes.len() - 1
        });
        &mut changes[place]
    }

    fn into_changes(self) -> Vec<ScopeChange> {
        self.changes.into_iter().filter(|change| change.renewed || !change.owners.is_empty()).collect()
    }
}
