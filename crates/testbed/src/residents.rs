//! Who lives where now: the pods of the plan, and those that come and go while the cluster runs.
//!
//! Invariant: an address has one holder at a time, so what is counted for it until its holder leaves is the holder's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::topology::{Node, PODS, Pair, Pod};

/// A pod that came while the cluster runs: its network, from [`Cluster::move_in`](crate::Cluster::move_in) to
/// [`Cluster::move_out`](crate::Cluster::move_out).
#[derive(Debug)]
pub struct Resident {
    pub(crate) node: &'static Node,
    pub(crate) addresses: Pair,
    /// The name of its link on the node.
    pub(crate) link: String,
    pub(crate) namespace: Namespace,
}

impl Resident {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.addresses
    }
}

/// Who has an address now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// As `namespace/name`.
    pub(crate) pod: String,
    /// The name of its node.
    pub(crate) node: &'static str,
}

/// Holders by address.
#[derive(Clone, Debug)]
pub(crate) struct Holders(BTreeMap<IpAddr, Holder>);

impl Holders {
    /// Those of the plan.
    pub(crate) fn planned() -> Self {
        let holder = |pod: &Pod| Holder { pod: format!("{}/{}", pod.namespace, pod.name), node: pod.node };
        let of_pod = |pod: &'static Pod| pod.addresses.both().map(|address| (address, holder(pod)));
        Self(const { &PODS }.iter().flat_map(of_pod).collect())
    }

    pub(crate) fn at(&self, address: IpAddr) -> Option<&Holder> {
        self.0.get(&address)
    }

    pub(crate) fn move_in(&mut self, addresses: Pair, holder: &Holder) -> Result<(), Error> {
        if let Some(taken) = addresses.both().iter().find_map(|address| self.at(*address)) {
            return Err(Error::Taken { addresses, by: taken.pod.clone() });
        }
        self.0.extend(addresses.both().map(|address| (address, holder.clone())));
        Ok(())
    }

    pub(crate) fn move_out(&mut self, addresses: Pair) {
        self.0.retain(|address, _| !addresses.contains(*address));
    }
}
