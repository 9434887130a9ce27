//! The exporter that learns of its cluster from the Kubernetes API, on real traffic.

use std::thread;
use std::time::Duration;

use egressd_testbed::kubernetes::{Access, KubernetesApi, Pod, Resource};
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cluster, Comparison, Daemon, Daemons, EXPORTER_HTTP_PORT, Load, Programs,
    init_nodes, wait_for,
};

use egressd_testbed::topology::{CONTROL, NODES};

use crate::harness::gentle_plans;
use crate::seconds;

const API_PORT: u16 = 6443;
const READY_WITHIN: Duration = seconds(60);
const SETTLED_WITHIN: Duration = seconds(60);

fn metric(daemon: &Daemon<'_>, name: &str) -> u64 {
    daemon.metric(name, &[]).unwrap().unwrap_or_else(|| panic!("no {name}"))
}

/// Goal: an API that is away when the exporter starts, and for a minute amid traffic, costs no byte and no name, and
/// afterwards the watches go on from where they were.
#[test]
fn an_api_that_is_away_for_a_minute_costs_nothing() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let access = Access::Secure { token: "token-of-the-test".to_owned() };
    let mut api = KubernetesApi::start(&cluster, API_PORT, access).unwrap();
    for object in cluster.kubernetes_objects() {
        api.apply(object).unwrap();
    }
    let kubeconfig = api.write_kubeconfig(&cluster).unwrap();
    api.go_away();
    init_nodes(&cluster, &programs.collector).unwrap();
    let exporter =
        Daemon::exporter_by_kubeconfig(&cluster, &programs.exporter, CONFIG_WITHOUT_SINKS, kubeconfig)
            .unwrap();
    let start = |node: &'static str| Daemon::collector(&cluster, &programs.collector, node, &[]).unwrap();
    let collectors = NODES.iter().map(|node| start(node.name)).collect();
    let mut daemons = Daemons { exporter, collectors };
    let not_ready = wait_for("an exporter that is not ready", READY_WITHIN, || {
        let answer = cluster.http_get(CONTROL, EXPORTER_HTTP_PORT, "/readyz");
        Ok(answer.map_err(|error| error.chain()).and_then(|answer| match answer.status {
            503 => Ok(answer.text()),
            status => Err(format!("{status}")),
        }))
    });
    assert!(not_ready.unwrap().contains("cluster: not ready"));
    api.come_back().unwrap();
    for daemon in daemons.all_mut() {
        daemon.wait_ready(READY_WITHIN).unwrap();
    }

    let mut load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();
    thread::sleep(seconds(5));
    assert_eq!(metric(&daemons.exporter, "egressd_exporter_kubernetes_lists_total"), 2);
    let known_until = metric(&daemons.exporter, "egressd_exporter_kubernetes_known_until_seconds");
    api.go_away();
    thread::sleep(seconds(60));
    daemons.check_running().unwrap();
    load.check_running().unwrap();
    let stood_still = metric(&daemons.exporter, "egressd_exporter_kubernetes_known_until_seconds");
    assert!(
        stood_still < known_until + 20,
        "{known_until} {stood_still}: it knows nothing new without the API"
    );
    api.come_back().unwrap();
    api.apply(Pod::new("shop", "late")).unwrap();
    wait_for("the watches to go on", READY_WITHIN, || {
        let open = [Resource::Pods, Resource::Nodes].map(|resource| api.watches_open(resource));
        Ok(if open.iter().all(|&open| open > 0) { Ok(()) } else { Err(format!("{open:?}")) })
    })
    .unwrap();
    load.finish().unwrap();

    let truth = cluster.truth().unwrap();
    let settled = wait_for("every byte under its name", SETTLED_WITHIN, || {
        let comparison = Comparison::of(&truth, &daemons.exporter.flows()?);
        Ok(if comparison.difference_bytes() == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    });
    settled.unwrap_or_else(|error| panic!("{error:?}\n{}", daemons.log_tails()));
    assert!(truth.total().tx_bytes > 1_000_000, "{:?}", truth.total());
    assert_eq!(
        metric(&daemons.exporter, "egressd_exporter_kubernetes_lists_total"),
        2,
        "nothing was listed anew"
    );
    println!("kubernetes: tx {} B, difference 0", truth.total().tx_bytes);
    daemons.end().unwrap();
}
