//! The whole system in one thread and one seed: a fake kernel, network, disk, clock and stores around the real machines.
//!
//! ```text
//! kernel ⇒ Meter ⇒ Window ~ links ~ Ledger ⇒ Index, join ⇒ Spool ⇒ sinks' Machines ⇒ stores
//!    ╰─ watch: what is owed                                                 what is there ─╯
//! ```
//!
//! A history is a list of steps that chance chooses: entries are born, grow and end; dumps fall short; collectors and the
//! exporter are killed between any two steps and amid a write; streams are cut and doubled; the disk tears, fills up and
//! forgets; stores refuse, fall silent and take without a word. Twice in each history all of that stops, and every byte
//! that a watch was shown must be in each store once, or in a counted class: `maybe_twice`, `ambiguous`, let go by a bound
//! that was reached, lost with a state that was damaged. All the time the books of each stage balance, and totals never go
//! backwards.
//!
//! What the drivers of the daemons decide (in which order is kept, sent, appended, acknowledged) is said again here, step
//! by step, in `collector`, `state_dir`, `exporter` and `sinks`; the machines are the product's own.
//!
//! Invariant: one seed is one history. Bound: some thousand steps.

mod rng;

mod flows;
mod kernel;
mod watch;

mod collector;
mod state_dir;

mod link;
mod node;

mod claims;
mod cluster;
mod disk;
mod exporter;
mod sinks;
mod stores;

mod history;
mod settle;
mod world;

#[cfg(test)]
mod tests;

use std::panic::{self, AssertUnwindSafe};

pub use history::Faults;

use history::{History, Telling};
use world::World;

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation(String);

/// What one history came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What must not be, and was; `None` when all is well.
    pub violation: Option<String>,
    /// How many steps chance chose, up to the violation.
    pub steps: u64,
    /// What the kernels counted at pods, in bytes.
    pub counted_bytes: u64,
    /// What of that is in every store for sure, in bytes.
    pub arrived_bytes: u64,
    /// What may be in a store twice, and was counted as that, in bytes.
    pub doubted_bytes: u64,
    /// What collectors lost with a damaged state, in bytes.
    pub lost_bytes: u64,
    /// What went wrong.
    pub faults: Faults,
    /// The events: those before a violation, or all that were asked for.
    pub events: Vec<String>,
}

/// Runs the history of a seed. `tell_all` keeps every event; otherwise only a violation has any, the last ones.
#[must_use]
pub fn run(seed: u64, tell_all: bool) -> Outcome {
    if tell_all {
        return run_telling(seed, Telling::All);
    }
    let outcome = run_telling(seed, Telling::Nothing);
    // The same again, and this time somebody listens.
    if outcome.violation.is_some() { run_telling(seed, Telling::TheLast) } else { outcome }
}

fn run_telling(seed: u64, telling: Telling) -> Outcome {
    let mut world = World::new(seed, History::new(telling));
    let run = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match run {
        Ok(run) => run.err().map(|Violation(what)| what),
        Err(panic) => Some(format!("a machine panicked: {}", words(&*panic))),
    };
    let counted = world.nodes.iter().map(|node| node.kernel.truth.sum());
    let maybe_twice: u64 = world.nodes.iter().map(node::Node::maybe_twice).sum();
    Outcome {
        violation,
        steps: world.history.step,
        counted_bytes: counted.sum(),
        arrived_bytes: world.claims.sure().sum(),
        doubted_bytes: world.ambiguous + maybe_twice,
        lost_bytes: world.claims.lost_bytes(),
        faults: world.history.faults,
        events: world.history.into_lines(),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
