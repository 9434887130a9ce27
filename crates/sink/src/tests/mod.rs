//! Fixtures of this crate's tests, and the tests that need a socket or a real Prometheus.
//!
//! A record is one line: `web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2 undirected=5/1`.
//! An end is its names and its address. Names are `namespace/pod@node/failure-domain`, each part optional, or
//! `unknown`, `ambiguous` or `folded`; the address of a fold's rest is `-`. An unnamed end is public unless its
//! address begins with `10.` or `fd`.

mod access;
mod corners;
mod driver;
mod failures;
mod lanes;
mod prometheus;
mod push;
mod receiver;
mod refusals;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use egressd_flow::{AddressClass, Attributed, AttributedBatch, Counter, End, Identity, IpProtocol, NodeName};
use egressd_flow::{PodName, Position, Span, TopologyZone, Traffic, Unattributed, UnixNanos};

/// A record from its line.
pub(crate) fn record(line: &str) -> Attributed {
    let mut words = line.split_whitespace();
    let mut next = || words.next().expect(line);
    let (local, local_address) = (next(), next());
    assert_eq!(next(), ">", "{line}");
    let (remote, remote_address) = (next(), next());
    let protocol = match next() {
        "tcp" => IpProtocol::TCP,
        "udp" => IpProtocol::UDP,
        number => IpProtocol(number.parse().expect(line)),
    };
    let mut traffic = Traffic::default();
    for word in words {
        let (direction, figures) = word.split_once('=').expect(line);
        let (bytes, packets) = figures.split_once('/').expect(line);
        let counter = Counter { bytes: bytes.parse().expect(line), packets: packets.parse().expect(line) };
        match direction {
            "tx" => traffic.tx = counter,
            "rx" => traffic.rx = counter,
            "undirected" => traffic.undirected = counter,
            other => panic!("{other} in {line}"),
        }
    }
    Attributed {
        local_address: local_address.parse().expect(line),
        local: Arc::new(identity(local)),
        remote: end(remote, remote_address),
        protocol,
        traffic,
    }
}

fn end(names: &str, address: &str) -> End {
    let private = address.starts_with("10.") || address.starts_with("fd");
    let identity = match names {
        "unknown" => Err(Unattributed::Unknown),
        "ambiguous" => Err(Unattributed::Ambiguous),
        "folded" => Err(Unattributed::Folded),
        names => Ok(Arc::new(identity(names))),
    };
    let address: Option<IpAddr> = (address != "-").then(|| address.parse().unwrap());
    let class = if private || (identity.is_ok() && !names.starts_with("dns:")) {
        AddressClass::Private
    } else {
        AddressClass::Public
    };
    End { address, class: address.map(|_| class), identity }
}

fn identity(names: &str) -> Identity {
    if let Some(name) = names.strip_prefix("dns:") {
        return Identity { dns_name: Some(name.into()), ..Identity::default() };
    }
    let (pod, place) = names.split_once('@').unwrap_or((names, ""));
    let (node, domain) = place.split_once('/').unwrap_or((place, ""));
    let pod = pod
        .split_once('/')
        .map(|(namespace, name)| PodName { namespace: namespace.into(), name: name.into() });
    Identity {
        pod,
        workload: None,
        node: (!node.is_empty()).then(|| NodeName(node.into())),
        topology_zone: (!domain.is_empty()).then(|| TopologyZone(domain.into())),
        region: None,
        dns_name: None,
    }
}

/// A batch from its records' lines.
pub(crate) fn batch(position: u64, lines: &[&str]) -> AttributedBatch {
    AttributedBatch {
        position: Position(position),
        node: NodeName("n1".into()),
        span: Span { from: UnixNanos(0), to: UnixNanos(0) },
        records: lines.iter().map(|line| record(line)).collect(),
    }
}

/// A batch of so many flows with names of many lengths.
pub(crate) fn cluster_of(flows: usize) -> AttributedBatch {
    let line = |flow: usize| {
        let (pod, net, host) = ("p".repeat(1 + flow % 60), flow / 250, flow % 250);
        format!("web/{pod}@n1/a 10.0.0.1 > unknown 8.8.{net}.{host} tcp tx=7/1 rx=9/2")
    };
    let lines: Vec<String> = (0..flows).map(line).collect();
    batch(1, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// An instant from seconds.
pub(crate) fn seconds(seconds: u64) -> UnixNanos {
    UnixNanos(seconds * 1_000_000_000)
}
