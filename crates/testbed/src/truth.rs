//! The truth: what nft counted in a node's forward hook, told as flows of the node's pods.
//!
//! In the forward hook both translations leave the real ends in place: an original packet is past destination NAT
//! and before source NAT, a reply is past the undoing of source NAT (prerouting) and before the undoing of
//! destination NAT (postrouting). So source and destination alone say which pod sent or received.
//! Only a hairpin (a pod that reaches itself through a service) needs the direction, which nft takes from conntrack.
//!
//! Invariant: nothing counted is left out; what does not fit the plan is an error.

use std::net::IpAddr;

use serde::Deserialize;

use crate::flows::{FlowKey, Flows, Volume};
use crate::network::UNCOUNTED;
use crate::topology::{Node, pod_at};

/// Counters that cannot be told as flows. The run they were taken from proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TruthError {
    /// `nft -j` printed something else than expected.
    #[error("not nft's json: {0}")]
    Json(String),
    /// Packets found no room in the sets.
    #[error("{0} packets are in no counter")]
    Uncounted(u64),
    /// The node forwarded between two ends of which none is its pod.
    #[error("neither {src} nor {dst} is a pod of this node (protocol {protocol})")]
    Stray {
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// IANA number.
        protocol: u8,
    },
    /// Traffic of a pod to itself that conntrack did not follow: sent and received cannot be told apart.
    #[error("traffic of {0} to itself has no direction")]
    Undirected(IpAddr),
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<Set>,
    counter: Option<Named>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Wrapped>,
}

#[derive(Deserialize)]
struct Wrapped {
    elem: Element,
}

#[derive(Deserialize)]
struct Element {
    val: Concat,
    counter: Count,
}

#[derive(Deserialize)]
struct Concat {
    concat: serde_json::Value,
}

#[derive(Deserialize, Clone, Copy)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    packets: u64,
}

/// Reads `nft --json --numeric list table inet truth`.
pub(crate) fn flows_of(node: &Node, json: &[u8]) -> Result<Flows, TruthError> {
    let not_json = |error: serde_json::Error| TruthError::Json(error.to_string());
    let listing: Listing = serde_json::from_slice(json).map_err(not_json)?;
    let mut flows = Flows::default();
    for object in listing.nftables {
        if let Some(Named { name, packets }) = object.counter
            && name == UNCOUNTED
            && packets > 0
        {
            return Err(TruthError::Uncounted(packets));
        }
        let Some(set) = object.set else { continue };
        for Wrapped { elem: Element { val, counter } } in set.elem {
            if set.name.starts_with("hairpin") {
                let (address, protocol, direction) = serde_json::from_value(val.concat).map_err(not_json)?;
                add_hairpin(&mut flows, node, address, protocol, direction, counter)?;
            } else {
                let (src, dst, protocol) = serde_json::from_value(val.concat).map_err(not_json)?;
                add(&mut flows, node, src, dst, protocol, counter)?;
            }
        }
    }
    Ok(flows)
}

/// A packet between two pods of the node is sent by one and received by the other: two flows.
fn add(
    flows: &mut Flows,
    node: &Node,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    Count { packets, bytes }: Count,
) -> Result<(), TruthError> {
    let local = |address| pod_at(address).filter(|pod| pod.node == node.name);
    if src == dst {
        return Err(TruthError::Undirected(src));
    }
    let (sender, receiver) = (local(src), local(dst));
    if sender.is_none() && receiver.is_none() {
        return Err(TruthError::Stray { src, dst, protocol });
    }
    if let Some(pod) = sender {
        let volume = Volume { tx_bytes: bytes, tx_packets: packets, ..Volume::default() };
        flows.add(FlowKey::of(pod, src, dst, protocol), volume);
    }
    if let Some(pod) = receiver {
        let volume = Volume { rx_bytes: bytes, rx_packets: packets, ..Volume::default() };
        flows.add(FlowKey::of(pod, dst, src, protocol), volume);
    }
    Ok(())
}

/// One flow of a pod to itself: sent is the original direction (0, `IP_CT_DIR_ORIGINAL`), received the reply.
fn add_hairpin(
    flows: &mut Flows,
    node: &Node,
    address: IpAddr,
    protocol: u8,
    direction: u8,
    Count { packets, bytes }: Count,
) -> Result<(), TruthError> {
    let stray = TruthError::Stray { src: address, dst: address, protocol };
    let pod = pod_at(address).filter(|pod| pod.node == node.name).ok_or(stray)?;
    let volume = match direction {
        0 => Volume { tx_bytes: bytes, tx_packets: packets, ..Volume::default() },
        _ => Volume { rx_bytes: bytes, rx_packets: packets, ..Volume::default() },
    };
    flows.add(FlowKey::of(pod, address, address, protocol), volume);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NODES;

    fn listing(set: &str, elements: &[&str]) -> String {
        let elements = elements.join(",");
        format!(
            r#"{{"nftables": [{{"metainfo": {{"json_schema_version": 1}}}},
                {{"set": {{"family": "inet", "name": "{set}", "table": "truth", "elem": [{elements}]}}}},
                {{"counter": {{"family": "inet", "name": "uncounted", "packets": 0, "bytes": 0}}}}]}}"#
        )
    }

    fn element(concat: &str, packets: u64, bytes: u64) -> String {
        format!(
            r#"{{"elem": {{"val": {{"concat": [{concat}]}},
                "counter": {{"packets": {packets}, "bytes": {bytes}}}}}}}"#
        )
    }

    /// Goal: each local end of each counter becomes a flow of that pod, once, with names and direction.
    #[test]
    fn each_local_end_is_charged() {
        let cases = [
            (
                "between two pods of the node",
                listing(
                    "ipv4",
                    &[
                        &element(r#""10.244.1.3","10.244.1.4",6"#, 2, 100),
                        &element(r#""10.244.1.4","10.244.1.3",6"#, 1, 40),
                    ],
                ),
                vec![
                    "tcp data/store-0 10.244.1.4 > 10.244.1.3 shop/client-0 tx=40/1 rx=100/2",
                    "tcp shop/client-0 10.244.1.3 > 10.244.1.4 data/store-0 tx=100/2 rx=40/1",
                ],
            ),
            (
                "to another node",
                listing("ipv6", &[&element(r#""fd00:10:244:1::3","fd00:10:244:2::4",17"#, 2, 100)]),
                vec!["udp shop/client-0 fd00:10:244:1::3 > fd00:10:244:2::4 data/store-1 tx=100/2 rx=0/0"],
            ),
            (
                "from the internet",
                listing("ipv4", &[&element(r#""203.0.113.10","10.244.1.3",47"#, 2, 100)]),
                vec!["47 shop/client-0 10.244.1.3 > 203.0.113.10 - tx=0/0 rx=100/2"],
            ),
            (
                "to itself",
                listing(
                    "hairpin4",
                    &[&element(r#""10.244.1.2",6,0"#, 2, 100), &element(r#""10.244.1.2",6,1"#, 1, 40)],
                ),
                vec!["tcp shop/web-0 10.244.1.2 > 10.244.1.2 shop/web-0 tx=100/2 rx=40/1"],
            ),
            ("nothing yet", listing("ipv4", &[]), vec![]),
        ];
        for (name, json, expected) in cases {
            let flows = flows_of(&NODES[0], json.as_bytes()).unwrap();
            let text = |(key, v): (&FlowKey, &Volume)| {
                let remote = key.remote_pod.as_deref().unwrap_or("-");
                let (tx, rx) = ((v.tx_bytes, v.tx_packets), (v.rx_bytes, v.rx_packets));
                format!("{key} {remote} tx={}/{} rx={}/{}", tx.0, tx.1, rx.0, rx.1)
            };
            assert_eq!(flows.0.iter().map(text).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    /// Goal: counters that the plan cannot explain are errors, never left out.
    #[test]
    fn what_does_not_fit_is_an_error() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let stray = |src, dst| TruthError::Stray { src: address(src), dst: address(dst), protocol: 6 };
        let overflow = listing("ipv4", &[]).replace(r#""packets": 0"#, r#""packets": 3"#);
        for (json, expected) in [
            (
                listing("ipv4", &[&element(r#""10.244.2.3","203.0.113.10",6"#, 1, 40)]),
                stray("10.244.2.3", "203.0.113.10"),
            ),
            (
                listing("hairpin4", &[&element(r#""10.244.2.2",6,0"#, 1, 40)]),
                stray("10.244.2.2", "10.244.2.2"),
            ),
            (
                listing("ipv4", &[&element(r#""10.244.1.2","10.244.1.2",6"#, 1, 40)]),
                TruthError::Undirected(address("10.244.1.2")),
            ),
            (overflow, TruthError::Uncounted(3)),
        ] {
            assert_eq!(flows_of(&NODES[0], json.as_bytes()), Err(expected));
        }
        assert!(matches!(flows_of(&NODES[0], b"[]"), Err(TruthError::Json(_))));
    }
}
