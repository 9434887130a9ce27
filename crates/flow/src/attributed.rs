//! Records with names at both ends, or the reason why not.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::{Counter, Traffic};
use crate::record::{NodeName, Span};
use crate::tuple::IpProtocol;

/// A failure domain: the value of a node's `topology.kubernetes.io/zone` label.
///
/// Not a conntrack zone: that is [`CtZone`](crate::CtZone).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopologyZone(pub Arc<str>);

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// What keeps a pod running: a Deployment, a StatefulSet, a Job …
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// The kind as Kubernetes spells it.
    pub kind: Arc<str>,
    /// Its name, in the pod's namespace.
    pub name: Arc<str>,
}

/// Who owns an address. A field is `None` when it does not apply or is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The pod; `None` for a node's own address.
    pub pod: Option<PodName>,
    /// What runs the pod.
    pub workload: Option<Workload>,
    /// The node that the address is on.
    pub node: Option<NodeName>,
    /// That node's failure domain.
    pub topology_zone: Option<TopologyZone>,
    /// That node's `topology.kubernetes.io/region`.
    pub region: Option<Arc<str>>,
    /// The name that the address was asked for by, of one that the cluster does not know.
    pub dns_name: Option<Arc<str>>,
}

/// Why a remote address carries no identity. Its bytes are exported all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unattributed {
    /// The cluster knows no such address: the internet, or something private beside the cluster.
    Unknown,
    /// It changed hands within the record's span.
    Ambiguous,
    /// There is no address: the rest of a fold.
    Folded,
}

impl Unattributed {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Ambiguous, Self::Folded];

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ambiguous => "ambiguous",
            Self::Folded => "folded",
        }
    }
}

/// On which side of the cluster's border an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// The cluster's, a configured range, or not routable on the internet.
    Private,
    /// Everything else.
    Public,
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Public => "public",
        })
    }
}

/// The remote end of an attributed record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Its address; the family's unspecified address when public ones are grouped; `None` for a fold's rest.
    pub address: Option<IpAddr>,
    /// `None` for a fold's rest.
    pub class: Option<AddressClass>,
    /// Who it is, or why that is not said.
    pub identity: Result<Arc<Identity>, Unattributed>,
}

/// A record whose local end carries an identity, and whose remote end does or says why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributed {
    /// The pod's address.
    pub local_address: IpAddr,
    /// The pod, as its collector named it.
    pub local: Arc<Identity>,
    /// The peer.
    pub remote: End,
    /// IP protocol.
    pub protocol: IpProtocol,
    /// As seen from the local end.
    pub traffic: Traffic,
}

/// A batch's place in the exporter's own order: from 1, by 1. As a watermark 0 means none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

/// One taken batch, attributed, in the exporter's own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributedBatch {
    /// Its place among all taken batches.
    pub position: Position,
    /// The node it came from.
    pub node: NodeName,
    /// When the growth was seen, by the collector's clock.
    pub span: Span,
    /// In the order of the batch.
    pub records: Vec<Attributed>,
}

impl AttributedBatch {
    /// All records added, in all directions.
    #[must_use]
    pub fn sum(&self) -> Counter {
        self.records.iter().fold(Counter::default(), |mut sum, record| {
            sum += record.traffic.sum();
            sum
        })
    }
}
