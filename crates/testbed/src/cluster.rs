//! The cluster: every namespace wired as [`topology`](crate::topology) plans it, and what can be done to it.
//!
//! Invariant: a cluster that exists is fully wired; there is no half-built one to clean up.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::geteuid;

use crate::error::Error;
use crate::flows::Flows;
use crate::forward::Forward;
use crate::http::{self, Response};
use crate::kubernetes;
use crate::namespace::Namespace;
use crate::network::{self, ACCOUNTING_SYSCTLS, ROUTER_SYSCTLS, SYSCTLS, TRUTH_TABLE};
use crate::process::Process;
use crate::residents::{Holder, Holders, Resident};
use crate::scratch::Scratch;
use crate::topology::{self, CONTROL, INTERNET, NODES, Node, PODS, Pair};
use crate::truth::{self, Counted};

/// What went over the wire so far, as flows of the pods of both nodes.
pub type Truth = Flows;

/// Two nodes, six pods, an internet host and a control namespace. Dropping it ends its port-forwards and lets go of
/// the namespaces, which end with their last process.
#[derive(Debug)]
pub struct Cluster {
    namespaces: BTreeMap<&'static str, Namespace>,
    scratch: Scratch,
    forwards: Mutex<Vec<Forward>>,
    register: Mutex<Register>,
}

/// Who is there, and the truth about those who left.
#[derive(Debug)]
struct Register {
    holders: Holders,
    past: Flows,
    moved_in: u32,
}

impl Cluster {
    /// Builds it. Takes well under a second.
    ///
    /// # Errors
    /// [`Error::NotRoot`] for another user; [`Error::Command`] when `ip` or `nft` refuse.
    pub fn start() -> Result<Self, Error> {
        let uid = geteuid();
        if !uid.is_root() {
            return Err(Error::NotRoot { uid: uid.as_raw() });
        }
        let nodes = NODES.iter().map(|node| node.name);
        let places = [CONTROL, INTERNET].into_iter().chain(nodes).chain(PODS.iter().map(|pod| pod.name));
        let namespaces = places
            .map(|place| Ok((place, Namespace::create(place)?)))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        let register = Register { holders: Holders::planned(), past: Flows::default(), moved_in: 0 };
        let cluster = Self {
            namespaces,
            scratch: Scratch::create()?,
            forwards: Mutex::new(Vec::new()),
            register: Mutex::new(register),
        };
        cluster.set_up_links()?;
        cluster.set_up_rules()?;
        Ok(cluster)
    }

    fn set_up_links(&self) -> Result<(), Error> {
        for namespace in self.namespaces.values() {
            set_sysctls(namespace, SYSCTLS)?;
        }
        let paths: BTreeMap<_, _> =
            self.namespaces.iter().map(|(place, inside)| (*place, inside.path())).collect();
        let path_of = |place: &str| paths.get(place).map_or(Path::new("/nonexistent"), PathBuf::as_path);

        set_sysctls(self.namespace(CONTROL)?, ROUTER_SYSCTLS)?;
        self.ip(CONTROL, &network::fabric_links(&path_of))?;
        self.ip(INTERNET, &network::internet_links())?;
        for node in &NODES {
            set_sysctls(self.namespace(node.name)?, ROUTER_SYSCTLS)?;
            self.ip(node.name, &network::node_links(node, &path_of))?;
            for pod in topology::pods_on(node.name) {
                self.ip(pod.name, &network::pod_links(pod.addresses, node))?;
            }
        }
        Ok(())
    }

    fn set_up_rules(&self) -> Result<(), Error> {
        for node in &NODES {
            self.nft(node.name, &network::node_rules(node))?;
        }
        Ok(())
    }

    fn ip(&self, place: &str, script: &str) -> Result<(), Error> {
        ip(self.namespace(place)?, script)
    }

    fn nft(&self, place: &str, script: &str) -> Result<(), Error> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.namespace(place)?.run(command, script.as_bytes()).map(drop)
    }

    /// The namespace of a node, a pod, [`CONTROL`] or [`INTERNET`], by its name.
    ///
    /// # Errors
    /// [`Error::UnknownPlace`].
    pub fn namespace(&self, place: &str) -> Result<&Namespace, Error> {
        self.namespaces.get(place).ok_or_else(|| Error::UnknownPlace(place.to_owned()))
    }

    /// Every namespace by its name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&'static str, &Namespace)> {
        self.namespaces.iter().map(|(place, namespace)| (*place, namespace))
    }

    /// The directory of this cluster's files, for programs of any namespace. Gone with the process.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.scratch.path()
    }

    /// Writes a file there and gives its path.
    ///
    /// # Errors
    /// [`Error::Os`] when the 512 MiB are used up.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        self.scratch.write(name, text)
    }

    /// Starts a program in `place`; its output goes, appended, to `NAME.log` in [`directory`](Self::directory).
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn spawn(&self, place: &str, name: &str, command: Command) -> Result<Process, Error> {
        self.start_process(place, name, command, false)
    }

    pub(crate) fn start_process(
        &self,
        place: &str,
        name: &str,
        command: Command,
        pipes: bool,
    ) -> Result<Process, Error> {
        self.start_process_in(self.namespace(place)?, name, command, pipes)
    }

    pub(crate) fn start_process_in(
        &self,
        namespace: &Namespace,
        name: &str,
        command: Command,
        pipes: bool,
    ) -> Result<Process, Error> {
        Process::start(namespace, name, command, &self.directory(), pipes)
    }

    /// Runs a program in `place` to its end and gives its standard output.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub fn run(&self, place: &str, command: Command) -> Result<Vec<u8>, Error> {
        self.namespace(place)?.run(command, &[])
    }

    /// A free port of the machine's 127.0.0.1 that leads to `port` of 127.0.0.1 in `place`, while this cluster lives.
    ///
    /// # Errors
    /// [`Error::Os`] when no port is free.
    pub fn forward(&self, place: &str, port: u16) -> Result<SocketAddr, Error> {
        let forward = Forward::start(self.namespace(place)?, port)?;
        let address = forward.address;
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner).push(forward);
        Ok(address)
    }

    /// GETs `path` from 127.0.0.1:`port` in `place`, whatever the status.
    ///
    /// # Errors
    /// [`Error::Os`] when nobody answers within 5 s, [`Error::Malformed`] when the answer is cut.
    pub fn http_get(&self, place: &str, port: u16, path: &str) -> Result<Response, Error> {
        http::get(self.namespace(place)?, port, path)
    }

    /// Sets a sysctl of a namespace, in the dotted spelling.
    ///
    /// # Errors
    /// [`Error::Os`] when the kernel has no such setting there.
    pub fn set_sysctl(&self, place: &str, name: &str, value: &str) -> Result<(), Error> {
        set_sysctls(self.namespace(place)?, &[(name, value)])
    }

    /// Switches on byte counters, start times and end events of conntrack on both nodes, for tests that run no
    /// collector. Holds for connections made later.
    ///
    /// # Errors
    /// [`Error::Os`] when the kernel lacks one of them.
    pub fn enable_accounting(&self) -> Result<(), Error> {
        NODES.iter().try_for_each(|node| set_sysctls(self.namespace(node.name)?, ACCOUNTING_SYSCTLS))
    }

    /// What both nodes have forwarded for their pods since the cluster was built, those that left included.
    ///
    /// # Errors
    /// [`Error::Truth`] when a counter does not fit the plan: then nothing is proven.
    pub fn truth(&self) -> Result<Truth, Error> {
        let register = self.register();
        let mut flows = register.past.clone();
        for node in &NODES {
            flows.merge(flows_of(node, &self.counters(node)?, &register.holders)?);
        }
        Ok(flows)
    }

    fn counters(&self, node: &Node) -> Result<Vec<Counted>, Error> {
        let mut command = Command::new("nft");
        command.args(["--json", "--numeric", "list", "table", "inet", TRUTH_TABLE]);
        let json = self.run(node.name, command)?;
        truth::counters(&json).map_err(|source| Error::Truth { node: node.name.to_owned(), source })
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new pod its network: a namespace, linked to `node`, under addresses that nobody has now.
    ///
    /// # Errors
    /// [`Error::Taken`]; [`Error::Truth`] when something is counted for the addresses already, which would be charged
    /// to the wrong pod; [`Error::Command`] when `ip` refuses.
    pub fn move_in(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        addresses: Pair,
    ) -> Result<Resident, Error> {
        self.truth()?;
        let node = topology::node_named(node).ok_or_else(|| Error::UnknownPlace(node.to_owned()))?;
        let holder = Holder { pod: format!("{namespace}/{name}"), node: node.name };
        let link = {
            let mut register = self.register();
            register.holders.move_in(addresses, &holder)?;
            register.moved_in += 1;
            format!("resident-{}", register.moved_in)
        };
        let namespace = Namespace::create(name)?;
        set_sysctls(&namespace, SYSCTLS)?;
        self.ip(node.name, &network::attach_pod(&link, addresses, node, &namespace.path()))?;
        ip(&namespace, &network::pod_links(addresses, node))?;
        Ok(Resident { node, addresses, link, namespace })
    }

    /// Takes a pod's network away, whose traffic has ended and whose programs with it, and gives what the nodes have
    /// forwarded from and to it: its own flows, and those of others with it. They stay part of [`truth`](Self::truth),
    /// and its addresses are free.
    ///
    /// # Errors
    /// [`Error::Command`] when `ip` or `nft` refuse, [`Error::Truth`] as in [`truth`](Self::truth).
    pub fn move_out(&self, resident: Resident) -> Result<Truth, Error> {
        let Resident { node, addresses, link, namespace } = resident;
        self.ip(node.name, &network::detach_pod(&link))?;
        drop(namespace);
        let mut register = self.register();
        let mut of_resident = Flows::default();
        for node in &NODES {
            let mut counters = self.counters(node)?;
            counters.retain(|counted| counted.involves(addresses));
            of_resident.merge(flows_of(node, &counters, &register.holders)?);
            self.nft(node.name, &counters.iter().map(Counted::delete).collect::<String>())?;
        }
        register.past.merge(of_resident.clone());
        register.holders.move_out(addresses);
        Ok(of_resident)
    }

    /// From now on the nodes' own traffic, which is the stream to the exporter on `port` and what asks a collector over
    /// loopback, is not tracked: then all that a collector meters is in the [`truth`](Self::truth).
    ///
    /// # Errors
    /// [`Error::Command`] when nft refuses.
    pub fn leave_untracked(&self, port: u16) -> Result<(), Error> {
        NODES.iter().try_for_each(|node| self.nft(node.name, &network::untracked_rules(port)))
    }

    /// Drops every packet of a node's stream to the exporter on `port`, both ways, from now on.
    ///
    /// # Errors
    /// [`Error::Command`] when it is cut already.
    pub fn cut_stream(&self, node: &str, port: u16) -> Result<(), Error> {
        self.nft(node, &network::cut_rules(port))
    }

    /// Lets the stream through again.
    ///
    /// # Errors
    /// [`Error::Command`] when nft refuses.
    pub fn restore_stream(&self, node: &str) -> Result<(), Error> {
        self.nft(node, &network::restore_rules())
    }

    /// The static inventory of this cluster, as the exporter's `--inventory` takes it.
    #[must_use]
    pub fn inventory(&self) -> String {
        topology::inventory()
    }

    /// The same nodes and pods as Kubernetes objects, for [`KubernetesApi::apply`](crate::kubernetes::KubernetesApi::apply).
    #[must_use]
    pub fn kubernetes_objects(&self) -> Vec<serde_json::Value> {
        kubernetes::objects_of_cluster()
    }
}

fn flows_of(node: &Node, counters: &[Counted], holders: &Holders) -> Result<Flows, Error> {
    truth::flows_of(node, counters, holders)
        .map_err(|source| Error::Truth { node: node.name.to_owned(), source })
}

fn ip(namespace: &Namespace, script: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    namespace.run(command, script.as_bytes()).map(drop)
}

fn set_sysctls(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<(), Error> {
    let set = |(name, value): &(&str, &str)| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value).map_err(Error::os("write", &path))
    };
    namespace.enter(|| settings.iter().try_for_each(set))?
}
