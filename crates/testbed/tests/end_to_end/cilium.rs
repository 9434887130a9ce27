//! Rows without a direction, the whole way: from Cilium's maps to a series of their own, and not to the cost API.

use std::path::Path;

use egressd_testbed::cilium::{CtMap, MAP_DIR, Shape, from_elsewhere, mount_bpf};
use egressd_testbed::topology::pods_on;
use egressd_testbed::{Cluster, Daemon, HttpSink, Ingestion, Programs, TRANSMITTED, wait_for};

use crate::seconds;

const UNDIRECTED: &str = "egressd_undirected_bytes_total";
const COST_API_PORT: u16 = 8090;
const NODE: &str = "node-a";
const REMOTE: [u8; 4] = [203, 0, 113, 9];

/// A connection of `pod` that has so many bytes by now, both directions in one, as Cilium 1.18 writes it.
fn put(map: &CtMap, pod: [u8; 4], bytes: u64) {
    let key = [&pod[..], &REMOTE, &443u16.to_be_bytes(), &4000u16.to_be_bytes(), &[6, 0]].concat();
    let mut value = [0; 56];
    value[16..24].copy_from_slice(&(bytes / 100).to_ne_bytes());
    value[24..32].copy_from_slice(&bytes.to_ne_bytes());
    map.put(&key, &value).unwrap();
}

/// What a page of metrics says of one series name, added up.
fn sum(page: &str, name: &str) -> u64 {
    let of_name = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Goal: bytes whose direction nobody knows are exported as such, to the byte, under their pod's name; none becomes
/// transmit, and none reaches the cost API, whose sink says so.
#[test]
fn undirected_bytes_are_a_series_of_their_own() {
    mount_bpf().unwrap();
    let map = CtMap::pin(Path::new(MAP_DIR), "cilium_ct4_global", Shape::V4).unwrap();
    let pod = pods_on(NODE).next().unwrap();
    let address = pod.addresses.v4.octets();
    put(&map, address, 1_000_000);

    let cluster = Cluster::start().unwrap();
    let programs = Programs::beside_current_exe().unwrap();
    let cost_api = HttpSink::start(&cluster, COST_API_PORT).unwrap();
    let config = format!(
        "exportInterval: 1s\nsinks:\n  castai: {{ http: {{ url: '{}', compression: gzip }} }}\n",
        cost_api.url()
    );
    let mut exporter = Daemon::exporter(&cluster, &programs.exporter, &config, &[]).unwrap();
    exporter.wait_ready(seconds(30)).unwrap();
    let quiet = ["--cilium-socket=", "--cilium-state-dir=", "--cilium-layout", "combined"];
    let map_dir = from_elsewhere(MAP_DIR);
    let more = [&["--ct-mode", "cilium", "--cilium-map-dir", &map_dir], &quiet[..]].concat();
    let mut collector = Daemon::collector(&cluster, &programs.collector, NODE, &more).unwrap();
    collector.wait_ready(seconds(30)).unwrap();

    put(&map, address, 1_012_300);
    let flows = || exporter.get("/metrics/flows");
    wait_for("the undirected bytes", seconds(60), || {
        let page = flows()?;
        let told = sum(&page, UNDIRECTED);
        Ok(if told == 12_300 { Ok(()) } else { Err(format!("{told} of 12300")) })
    })
    .unwrap();
    let page = flows().unwrap();
    assert_eq!(sum(&page, TRANSMITTED), 0, "{page}");
    let line = page.lines().find(|line| line.starts_with(&format!("{UNDIRECTED}{{"))).unwrap();
    assert!(line.contains(&format!("src_pod=\"{}\"", pod.name)), "{line}");
    assert!(line.contains("dst_ip=\"203.0.113.9\""), "{line}");
    let nodes = exporter.get("/nodes").unwrap();
    assert!(
        nodes.contains("\"source\":\"cilium\"") && nodes.contains("layout combined by --cilium-layout"),
        "{nodes}"
    );

    collector.end().unwrap();
    exporter.end().unwrap();
    let told = exporter.process().log_text().unwrap();
    assert!(told.contains("traffic of unknown direction is kept from this sink"), "{told}");
    let mut ingestion = Ingestion::new(&cluster).unwrap();
    assert!(ingestion.flows(&cost_api).unwrap().0.is_empty());
}
