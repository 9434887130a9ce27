//! Netfilter's connection tracking with the chart's rights: the mode named, and found.

use std::thread;

use egressd_testbed::topology::{CONTROL, NODES};
use egressd_testbed::{
    COLLECTOR_HTTP_PORT, Cluster, Comparison, EXPORTER_HTTP_PORT, Load, Programs, init_nodes, standard_plans,
    wait_for,
};

use super::confined::{self, BpfDir, Public, Rights, check_kernels_word, start};
use super::{DETECTED, NETFILTER};
use crate::seconds;

/// Goal: with the chart's rights and no others, both daemons measure every byte, one collector with its mode named and one
/// that has to find it; the kernel says that they have no more.
#[test]
fn netfilter_is_exact_with_the_charts_rights() {
    let (cluster, programs, public) =
        (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap(), Public::new("netfilter"));
    let without_cilium = BpfDir::new("netfilter");
    init_nodes(&cluster, &programs.collector).unwrap();
    let inventory = public.write("inventory.yaml", &cluster.inventory());
    let command = confined::exporter(&programs.exporter, &inventory);
    let mut exporter = start(&cluster, CONTROL, "exporter", command, EXPORTER_HTTP_PORT);
    let rights = [NETFILTER, DETECTED].map(Rights::of);
    let collect = |(node, rights): (&'static egressd_testbed::topology::Node, &Rights)| {
        let (state, bpf) = (public.directory(node.name), Some(without_cilium.0.as_path()));
        let command = rights.collector(&programs.collector, node.name, &state, bpf, &[]);
        start(&cluster, node.name, &format!("collector-{}", node.name), command, COLLECTOR_HTTP_PORT)
    };
    let mut collectors: Vec<_> = const { &NODES }.iter().zip(&rights).map(collect).collect();
    for (collector, rights) in collectors.iter_mut().zip(&rights) {
        check_kernels_word(collector.process(), &rights.mask());
        assert!(collector.process().log_text().unwrap().contains("netfilter"));
    }
    check_kernels_word(exporter.process(), &"0".repeat(16));

    let mut load = Load::start(&cluster, &programs.testbed, &standard_plans(None)).unwrap();
    thread::sleep(seconds(8));
    load.check_running().unwrap();
    load.finish().unwrap();
    let mut compared = None;
    wait_for("equality of truth and the exporter's page", seconds(60), || {
        let truth = cluster.truth()?;
        let comparison = Comparison::of(&truth, &exporter.flows()?);
        // The page tells bytes alone.
        let apart = comparison.difference_bytes();
        compared = Some((truth.total(), apart));
        Ok(if apart == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    })
    .unwrap();
    let capabilities = rights.map(|rights| rights.capabilities);
    println!("least privilege, netfilter: {capabilities:?}, truth and difference: {compared:?}");
    for daemon in collectors.iter_mut().chain([&mut exporter]) {
        daemon.end().unwrap();
    }
}
