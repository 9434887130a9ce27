//! What may be among the dependencies, by cargo-deny: licences, sources, and crates that `deny.toml` bans.
//!
//! The list of advisories is not asked for: it comes from the network. `cargo deny check` does that too.

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, python};

/// Checks the lock file without a network.
///
/// # Errors
///
/// When something is not allowed, which cargo-deny has then said, or it cannot be installed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let home = workspace.target.join("deny");
    python::ready(&home, &workspace.root.join("xtask/deny-requirements.txt"))
        .context("cargo-deny checks the dependencies and cannot be installed")?;
    let mut command = process::clean(home.join("bin/cargo-deny"));
    command.args(["--offline", "--log-level", "error", "check", "--hide-inclusion-graph"]);
    command.args(["bans", "licenses", "sources"]).current_dir(&workspace.root);
    process::run(process::chatter(&mut command))
}
