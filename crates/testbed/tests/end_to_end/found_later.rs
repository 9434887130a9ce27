//! Cilium that comes after the collector: after a reboot nobody says who is first.

use std::fs;
use std::path::PathBuf;

use egressd_testbed::cilium::{CtMap, Shape};
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cluster, Comparison, Daemon, Load, Programs, init_nodes, standard_plans, wait_for,
};

use crate::seconds;

const NODE: &str = "node-a";

/// A place for pins on the machine's BPF file system; gone when dropped.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Goal: a collector that found no map of Cilium's reads netfilter, goes on with it where maps come that cannot be read, and
/// says so; once they can be, it ends well with every byte handed over, and the next one reads them and stays.
#[test]
fn maps_that_come_later_are_read() {
    let pins = Pins(format!("/sys/fs/bpf/egressd-later-{}", std::process::id()).into());
    let directory = pins.0.join("tc/globals");
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    init_nodes(&cluster, &programs.collector).unwrap();
    let mut exporter = Daemon::exporter(&cluster, &programs.exporter, CONFIG_WITHOUT_SINKS, &[]).unwrap();
    let flags = [
        ["--ct-mode", ""],
        ["--cilium-map-dir", directory.to_str().unwrap()],
        ["--cilium-socket", ""],
        ["--cilium-state-dir", ""],
        ["--cilium-layout", "directional"],
    ];
    let start = || {
        let mut collector =
            Daemon::collector(&cluster, &programs.collector, NODE, flags.as_flattened()).unwrap();
        collector.wait_ready(seconds(30)).unwrap();
        collector
    };
    let mut collector = start();
    exporter.wait_ready(seconds(30)).unwrap();
    let mut plans = standard_plans(None);
    plans.retain(|(pod, _)| egressd_testbed::topology::pod_named(pod).unwrap().node == NODE);
    let load = Load::start(&cluster, &programs.testbed, &plans).unwrap();

    fs::create_dir_all(&directory).unwrap();
    let broken = directory.join("cilium_ct4_global");
    std::os::unix::fs::symlink(&broken, &broken).unwrap();
    wait_for("the finding", seconds(30), || {
        let found = collector.metric("egressd_collector_diagnosis", &[("finding", "unread_maps")])?;
        Ok(if found == Some(1) { Ok(()) } else { Err(format!("{found:?}")) })
    })
    .unwrap();
    collector.check_running().unwrap();
    load.finish().unwrap();
    fs::remove_file(&broken).unwrap();

    let _map = CtMap::pin(&directory, "cilium_ct4_global", Shape::V4).unwrap();
    let mut status = None;
    wait_for("the collector's end", seconds(30), || {
        status = collector.process().ended()?;
        Ok(if status.is_some() { Ok(()) } else { Err("it runs".to_owned()) })
    })
    .unwrap();
    assert!(status.unwrap().success(), "{}", collector.process().log_tail());
    let mut own = cluster.truth().unwrap();
    own.0.retain(|key, _| key.node == NODE);
    wait_for("every byte", seconds(30), || {
        let comparison = Comparison::of(&own, &exporter.flows()?);
        Ok(if comparison.difference_bytes() == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    })
    .unwrap();
    println!("found later: {:?}, difference 0 B", own.total());

    let mut next = start();
    let log = next.process().log_text().unwrap();
    assert!(log.contains("ending, so that the next process reads what is there by now"), "{log}");
    assert!(log.contains("source=\"cilium\"") || log.contains("source=cilium"), "{log}");
    wait_for("more reads than a look for another source takes", seconds(30), || {
        let reads = next.metric("egressd_collector_conntrack_snapshots_total", &[])?;
        Ok(if reads >= Some(12) { Ok(()) } else { Err(format!("{reads:?}")) })
    })
    .unwrap();
    next.check_running().unwrap();
    for daemon in [&mut next, &mut exporter] {
        daemon.end().unwrap();
    }
}
