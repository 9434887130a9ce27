//! Child processes: cargo as it would be started from a shell, and one way to report a failure.
//!
//! A child inherits stdout and stderr unless its caller says otherwise; no shell takes part.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The packages whose binaries run real traffic through the whole.
const DAEMONS_AND_TESTBED: [&str; 3] = ["egressd-collector", "egressd-exporter", "egressd-testbed"];

/// Where administration tools live; `su` without a login leaves these out of `PATH` on Debian.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A cargo command in the workspace's root, by the cargo that runs us.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    command
}

/// A command without what `cargo run` told us about ourselves, and with the administration tools in its `PATH`.
///
/// Build scripts that watch `CARGO_PKG_*` or `CARGO_MANIFEST_DIR` (ring's does) would otherwise run again each
/// time a build moves between a shell and xtask.
pub(crate) fn clean(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_this_crate) {
            command.env_remove(name);
        }
    }
    if let Ok(path) = env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

fn describes_this_crate(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// The directories of `PATH`, then those of administration tools that it lacks.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    for system in SYSTEM_DIRECTORIES.map(PathBuf::from) {
        if !directories.contains(&system) {
            directories.push(system);
        }
    }
    directories
}

/// Runs a command to its end.
///
/// # Errors
///
/// When it cannot be started or ends with anything but 0; the error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command to its end, with this on its stdin.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child =
        command.stdin(Stdio::piped()).spawn().with_context(|| format!("start `{}`", line(command)))?;
    let mut stdin = child.stdin.take().context("a child's stdin")?;
    stdin.write_all(input.as_bytes()).with_context(|| format!("speak to `{}`", line(command)))?;
    drop(stdin);
    let status = child.wait().with_context(|| format!("wait for `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it wrote to stdout; its stderr is inherited.
///
/// # Errors
///
/// As [`run`], and when the output is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of `{}`", line(command)))
}

/// Builds the release binaries of both daemons and of the testbed that runs them.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn build_release(workspace: &Workspace) -> Result<()> {
    let mut build = vec!["build", "--release", "--bins"];
    build.extend(DAEMONS_AND_TESTBED.iter().flat_map(|package| ["--package", package]));
    run(chatter(&mut cargo(&workspace.root, &build)))
}

/// Sends what a command writes to stdout to our stderr.
pub(crate) fn chatter(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::from(io::stderr()))
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a failure names the command and how it ended.
    #[test]
    fn a_failed_command_is_named_with_its_status() {
        let error = run(&mut clean("false")).unwrap_err();
        assert_eq!(format!("{error:#}"), "`false` ended with exit status: 1");
        let error = output(clean("/nonexistent/tool").arg("--flag")).unwrap_err();
        assert_eq!(format!("{error:#}"), "start `tool --flag`: No such file or directory (os error 2)");
    }

    /// Goal: a nested cargo sees the environment of a shell, so build scripts do not run again.
    #[test]
    fn cargo_forgets_the_crate_that_started_it() {
        let command = cargo(Path::new("/"), &["build"]);
        let leaked: Vec<_> = command
            .get_envs()
            .filter(|(name, value)| name.to_str().is_some_and(describes_this_crate) && value.is_some())
            .collect();
        assert_eq!(leaked, []);
        assert!(command.get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none()));
    }
}
