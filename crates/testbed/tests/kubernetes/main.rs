//! The fake Kubernetes API server answers as a real one, to the byte where that matters and to the real client.
//!
//! Only what runs in a cluster's namespaces needs root; the rest needs a free port of loopback.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod by_hand;
mod by_kube;
mod client;
mod either;
mod in_cluster;
mod leases;
mod singles;
mod tokens;

use std::net::IpAddr;
use std::time::Duration;

use egressd_testbed::kubernetes::{Access, KubernetesApi, Pod, seconds_ago};

const SOON: Duration = Duration::from_secs(10);
/// Long enough for what must not happen to have happened, were it to.
const SILENCE: Duration = Duration::from_millis(300);

fn plain() -> KubernetesApi {
    KubernetesApi::start_on_loopback(0, Access::Plain).unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A running pod of the namespace `shop` under a UID of its name.
fn pod(name: &str) -> Pod {
    Pod::new("shop", name)
        .uid(&format!("uid-of-{name}"))
        .created(seconds_ago(60))
        .scheduled("node-a", &addresses(&["172.18.0.2"]))
        .running(seconds_ago(50), &addresses(&["10.244.1.9", "fd00:10:244:1::9"]))
}

fn labelled(name: &str, step: &str) -> Pod {
    pod(name).label("step", step)
}
