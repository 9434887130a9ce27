//! `cargo xtask test` and `cargo xtask lint`: what must pass, cheapest first.
//!
//! The tests come last, so cargo test's closing lines are the last that stdout carries.

use anyhow::Result;

use crate::steps::{self, Step};
use crate::workspace::Workspace;
use crate::{accuracy, chart, deny, process, python, setup, sim, tidy};

/// Everything that must pass, on the development profile.
///
/// # Errors
///
/// The first step that failed, by name.
pub(crate) fn test(workspace: &Workspace) -> Result<()> {
    steps::run(&[
        Step::new("setup", setup::run),
        formatting(workspace),
        Step::new("tidy", || tidy::run(workspace)),
        Step::new("dependencies", || deny::run(workspace)),
        Step::new("chart", || chart::run(&chart::CHECK, workspace)),
        clippy(workspace),
        // Tests of the testbed start the daemons from the target folder, which `cargo test` alone would not fill.
        Step::new("binaries", || cargo(workspace, &["build", "--workspace", "--bins"])),
        Step::new("gRPC client", || grpc_client(workspace)),
        Step::new("simulation", || sim::short(workspace)),
        Step::new("accuracy", || accuracy::short(workspace)),
        Step::new("documentation", || document(workspace)),
        Step::new("tests and doc tests", || run_tests(workspace)),
    ])?;
    for left_out in left_out(workspace) {
        eprintln!("left out: {left_out}");
    }
    Ok(())
}

/// A generic gRPC client in Python, for the tests of what such clients see.
fn grpc_client(workspace: &Workspace) -> Result<()> {
    python::ready(
        &workspace.target.join("grpc-client"),
        &workspace.root.join("xtask/grpc-client-requirements.txt"),
    )
}

/// Parts of tests that this machine has no means for.
fn left_out(workspace: &Workspace) -> Vec<&'static str> {
    let captures = workspace.root.join("../shared/captures");
    let means = [
        (captures.is_dir(), "captures of the original's chart and of Cilium's maps: no ../shared/captures"),
        (std::env::var_os("KUBECONFIG").is_some(), "a real Kubernetes API: KUBECONFIG is not set"),
    ];
    means.into_iter().filter(|(is_there, _)| !is_there).map(|(_, what)| what).collect()
}

/// Four at a time whatever the machine: the longest tests wait for outages of a minute and work little.
fn run_tests(workspace: &Workspace) -> Result<()> {
    let arguments = ["test", "--workspace", "--no-fail-fast"];
    process::run(process::cargo(&workspace.root, &arguments).env("RUST_TEST_THREADS", "4"))
}

/// Formatting and clippy.
///
/// # Errors
///
/// The first step that failed, by name.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    steps::run(&[formatting(workspace), clippy(workspace)])
}

fn formatting(workspace: &Workspace) -> Step<'_> {
    Step::new("formatting", || cargo(workspace, &["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Step<'_> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    Step::new("clippy", move || cargo(workspace, &arguments))
}

fn document(workspace: &Workspace) -> Result<()> {
    let arguments = ["doc", "--workspace", "--no-deps"];
    process::run(process::cargo(&workspace.root, &arguments).env("RUSTDOCFLAGS", "-D warnings"))
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    process::run(&mut process::cargo(&workspace.root, arguments))
}
