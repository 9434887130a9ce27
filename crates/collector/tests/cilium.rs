//! The binary on maps that real releases of Cilium wrote, pinned as maps of this kernel, against the flows that were sent.
//!
//! Needs root: each test mounts a BPF file system of its own, which the binary inherits.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use egressd_testbed::cilium::{Agent, CtMap, MAP_DIR, Shape, mount_bpf, pin_capture};
use serde_json::Value;

/// Captures by name, with the version that its agent gives and whether that still tells directions.
const COUNTED: [(&str, &str, bool); 6] = [
    ("1.14.16", "1.14.16", true),
    ("1.15.7", "1.15.7", true),
    ("1.15.7-jiffies", "1.15.7", true),
    ("1.16.15", "1.16.15", false),
    ("1.18.3", "1.18.3", false),
    ("upgrade-1.15.7-to-1.18.3", "1.18.3", false),
];

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conntrack/tests/captures/cilium")
}

/// An endpoint's flow: its own address, whether it opened it, both ends with their ports, and the protocol.
type Flow = (String, bool, String, String, u64);

/// Sent and received as the endpoint sees it, and both together.
type Counted = (Option<u64>, Option<u64>, Option<u64>);

/// What was sent, by the endpoints of the node. `restarts`: the release counts a flow that is opened anew from there.
fn truth(restarts: bool) -> BTreeMap<Flow, Counted> {
    let flows: Value =
        serde_json::from_slice(&std::fs::read(captures().join("truth.json")).unwrap()).unwrap();
    let mut truth = BTreeMap::new();
    for flow in flows.as_array().unwrap() {
        let both = |key: &str| -> [u64; 2] { serde_json::from_value(flow[key].clone()).unwrap() };
        let first_too = !(restarts && flow["recreated"] == true);
        let sum = |[first, second]: [u64; 2]| if first_too { first + second } else { second };
        let (forward, back) = (sum(both("fwd_bytes")), sum(both("rev_bytes")));
        let text = |key: &str| flow[key].as_str().unwrap().to_owned();
        let (src, dst, proto) = (text("src"), text("dst"), flow["proto"].as_u64().unwrap());
        let end = |address: &str, port: &str| match proto {
            6 | 17 => format!("{address} {}", flow[port]),
            _ => address.to_owned(),
        };
        let ends = (end(&src, "sport"), end(&dst, "dport"));
        if flow["local_src"] == true {
            let counted = (Some(forward), Some(back), Some(forward + back));
            truth.insert((src, true, ends.0.clone(), ends.1.clone(), proto), counted);
        }
        if flow["local_dst"] == true {
            let counted = (Some(back), Some(forward), Some(forward + back));
            truth.insert((dst, false, ends.0, ends.1, proto), counted);
        }
    }
    truth
}

fn without_direction(truth: BTreeMap<Flow, Counted>) -> BTreeMap<Flow, Counted> {
    truth.into_iter().map(|(flow, (_, _, total))| (flow, (None, None, total))).collect()
}

/// The exit code, standard output and standard error of the binary.
fn collector(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_egressd-collector")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What `dump` prints, by flow, and what it says beside. No agent of this machine is asked.
fn dump(more: &[&str]) -> (BTreeMap<Flow, Counted>, String) {
    let mut arguments = vec!["dump", "--format", "json", "--ct-mode", "cilium", "--cilium-map-dir", MAP_DIR];
    let named = |flag: &str| more.contains(&flag);
    for flag in ["--cilium-socket", "--cilium-state-dir"].into_iter().filter(|flag| !named(flag)) {
        arguments.extend([flag, ""]);
    }
    arguments.extend(more);
    let (code, printed, said) = collector(&arguments);
    assert_eq!(code, Some(0), "{said}");
    let mut flows = BTreeMap::new();
    for line in printed.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let proto = line["proto"].as_u64().unwrap();
        let end = |address: &str, port: &str| {
            let address = line[address].as_str().unwrap();
            if line[port].is_null() { address.to_owned() } else { format!("{address} {}", line[port]) }
        };
        let local = line["local"].as_str().unwrap().to_owned();
        let opened = local == line["src"].as_str().unwrap();
        let flow = (local, opened, end("src", "src_port"), end("dst", "dst_port"), proto);
        let (tx, rx) = (line["tx_bytes"].as_u64(), line["rx_bytes"].as_u64());
        assert_eq!(line["direction_known"], tx.is_some() && rx.is_some(), "{line}");
        assert_eq!((&line["source"], &line["ct_zone"]), (&"cilium".into(), &0.into()), "{line}");
        let none = flows.insert(flow, (tx, rx, line["total_bytes"].as_u64()));
        assert_eq!(none, None, "{line} is printed twice");
    }
    (flows, said)
}

/// Goal: with the layout said by an agent or by a flag, each endpoint's flows are the truth: to the byte in each direction
/// up to 1.15, and in total from 1.16 on, over an upgrade too.
#[test]
fn a_dump_is_the_truth() {
    for (capture, version, directional) in COUNTED {
        mount_bpf().unwrap();
        let _maps = pin_capture(&captures().join(capture), Path::new(MAP_DIR)).unwrap();
        let truth = if directional { truth(false) } else { without_direction(truth(true)) };
        let layout = if directional { "directional" } else { "combined" };
        let (flows, said) = dump(&["--cilium-layout", layout]);
        assert_eq!(flows, truth, "{capture} by --cilium-layout: {said}");

        let outside = tempfile::tempdir().unwrap();
        let socket = outside.path().join("cilium.sock");
        let _agent = Agent::start(&socket, version, true).unwrap();
        let (flows, said) = dump(&["--cilium-socket", socket.to_str().unwrap()]);
        assert_eq!(flows, truth, "{capture} by its agent: {said}");
        assert!(said.contains(&format!("layout {layout} by its agent")), "{said}");
    }
}

/// Goal: without anybody to say who writes, no direction is claimed and each total is right.
#[test]
fn without_a_word_totals_are_right() {
    for (capture, _, directional) in COUNTED {
        mount_bpf().unwrap();
        let _maps = pin_capture(&captures().join(capture), Path::new(MAP_DIR)).unwrap();
        let (flows, said) = dump(&[]);
        assert_eq!(flows, without_direction(truth(!directional)), "{capture}: {said}");
        assert!(said.contains("nobody says how this Cilium counts"), "{said}");
        assert_eq!(
            said.contains("though a release up to 1.15 did"),
            !matches!(capture, "1.16.15" | "1.18.3")
        );
    }
}

/// Goal: a configuration of 1.17 or later on disk says the layout.
#[test]
fn the_configuration_on_disk_is_believed() {
    mount_bpf().unwrap();
    let _maps = pin_capture(&captures().join("1.18.3"), Path::new(MAP_DIR)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("agent-runtime-config.json"), r#"{"BPFConntrackAccounting":true}"#)
        .unwrap();
    let (flows, said) = dump(&["--cilium-state-dir", outside.path().to_str().unwrap()]);
    assert_eq!(flows, without_direction(truth(true)));
    assert!(said.contains("layout combined by its configuration on disk"), "{said}");
}

/// Goal: accounting that is off is said, with the line that switches it on, whether the agent says so or only the maps; no
/// byte is claimed.
#[test]
fn accounting_that_is_off_is_said() {
    for (capture, version) in [("1.15.7-acct-off", "1.15.7"), ("1.18.3-acct-off", "1.18.3")] {
        mount_bpf().unwrap();
        let _maps = pin_capture(&captures().join(capture), Path::new(MAP_DIR)).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let socket = outside.path().join("cilium.sock");
        for agent in [None, Some(Agent::start(&socket, version, false).unwrap())] {
            let asked = if agent.is_some() { socket.to_str().unwrap() } else { "" };
            let (flows, said) = dump(&["--cilium-socket", asked]);
            assert_eq!(flows.len(), truth(false).len(), "{capture}");
            assert!(flows.values().all(|counted| *counted == (None, None, None)), "{capture}: {flows:?}");
            assert!(said.contains("accounting is off") && said.contains("bpf.ctAccounting=true"), "{said}");

            let source = ["--cilium-map-dir", MAP_DIR, "--cilium-state-dir", "", "--cilium-socket", asked];
            let (code, printed, _) = collector(&[&["check", "--ct-mode", "cilium"], &source[..]].concat());
            assert_eq!(code, Some(1), "{printed}");
            assert!(printed.contains("cilium_accounting_off: "), "{printed}");
            let (code, printed, _) =
                collector(&[&["check", "--ebpf-count-for", "1ms"], &source[..]].concat());
            assert_eq!(code, Some(0), "{printed}");
            let reason = "/sys/fs/bpf/tc/globals; they count nothing (bpf.ctAccounting is off))";
            assert!(printed.starts_with("source: ebpf (") && printed.contains(reason), "{printed}");
        }
    }
}

/// Goal: maps that are pinned are what is read unless something else is asked for, or our own counters can say more, and `check` says what is read, why, how,
/// and what is wrong with it; without a pin, or without the right to read it, that is said.
#[test]
fn check_says_what_is_read_and_why() {
    mount_bpf().unwrap();
    let quiet = ["check", "--cilium-state-dir=", "--cilium-map-dir", MAP_DIR];
    let check = |more: &[&str]| collector(&[&quiet, more].concat());
    let (code, printed, _) = check(&["--ct-mode=cilium", "--cilium-socket="]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("unreadable: ") && printed.contains(": no conntrack map of Cilium is pinned"),
        "{printed}"
    );
    let (_, printed, _) = check(&["--cilium-socket="]);
    assert!(printed.starts_with("source: netfilter (no conntrack map of Cilium is pinned in"), "{printed}");

    let maps = pin_capture(&captures().join("1.15.7"), Path::new(MAP_DIR)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    let socket = outside.path().join("cilium.sock");
    let agent = Agent::start(&socket, "1.15.7", true).unwrap();
    let by_agent = format!("--cilium-socket={}", socket.display());
    let (code, printed, _) = check(&[&by_agent]);
    assert_eq!(code, Some(0), "{printed}");
    for part in [
        "source: cilium (Cilium's conntrack maps are pinned in /sys/fs/bpf/tc/globals",
        "4 maps, layout directional by its agent, which is 1.15, clock ktime",
        "ok: connections are tracked and counted",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let (_, printed, _) = check(&["--ct-mode=netfilter"]);
    assert!(printed.starts_with("source: netfilter (--ct-mode)"), "{printed}");
    drop(agent);
    let _agent = Agent::start(&socket, "1.20.0-dev", true).unwrap();
    let (code, printed, _) = check(&[&by_agent, "--ebpf-count-for=1ms"]);
    assert_eq!(code, Some(0), "{printed}");
    let combined = "source: ebpf (Cilium's conntrack maps are pinned in /sys/fs/bpf/tc/globals; they count both directions";
    assert!(printed.starts_with(combined), "{printed}");
    let (_, printed, _) = check(&[&by_agent, "--cilium-layout=combined"]);
    assert!(printed.starts_with("source: cilium ("), "{printed}");
    let (code, printed, _) = check(&[&by_agent, "--ct-mode=cilium"]);
    assert_eq!(code, Some(0), "it counts: {printed}");
    assert!(printed.contains("ok: connections are tracked and counted; what is said above"), "{printed}");
    assert!(printed.contains("undirected: this Cilium counts what is sent and received in one"), "{printed}");

    let _foreign = CtMap::pin(Path::new(MAP_DIR), "cilium_ct4_next", Shape { value_bytes: 72, ..Shape::V4 });
    let (_, printed, _) = check(&[&by_agent, "--ct-mode=cilium"]);
    assert!(printed.contains("foreign_maps: 1 pinned maps"), "{printed}");
    drop(maps);
}

/// Goal: who may not read maps is told what it needs.
#[test]
fn a_missing_permission_is_named() {
    mount_bpf().unwrap();
    let _maps = pin_capture(&captures().join("1.15.7"), Path::new(MAP_DIR)).unwrap();
    let bare =
        ["--reuid=65534", "--clear-groups", "--bounding-set=-all", env!("CARGO_BIN_EXE_egressd-collector")];
    for verb in ["check", "dump"] {
        let output =
            Command::new("setpriv").args(bare).arg(verb).args(["--ct-mode", "cilium"]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && said.contains("CAP_BPF"), "{said}");
    }
}
