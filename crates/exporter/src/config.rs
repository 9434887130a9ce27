//! The command line. Every default is stated here, with its reason.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use egressd_service::args::normalise;
use egressd_service::duration::parse_go_duration;
use egressd_service::telemetry::parse_level;
use tracing::Level;

/// Exit code for a command line that cannot be (`EX_USAGE`, `sysexits.h`).
const EX_USAGE: u8 = 64;
/// Exit code for a configuration that cannot be; the same, since both are told before anything starts.
pub(crate) const EX_CONFIG: u8 = EX_USAGE;

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
    grpc_listen_port: u16,

    /// Port of health, metrics and /metrics/flows.
    #[arg(long, default_value_t = 6060)]
    http_listen_port: u16,

    /// How long a stop may take; below the 30 seconds that Kubernetes grants.
    #[arg(long, value_parser = grace, default_value = "25s")]
    pub(crate) grace: Duration,

    /// trace, debug, info, warn or error.
    #[arg(long, default_value = "info", value_parser = parse_level)]
    log_level: Level,

    /// Accepted for the original's charts; nothing is read from it yet.
    #[arg(long, hide = true)]
    kubeconfig: Option<PathBuf>,
}

impl Config {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(normalise(arguments, &["run", "check", "help"], &[]))
    }

    pub(crate) fn log_level(&self) -> Level {
        match &self.command {
            Command::Run(options) | Command::Check(options) => options.log_level,
        }
    }
}

impl Options {
    pub(crate) fn grpc_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.grpc_listen_port))
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.http_listen_port))
    }
}

/// Prints what was wrong, or the help that was asked for.
pub(crate) fn explain(usage: &clap::Error) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _unheard = usage.print();
    match usage.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EX_USAGE),
    }
}

fn grace(text: &str) -> Result<Duration, String> {
    parse_go_duration(text).map_err(|error| error.to_string())
}
