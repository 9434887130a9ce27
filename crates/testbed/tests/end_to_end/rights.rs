//! What the exporter asks of the Kubernetes API is what the chart's roles allow, and all of it.
//!
//! The roles and the command line are those of the manifest for two exporters, which has the most; what is asked for is
//! what the API saw.

use std::collections::BTreeSet;
use std::process::Command;

use egressd_testbed::kubernetes::{Resource, StreamingLists};
use egressd_testbed::topology::CONTROL;
use egressd_testbed::{Cluster, Daemon, EXPORTER_HTTP_PORT, Programs, wait_for};
use serde_json::json;

use crate::lives::{READY_WITHIN, Stage};
use crate::seconds;

const MANIFEST: &str = include_str!("../../../../deploy/manifests/standby.yaml");
const NAMESPACE: &str = "egressd";
const AUTHORITY: &str = "egressd-exporter-ca";
/// Flags that this exporter does not take yet; what they ask for is [`REVIEWS`].
const AWAITED: [&str; 2] = ["--collector-service-account", "--token-audience"];
/// Asked for with a collector's token only.
const REVIEWS: &str = "create tokenreviews.authentication.k8s.io";

/// One verb on one resource, and on which one of them where that is said.
fn right(verb: &str, resource: &str, group: &str, name: &str) -> String {
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let name = if name.is_empty() { String::new() } else { format!(" {name}") };
    format!("{verb} {resource}{group}{name}")
}

/// The words of a list in one line: `key: [a, b]`.
fn list<'t>(rule: &'t str, key: &str) -> Vec<&'t str> {
    let line = rule.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
    let words = line.and_then(|line| line.strip_prefix(": [")?.strip_suffix(']'));
    words.map(|words| words.split(", ").map(|word| word.trim_matches('"')).collect()).unwrap_or_default()
}

/// What the manifest's roles allow on resources.
fn allowed() -> BTreeSet<String> {
    let roles = MANIFEST.split("\n---\n").filter(|object| object.contains("\nrules:\n"));
    let rules = roles.flat_map(|role| role.split("\n  - apiGroups").skip(1));
    let mut rights = BTreeSet::new();
    for rule in rules {
        let rule = format!("apiGroups{}", rule.split("\n  - ").next().unwrap());
        let names = list(&rule, "resourceNames");
        for group in list(&rule, "apiGroups") {
            for resource in list(&rule, "resources") {
                for verb in list(&rule, "verbs") {
                    let of = |name: &&str| right(verb, resource, group, name);
                    rights.extend(if names.is_empty() {
                        vec![of(&"")]
                    } else {
                        names.iter().map(of).collect()
                    });
                }
            }
        }
    }
    rights
}

/// The flags of the manifest's exporter.
fn flags() -> Vec<&'static str> {
    let (_, container) = MANIFEST.split_once("- name: exporter\n").unwrap();
    let (_, arguments) = container.split_once("args:\n").unwrap();
    let flags = arguments.lines().map_while(|line| line.trim().strip_prefix("- \"")?.strip_suffix('"'));
    flags.filter(|flag| !AWAITED.iter().any(|awaited| flag.starts_with(awaited))).collect()
}

/// Goal: nothing that the exporter asks for is forbidden to it in a cluster, and nothing is allowed in vain.
#[test]
fn the_charts_roles_are_what_the_exporter_asks_for() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let stage = Stage::new(&cluster, &programs);
    let start = || {
        let mut command = Command::new(&programs.exporter);
        command
            .arg("run")
            .arg("--kubeconfig")
            .arg(stage.api.write_kubeconfig(&cluster).unwrap())
            .args(flags());
        command.envs([("POD_NAMESPACE", NAMESPACE), ("POD_NAME", "exporter-0"), ("POD_IP", "172.18.0.1")]);
        let control = cluster.namespace(CONTROL).unwrap();
        let mut exporter =
            Daemon::start(control, &cluster.directory(), "exporter", command, EXPORTER_HTTP_PORT).unwrap();
        exporter.wait_ready(READY_WITHIN).unwrap();
        // The first to lead waits a whole duration of the Lease; whoever stops gives it back.
        wait_for("the lead", seconds(60), || {
            let leads = exporter.metric("egressd_exporter_leader", &[])?;
            Ok(if leads == Some(1) { Ok(()) } else { Err(format!("{leads:?}")) })
        })
        .unwrap();
        exporter.end().unwrap();
    };
    start();
    // What the first life created, the second has to replace; and not every API server can stream a list.
    stage.api.patch(Resource::Secrets, NAMESPACE, AUTHORITY, &json!({ "data": null })).unwrap();
    stage.api.change(|settings| settings.streaming_lists = StreamingLists::Unknown);
    start();

    let requests = stage.api.requests();
    let asked: BTreeSet<_> = requests
        .iter()
        .filter_map(|request| request.permission())
        .map(|asked| {
            let name = if asked.verb == "create" { "" } else { &asked.name };
            assert!(asked.namespace.is_empty() || asked.namespace == NAMESPACE, "{asked:?}");
            right(asked.verb, &asked.resource, &asked.group, name)
        })
        .collect();
    let allowed = allowed();
    println!("{} rights, asked for by {} requests: {asked:#?}", asked.len(), requests.len());
    assert_eq!(asked.difference(&allowed).collect::<Vec<_>>(), [""; 0], "allowed: {allowed:#?}");
    assert_eq!(allowed.difference(&asked).collect::<Vec<_>>(), [REVIEWS], "asked: {asked:#?}");
}
