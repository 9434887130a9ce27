//! A batch's records with names at both ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Batch, End, NodeName, Owner, Position, Span, Unattributed,
};

use crate::index::Index;

/// What becomes of public addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// They stay.
    None,
    /// All of a family become its unspecified address.
    Public,
}

/// Names both ends of every record. The local end is who the batch says it is, unless that one had ended and its address
/// was another's; the remote is looked up for the time of the traffic, and grouped only after that.
#[must_use]
pub fn attribute(
    index: &Index,
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
    let records = batch
        .records
        .iter()
        .map(|record| {
            let owner = record.owner as usize;
            Attributed {
                local_address: batch.owners[owner].address,
                local: Arc::clone(&locals[owner]),
                remote: remote_end(index, record.remote, batch.span, grouping),
                protocol: record.protocol,
                traffic: record.traffic,
            }
        })
        .collect();
    AttributedBatch { position, node: node.clone(), span: batch.span, records }
}

fn remote_end(index: &Index, address: Option<IpAddr>, span: Span, grouping: Grouping) -> End {
    let Some(address) = address else {
        return End { address: None, class: None, identity: Err(Unattributed::Folded) };
    };
    let identity = index.lookup(address, span).cloned();
    let class = index.class(address);
    let grouped = grouping == Grouping::Public && class == AddressClass::Public;
    let address = if grouped { unspecified_like(address) } else { address };
    End { address: Some(address), class: Some(class), identity }
}

fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
