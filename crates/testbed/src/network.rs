//! What is fed to `ip -batch` and `nft -f` so that namespaces become the cluster of [`topology`](crate::topology).
//!
//! Everything here is text made from the plan. Invariant of the nft rules: every packet that a node forwards ends in
//! exactly one counter, after what `kube-proxy` would drop is dropped; what no counter could take is in `uncounted`.

use std::fmt::{self, Write};
use std::path::Path;

use crate::topology::{
    CONTROL_ADDRESSES, INTERNET_ADDRESSES, INTERNET_GATEWAY, NODES, Node, Pair, Pod, RANGES, SERVER_PORT,
    SERVICE_ADDRESSES, SERVICE_PORT, backends, pods_on,
};

/// The nft table of the truth counters.
pub(crate) const TRUTH_TABLE: &str = "truth";
/// The nft table that cuts the stream; present only while it is cut.
const CUT_TABLE: &str = "cut";
/// The counter of packets that found no room in a set.
pub(crate) const UNCOUNTED: &str = "uncounted";

/// Addresses are usable at once, nothing is announced, routers do not advise against hairpins.
pub(crate) const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
];

/// For nodes and the fabric.
pub(crate) const ROUTER_SYSCTLS: &[(&str, &str)] =
    &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

/// What conntrack needs for counters, start times and an event for every end (facts of `nf_conntrack-sysctl.rst`).
pub(crate) const ACCOUNTING_SYSCTLS: &[(&str, &str)] = &[
    ("net.netfilter.nf_conntrack_acct", "1"),
    ("net.netfilter.nf_conntrack_timestamp", "1"),
    ("net.netfilter.nf_conntrack_events", "1"),
];

/// Run in the control namespace; `path_of` gives a namespace's path by its name.
pub(crate) fn fabric_links<'a>(path_of: &impl Fn(&str) -> &'a Path) -> String {
    let mut script = Script::default();
    script.line(format_args!("link set lo up"));
    script.line(format_args!("link add fabric type bridge mcast_snooping 0"));
    for Node { name, .. } in &NODES {
        script.veth(name, path_of(name));
        script.line(format_args!("link set {name} master fabric"));
    }
    script.veth("internet", path_of("internet"));
    script.line(format_args!("link set fabric up"));
    script.address("fabric", CONTROL_ADDRESSES, 24, 64);
    script.address("internet", INTERNET_GATEWAY, 24, 64);
    script.0
}

/// Run in the internet namespace.
pub(crate) fn internet_links() -> String {
    let mut script = Script::default();
    script.uplink(INTERNET_ADDRESSES, 24, 64, INTERNET_GATEWAY);
    script.0
}

/// Run in a node's namespace.
pub(crate) fn node_links<'a>(node: &Node, path_of: &impl Fn(&str) -> &'a Path) -> String {
    let mut script = Script::default();
    script.uplink(node.addresses, 24, 64, CONTROL_ADDRESSES);
    for Pod { name, addresses, .. } in pods_on(node.name) {
        script.pod(name, *addresses, node, path_of(name));
    }
    for other in NODES.iter().filter(|other| other.name != node.name) {
        for (range, via) in other.pod_ranges.iter().zip(other.addresses.both()) {
            script.line(format_args!("route add {range} via {via}"));
        }
    }
    script.0
}

/// Run in a node's namespace for a pod that comes later; `link` is the pod's link there.
pub(crate) fn attach_pod(link: &str, addresses: Pair, node: &Node, path: &Path) -> String {
    let mut script = Script::default();
    script.pod(link, addresses, node, path);
    script.0
}

/// Undoes [`attach_pod`]: the link goes with its other end and its routes; conntrack entries stay, as they do when a
/// network plugin takes a pod's network away.
pub(crate) fn detach_pod(link: &str) -> String {
    format!("link del {link}\n")
}

/// Run in a pod's namespace. The gateway is not in the pod's prefix, as with most network plugins.
pub(crate) fn pod_links(addresses: Pair, node: &Node) -> String {
    let mut script = Script::default();
    script.line(format_args!("link set lo up"));
    script.line(format_args!("link set eth0 up"));
    script.address("eth0", addresses, 32, 128);
    for gateway in node.gateway.both() {
        script.line(format_args!("route add {gateway} dev eth0"));
    }
    for gateway in node.gateway.both() {
        script.line(format_args!("route add default via {gateway} dev eth0"));
    }
    script.0
}

/// Service translation, masquerade and truth counters of a node.
pub(crate) fn node_rules(node: &Node) -> String {
    let [range4, range6] = RANGES;
    let Pair { v4: service4, v6: service6 } = SERVICE_ADDRESSES;
    let map = |address: &dyn Fn(&Pod) -> String| {
        let element = |(index, pod)| format!("{index} : {} . {SERVER_PORT}", address(pod));
        backends().enumerate().map(element).collect::<Vec<_>>().join(", ")
    };
    let count = backends().count();
    let backends4 = map(&|pod| pod.addresses.v4.to_string());
    let backends6 = map(&|pod| pod.addresses.v6.to_string());
    // A pod that reaches itself through the service must see another source, else it answers itself directly.
    let hairpin = |address: &dyn Fn(&Pod) -> String| {
        let element = |pod| format!("{0} . {0}", address(pod));
        let local = pods_on(node.name).filter(|pod| backends().any(|backend| backend.uid == pod.uid));
        local.map(element).collect::<Vec<_>>().join(", ")
    };
    let hairpin4 = hairpin(&|pod| pod.addresses.v4.to_string());
    let hairpin6 = hairpin(&|pod| pod.addresses.v6.to_string());
    format!(
        "table inet kube {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {service4} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} \
         dnat ip addr . port to numgen inc mod {count} map {{ {backends4} }}
    ip6 daddr {service6} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} \
         dnat ip6 addr . port to numgen inc mod {count} map {{ {backends6} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr . ip daddr {{ {hairpin4} }} masquerade
    ip6 saddr . ip6 daddr {{ {hairpin6} }} masquerade
    ip saddr {range4} ip daddr != {{ {range4}, 172.18.0.0/24 }} masquerade
    ip6 saddr {range6} ip6 daddr != {{ {range6}, fd00:172:18::/64 }} masquerade
  }}
  chain forward {{
    type filter hook forward priority filter;
    ct state invalid drop
  }}
}}
table inet {TRUTH_TABLE} {{
  set ipv4 {{ typeof ip saddr . ip daddr . meta l4proto; flags dynamic; size 65535; counter; }}
  set ipv6 {{ typeof ip6 saddr . ip6 daddr . meta l4proto; flags dynamic; size 65535; counter; }}
  set hairpin4 {{ typeof ip saddr . meta l4proto . ct direction; flags dynamic; size 65535; counter; }}
  set hairpin6 {{ typeof ip6 saddr . meta l4proto . ct direction; flags dynamic; size 65535; counter; }}
  counter {UNCOUNTED} {{ }}
  chain forward {{
    type filter hook forward priority filter + 10;
    ip saddr . ip daddr {{ {hairpin4} }} add @hairpin4 {{ ip saddr . meta l4proto . ct direction }} return
    ip6 saddr . ip6 daddr {{ {hairpin6} }} add @hairpin6 {{ ip6 saddr . meta l4proto . ct direction }} return
    meta nfproto ipv4 add @ipv4 {{ ip saddr . ip daddr . meta l4proto }} return
    meta nfproto ipv6 add @ipv6 {{ ip6 saddr . ip6 daddr . meta l4proto }} return
    counter name {UNCOUNTED}
  }}
}}
"
    )
}

/// Keeps the stream to an exporter that listens on `port`, and the node's loopback, out of conntrack.
pub(crate) fn untracked_rules(port: u16) -> String {
    format!(
        "table inet untracked {{
  chain output {{ type filter hook output priority raw; oif lo notrack; tcp dport {port} notrack; }}
  chain prerouting {{ type filter hook prerouting priority raw; iif lo notrack; tcp sport {port} notrack; }}
}}
"
    )
}

/// Drops the stream between this node and an exporter that listens on `port`, both ways.
pub(crate) fn cut_rules(port: u16) -> String {
    format!(
        "table inet {CUT_TABLE} {{
  chain output {{ type filter hook output priority filter; tcp dport {port} drop; }}
  chain input {{ type filter hook input priority filter; tcp sport {port} drop; }}
}}
"
    )
}

/// Undoes [`cut_rules`], also where nothing is cut.
pub(crate) fn restore_rules() -> String {
    format!("add table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}\n")
}

/// Lines for `ip -batch -`.
#[derive(Default)]
struct Script(String);

impl Script {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("writing to a String cannot fail");
        self.0.push('\n');
    }

    /// A pair whose far end is `eth0` in the namespace at `path`.
    fn veth(&mut self, name: &str, path: &Path) {
        self.line(format_args!("link add {name} type veth peer name eth0 netns {}", path.display()));
        self.line(format_args!("link set {name} up"));
    }

    /// A pod's link on its node, and the way to it.
    fn pod(&mut self, link: &str, addresses: Pair, node: &Node, path: &Path) {
        self.veth(link, path);
        self.address(link, node.gateway, 32, 128);
        for address in addresses.both() {
            self.line(format_args!("route add {address} dev {link}"));
        }
    }

    fn address(&mut self, link: &str, Pair { v4, v6 }: Pair, v4_prefix: u8, v6_prefix: u8) {
        self.line(format_args!("addr add {v4}/{v4_prefix} dev {link}"));
        self.line(format_args!("addr add {v6}/{v6_prefix} dev {link} nodad"));
    }

    fn uplink(&mut self, addresses: Pair, v4_prefix: u8, v6_prefix: u8, gateway: Pair) {
        self.line(format_args!("link set lo up"));
        self.line(format_args!("link set eth0 up"));
        self.address("eth0", addresses, v4_prefix, v6_prefix);
        for gateway in gateway.both() {
            self.line(format_args!("route add default via {gateway} dev eth0"));
        }
    }
}
