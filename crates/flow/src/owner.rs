//! Who a node's addresses belong to, as the exporter tells the collector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::record::NodeName;
use crate::time::UnixNanos;

/// The pod that an address belonged to, from when to when; or the node itself.
///
/// A pod with two addresses has two owners, equal but for the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's UID: what tells a pod from its namesake. Not one for [a node](Self::is_node).
    pub pod_uid: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The labels that name it, sorted.
    pub labels: BTreeMap<String, String>,
    /// The pod's start time by the kubelet's clock, to the second; 0 when always.
    pub since: UnixNanos,
    /// When its last container finished, else its deletion, rounded up a second; `None` while it lives.
    pub until: Option<UnixNanos>,
    /// False for a pod that is known and not to be measured.
    pub measure: bool,
}

/// The UID and the namespace of an owner that is a node: no pod can have either.
const NODE: &str = ":node";

impl Owner {
    /// The node itself as the owner of one of its addresses, for ever: what the pods on its network send.
    #[must_use]
    pub fn of_node(address: IpAddr, node: &NodeName) -> Self {
        Self {
            address,
            pod_uid: NODE.into(),
            namespace: NODE.into(),
            name: Arc::clone(&node.0),
            labels: BTreeMap::new(),
            since: UnixNanos(0),
            until: None,
            measure: true,
        }
    }

    /// Whether it is a node and no pod.
    #[must_use]
    pub fn is_node(&self) -> bool {
        &*self.pod_uid == NODE
    }

    /// Whether the address was this pod's at `at`. Exclusive of `until`.
    #[must_use]
    pub fn holds(&self, at: UnixNanos) -> bool {
        self.since <= at && self.until.is_none_or(|until| at < until)
    }
}

/// The owners of one node that the exporter tells its collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The exporter's knowledge reaches to this instant: by its own clock where it is made and on the wire, by the
    /// node's clock once the collector has it.
    pub as_of: UnixNanos,
    /// True: whoever was told of before and is not among these has ended. False: they are added, or take the place of the
    /// owner with the same address and pod UID.
    pub whole: bool,
    /// Owners, living and lately ended.
    pub owners: Vec<Arc<Owner>>,
    /// The node's own addresses, which are nobody's pod. Meaningful only when `whole`.
    pub node_addresses: Vec<IpAddr>,
}
