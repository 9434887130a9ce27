//! Our own programs and the DNS tracer with the chart's rights.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use egressd_testbed::topology::{CONTROL, NODES, SERVICE_PORT, pod_named};
use egressd_testbed::{
    COLLECTOR_HTTP_PORT, Cgroup, Class, Cluster, Comparison, EXPORTER_HTTP_PORT, Flows, Load, Programs,
    class_of, standard_plans, wait_for,
};

use super::EBPF;
use super::confined::{self, BpfDir, Public, Rights, check_kernels_word, start};
use crate::seconds;

/// The pod that answers DNS for the others.
const RESOLVER: &str = "store-1";
const NAME: &str = "www.example.com";

/// What the node does not translate: a pod sees a service by the service's address.
fn untranslated(flows: &Flows) -> Flows {
    let kept = flows.0.iter().filter(|(key, _)| !matches!(class_of(key), Class::ClusterIp | Class::Hairpin));
    Flows(kept.map(|(key, volume)| (key.clone(), *volume)).collect())
}

/// Goal: with the chart's rights and no others our own programs are loaded, attached and pinned, count every byte, and DNS
/// answers are traced meanwhile.
#[test]
fn ebpf_and_dns_are_exact_with_the_charts_rights() {
    let (cluster, programs, public) =
        (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap(), Public::new("ebpf"));
    let (bpf, cgroup) = (NODES.map(|node| BpfDir::new(node.name)), Cgroup::create("confined").unwrap());
    let inventory = public.write("inventory.yaml", &cluster.inventory());
    let command = confined::exporter(&programs.exporter, &inventory);
    let mut exporter = start(&cluster, CONTROL, "exporter", command, EXPORTER_HTTP_PORT);
    let rights = Rights::of(EBPF);
    assert!(rights.arguments.contains(&"--ebpf-dns-tracer-enabled=true".to_owned()));
    let path = cgroup.path().to_str().unwrap();
    let of_this_test = ["--ebpf-cgroup", path, "--cgroup-dir", path];
    let mut collectors = Vec::new();
    for (node, bpf) in const { &NODES }.iter().zip(&bpf) {
        let state = public.directory(node.name);
        let command = rights.collector(&programs.collector, node.name, &state, Some(&bpf.0), &of_this_test);
        let name = format!("collector-{}", node.name);
        let mut collector = start(&cluster, node.name, &name, command, COLLECTOR_HTTP_PORT);
        check_kernels_word(collector.process(), &rights.mask());
        assert!(bpf.0.join("egressd").is_dir(), "its programs are to outlive it");
        collectors.push(collector);
    }

    let testbed = programs.testbed.to_str().unwrap();
    let server = cgroup.inside(&[testbed, "dns", "www.example.com 300 A 203.0.113.10"]);
    let mut server = cluster.spawn(RESOLVER, "dns", server).unwrap();
    let resolver = SocketAddr::new(pod_named(RESOLVER).unwrap().addresses.both()[0], 53).to_string();
    wait_for("the server", seconds(10), || {
        let mut question = Command::new(testbed);
        question.args(["ask", &resolver, NAME]);
        Ok(cluster.run(RESOLVER, question).map(drop).map_err(|error| error.chain()))
    })
    .unwrap();
    let mut plans = standard_plans(None);
    plans.iter_mut().for_each(|(_, plan)| plan.items.retain(|item| item.to.port() != SERVICE_PORT));
    plans.retain(|(_, plan)| !plan.items.is_empty());
    let mut load =
        Load::start(&cluster, &cgroup.enterer(&cluster, &programs.testbed).unwrap(), &plans).unwrap();
    cluster.run("client-0", cgroup.inside(&[testbed, "ask", &resolver, NAME])).unwrap();
    server.check_running().unwrap();
    thread::sleep(seconds(6));
    load.check_running().unwrap();
    load.finish().unwrap();

    let mut compared = None;
    wait_for("equality of truth and the exporter's page", seconds(60), || {
        let truth = untranslated(&cluster.truth()?);
        let comparison = Comparison::of(&truth, &untranslated(&exporter.flows()?));
        compared = Some((truth.total(), comparison.difference_bytes()));
        Ok(if comparison.difference_bytes() == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    })
    .unwrap();
    println!("least privilege, ebpf: {:?}, truth and difference: {compared:?}", rights.capabilities);
    for collector in &collectors {
        let told = collector.metric("egressd_collector_names_told_total", &[]).unwrap();
        assert!(told >= Some(1), "{told:?} names");
    }
    for daemon in collectors.iter_mut().chain([&mut exporter]) {
        daemon.end().unwrap();
    }
}
