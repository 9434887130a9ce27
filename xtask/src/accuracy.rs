//! `cargo xtask accuracy`: set-up, a build, then the testbed's matrix of scenarios in our place.
//!
//! The short form is a step of `cargo xtask test`, on the binaries that were built for it.
//! Stdout carries the matrix and nothing else.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, setup};

/// What is handed on to the testbed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The form that `cargo xtask test` runs: fewer seconds, one read interval, no change of the machine's settings
    #[arg(long)]
    short: bool,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Runs the matrix on release binaries. Returns only when it could not be started: the testbed replaces this
/// process.
///
/// # Errors
///
/// When set-up or the build fails, or the testbed cannot be started.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::run()?;
    process::build_release(workspace)?;
    let error = args.command(workspace, "release").exec();
    Err(error).context("start `egressd-testbed`")
}

/// Runs the short form on the development profile's binaries, which must have been built.
///
/// # Errors
///
/// When a scenario is further from the truth than it may be.
pub(crate) fn short(workspace: &Workspace) -> Result<()> {
    process::run(&mut Args { short: true, json: false }.command(workspace, "debug"))
}

impl Args {
    fn command(&self, workspace: &Workspace, profile: &str) -> Command {
        let mut command = process::clean(workspace.target.join(profile).join("egressd-testbed"));
        command.arg("accuracy");
        command.args(
            [("--short", self.short), ("--json", self.json)].iter().filter(|flag| flag.1).map(|flag| flag.0),
        );
        command
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Goal: the testbed of the profile is asked for exactly what the user asked for.
    #[test]
    fn arguments_are_handed_on_to_the_testbed() {
        let workspace =
            Workspace { root: PathBuf::new(), target: PathBuf::from("/target"), packages: Vec::new() };
        for (short, json, expected) in [
            (false, false, vec!["accuracy"]),
            (true, false, vec!["accuracy", "--short"]),
            (true, true, vec!["accuracy", "--short", "--json"]),
        ] {
            let command = Args { short, json }.command(&workspace, "debug");
            assert_eq!(command.get_args().collect::<Vec<_>>(), expected);
            assert_eq!(command.get_program(), "/target/debug/egressd-testbed");
        }
    }
}
