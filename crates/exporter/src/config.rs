//! The command line. Every default is stated here, with its reason.

use std::ffi::OsString;
use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, value_parser};
use egressd_service::args::{normalise, parse_go_bool};
use egressd_service::duration::parse_go_duration;
use egressd_service::telemetry::parse_level;
use egressd_spool::SpoolConfig;
use ipnet::IpNet;
use tracing::Level;

use crate::lease::LeaseOptions;
use crate::placement::{Placement, parse_placement};
use crate::security::SecurityOptions;

/// Names both ends of every flow and writes to the sinks.
#[derive(Debug, Parser)]
#[command(name = "egressd-exporter", version)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take batches and write to the sinks until SIGTERM.
    Run(Box<Options>),
    /// Read the configuration, say what is wrong with it, and exit.
    Check(Box<Options>),
    /// Print every flag and every key of the configuration as Markdown, and exit.
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The configuration file; /etc/egressd/config/config.yaml when it is there, else none.
    #[arg(long)]
    pub(crate) config_path: Option<PathBuf>,

    /// A cluster written down in a file, in place of the Kubernetes API.
    #[arg(long)]
    pub(crate) inventory: Option<PathBuf>,

    /// Port of the collectors' streams.
    #[arg(long, default_value_t = 6062)]
    pub(crate) grpc_listen_port: u16,

    /// Port of health, metrics and /metrics/flows.
    #[arg(long, default_value_t = 6060)]
    pub(crate) http_listen_port: u16,

    /// Address and port of the flow subscription, off the network by default; empty: there is none.
    #[arg(long, default_value = "127.0.0.1:6063", value_parser = parse_listen)]
    pub(crate) flows_listen: Listen,

    /// Time between two reads of conntrack for collectors that were not told one; theirs is 15s.
    #[arg(long, value_parser = parse_go_duration)]
    pub(crate) collector_read_interval: Option<Duration>,

    /// How long a stop may take; below the 30 seconds that Kubernetes grants.
    #[arg(long, value_parser = parse_go_duration, default_value = "25s")]
    pub(crate) grace: Duration,

    /// trace, debug, info, warn or error.
    #[arg(long, default_value = "info", value_parser = parse_level)]
    log_level: Level,

    #[command(flatten)]
    pub(crate) spool: SpoolOptions,

    /// How to reach the Kubernetes API from outside of its cluster.
    #[arg(long, num_args = 0..=1)]
    pub(crate) kubeconfig: Option<Option<PathBuf>>,

    /// Ranges that are the cluster's beside those of its nodes: services, load balancers, what is routed to it.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cluster_ranges: Vec<IpNet>,

    /// Measure pods on their node's network too, as their node: no address tells one from another. Off, as in the
    /// original.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    pub(crate) host_network_pods: bool,

    /// Where collectors run, as JSON: `nodeSelector`, `affinity` and `tolerations` as the spec of their pods has them. A node
    /// that these leave out is not missed. Without it every node is.
    #[arg(long, value_name = "JSON", value_parser = parse_placement)]
    pub(crate) collectors_on: Option<Placement>,

    /// Bytes of the DNS names that collectors saw, of all nodes together; above it those go that would hold the shortest.
    #[arg(long, default_value_t = 128 << 20)]
    pub(crate) dns_names_bytes_max: usize,

    #[command(flatten)]
    pub(crate) lease: LeaseOptions,

    #[command(flatten)]
    pub(crate) security: SecurityOptions,
}

/// An address to listen on; `None`: nowhere.
pub(crate) type Listen = Option<SocketAddr>;

fn parse_listen(text: &str) -> Result<Listen, AddrParseError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

#[derive(Debug, Args)]
pub(crate) struct SpoolOptions {
    /// Where to keep what is taken and not yet accepted by every sink, and each sink's totals, so that a restart goes on
    /// where this process ended: a directory of its own, on a volume that outlives the pod. Without it collectors keep
    /// what is not accepted, and totals begin anew at a restart.
    #[arg(long)]
    pub(crate) spool_dir: Option<PathBuf>,

    /// Bytes of batches that are kept for sinks that do not keep up, 1 MiB at least; above it the oldest are let go, counted.
    /// 1 GiB in a directory, where totals and one segment come on top; 64 MiB of memory without one.
    #[arg(long, value_parser = value_parser!(u64).range(1 << 20..))]
    pub(crate) spool_bytes_max: Option<u64>,

    /// How long a batch is kept for sinks that do not take it; an older one is let go, counted.
    #[arg(long, value_parser = age, default_value = "24h")]
    pub(crate) spool_age_max: Duration,
}

impl SpoolOptions {
    /// A quarter of an hour of 5,000 nodes with 100 records every 15 s, or 13 hours of 100, at the 33.5 bytes a record that
    /// the spool measures.
    const ON_DISK_BYTES_MAX: u64 = 1 << 30;
    /// Sinks take batches at once and keep totals instead, so it is passed through only.
    const IN_MEMORY_BYTES_MAX: u64 = 64 << 20;

    /// The bounds.
    pub(crate) fn config(&self) -> SpoolConfig {
        let default =
            if self.spool_dir.is_some() { Self::ON_DISK_BYTES_MAX } else { Self::IN_MEMORY_BYTES_MAX };
        SpoolConfig { bytes_max: self.spool_bytes_max.unwrap_or(default), age_max: self.spool_age_max }
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let age = parse_go_duration(text).map_err(|error| error.to_string())?;
    if age.is_zero() { Err("nothing could be kept for no time".to_owned()) } else { Ok(age) }
}

impl Config {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(normalise(arguments, &["run", "check", "reference", "help"], &[]))
    }

    pub(crate) fn log_level(&self) -> Level {
        match &self.command {
            Command::Run(options) | Command::Check(options) => options.log_level,
            Command::Reference => Level::INFO,
        }
    }
}
