//! Two pods and the node between them, in network namespaces without a name, and what nft counts there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use egressd_flow::Counter;
use nix::sched::{CloneFlags, setns, unshare};

/// Addresses that nobody else on the machine has: the programs see every socket of it.
pub(crate) struct Plan {
    third: u8,
}

impl Plan {
    /// `third` tells apart networks of one process that are there at once.
    pub(crate) fn new(third: u8) -> Self {
        Self { third }
    }

    pub(crate) fn address(&self, pod: u8, version: u8) -> IpAddr {
        let process = std::process::id();
        let text = match version {
            4 => format!("10.{}.{}.{}", 128 + process % 100, self.third, pod * 16 + 2),
            _ => format!("fd77:{:x}:{:x}:{pod}::2", process % 0xffff, self.third),
        };
        text.parse().unwrap()
    }

    fn gateway(&self, pod: u8, version: u8) -> IpAddr {
        match self.address(pod, version) {
            IpAddr::V4(address) => std::net::Ipv4Addr::from(u32::from(address) - 1).into(),
            IpAddr::V6(address) => std::net::Ipv6Addr::from(u128::from(address) - 1).into(),
        }
    }
}

/// A network namespace, as long as this is there.
pub(crate) struct Space(File);

impl Space {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root: no network namespace can be made");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let space = Self(thread::scope(|scope| scope.spawn(make).join().unwrap()));
        space.run("ip", &["link", "set", "lo", "up"], "");
        space
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// On a thread of its own; sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let body = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        let joined = thread::scope(|scope| scope.spawn(body).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn run(&self, tool: &str, arguments: &[&str], input: &str) -> String {
        self.enter(|| {
            let mut command = Command::new(tool);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child =
                command.spawn().unwrap_or_else(|error| panic!("{tool} is not installed: {error}"));
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool} {arguments:?}: {said}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Every named counter of this namespace's nft.
    pub(crate) fn counters(&self) -> BTreeMap<String, Counter> {
        let listing = self.run("nft", &["-j", "list", "counters"], "");
        let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
        let counters = listing["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("counter"));
        let counter = |value: &serde_json::Value| {
            let figure = |name: &str| value[name].as_u64().unwrap();
            let counter = Counter { bytes: figure("bytes"), packets: figure("packets") };
            (value["name"].as_str().unwrap().to_owned(), counter)
        };
        counters.map(counter).collect()
    }
}

/// What a pod's own nft sees pass without a full socket, whose mark could be told: what comes in for none or for one in
/// TIME_WAIT, and what goes out on behalf of such. A handshake's second and third segment are a listener's, which nft
/// does not say; they are known by their flags.
const WITNESS: &str = "table inet witness {
    counter in4 { }
    counter in6 { }
    counter out4 { }
    counter out6 { }
    chain input {
        type filter hook input priority 10
        iif lo return
        meta l4proto != tcp return
        socket mark 0 return
        tcp flags == ack return
        meta nfproto ipv4 counter name in4
        meta nfproto ipv6 counter name in6
    }
    chain output {
        type filter hook output priority 10
        oif lo return
        meta l4proto != tcp return
        socket mark 0 return
        tcp flags == syn | ack return
        meta nfproto ipv4 counter name out4
        meta nfproto ipv6 counter name out6
    }
}";

/// Pod 1, pod 2 and the node that forwards between them.
pub(crate) struct Network {
    pub(crate) plan: Plan,
    pub(crate) pods: [Space; 2],
    pub(crate) node: Space,
}

impl Network {
    pub(crate) fn new(plan: Plan) -> Self {
        let network = Self { plan, pods: [Space::new(), Space::new()], node: Space::new() };
        let Self { plan, pods, node } = &network;
        let sysctls =
            "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0";
        for setting in sysctls.split(' ') {
            let (name, value) = setting.split_once('=').unwrap();
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            node.enter(|| std::fs::write(path, value).unwrap());
        }
        for (pod, space) in (1u8..).zip(pods) {
            let addresses = [4, 6].map(|version| (plan.address(pod, version), plan.gateway(pod, version)));
            let mut on_node = format!(
                "link add pod{pod} type veth peer name eth0 netns {}\nlink set pod{pod} up\n",
                space.path()
            );
            let mut in_pod = "link set eth0 up\n".to_owned();
            for (address, gateway) in addresses {
                let (length, nodad) = if address.is_ipv4() { (28, "") } else { (64, " nodad") };
                on_node += &format!("addr add {gateway}/{length} dev pod{pod}{nodad}\n");
                in_pod += &format!(
                    "addr add {address}/{length} dev eth0{nodad}\nroute add default via {gateway}\n"
                );
            }
            node.run("ip", &["-batch", "-"], &on_node);
            space.run("ip", &["-batch", "-"], &in_pod);
            space.run("nft", &["-f", "-"], WITNESS);
        }
        node.run("nft", &["-f", "-"], &truth(plan));
        network
    }

    /// What the node forwarded from one pod to the other.
    pub(crate) fn truth(&self, from: u8, version: u8, protocol: &str) -> Counter {
        self.node.counters()[&format!("from{from}_{version}_{protocol}")]
    }

    /// What a pod passed without a full socket.
    pub(crate) fn without_socket(&self, pod: u8, direction: &str, version: u8) -> Counter {
        self.pods[usize::from(pod) - 1].counters()[&format!("{direction}{version}")]
    }
}

fn truth(plan: &Plan) -> String {
    let (mut counters, mut rules) = (String::new(), String::new());
    for (from, version, protocol) in [1, 2]
        .into_iter()
        .flat_map(|from| [4, 6].map(|version| (from, version)))
        .flat_map(|(from, version)| ["tcp", "udp"].map(|protocol| (from, version, protocol)))
    {
        let family = if version == 4 { "ip" } else { "ip6" };
        let (name, source) = (format!("from{from}_{version}_{protocol}"), plan.address(from, version));
        counters += &format!("counter {name} {{ }}\n");
        rules += &format!("{family} saddr {source} meta l4proto {protocol} counter name {name}\n");
    }
    format!(
        "table inet truth {{\n{counters}chain forward {{\ntype filter hook forward priority 10\n{rules}}}\n}}"
    )
}
