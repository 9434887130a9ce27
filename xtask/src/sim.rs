//! `cargo xtask sim`: a release build of the simulation, then it in our place.
//!
//! The short form is a step of `cargo xtask test`, on the binary that was built for it.
//! Stdout carries the simulation's output and nothing else.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

/// Seeds of the short form: some 20 seconds on two cores, on the development profile.
const SHORT: &str = "300";

/// What is handed on to the simulation.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds, from 0 on; 2,000 when absent
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<u64>,
    /// One seed, with every event of its history
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs histories on the release profile. Returns only when the simulation could not be started: it replaces this process.
///
/// # Errors
///
/// When the build fails, or the simulation cannot be started.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let build = ["build", "--release", "--package", "egressd-sim"];
    process::run(process::chatter(&mut process::cargo(&workspace.root, &build)))?;
    let error = process::clean(binary(workspace, "release")).args(args.handed_on()).exec();
    Err(error).context("start `egressd-sim`")
}

/// Runs the short form on the development profile's binary, which must have been built.
///
/// # Errors
///
/// When a history went where none may.
pub(crate) fn short(workspace: &Workspace) -> Result<()> {
    process::run(process::clean(binary(workspace, "debug")).args(["--seeds", SHORT]))
}

fn binary(workspace: &Workspace, profile: &str) -> PathBuf {
    workspace.target.join(profile).join("egressd-sim")
}

impl Args {
    fn handed_on(&self) -> Vec<String> {
        let flags = [("--seeds", self.seeds), ("--seed", self.seed)];
        flags
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.to_owned(), value?.to_string()]))
            .flatten()
            .collect()
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

    /// Goal: the simulation is asked for exactly what the user asked for.
    #[test]
    fn arguments_are_handed_on_to_the_simulation() {
        for (line, expected) in
            [("", vec![]), ("--seeds 7", vec!["--seeds", "7"]), ("--seed 0", vec!["--seed", "0"])]
        {
            let parsed = Line::try_parse_from(["sim"].into_iter().chain(line.split_whitespace())).unwrap();
            assert_eq!(parsed.args.handed_on(), expected, "{line}");
        }
        assert!(Line::try_parse_from(["sim", "--seed", "1", "--seeds", "2"]).is_err());
    }
}
