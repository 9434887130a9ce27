//! A cluster written down in a file, in place of the Kubernetes API.
//!
//! ```yaml
//! nodes:
//!   - name: node-a
//!     zone: zone-1              # topology.kubernetes.io/zone
//!     region: region-1
//!     addresses: [172.18.0.2, "fd00:172:18::2"]
//! pods:
//!   - name: web-0
//!     namespace: shop
//!     uid: 6f0c…                # optional: namespace/name otherwise
//!     node: node-a
//!     addresses: [10.244.1.2, "fd00:10:244:1::2"]
//!     workload: { kind: Deployment, name: web }
//! ranges: [10.244.0.0/16]       # what the cluster calls its own
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use egressd_flow::{NodeName, TopologyZone, UnixNanos, Workload};
use egressd_service::yaml::{self, YamlError};
use ipnet::IpNet;
use serde::Deserialize;

use crate::cluster::{self, Change, PodUid};
use crate::index::Index;

/// The stream carries no more of one node (`egressd_protocol::limits`).
const NODE_ADDRESSES_MAX: usize = 1_000;
/// A DNS subdomain (RFC 1123).
const NAME_BYTES_MAX: usize = 253;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nodes: Vec<Node>,
    #[serde(default)]
    pods: Vec<Pod>,
    #[serde(default)]
    ranges: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    #[serde(rename = "zone")]
    topology_zone: Option<String>,
    region: Option<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pod {
    name: String,
    namespace: String,
    uid: Option<String>,
    node: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    workload: Option<WorkloadName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadName {
    kind: String,
    name: String,
}

/// Why an inventory cannot be used. The operator must correct the file.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file cannot be read.
    #[error("cannot read the inventory {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML of the expected shape.
    #[error("the inventory is not understood")]
    Shape(#[from] YamlError),
    /// It contradicts itself.
    #[error("the inventory contradicts itself: {0}")]
    Contradiction(Contradictions),
}

/// Everything in an inventory that cannot be, all at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Contradictions(pub Vec<Contradiction>);

/// One thing that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two nodes share a name.
    #[error("node {name:?} stands twice")]
    NodeTwice {
        /// The name.
        name: String,
    },
    /// A pod is on a node that is not listed.
    #[error("pod {pod:?} is on node {node:?}, which is not listed")]
    NoSuchNode {
        /// namespace/name.
        pod: String,
        /// The node.
        node: String,
    },
    /// Two of the listed have one address.
    #[error("address {address} belongs to {first} and to {second}")]
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// Who has it first.
        first: String,
        /// Who has it again.
        second: String,
    },
    /// A node has more addresses than a scope may hold.
    #[error("node {node:?} has {found} addresses, at most {NODE_ADDRESSES_MAX} are possible")]
    TooManyAddresses {
        /// Its name.
        node: String,
        /// How many.
        found: usize,
    },
    /// A name that is empty, or longer than Kubernetes allows.
    #[error("{what} {name:?} is empty or longer than {NAME_BYTES_MAX} bytes")]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two pods share a UID.
    #[error("pod UID {uid:?} stands twice")]
    UidTwice {
        /// The UID.
        uid: String,
    },
}

impl fmt::Display for Contradictions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, contradiction) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{contradiction}")?;
        }
        Ok(())
    }
}

/// Everything there is in a cluster, for ever.
#[derive(Debug)]
pub struct Inventory {
    nodes: Vec<cluster::Node>,
    pods: Vec<cluster::Pod>,
    ranges: Vec<IpNet>,
}

impl Inventory {
    /// An index of it.
    #[must_use]
    pub fn into_index(self) -> Index {
        let mut index = Index::new(self.ranges);
        for change in [Change::Nodes(self.nodes), Change::Pods(self.pods)] {
            index.apply(change, UnixNanos(0));
        }
        index
    }
}

/// Reads an inventory file.
///
/// # Errors
/// It cannot be read, understood or believed.
pub fn load(path: &Path) -> Result<Inventory, InventoryError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| InventoryError::Read { path: path.to_owned(), source })?;
    parse(&text)
}

/// Reads an inventory.
///
/// # Errors
/// It cannot be understood or believed.
pub fn parse(text: &str) -> Result<Inventory, InventoryError> {
    let file: File = yaml::read(text)?;
    let contradictions = contradictions_of(&file);
    if !contradictions.is_empty() {
        return Err(InventoryError::Contradiction(Contradictions(contradictions)));
    }
    Ok(Inventory {
        nodes: file.nodes.into_iter().map(node_of).collect(),
        pods: file.pods.into_iter().map(pod_of).collect(),
        ranges: file.ranges,
    })
}

fn node_of(node: Node) -> cluster::Node {
    cluster::Node {
        name: NodeName(node.name.into()),
        topology_zone: node.topology_zone.map(|name| TopologyZone(name.into())),
        region: node.region.map(Into::into),
        addresses: node.addresses,
        pod_ranges: Vec::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    }
}

fn pod_of(pod: Pod) -> cluster::Pod {
    cluster::Pod {
        uid: PodUid(uid_of(&pod).into()),
        namespace: pod.namespace.into(),
        name: pod.name.into(),
        node: Some(NodeName(pod.node.into())),
        addresses: pod.addresses,
        labels: BTreeMap::new(),
        workload: pod
            .workload
            .map(|workload| Workload { kind: workload.kind.into(), name: workload.name.into() }),
        since: UnixNanos(0),
        until: None,
    }
}

fn name_fault(what: &'static str, name: &str) -> Option<Contradiction> {
    let bad = name.is_empty() || name.len() > NAME_BYTES_MAX;
    bad.then(|| Contradiction::Name { what, name: name.to_owned() })
}

fn uid_of(pod: &Pod) -> String {
    pod.uid.clone().unwrap_or_else(|| pod_name(pod))
}

fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn contradictions_of(file: &File) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut nodes = HashSet::new();
    let mut uids = HashSet::new();
    let mut holders = HashMap::<IpAddr, String>::new();
    for node in &file.nodes {
        if !nodes.insert(&node.name) {
            found.push(Contradiction::NodeTwice { name: node.name.clone() });
        }
        if node.addresses.len() > NODE_ADDRESSES_MAX {
            let addresses = node.addresses.len();
            found.push(Contradiction::TooManyAddresses { node: node.name.clone(), found: addresses });
        }
        found.extend(name_fault("node", &node.name));
    }
    for pod in &file.pods {
        if !nodes.contains(&pod.node) {
            found.push(Contradiction::NoSuchNode { pod: pod_name(pod), node: pod.node.clone() });
        }
        let uid = uid_of(pod);
        let names = [("pod", &pod.name), ("namespace", &pod.namespace)];
        found.extend(names.into_iter().filter_map(|(what, name)| name_fault(what, name)));
        if !uids.insert(uid.clone()) {
            found.push(Contradiction::UidTwice { uid });
        }
    }
    let of_nodes = file.nodes.iter().map(|node| (format!("node {}", node.name), &node.addresses));
    let of_pods = file.pods.iter().map(|pod| (format!("pod {}", pod_name(pod)), &pod.addresses));
    for (holder, addresses) in of_nodes.chain(of_pods) {
        for &address in addresses {
            if let Some(first) = holders.insert(address, holder.clone()) {
                found.push(Contradiction::AddressTwice { address, first, second: holder.clone() });
            }
        }
    }
    found
}
