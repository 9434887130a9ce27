//! Address to identity, over time; and a node's share of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Identity, NodeName, Owner, Scope, Span, TopologyZone, Unattributed, UnixNanos, Workload,
};

use crate::ranges::Ranges;

/// Who had an address, from when to when.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// Inclusive; 0 when always.
    pub since: UnixNanos,
    /// Exclusive; `None` while it lasts.
    pub until: Option<UnixNanos>,
    /// Who.
    pub identity: Arc<Identity>,
}

impl Tenure {
    fn overlaps(&self, span: Span) -> bool {
        self.since <= span.to && self.until.is_none_or(|until| span.from < until)
    }
}

/// What is known of a node beside its name.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Failure domain.
    pub topology_zone: Option<TopologyZone>,
    /// Region.
    pub region: Option<Arc<str>>,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The pods on it, one owner an address.
    pub owners: Vec<Arc<Owner>>,
}

/// What is known of a cluster. Built anew and swapped whole; never changed in place.
#[derive(Debug, Default)]
pub struct Index {
    tenures: HashMap<IpAddr, Vec<Tenure>>,
    nodes: HashMap<NodeName, NodeFacts>,
    workloads: HashMap<Arc<str>, Workload>,
    ranges: Ranges,
}

impl Index {
    /// An index of `nodes`; `workloads` by pod UID.
    #[must_use]
    pub fn new(
        nodes: HashMap<NodeName, NodeFacts>,
        workloads: HashMap<Arc<str>, Workload>,
        ranges: Ranges,
    ) -> Self {
        let mut index = Self { tenures: HashMap::new(), nodes, workloads, ranges };
        let mut tenures = HashMap::<IpAddr, Vec<Tenure>>::new();
        for (name, facts) in &index.nodes {
            for owner in &facts.owners {
                let identity = Arc::new(index.identity_of(owner, name));
                let tenure = Tenure { since: owner.since, until: owner.until, identity };
                tenures.entry(owner.address).or_default().push(tenure);
            }
            let node = Arc::new(Identity { pod: None, workload: None, ..index.place(name) });
            for address in &facts.addresses {
                let always = Tenure { since: UnixNanos(0), until: None, identity: Arc::clone(&node) };
                tenures.entry(*address).or_default().push(always);
            }
        }
        index.tenures = tenures;
        index
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

    /// Private for whatever the cluster knows, else by range.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> AddressClass {
        if self.tenures.contains_key(&address) { AddressClass::Private } else { self.ranges.class(address) }
    }

    /// The identity of a pod as its owner names it, on `node`.
    #[must_use]
    pub fn identity_of(&self, owner: &Owner, node: &NodeName) -> Identity {
        let pod =
            egressd_flow::PodName { namespace: Arc::clone(&owner.namespace), name: Arc::clone(&owner.name) };
        let workload = self.workloads.get(&owner.pod_uid).cloned();
        Identity { pod: Some(pod), workload, ..self.place(node) }
    }

    /// The whole scope of `node`; pods of `excluded` namespaces are not measured. A node that is not known has no
    /// owners.
    #[must_use]
    pub fn scope(&self, node: &NodeName, excluded: &[String], as_of: UnixNanos) -> Scope {
        let measured = |owner: &Arc<Owner>| {
            if excluded.iter().any(|namespace| **namespace == *owner.namespace) {
                Arc::new(Owner { measure: false, ..Owner::clone(owner) })
            } else {
                Arc::clone(owner)
            }
        };
        let (owners, node_addresses) = self.nodes.get(node).map_or_else(Default::default, |facts| {
            (facts.owners.iter().map(measured).collect(), facts.addresses.clone())
        });
        Scope { as_of, whole: true, owners, node_addresses }
    }

    fn place(&self, node: &NodeName) -> Identity {
        let facts = self.nodes.get(node);
        Identity {
            pod: None,
            workload: None,
            node: Some(node.clone()),
            topology_zone: facts.and_then(|facts| facts.topology_zone.clone()),
            region: facts.and_then(|facts| facts.region.clone()),
        }
    }
}
