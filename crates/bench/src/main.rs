//! `egressd-bench`: what a stage costs on real input, beside the floor below which no reader of that input can go.
//!
//! ```text
//! bench (fills, grows, deletes; prints) ──line by line──▶ measured process (what a collector holds, and a counter)
//!                └────────────── one network namespace of their own ──────────────┘
//! ```
//!
//! The part that is measured runs in a process of its own, which holds what a collector holds between the kernel and
//! its batches and nothing else, so its memory means something; for `collector`, and in a part of `events`, it is the
//! collector itself. Times are processor times: another load on the machine moves them by caches and clock rate only,
//! and floor and subject take turns.
//!
//! Invariant: nothing here is linked by what ships. `cargo xtask bench` builds and starts it.

mod allocations;
mod child;
mod cilium;
mod collect;
mod collector;
mod daemons;
mod ebpf;
mod events;
mod floor;
mod gauge;
mod place;
mod subject;
mod traffic;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use egressd_testbed::Setting;

/// What a stage costs, beside its floor.
#[derive(Parser)]
#[command(name = "egressd-bench", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Read Cilium's conntrack maps into records, and have the kernel hand them over without a look as the floor
    Cilium(cilium::Options),
    /// Read a full conntrack table into records, and receive it without a look as the floor
    Collect(collect::Options),
    /// Run the collector as it ships, with an exporter, and say what it takes
    Collector(collector::Options),
    /// Hear of entries that end at a steady rate: alone, while the table is read, and by the collector as it ships
    Events(events::Options),
    /// The measured half of `cilium`
    #[command(hide = true)]
    MeasureCilium,
    /// Send and receive with the counting programs and without, and read what they counted
    Ebpf(ebpf::Options),
    /// The measured half of `collect`
    #[command(hide = true)]
    MeasureCollect,
    /// The measured half of `events`
    #[command(hide = true)]
    MeasureEvents {
        #[arg(long)]
        reading: bool,
    },
    /// Wait for the end of standard input, then put a setting back
    #[command(hide = true)]
    KeepSetting { setting: Setting, value: u32 },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Cilium(options) => cilium::run(&options),
        Verb::Collect(options) => collect::run(&options),
        Verb::Collector(options) => collector::run(&options),
        Verb::Events(options) => events::run(&options),
        Verb::Ebpf(options) => ebpf::run(&options),
        Verb::MeasureCilium => cilium::measured(),
        Verb::MeasureCollect => collect::measured(),
        Verb::MeasureEvents { reading } => events::measured(reading),
        Verb::KeepSetting { setting, value } => {
            egressd_testbed::keep_setting(setting, value).map_err(Into::into)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell when standard error is gone.
            drop(writeln!(io::stderr().lock(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One line on standard output.
fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}
