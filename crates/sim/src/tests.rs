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

/// Goal: a Hello that was on its way when its collector's life ended, and is heard after that of the next life, turns nobody
/// away for good: neither where it is refused, nor where it supersedes the life that goes on until its stream is at its end.
#[test]
fn a_hello_that_is_heard_late_keeps_nobody_out() {
    for seed in [1215, 1478] {
        assert_eq!(run(seed, false).violation, None, "seed {seed}");
    }
}
