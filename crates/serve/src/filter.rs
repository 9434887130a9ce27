//! Which records a subscriber asked for.
//!
//! Names are compared whole. An end without a name has none, whatever is asked: nothing is guessed.

use egressd_flow::{Attributed, Identity};
use egressd_protocol::{FlowFilter, NamePattern};

/// Whether a record is of the flows asked for, and has bytes enough.
pub(crate) fn matches(filter: &FlowFilter, record: &Attributed) -> bool {
    has_bytes(filter, record) && is_between(filter, record)
}

/// Whether it has as many bytes as were asked for.
pub(crate) fn has_bytes(filter: &FlowFilter, record: &Attributed) -> bool {
    filter.least_bytes == 0 || record.traffic.sum().bytes >= filter.least_bytes
}

/// Whether its ends and its protocol are those asked for.
pub(crate) fn is_between(filter: &FlowFilter, record: &Attributed) -> bool {
    let local = record.local.as_ref();
    one_of(&filter.protocols, |protocol| *protocol == record.protocol)
        && one_of(&filter.namespaces, |name| local.pod.as_ref().is_some_and(|pod| *pod.namespace == **name))
        && one_of(&filter.pods, |pattern| is_pod(pattern, local))
        && one_of(&filter.nodes, |name| is_node(name, local))
        && one_of(&filter.topology_zones, |name| {
            local.topology_zone.as_ref().is_some_and(|domain| *domain.0 == **name)
        })
        && one_of(&filter.remote_ranges, |range| {
            record.remote.address.is_some_and(|address| range.contains(&address))
        })
        && one_of(&filter.remote_names, |pattern| {
            record.remote.identity.as_ref().is_ok_and(|remote| is_named(pattern, remote))
        })
}

fn one_of<T>(values: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(is_it)
}

fn is_pod(pattern: &NamePattern, identity: &Identity) -> bool {
    let in_namespace = |namespace: &str| pattern.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
    identity.pod.as_ref().is_some_and(|pod| *pod.name == *pattern.name && in_namespace(&pod.namespace))
}

fn is_node(name: &str, identity: &Identity) -> bool {
    identity.node.as_ref().is_some_and(|node| *node.0 == *name)
}

fn is_named(pattern: &NamePattern, identity: &Identity) -> bool {
    is_pod(pattern, identity)
        || is_workload(pattern, identity)
        || pattern.namespace.is_none()
            && (is_node(&pattern.name, identity) || is_asked_for_by(&pattern.name, identity))
}

fn is_asked_for_by(name: &str, identity: &Identity) -> bool {
    identity.dns_name.as_ref().is_some_and(|dns_name| **dns_name == *name)
}

fn is_workload(pattern: &NamePattern, identity: &Identity) -> bool {
    let (Some(workload), Some(pod)) = (&identity.workload, &identity.pod) else { return false };
    *workload.name == *pattern.name
        && pattern.namespace.as_ref().is_none_or(|wanted| **wanted == *pod.namespace)
}
