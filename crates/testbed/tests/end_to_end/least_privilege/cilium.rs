//! Cilium's maps with the chart's rights.

use std::fs;
use std::net::IpAddr;

use egressd_testbed::cilium::{Agent, CtMap, Shape};
use egressd_testbed::topology::{CONTROL, pods_on};
use egressd_testbed::{
    COLLECTOR_HTTP_PORT, Cluster, Comparison, EXPORTER_HTTP_PORT, FlowKey, Flows, Programs, Volume, wait_for,
};

use super::CILIUM;
use super::confined::{self, BpfDir, Public, Rights, check_kernels_word, start};
use crate::seconds;

const NODE: &str = "node-a";
const OUT: u8 = 0;
const IN: u8 = 1;

/// A connection of an endpoint, as a row of a map: who opened it decides which way the key is written.
struct Connection {
    map: usize,
    flags: u8,
    protocol: u8,
    local: IpAddr,
    remote: IpAddr,
}

impl Connection {
    /// As Cilium up to 1.15 writes it: received at 0, sent at 16.
    fn put(&self, maps: &[CtMap], sent: u64, received: u64) {
        let (opener, peer) =
            if self.flags == OUT { (self.local, self.remote) } else { (self.remote, self.local) };
        let mut key = Vec::new();
        for address in [opener, peer] {
            match address {
                IpAddr::V4(address) => key.extend(address.octets()),
                IpAddr::V6(address) => key.extend(address.octets()),
            }
        }
        key.extend([443u16.to_be_bytes(), 4000u16.to_be_bytes()].concat());
        key.extend([self.protocol, self.flags]);
        let mut value = [0; 56];
        for (at, number) in [received / 100, received, sent / 100, sent].into_iter().enumerate() {
            value[at * 8..][..8].copy_from_slice(&number.to_ne_bytes());
        }
        maps[self.map].put(&key, &value).unwrap();
    }
}

/// Goal: with the chart's rights and no others the collector finds Cilium's maps at their place, asks its agent, and counts
/// every byte of them each way; a map of a cluster of the mesh, which these rights do not open, is told beside that.
#[test]
fn cilium_is_exact_with_the_charts_rights() {
    let (cluster, programs, public) =
        (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap(), Public::new("cilium"));
    let bpf = BpfDir::new("cilium");
    let globals = bpf.0.join("tc/globals");
    fs::create_dir_all(&globals).unwrap();
    let maps = [
        ("cilium_ct4_global", Shape::V4),
        ("cilium_ct_any4_global", Shape::V4),
        ("cilium_ct6_global", Shape::V6),
    ]
    .map(|(name, shape)| CtMap::pin(&globals, name, shape).unwrap());
    let inner = CtMap::unpinned(Shape::V4).unwrap();
    let _mesh = CtMap::pin_array(&globals, "cilium_per_cluster_ct_tcp4", &[&inner]).unwrap();
    let socket = public.directory("agent").join("cilium.sock");
    let _agent = Agent::start(&socket, "1.15.7", true).unwrap();

    let pods: Vec<_> = pods_on(NODE).collect();
    let internet: [IpAddr; 2] = ["203.0.113.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
    let [first, second] = [&pods[0], &pods[1]].map(|pod| pod.addresses.both());
    let connections = [
        (0, OUT, 6, first[0], internet[0]),
        (0, IN, 6, second[0], first[0]),
        (0, OUT, 6, first[0], second[0]),
        (1, OUT, 17, first[0], internet[0]),
        (2, OUT, 6, second[1], internet[1]),
        (2, IN, 6, first[1], internet[1]),
    ];
    let connections = connections.map(|(map, flags, protocol, local, remote)| Connection {
        map,
        flags,
        protocol,
        local,
        remote,
    });
    connections.iter().for_each(|connection| connection.put(&maps, 1_000_000, 2_000_000));

    let inventory = public.write("inventory.yaml", &cluster.inventory());
    let command = confined::exporter(&programs.exporter, &inventory);
    let mut exporter = start(&cluster, CONTROL, "exporter", command, EXPORTER_HTTP_PORT);
    let rights = Rights::of(CILIUM);
    let state = public.directory("state");
    let by_agent = ["--cilium-socket", socket.to_str().unwrap()];
    let command = rights.collector(&programs.collector, NODE, &state, Some(&bpf.0), &by_agent);
    let mut collector = start(&cluster, NODE, "collector", command, COLLECTOR_HTTP_PORT);
    check_kernels_word(collector.process(), &rights.mask());

    let mut truth = Flows::default();
    for (number, connection) in (1u64..).zip(&connections) {
        let Connection { local, remote, protocol, .. } = *connection;
        let (tx_bytes, rx_bytes) = (number * 1_000, number * 70_000);
        connection.put(&maps, 1_000_000 + tx_bytes, 2_000_000 + rx_bytes);
        let pod = pods.iter().find(|pod| pod.addresses.contains(local)).unwrap();
        let volume = Volume { tx_bytes, rx_bytes, ..Volume::default() };
        *truth.0.entry(FlowKey::of(pod, local, remote, protocol)).or_default() += volume;
    }
    let mut compared = None;
    wait_for("equality of the maps and the exporter's page", seconds(60), || {
        let comparison = Comparison::of(&truth, &exporter.flows()?);
        compared = Some((truth.total(), comparison.difference_bytes()));
        Ok(if comparison.difference_bytes() == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    })
    .unwrap();
    println!("least privilege, cilium: {:?}, truth and difference: {compared:?}", rights.capabilities);
    let told = collector.metric("egressd_collector_diagnosis", &[("finding", "unopened_maps")]).unwrap();
    assert_eq!(told, Some(1));
    for daemon in [&mut collector, &mut exporter] {
        daemon.end().unwrap();
    }
}
