//! The resources that the server has. One more is a variant here and nothing else, as long as it is listed and watched.

use serde_json::{Value, json};

/// A kind of object that can be listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1` nodes, which have no namespace.
    Nodes,
    /// `v1` pods of all namespaces.
    Pods,
    /// `coordination.k8s.io/v1` leases, which are read and written one by one too.
    Leases,
    /// `v1` secrets, as leases.
    Secrets,
    /// `v1` config maps, as leases.
    ConfigMaps,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nodes, Self::Pods, Self::Leases, Self::Secrets, Self::ConfigMaps];
    /// Those that are read and written one by one.
    pub(super) const SINGLE: [Self; 3] = [Self::Leases, Self::Secrets, Self::ConfigMaps];

    /// The name in paths, as `pods`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Leases => "leases",
            Self::Secrets => "secrets",
            Self::ConfigMaps => "configmaps",
        }
    }

    /// The `kind` of one, as `Pod`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Nodes => "Node",
            Self::Pods => "Pod",
            Self::Leases => "Lease",
            Self::Secrets => "Secret",
            Self::ConfigMaps => "ConfigMap",
        }
    }

    /// The path of the collection over all namespaces.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Nodes => "/api/v1/nodes",
            Self::Pods => "/api/v1/pods",
            Self::Leases => "/apis/coordination.k8s.io/v1/leases",
            Self::Secrets => "/api/v1/secrets",
            Self::ConfigMaps => "/api/v1/configmaps",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Nodes | Self::Pods | Self::Secrets | Self::ConfigMaps => "v1",
            Self::Leases => "coordination.k8s.io/v1",
        }
    }

    /// The API group, empty for the core one.
    pub(super) fn group(self) -> &'static str {
        self.api_version().rsplit_once('/').map_or("", |(group, _)| group)
    }

    pub(super) fn is_namespaced(self) -> bool {
        self != Self::Nodes
    }

    pub(super) fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource| resource.api_version() == api_version && resource.kind() == kind)
    }

    /// What a bookmark's object holds besides its metadata: a server writes an empty object out in full.
    pub(super) fn empty(self) -> Value {
        match self {
            Self::Pods => json!({ "spec": { "containers": null }, "status": {} }),
            Self::Leases => json!({ "spec": {} }),
            Self::Secrets | Self::ConfigMaps => json!({}),
            Self::Nodes => json!({
                "spec": {},
                "status": {
                    "daemonEndpoints": { "kubeletEndpoint": { "Port": 0 } },
                    "nodeInfo": {
                        "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                        "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                        "operatingSystem": "", "architecture": "",
                    },
                },
            }),
        }
    }
}
