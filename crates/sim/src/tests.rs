//! The simulation by what it promises of itself.

use crate::run;

/// Goal: one seed is one history, event for event.
#[test]
fn a_seed_is_one_history() {
    for seed in 0..5 {
        let told = run(seed, true);
        assert!(!told.events.is_empty());
        assert_eq!(told, run(seed, true), "seed {seed}");
    }
}
