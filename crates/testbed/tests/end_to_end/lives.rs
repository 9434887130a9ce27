//! Pods that come, die and come again under traffic, by the Kubernetes API's word.

use std::thread;
use std::time::Duration;

use egressd_testbed::kubernetes::{Access, KubernetesApi, Resource, Workload};
use egressd_testbed::topology::{Pair, node_named, pod_named};
use egressd_testbed::{
    Cluster, Comparison, Daemon, Daemons, Flows, Life, LifePlan, Load, Programs, Series, Store, flows_by,
    init_nodes, wait_for,
};
use serde_json::json;

use crate::harness::{ALL_SAMPLES, LOSSES, gentle_plans};
use crate::seconds;

const API_PORT: u16 = 6443;
pub(crate) const READY_WITHIN: Duration = seconds(60);
const SETTLED_WITHIN: Duration = seconds(60);
/// From what happens on a node until the API knows: the kubelet looks once a second.
const KUBELET: Duration = Duration::from_millis(1_200);

fn at(node: &str, host: u8) -> Pair {
    node_named(node).unwrap().pod_addresses(host)
}

pub(crate) fn job(name: &'static str) -> LifePlan {
    let (node, workload) = ("node-a", Workload::Job(name.to_owned()));
    LifePlan { namespace: "jobs", name, node, addresses: at(node, 20), workload }
}

pub(crate) fn replica(name: &'static str) -> LifePlan {
    let (node, workload) = ("node-a", Workload::Deployment("api".to_owned()));
    LifePlan { namespace: "shop", name, node, addresses: at(node, 21), workload }
}

pub(crate) fn member(host: u8) -> LifePlan {
    let (node, workload) = ("node-b", Workload::StatefulSet("db".to_owned()));
    LifePlan { namespace: "data", name: "db-0", node, addresses: at(node, host), workload }
}

pub(crate) fn ghost() -> LifePlan {
    let (node, workload) = ("node-a", Workload::Job("ghost".to_owned()));
    LifePlan { namespace: "jobs", name: "ghost", node, addresses: at(node, 30), workload }
}

/// What lives are led on.
pub(crate) struct Stage<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) programs: &'c Programs,
    pub(crate) api: KubernetesApi,
}

impl<'c> Stage<'c> {
    /// An API that knows the planned pods.
    pub(crate) fn new(cluster: &'c Cluster, programs: &'c Programs) -> Self {
        let access = Access::Secure { token: "token-of-the-test".to_owned() };
        let api = KubernetesApi::start(cluster, API_PORT, access).unwrap();
        for object in cluster.kubernetes_objects() {
            api.apply(object).unwrap();
        }
        Self { cluster, programs, api }
    }

    /// The daemons, ready, with the exporter's configuration.
    fn daemons(&self, config: &str) -> Daemons<'c> {
        let mut daemons = self.start_daemons(config);
        for daemon in daemons.all_mut() {
            daemon.wait_ready(READY_WITHIN).unwrap();
        }
        daemons
    }

    /// The daemons, as soon as they run.
    pub(crate) fn start_daemons(&self, config: &str) -> Daemons<'c> {
        let Self { cluster, programs, api } = self;
        init_nodes(cluster, &programs.collector).unwrap();
        let kubeconfig = api.write_kubeconfig(cluster).unwrap();
        let exporter =
            Daemon::exporter_by_kubeconfig(cluster, &programs.exporter, config, kubeconfig).unwrap();
        let start = |node| Daemon::collector(cluster, &programs.collector, node, &[]).unwrap();
        Daemons { exporter, collectors: ["node-a", "node-b"].map(start).into() }
    }

    /// Begins lives, each in conversation with a planned pod of either node, and lets the kubelet tell of them.
    pub(crate) fn begin<const N: usize>(&self, plans: [LifePlan; N]) -> [Life<'c>; N] {
        let mut lives = self.prepare(plans);
        lives.iter_mut().for_each(|life| life.speak().unwrap());
        thread::sleep(KUBELET);
        lives.iter().for_each(|life| life.report(&self.api).unwrap());
        lives
    }

    /// The same up to where they speak: started by the kubelet, and their programs not yet up.
    pub(crate) fn prepare<const N: usize>(&self, plans: [LifePlan; N]) -> [Life<'c>; N] {
        plans.map(|plan| {
            let mut life = Life::begin(self.cluster, &self.programs.testbed, &self.api, &plan).unwrap();
            for peer in ["client-0", "store-1"] {
                let addresses = pod_named(peer).unwrap().addresses;
                life.converse(self.cluster.namespace(peer).unwrap(), addresses).unwrap();
            }
            life
        })
    }

    /// A Job's pod is done; its object stays.
    pub(crate) fn complete(&self, mut life: Life<'c>) {
        check_truth(&life.end(0).unwrap(), life.plan());
        thread::sleep(KUBELET);
        life.report(&self.api).unwrap();
    }

    /// A pod is deleted, and has the time to end.
    pub(crate) fn delete(&self, mut life: Life<'c>) {
        life.ask_to_end(&self.api).unwrap();
        check_truth(&life.end(0).unwrap(), life.plan());
        thread::sleep(KUBELET);
        life.report(&self.api).unwrap();
        life.delete(&self.api).unwrap();
    }

    /// A pod is gone, and nobody says when its container ended.
    pub(crate) fn lose(&self, mut life: Life<'c>) {
        check_truth(&life.end(137).unwrap(), life.plan());
        life.delete(&self.api).unwrap();
    }
}

/// An incarnation of which nothing went over the wire, either way, with either peer, proves nothing.
fn check_truth(truth: &Flows, plan: &LifePlan) {
    let own = truth.0.iter().filter(|(key, _)| key.pod == plan.qualified_name());
    let own: Flows = Flows(own.map(|(key, volume)| (key.clone(), *volume)).collect());
    let total = own.total();
    assert!(own.0.len() >= 8 && total.tx_bytes > 10_000 && total.rx_bytes > 10_000, "{plan:?} {own:?}");
}

/// Until both collectors have read conntrack since what happened last, and the second that the API writes down is over:
/// then what happens next is in no batch with it.
pub(crate) fn let_go_by(daemons: &Daemons<'_>) {
    thread::sleep(seconds(1));
    let reads = |collector: &Daemon<'_>| {
        let reads = collector.metric("egressd_collector_conntrack_read_seconds_count", &[]);
        reads.unwrap().unwrap()
    };
    for collector in &daemons.collectors {
        // The one that is under way may have begun before, and the next is whole when the one after it is done.
        let enough = reads(collector) + 3;
        wait_for("reads of conntrack", SETTLED_WITHIN, || {
            let reads = reads(collector);
            Ok(if reads >= enough { Ok(()) } else { Err(reads.to_string()) })
        })
        .unwrap();
    }
}

/// The flows that differ.
fn differences(truth: &Flows, exported: &Flows) -> Vec<String> {
    let comparison = Comparison::of(truth, exported);
    let differing = comparison.rows.iter().filter(|row| row.difference_bytes() > 0);
    differing
        .map(|row| {
            format!(
                "{} ({:?}): truth {:?}, exported {:?}",
                row.key, row.key.remote_pod, row.truth, row.exported
            )
        })
        .collect()
}

/// Waits until the exporter says the truth about every flow.
pub(crate) fn settle(daemons: &Daemons<'_>, truth: &Flows) {
    let settled = wait_for("every byte under its name", SETTLED_WITHIN, || {
        let differences = differences(truth, &daemons.exporter.flows()?);
        Ok(if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) })
    });
    settled.unwrap_or_else(|error| panic!("{error:?}\n{}", daemons.log_tails()));
    for (collector, lost) in daemons.collectors.iter().flat_map(|one| LOSSES.map(|lost| (one, lost))) {
        assert_eq!(collector.metric(lost, &[]).unwrap(), Some(0), "{lost}");
    }
}

/// Waits until some bytes of a pod's own are exported under its name: then its collector knows it.
pub(crate) fn wait_known(daemons: &Daemons<'_>, pod: &str) {
    wait_for("a pod's first bytes under its name", SETTLED_WITHIN, || {
        let flows = daemons.exporter.flows()?;
        let is_there = flows.0.keys().any(|key| key.pod == pod);
        Ok(if is_there { Ok(()) } else { Err(format!("none of {pod}")) })
    })
    .unwrap();
}

/// Goal: pods that end, complete and begin again, at addresses that others had seconds before, each get what went
/// over their wire, sent and received, in the totals that are scraped and in those that are written.
#[test]
fn pods_that_come_and_go_get_their_own_bytes() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let stage = Stage::new(&cluster, &programs);
    let prometheus = Store::prometheus(&cluster).unwrap();
    let config = format!(
        "exportInterval: 2s\nsinks:\n  prom:\n    prom_remote_write:\n      url: \"{}\"\n      \
         sendReceivedBytesMetric: true\n",
        prometheus.write_url()
    );
    let mut daemons = stage.daemons(&config);
    let load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();

    let [mut done, set, old] = stage.begin([job("report-1"), member(20), replica("api-1")]);
    done.converse(set.network().unwrap(), set.plan().addresses).unwrap();
    done.speak().unwrap();
    thread::sleep(seconds(5));
    stage.complete(done);
    stage.delete(set);
    stage.lose(old);

    // The address of a completed pod that is still listed, one of a namesake, one of a pod that nobody saw end.
    let_go_by(&daemons);
    let [done, set, new] = stage.begin([job("report-2"), member(20), replica("api-2")]);
    let touch = json!({ "metadata": { "labels": { "touched": "yes" } } });
    stage.api.patch(Resource::Pods, "jobs", "report-1", &touch).unwrap();
    thread::sleep(seconds(5));
    stage.delete(set);
    stage.complete(done);

    // A namesake at another address meanwhile.
    let [set] = stage.begin([member(22)]);
    let_go_by(&daemons);
    let [done] = stage.begin([job("report-3")]);
    thread::sleep(seconds(5));
    stage.delete(new);
    stage.delete(set);
    stage.complete(done);
    load.finish().unwrap();
    daemons.check_running().unwrap();

    let truth = cluster.truth().unwrap();
    settle(&daemons, &truth);
    wait_for("the same in Prometheus", SETTLED_WITHIN, || {
        let written = flows_by(Series::last_value, &prometheus.series(ALL_SAMPLES, None)?)?;
        let differences = differences(&truth, &written);
        Ok(if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) })
    })
    .unwrap();
    println!("lives: {} flows, tx {} B, difference 0", truth.0.len(), truth.total().tx_bytes);
    daemons.end().unwrap();
}
