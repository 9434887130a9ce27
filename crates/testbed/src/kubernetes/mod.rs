//! A Kubernetes API server over real HTTP, for whoever watches pods and nodes and holds a lease: it lists in pages, streams lists,
//! watches with bookmarks, forgets its past, and has the bad days that real ones have.
//!
//! ```text
//!   test → KubernetesApi ── apply, patch, delete ──→ store ──→ watching ──→ GET /api/v1/pods?watch=true …
//!                        └─ change, cut, go away ──→ settings ─→ routes ──→ GET /api/v1/pods?limit=500 …
//! ```
//!
//! Invariants: what it answers it would answer over and over: a version, once told, means one state. It checks
//! nothing of an object but its name, so a test can have it serve whatever is wrong. Statuses, messages and events
//! have the shapes of a real server; a parameter that is not known here is refused, never overlooked, where it would
//! change the answer.
//!
//! Leases, secrets and config maps can be read, created and replaced one by one, each replacement against the version that
//! its writer knows. Tokens of service accounts that it issued are reviewed ([`Token`]).
//!
//! Not here: selectors, other single objects and writes over HTTP, protobuf and compression.

mod ask;
mod connections;
mod identity;
mod node;
mod pod;
mod resource;
mod routes;
mod settings;
mod shared;
mod single;
mod status;
mod store;
mod time;
mod tokens;
mod watching;
mod workload;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub use self::node::Node;
pub use self::pod::Pod;
pub use self::resource::Resource;
pub use self::settings::{Fault, Settings, StreamingLists};
pub use self::shared::{ApiRequest, Permission};
pub use self::time::{Timestamp, seconds_ago};
pub use self::tokens::Token;
pub use self::workload::Workload;

use self::connections::Running;
use self::identity::Identity;
use self::shared::Shared;
use self::store::Key;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::topology;

/// How the server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Plain HTTP; everyone may.
    Plain,
    /// TLS by an authority of its own, and this bearer token.
    Secure {
        /// The token. [`Settings::token`] changes it later.
        token: String,
    },
}

/// A fake Kubernetes API server. Dropping it ends it.
#[derive(Debug)]
pub struct KubernetesApi {
    /// Where its port is; `None` for the network of whoever started it.
    namespace: Option<Namespace>,
    /// Fixed by the first start.
    address: SocketAddr,
    identity: Option<Identity>,
    shared: Arc<Shared>,
    /// `None` while away.
    running: Option<Running>,
}

impl KubernetesApi {
    /// Starts an empty server on `port` of every address of the cluster's control namespace.
    ///
    /// # Errors
    /// [`Error::Os`] when the port is taken.
    pub fn start(cluster: &Cluster, port: u16, access: Access) -> Result<Self, Error> {
        let namespace = cluster.namespace(topology::CONTROL)?.clone();
        Self::start_in(Some(namespace), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), access)
    }

    /// Starts an empty server on `port` of this machine's 127.0.0.1, a free one for 0: needs no cluster and no root.
    ///
    /// # Errors
    /// [`Error::Os`] when the port is taken, or none is free.
    pub fn start_on_loopback(port: u16, access: Access) -> Result<Self, Error> {
        Self::start_in(None, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), access)
    }

    fn start_in(namespace: Option<Namespace>, address: SocketAddr, access: Access) -> Result<Self, Error> {
        let (identity, token) = match access {
            Access::Plain => (None, None),
            Access::Secure { token } => (Some(Identity::generate()?), Some(token)),
        };
        let shared = Arc::new(Shared::new(Settings::healthy(token)));
        let mut api = Self { namespace, address, identity, shared, running: None };
        api.come_back()?;
        Ok(api)
    }

    /// Closes the port and cuts every connection; objects, versions and settings stay.
    pub fn go_away(&mut self) {
        self.running = None;
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// [`Error::Os`] when it is taken.
    pub fn come_back(&mut self) -> Result<(), Error> {
        if self.running.is_some() {
            return Ok(());
        }
        let refused = || Error::os("open the port of", "the Kubernetes API server");
        let bind = || TcpListener::bind(self.address);
        let listener = match &self.namespace {
            Some(namespace) => namespace.enter(bind)?,
            None => bind(),
        };
        let listener = listener.map_err(refused())?;
        self.address = listener.local_addr().map_err(refused())?;
        let tls = self.identity.as_ref().map(|identity| Arc::clone(&identity.config));
        let router = routes::router(Arc::clone(&self.shared));
        self.running = Some(Running::start(listener, tls, router).map_err(refused())?);
        Ok(())
    }

    /// Where it is reached from its own network namespace.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate of its authority, PEM; `None` without TLS.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.authority.as_str())
    }

    /// A kubeconfig file that leads here from the same network namespace, with the authority and the token of now.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let authority = self.authority().map_or(String::new(), |pem| {
            format!("\n    certificate-authority-data: {}", STANDARD.encode(pem))
        });
        let user = match self.shared.settings().token {
            Some(token) => format!("{{ token: {} }}", Value::from(token)),
            None => "{}".to_owned(),
        };
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: testbed\n  cluster:\n    server: {}{authority}\n\
             users:\n- name: exporter\n  user: {user}\ncontexts:\n- name: testbed\n  context: {{ cluster: testbed, \
             user: exporter }}\ncurrent-context: testbed\n",
            self.url()
        )
    }

    /// Writes [`kubeconfig`](Self::kubeconfig) among the files of a cluster, for `--kubeconfig`.
    ///
    /// # Errors
    /// As [`Cluster::write_file`].
    pub fn write_kubeconfig(&self, cluster: &Cluster) -> Result<PathBuf, Error> {
        cluster.write_file("kubeconfig.yaml", &self.kubeconfig())
    }

    /// Creates or replaces an object and gives its version. Equal to what is there, it is no change. Under a known
    /// name and another UID it is another object: the old one is deleted before.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no pod, node or lease, or lacks a name. Nothing else is checked.
    pub fn apply(&self, object: impl Into<Value>) -> Result<u64, Error> {
        let object = object.into();
        self.shared.change_store(|store| store.apply(object))
    }

    /// Applies a JSON merge patch (RFC 7386) to an object and gives its version. A namespace does not matter to a
    /// node.
    ///
    /// # Errors
    /// [`Error::NoObject`].
    pub fn patch(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<u64, Error> {
        let key = key(resource, namespace, name);
        self.shared.change_store(|store| store.patch(&key, patch))
    }

    /// Deletes an object at once, as after its last finalizer, and gives the version of the deletion.
    ///
    /// # Errors
    /// [`Error::NoObject`].
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Result<u64, Error> {
        let key = key(resource, namespace, name);
        self.shared.change_store(|store| store.delete(&key))
    }

    /// Deletes a pod that has no grace left, be it the kubelet's last word or a deletion by force, and gives the version
    /// of the deletion. A server writes the end of the grace down before it takes the pod out, so there are two events
    /// (seen with 1.36).
    ///
    /// # Errors
    /// [`Error::NoObject`].
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<u64, Error> {
        let now = time::text(seconds_ago(0));
        let stamp = json!({ "metadata": { "deletionTimestamp": now, "deletionGracePeriodSeconds": 0 } });
        self.patch(Resource::Pods, namespace, name, &stamp)?;
        self.delete(Resource::Pods, namespace, name)
    }

    /// An object as it is now.
    #[must_use]
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Value> {
        self.shared.store().get(&key(resource, namespace, name))
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store().version()
    }

    /// Forgets the past: whoever resumes a watch, or continues a list, from before now gets 410 and must list again.
    /// Open watches go on. The version moves on by one, as if something else in the cluster had changed.
    pub fn compact(&self) {
        self.shared.change_store(store::Store::compact);
    }

    /// Changes how the server behaves.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.change_settings(change);
    }

    /// Ends all open watches well, as their timeout does.
    pub fn end_watches(&self) {
        self.shared.end_watches(|ends| ends.ended += 1);
    }

    /// Breaks all open watches off in the middle of their answer.
    pub fn cut_watches(&self) {
        self.shared.end_watches(|ends| ends.cut += 1);
    }

    /// Watches of a resource that are open now. One is open before its answer begins.
    #[must_use]
    pub fn watches_open(&self, resource: Resource) -> usize {
        self.shared.watches_open(resource)
    }

    /// Issues a token.
    #[must_use]
    pub fn issue(&self, token: Token) -> String {
        self.shared.issue(token)
    }

    /// The most token reviews that were under way at the same time.
    #[must_use]
    pub fn reviews_at_once(&self) -> usize {
        self.shared.reviews.most()
    }

    /// The last 65,536 requests, in the order of their answers; one that is stalled, when it came.
    #[must_use]
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.shared.requests()
    }
}

fn key(resource: Resource, namespace: &str, name: &str) -> Key {
    Key::new(resource, if resource.is_namespaced() { namespace } else { "" }, name)
}

/// The nodes and pods of the cluster's plan as Kubernetes objects, nodes first, under the names, addresses, zones and
/// workloads of [`topology::inventory`]; running for an hour.
#[must_use]
pub fn objects_of_cluster() -> Vec<Value> {
    let since = seconds_ago(3_600);
    let nodes = const { &topology::NODES }.iter().map(|node| {
        let node = Node::new(node.name, &node.addresses.both())
            .created(since)
            .zone(node.zone, topology::REGION)
            .pod_ranges(&node.pod_ranges);
        Value::from(&node)
    });
    let pods = const { &topology::PODS }.iter().filter_map(|pod| {
        let node = topology::node_named(pod.node)?;
        let workload = Workload::of_kind(pod.workload_kind, pod.workload)?;
        let pod = Pod::new(pod.namespace, pod.name)
            .uid(pod.uid)
            .created(since)
            .workload(workload)
            .scheduled(node.name, &node.addresses.both())
            .running(since, &pod.addresses.both());
        Some(Value::from(&pod))
    });
    nodes.chain(pods).collect()
}
