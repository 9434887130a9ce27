//! The daemons under test, known by their command lines and by the text they publish.
//!
//! In a cluster the exporter runs in the control namespace, a collector in each node's. Both serve health and metrics on
//! every address of their namespace.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::books::{Books, books_in};
use crate::claims::flows_in;
use crate::clock::wait_for;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::exposition;
use crate::flows::Flows;
use crate::http;
use crate::namespace::Namespace;
use crate::process::{Process, Usage};
use crate::topology::{CONTROL, CONTROL_ADDRESSES, NODES, Node};

/// Where the exporter takes streams.
pub const GRPC_PORT: u16 = 6062;
/// Health, metrics and flows of the exporter.
pub const EXPORTER_HTTP_PORT: u16 = 6060;
/// Health and metrics of a collector.
pub const COLLECTOR_HTTP_PORT: u16 = 6061;
/// The exporter's configuration without any sink.
pub const CONFIG_WITHOUT_SINKS: &str = "exportInterval: 2s\nsinks: {}\n";
/// Of an exporter with a spool: the least there is.
const SPOOL_BYTES_MAX: &str = "1048576";
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Above the 25 s that a stop may take by default.
const END_WITHIN: Duration = Duration::from_secs(30);

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
    namespace: &'c Namespace,
    http_port: u16,
    process: Process,
    told_to_end: bool,
}

impl<'c> Daemon<'c> {
    /// Starts a program that serves health and metrics on `http_port` of `namespace`. Its output goes, appended, to
    /// `NAME.log` in `directory`.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn start(
        namespace: &'c Namespace,
        directory: &Path,
        name: &str,
        command: Command,
        http_port: u16,
    ) -> Result<Self, Error> {
        let process = Process::start(namespace, name, command, directory, false)?;
        Ok(Self { namespace, http_port, process, told_to_end: false })
    }

    /// Starts an exporter with the cluster's inventory, a configuration and what to add to the environment. A second
    /// one after the first has ended goes on in the same log.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn exporter(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self, Error> {
        Self::exporter_keeping(cluster, program, config, environment, None)
    }

    /// As [`exporter`](Self::exporter); with a directory for its spool.
    ///
    /// # Errors
    /// As there.
    pub fn exporter_keeping(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        config: &str,
        environment: &[(&str, &str)],
        spool: Option<&Path>,
    ) -> Result<Self, Error> {
        let inventory = cluster.write_file("inventory.yaml", &cluster.inventory())?;
        let mut command = Command::new(program);
        command.arg("run").arg("--inventory").arg(inventory).envs(environment.iter().copied());
        if let Some(spool) = spool {
            command.arg("--spool-dir").arg(spool).args(["--spool-bytes-max", SPOOL_BYTES_MAX]);
        }
        Self::start_exporter(cluster, command, config)
    }

    /// Starts an exporter that learns of the cluster from a Kubernetes API, by a kubeconfig file.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn exporter_by_kubeconfig(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        config: &str,
        kubeconfig: impl AsRef<OsStr>,
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.arg("run").arg("--kubeconfig").arg(kubeconfig);
        Self::start_exporter(cluster, command, config)
    }

    /// Writes another configuration in the place of the exporter's, which looks at it every 10 s.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be written.
    pub fn rewrite_config(cluster: &Cluster, config: &str) -> Result<PathBuf, Error> {
        cluster.write_file("config.yaml", config)
    }

    fn start_exporter(cluster: &'c Cluster, mut command: Command, config: &str) -> Result<Self, Error> {
        let config = Self::rewrite_config(cluster, config)?;
        command.arg("--config-path").arg(config);
        command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
        command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]);
        let control = cluster.namespace(CONTROL)?;
        Self::start(control, &cluster.directory(), "exporter", command, EXPORTER_HTTP_PORT)
    }

    /// Starts a collector on a node that reads every second, whatever that costs.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn collector(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        node: &'static str,
        more: &[&str],
    ) -> Result<Self, Error> {
        Self::collector_of_default_interval(
            cluster,
            program,
            node,
            &[&["--read-interval", "1s", "--cpu-percent-max", "100"], more].concat(),
        )
    }

    /// Starts a collector on a node that reads as often as it does by default.
    ///
    /// # Errors
    /// [`Error::Os`] when it does not start.
    pub fn collector_of_default_interval(
        cluster: &'c Cluster,
        program: impl AsRef<OsStr>,
        node: &'static str,
        more: &[&str],
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.args(["run", "--node-name", node]);
        command.args(["--exporter-address", &format!("{}:{GRPC_PORT}", CONTROL_ADDRESSES.v4)]);
        command.args(["--http-listen-port", &COLLECTOR_HTTP_PORT.to_string()]);
        if !more.contains(&"--ct-mode") {
            command.args(["--ct-mode", "netfilter"]);
        }
        command.args(["--log-level", "info"]).args(more);
        let name = format!("collector-{node}");
        Self::start(cluster.namespace(node)?, &cluster.directory(), &name, command, COLLECTOR_HTTP_PORT)
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when it gives up, [`Error::Timeout`] with its last answer.
    pub fn wait_ready(&mut self, within: Duration) -> Result<(), Error> {
        let Self { namespace, http_port, process, .. } = self;
        wait_for(&format!("readiness of {}", process.name()), within, || {
            process.check_running()?;
            Ok(match http::get(namespace, *http_port, "/readyz") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                Err(error) => Err(error.chain()),
            }
            .map_err(|seen| format!("{seen}\nits log ends with:\n{}", process.log_tail())))
        })
    }

    /// The body that it answers a GET of `path` with.
    ///
    /// # Errors
    /// [`Error::Status`] for another status than 200.
    pub fn get(&self, path: &str) -> Result<String, Error> {
        let body = http::get(self.namespace, self.http_port, path)?.ok(path)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What `/metrics/flows` says now. Only an exporter serves it.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line that is not understood.
    pub fn flows(&self) -> Result<Flows, Error> {
        flows_in(&self.get("/metrics/flows")?)
    }

    /// The sum of a metric's samples that carry all of `labels`; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a page that is not understood, or a value that is not whole.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<u64>, Error> {
        exposition::sum(&self.get("/metrics")?, name, labels)
    }

    /// The value of a metric without labels, which need not be whole; `None` when it is not published.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a page that is not understood, or a value that is no number.
    pub fn gauge(&self, name: &str) -> Result<Option<f64>, Error> {
        exposition::value(&self.get("/metrics")?, name)
    }

    /// The books of its stages.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a stage does not publish all that is in a book.
    pub fn books(&self) -> Result<Vec<Books>, Error> {
        books_in(&self.get("/metrics")?)
    }

    /// That it still runs, unless it was told to end.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when it gave up.
    pub fn check_running(&mut self) -> Result<(), Error> {
        if self.told_to_end { Ok(()) } else { self.process.check_running() }
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

    /// Tells it to end (SIGTERM) and waits for it to end well.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs after 30 s, [`Error::Ended`] for another status than 0.
    pub fn end(&mut self) -> Result<(), Error> {
        self.told_to_end = true;
        let status = self.process.terminate(END_WITHIN)?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Ended { name: self.process.name().to_owned(), status, log: self.process.log_tail() })
    }
}

/// One exporter and a collector on each node.
#[derive(Debug)]
pub struct Daemons<'c> {
    /// The exporter.
    pub exporter: Daemon<'c>,
    /// The collectors, in the order of [`NODES`].
    pub collectors: Vec<Daemon<'c>>,
}

impl<'c> Daemons<'c> {
    /// Prepares the nodes, starts all of them and waits until they are ready.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when one gives up, [`Error::Timeout`] when one is not ready after 30 s.
    pub fn start(
        cluster: &'c Cluster,
        programs: &Programs,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self, Error> {
        init_nodes(cluster, &programs.collector)?;
        let exporter = Daemon::exporter(cluster, &programs.exporter, config, environment)?;
        let start = |node: &Node| Daemon::collector(cluster, &programs.collector, node.name, &[]);
        let collectors = const { &NODES }.iter().map(start).collect::<Result<_, _>>()?;
        let mut daemons = Self { exporter, collectors };
        daemons.all_mut().try_for_each(|daemon| daemon.wait_ready(READY_WITHIN))?;
        Ok(daemons)
    }

    /// All of them, collectors first.
    pub fn all(&self) -> impl Iterator<Item = &Daemon<'c>> {
        self.collectors.iter().chain([&self.exporter])
    }

    /// All of them, collectors first.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Daemon<'c>> {
        self.collectors.iter_mut().chain([&mut self.exporter])
    }

    /// The collector of that node.
    #[must_use]
    pub fn collector(&self, node: &str) -> Option<&Daemon<'c>> {
        self.collectors.iter().find(|collector| collector.namespace.name() == node)
    }

    /// As [`Daemon::check_running`], for all.
    ///
    /// # Errors
    /// As there.
    pub fn check_running(&mut self) -> Result<(), Error> {
        self.all_mut().try_for_each(Daemon::check_running)
    }

    /// What each has used so far, by name.
    ///
    /// # Errors
    /// [`Error::Os`] when one has ended.
    pub fn usage(&self) -> Result<BTreeMap<String, Usage>, Error> {
        self.all().map(|daemon| Ok((daemon.process.name().to_owned(), daemon.usage()?))).collect()
    }

    /// The ends of their logs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let tail =
            |daemon: &Daemon<'_>| format!("{}:\n{}\n", daemon.process.name(), daemon.process.log_tail());
        self.all().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// Ends all, collectors first, so that the exporter takes their last batches.
    ///
    /// # Errors
    /// As [`Daemon::end`].
    pub fn end(&mut self) -> Result<(), Error> {
        self.all_mut().try_for_each(Daemon::end)
    }
}
