//! The plan of the cluster: who lives where, under which addresses. Plain constants.
//!
//! ```text
//!   client-0 store-0 web-0        client-1 store-1 web-1      10.244.N.x     fd00:10:244:N::x
//!        └─ node-a ─┘                  └─ node-b ─┘           172.18.0.x     fd00:172:18::x
//!             zone-1                        zone-2
//!                └────────── control ──────────┘              172.18.0.1     fd00:172:18::1
//!                               └─ internet                   203.0.113.10   2001:db8:1::10
//! ```
//!
//! `control` is the fabric (a bridge, and the router to the internet) and the home of the exporter and of the stores;
//! it has no nft rule, so nothing is tracked there.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 and an IPv6 address of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }

    /// Whether `address` is one of the two.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.both().contains(&address)
    }
}

/// A node: routes its pods' traffic, translates service addresses, tracks connections, counts the truth.
#[derive(Debug)]
pub struct Node {
    /// Its Kubernetes name, and its namespace's name here.
    pub name: &'static str,
    /// Its failure domain, as `topology.kubernetes.io/zone` would say.
    pub zone: &'static str,
    /// Its own addresses on the fabric.
    pub addresses: Pair,
    /// The addresses that its pods take for their gateway.
    pub gateway: Pair,
    /// Its pod ranges, `/24` and `/64`.
    pub pod_ranges: [&'static str; 2],
}

impl Node {
    /// The addresses of its pod ranges that end in `host`. The plan takes 1 to 4; the rest is for those who come later.
    #[must_use]
    pub fn pod_addresses(&self, host: u8) -> Pair {
        let [a, b, c, _] = self.gateway.v4.octets();
        let mut segments = self.gateway.v6.segments();
        segments[7] = host.into();
        Pair { v4: Ipv4Addr::new(a, b, c, host), v6: segments.into() }
    }
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name; unique in this cluster, and its namespace's name here.
    pub name: &'static str,
    /// Its Kubernetes namespace.
    pub namespace: &'static str,
    /// Its UID.
    pub uid: &'static str,
    /// The node it runs on.
    pub node: &'static str,
    /// Its addresses.
    pub addresses: Pair,
    /// The kind of the workload it belongs to.
    pub workload_kind: &'static str,
    /// The name of the workload it belongs to.
    pub workload: &'static str,
}

/// The region of both zones.
pub const REGION: &str = "region-1";
/// The namespace that is fabric, router and home of the daemons that are not on nodes.
pub const CONTROL: &str = "control";
/// The addresses of [`CONTROL`] as nodes see it.
pub const CONTROL_ADDRESSES: Pair =
    Pair { v4: Ipv4Addr::new(172, 18, 0, 1), v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1) };
/// The namespace outside of the cluster.
pub const INTERNET: &str = "internet";
/// Its addresses, from the ranges for documentation.
pub const INTERNET_ADDRESSES: Pair =
    Pair { v4: Ipv4Addr::new(203, 0, 113, 10), v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10) };
/// Where [`INTERNET`] finds the fabric's router.
pub(crate) const INTERNET_GATEWAY: Pair =
    Pair { v4: Ipv4Addr::new(203, 0, 113, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1) };
/// The address of the service whose backends are the pods of the workload [`SERVICE_WORKLOAD`].
pub const SERVICE_ADDRESSES: Pair =
    Pair { v4: Ipv4Addr::new(10, 96, 0, 10), v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10) };
/// The workload behind the service.
pub const SERVICE_WORKLOAD: &str = "web";
/// The port of the service, TCP and UDP.
pub const SERVICE_PORT: u16 = 80;
/// The port that the traffic server listens on everywhere, TCP and UDP.
pub const SERVER_PORT: u16 = 8080;
/// The cluster's own ranges: what goes elsewhere is masqueraded.
pub const RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

const fn node_pair(host: u16) -> Pair {
    // A host number here is below 256 by construction of the tables.
    let [_, low] = host.to_be_bytes();
    Pair { v4: Ipv4Addr::new(172, 18, 0, low), v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, host) }
}

const fn pod_pair(node: u16, host: u16) -> Pair {
    let [[_, node_low], [_, host_low]] = [node.to_be_bytes(), host.to_be_bytes()];
    Pair {
        v4: Ipv4Addr::new(10, 244, node_low, host_low),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, host),
    }
}

/// The nodes.
pub const NODES: [Node; 2] = [
    Node {
        name: "node-a",
        zone: "zone-1",
        addresses: node_pair(2),
        gateway: pod_pair(1, 1),
        pod_ranges: ["10.244.1.0/24", "fd00:10:244:1::/64"],
    },
    Node {
        name: "node-b",
        zone: "zone-2",
        addresses: node_pair(3),
        gateway: pod_pair(2, 1),
        pod_ranges: ["10.244.2.0/24", "fd00:10:244:2::/64"],
    },
];

/// The pods.
pub const PODS: [Pod; 6] = [
    Pod {
        name: "web-0",
        namespace: "shop",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0a01",
        node: "node-a",
        addresses: pod_pair(1, 2),
        workload_kind: "Deployment",
        workload: "web",
    },
    Pod {
        name: "client-0",
        namespace: "shop",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0a02",
        node: "node-a",
        addresses: pod_pair(1, 3),
        workload_kind: "Deployment",
        workload: "client",
    },
    Pod {
        name: "store-0",
        namespace: "data",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0a03",
        node: "node-a",
        addresses: pod_pair(1, 4),
        workload_kind: "StatefulSet",
        workload: "store",
    },
    Pod {
        name: "web-1",
        namespace: "shop",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0b01",
        node: "node-b",
        addresses: pod_pair(2, 2),
        workload_kind: "Deployment",
        workload: "web",
    },
    Pod {
        name: "client-1",
        namespace: "shop",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0b02",
        node: "node-b",
        addresses: pod_pair(2, 3),
        workload_kind: "Deployment",
        workload: "client",
    },
    Pod {
        name: "store-1",
        namespace: "data",
        uid: "3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0b03",
        node: "node-b",
        addresses: pod_pair(2, 4),
        workload_kind: "StatefulSet",
        workload: "store",
    },
];

/// The pod that owns `address`; `None` for everyone else's.
#[must_use]
pub fn pod_at(address: IpAddr) -> Option<&'static Pod> {
    const { &PODS }.iter().find(|pod| pod.addresses.contains(address))
}

/// The node that has `address`; `None` for everyone else's.
#[must_use]
pub fn node_at(address: IpAddr) -> Option<&'static Node> {
    const { &NODES }.iter().find(|node| node.addresses.contains(address))
}

/// The pod of that name.
#[must_use]
pub fn pod_named(name: &str) -> Option<&'static Pod> {
    const { &PODS }.iter().find(|pod| pod.name == name)
}

/// The node of that name.
#[must_use]
pub fn node_named(name: &str) -> Option<&'static Node> {
    const { &NODES }.iter().find(|node| node.name == name)
}

/// The pods that run on a node.
pub fn pods_on(node: &str) -> impl Iterator<Item = &'static Pod> {
    const { &PODS }.iter().filter(move |pod| pod.node == node)
}

/// The pods behind the service.
pub fn backends() -> impl Iterator<Item = &'static Pod> {
    const { &PODS }.iter().filter(|pod| pod.workload == SERVICE_WORKLOAD)
}

/// The static inventory of this cluster, as the exporter's `--inventory` takes it.
#[must_use]
pub fn inventory() -> String {
    let mut yaml = String::from("nodes:\n");
    for Node { name, zone, addresses, .. } in &NODES {
        let Pair { v4, v6 } = addresses;
        append(
            &mut yaml,
            format_args!(
                "  - name: {name}\n    zone: {zone}\n    region: {REGION}\n    addresses: [{v4}, \"{v6}\"]\n"
            ),
        );
    }
    yaml.push_str("pods:\n");
    for Pod { name, namespace, uid, node, addresses, workload_kind, workload } in &PODS {
        let Pair { v4, v6 } = addresses;
        append(
            &mut yaml,
            format_args!(
                "  - name: {name}\n    namespace: {namespace}\n    uid: \"{uid}\"\n    node: {node}\n    \
                 addresses: [{v4}, \"{v6}\"]\n    workload: {{ kind: {workload_kind}, name: {workload} }}\n"
            ),
        );
    }
    let [v4, v6] = RANGES;
    append(&mut yaml, format_args!("ranges: [{v4}, \"{v6}\"]\n"));
    yaml
}

fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: names and addresses are unique, and every pod stands in its node's range.
    #[test]
    fn the_plan_is_consistent() {
        let mut addresses: Vec<_> = PODS.iter().flat_map(|pod| pod.addresses.both()).collect();
        addresses.extend(NODES.iter().flat_map(|node| node.addresses.both()));
        let count = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), count);

        for pod in &PODS {
            let node = node_named(pod.node).unwrap();
            assert_eq!(pod.addresses.v4.octets()[..3], node.gateway.v4.octets()[..3], "{}", pod.name);
            assert_eq!(pod.addresses.v6.segments()[..4], node.gateway.v6.segments()[..4], "{}", pod.name);
            assert_eq!(pod_named(pod.name).map(|found| found.uid), Some(pod.uid));
            assert_eq!(node.pod_addresses(pod.addresses.v4.octets()[3]), pod.addresses);
        }
        assert_eq!(backends().map(|pod| pod.node).collect::<Vec<_>>(), ["node-a", "node-b"]);
    }

    /// Goal: the inventory has the shape that the exporter reads.
    #[test]
    fn the_inventory_lists_nodes_pods_and_ranges() {
        let yaml = inventory();
        for part in [
            "nodes:\n  - name: node-a\n    zone: zone-1\n    region: region-1\n    \
             addresses: [172.18.0.2, \"fd00:172:18::2\"]\n",
            "pods:\n  - name: web-0\n    namespace: shop\n    uid: \"3f0c1c52-6f0a-4a53-9d4e-0a6b1d1f0a01\"\n    \
             node: node-a\n    addresses: [10.244.1.2, \"fd00:10:244:1::2\"]\n    \
             workload: { kind: Deployment, name: web }\n",
            "ranges: [10.244.0.0/16, \"fd00:10:244::/48\"]\n",
        ] {
            assert!(yaml.contains(part), "{part}\nis not in\n{yaml}");
        }
    }
}
