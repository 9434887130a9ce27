//! Both daemons by their own eBPF counters, against what nft counted: exact without a tracked connection, and over a
//! collector that is killed amid the traffic.
//!
//! Needs root, `ip`, `nft`, cgroup v2, a BPF file system, and the daemons beside the test executable. Pods run in a cgroup
//! of the test's own, and only that is counted: at the root the programs see every cluster that a machine tests at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use egressd_testbed::topology::NODES;
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cgroup, Class, Cluster, Comparison, Daemon, Daemons, Error, Flows, Load,
};
use egressd_testbed::{Programs, class_of, standard_plans, wait_for};

const READY_WITHIN: Duration = Duration::from_secs(30);
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
/// While traffic goes on and nobody reads.
const DOWN: Duration = Duration::from_secs(2);

/// A cgroup, and a place for pins that goes with this.
struct Scratch {
    cgroup: Cgroup,
    pins: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let pins = Path::new("/sys/fs/bpf").join(format!("egressd-testbed-{}", std::process::id()));
        Self { cgroup: Cgroup::create("ebpf").unwrap(), pins }
    }

    fn collector<'c>(&self, cluster: &'c Cluster, programs: &Programs, node: &'static str) -> Daemon<'c> {
        let [state, pins] = [cluster.directory().join(format!("state-{node}")), self.pins.join(node)];
        let [cgroup, state, pins] = [self.cgroup.path(), &state, &pins].map(|path| path.to_str().unwrap());
        let flags =
            ["--ct-mode", "ebpf", "--ebpf-cgroup", cgroup, "--ebpf-pin-dir", pins, "--state-dir", state];
        let mut collector = Daemon::collector(cluster, &programs.collector, node, &flags).unwrap();
        collector.wait_ready(READY_WITHIN).unwrap();
        collector
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.pins));
    }
}

/// What the node does not translate: a pod sees a service by the service's address.
fn untranslated(flows: &Flows) -> Flows {
    let kept = flows.0.iter().filter(|(key, _)| !matches!(class_of(key), Class::ClusterIp | Class::Hairpin));
    Flows(kept.map(|(key, volume)| (key.clone(), *volume)).collect())
}

/// Goal: TCP and UDP, IPv4 and IPv6, short and long, to pods of the same node and of another, to a node and to the
/// internet: every byte arrives under its name, once, though the kernel tracks nothing and one collector is killed amid
/// it and started again two seconds later.
#[test]
fn every_byte_is_counted_by_our_own_programs() {
    let cluster = Cluster::start().unwrap();
    let scratch = Scratch::new();
    let programs = Programs::beside_current_exe().unwrap();
    let mut exporter = Daemon::exporter(&cluster, &programs.exporter, CONFIG_WITHOUT_SINKS, &[]).unwrap();
    exporter.wait_ready(READY_WITHIN).unwrap();
    let collectors = const { &NODES }.iter().map(|node| scratch.collector(&cluster, &programs, node.name));
    let mut daemons = Daemons { exporter, collectors: collectors.collect() };

    let mut plans = standard_plans(None);
    for (_, plan) in &mut plans {
        plan.items.retain(|item| item.to.port() != egressd_testbed::topology::SERVICE_PORT);
    }
    plans.retain(|(_, plan)| !plan.items.is_empty());
    let load =
        Load::start(&cluster, &scratch.cgroup.enterer(&cluster, &programs.testbed).unwrap(), &plans).unwrap();
    thread::sleep(Duration::from_secs(6));
    daemons.collectors[0].process().kill().unwrap();
    thread::sleep(DOWN);
    daemons.collectors[0] = scratch.collector(&cluster, &programs, NODES[0].name);
    let log = daemons.collectors[0].process().log_text().unwrap();
    assert!(log.contains("going on from a checkpoint"), "{log}");
    assert!(log.contains("going on with tables that a process before left"), "{log}");
    thread::sleep(Duration::from_secs(4));
    load.finish().unwrap();

    let compared = || -> Result<Comparison, Error> {
        Ok(Comparison::of(&untranslated(&cluster.truth()?), &untranslated(&daemons.exporter.flows()?)))
    };
    wait_for("equality of truth and the exporter's page", SETTLED_WITHIN, || {
        thread::sleep(Duration::from_millis(500));
        let comparison = compared()?;
        let rows: Vec<_> = comparison.rows.iter().filter(|row| row.difference_bytes() > 0).collect();
        Ok(if rows.is_empty() { Ok(()) } else { Err(format!("{rows:#?}")) })
    })
    .unwrap();
    let rows = compared().unwrap().rows;
    let classes = [Class::SameNode, Class::CrossZone, Class::Node, Class::Internet];
    for class in classes {
        for protocol in [6, 17] {
            for is_ipv6 in [false, true] {
                let of = |row: &&egressd_testbed::Row| {
                    class_of(&row.key) == class
                        && row.key.protocol == protocol
                        && row.key.local.is_ipv6() == is_ipv6
                };
                assert!(rows.iter().any(|row| of(&row)), "{class} {protocol} IPv6: {is_ipv6}");
            }
        }
    }
    let full = [("reason", "table_full")];
    for collector in &daemons.collectors {
        let lost = collector.metric("egressd_collector_conntrack_uncounted_bytes_total", &full).unwrap();
        assert_eq!(lost, Some(0));
    }
    daemons.end().unwrap();
}
