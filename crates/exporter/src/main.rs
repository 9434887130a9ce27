//! The central half: takes every node's batches once, names both ends, and writes to the sinks.

mod attribute;
mod bounds;
mod config;
mod deliver;
mod file;
mod follow;
mod keeper;
mod keys;
mod lease;
mod metrics;
mod nodes;
mod placement;
mod reference;
mod reload;
mod security;
mod sinks;
mod spool;
mod surroundings;
mod tokens;
mod wire;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use egressd_service::{args, lifecycle, telemetry};
use tracing::{error, info};

use crate::config::{Command, Config};
use crate::file::Doubts;
use crate::surroundings::Own;

fn main() -> ExitCode {
    let config = match Config::parse(env::args_os()) {
        Ok(config) => config,
        Err(usage) => return args::explain(&usage),
    };
    telemetry::install(config.log_level());
    let (options, is_check) = match config.command {
        Command::Run(options) => (options, false),
        Command::Check(options) => (options, true),
        Command::Reference => return args::print(&reference::markdown(&Config::command())),
    };
    let doubts = if is_check { Doubts::Refuse } else { Doubts::Warn };
    let loaded = match load(&options, doubts) {
        Ok(loaded) => loaded,
        Err(problem) => {
            error!(error = %lifecycle::chain(problem.as_ref()), "this configuration cannot be used");
            return ExitCode::from(args::EX_USAGE);
        }
    };
    if is_check {
        info!(sinks = loaded.file.sinks.len(), "this configuration can be used");
        return ExitCode::SUCCESS;
    }
    lifecycle::run(options.grace, |tasks| wire::wire(options, loaded, tasks))
}

/// Everything that is read before anything starts.
struct Loaded {
    file: file::Settings,
    source: file::Source,
    /// `None`: the Kubernetes API is asked.
    inventory: Option<egressd_enrich::Index>,
    /// `None` for a check.
    spool: Option<spool::Opened>,
    /// `None`: nobody stands by.
    candidate: Option<lease::Candidate>,
    security: security::Security,
}

fn read_inventory(path: &Path) -> anyhow::Result<egressd_enrich::inventory::Inventory> {
    egressd_enrich::inventory::load(path).with_context(|| format!("cannot use {}", path.display()))
}

fn load(options: &config::Options, doubts: Doubts) -> anyhow::Result<Loaded> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let environment = |name: &str| env::var(name).ok();
    let beside = lease::Beside {
        inventory: options.inventory.is_some(),
        spool_dir: options.spool.spool_dir.is_some(),
    };
    let candidate = options.lease.candidate(beside, options.grpc_listen_port, &Own)?;
    let security = options.security.security(options.inventory.is_some(), &Own)?;
    if doubts == Doubts::Refuse {
        security::check(&security, &options.security)?;
    }
    let source = file::read(options.config_path.as_deref())?;
    let file = file::understand(&source, doubts, &environment)
        .and_then(|settings| file::try_access(&source, &settings).map(|()| settings));
    let inventory = options.inventory.as_deref().map(read_inventory).transpose();
    let (file, inventory) = match (file, inventory) {
        (Ok(file), Ok(inventory)) => (file, inventory),
        (Err(one), Err(other)) => {
            anyhow::bail!("{}; and {}", lifecycle::chain(&one), lifecycle::chain(other.as_ref()))
        }
        (Err(error), Ok(_)) => return Err(error.into()),
        (Ok(_), Err(error)) => return Err(error),
    };
    // `run` reads it when it connects.
    if doubts == Doubts::Refuse
        && inventory.is_none()
        && let Some(Some(kubeconfig)) = &options.kubeconfig
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(egressd_enrich::kubernetes::check_kubeconfig(kubeconfig))?;
    }
    let spool = match doubts {
        Doubts::Refuse => spool::check(&options.spool).map(|()| None),
        Doubts::Warn => spool::open(&options.spool).map(Some),
    }?;
    let inventory = inventory.map(egressd_enrich::inventory::Inventory::into_index);
    Ok(Loaded { file, source, inventory, spool, candidate, security })
}
