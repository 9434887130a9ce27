//! `cargo xtask bench`: set-up, a release build of the bench and of the daemons that it starts, then the bench in our
//! place.
//!
//! Stdout carries the bench's output and nothing else, so a program can read it.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, setup};

/// What is handed on to the bench, which knows its own options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `cilium [--entries N] [--json]`, `collect [--entries N] [--json]`, `collector [--entries N] [--seconds N] [--cpu-percent-max N] [--json]`,
    /// `events [--rate N] [--json]`, `ebpf [--packets N] [--entries N] [--json]`; with `--help` it says more
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    arguments: Vec<String>,
}

/// Runs the bench. Returns only when it could not be started: the bench replaces this process.
///
/// # Errors
///
/// When set-up or the build fails, or the bench cannot be started.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::run()?;
    let mut build = vec!["build", "--release"];
    build.extend(args.packages().iter().flat_map(|package| ["--package", package]));
    process::run(process::chatter(&mut process::cargo(&workspace.root, &build)))?;

    let bench = workspace.target.join("release/egressd-bench");
    let error = process::clean(&bench).args(&args.arguments).exec();
    Err(error).with_context(|| format!("start `{}`", bench.display()))
}

impl Args {
    /// The bench, and the daemons for the benches that start them.
    fn packages(&self) -> &'static [&'static str] {
        match self.arguments.first().map(String::as_str) {
            Some("collector" | "events") => &["egressd-bench", "egressd-collector", "egressd-exporter"],
            _ => &["egressd-bench"],
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Goal: the bench is asked for exactly what the user asked for, options and a call for help included, and daemons
    /// are built for the benches that start them alone.
    #[test]
    fn arguments_are_handed_on_to_the_bench() {
        for (line, packages) in [
            ("collect", 1),
            ("collect --entries 10000 --json", 1),
            ("collector --seconds 5", 3),
            ("events --rate 5", 3),
            ("ebpf --entries 500", 1),
            ("collect --help", 1),
        ] {
            let parsed = Line::try_parse_from(["bench"].into_iter().chain(line.split(' '))).unwrap();
            assert_eq!(
                (parsed.args.arguments.join(" ").as_str(), parsed.args.packages().len()),
                (line, packages)
            );
        }
        assert!(Line::try_parse_from(["bench"]).is_err());
    }
}
