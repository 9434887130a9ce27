//! The standard traffic of demo and tests: every class of destination, both families, every kind of conversation.
//!
//! Each class has pod pairs of its own, so that a flow's two ends say which class it is.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use crate::clock::wait_for;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::flows::FlowKey;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::{
    INTERNET, INTERNET_ADDRESSES, NODES, PODS, Pair, SERVER_PORT, SERVICE_ADDRESSES, SERVICE_PORT,
    SERVICE_WORKLOAD, node_at, node_named, pod_at, pod_named,
};
use crate::traffic::{Item, ItemReport, Kind, Plan};

const SERVERS_WITHIN: Duration = Duration::from_secs(10);
/// Senders end within an exchange, and an exchange within 20 s of silence.
const SENDERS_WITHIN: Duration = Duration::from_secs(45);
/// High enough that time is what bounds a plan: a day at the fastest pace.
const EXCHANGES_MAX: u64 = 1_000_000;

/// Where traffic goes, in the user's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Pod to pod on one node.
    SameNode,
    /// Pod to pod on nodes of two zones.
    CrossZone,
    /// Pod to a backend by the service's address.
    ClusterIp,
    /// A pod to itself by the service's address.
    Hairpin,
    /// Pod to the other node's own address.
    Node,
    /// Pod to the internet, masqueraded.
    Internet,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::SameNode, Self::CrossZone, Self::ClusterIp, Self::Hairpin, Self::Node, Self::Internet];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SameNode => "same-node",
            Self::CrossZone => "cross-zone",
            Self::ClusterIp => "cluster-ip",
            Self::Hairpin => "hairpin",
            Self::Node => "node",
            Self::Internet => "internet",
        })
    }
}

/// The class of a flow of the standard traffic; backends of the service are reached by its address only.
#[must_use]
pub fn class_of(key: &FlowKey) -> Class {
    let (Some(local), Some(remote)) = (pod_at(key.local), pod_at(key.remote)) else {
        return if node_at(key.remote).is_some() { Class::Node } else { Class::Internet };
    };
    if local.uid == remote.uid {
        Class::Hairpin
    } else if [local, remote].iter().any(|pod| pod.workload == SERVICE_WORKLOAD) {
        Class::ClusterIp
    } else if local.node == remote.node {
        Class::SameNode
    } else {
        Class::CrossZone
    }
}

/// The standard traffic: who sends what. `seconds` bounds every plan, `None` leaves it to [`Load::finish`].
#[must_use]
pub fn standard_plans(seconds: Option<u64>) -> Vec<(&'static str, Plan)> {
    let service = (SERVICE_ADDRESSES, SERVICE_PORT);
    let internet = (INTERNET_ADDRESSES, SERVER_PORT);
    let pod = |name| pod_named(name).map(|pod| (pod.addresses, SERVER_PORT));
    let node = |name| node_named(name).map(|node| (node.addresses, SERVER_PORT));
    let senders = [
        ("client-0", vec![pod("store-0"), pod("store-1"), node("node-b"), Some(internet)]),
        ("client-1", vec![Some(service), Some(internet)]),
        ("web-0", vec![Some(service)]),
    ];
    let plan = |destinations: Vec<Option<(Pair, u16)>>| {
        let addresses = |(pair, port): (Pair, u16)| pair.both().map(|address| SocketAddr::new(address, port));
        let items = destinations.into_iter().flatten().flat_map(addresses).flat_map(items_to).collect();
        Plan { seconds, items }
    };
    senders.map(|(sender, destinations)| (sender, plan(destinations))).into()
}

/// One item of every kind.
fn items_to(to: SocketAddr) -> impl Iterator<Item = Item> {
    Kind::ALL.into_iter().map(move |kind| {
        let (request_bytes, reply_bytes, pause_ms) = match kind {
            Kind::TcpLong => (40_000, 200_000, 250),
            Kind::TcpFin => (1_000, 9_000, 200),
            Kind::TcpRst => (2_000, 700, 200),
            Kind::UdpLong => (300, 1_200, 100),
            Kind::UdpShort => (120, 500, 150),
        };
        Item { kind, to, from_port: None, request_bytes, reply_bytes, pause_ms, exchanges_max: EXCHANGES_MAX }
    })
}

/// Traffic to both addresses of a pod that comes and goes, until its sender is told to end: every kind of conversation
/// but [`Kind::UdpShort`].
///
/// A conntrack entry of UDP outlives its socket by 30 s (`nf_conntrack_udp_timeout`), so of many short ones some would
/// get the ports of a predecessor's and go on with its entry, as no TCP connection does.
pub(crate) fn plan_between_lives(to: Pair) -> Plan {
    let items = to.both().into_iter().flat_map(|address| items_to(SocketAddr::new(address, SERVER_PORT)));
    let gentle = |item: Item| Item { pause_ms: item.pause_ms * 4, ..item };
    Plan { seconds: None, items: items.filter(|item| item.kind != Kind::UdpShort).map(gentle).collect() }
}

/// Traffic that is running: a server in every pod, on every node and on the internet, a sender for each plan.
#[derive(Debug)]
pub struct Load {
    senders: Vec<(&'static str, Sender)>,
    servers: Vec<Process>,
}

/// A sender that waits for its plan, or follows it.
#[derive(Debug)]
pub(crate) struct Sender {
    process: Process,
    plan: Plan,
    /// Closing it asks the sender to end.
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Load {
    /// Starts servers, waits for them, then starts the senders. `program` is `egressd-testbed`.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when a server gives up.
    pub fn start(cluster: &Cluster, program: &Path, plans: &[(&'static str, Plan)]) -> Result<Self, Error> {
        let places = PODS.iter().map(|pod| pod.name).chain(NODES.iter().map(|node| node.name));
        let places = places.chain([INTERNET]).map(|place| Ok((place, cluster.namespace(place)?)));
        let servers = start_servers(cluster, program, places.collect::<Result<_, Error>>()?)?;
        let senders = plans.iter().map(|(pod, plan)| {
            let mut sender = Sender::prepare(cluster, program, cluster.namespace(pod)?, pod, plan.clone())?;
            sender.begin()?;
            Ok((*pod, sender))
        });
        Ok(Self { senders: senders.collect::<Result<_, Error>>()?, servers })
    }

    /// That every sender and server still runs.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log for one that does not.
    pub fn check_running(&mut self) -> Result<(), Error> {
        let senders = self.senders.iter_mut().map(|(_, sender)| &mut sender.process);
        senders.chain(&mut self.servers).try_for_each(Process::check_running)
    }

    /// Asks the senders to end, waits for them and gives each pod's report.
    ///
    /// # Errors
    /// [`Error::Traffic`] when an exchange failed; [`Error::Timeout`] when a sender does not end.
    pub fn finish(self) -> Result<Vec<(&'static str, Vec<ItemReport>)>, Error> {
        self.finish_by(Sender::finish)
    }

    /// As [`finish`](Self::finish), where exchanges are expected to fail: the reports count them.
    ///
    /// # Errors
    /// [`Error::Timeout`] when a sender does not end.
    pub fn finish_with_failures(self) -> Result<Vec<(&'static str, Vec<ItemReport>)>, Error> {
        self.finish_by(Sender::finish_with_failures)
    }

    fn finish_by(
        mut self,
        finish: fn(Sender) -> Result<Vec<ItemReport>, Error>,
    ) -> Result<Vec<(&'static str, Vec<ItemReport>)>, Error> {
        for (_, sender) in &mut self.senders {
            sender.input = None;
        }
        self.senders.into_iter().map(|(pod, sender)| Ok((pod, finish(sender)?))).collect()
    }
}

impl Sender {
    /// Starts one in a namespace; `name` tells it from others in logs and errors. It sends nothing yet.
    pub(crate) fn prepare(
        cluster: &Cluster,
        program: &Path,
        namespace: &Namespace,
        name: &str,
        plan: Plan,
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.arg("send");
        let mut process = cluster.start_process_in(namespace, &format!("send-{name}"), command, true)?;
        let (input, output) = process.pipes();
        Ok(Self { process, plan, input, output })
    }

    /// It follows its plan from now on.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        let refused = || Error::os("write the plan of", self.process.name());
        let mut line = serde_json::to_string(&self.plan).map_err(|error| refused()(error.into()))?;
        line.push('\n');
        match &mut self.input {
            Some(input) => input.write_all(line.as_bytes()).map_err(refused()),
            None => Ok(()),
        }
    }

    /// Asks it to end, waits and gives its report, in which nothing failed.
    pub(crate) fn finish(self) -> Result<Vec<ItemReport>, Error> {
        let sender = self.process.name().to_owned();
        let reports = self.finish_with_failures()?;
        let failures = reports.iter().map(|report| report.failures).sum();
        match reports.iter().find_map(|report| report.first_failure.clone()) {
            Some(first) => Err(Error::Traffic { sender, failures, first }),
            None => Ok(reports),
        }
    }

    /// A report is far smaller than a pipe's 64 KiB, so that it never waits for its reader.
    fn finish_with_failures(mut self) -> Result<Vec<ItemReport>, Error> {
        self.input = None;
        let status = self.process.wait(SENDERS_WITHIN)?;
        let name = self.process.name().to_owned();
        if !status.success() {
            return Err(Error::Ended { name, status, log: self.process.log_tail() });
        }
        let mut text = String::new();
        if let Some(mut output) = self.output.take() {
            output.read_to_string(&mut text).map_err(Error::os("read the report of", &name))?;
        }
        serde_json::from_str(&text)
            .map_err(|_| Error::Malformed { what: "a report of traffic", found: text.clone() })
    }
}

/// Starts a server in each namespace under its name, and waits until all of them listen.
pub(crate) fn start_servers(
    cluster: &Cluster,
    program: &Path,
    places: Vec<(&str, &Namespace)>,
) -> Result<Vec<Process>, Error> {
    let start = |(place, namespace)| {
        let mut command = Command::new(program);
        command.args(["serve", "--port", &SERVER_PORT.to_string()]);
        let server = cluster.start_process_in(namespace, &format!("serve-{place}"), command, false)?;
        Ok((namespace, server))
    };
    let mut servers = places.into_iter().map(start).collect::<Result<Vec<_>, Error>>()?;
    for (namespace, server) in &mut servers {
        wait_for(server.name().to_owned().as_str(), SERVERS_WITHIN, || {
            server.check_running()?;
            let loopback = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), SERVER_PORT);
            let connected = namespace.enter(|| std::net::TcpStream::connect(loopback))?;
            Ok(connected.map(drop).map_err(|error| error.to_string()))
        })?;
    }
    Ok(servers.into_iter().map(|(_, server)| server).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the two ends of a flow tell its class.
    #[test]
    fn classes_follow_from_the_ends() {
        for (local, remote, class) in [
            ("10.244.1.3", "10.244.1.4", Class::SameNode),
            ("10.244.2.4", "10.244.1.3", Class::CrossZone),
            ("fd00:10:244:2::3", "fd00:10:244:1::2", Class::ClusterIp),
            ("10.244.1.2", "10.244.1.2", Class::Hairpin),
            ("10.244.1.3", "172.18.0.3", Class::Node),
            ("10.244.1.3", "203.0.113.10", Class::Internet),
        ] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let key = FlowKey::of(pod_at(local).unwrap(), local, remote, 6);
            assert_eq!(class_of(&key), class, "{key}");
        }
    }

    /// Goal: the standard traffic has every kind over both families from every sender.
    #[test]
    fn the_standard_plans_cover_every_kind_and_family() {
        for (sender, plan) in standard_plans(Some(1)) {
            for kind in Kind::ALL {
                for v6 in [false, true] {
                    let covered = plan.items.iter().any(|item| item.kind == kind && item.to.is_ipv6() == v6);
                    assert!(covered, "{sender} {kind:?} v6={v6}");
                }
            }
        }
    }
}
