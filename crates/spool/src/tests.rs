//! The spool by what it promises; [`history`] tries it against chance.

mod disk;
mod format;
mod history;
mod recovery;
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Counter, End, Epoch, Identity, IpProtocol, NodeName, PodName,
};
use egressd_flow::{Position, Sequence, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload};

use crate::{Spool, SpoolConfig, Taken};

const ID: u64 = 7;
const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
const LARGE: SpoolConfig = SpoolConfig { bytes_max: 1 << 30, age_max: Duration::from_hours(24) };

/// A batch of so many records, of every shape in turn.
fn taken(position: u64, node: &str, epoch: u64, sequence: u64, records: usize) -> Taken {
    let pods: Vec<Arc<Identity>> = (0..3).map(|pod| Arc::new(identity(node, pod))).collect();
    let record = |index: usize| Attributed {
        local_address: Ipv4Addr::new(10, 0, 0, u8::try_from(index % 3).unwrap()).into(),
        local: Arc::clone(&pods[index % 3]),
        remote: remote(index, &pods),
        protocol: IpProtocol::TCP,
        traffic: traffic(position, index),
    };
    let batch = AttributedBatch {
        position: Position(position),
        node: NodeName(node.into()),
        span: Span { from: UnixNanos(position), to: UnixNanos(position + 1) },
        records: (0..records).map(record).collect(),
    };
    Taken { epoch: Epoch(epoch), sequence: Sequence(sequence), batch: Arc::new(batch) }
}

fn identity(node: &str, pod: usize) -> Identity {
    match pod {
        0 => Identity::default(),
        1 => Identity { node: Some(NodeName(node.into())), ..Identity::default() },
        _ => Identity {
            pod: Some(PodName { namespace: "shop".into(), name: "web-0".into() }),
            workload: Some(Workload { kind: "StatefulSet".into(), name: "web".into() }),
            node: Some(NodeName(node.into())),
            topology_zone: Some(TopologyZone("eu-west-1a".into())),
            region: Some("eu-west-1".into()),
            dns_name: None,
        },
    }
}

fn remote(index: usize, pods: &[Arc<Identity>]) -> End {
    let v4 = IpAddr::from(Ipv4Addr::new(192, 0, 2, u8::try_from(index % 200).unwrap()));
    let v6 =
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::try_from(index % 60_000).unwrap()));
    let (private, public) = (Some(AddressClass::Private), Some(AddressClass::Public));
    let named = || Identity { dns_name: Some("api.example.com".into()), ..Identity::default() };
    match index % 5 {
        0 => End { address: Some(v4), class: private, identity: Ok(Arc::clone(&pods[2])) },
        1 => End { address: Some(v6), class: public, identity: Err(Unattributed::Unknown) },
        2 => End { address: Some(v4), class: private, identity: Err(Unattributed::Ambiguous) },
        3 => End { address: Some(v6), class: public, identity: Ok(Arc::new(named())) },
        _ => End { address: None, class: None, identity: Err(Unattributed::Folded) },
    }
}

fn traffic(position: u64, index: usize) -> Traffic {
    let index = index as u64;
    let counter = |scale: u64| Counter { bytes: scale * (position + index), packets: index };
    match index % 3 {
        0 => Traffic { tx: counter(1_000), rx: counter(1 << 40), undirected: Counter::default() },
        1 => Traffic { undirected: counter(1), ..Traffic::default() },
        _ => Traffic::default(),
    }
}

/// Appends batches of node "a", each in a step of its own that is synced.
fn fill(spool: &mut Spool, batches: u64, records: usize) -> Vec<Arc<AttributedBatch>> {
    let first = spool.last().0 + 1;
    let filled = (first..first + batches).map(|position| {
        let taken = taken(position, "a", 1, position, records);
        assert_eq!(spool.append(std::slice::from_ref(&taken), NOW).unwrap(), []);
        assert_eq!(spool.sync().unwrap(), Position(position));
        taken.batch
    });
    filled.collect()
}
