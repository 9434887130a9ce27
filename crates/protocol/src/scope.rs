//! Owners and scopes, to the wire and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use egressd_flow::{Owner, Scope, UnixNanos};

use crate::error::WireError;
use crate::limits::{NODE_ADDRESSES_MAX, OWNER_LABELS_MAX, OWNER_TEXT_BYTES_MAX, OWNERS_MAX};
use crate::v1;

/// A scope as messages: several when the owners do not fit one. Only the last carries `as_of`, so that nothing is
/// judged by a scope that is still arriving.
#[must_use]
pub(crate) fn scope_to_wire(scope: &Scope, clock: UnixNanos) -> Vec<v1::Scope> {
    let mut chunks = scope.owners.chunks(OWNERS_MAX);
    let first = chunks.next().unwrap_or_default();
    let mut messages = vec![v1::Scope {
        as_of_unix_ns: 0,
        whole: scope.whole,
        owners: first.iter().map(|owner| owner_to_wire(owner)).collect(),
        node_addresses: scope.node_addresses.iter().copied().map(address_to_wire).collect(),
        clock_unix_ns: clock.0,
    }];
    messages.extend(chunks.map(|owners| v1::Scope {
        owners: owners.iter().map(|owner| owner_to_wire(owner)).collect(),
        clock_unix_ns: clock.0,
        ..v1::Scope::default()
    }));
    if let Some(last) = messages.last_mut() {
        last.as_of_unix_ns = scope.as_of.0;
    }
    messages
}

/// # Errors
/// The message is over a limit or an address has a strange length.
pub(crate) fn scope_from_wire(message: v1::Scope) -> Result<(Scope, UnixNanos), WireError> {
    at_most("scope.owners", message.owners.len(), OWNERS_MAX)?;
    at_most("scope.node_addresses", message.node_addresses.len(), NODE_ADDRESSES_MAX)?;
    let owners = message.owners.into_iter().map(owner_from_wire).collect::<Result<_, _>>()?;
    let node_addresses = message
        .node_addresses
        .iter()
        .map(|bytes| address_from_wire("scope.node_addresses", bytes))
        .collect::<Result<_, _>>()?;
    let as_of = UnixNanos(message.as_of_unix_ns);
    Ok((Scope { as_of, whole: message.whole, owners, node_addresses }, UnixNanos(message.clock_unix_ns)))
}

pub(crate) fn owner_to_wire(owner: &Owner) -> v1::Owner {
    v1::Owner {
        address: address_to_wire(owner.address),
        pod_uid: owner.pod_uid.to_string(),
        namespace: owner.namespace.to_string(),
        name: owner.name.to_string(),
        labels: owner.labels.clone().into_iter().collect(),
        since_unix_ns: owner.since.0,
        until_unix_ns: owner.until.map_or(0, |until| until.0),
        unmeasured: !owner.measure,
    }
}

pub(crate) fn owner_from_wire(message: v1::Owner) -> Result<Arc<Owner>, WireError> {
    let labels = message.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let text = message.pod_uid.len() + message.namespace.len() + message.name.len() + labels;
    at_most("owner's text in bytes", text, OWNER_TEXT_BYTES_MAX)?;
    at_most("owner.labels", message.labels.len(), OWNER_LABELS_MAX)?;
    for (field, value) in [
        ("owner.pod_uid", &message.pod_uid),
        ("owner.namespace", &message.namespace),
        ("owner.name", &message.name),
    ] {
        if value.is_empty() {
            return Err(WireError::Missing { field });
        }
    }
    Ok(Arc::new(Owner {
        address: address_from_wire("owner.address", &message.address)?,
        pod_uid: message.pod_uid.into(),
        namespace: message.namespace.into(),
        name: message.name.into(),
        labels: message.labels.into_iter().collect(),
        since: UnixNanos(message.since_unix_ns),
        until: (message.until_unix_ns != 0).then_some(UnixNanos(message.until_unix_ns)),
        measure: !message.unmeasured,
    }))
}

pub(crate) fn address_to_wire(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

pub(crate) fn address_from_wire(field: &'static str, bytes: &[u8]) -> Result<IpAddr, WireError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).map_err(|_| WireError::Address { field, len: bytes.len() })?;
    Ok(Ipv6Addr::from(octets).into())
}

pub(crate) fn at_most(field: &'static str, found: usize, max: usize) -> Result<(), WireError> {
    if found > max { Err(WireError::TooMany { field, found, max }) } else { Ok(()) }
}
