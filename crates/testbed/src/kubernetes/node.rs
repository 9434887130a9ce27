//! A node as the API shows it.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::time::{Timestamp, seconds_ago, text};
use super::workload::uid_of;

/// A node, ready since it was created; [`Value::from`] gives its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    name: String,
    created: Timestamp,
    internal: Vec<IpAddr>,
    external: Vec<IpAddr>,
    zone: Option<(String, String)>,
    pod_ranges: Vec<String>,
}

impl Node {
    /// A node with its `InternalIP`s, created an hour ago, in no zone and without pod ranges.
    #[must_use]
    pub fn new(name: &str, internal: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            created: seconds_ago(3_600),
            internal: internal.to_vec(),
            external: Vec::new(),
            zone: None,
            pod_ranges: Vec::new(),
        }
    }

    /// When it joined.
    #[must_use]
    pub fn created(mut self, at: Timestamp) -> Self {
        self.created = at;
        self
    }

    /// The labels `topology.kubernetes.io/zone` and `…/region`.
    #[must_use]
    pub fn zone(mut self, zone: &str, region: &str) -> Self {
        self.zone = Some((zone.to_owned(), region.to_owned()));
        self
    }

    /// Its `ExternalIP`s.
    #[must_use]
    pub fn external(mut self, addresses: &[IpAddr]) -> Self {
        self.external = addresses.to_vec();
        self
    }

    /// `spec.podCIDRs`, the first of them `spec.podCIDR` too.
    #[must_use]
    pub fn pod_ranges(mut self, ranges: &[&str]) -> Self {
        self.pod_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
        self
    }

    fn labels(&self) -> Value {
        let mut labels = json!({
            "beta.kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "m5.large",
        });
        if let Some((zone, region)) = &self.zone {
            labels["topology.kubernetes.io/zone"] = zone.as_str().into();
            labels["topology.kubernetes.io/region"] = region.as_str().into();
        }
        labels
    }

    fn addresses(&self) -> Vec<Value> {
        let of = |kind: &'static str| move |address: &IpAddr| json!({ "type": kind, "address": address });
        let mut addresses: Vec<_> = self.internal.iter().map(of("InternalIP")).collect();
        addresses.extend(self.external.iter().map(of("ExternalIP")));
        addresses.push(json!({ "type": "Hostname", "address": self.name }));
        addresses
    }

    fn conditions(&self) -> Vec<Value> {
        let created = text(self.created);
        let kinds = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("Ready", "True", "KubeletReady"),
        ];
        let condition = |(kind, status, reason)| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": reason,
                "lastHeartbeatTime": created, "lastTransitionTime": created,
            })
        };
        kinds.into_iter().map(condition).collect()
    }
}

impl From<&Node> for Value {
    fn from(node: &Node) -> Self {
        let created = text(node.created);
        let mut spec = json!({ "providerID": format!("testbed:///{}", node.name) });
        if let Some(first) = node.pod_ranges.first() {
            spec["podCIDR"] = first.as_str().into();
            spec["podCIDRs"] = json!(node.pod_ranges);
        }
        let capacity = json!({
            "cpu": "2", "memory": "8024400Ki", "pods": "110", "ephemeral-storage": "83873772Ki",
            "hugepages-2Mi": "0",
        });
        json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": node.name,
                "uid": uid_of(&["Node", &node.name]),
                "creationTimestamp": created,
                "labels": node.labels(),
                "annotations": { "node.alpha.kubernetes.io/ttl": "0" },
                "managedFields": [{
                    "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": created,
                    "fieldsType": "FieldsV1", "subresource": "status",
                    "fieldsV1": { "f:status": { "f:conditions": {}, "f:images": {} } },
                }],
            },
            "spec": spec,
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": node.conditions(),
                "addresses": node.addresses(),
                "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
                "nodeInfo": {
                    "machineID": uid_of(&["machine", &node.name]).replace('-', ""),
                    "systemUUID": uid_of(&["system", &node.name]),
                    "bootID": uid_of(&["boot", &node.name]),
                    "kernelVersion": "6.1.0-40-amd64",
                    "osImage": "Debian GNU/Linux 12 (bookworm)",
                    "containerRuntimeVersion": "containerd://2.1.4",
                    "kubeletVersion": "v1.34.1",
                    "kubeProxyVersion": "",
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                },
                "images": [{ "names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 320_368 }],
            },
        })
    }
}

impl From<Node> for Value {
    fn from(node: Node) -> Self {
        Self::from(&node)
    }
}
