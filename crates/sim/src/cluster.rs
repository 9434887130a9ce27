//! The pods of a cluster, and the API that tells of them in order and late.
//!
//! Addresses are few and passed on at once, so that a late word of a pod meets its successor's traffic.
//!
//! Invariant: an address is one living pod's. Bound: [`ADDRESSES`] pods a node at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use egressd_enrich::{Change, Node, Pod, PodUid};
use egressd_flow::{NodeName, TopologyZone, UnixNanos};

use crate::kernel::{address, node_address};
use crate::rng::Rng;

/// Of pods, on one node.
const ADDRESSES: u64 = 4;
const SECOND: u64 = 1_000_000_000;

/// What happened in a cluster, and what there is now.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    living: BTreeMap<IpAddr, Pod>,
    /// Ended, and listed on until they are deleted.
    ended: Vec<Pod>,
    /// In the order in which the API tells it.
    changes: Vec<Change>,
    pods: u64,
}

/// A node's name, from its number.
pub(crate) fn node_name(node: u8) -> NodeName {
    NodeName(format!("node-{node}").into())
}

impl Cluster {
    pub(crate) fn new(nodes: u8) -> Self {
        let node = |number: u8| Node {
            name: node_name(number),
            topology_zone: Some(TopologyZone(format!("domain-{}", number % 2).into())),
            region: Some("region".into()),
            addresses: vec![node_address(number)],
            pod_ranges: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
        };
        Self {
            nodes: (1..=nodes).map(node).collect(),
            living: BTreeMap::new(),
            ended: Vec::new(),
            changes: Vec::new(),
            pods: 0,
        }
    }

    /// A pod begins on a node, or another of it ends; `now` is by the node's clock. Gives the addresses that nobody has
    /// any more.
    pub(crate) fn churn(&mut self, rng: &mut Rng, node: u8, now: UnixNanos) -> Vec<IpAddr> {
        let address = address(node, rng.between(1, ADDRESSES));
        match self.living.remove(&address) {
            Some(mut pod) if rng.once_in(3) => {
                pod.until = Some(UnixNanos(now.0.div_ceil(SECOND) * SECOND));
                self.ended.push(pod.clone());
                self.changes.push(Change::Pod(pod));
                vec![address]
            }
            Some(pod) => {
                self.living.insert(address, pod);
                Vec::new()
            }
            None => {
                let pod = self.pod(node, address, now);
                self.changes.push(Change::Pod(pod.clone()));
                self.living.insert(address, pod);
                Vec::new()
            }
        }
    }

    fn pod(&mut self, node: u8, address: IpAddr, now: UnixNanos) -> Pod {
        self.pods += 1;
        Pod {
            uid: PodUid(format!("uid-{}", self.pods).into()),
            namespace: Arc::from("shop"),
            name: format!("pod-{}", self.pods).into(),
            node: Some(node_name(node)),
            addresses: vec![address],
            labels: BTreeMap::new(),
            workload: None,
            since: now.floor_second(),
            until: None,
        }
    }

    /// Addresses of a node's living pods.
    pub(crate) fn addresses(&self, node: u8) -> Vec<IpAddr> {
        let name = node_name(node);
        self.living
            .values()
            .filter(|pod| pod.node.as_ref() == Some(&name))
            .flat_map(|pod| pod.addresses.clone())
            .collect()
    }

    /// Those pods that ended are deleted: only who was told of them before knows them still.
    pub(crate) fn delete(&mut self, is_deleted: impl Fn(&PodUid) -> bool) {
        self.ended.retain(|pod| !is_deleted(&pod.uid));
    }

    /// Everything there is, and from which change on the watch goes on.
    pub(crate) fn list(&self) -> (Change, Change, usize) {
        let pods = self.living.values().chain(&self.ended).cloned().collect();
        (Change::Nodes(self.nodes.clone()), Change::Pods(pods), self.changes.len())
    }

    /// The change at a place; `None` when nothing more has happened.
    pub(crate) fn change(&self, at: usize) -> Option<&Change> {
        self.changes.get(at)
    }
}
