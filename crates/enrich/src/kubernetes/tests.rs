//! Objects as the API writes them, and what is read from them.

use egressd_flow::UnixNanos;
use serde_json::{Value, json};

use super::object::{NodeObject, PodObject};

/// A running pod of a Deployment.
fn running() -> Value {
    json!({
        "metadata": {
            "name": "web-5d4f8-abcde", "namespace": "shop", "uid": "uid-1", "resourceVersion": "7",
            "labels": { "app": "web", "pod-template-hash": "5d4f8" },
            "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8", "uid": "rs", "controller": true }
            ],
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }]
        },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "web", "image": "web:1" }] },
        "status": {
            "phase": "Running", "startTime": "2026-01-02T03:04:05Z",
            "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
            "containerStatuses": [{ "name": "web", "state": { "running": { "startedAt": "2026-01-02T03:04:06Z" } } }]
        }
    })
}

/// `change` done to a running pod, read, as `name on node: addresses, since..until, workload`.
fn read(change: impl Fn(&mut Value)) -> String {
    let mut value = running();
    change(&mut value);
    let object: PodObject = serde_json::from_value(value).unwrap();
    match object.pod() {
        Err(error) => error.to_string(),
        Ok(pod) => {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let until = pod.until.map_or(String::new(), |until| until.to_string());
            let workload =
                pod.workload.map_or(String::new(), |workload| format!("{} {}", workload.kind, workload.name));
            let node = pod.node.map_or("nowhere".to_owned(), |node| node.to_string());
            format!("{} on {node}: {}, {}..{until}, {workload}", pod.name, addresses.join(" "), pod.since)
        }
    }
}

const SINCE: &str = "1767323045.000000000";

/// Goal: a pod's addresses, start, end and workload are what its object says, and nothing is guessed.
#[test]
fn a_pod_is_what_its_object_says() {
    let whole = format!("web-5d4f8-abcde on node-a: 10.0.0.1 fd00::1, {SINCE}.., Deployment web");
    assert_eq!(read(|_| {}), whole);
    assert_eq!(
        read(|pod| {
            pod["status"].as_object_mut().unwrap().remove("podIPs");
        }),
        whole.replace(" fd00::1", "")
    );
    assert_eq!(read(|pod| pod["spec"]["hostNetwork"] = json!(true)), whole.replace("10.0.0.1 fd00::1", ""));
    assert_eq!(
        read(|pod| pod["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet")),
        whole.replace("Deployment web", "StatefulSet web-5d4f8")
    );
    assert_eq!(
        read(|pod| pod["metadata"]["labels"]["pod-template-hash"] = json!("other")),
        whole.replace("Deployment web", "ReplicaSet web-5d4f8")
    );
    assert_eq!(
        read(|pod| pod["status"] = json!({ "phase": "Pending" })),
        "web-5d4f8-abcde on node-a: , 0.000000000.., Deployment web"
    );
}

/// Goal: a pod ends when its last container did, rounded up to the second's end; while one may run it has not.
#[test]
fn a_pod_ends_with_its_last_container() {
    let terminated = |at: &str| json!({ "state": { "terminated": { "finishedAt": at } } });
    let ends = |text: &str| text.split("..").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let both = json!([terminated("2026-01-02T03:05:00Z"), terminated("2026-01-02T03:04:59Z")]);
    let completed = |pod: &mut Value| {
        pod["status"]["phase"] = json!("Succeeded");
        pod["status"]["containerStatuses"] = both.clone();
    };
    assert_eq!(ends(&read(completed)), "1767323101.000000000");
    let terminating = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:06:00Z");
    assert_eq!(ends(&read(terminating)), "", "it may still send");
    let terminated_all = |pod: &mut Value| {
        terminating(pod);
        pod["status"]["containerStatuses"] = both.clone();
    };
    assert_eq!(ends(&read(terminated_all)), "1767323101.000000000");
    let restarting = |pod: &mut Value| pod["status"]["containerStatuses"] = both.clone();
    assert_eq!(ends(&read(restarting)), "", "its containers will start again");
    let mut evicted = running();
    evicted["status"] = json!({ "phase": "Failed", "reason": "Evicted" });
    let gone = |mut value: Value, now| {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:06:00Z");
        let object: PodObject = serde_json::from_value(value).unwrap();
        object.gone(UnixNanos(now)).unwrap().until.unwrap().to_string()
    };
    assert_eq!(gone(evicted, u64::MAX), "1767323161.000000000");
    assert_eq!(gone(running(), u64::MAX), "1767323161.000000000");
    assert_eq!(
        gone(running(), 1_767_323_120_500_000_000),
        "1767323121.000000000",
        "by force, within its grace"
    );
}

/// Goal: an object that makes no sense is named for what it lacks.
#[test]
fn an_object_that_makes_no_sense_is_refused() {
    assert_eq!(
        read(|pod| {
            pod["metadata"].as_object_mut().unwrap().remove("uid");
        }),
        "has no uid"
    );
    assert_eq!(
        read(|pod| pod["status"]["podIPs"][0]["ip"] = json!("10.0.0")),
        "\"10.0.0\" is not an address"
    );
    assert_eq!(read(|pod| pod["status"]["startTime"] = json!("soon")), "startTime \"soon\" is not a time");
}

/// Goal: a node is its name, its place, its addresses in the cluster and its pods' ranges.
#[test]
fn a_node_is_what_its_object_says() {
    let value = json!({
        "metadata": {
            "name": "node-a", "uid": "n",
            "labels": { "topology.kubernetes.io/zone": "zone-1", "topology.kubernetes.io/region": "region-1" }
        },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
            "taints": [{ "key": "gpu", "effect": "NoSchedule" }] },
        "status": { "addresses": [
            { "type": "Hostname", "address": "node-a" },
            { "type": "InternalIP", "address": "172.18.0.2" },
            { "type": "ExternalIP", "address": "203.0.113.9" }
        ] }
    });
    let object: NodeObject = serde_json::from_value(value).unwrap();
    let node = object.node().unwrap();
    assert_eq!(node.topology_zone.unwrap().0.as_ref(), "zone-1");
    assert_eq!(node.region.as_deref(), Some("region-1"));
    assert_eq!(node.addresses, ["172.18.0.2".parse::<std::net::IpAddr>().unwrap()]);
    let ranges: Vec<String> = node.pod_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    assert_eq!(node.labels.len(), 2);
    assert_eq!((node.taints[0].key.as_str(), node.taints[0].effect.as_str()), ("gpu", "NoSchedule"));
}
