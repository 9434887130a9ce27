//! Flows whose series the destination refuses, by slot: tried before anything else of a cycle, and never with the rest.
//!
//! Bound: [`ASIDE_MAX`] flows, and [`TRIES_MAX`] refused requests of them a cycle.

use std::collections::BTreeMap;

use egressd_flow::UnixNanos;

use crate::portion::{ASIDE_FOR, ASIDE_MAX, Portion, Step, TRIES_MAX};

#[derive(Debug)]
pub(super) struct Aside {
    since: BTreeMap<u32, UnixNanos>,
    /// Where the next cycle begins to try.
    pub(super) from: u32,
    pub(super) portion: Portion,
    tries: usize,
}

impl Aside {
    pub(super) fn new() -> Self {
        Self { since: BTreeMap::new(), from: 0, portion: Portion::ONE, tries: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.since.contains_key(&slot)
    }

    /// A cycle begins.
    pub(super) fn begin(&mut self) {
        (self.portion, self.tries) = (Portion::ONE, TRIES_MAX);
    }

    /// Those that are still to be tried in this cycle, from a slot on.
    pub(super) fn from(&self, slot: u32) -> impl Iterator<Item = u32> {
        let is_open = self.tries > 0;
        self.since.range(slot..).map(|(slot, _)| *slot).filter(move |_| is_open)
    }

    /// Whether this cycle has tried enough of them.
    pub(super) fn is_over(&self) -> bool {
        self.tries == 0
    }

    /// A request of them was refused.
    pub(super) fn refused(&mut self, step: Step) {
        self.tries -= usize::from(step != Step::Again).min(self.tries);
    }

    /// Sets a flow aside; whether there was room.
    pub(super) fn add(&mut self, slot: u32, now: UnixNanos) -> bool {
        let has_room = self.since.len() < ASIDE_MAX;
        if has_room {
            self.since.insert(slot, now);
        }
        has_room
    }

    /// Whether a flow was refused for so long that it is given up.
    pub(super) fn is_given_up(&self, slot: u32, now: UnixNanos) -> bool {
        self.since.get(&slot).is_some_and(|since| now.since(*since) >= ASIDE_FOR)
    }

    /// It was accepted, or is gone.
    pub(super) fn remove(&mut self, slot: u32) {
        self.since.remove(&slot);
    }
}
