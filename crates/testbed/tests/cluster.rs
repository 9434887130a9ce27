//! The testbed is what it says: wired, true, and gone without a trace.
//!
//! These tests need root, `ip`, `nft`, `conntrack` and `prometheus`. They run on namespaces of their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use egressd_testbed::topology::{CONTROL, CONTROL_ADDRESSES, INTERNET, PODS, pod_at, pod_named};
use egressd_testbed::traffic::{ItemReport, Kind};
use egressd_testbed::{
    Answer, Class, Cluster, FlowKey, Flows, HttpSink, Load, Store, Volume, class_of, standard_plans, wait_for,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_egressd-testbed");
const SOON: Duration = Duration::from_secs(10);

/// What conntrack says, as flows: each side of an entry that is a pod of the node is charged, a hairpin once.
///
/// Reads `conntrack -L`: the first `src=… dst=… packets=… bytes=…` is the original direction, the second the reply.
fn conntrack_flows(cluster: &Cluster, node: &str) -> Flows {
    let mut flows = Flows::default();
    for family in ["ipv4", "ipv6"] {
        let mut command = Command::new("conntrack");
        command.args(["-L", "-f", family, "-o", "extended"]);
        let listing = String::from_utf8(cluster.run(node, command).unwrap()).unwrap();
        for line in listing.lines() {
            let values = |name: &str| -> Vec<String> {
                let words = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
                words.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).collect()
            };
            let number = |name, index: usize| values(name)[index].parse::<u64>().unwrap();
            let protocol = line.split_ascii_whitespace().nth(3).unwrap().parse().unwrap();
            let (original_src, reply_src) =
                (values("src")[0].parse().unwrap(), values("src")[1].parse().unwrap());
            let there = (number("bytes", 0), number("packets", 0));
            let back = (number("bytes", 1), number("packets", 1));
            let mut charge = |local, remote, (tx_bytes, tx_packets), (rx_bytes, rx_packets)| {
                if let Some(pod) = pod_at(local).filter(|pod| pod.node == node) {
                    let volume = Volume { tx_bytes, tx_packets, rx_bytes, rx_packets };
                    flows.add(FlowKey::of(pod, local, remote, protocol), volume);
                }
            };
            charge(original_src, reply_src, there, back);
            if reply_src != original_src {
                charge(reply_src, original_src, back, there);
            }
        }
    }
    flows
}

/// Differences as text, so that a failure says which flow.
fn differences(left: &Flows, right: &Flows) -> Vec<String> {
    let keys: BTreeSet<_> = left.0.keys().chain(right.0.keys()).collect();
    let differing = keys.into_iter().filter(|key| left.0.get(*key) != right.0.get(*key));
    differing.map(|key| format!("{key}: {:?} / {:?}", left.0.get(key), right.0.get(key))).collect()
}

/// Every flow between two pods as its other end must see it.
fn mirrored(flows: &Flows) -> Flows {
    let mut mirror = Flows::default();
    for (key, volume) in &flows.0 {
        let Some(remote) = pod_at(key.remote).filter(|_| key.remote != key.local) else {
            mirror.add(key.clone(), *volume);
            continue;
        };
        let Volume { tx_bytes, tx_packets, rx_bytes, rx_packets } = *volume;
        let seen =
            Volume { tx_bytes: rx_bytes, tx_packets: rx_packets, rx_bytes: tx_bytes, rx_packets: tx_packets };
        mirror.add(FlowKey::of(remote, key.remote, key.local, key.protocol), seen);
    }
    mirror
}

/// Processes that stand in one of the namespaces or hold one open.
fn holders(inodes: &BTreeSet<u64>) -> Vec<String> {
    let names: BTreeSet<_> = inodes.iter().map(|inode| format!("net:[{inode}]")).collect();
    let is_one = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| names.contains(target.to_string_lossy().as_ref()))
    };
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let open = fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let tasks = fs::read_dir(path.join("task")).into_iter().flatten().flatten();
        let stands = tasks.map(|task| task.path().join("ns/net"));
        holders.extend(open.chain(stands).filter(|path| is_one(path)).map(|path| path.display().to_string()));
    }
    holders
}

fn inodes(cluster: &Cluster) -> BTreeSet<u64> {
    cluster.namespaces().map(|(_, namespace)| namespace.inode().unwrap()).collect()
}

/// Names of the links in the calling thread's network namespace.
fn links_here() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect()
}

/// Goal: ten namespaces of their own, and nothing of them in the machine's.
#[test]
fn a_cluster_leaves_the_machines_network_alone() {
    let before = links_here();
    let cluster = Cluster::start().unwrap();
    assert_eq!(links_here(), before);
    assert_eq!(inodes(&cluster).len(), 10);
    for pod in &PODS {
        let links = cluster.namespace(pod.name).unwrap().enter(links_here).unwrap();
        assert!(links.contains("eth0") && links.contains("lo"), "{} has {links:?}", pod.name);
    }
    assert!(cluster.namespace("node-c").is_err());
}

/// Goal: the truth is true: every class arrives, the wire carries at least the payload, both nodes agree about
/// traffic between them, and conntrack, which counts by itself, agrees with nft to the byte and the packet.
#[test]
fn nft_and_conntrack_agree_on_every_class_of_traffic() {
    let cluster = Cluster::start().unwrap();
    cluster.enable_accounting().unwrap();
    // Entries closed by RST live 10 s, so all of them are still there when traffic of 4 s has ended.
    let load = Load::start(&cluster, Path::new(PROGRAM), &standard_plans(Some(4))).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let reports = load.finish().unwrap();

    let truth = wait_for("rest on the wire", SOON, || {
        let (truth, mirror) = (cluster.truth()?, mirrored(&cluster.truth()?));
        let differences = differences(&truth, &mirror);
        Ok(if differences.is_empty() { Ok(truth) } else { Err(differences.join("\n")) })
    })
    .unwrap();
    for node in ["node-a", "node-b"] {
        let conntrack = conntrack_flows(&cluster, node);
        assert_eq!(differences(&truth.of_node(node), &conntrack), [""; 0], "{node}");
    }

    let expected: BTreeSet<_> = Class::ALL
        .into_iter()
        .flat_map(|class| [(class, false, 6), (class, false, 17), (class, true, 6), (class, true, 17)])
        .collect();
    let seen = truth.0.iter().filter(|(_, volume)| volume.tx_bytes > 0 && volume.rx_bytes > 0);
    let seen: BTreeSet<_> = seen.map(|(key, _)| (class_of(key), key.local.is_ipv6(), key.protocol)).collect();
    assert_eq!(seen, expected);

    for (sender, items) in &reports {
        check_payload(sender, items, &truth);
    }
}

/// What a sender's items of one family and protocol moved must have gone over its pod's wire, and each item did work.
fn check_payload(sender: &str, items: &[ItemReport], truth: &Flows) {
    let pod = pod_named(sender).unwrap();
    for (v6, protocol) in [(false, 6), (false, 17), (true, 6), (true, 17)] {
        let items = items
            .iter()
            .filter(|report| report.item.to.is_ipv6() == v6 && report.item.kind.protocol() == protocol);
        let (mut sent, mut received) = (0, 0);
        for report in items {
            assert!(report.exchanges > 1, "{report:?}");
            let long = matches!(report.item.kind, Kind::TcpLong | Kind::UdpLong);
            assert_eq!(report.conversations, if long { 1 } else { report.exchanges }, "{report:?}");
            sent += report.sent_bytes;
            received += report.received_bytes;
        }
        let mut wire = Volume::default();
        for (key, volume) in &truth.0 {
            if pod.addresses.contains(key.local) && key.local.is_ipv6() == v6 && key.protocol == protocol {
                wire += *volume;
            }
        }
        assert!(wire.tx_bytes > sent && wire.rx_bytes > received, "{sender} {wire:?} {sent} {received}");
    }
}

/// Goal: dropping a cluster with running traffic ends its processes, port-forwards and namespaces.
#[test]
fn nothing_is_left_after_drop() {
    let cluster = Cluster::start().unwrap();
    let load = Load::start(&cluster, Path::new(PROGRAM), &standard_plans(None)).unwrap();
    let (inodes, forwarded) = (inodes(&cluster), cluster.forward(INTERNET, 8080).unwrap());
    assert!(TcpStream::connect(forwarded).is_ok());
    drop(load);
    drop(cluster);
    assert!(TcpStream::connect(forwarded).is_err());
    assert_eq!(holders(&inodes), [""; 0]);
}

/// Goal: a process that is killed with SIGKILL takes its cluster along, children included.
#[test]
fn nothing_is_left_after_sigkill() {
    let mut child =
        Command::new(PROGRAM).arg("up").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let inodes: BTreeSet<u64> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (_, after) = line.split_once("net:[").unwrap();
            after.split(']').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(inodes.len(), 10);
    // Ten descriptors, and the servers of nine places with their threads.
    assert!(holders(&inodes).len() > 19);

    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of the servers", SOON, || {
        let holders = holders(&inodes);
        Ok(if holders.is_empty() { Ok(()) } else { Err(holders.join(", ")) })
    })
    .unwrap();
}

/// Goal: a cut stops the stream's port only, and restoring lets it through again.
#[test]
fn a_cut_stream_comes_back() {
    let cluster = Cluster::start().unwrap();
    let control = cluster.namespace(CONTROL).unwrap();
    let listen = |port| control.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    let _open = (listen(6062), listen(6060));
    let connects = |node: &str, port| {
        let to = SocketAddr::new(CONTROL_ADDRESSES.v4.into(), port);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
        cluster.namespace(node).unwrap().enter(connect).unwrap()
    };
    assert!(connects("node-a", 6062));
    cluster.cut_stream("node-a", 6062).unwrap();
    assert!(!connects("node-a", 6062));
    assert!(connects("node-a", 6060));
    assert!(connects("node-b", 6062));
    cluster.restore_stream("node-a").unwrap();
    assert!(connects("node-a", 6062));
    cluster.restore_stream("node-a").unwrap();
}

/// Goal: the fake sink keeps what it is sent, refuses when told, is away when told, and comes back.
#[test]
fn the_http_sink_does_as_it_is_told() {
    let cluster = Cluster::start().unwrap();
    let mut sink = HttpSink::start(&cluster, 8090).unwrap();
    let address = cluster.forward(CONTROL, 8090).unwrap();
    let post = |body: &[u8]| -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /v1/x HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        // A relayed connection may end by a reset where nobody listens: that is no answer.
        drop(stream.read_to_string(&mut answer));
        answer.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(post(b"\x1f\x8b1"), "HTTP/1.1 200 -");
    sink.answer(Answer::Status(503));
    assert_eq!(post(b"2"), "HTTP/1.1 503 -");
    sink.answer(Answer::Silence);
    assert_eq!(post(b"3"), "");
    sink.go_away();
    assert_eq!(post(b"4"), "");
    sink.come_back().unwrap();
    sink.answer(Answer::Status(200));
    assert_eq!(post(b"5"), "HTTP/1.1 200 -");

    let kept: Vec<_> = sink.requests().into_iter().map(|request| (request.body, request.status)).collect();
    let expected: [(&[u8], u16); 4] = [(b"\x1f\x8b1", 200), (b"2", 503), (b"3", 0), (b"5", 200)];
    assert_eq!(kept, expected.map(|(body, status)| (body.to_vec(), status)));
    let accepted = sink.accepted();
    assert_eq!(accepted.len(), 2);
    assert_eq!(accepted[0].header("content-encoding"), Some("gzip"));
}

/// Goal: Prometheus starts from nothing, answers queries, and takes remote writes.
#[test]
fn prometheus_answers_in_the_control_namespace() {
    let cluster = Cluster::start().unwrap();
    let prometheus = Store::prometheus(&cluster).unwrap();
    let result = prometheus.query("vector(1) + 1").unwrap();
    assert_eq!(result[0]["value"][1], "2");
    assert!(prometheus.query("sum(").unwrap_err().chain().contains("400"));

    // The receiver refuses a GET with 405; without it the path would be unknown.
    let answer = cluster.http_get(CONTROL, 9090, "/api/v1/write").unwrap();
    assert_eq!(answer.status, 405);
    assert!(prometheus.process().usage().unwrap().rss_peak_bytes > 1 << 20);
}

/// Goal: a process can be watched, ended gently and by force, and its output outlives it.
#[test]
fn processes_are_logged_measured_and_ended() {
    let cluster = Cluster::start().unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let gentle = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut process = cluster.spawn("node-a", "gentle", shell(gentle)).unwrap();
    wait_for("its first line", SOON, || {
        let log = process.log_tail();
        Ok(if log == "ready" { Ok(()) } else { Err(log) })
    })
    .unwrap();
    assert!(process.usage().unwrap().rss_peak_bytes > 0);
    assert_eq!(process.terminate(SOON).unwrap().code(), Some(7));
    assert_eq!(process.log_tail(), "ready\nbye");
    assert!(process.check_running().unwrap_err().chain().contains("bye"));

    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut process = cluster.spawn("node-a", "deaf", shell(deaf)).unwrap();
    wait_for("its first line", SOON, || {
        let log = process.log_tail();
        Ok(if log == "ready" { Ok(()) } else { Err(log) })
    })
    .unwrap();
    assert!(process.terminate(Duration::from_millis(200)).is_err());
    process.kill().unwrap();
    assert!(process.check_running().is_err());
}
