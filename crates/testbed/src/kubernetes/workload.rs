//! What keeps a pod running, as its owner reference and labels tell it.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use serde_json::{Map, Value, json};

/// The controller of a pod, by the name that a user knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// By a ReplicaSet whose name ends in the pods' template hash.
    Deployment(String),
    /// A ReplicaSet that no Deployment made: its pods have no template hash.
    ReplicaSet(String),
    /// A StatefulSet.
    StatefulSet(String),
    /// A DaemonSet.
    DaemonSet(String),
    /// A Job that no CronJob made.
    Job(String),
    /// By a Job whose name ends in the minute that it was due.
    CronJob(String),
}

/// 2026-11-22 20:00 UTC in minutes since 1970: what a CronJob appends to its name.
const DUE_MINUTES: u32 = 29_922_960;

impl Workload {
    /// The workload of a kind as `kind` spells it; `None` for a kind that is not here.
    #[must_use]
    pub fn of_kind(kind: &str, name: &str) -> Option<Self> {
        let of = match kind {
            "Deployment" => Self::Deployment,
            "ReplicaSet" => Self::ReplicaSet,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            "CronJob" => Self::CronJob,
            _ => return None,
        };
        Some(of(name.to_owned()))
    }

    /// API group and version, kind and name of the object that the pod's owner reference names.
    fn controller(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::Deployment(name) => ("apps/v1", "ReplicaSet", format!("{name}-{}", template_hash(name))),
            Self::ReplicaSet(name) => ("apps/v1", "ReplicaSet", name.clone()),
            Self::StatefulSet(name) => ("apps/v1", "StatefulSet", name.clone()),
            Self::DaemonSet(name) => ("apps/v1", "DaemonSet", name.clone()),
            Self::Job(name) => ("batch/v1", "Job", name.clone()),
            Self::CronJob(name) => ("batch/v1", "Job", format!("{name}-{DUE_MINUTES}")),
        }
    }

    /// `metadata.ownerReferences` of a pod in `namespace`.
    pub(super) fn owner_references(&self, namespace: &str) -> Value {
        let (api_version, kind, name) = self.controller();
        json!([{
            "apiVersion": api_version,
            "kind": kind,
            "name": name,
            "uid": uid_of(&[namespace, kind, &name]),
            "controller": true,
            "blockOwnerDeletion": true,
        }])
    }

    /// The labels that the controller sets on a pod of that name.
    pub(super) fn labels(&self, namespace: &str, pod: &str) -> Map<String, Value> {
        let (_, kind, name) = self.controller();
        let labels = match self {
            Self::Deployment(name) => json!({ "app": name, "pod-template-hash": template_hash(name) }),
            Self::ReplicaSet(name) => json!({ "app": name }),
            Self::StatefulSet(name) => json!({
                "app": name,
                "apps.kubernetes.io/pod-index": pod.rsplit_once('-').map_or("0", |(_, index)| index),
                "controller-revision-hash": format!("{name}-{}", template_hash(name)),
                "statefulset.kubernetes.io/pod-name": pod,
            }),
            Self::DaemonSet(name) => json!({
                "app": name,
                "controller-revision-hash": template_hash(name),
                "pod-template-generation": "1",
            }),
            Self::Job(_) | Self::CronJob(_) => {
                let uid = uid_of(&[namespace, kind, &name]);
                json!({
                    "batch.kubernetes.io/controller-uid": uid,
                    "batch.kubernetes.io/job-name": name,
                    "controller-uid": uid,
                    "job-name": name,
                })
            }
        };
        match labels {
            Value::Object(labels) => labels,
            _ => Map::new(),
        }
    }

    /// `spec.restartPolicy` of its pods.
    pub(super) fn restart_policy(&self) -> &'static str {
        match self {
            Self::Job(_) | Self::CronJob(_) => "Never",
            _ => "Always",
        }
    }
}

/// Ten letters and digits without vowels, as Kubernetes encodes a template's hash.
fn template_hash(name: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hash_of(&[name]);
    let mut digit = || {
        let index = usize::try_from(rest % 27).unwrap_or(0);
        rest /= 27;
        char::from(ALPHABET[index])
    };
    (0..10).map(|_| digit()).collect()
}

/// The same UID for the same words.
pub(super) fn uid_of(words: &[&str]) -> String {
    uuid(hash_of(words), hash_of(&[&["uid"], words].concat()))
}

/// Another UID each time.
pub(super) fn fresh_uid() -> String {
    let random = || RandomState::new().hash_one("uid");
    uuid(random(), random())
}

fn hash_of(words: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

/// In the form of a version 4 UUID.
fn uuid(high: u64, low: u64) -> String {
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    let (d, e) = ((low >> 48) & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a Deployment's name can be found from its pod as a reader finds it: the owner's name without the hash.
    #[test]
    fn a_pod_names_its_workload_as_kubernetes_does() {
        let owner = |workload: &Workload| {
            let references = workload.owner_references("shop");
            format!("{}/{}", references[0]["kind"].as_str().unwrap(), references[0]["name"].as_str().unwrap())
        };
        let web = Workload::Deployment("web".into());
        let hash = web.labels("shop", "web-0")["pod-template-hash"].as_str().unwrap().to_owned();
        assert_eq!(hash.len(), 10);
        for (workload, expected) in [
            (web, format!("ReplicaSet/web-{hash}")),
            (Workload::ReplicaSet("bare".into()), "ReplicaSet/bare".into()),
            (Workload::StatefulSet("store".into()), "StatefulSet/store".into()),
            (Workload::DaemonSet("agent".into()), "DaemonSet/agent".into()),
            (Workload::Job("backup".into()), "Job/backup".into()),
            (Workload::CronJob("report".into()), "Job/report-29922960".into()),
        ] {
            assert_eq!(owner(&workload), expected);
        }
    }

    /// Goal: UIDs are UUIDs of version 4, stable where they must be and fresh where they must be.
    #[test]
    fn uids_are_uuids() {
        assert_eq!(uuid(u64::MAX, u64::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uid_of(&["a", "b"]), uid_of(&["a", "b"]));
        assert_ne!(uid_of(&["a", "b"]), uid_of(&["ab"]));
        assert_ne!(fresh_uid(), fresh_uid());
    }
}
