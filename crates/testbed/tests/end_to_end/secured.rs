//! The stream over TLS and with tokens amid traffic, while certificates, the authority behind them and tokens change.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use egressd_testbed::kubernetes::{Pod, Token, seconds_ago};
use egressd_testbed::topology::{CONTROL, NODES, Node};
use egressd_testbed::{
    Authority, CONFIG_WITHOUT_SINKS, Cluster, Daemon, Daemons, EXPORTER_HTTP_PORT, GRPC_PORT, Load, Programs,
    init_nodes, wait_for,
};

use crate::harness::gentle_plans;
use crate::lives::{READY_WITHIN, Stage, settle};
use crate::seconds;
use crate::takeover::nft;

/// The name that collectors ask for; they dial an address.
const SERVICE: &str = "egressd-exporter";
const NAMESPACE: &str = "egressd";
/// The exporter looks at its files every 10 s.
const TAKEN_UP_WITHIN: Duration = seconds(30);
/// A stream that was open is dialled again within 30 s.
const DIALLED_WITHIN: Duration = seconds(60);
const CONNECTED: &str = "egressd_collector_window_connected";
const DIAL_FAILURES: &str = "egressd_collector_window_dial_failures_total";
/// Every stream breaks at its next word, and none can be opened.
const RESET: &str = "table inet cut_streams {
  chain input {
    type filter hook input priority 0;
    tcp dport 6062 reject with tcp reset
  }
}";
const DIALS: &str = "egressd_collector_window_dials_total";

/// A stage whose daemons speak TLS by files.
struct Secured<'c> {
    stage: Stage<'c>,
}

impl<'c> Secured<'c> {
    fn start(cluster: &'c Cluster, programs: &'c Programs, authority: &Authority) -> (Self, Daemons<'c>) {
        let secured = Self { stage: Stage::new(cluster, programs) };
        secured.certify(authority);
        secured.trust(&authority.pem());
        init_nodes(cluster, &programs.collector).unwrap();
        let exporter = secured.exporter();
        let collectors = const { &NODES }.iter().map(|node| secured.collector(node)).collect();
        let mut daemons = Daemons { exporter, collectors };
        daemons.all_mut().for_each(|daemon| daemon.wait_ready(READY_WITHIN).unwrap());
        (secured, daemons)
    }

    fn certify(&self, authority: &Authority) {
        certify(&self.stage, authority);
    }

    fn trust(&self, authorities: &str) {
        trust(&self.stage, authorities);
    }

    fn exporter(&self) -> Daemon<'c> {
        let Stage { cluster, programs, api } = &self.stage;
        let mut command = Command::new(&programs.exporter);
        command.arg("run").arg("--kubeconfig").arg(api.write_kubeconfig(cluster).unwrap());
        let config = Daemon::rewrite_config(cluster, CONFIG_WITHOUT_SINKS).unwrap();
        command.arg("--config-path").arg(config);
        command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
        command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]);
        command.args(exporter_flags(cluster));
        let control = cluster.namespace(CONTROL).unwrap();
        Daemon::start(control, &cluster.directory(), "exporter", command, EXPORTER_HTTP_PORT).unwrap()
    }

    /// With a token of its own pod, which is on the node's network.
    fn collector(&self, node: &'static Node) -> Daemon<'c> {
        let Stage { cluster, programs, .. } = &self.stage;
        let flags = collector_flags(&self.stage, node);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Daemon::collector(cluster, &programs.collector, node.name, &flags).unwrap()
    }

    fn renew_token(&self, node: &Node) -> PathBuf {
        renew_token(&self.stage, node)
    }
}

/// Writes a new certificate and key where exporters look for them, one after the other as a person would.
pub(crate) fn certify(stage: &Stage<'_>, authority: &Authority) {
    let certificate = authority.certificate(SERVICE).unwrap();
    stage.cluster.write_file("tls.crt", &certificate.pem).unwrap();
    stage.cluster.write_file("tls.key", &certificate.key_pem).unwrap();
}

/// Writes the authorities where collectors look for them.
pub(crate) fn trust(stage: &Stage<'_>, authorities: &str) {
    stage.cluster.write_file("ca.crt", authorities).unwrap();
}

/// TLS by that certificate, and tokens of collectors alone.
pub(crate) fn exporter_flags(cluster: &Cluster) -> Vec<String> {
    let file = |name: &str| cluster.directory().join(name).to_string_lossy().into_owned();
    let account = format!("{NAMESPACE}/egressd-collector");
    ["--tls-cert-file", &file("tls.crt"), "--tls-key-file", &file("tls.key")]
        .into_iter()
        .chain(["--collector-service-account", &account])
        .map(str::to_owned)
        .collect()
}

/// TLS to them, and a token of the node's own pod, which is made.
pub(crate) fn collector_flags(stage: &Stage<'_>, node: &Node) -> Vec<String> {
    let (pod, uid) = (pod_of(node), format!("uid-of-{}", pod_of(node)));
    let object = Pod::new(NAMESPACE, &pod).uid(&uid).created(seconds_ago(60)).scheduled(node.name, &[]);
    stage.api.apply(object).unwrap();
    let token_file = renew_token(stage, node);
    let ca_file = stage.cluster.directory().join("ca.crt");
    let [ca_file, token_file] = [ca_file, token_file].map(|path| path.to_string_lossy().into_owned());
    ["--tls-ca-file", &ca_file, "--tls-server-name", SERVICE, "--token-file", &token_file]
        .map(str::to_owned)
        .into()
}

/// Writes another token, as the kubelet does long before one ends.
fn renew_token(stage: &Stage<'_>, node: &Node) -> PathBuf {
    let (pod, api) = (pod_of(node), &stage.api);
    let token = Token::of(NAMESPACE, "egressd-collector").audience(SERVICE);
    let token = api.issue(token.bound(&pod, &format!("uid-of-{pod}"), node.name));
    stage.cluster.write_file(&format!("token-{}", node.name), &token).unwrap()
}

fn pod_of(node: &Node) -> String {
    format!("collector-{}", node.name)
}

fn metric(daemon: &Daemon<'_>, name: &str) -> u64 {
    daemon.metric(name, &[]).unwrap().unwrap_or(0)
}

fn wait_metric(daemon: &Daemon<'_>, name: &str, within: Duration, is_enough: impl Fn(u64) -> bool) {
    wait_for(name, within, || {
        let found = daemon.metric(name, &[])?.unwrap_or(0);
        Ok(if is_enough(found) { Ok(()) } else { Err(found.to_string()) })
    })
    .unwrap();
}

/// Goal: amid traffic a certificate is renewed, and then comes from another authority; open streams go on, whoever dials
/// later trusts the new one and shows a token that was renewed too, and no byte is lost by it.
#[test]
fn a_rotated_certificate_costs_no_byte() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let (old, new) = (Authority::generate("old").unwrap(), Authority::generate("new").unwrap());
    let (secured, mut daemons) = Secured::start(&cluster, &programs, &old);
    let mut load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();
    thread::sleep(seconds(3));

    // The same authority, then another, which is trusted before it is shown.
    let taken_up = "egressd_exporter_tls_certificates_total";
    secured.certify(&old);
    wait_metric(&daemons.exporter, taken_up, TAKEN_UP_WITHIN, |count| count == 2);
    secured.trust(&format!("{}{}", old.pem(), new.pem()));
    secured.certify(&new);
    wait_metric(&daemons.exporter, taken_up, TAKEN_UP_WITHIN, |count| count == 3);
    secured.trust(&new.pem());
    for collector in &daemons.collectors {
        assert_eq!(metric(collector, DIALS), 1, "the streams went on");
    }

    const { &NODES }.iter().for_each(|node| drop(secured.renew_token(node)));
    nft(&cluster, RESET);
    for collector in &daemons.collectors {
        wait_metric(collector, CONNECTED, DIALLED_WITHIN, |connected| connected == 0);
    }
    nft(&cluster, "delete table inet cut_streams");
    for collector in &daemons.collectors {
        wait_metric(collector, DIALS, DIALLED_WITHIN, |dials| dials == 2);
    }
    load.check_running().unwrap();
    thread::sleep(seconds(3));
    load.finish().unwrap();

    let truth = cluster.truth().unwrap();
    settle(&daemons, &truth);
    for collector in &daemons.collectors {
        let untrusted = collector.metric(DIAL_FAILURES, &[("reason", "untrusted")]).unwrap();
        assert_eq!(untrusted, None, "nobody was taken by surprise");
    }
    let reviews = metric(&daemons.exporter, "egressd_exporter_tokens_reviews_total");
    assert_eq!(reviews, 4, "two collectors with two tokens each");
    println!(
        "rotated: {reviews} reviews, {} flows, tx {} B, difference 0",
        truth.0.len(),
        truth.total().tx_bytes
    );
    daemons.end().unwrap();
}
