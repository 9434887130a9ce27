//! The central half: takes every node's batches once, names both ends, and writes to the sinks.

mod attribute;
mod config;
mod deliver;
mod file;
mod metrics;
mod scopes;
mod wire;

use std::env;
use std::process::ExitCode;

use anyhow::Context as _;
use egressd_service::{args, lifecycle, telemetry};
use tracing::{error, info};

use crate::config::{Command, Config};

fn main() -> ExitCode {
    let config = match Config::parse(env::args_os()) {
        Ok(config) => config,
        Err(usage) => return args::explain(&usage),
    };
    telemetry::install(config.log_level());
    let (options, is_check) = match config.command {
        Command::Run(options) => (options, false),
        Command::Check(options) => (options, true),
    };
    let loaded = match load(&options) {
        Ok(loaded) => loaded,
        Err(problem) => {
            error!(error = %lifecycle::chain(problem.as_ref()), "this configuration cannot be used");
            return ExitCode::from(args::EX_USAGE);
        }
    };
    if is_check {
        info!(
            sinks = loaded.file.sinks.len(),
            nodes = loaded.index.nodes(),
            "this configuration can be used"
        );
        return ExitCode::SUCCESS;
    }
    lifecycle::run(options.grace, |tasks| wire::wire(options, loaded, tasks))
}

/// Everything that is read before anything starts.
struct Loaded {
    file: file::Settings,
    index: egressd_enrich::Index,
}

fn load(options: &config::Options) -> anyhow::Result<Loaded> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let environment = |name: &str| env::var(name).ok();
    let file = file::load(options.config_path.as_deref(), &environment)?;
    let inventory = options
        .inventory
        .as_deref()
        .context("this version names a cluster from a file only: pass --inventory FILE")?;
    let index = egressd_enrich::inventory::load(inventory)?;
    Ok(Loaded { file, index })
}
