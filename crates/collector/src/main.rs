//! The node half: reads connection tracking, meters it, and sends it to the exporter. It has no Kubernetes access.

mod check;
mod checkpoint;
mod config;
mod diagnosis;
mod dump;
mod journal;
mod kept;
mod metrics;
mod names;
mod namespace;
mod pace;
mod reader;
mod reference;
mod source;
mod stream;
mod twins;
mod usage;
mod wire;

use std::env;
use std::process::ExitCode;

use clap::CommandFactory as _;
use egressd_conntrack::netfilter::sysctl;
use egressd_service::{args, lifecycle, telemetry};
use tracing::{error, info};

use crate::config::{Command, Config};

fn main() -> ExitCode {
    let config = match Config::parse(env::args_os()) {
        Ok(config) => config,
        Err(usage) => return args::explain(&usage),
    };
    telemetry::install(config.log_level());
    match config.command {
        Command::Run(run) => lifecycle::run(run.grace, |tasks| wire::wire(run, tasks)),
        Command::Dump(options) => report(dump::dump(&options)),
        Command::Init(options) => report(init(&options)),
        Command::Check(options) => check::check(&options),
        Command::Reference => args::print(&reference::markdown(&Config::command())),
    }
}

fn init(options: &config::InitOptions) -> anyhow::Result<()> {
    namespace::enter_host(options.host_pid)?;
    let state = sysctl::init()?;
    info!(
        nf_conntrack_acct = state.acct,
        nf_conntrack_timestamp = state.timestamp,
        nf_conntrack_events = state.events,
        "connection tracking counts"
    );
    Ok(())
}

fn report(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %lifecycle::chain(error.as_ref()), "failed");
            ExitCode::FAILURE
        }
    }
}
