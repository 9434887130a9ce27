//! A pod as the API shows it at each step of its life.
//!
//! ```text
//!   Pod::new ─ scheduled ─ running ─ terminating ─ finished ─ KubernetesApi::delete
//!   (Pending)  (nodeName)  (podIPs)  (deletionTimestamp)  (finishedAt; a Job's pod stays so)
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::time::{Timestamp, after, seconds_ago, text};
use super::workload::{Workload, fresh_uid};

const IMAGE: &str = "registry.example.org/shop/app:1.4.2";
const IMAGE_ID: &str = "registry.example.org/shop/app@sha256:\
                        9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A pod; [`Value::from`] gives its object as it is at this step. One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    namespace: String,
    name: String,
    uid: String,
    created: Timestamp,
    labels: BTreeMap<String, String>,
    workload: Option<Workload>,
    host_network: bool,
    node: Option<String>,
    host_addresses: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
    started: Option<Timestamp>,
    /// When it was asked for, and the seconds of grace.
    deletion: Option<(Timestamp, u32)>,
    finished: Option<(Timestamp, i32)>,
}

impl Pod {
    /// A pod that nobody owns, just created and not yet scheduled, under a UID of its own.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: fresh_uid(),
            created: seconds_ago(0),
            labels: BTreeMap::new(),
            workload: None,
            host_network: false,
            node: None,
            host_addresses: Vec::new(),
            addresses: Vec::new(),
            started: None,
            deletion: None,
            finished: None,
        }
    }

    /// Under this UID.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = uid.to_owned();
        self
    }

    /// When it was created.
    #[must_use]
    pub fn created(mut self, at: Timestamp) -> Self {
        self.created = at;
        self
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Owned by the controller of this workload, with the labels that it sets.
    #[must_use]
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workload = Some(workload);
        self
    }

    /// On its node's network: its addresses are the node's, whatever [`running`](Self::running) is told.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Bound to a node with these addresses; still pending.
    #[must_use]
    pub fn scheduled(mut self, node: &str, host_addresses: &[IpAddr]) -> Self {
        self.node = Some(node.to_owned());
        self.host_addresses = host_addresses.to_vec();
        self
    }

    /// Running under these addresses; `at` is its start by the kubelet's clock, written to the second.
    #[must_use]
    pub fn running(mut self, at: Timestamp, addresses: &[IpAddr]) -> Self {
        self.started = Some(at);
        self.addresses = if self.host_network { self.host_addresses.clone() } else { addresses.to_vec() };
        self
    }

    /// Asked to end at `at`: its `deletionTimestamp` is the end of its grace.
    #[must_use]
    pub fn terminating(mut self, at: Timestamp, grace_seconds: u32) -> Self {
        self.deletion = Some((at, grace_seconds));
        self
    }

    /// Its container has ended: the phase is Succeeded for code 0, else Failed. It keeps its addresses in the API.
    #[must_use]
    pub fn finished(mut self, at: Timestamp, exit_code: i32) -> Self {
        self.finished = Some((at, exit_code));
        self
    }

    /// Its UID.
    #[must_use]
    pub fn uid_text(&self) -> &str {
        &self.uid
    }

    fn phase(&self) -> &'static str {
        match (self.finished, self.started) {
            (Some((_, 0)), _) => "Succeeded",
            (Some(_), _) => "Failed",
            (None, Some(_)) => "Running",
            (None, None) => "Pending",
        }
    }

    fn metadata(&self) -> Value {
        let created = text(self.created);
        let mut metadata = json!({
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "creationTimestamp": created,
            "labels": self.labels,
            "managedFields": [
                {
                    "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                    "time": created, "fieldsType": "FieldsV1",
                    "fieldsV1": {
                        "f:metadata": { "f:labels": { ".": {} }, "f:ownerReferences": { ".": {} } },
                        "f:spec": {
                            "f:containers": { r#"k:{"name":"app"}"#: { ".": {}, "f:image": {}, "f:name": {} } },
                            "f:restartPolicy": {}, "f:terminationGracePeriodSeconds": {},
                        },
                    },
                },
                {
                    "manager": "kubelet", "operation": "Update", "apiVersion": "v1",
                    "time": text(self.started.unwrap_or(self.created)), "fieldsType": "FieldsV1",
                    "subresource": "status",
                    "fieldsV1": { "f:status": { "f:conditions": {}, "f:podIP": {}, "f:podIPs": {} } },
                },
            ],
        });
        if let Some(workload) = &self.workload {
            metadata["ownerReferences"] = workload.owner_references(&self.namespace);
            for (name, value) in workload.labels(&self.namespace, &self.name) {
                metadata["labels"][name] = value;
            }
        }
        if let Some((asked, grace_seconds)) = self.deletion {
            metadata["deletionTimestamp"] = text(after(asked, grace_seconds.into())).into();
            metadata["deletionGracePeriodSeconds"] = grace_seconds.into();
        }
        metadata
    }

    fn spec(&self) -> Value {
        let mut spec = json!({
            "containers": [{
                "name": "app",
                "image": IMAGE,
                "ports": [{ "containerPort": 8080, "protocol": "TCP" }],
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
                "volumeMounts": [{
                    "name": "kube-api-access", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                }],
            }],
            "restartPolicy": self.workload.as_ref().map_or("Always", Workload::restart_policy),
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
            "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [{
                "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300,
            }],
        });
        if let Some(node) = &self.node {
            spec["nodeName"] = node.as_str().into();
        }
        if self.host_network {
            spec["hostNetwork"] = true.into();
        }
        spec
    }

    fn conditions(&self) -> Vec<Value> {
        let is_ready = self.started.is_some() && self.finished.is_none();
        let mut conditions = Vec::new();
        let mut add = |kind: &str, holds: bool, since: Timestamp| {
            conditions.push(json!({
                "type": kind,
                "status": if holds { "True" } else { "False" },
                "lastProbeTime": null,
                "lastTransitionTime": text(since),
            }));
        };
        add("PodScheduled", self.node.is_some(), self.created);
        if let Some(started) = self.started {
            let changed = self.finished.map_or(started, |(at, _)| at);
            add("PodReadyToStartContainers", is_ready, changed);
            add("Initialized", true, started);
            add("Ready", is_ready, changed);
            add("ContainersReady", is_ready, changed);
        }
        conditions
    }

    fn container_status(&self, started: Timestamp) -> Value {
        let container_id = format!("containerd://{}", self.uid.replace('-', "").repeat(2));
        let state = match self.finished {
            None => json!({ "running": { "startedAt": text(started) } }),
            Some((at, exit_code)) => json!({ "terminated": {
                "exitCode": exit_code,
                "reason": if exit_code == 0 { "Completed" } else { "Error" },
                "startedAt": text(started),
                "finishedAt": text(at),
                "containerID": container_id,
            } }),
        };
        json!({
            "name": "app",
            "state": state,
            "lastState": {},
            "ready": self.finished.is_none(),
            "started": self.finished.is_none(),
            "restartCount": 0,
            "image": IMAGE,
            "imageID": IMAGE_ID,
            "containerID": container_id,
        })
    }

    fn status(&self) -> Value {
        let mut status = json!({
            "phase": self.phase(),
            "conditions": self.conditions(),
            "qosClass": "Burstable",
        });
        let Some(started) = self.started else { return status };
        let listed = |addresses: &[IpAddr]| -> Vec<Value> {
            addresses.iter().map(|address| json!({ "ip": address })).collect()
        };
        status["startTime"] = text(started).into();
        status["containerStatuses"] = json!([self.container_status(started)]);
        for (one, all, addresses) in
            [("hostIP", "hostIPs", &self.host_addresses), ("podIP", "podIPs", &self.addresses)]
        {
            if let Some(first) = addresses.first() {
                status[one] = json!(first);
                status[all] = listed(addresses).into();
            }
        }
        status
    }
}

impl From<&Pod> for Value {
    fn from(pod: &Pod) -> Self {
        json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": pod.metadata(),
            "spec": pod.spec(),
            "status": pod.status(),
        })
    }
}

impl From<Pod> for Value {
    fn from(pod: Pod) -> Self {
        Self::from(&pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader of owners looks at.
    fn essence(pod: &Pod) -> Value {
        let object = Value::from(pod);
        let state = object.pointer("/status/containerStatuses/0/state/terminated/finishedAt");
        json!([
            object["status"]["phase"],
            object["spec"]["nodeName"],
            object["status"]["podIP"],
            object["status"]["podIPs"],
            object["status"]["startTime"],
            object["metadata"]["deletionTimestamp"],
            state.unwrap_or(&Value::Null),
        ])
    }

    /// Goal: each step of a life adds what it adds in a real cluster, and takes nothing away.
    #[test]
    fn a_pods_life_is_told_step_by_step() {
        let at = |seconds| after("2026-11-22T20:00:00.9Z".parse().unwrap(), seconds);
        let host: [IpAddr; 1] = ["172.18.0.2".parse().unwrap()];
        let own: [IpAddr; 2] = ["10.244.1.9".parse().unwrap(), "fd00:10:244:1::9".parse().unwrap()];
        let ips = json!([{ "ip": "10.244.1.9" }, { "ip": "fd00:10:244:1::9" }]);
        let (start, deletion, end) = ("2026-11-22T20:00:01Z", "2026-11-22T20:00:40Z", "2026-11-22T20:00:12Z");

        let new = Pod::new("shop", "web-9").created(at(0));
        assert_eq!(essence(&new), json!(["Pending", null, null, null, null, null, null]));
        let scheduled = new.scheduled("node-a", &host);
        assert_eq!(essence(&scheduled), json!(["Pending", "node-a", null, null, null, null, null]));
        let running = scheduled.clone().running(at(1), &own);
        assert_eq!(essence(&running), json!(["Running", "node-a", "10.244.1.9", ips, start, null, null]));
        let terminating = running.clone().terminating(at(10), 30);
        assert_eq!(
            essence(&terminating),
            json!(["Running", "node-a", "10.244.1.9", ips, start, deletion, null])
        );
        let ended = terminating.finished(at(12), 143);
        assert_eq!(essence(&ended), json!(["Failed", "node-a", "10.244.1.9", ips, start, deletion, end]));
        let completed = running.finished(at(12), 0);
        assert_eq!(essence(&completed), json!(["Succeeded", "node-a", "10.244.1.9", ips, start, null, end]));
        let on_host = scheduled.host_network().running(at(1), &[]);
        let host_ips = json!([{ "ip": "172.18.0.2" }]);
        assert_eq!(
            essence(&on_host),
            json!(["Running", "node-a", "172.18.0.2", host_ips, start, null, null])
        );
        assert_eq!(Value::from(on_host)["spec"]["hostNetwork"], true);
    }
}
