//! One request: a part of the sweep, and what it says of each series there.
//!
//! Invariant: a flow is in one request at most. Bound: the samples that it is told.

use std::ops::Range;

use super::series::{Figure, FlowTotals, Metric, Total};

/// One sample of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) slot: u32,
    pub(crate) metric: Metric,
    pub(crate) figure: Figure,
}

/// A request's samples, all at one time.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Milliseconds since 1970.
    pub(super) timestamp_ms: i64,
    pub(super) samples: Vec<Sample>,
    /// The slots that it stands for.
    pub(super) part: Range<u32>,
}

impl Chunk {
    /// Takes up the flows of its part as far as they fit, and leaves it with those.
    pub(super) fn fill<'t>(
        &mut self,
        flows: impl Iterator<Item = (u32, &'t FlowTotals)>,
        (flows_max, samples_max): (usize, usize),
        figure: impl Fn(&Total) -> Option<Figure>,
    ) {
        let mut named = 0;
        for (slot, FlowTotals(totals)) in flows.take_while(|(slot, _)| *slot < self.part.end) {
            let before = self.samples.len();
            if named == flows_max || before + Metric::ALL.len() > samples_max {
                self.part.end = slot;
                return;
            }
            let samples = Metric::ALL.into_iter().zip(totals);
            self.samples.extend(
                samples.filter_map(|(metric, total)| Some(Sample { slot, metric, figure: figure(total)? })),
            );
            named += usize::from(self.samples.len() > before);
        }
    }

    /// Flows that it names.
    pub(super) fn named(&self) -> usize {
        self.samples.chunk_by(|one, next| one.slot == next.slot).count()
    }
}
