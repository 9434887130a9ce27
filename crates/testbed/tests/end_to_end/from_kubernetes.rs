//! The exporter that learns of its cluster from the Kubernetes API, while the API is away.

use std::thread;
use std::time::Duration;

use egressd_testbed::kubernetes::Resource;
use egressd_testbed::topology::{CONTROL, NODES, Node};
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cluster, Daemon, EXPORTER_HTTP_PORT, Flows, GRPC_PORT, Load, Programs, now,
    wait_for,
};

use crate::harness::gentle_plans;
use crate::lives::{READY_WITHIN, Stage, ghost, job, let_go_by, member, replica, settle, wait_known};
use crate::seconds;

/// A collector lets go of what nobody owns once a scope is a minute newer, and scopes come every 15 s.
const LET_GO_WITHIN: Duration = seconds(120);

fn metric(daemon: &Daemon<'_>, name: &str) -> u64 {
    daemon.metric(name, &[]).unwrap().unwrap_or_else(|| panic!("no {name}"))
}

fn lists(daemon: &Daemon<'_>) -> u64 {
    metric(daemon, "egressd_exporter_kubernetes_lists_total")
}

/// Goal: an API that is away when the exporter starts, and for a minute amid traffic, costs no byte and no name,
/// whatever pods end and begin meanwhile; afterwards the watches go on from where they were.
#[test]
fn an_api_that_is_away_for_a_minute_costs_nothing() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let mut stage = Stage::new(&cluster, &programs);
    stage.api.go_away();
    let mut daemons = stage.start_daemons(CONFIG_WITHOUT_SINKS);
    let not_ready = wait_for("an exporter that is not ready", READY_WITHIN, || {
        let answer = cluster.http_get(CONTROL, EXPORTER_HTTP_PORT, "/readyz");
        Ok(answer.map_err(|error| error.chain()).and_then(|answer| match answer.status {
            503 => Ok(answer.text()),
            status => Err(format!("{status}")),
        }))
    });
    assert!(not_ready.unwrap().contains("cluster: not ready"));
    stage.api.come_back().unwrap();
    for daemon in daemons.all_mut() {
        daemon.wait_ready(READY_WITHIN).unwrap();
    }

    let mut load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();
    let [old, set] = stage.begin([replica("api-1"), member(20)]);
    wait_known(&daemons, "shop/api-1");
    assert_eq!(lists(&daemons.exporter), 2);
    let known_until = metric(&daemons.exporter, "egressd_exporter_kubernetes_known_until_seconds");
    let away_until = now() + seconds(60);
    stage.api.go_away();

    // One comes and goes unseen; one is followed by another at its address, one by a namesake at another.
    let [brief] = stage.begin([job("report-1")]);
    thread::sleep(seconds(5));
    stage.complete(brief);
    stage.delete(old);
    stage.delete(set);
    let_go_by(&daemons);
    let [heir, set, late] = stage.begin([replica("api-2"), member(22), job("report-2")]);
    thread::sleep(away_until.saturating_duration_since(now()));
    daemons.check_running().unwrap();
    load.check_running().unwrap();
    let stood_still = metric(&daemons.exporter, "egressd_exporter_kubernetes_known_until_seconds");
    assert!(
        stood_still < known_until + 20,
        "{known_until} {stood_still}: it knows nothing new without the API"
    );
    stage.api.come_back().unwrap();
    wait_for("the watches to go on", READY_WITHIN, || {
        let open = [Resource::Pods, Resource::Nodes].map(|resource| stage.api.watches_open(resource));
        Ok(if open.iter().all(|&open| open > 0) { Ok(()) } else { Err(format!("{open:?}")) })
    })
    .unwrap();
    stage.delete(heir);
    stage.delete(set);
    stage.complete(late);
    load.finish().unwrap();

    let truth = cluster.truth().unwrap();
    settle(&daemons, &truth);
    assert_eq!(lists(&daemons.exporter), 2, "nothing was listed anew");
    println!("API away: {} flows, tx {} B, difference 0", truth.0.len(), truth.total().tx_bytes);
    daemons.end().unwrap();
}

/// Goal: when the API has forgotten what happened while it was away, a pod that began and ended meanwhile is unknown
/// and its bytes are counted so, at both ends and to the byte; nobody else's are touched, be it that a pod's end was
/// missed, that another has its address, or that one came to stay.
#[test]
fn pods_that_no_list_ever_showed_are_counted_as_unknown() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    cluster.leave_untracked(GRPC_PORT).unwrap();
    let mut stage = Stage::new(&cluster, &programs);
    let mut daemons = stage.start_daemons(CONFIG_WITHOUT_SINKS);
    for daemon in daemons.all_mut() {
        daemon.wait_ready(READY_WITHIN).unwrap();
    }
    let servers = Load::start(&cluster, &programs.testbed, &[]).unwrap();
    let [old, done] = stage.begin([replica("api-1"), job("report-1")]);
    wait_known(&daemons, "shop/api-1");

    stage.api.go_away();
    let [stranger] = stage.begin([ghost()]);
    let name = stranger.plan().qualified_name();
    thread::sleep(seconds(5));
    stage.delete(stranger);
    stage.delete(old);
    stage.delete(done);
    let_go_by(&daemons);
    // Nobody knows when the old one ended but that it was before the new one's start: what is read over that moment may
    // be either's.
    let [mut heir, mut set] = stage.prepare([replica("api-2"), member(20)]);
    let_go_by(&daemons);
    for life in [&mut heir, &mut set] {
        life.speak().unwrap();
        life.report(&stage.api).unwrap();
    }
    thread::sleep(seconds(3));
    stage.api.compact();
    stage.api.come_back().unwrap();
    wait_for("new lists", READY_WITHIN, || {
        let lists = lists(&daemons.exporter);
        Ok(if lists == 4 { Ok(()) } else { Err(lists.to_string()) })
    })
    .unwrap();
    stage.delete(heir);
    stage.delete(set);
    servers.finish().unwrap();

    let truth = cluster.truth().unwrap();
    let known = without(&truth, &name);
    settle(&daemons, &known);
    let nameless = known.0.iter().filter(|(key, _)| key.remote_pod.is_none());
    let unknown: u64 = nameless.map(|(_, volume)| volume.tx_bytes + volume.rx_bytes).sum();
    for (reason, bytes) in [("unknown", unknown), ("ambiguous", 0), ("folded", 0)] {
        let name = "egressd_exporter_enrich_unattributed_bytes_total";
        assert_eq!(daemons.exporter.metric(name, &[("reason", reason)]).unwrap(), Some(bytes), "{reason}");
    }

    let own = truth.0.iter().filter(|(key, _)| key.pod == name);
    let own: u64 = own.map(|(_, volume)| volume.tx_bytes + volume.rx_bytes).sum();
    assert!(unknown > 10_000 && own > 10_000, "{unknown} {own}");
    for node in &NODES {
        check_let_go(daemons.collector(node.name).unwrap(), node, &truth, &name);
    }
    println!(
        "410: {} flows, tx {} B, difference 0; {own} B of a stranger's own and {unknown} B with it are unknown",
        known.0.len(),
        known.total().tx_bytes
    );
    daemons.end().unwrap();
}

/// The truth for those who never heard of `stranger`.
fn without(truth: &Flows, stranger: &str) -> Flows {
    let mut known = Flows::default();
    for (key, volume) in truth.0.iter().filter(|(key, _)| key.pod != stranger) {
        let remote_pod = key.remote_pod.clone().filter(|pod| pod != stranger);
        known.add(egressd_testbed::FlowKey { remote_pod, ..key.clone() }, *volume);
    }
    known
}

/// Every byte of ends that no pod of the node is known to be was let go as not local, and nothing else.
fn check_let_go(collector: &Daemon<'_>, node: &Node, truth: &Flows, stranger: &str) {
    let is_here = |address| (0..=u8::MAX).any(|host| node.pod_addresses(host).contains(address));
    let mut expected = 0;
    for (key, volume) in &truth.of_node(node.name).0 {
        let ends = u64::from(key.pod == stranger) + u64::from(!is_here(key.remote));
        expected += ends * (volume.tx_bytes + volume.rx_bytes);
    }
    wait_for("what nobody owns to be let go", LET_GO_WITHIN, || {
        let held = metric(collector, "egressd_collector_meter_held_bytes");
        Ok(if held == 0 { Ok(()) } else { Err(format!("{held} B held")) })
    })
    .unwrap();
    let discarded = "egressd_collector_meter_discarded_bytes_total";
    assert_eq!(collector.metric(discarded, &[]).unwrap(), Some(expected), "{}", node.name);
    assert_eq!(collector.metric(discarded, &[("reason", "not_local")]).unwrap(), Some(expected));
}
