//! `egressd-sim`: runs histories, and says which of them went where none may.
//!
//! ```text
//! egressd-sim --seeds N      seeds 0 to N-1, on every processor
//! egressd-sim --seed N       one, with its events
//! ```
//!
//! Invariant: the clock of the machine is shown and decides nothing. Bound: a history a thread.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clap::Parser;
use egressd_sim::{Faults, Outcome, run};

/// Runs whole-system histories, each from one seed.
#[derive(Debug, Parser)]
#[command(name = "egressd-sim", version)]
struct Arguments {
    /// How many seeds, from 0 on
    #[arg(long, default_value_t = 2_000, conflicts_with = "seed")]
    seeds: u64,
    /// One seed, with every event of its history
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    // Panics of the machines are findings, which say what they have to.
    std::panic::set_hook(Box::new(|_| {}));
    let violated = match arguments.seed {
        Some(seed) => one(seed, &mut out)?,
        None => many(arguments.seeds, &mut out)?,
    };
    Ok(if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints a history; whether it went wrong.
fn one(seed: u64, out: &mut impl Write) -> io::Result<bool> {
    let outcome = run(seed, true);
    for event in &outcome.events {
        writeln!(out, "{event}")?;
    }
    let mut all = Sums::default();
    all.add(&outcome);
    write!(out, "{all}")?;
    if let Some(violation) = &outcome.violation {
        writeln!(out, "seed {seed}, step {}: {violation}", outcome.steps)?;
    }
    Ok(outcome.violation.is_some())
}

/// What histories came to together.
#[derive(Clone, Debug, Default)]
struct Sums {
    seeds: u64,
    steps: u64,
    counted_bytes: u64,
    arrived_bytes: u64,
    doubted_bytes: u64,
    lost_bytes: u64,
    faults: Faults,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.counted_bytes += outcome.counted_bytes;
        self.arrived_bytes += outcome.arrived_bytes;
        self.doubted_bytes += outcome.doubted_bytes;
        self.lost_bytes += outcome.lost_bytes;
        self.faults += outcome.faults;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unseen = self.counted_bytes.saturating_sub(self.arrived_bytes + self.lost_bytes);
        for (what, figure) in [
            ("seeds", self.seeds),
            ("steps", self.steps),
            ("bytes at pods, by the kernels", self.counted_bytes),
            ("bytes in every store", self.arrived_bytes),
            ("bytes in doubt, counted", self.doubted_bytes),
            ("bytes lost with what was kept", self.lost_bytes),
            ("bytes that no watch was shown", unseen),
        ] {
            writeln!(f, "{what:<32} {figure:>14}")?;
        }
        write!(f, "faults\n{}", self.faults)
    }
}

/// Prints what all came to, or the first seed that went wrong; whether one did.
#[expect(clippy::disallowed_methods, reason = "the time is shown to a person and decides nothing")]
fn many(seeds: u64, out: &mut impl Write) -> io::Result<bool> {
    let began = Instant::now();
    let (sums, violations) = run_all(seeds);
    write!(out, "{sums}")?;
    writeln!(out, "{:<32} {:>14.1} s", "wall time", began.elapsed().as_secs_f64())?;
    if let Some((seed, outcome)) = violations.first() {
        writeln!(out, "the last events of seed {seed}:")?;
        outcome.events.iter().try_for_each(|event| writeln!(out, "{event}"))?;
    }
    for (seed, Outcome { violation, steps, .. }) in violations.iter().take(20) {
        writeln!(out, "seed {seed}, step {steps}: {}", violation.as_deref().unwrap_or_default())?;
    }
    if !violations.is_empty() {
        writeln!(out, "{} of {seeds} seeds went wrong", violations.len())?;
    }
    Ok(!violations.is_empty())
}

/// Every seed on some thread, and those that went wrong in order.
fn run_all(seeds: u64) -> (Sums, Vec<(u64, Outcome)>) {
    let (next, all) = (AtomicU64::new(0), Mutex::new((Sums::default(), Vec::new())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let outcome = run(seed, false);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.0.add(&outcome);
            if outcome.violation.is_some() {
                all.1.push((seed, outcome));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (sums, mut violations) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    violations.sort_by_key(|(seed, _)| *seed);
    (sums, violations)
}
