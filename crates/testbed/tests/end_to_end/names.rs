//! Names for public addresses, from a pod's question to the cost API.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use egressd_testbed::topology::{INTERNET_ADDRESSES, NODES, SERVER_PORT, pod_named};
use egressd_testbed::traffic::{Item, Kind, Plan};
use egressd_testbed::{Cgroup, Cluster, Daemon, HttpSink, Ingestion, Load, Programs, init_nodes, wait_for};

use crate::seconds;

const COST_API_PORT: u16 = 8090;
const EXCHANGES: u64 = 50;
const REQUEST_BYTES: u64 = 3_000;
/// The pod that answers DNS for the others, as in most clusters one does.
const RESOLVER: &str = "store-1";

/// What the DNS server knows: a chain of three to an address, another name of it, and an IPv6 address.
const ZONE: [&str; 6] = [
    "www.example.com 300 CNAME edge.example.net",
    "edge.example.net 300 CNAME lb.example.org",
    "lb.example.org 300 CNAME host.example.org",
    "host.example.org 300 A 203.0.113.10",
    "db.example.com 300 A 203.0.113.10",
    "six.example.com 300 AAAA 2001:db8:1::10",
];

fn exchanges(to: IpAddr) -> Plan {
    let item = Item {
        kind: Kind::TcpFin,
        to: (to, SERVER_PORT).into(),
        from_port: None,
        request_bytes: u32::try_from(REQUEST_BYTES).unwrap(),
        reply_bytes: 500,
        pause_ms: 20,
        exchanges_max: EXCHANGES,
    };
    Plan { seconds: Some(30), items: vec![item] }
}

/// By pod, remote address and DNS name: bytes sent over TCP, as the cost API was told.
type Sent = BTreeMap<(String, String, String), u64>;

fn sent(ingestion: &Ingestion<'_>, cost_api: &HttpSink) -> Sent {
    let mut sent = Sent::new();
    for item in ingestion.items(cost_api).unwrap() {
        let text = |name: &str| item.get(name).cloned().unwrap_or_default();
        if text("proto") == "6" && !text("src_pod").is_empty() {
            let bytes: u64 = text("tx_bytes").parse().unwrap_or(0);
            *sent.entry((text("src_pod"), text("dst_ip"), text("dst_dns_name"))).or_default() += bytes;
        }
    }
    sent
}

/// Goal: a pod's traffic bears the name that the pod asked for, also where another pod asked for the same address by
/// another name, and where addresses are grouped; to the byte. Who asked for nothing, on a node that was told two names,
/// has none, and the series have no such label.
#[test]
fn traffic_bears_the_name_that_was_asked_for() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let cost_api = HttpSink::start(&cluster, COST_API_PORT).unwrap();
    init_nodes(&cluster, &programs.collector).unwrap();
    let config =
        format!("exportInterval: 1s\nsinks:\n  castai:\n    http:\n      url: \"{}/x\"\n", cost_api.url());
    let mut exporter = Daemon::exporter(&cluster, &programs.exporter, &config, &[]).unwrap();
    let places = NODES.map(|node| Cgroup::create(node.name).unwrap());
    let mut collectors: Vec<_> = const { &NODES }
        .iter()
        .zip(&places)
        .map(|(node, place)| {
            let grouped = format!("--group-public-ips={}", node.name == "node-a");
            let cgroup = place.path().display().to_string();
            let flags = ["--ebpf-dns-tracer-enabled=true", "--cgroup-dir", &cgroup, &grouped];
            Daemon::collector(&cluster, &programs.collector, node.name, &flags).unwrap()
        })
        .collect();
    for daemon in collectors.iter_mut().chain([&mut exporter]) {
        daemon.wait_ready(seconds(30)).unwrap();
    }

    let mut server = Command::new(&programs.testbed);
    server.arg("dns").args(ZONE);
    let mut server = cluster.spawn(RESOLVER, "dns", server).unwrap();
    ask_all(&cluster, &programs.testbed, &places);
    server.check_running().unwrap();
    for (collector, answers) in collectors.iter().zip([3, 1]) {
        wait_for("answers", seconds(10), || {
            let told = collector.metric("egressd_collector_names_told_total", &[])?.unwrap_or(0);
            Ok(if told == answers { Ok(()) } else { Err(format!("{told} of {answers}")) })
        })
        .unwrap();
    }

    let (v4, v6) = (INTERNET_ADDRESSES.v4.into(), INTERNET_ADDRESSES.v6.into());
    let plans = [("client-0", v4), ("store-0", v4), ("web-0", v4), ("client-1", v6), ("web-1", v4)];
    let plans = plans.map(|(pod, to)| (pod, exchanges(to)));
    let load = Load::start(&cluster, &programs.testbed, &plans).unwrap();
    let ingestion = Ingestion::new(&cluster).unwrap();
    let truth = |pod: &str| -> u64 {
        let addresses = pod_named(pod).unwrap().addresses;
        let flows = cluster.truth().unwrap().0;
        let own = flows.iter().filter(|(key, _)| {
            key.protocol == 6 && addresses.contains(key.local) && INTERNET_ADDRESSES.contains(key.remote)
        });
        own.map(|(_, volume)| volume.tx_bytes).sum()
    };
    wait_for("all exchanges", seconds(30), || {
        let sent = plans.each_ref().map(|(pod, _)| truth(pod));
        let is_done = sent.iter().all(|sent| *sent > EXCHANGES * REQUEST_BYTES);
        Ok(if is_done { Ok(()) } else { Err(format!("{sent:?}")) })
    })
    .unwrap();
    load.finish().unwrap();
    let row =
        |pod: &str, to: &str, name: &str| ((pod.to_owned(), to.to_owned(), name.to_owned()), truth(pod));
    let expected = Sent::from([
        row("client-0", "0.0.0.0", "www.example.com"),
        row("store-0", "0.0.0.0", "db.example.com"),
        row("web-0", "0.0.0.0", ""),
        row("client-1", "2001:db8:1::10", "six.example.com"),
        row("web-1", "203.0.113.10", ""),
    ]);
    wait_for("the names at the cost API", seconds(30), || {
        let mut found = sent(&ingestion, &cost_api);
        found.retain(|(pod, to, _), _| expected.keys().any(|(known, at, _)| known == pod && at == to));
        Ok(if found == expected { Ok(()) } else { Err(format!("{found:#?}\n{expected:#?}")) })
    })
    .unwrap();
    println!("names: {expected:?}, difference 0 B");
    assert!(exporter.metric("egressd_exporter_names_ambiguous_records_total", &[]).unwrap() > Some(0));
    assert!(!exporter.get("/metrics/flows").unwrap().contains("example.com"));
    for daemon in collectors.iter_mut().chain([&mut exporter]) {
        daemon.end().unwrap();
    }
}

/// On node-a two pods ask for one address by two names, one of them by TCP; on node-b one asks for an IPv6 address by
/// IPv6. A third pod of node-a, and one of node-b, ask for nothing.
fn ask_all(cluster: &Cluster, testbed: &Path, places: &[Cgroup]) {
    let testbed = testbed.to_str().unwrap();
    let addresses = pod_named(RESOLVER).unwrap().addresses;
    let servers = addresses.both().map(|address| SocketAddr::new(address, 53).to_string());
    for (place, pod, words) in [
        (&places[0], "client-0", &[&servers[0][..], "www.example.com"][..]),
        (&places[0], "client-0", &[&servers[0], "nobody.example.com"]),
        (&places[0], "store-0", &[&servers[0], "db.example.com", "--tcp"]),
        (&places[0], "store-0", &[&servers[1], "db.example.com"]),
        (&places[1], "client-1", &[&servers[1], "six.example.com", "--v6"]),
    ] {
        wait_for("an answer", seconds(10), || {
            let asked = cluster.run(pod, place.inside(&[&[testbed, "ask"], words].concat()));
            Ok(asked.map(drop).map_err(|error| error.chain()))
        })
        .unwrap();
    }
}
