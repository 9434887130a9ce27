//! A batch's records with names at both ends.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Batch, End, Identity, NodeName, Owner, Position, Span,
    Unattributed,
};

use crate::index::Index;
use crate::names::{Names, OnNode};

/// DNS names of one pod in one batch, where public addresses are grouped: names, unlike addresses, have no bound of
/// their own. Those with most bytes are told, the others stay in the group without a name.
pub const NAMES_OF_POD_MAX: usize = 100;

/// What becomes of public addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// They stay.
    None,
    /// All of a family become its unspecified address, and keep their DNS names.
    Public,
}

/// Names both ends of every record. The local end is who the batch says it is, unless that one had ended and its address
/// was another's; the remote is looked up for the time of the traffic, in the cluster and then, where it is public, among
/// the names that the node was told, and grouped only after that.
#[must_use]
pub fn attribute(
    index: &Index,
    names: &mut Names,
    node: &NodeName,
    batch: &Batch,
    grouping: Grouping,
    position: Position,
) -> AttributedBatch {
    let local = |owner: &Arc<Owner>| {
        let successor = index.successor(owner, node, batch.span).cloned();
        successor.unwrap_or_else(|| Arc::new(index.identity_of(owner, node)))
    };
    let locals: Vec<_> = batch.owners.iter().map(local).collect();
    let mut names = names.on(node);
    let mut records: Vec<_> = batch
        .records
        .iter()
        .map(|record| {
            let owner = record.owner as usize;
            Attributed {
                local_address: batch.owners[owner].address,
                local: Arc::clone(&locals[owner]),
                remote: remote_end(index, &mut names, &batch.owners[owner], record.remote, batch.span),
                protocol: record.protocol,
                traffic: record.traffic,
            }
        })
        .collect();
    if grouping == Grouping::Public {
        names.books.over += drop_names_over(&mut records, NAMES_OF_POD_MAX);
        records.iter_mut().for_each(|record| group(&mut record.remote));
    }
    AttributedBatch { position, node: node.clone(), span: batch.span, records }
}

fn remote_end(
    index: &Index,
    names: &mut OnNode<'_>,
    owner: &Owner,
    address: Option<IpAddr>,
    span: Span,
) -> End {
    let Some(address) = address else {
        return End { address: None, class: None, identity: Err(Unattributed::Folded) };
    };
    let class = index.class(address);
    let identity = match index.lookup(address, span) {
        Err(Unattributed::Unknown) if class == AddressClass::Public => {
            names.of(owner, address, span).ok_or(Unattributed::Unknown)
        }
        found => found.cloned(),
    };
    End { address: Some(address), class: Some(class), identity }
}

fn group(end: &mut End) {
    if end.class == Some(AddressClass::Public) {
        end.address = end.address.map(unspecified_like);
    }
}

/// Leaves each local end so many DNS names, those with most bytes. How many records lose theirs.
fn drop_names_over(records: &mut [Attributed], names_max: usize) -> u64 {
    let mut names: HashMap<IpAddr, HashMap<*const Identity, u64>> = HashMap::new();
    for record in &*records {
        if let Some(name) = dns_named(&record.remote) {
            *names.entry(record.local_address).or_default().entry(name).or_default() +=
                record.traffic.sum().bytes;
        }
    }
    let mut over = 0;
    for (local, names) in names.into_iter().filter(|(_, names)| names.len() > names_max) {
        let mut by_bytes: Vec<_> = names.into_iter().collect();
        by_bytes.select_nth_unstable_by_key(names_max, |&(_, bytes)| std::cmp::Reverse(bytes));
        let lost: HashSet<_> = by_bytes[names_max..].iter().map(|&(name, _)| name).collect();
        for record in records.iter_mut().filter(|record| record.local_address == local) {
            if dns_named(&record.remote).is_some_and(|name| lost.contains(&name)) {
                record.remote.identity = Err(Unattributed::Unknown);
                over += 1;
            }
        }
    }
    over
}

/// Which identity it is, where that is a DNS name: answers share one for each.
fn dns_named(end: &End) -> Option<*const Identity> {
    let identity = end.identity.as_ref().ok()?;
    identity.dns_name.as_ref().map(|_| Arc::as_ptr(identity))
}

fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
