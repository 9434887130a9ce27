//! `cargo xtask demo`: set-up, a release build, then the testbed in our place.
//!
//! Stdout carries the demo's output and nothing else, so its last line can be read by a program.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, setup};

/// What is handed on to the testbed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End by itself after this many seconds of traffic; without it, run until interrupted
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// End with one JSON object on the last line of stdout
    #[arg(long)]
    json: bool,
}

/// Runs the demo. Returns only when it could not be started: the testbed replaces this process, so signals and
/// its exit code go straight through.
///
/// # Errors
///
/// When set-up or the build fails, or the testbed cannot be started.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::run()?;
    process::build_release(workspace)?;

    let testbed = workspace.target.join("release/egressd-testbed");
    let error = process::clean(&testbed).args(args.to_arguments()).exec();
    Err(error).with_context(|| format!("start `{}`", testbed.display()))
}

impl Args {
    fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["demo".to_owned()];
        if let Some(seconds) = self.seconds {
            arguments.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        if self.json {
            arguments.push("--json".to_owned());
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the testbed is asked for exactly what the user asked for.
    #[test]
    fn arguments_are_handed_on_to_the_testbed() {
        for (seconds, json, expected) in [
            (None, false, vec!["demo"]),
            (Some(30), false, vec!["demo", "--seconds", "30"]),
            (Some(30), true, vec!["demo", "--seconds", "30", "--json"]),
            (None, true, vec!["demo", "--json"]),
        ] {
            assert_eq!(Args { seconds, json }.to_arguments(), expected);
        }
    }
}
