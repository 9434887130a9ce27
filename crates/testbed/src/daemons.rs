//! The daemons under test, known by their command lines and by the text they publish.
//!
//! The exporter runs in the control namespace, a collector in each node's. Both serve health and metrics on every
//! address of their namespace.

use std::env;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::clock::wait_for;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::exposition::{self, Sample};
use crate::flows::{FlowKey, Flows, Volume};
use crate::process::{Process, Usage};
use crate::topology::{CONTROL, CONTROL_ADDRESSES, NODES};

/// Where the exporter takes streams.
pub const GRPC_PORT: u16 = 6062;
/// Health, metrics and flows of the exporter.
pub const EXPORTER_HTTP_PORT: u16 = 6060;
/// Health and metrics of a collector.
pub const COLLECTOR_HTTP_PORT: u16 = 6061;
/// The exporter's configuration without any sink.
pub const CONFIG_WITHOUT_SINKS: &str = "exportInterval: 2s\nsinks: {}\n";

const TRANSMITTED: &str = "egressd_transmit_bytes_total";
const RECEIVED: &str = "egressd_received_bytes_total";

/// The three programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `egressd-testbed`, for the traffic.
    pub testbed: PathBuf,
    /// `egressd-collector`.
    pub collector: PathBuf,
    /// `egressd-exporter`.
    pub exporter: PathBuf,
}

impl Programs {
    /// Those that were built with the running one: in its directory, or above it for a test in `deps/`.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] for the first that is not there.
    pub fn beside_current_exe() -> Result<Self, Error> {
        Ok(Self {
            testbed: beside_current_exe("egressd-testbed")?,
            collector: beside_current_exe("egressd-collector")?,
            exporter: beside_current_exe("egressd-exporter")?,
        })
    }
}

/// One program in the directory of the running one, or above it for a test in `deps/`.
///
/// # Errors
/// [`Error::MissingProgram`] when it is in neither.
pub fn beside_current_exe(name: &str) -> Result<PathBuf, Error> {
    let current = env::current_exe().map_err(Error::os("find", "the running executable"))?;
    let candidates = current.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let mut searched = PathBuf::new();
    for candidate in candidates {
        if candidate.is_file() {
            return Ok(candidate);
        }
        searched = candidate;
    }
    Err(Error::MissingProgram { name: name.to_owned(), searched })
}

/// Runs `egressd-collector init` on both nodes; it must come before the first connection that is to be counted.
///
/// # Errors
/// [`Error::Command`] with its words when it fails.
pub fn init_nodes(cluster: &Cluster, collector: impl AsRef<OsStr>) -> Result<(), Error> {
    NODES.iter().try_for_each(|node| {
        let mut command = Command::new(collector.as_ref());
        command.arg("init");
        cluster.run(node.name, command).map(drop)
    })
}

/// A daemon that was started.
#[derive(Debug)]
pub struct Daemon<'c> {
    cluster: &'c Cluster,
    place: &'static str,
    http_port: u16,
    process: Process,
}

impl<'c> Daemon<'c> {
    /// Starts an exporter with the cluster's inventory and a configuration. A second one after the first has ended
    /// goes on in the same log.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn exporter(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        config: &str,
        more: &[&str],
    ) -> Result<Self, Error> {
        let inventory = cluster.write_file("inventory.yaml", &cluster.inventory())?;
        let config = cluster.write_file("config.yaml", config)?;
        let mut command = Command::new(program);
        command.arg("run").arg("--inventory").arg(inventory).arg("--config-path").arg(config);
        command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
        command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]).args(more);
        let process = cluster.spawn(CONTROL, "exporter", command)?;
        Ok(Self { cluster, place: CONTROL, http_port: EXPORTER_HTTP_PORT, process })
    }

    /// Starts a collector on a node.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn collector(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        node: &'static str,
        more: &[&str],
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.args(["run", "--node-name", node]);
        command.args(["--exporter-address", &format!("{}:{GRPC_PORT}", CONTROL_ADDRESSES.v4)]);
        command.args(["--read-interval", "1s", "--http-listen-port", &COLLECTOR_HTTP_PORT.to_string()]);
        command.args(["--ct-mode", "netfilter", "--log-level", "info"]).args(more);
        let process = cluster.spawn(node, &format!("collector-{node}"), command)?;
        Ok(Self { cluster, place: node, http_port: COLLECTOR_HTTP_PORT, process })
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when it gives up, [`Error::Timeout`] with its last answer.
    pub fn wait_ready(&mut self, within: Duration) -> Result<(), Error> {
        let Self { cluster, place, http_port, process } = self;
        wait_for(&format!("readiness of {}", process.name()), within, || {
            process.check_running()?;
            Ok(match cluster.http_get(place, *http_port, "/readyz") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                Err(error) => Err(error.chain()),
            })
        })
    }

    /// The body that it answers a GET of `path` with.
    ///
    /// # Errors
    /// [`Error::Status`] for another status than 200.
    pub fn get(&self, path: &str) -> Result<String, Error> {
        let body = self.cluster.http_get(self.place, self.http_port, path)?.ok(path)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What `/metrics/flows` says now. Only an exporter serves it.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line that is not understood.
    pub fn flows(&self) -> Result<Flows, Error> {
        flows_in(&self.get("/metrics/flows")?)
    }

    /// The process, for its log and signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// [`Error::Os`] when it has ended.
    pub fn usage(&self) -> Result<Usage, Error> {
        self.process.usage()
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs after `within`.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus, Error> {
        self.process.terminate(within)
    }
}

/// Flows in the text of `/metrics/flows`, summed over labels that are not part of a flow's key.
///
/// # Errors
/// [`Error::Malformed`] with the line that is not understood.
pub fn flows_in(text: &str) -> Result<Flows, Error> {
    let malformed = |found| Error::Malformed { what: "/metrics/flows", found };
    let mut flows = Flows::default();
    for sample in exposition::parse(text).map_err(malformed)? {
        let is_transmit = match sample.name.as_str() {
            TRANSMITTED => true,
            RECEIVED => false,
            _ => continue,
        };
        let (Some(key), Some(bytes)) = (key_of(&sample), sample.whole()) else {
            return Err(malformed(format!("{sample:?}")));
        };
        let volume = if is_transmit {
            Volume { tx_bytes: bytes, ..Volume::default() }
        } else {
            Volume { rx_bytes: bytes, ..Volume::default() }
        };
        flows.add(key, volume);
    }
    Ok(flows)
}

/// A missing name is kept as an empty one, which no true flow has.
fn key_of(sample: &Sample) -> Option<FlowKey> {
    let address = |label| sample.label(label)?.parse::<IpAddr>().ok();
    let pod = |namespace, name| Some(format!("{}/{}", sample.label(namespace)?, sample.label(name)?));
    Some(FlowKey {
        node: sample.label("src_node").unwrap_or_default().to_owned(),
        pod: pod("src_namespace", "src_pod").unwrap_or_default(),
        local: address("src_ip")?,
        remote: address("dst_ip")?,
        remote_pod: pod("dst_namespace", "dst_pod"),
        protocol: match sample.label("proto")? {
            "TCP" => 6,
            "UDP" => 17,
            "ICMP" => 1,
            "ICMPv6" => 58,
            "ANY" => 0,
            number => number.parse().ok()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::PODS;

    /// Goal: exported series become flows under the names they carry, summed over what a key does not tell apart.
    #[test]
    fn series_become_flows() {
        let labels = "dst_ip=\"10.244.1.3\",dst_namespace=\"shop\",dst_pod=\"client-0\",proto=\"TCP\",\
                      src_ip=\"10.244.1.2\",src_namespace=\"shop\",src_node=\"node-a\",src_pod=\"web-0\"";
        let text = format!(
            "# TYPE egressd_transmit_bytes counter\negressd_transmit_bytes_total{{{labels}}} 10\n\
             egressd_transmit_bytes_total{{{labels},cross_zone=\"false\"}} 5\n\
             egressd_received_bytes_total{{{labels}}} 7\nup 1\n# EOF\n"
        );
        let [web, client, ..] = &PODS;
        let key = FlowKey::of(web, web.addresses.v4.into(), client.addresses.v4.into(), 6);
        let mut expected = Flows::default();
        expected.add(key.clone(), Volume { tx_bytes: 15, rx_bytes: 7, ..Volume::default() });
        assert_eq!(flows_in(&text).unwrap(), expected);

        let nameless = text.replace("dst_pod=\"client-0\",", "");
        let keys: Vec<_> = flows_in(&nameless).unwrap().0.into_keys().collect();
        assert_eq!(keys, [FlowKey { remote_pod: None, ..key }]);
    }

    /// Goal: a series that cannot be a flow is an error, never left out.
    #[test]
    fn a_series_without_addresses_is_an_error() {
        for text in [
            "egressd_transmit_bytes_total{proto=\"TCP\"} 10",
            "egressd_received_bytes_total{proto=\"TCP\",src_ip=\"10.0.0.1\",dst_ip=\"10.0.0.2\"} 1.5",
            "egressd_transmit_bytes_total{",
        ] {
            assert!(matches!(flows_in(text), Err(Error::Malformed { .. })), "{text}");
        }
    }
}
