//! Rights that are taken away, one after another.

use std::fs;
use std::process::Command;

use egressd_testbed::cilium::{CtMap, Shape};
use egressd_testbed::topology::NODES;
use egressd_testbed::{COLLECTOR_HTTP_PORT, Cgroup, Cluster, Daemon, Programs, init_nodes};

use super::confined::{BpfDir, Public, Rights};
use super::{CILIUM, EBPF, NETFILTER};
use crate::seconds;

/// Whether the kernel lets who may open a pin read the map: since Linux 5.19 only making maps and loading programs is
/// privileged ("bpf: refine kernel.unprivileged_bpf_disabled behaviour").
fn opens_pins_without_bpf() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(19))
}

/// Goal: what the chart gives is needed. Without any one capability the collector never becomes ready, or traces no names, and
/// says which one it lacks. CAP_BPF for Cilium's maps is needed by kernels up to 5.18, and later ones do without.
#[test]
fn each_of_the_charts_capabilities_is_needed() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let (public, bpf, cgroup) =
        (Public::new("needed"), BpfDir::new("needed"), Cgroup::create("needed").unwrap());
    let globals = bpf.0.join("tc/globals");
    fs::create_dir_all(&globals).unwrap();
    let _map = CtMap::pin(&globals, "cilium_ct4_global", Shape::V4).unwrap();
    init_nodes(&cluster, &programs.collector).unwrap();
    let node = NODES[0].name;
    let path = cgroup.path().to_str().unwrap();
    for (name, manifest) in [("netfilter", NETFILTER), ("cilium", CILIUM), ("ebpf", EBPF)] {
        let rights = Rights::of(manifest);
        for capability in &rights.capabilities {
            let name = format!("{name}-without-{capability}");
            let less = rights.without(capability);
            let state = public.directory(&name);
            let of_this_test = ["--ebpf-cgroup", path, "--cgroup-dir", path, "--cilium-socket="];
            let command = less.collector(&programs.collector, node, &state, Some(&bpf.0), &of_this_test);
            let (namespace, logs) = (cluster.namespace(node).unwrap(), cluster.directory());
            let mut collector = Daemon::start(namespace, &logs, &name, command, COLLECTOR_HTTP_PORT).unwrap();
            let is_ready = collector.wait_ready(seconds(5)).is_ok();
            if (manifest, capability.as_str()) == (CILIUM, "bpf") && opens_pins_without_bpf() {
                assert!(is_ready, "{name} is not ready, though this kernel asks for nothing");
                collector.end().unwrap();
                continue;
            }
            assert!(!is_ready, "{name} became ready");
            let log = collector.process().log_text().unwrap();
            let lacked = format!("CAP_{}", capability.to_uppercase());
            assert!(log.contains(&lacked), "{name} does not say {lacked}: {log}");
        }
    }

    // Names alone need what the mode beside them does not.
    let rights = Rights::of(EBPF);
    for capability in &rights.capabilities {
        let less = rights.without(capability);
        let state = public.directory(&format!("dns-without-{capability}"));
        let mut command: Command = less.confine(&state, Some(&bpf.0));
        command.arg(&programs.collector).args(["check", "--ct-mode=netfilter", "--cgroup-dir", path]);
        command.arg("--ebpf-dns-tracer-enabled=true");
        let told = command.output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let line =
            told.lines().find(|line| line.starts_with("untraced: ")).unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains(&format!("CAP_{}", capability.to_uppercase())), "{line}");
    }
}
