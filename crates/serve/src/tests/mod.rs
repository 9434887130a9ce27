//! Fixtures of this crate's tests.
//!
//! A record is one line: `web/app-0=Deployment/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2 un=5/1`.
//! An end is its names and its address. Names are `namespace/pod=kind/workload@node/failure-domain`, each part
//! optional, or `unknown`, `ambiguous` or `folded`; the address of a fold's rest is `-`.

mod boundary;
mod calls;
mod hostile;
mod machines;
mod server;

use std::net::IpAddr;
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Counter, End, Identity, IpProtocol, NodeName, PodName,
    Position, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload,
};

/// A record from its line.
fn record(line: &str) -> Attributed {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [local, local_address, ">", remote, remote_address, protocol, traffic @ ..] = words.as_slice() else {
        panic!("{line}")
    };
    let reason = Unattributed::ALL.into_iter().find(|reason| reason.reason() == *remote);
    let address: Option<IpAddr> = (*remote_address != "-").then(|| remote_address.parse().unwrap());
    Attributed {
        local_address: local_address.parse().unwrap(),
        local: Arc::new(identity(local)),
        remote: End {
            address,
            class: address.map(|_| AddressClass::Private),
            identity: reason.map_or_else(|| Ok(Arc::new(identity(remote))), Err),
        },
        protocol: match *protocol {
            "tcp" => IpProtocol::TCP,
            "udp" => IpProtocol::UDP,
            number => IpProtocol(number.parse().unwrap()),
        },
        traffic: self::traffic(traffic),
    }
}

/// Traffic from its words.
fn traffic(words: &[&str]) -> Traffic {
    let mut traffic = Traffic::default();
    for word in words {
        let (direction, figures) = word.split_once('=').unwrap();
        let (bytes, packets) = figures.split_once('/').unwrap();
        let counter = Counter { bytes: bytes.parse().unwrap(), packets: packets.parse().unwrap() };
        match direction {
            "tx" => traffic.tx = counter,
            "rx" => traffic.rx = counter,
            "un" => traffic.undirected = counter,
            other => panic!("{other}"),
        }
    }
    traffic
}

fn identity(names: &str) -> Identity {
    if let Some(name) = names.strip_prefix("dns:") {
        return Identity { dns_name: Some(name.into()), ..Identity::default() };
    }
    let (who, place) = names.split_once('@').unwrap_or((names, ""));
    let (node, domain) = place.split_once('/').unwrap_or((place, ""));
    let (pod, workload) = who.split_once('=').unwrap_or((who, ""));
    let pair = |text: &str| text.split_once('/').map(|(one, other)| (one.into(), other.into()));
    Identity {
        pod: pair(pod).map(|(namespace, name)| PodName { namespace, name }),
        workload: pair(workload).map(|(kind, name)| Workload { kind, name }),
        node: (!node.is_empty()).then(|| NodeName(node.into())),
        topology_zone: (!domain.is_empty()).then(|| TopologyZone(domain.into())),
        region: None,
        dns_name: None,
    }
}

/// A batch from its records' lines.
fn batch(position: u64, lines: &[&str]) -> Arc<AttributedBatch> {
    batch_of(position, lines.iter().map(|line| record(line)).collect())
}

fn batch_of(position: u64, records: Vec<Attributed>) -> Arc<AttributedBatch> {
    let span = Span { from: UnixNanos(1), to: UnixNanos(2) };
    Arc::new(AttributedBatch { position: Position(position), node: NodeName("n1".into()), span, records })
}
