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
use crate::network::{TRUTH_TABLE, UNCOUNTED};
use crate::residents::Holders;
use crate::topology::{Node, Pair};

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

#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    packets: u64,
}

/// One counter of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    set: String,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// Of a pod's traffic to itself: 0 is `IP_CT_DIR_ORIGINAL`.
    direction: Option<u8>,
    count: Count,
}

impl Counted {
    pub(crate) fn involves(&self, addresses: Pair) -> bool {
        addresses.contains(self.src) || addresses.contains(self.dst)
    }

    /// The command that takes it out of its set.
    pub(crate) fn delete(&self) -> String {
        let Self { set, src, dst, protocol, direction, .. } = self;
        let element = match direction {
            Some(direction) => format!("{src} . {protocol} . {direction}"),
            None => format!("{src} . {dst} . {protocol}"),
        };
        format!("delete element inet {TRUTH_TABLE} {set} {{ {element} }}\n")
    }
}

/// Reads `nft --json --numeric list table inet truth`.
pub(crate) fn counters(json: &[u8]) -> Result<Vec<Counted>, TruthError> {
    let not_json = |error: serde_json::Error| TruthError::Json(error.to_string());
    let listing: Listing = serde_json::from_slice(json).map_err(not_json)?;
    let mut counters = Vec::new();
    for object in listing.nftables {
        if let Some(Named { name, packets }) = object.counter
            && name == UNCOUNTED
            && packets > 0
        {
            return Err(TruthError::Uncounted(packets));
        }
        let Some(Set { name: set, elem }) = object.set else { continue };
        for Wrapped { elem: Element { val, counter: count } } in elem {
            let (src, dst, protocol, direction) = if set.starts_with("hairpin") {
                let (address, protocol, direction) = serde_json::from_value(val.concat).map_err(not_json)?;
                (address, address, protocol, Some(direction))
            } else {
                let (src, dst, protocol) = serde_json::from_value(val.concat).map_err(not_json)?;
                (src, dst, protocol, None)
            };
            counters.push(Counted { set: set.clone(), src, dst, protocol, direction, count });
        }
    }
    Ok(counters)
}

/// What the counters of a node say of its pods, by who has the addresses now.
pub(crate) fn flows_of<'a>(
    node: &Node,
    counters: impl IntoIterator<Item = &'a Counted>,
    holders: &Holders,
) -> Result<Flows, TruthError> {
    let mut flows = Flows::default();
    for counted in counters {
        match counted.direction {
            Some(direction) => add_hairpin(&mut flows, node, counted, direction, holders)?,
            None => add(&mut flows, node, counted, holders)?,
        }
    }
    Ok(flows)
}

/// A packet between two pods of the node is sent by one and received by the other: two flows.
fn add(flows: &mut Flows, node: &Node, counted: &Counted, holders: &Holders) -> Result<(), TruthError> {
    let Counted { src, dst, protocol, count: Count { packets, bytes }, .. } = *counted;
    if src == dst {
        return Err(TruthError::Undirected(src));
    }
    let key = |local, remote| FlowKey::on(node, local, remote, protocol, holders);
    let (sent, received) = (key(src, dst), key(dst, src));
    if sent.is_none() && received.is_none() {
        return Err(TruthError::Stray { src, dst, protocol });
    }
    if let Some(key) = sent {
        flows.add(key, Volume { tx_bytes: bytes, tx_packets: packets, ..Volume::default() });
    }
    if let Some(key) = received {
        flows.add(key, Volume { rx_bytes: bytes, rx_packets: packets, ..Volume::default() });
    }
    Ok(())
}

/// One flow of a pod to itself: sent is the original direction (0, `IP_CT_DIR_ORIGINAL`), received the reply.
fn add_hairpin(
    flows: &mut Flows,
    node: &Node,
    counted: &Counted,
    direction: u8,
    holders: &Holders,
) -> Result<(), TruthError> {
    let Counted { src: address, protocol, count: Count { packets, bytes }, .. } = *counted;
    let stray = TruthError::Stray { src: address, dst: address, protocol };
    let key = FlowKey::on(node, address, address, protocol, holders).ok_or(stray)?;
    let volume = match direction {
        0 => Volume { tx_bytes: bytes, tx_packets: packets, ..Volume::default() },
        _ => Volume { rx_bytes: bytes, rx_packets: packets, ..Volume::default() },
    };
    flows.add(key, volume);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residents::Holder;
    use crate::topology::{NODES, node_named};

    fn read(json: &[u8], holders: &Holders) -> Result<Flows, TruthError> {
        flows_of(&NODES[0], &counters(json)?, holders)
    }

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
            let flows = read(json.as_bytes(), &Holders::planned()).unwrap();
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
            assert_eq!(read(json.as_bytes(), &Holders::planned()), Err(expected));
        }
        assert!(matches!(read(b"[]", &Holders::planned()), Err(TruthError::Json(_))));
    }

    /// Goal: a counter is told under who has its addresses now, and can be taken out of its set.
    #[test]
    fn counters_follow_the_holders_of_addresses() {
        let addresses = node_named("node-a").unwrap().pod_addresses(20);
        let json = listing("ipv4", &[&element(r#""10.244.1.20","10.244.1.3",6"#, 2, 100)]);
        let mut holders = Holders::planned();
        for pod in ["jobs/one", "jobs/two"] {
            let before = read(json.as_bytes(), &holders).unwrap();
            assert_eq!(before.0.keys().map(|key| key.pod.as_str()).collect::<Vec<_>>(), ["shop/client-0"]);
            holders.move_in(addresses, &Holder { pod: pod.to_owned(), node: "node-a" }).unwrap();
            let names = |key: &FlowKey| format!("{} {:?}", key.pod, key.remote_pod.as_deref());
            let flows = read(json.as_bytes(), &holders).unwrap();
            let expected = [format!("{pod} Some(\"shop/client-0\")"), format!("shop/client-0 Some({pod:?})")];
            assert_eq!(flows.0.keys().map(names).collect::<Vec<_>>(), expected);
            let holder = Holder { pod: "another".to_owned(), node: "node-a" };
            assert!(holders.move_in(addresses, &holder).is_err());
            holders.move_out(addresses);
        }
        let counted = counters(json.as_bytes()).unwrap();
        let deletes: Vec<_> =
            counted.iter().filter(|one| one.involves(addresses)).map(Counted::delete).collect();
        assert_eq!(deletes, ["delete element inet truth ipv4 { 10.244.1.20 . 10.244.1.3 . 6 }\n"]);
    }
}
