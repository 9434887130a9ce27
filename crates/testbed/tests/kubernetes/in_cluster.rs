//! The server in the control namespace, by the kubeconfig that it writes, with the cluster's own objects.

use std::net::{Ipv4Addr, TcpStream};

use egressd_testbed::kubernetes::{Access, KubernetesApi, Resource, objects_of_cluster};
use egressd_testbed::topology::{self, CONTROL};
use egressd_testbed::{Cluster, wait_for};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use serde_json::{Value, json};

use crate::SOON;
use crate::client::{client_by, run};

/// Goal: the written kubeconfig leads the client into the control namespace by TLS and token; without the right
/// authority or token it comes to nothing, and a forbidden resource is refused.
#[test]
fn the_written_kubeconfig_leads_in() {
    let cluster = Cluster::start().unwrap();
    let access = Access::Secure { token: "a-token".to_owned() };
    let api = KubernetesApi::start(&cluster, 6443, access.clone()).unwrap();
    let other = KubernetesApi::start(&cluster, 6444, access).unwrap();
    for object in cluster.kubernetes_objects() {
        api.apply(object).unwrap();
    }
    let path = api.write_kubeconfig(&cluster).unwrap();
    let kubeconfig = std::fs::read_to_string(path).unwrap();
    let wrong_token = kubeconfig.replace("a-token", "another");
    let wrong_authority = other.kubeconfig().replace(":6444", ":6443");
    let look = |kubeconfig: &str| {
        let look = async {
            let client = client_by(kubeconfig).await;
            let version = client.apiserver_version().await;
            let nodes = Api::<core::Node>::all(client).list(&Default::default()).await;
            (version.map(|version| version.git_version), nodes.map(|nodes| nodes.items.len()))
        };
        let (version, nodes) = cluster.namespace(CONTROL).unwrap().enter(|| run(look)).unwrap();
        let told = |error: kube::Error| match error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        (version.map_err(told), nodes.map_err(told))
    };
    assert_eq!(look(&kubeconfig), (Ok("v1.34.1".to_owned()), Ok(2)));
    assert_eq!(look(&wrong_token), (Err(401), Err(401)));
    assert_eq!(look(&wrong_authority), (Err(0), Err(0)));
    api.change(|settings| settings.forbidden = [Resource::Nodes].into());
    assert_eq!(look(&kubeconfig), (Ok("v1.34.1".to_owned()), Err(403)));
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, 6443)).is_err(), "it is not in the machine's network");

    let reached = wait_for("the API server in its namespace", SOON, || {
        let control = cluster.namespace(CONTROL)?;
        let reached = control.enter(|| TcpStream::connect(("172.18.0.1", api.port())).is_ok())?;
        Ok(if reached { Ok(()) } else { Err("refused".to_owned()) })
    });
    reached.unwrap();
}

/// Goal: the objects of the cluster say the same as its inventory.
#[test]
fn the_objects_of_the_cluster_match_its_inventory() {
    let mut text = String::from("nodes:\n");
    let objects = objects_of_cluster();
    let (nodes, pods): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object["kind"] == "Node");
    let str = |value: &Value| value.as_str().unwrap().to_owned();
    for node in nodes {
        let labels = &node["metadata"]["labels"];
        let all = node["status"]["addresses"].as_array().unwrap();
        let internal: Vec<_> = all.iter().filter(|address| address["type"] == "InternalIP").collect();
        text.push_str(&format!(
            "  - name: {}\n    zone: {}\n    region: {}\n    addresses: [{}, {}]\n",
            str(&node["metadata"]["name"]),
            str(&labels["topology.kubernetes.io/zone"]),
            str(&labels["topology.kubernetes.io/region"]),
            str(&internal[0]["address"]),
            internal[1]["address"],
        ));
    }
    text.push_str("pods:\n");
    for pod in pods {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let owner = &metadata["ownerReferences"][0];
        let (kind, name) = match metadata["labels"]["pod-template-hash"].as_str() {
            Some(hash) => {
                let name = str(&owner["name"]);
                ("Deployment".to_owned(), name.strip_suffix(&format!("-{hash}")).unwrap().to_owned())
            }
            None => (str(&owner["kind"]), str(&owner["name"])),
        };
        assert_eq!(status["podIP"], status["podIPs"][0]["ip"]);
        text.push_str(&format!(
            "  - name: {}\n    namespace: {}\n    uid: {}\n    node: {}\n    addresses: [{}, {}]\n    \
             workload: {{ kind: {kind}, name: {name} }}\n",
            str(&metadata["name"]),
            str(&metadata["namespace"]),
            metadata["uid"],
            str(&pod["spec"]["nodeName"]),
            str(&status["podIPs"][0]["ip"]),
            status["podIPs"][1]["ip"],
        ));
    }
    let inventory = topology::inventory();
    let (of_objects, _) = inventory.split_once("ranges:").unwrap();
    assert_eq!(text, of_objects);
    let of_nodes =
        objects.iter().filter(|object| object["kind"] == "Node").map(|node| &node["spec"]["podCIDRs"]);
    let planned: Vec<_> = topology::NODES.iter().map(|node| json!(node.pod_ranges)).collect();
    assert_eq!(of_nodes.cloned().collect::<Vec<_>>(), planned);
}
