//! What the exporter asks of the Kubernetes API, against what its reference page says it does.

use std::collections::BTreeSet;
use std::process::Command;

use egressd_testbed::kubernetes::{Permission, Pod, Resource, StreamingLists, Token, seconds_ago};
use egressd_testbed::topology::{CONTROL, NODES};
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cluster, Daemon, EXPORTER_HTTP_PORT, GRPC_PORT, Programs, init_nodes, wait_for,
};
use serde_json::json;

use crate::lives::{READY_WITHIN, Stage};

const REFERENCE: &str = include_str!("../../../exporter/REFERENCE.md");
const NAMESPACE: &str = "egressd";

/// `VERB RESOURCE.GROUP NAMESPACE NAME`, as a row of the page has them: a name is there where one is asked for.
fn row(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> String {
    format!("{verb} {resource}.{group} {namespace} {name}")
}

/// The rows of the page, with the values of this run in the place of flags.
fn listed() -> BTreeSet<String> {
    let (_, table) = REFERENCE.split_once("## What it asks of the API").unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, verb, group, resource, namespace, name, ..] = cells[..] else { panic!("{line}") };
        let namespace = if namespace == "all" { "" } else { NAMESPACE };
        let name = match name {
            "--lease-name" => "egressd-exporter",
            "--tls-managed-secret" => "ca-secret",
            "--tls-managed-config-map" => "ca-map",
            _ => "",
        };
        row(verb, group, resource, if resource == "tokenreviews" { "" } else { namespace }, name)
    })
    .collect()
}

/// Goal: with everything on that asks the API, over an empty and a filled Secret, each request is a row of the reference
/// page, and each row is asked for.
#[test]
fn every_request_is_listed_and_every_row_is_asked() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let stage = Stage::new(&cluster, &programs);
    init_nodes(&cluster, &programs.collector).unwrap();
    let exporter = || {
        let mut command = Command::new(&programs.exporter);
        command.arg("run").arg("--kubeconfig").arg(stage.api.write_kubeconfig(&cluster).unwrap());
        let config = Daemon::rewrite_config(&cluster, CONFIG_WITHOUT_SINKS).unwrap();
        command.arg("--config-path").arg(config).env("POD_NAMESPACE", NAMESPACE);
        command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
        command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]);
        command.args(["--tls-managed-secret", "ca-secret", "--tls-managed-config-map", "ca-map"]);
        command.args(["--collector-service-account", &format!("{NAMESPACE}/egressd-collector")]);
        command.args(["--leader-elect", "--lease-duration", "3s", "--pod-name", "one"]);
        command.args(["--advertise-address", &format!("172.18.0.1:{GRPC_PORT}")]);
        let control = cluster.namespace(CONTROL).unwrap();
        let mut daemon =
            Daemon::start(control, &cluster.directory(), "exporter", command, EXPORTER_HTTP_PORT).unwrap();
        daemon.wait_ready(READY_WITHIN).unwrap();
        daemon
    };
    let mut first = exporter();
    let map = stage.api.get(Resource::ConfigMaps, NAMESPACE, "ca-map").unwrap();
    let ca_file = cluster.write_file("ca.crt", map["data"]["ca.crt"].as_str().unwrap()).unwrap();

    let node = &NODES[0];
    let pod = Pod::new(NAMESPACE, "collector-a").uid("uid-a").created(seconds_ago(60));
    stage.api.apply(pod.scheduled(node.name, &[])).unwrap();
    let token = Token::of(NAMESPACE, "egressd-collector").audience("egressd-exporter");
    let token = stage.api.issue(token.bound("collector-a", "uid-a", node.name));
    let token_file = cluster.write_file("token", &token).unwrap();
    let flags = [
        "--tls-ca-file",
        ca_file.to_str().unwrap(),
        "--tls-server-name",
        "egressd-exporter.egressd.svc",
        "--token-file",
        token_file.to_str().unwrap(),
    ];
    let mut collector = Daemon::collector(&cluster, &programs.collector, node.name, &flags).unwrap();
    wait_for("the stream, by an authority of the exporter's own", READY_WITHIN, || {
        let streams = first.metric("egressd_exporter_nodes_connected", &[])?;
        Ok(if streams == Some(1) { Ok(()) } else { Err(format!("{streams:?}")) })
    })
    .unwrap();
    collector.end().unwrap();
    first.end().unwrap();

    // A server that streams no lists, and a Secret and a ConfigMap that a chart made empty.
    stage.api.change(|settings| settings.streaming_lists = StreamingLists::GateOff);
    for (kind, name) in [("Secret", "ca-secret"), ("ConfigMap", "ca-map")] {
        let metadata = json!({ "namespace": NAMESPACE, "name": name });
        stage
            .api
            .apply(json!({ "kind": kind, "apiVersion": "v1", "metadata": metadata, "data": {} }))
            .unwrap();
    }
    exporter().end().unwrap();

    let requests = stage.api.requests();
    let asked: BTreeSet<String> = requests
        .iter()
        .filter_map(|request| request.permission())
        .map(|permission| {
            let Permission { verb, group, resource, namespace, name } = permission;
            row(verb, &group, &resource, &namespace, &name)
        })
        .collect();
    println!("asked of the API: {} kinds of requests in {}", asked.len(), requests.len());
    assert_eq!(asked, listed());
}
