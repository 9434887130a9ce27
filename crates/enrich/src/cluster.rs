//! What is known of a cluster, and what changes in it, whatever it was read from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use egressd_flow::{NodeName, TopologyZone, UnixNanos, Workload};
use ipnet::IpNet;

/// A pod's UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub Arc<str>);

/// A pod as the index needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// What tells it from its namesakes.
    pub uid: PodUid,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Where it runs; `None` before it is scheduled.
    pub node: Option<NodeName>,
    /// Its own addresses; empty before it has any, and for a pod on its node's network.
    pub addresses: Vec<IpAddr>,
    /// The labels that name it.
    pub labels: BTreeMap<String, String>,
    /// What keeps it running.
    pub workload: Option<Workload>,
    /// Its start by the kubelet's clock, to the second; 0 when always.
    pub since: UnixNanos,
    /// When its last container finished, else its deletion, rounded up a second; `None` while it lives.
    pub until: Option<UnixNanos>,
}

/// A node as the index needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// `topology.kubernetes.io/zone`.
    pub topology_zone: Option<TopologyZone>,
    /// `topology.kubernetes.io/region`.
    pub region: Option<Arc<str>>,
    /// Its addresses in the cluster (`InternalIP`).
    pub addresses: Vec<IpAddr>,
    /// The ranges that its pods' addresses are from (`spec.podCIDRs`).
    pub pod_ranges: Vec<IpNet>,
    /// Its labels. The index makes nothing of them: whoever does takes them out before.
    pub labels: BTreeMap<String, String>,
    /// What keeps pods off it; as the labels.
    pub taints: Vec<Taint>,
}

/// What keeps pods off a node that do not tolerate it (`core/v1` Taint).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Never empty.
    pub key: String,
    /// Empty when there is none.
    pub value: String,
    /// `NoSchedule`, `NoExecute`, or one that keeps nobody off.
    pub effect: String,
}

/// Something that happened in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All pods there are: those not among them are gone.
    Pods(Vec<Pod>),
    /// A pod came or changed.
    Pod(Pod),
    /// A pod is gone; it is told as it was last seen.
    PodGone(Pod),
    /// All nodes there are.
    Nodes(Vec<Node>),
    /// A node came or changed.
    Node(Node),
    /// A node is gone.
    NodeGone(NodeName),
}
