//! `cargo xtask fuzz`: libFuzzer on what decodes outside bytes, instrumented by the pinned stable compiler.
//!
//! What cargo-fuzz would do with a nightly compiler and clang: rustc's own LLVM has the pass that counts edges, and
//! libFuzzer needs none of the sanitizers. The instrumented build has a target folder of its own; what the fuzzer
//! learns stays there, under `corpus`, and the next run begins with it. Interrupted, it loses nothing but its figures.
//!
//! Stdout carries one row, or with `--json` one object, for each target.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::workspace::Workspace;
use crate::{process, setup};

/// The targets of `crates/fuzz`, by the names that it knows them by.
const TARGETS: [&str; 5] = ["datagram", "messages", "state", "cilium", "dns"];

/// Counters for edges with the table that tells them apart, and a look at what is compared with what. `fuzzing` brings
/// libFuzzer in.
const INSTRUMENTED: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Of an input; the largest datagram that anyone captured has 3,224.
const INPUT_BYTES_MAX: u32 = 4096;
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
/// So is one that makes the process take more. It needs some 30.
const MEMORY_MIB_MAX: u32 = 512;

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this target; all of them, one after the other, if left out
    #[arg(value_parser = PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// One JSON object for each target instead of the table
    #[arg(long)]
    json: bool,
}

/// Fuzzes each target in turn.
///
/// # Errors
///
/// When set-up or a build fails, and at the first finding: the error says where its input is and how to run it again.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::run()?;
    let plain = build_plain(workspace)?;
    let fuzzer = build_instrumented(workspace)?;
    if !args.json {
        println!("{HEADINGS}");
    }
    for target in
        TARGETS.into_iter().filter(|target| args.target.as_deref().is_none_or(|only| only == *target))
    {
        let folder = Folder { root: workspace.target.join("fuzz"), target };
        process::run(process::clean(&plain).arg(target).arg("--seeds").arg(folder.corpus()))?;
        let run = fuzz(&fuzzer, &folder, args.seconds)?;
        if args.json { println!("{}", run.json()) } else { println!("{run}") }
    }
    Ok(())
}

/// The ordinary program: it writes seeds, and runs a finding again.
fn build_plain(workspace: &Workspace) -> Result<PathBuf> {
    let build = ["build", "--package", "egressd-fuzz"];
    process::run(process::chatter(&mut process::cargo(&workspace.root, &build)))?;
    Ok(workspace.target.join("debug/egressd-fuzz"))
}

fn build_instrumented(workspace: &Workspace) -> Result<PathBuf> {
    let host = host()?;
    let folder = workspace.target.join("fuzz");
    // The target is named so that build scripts and macros, which run under no fuzzer, are left uninstrumented.
    let build = ["build", "--package", "egressd-fuzz", "--profile", "fuzz", "--target", &host];
    let mut cargo = process::cargo(&workspace.root, &build);
    cargo.arg("--target-dir").arg(&folder).env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\u{1f}"));
    process::run(process::chatter(&mut cargo))?;
    Ok(folder.join(host).join("fuzz/egressd-fuzz"))
}

/// The machine's triple, as rustc names it.
fn host() -> Result<String> {
    let version = process::output(process::clean("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Where a target's files are.
struct Folder {
    root: PathBuf,
    target: &'static str,
}

impl Folder {
    fn corpus(&self) -> PathBuf {
        self.root.join("corpus").join(self.target)
    }

    fn log(&self) -> PathBuf {
        self.root.join(format!("{}.log", self.target))
    }

    /// Before a finding's own name.
    fn findings(&self) -> PathBuf {
        self.root.join("findings").join(format!("{}-", self.target))
    }
}

fn fuzz(fuzzer: &Path, folder: &Folder, seconds: u32) -> Result<Run> {
    let (target, log) = (folder.target, folder.log());
    fs::create_dir_all(folder.root.join("findings")).context("make the folder of findings")?;
    eprintln!("{target}: {seconds} s, log in {}", log.display());
    let written = File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let mut command = process::clean(fuzzer);
    command.env("EGRESSD_FUZZ_TARGET", target).stderr(written);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg(format!("-artifact_prefix={}", folder.findings().display()));
    let status = command.arg(folder.corpus()).status().context("start the fuzzer")?;

    // What panics say may hold bytes of the input.
    let text = String::from_utf8_lossy(&fs::read(&log).context("read the fuzzer's log")?).into_owned();
    if let Some(input) = finding(&text) {
        bail!("{target} has a finding: {input}\nrun it again: cargo run -p egressd-fuzz -- {target} {input}");
    }
    if !status.success() {
        bail!("the fuzzer of {target} ended with {status}: see {}", log.display());
    }
    Run::parse(target, &text).with_context(|| format!("understand {}", log.display()))
}

/// The file that holds the input of a finding.
fn finding(log: &str) -> Option<&str> {
    log.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1))
}

const HEADINGS: &str = "target      executions   seconds   a second    edges   features   corpus";

/// What a fuzzer that found nothing did.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    target: &'static str,
    executions: u64,
    seconds: u64,
    /// Edges of the instrumented code that an input reached, and those told apart by how often.
    edges: u64,
    features: u64,
    /// Inputs that reach something that no other does.
    corpus: u64,
}

impl Run {
    /// Reads libFuzzer's last line of figures, `#N DONE cov: … ft: … corp: units/size …`, and the time it took.
    fn parse(target: &'static str, log: &str) -> Result<Self> {
        let line = |part: &str| log.lines().rfind(|line| line.contains(part)).unwrap_or_default();
        let (last, end) = (line("\tDONE "), line("Done "));
        let number = |line: &str, before: &str| {
            let (_, after) = line.split_once(before).with_context(|| format!("no `{before}` at the end"))?;
            let digits = after.trim_start().split(|char: char| !char.is_ascii_digit()).next();
            digits.unwrap_or_default().parse().with_context(|| format!("no number after `{before}`"))
        };
        Ok(Self {
            target,
            executions: number(end, "Done ")?,
            seconds: number(end, "runs in ")?,
            edges: number(last, "cov: ")?,
            features: number(last, "ft: ")?,
            corpus: number(last, "corp: ")?,
        })
    }

    fn a_second(&self) -> u64 {
        self.executions / self.seconds.max(1)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "target": self.target,
            "executions": self.executions,
            "seconds": self.seconds,
            "executions_per_second": self.a_second(),
            "edges": self.edges,
            "features": self.features,
            "corpus": self.corpus,
        })
    }
}

/// A row under [`HEADINGS`].
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, executions, seconds, edges, features, corpus } = self;
        let a_second = self.a_second();
        write!(f, "{target:10}{executions:12}{seconds:10}{a_second:11}{edges:9}{features:11}{corpus:9}")
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

    /// As libFuzzer ended.
    const LOG: &str = "INFO: Seed: 3976363002\n\
        #17\tINITED cov: 237 ft: 407 corp: 12/8484b exec/s: 0 rss: 28Mb\n\
        #2158972\tDONE   cov: 359 ft: 1211 corp: 326/362Kb lim: 4096 exec/s: 134935 rss: 29Mb\n\
        Done 2158972 runs in 16 second(s)\n\
        stat::number_of_executed_units: 2158972\n";

    /// Goal: libFuzzer's own figures are what is printed, in columns and for programs.
    #[test]
    fn the_figures_are_those_of_libfuzzer() {
        let run = Run::parse("datagram", LOG).unwrap();
        assert_eq!(
            format!("{HEADINGS}\n{run}"),
            "target      executions   seconds   a second    edges   features   corpus\n\
             datagram       2158972        16     134935      359       1211      326"
        );
        assert_eq!(
            run.json().to_string(),
            "{\"corpus\":326,\"edges\":359,\"executions\":2158972,\"executions_per_second\":134935,\
             \"features\":1211,\"seconds\":16,\"target\":\"datagram\"}"
        );
    }

    /// Goal: a log without an end is no run of zero executions, and a finding is found in it.
    #[test]
    fn a_fuzzer_that_broke_off_has_no_figures() {
        assert!(Run::parse("state", "INFO: Seed: 1\n").is_err());
        assert_eq!(finding(LOG), None);
        let log = "==2669== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/t/state-'; Test unit written to /t/state-crash-c3d2\n";
        assert_eq!(finding(log), Some("/t/state-crash-c3d2"));
    }

    /// Goal: a target that does not exist and no time at all are refused.
    #[test]
    fn only_what_can_be_fuzzed_is_asked_for() {
        for (line, is_right) in [
            ("fuzz", true),
            ("fuzz messages --seconds 600 --json", true),
            ("fuzz packets", false),
            ("fuzz state --seconds 0", false),
        ] {
            assert_eq!(Line::try_parse_from(line.split(' ')).is_ok(), is_right, "{line}");
        }
    }
}
