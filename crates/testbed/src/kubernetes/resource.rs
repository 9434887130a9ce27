//! The resources that the server has. One more is a variant here and nothing else, as long as it is listed and watched.

use serde_json::{Value, json};

/// A kind of object that can be listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1` nodes, which have no namespace.
    Nodes,
    /// `v1` pods of all namespaces.
    Pods,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Nodes, Self::Pods];

    /// The name in paths, as `pods`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
        }
    }

    /// The `kind` of one, as `Pod`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Nodes => "Node",
            Self::Pods => "Pod",
        }
    }

    /// The path of the collection over all namespaces.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Nodes => "/api/v1/nodes",
            Self::Pods => "/api/v1/pods",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        "v1"
    }

    pub(super) fn is_namespaced(self) -> bool {
        self == Self::Pods
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
