//! A Kubernetes API on loopback for whoever has no cluster and wants to see the exporter watch one.
//!
//! Invariant: a file that is there already is never written to, as it may be the user's own kubeconfig; the one made
//! here goes when the server does.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use egressd_testbed::Error;
use egressd_testbed::kubernetes::{Access, KubernetesApi, Node, Pod, objects_of_cluster, seconds_ago};
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;

/// Where it listens, how it is reached, and who lives in the cluster that it tells of.
#[derive(Args)]
pub(crate) struct Pretence {
    /// The kubeconfig to write; it must not be there yet, and goes with the server
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Speak TLS and ask for this bearer token; plain HTTP without it
    #[arg(long)]
    token: Option<String>,
    /// The only node [default: the nodes and pods of the demo]
    #[arg(long, value_name = "NAME=ADDRESS")]
    node: Option<Named>,
    /// A pod on that node; may be repeated
    #[arg(long = "pod", value_name = "NAMESPACE/NAME=ADDRESS", requires = "node")]
    pods: Vec<PodNamed>,
}

/// `NAME=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    address: IpAddr,
}

/// `NAMESPACE/NAME=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodNamed {
    namespace: String,
    pod: Named,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("it has no =")?;
        let address = address.parse().map_err(|_| format!("{address} is no IP address"))?;
        if name.is_empty() {
            return Err("it has no name".to_owned());
        }
        Ok(Self { name: name.to_owned(), address })
    }
}

impl FromStr for PodNamed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, pod) = text.split_once('/').ok_or("it has no /")?;
        if namespace.is_empty() {
            return Err("it has no namespace".to_owned());
        }
        Ok(Self { namespace: namespace.to_owned(), pod: pod.parse()? })
    }
}

/// Serves until SIGINT or SIGTERM.
pub(crate) fn serve(pretence: Pretence) -> Result<(), Error> {
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let caught = |errno: nix::Error| os("wait for", "SIGINT")(errno.into());
    // Before any thread is there, so that none of them takes the signal.
    ends.thread_block().map_err(caught)?;

    let access = match pretence.token {
        Some(token) => Access::Secure { token },
        None => Access::Plain,
    };
    let api = KubernetesApi::start_on_loopback(pretence.port, access)?;
    for object in objects(pretence.node, &pretence.pods) {
        api.apply(object)?;
    }
    let path = pretence.kubeconfig;
    let name = path.display().to_string();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(os("create", &name))?;
    file.write_all(api.kubeconfig().as_bytes()).map_err(os("write", &name))?;
    let told = writeln!(io::stdout(), "{} until Ctrl-C; --kubeconfig {name} leads there", api.url());
    let ended = ends.wait().map_err(caught);
    fs::remove_file(&path).map_err(os("remove", &name))?;
    told.map_err(os("write to", "standard output"))?;
    ended.map(drop)
}

fn objects(node: Option<Named>, pods: &[PodNamed]) -> Vec<Value> {
    let Some(node) = node else { return objects_of_cluster() };
    let since = seconds_ago(3_600);
    let mut objects = vec![Value::from(Node::new(&node.name, &[node.address]))];
    objects.extend(pods.iter().map(|PodNamed { namespace, pod }| {
        let object = Pod::new(namespace, &pod.name).created(since);
        Value::from(object.scheduled(&node.name, &[node.address]).running(since, &[pod.address]))
    }));
    objects
}

fn os(action: &'static str, subject: &str) -> impl FnOnce(io::Error) -> Error {
    let subject = subject.to_owned();
    move |source| Error::Os { action, subject, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nodes and pods are read as they are written, and what is missing is said.
    #[test]
    fn nodes_and_pods_are_named_with_their_address() {
        let named =
            |name: &str, address: &str| Named { name: name.to_owned(), address: address.parse().unwrap() };
        assert_eq!("node-a=fd00::2".parse(), Ok(named("node-a", "fd00::2")));
        let pod = PodNamed { namespace: "shop".to_owned(), pod: named("web-0", "10.244.1.2") };
        assert_eq!("shop/web-0=10.244.1.2".parse(), Ok(pod));
        for (text, fault) in [
            ("web-0=10.244.1.2", "it has no /"),
            ("/web-0=10.244.1.2", "it has no namespace"),
            ("shop/web-0", "it has no ="),
            ("shop/=10.244.1.2", "it has no name"),
            ("shop/web-0=web", "web is no IP address"),
        ] {
            assert_eq!(text.parse::<PodNamed>(), Err(fault.to_owned()), "{text}");
        }
    }
}
