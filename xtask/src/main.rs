//! The workspace's own commands: `cargo xtask help` lists them.
//!
//! Continuous integration runs `cargo xtask test` and nothing else, so what passes here passes there.
//! This crate depends on no other crate of the workspace: it installs what the machine lacks, then runs cargo.
//! What it says itself goes to stderr, so stdout carries only the output of what it runs; the findings of
//! `cargo xtask tidy` are its output, and go to stdout.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its own streams"
)]

mod accuracy;
mod bench;
mod chart;
mod check;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod image;
mod process;
mod python;
mod setup;
mod sim;
mod steps;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// Set up, try, check and keep tidy.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Install what the demo and the tests need and this machine lacks (Debian or Ubuntu, as root)
    Setup,
    /// Measure real traffic between network namespaces with both daemons, and print who sent what to whom
    Demo(demo::Args),
    /// Hold what both daemons measure against what nft counted, in every scenario that loses bytes elsewhere
    Accuracy(accuracy::Args),
    /// Measure what a stage costs, beside the floor below which nothing can go
    Bench(bench::Args),
    /// Look for inputs that break what decodes outside bytes, guided by what each reaches
    Fuzz(fuzz::Args),
    /// Run whole-system histories, each from one seed: fake kernel, network, disk and stores around the real machines
    Sim(sim::Args),
    /// Render the Helm chart, write the manifests and lists made of it, and hold it against what it must be
    Chart(chart::Args),
    /// Build the images of both daemons
    Image(image::Args),
    /// Make a release: binaries, chart, manifests, a list of crates, checksums
    Dist,
    /// Everything that must pass, set-up included
    Test,
    /// Formatting and clippy
    Lint,
    /// Dependency arrows, module docs, unsafe code, banned words, links, manifests and the protobuf contracts
    Tidy,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::run(),
        Command::Demo(args) => demo::run(&args, &Workspace::read()?),
        Command::Accuracy(args) => accuracy::run(&args, &Workspace::read()?),
        Command::Bench(args) => bench::run(&args, &Workspace::read()?),
        Command::Fuzz(args) => fuzz::run(&args, &Workspace::read()?),
        Command::Sim(args) => sim::run(&args, &Workspace::read()?),
        Command::Chart(args) => chart::run(&args, &Workspace::read()?),
        Command::Image(args) => image::run(&args, &Workspace::read()?),
        Command::Dist => dist::run(&Workspace::read()?),
        Command::Test => check::test(&Workspace::read()?),
        Command::Lint => check::lint(&Workspace::read()?),
        Command::Tidy => tidy::run(&Workspace::read()?),
    }
}
