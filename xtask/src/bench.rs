//! `cargo xtask bench`: set-up, a release build of the bench, then the bench in our place.
//!
//! Stdout carries the bench's output and nothing else, so a program can read it.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, setup};

/// What is handed on to the bench, which knows its own options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `collect [--entries N] [--json]`, `events [--rate N] [--json]`; with `--help` it says more
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
    let build = ["build", "--release", "--package", "egressd-bench"];
    process::run(process::chatter(&mut process::cargo(&workspace.root, &build)))?;

    let bench = workspace.target.join("release/egressd-bench");
    let error = process::clean(&bench).args(&args.arguments).exec();
    Err(error).with_context(|| format!("start `{}`", bench.display()))
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

    /// Goal: the bench is asked for exactly what the user asked for, options and a call for help included.
    #[test]
    fn arguments_are_handed_on_to_the_bench() {
        for line in ["collect", "collect --entries 10000 --json", "events --rate 5", "collect --help"] {
            let parsed = Line::try_parse_from(["bench"].into_iter().chain(line.split(' '))).unwrap();
            assert_eq!(parsed.args.arguments.join(" "), line);
        }
        assert!(Line::try_parse_from(["bench"]).is_err());
    }
}
