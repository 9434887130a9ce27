//! One series: how far its total is at the destination, and what is to be said of it next.
//!
//! Invariant: what is accepted never goes beyond the sum, and back only when the series begins anew.

use std::time::Duration;

use egressd_flow::{Attributed, Counter, UnixNanos};

use crate::config::Temporality;

/// How long an unchanged total is repeated. Twice Prometheus' look-back of 5 minutes, so that a pause of a few
/// pushes does not end a series.
pub(crate) const IDLE_MAX: Duration = Duration::from_mins(10);

/// Which of a flow's series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Transmit,
    Received,
    Undirected,
}

impl Metric {
    pub(crate) const ALL: [Self; 3] = [Self::Transmit, Self::Received, Self::Undirected];

    /// Without `_total`, as the descriptor of a counter has it.
    pub(crate) const fn family(self) -> &'static str {
        match self {
            Self::Transmit => "egressd_transmit_bytes",
            Self::Received => "egressd_received_bytes",
            Self::Undirected => "egressd_undirected_bytes",
        }
    }

    /// The name of the series.
    pub(crate) const fn series(self) -> &'static str {
        match self {
            Self::Transmit => "egressd_transmit_bytes_total",
            Self::Received => "egressd_received_bytes_total",
            Self::Undirected => "egressd_undirected_bytes_total",
        }
    }

    /// What the metric says, for its descriptor.
    pub(crate) const fn help(self) -> &'static str {
        match self {
            Self::Transmit => "Bytes sent by the source pod to the destination.",
            Self::Received => "Bytes received by the source pod from the destination.",
            Self::Undirected => {
                "Bytes between the source pod and the destination whose direction is unknown."
            }
        }
    }

    /// This direction's part of a record.
    pub(crate) fn of(self, record: &Attributed) -> Counter {
        match self {
            Self::Transmit => record.traffic.tx,
            Self::Received => record.traffic.rx,
            Self::Undirected => record.traffic.undirected,
        }
    }
}

/// How far a series is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// There was no growth, or it has ended.
    #[default]
    Absent,
    /// There is growth, and no zero is known to be accepted.
    New,
    /// Its zero was accepted.
    Open,
}

/// One direction of a flow. Packets are not exported and ride along for the books.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    pub(super) sum: Counter,
    /// What the destination is known to have.
    pub(super) accepted: Counter,
    /// When it last grew.
    pub(super) grown: UnixNanos,
    pub(super) stage: Stage,
    pub(super) began: Began,
}

/// When a total began to count: milliseconds since 1970 in six bytes, which cost nothing beside a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Began([u8; 6]);

impl Began {
    pub(super) fn at(instant: UnixNanos) -> Self {
        let [_, _, low @ ..] = instant.as_millis().to_be_bytes();
        Self(low)
    }

    pub(super) fn as_millis(self) -> i64 {
        self.0.iter().fold(0, |millis, byte| millis << 8 | i64::from(*byte))
    }
}

impl Total {
    pub(super) fn grow(&mut self, growth: Counter, now: UnixNanos) {
        self.sum += growth;
        self.grown = now;
        if self.stage == Stage::Absent {
            self.stage = Stage::New;
            self.began = Began::at(now);
        }
    }

    pub(super) fn unaccepted(&self) -> Counter {
        self.sum.growth(self.accepted).expect("an accepted total is an earlier value of the same sum")
    }

    /// From zero, with what was not accepted.
    pub(super) fn begin_anew(&mut self) {
        let sum = self.unaccepted();
        let stage = if sum.is_zero() { Stage::Absent } else { Stage::New };
        let (grown, began) = (self.grown, Began::at(self.grown));
        *self = Self { sum, accepted: Counter::default(), grown, stage, began };
    }

    pub(super) fn sample(&self, phase: Phase, now: UnixNanos) -> Option<Figure> {
        match (phase, self.stage) {
            (Phase::Zeros, Stage::New) => Some(Figure::Zero),
            (Phase::Totals, Stage::Open) if self.is_over(now) => Some(Figure::Stale(self.sum)),
            (Phase::Totals, Stage::Open) => Some(Figure::Total(self.sum)),
            (Phase::Growth, _) => {
                Some(self.unaccepted()).filter(|growth| !growth.is_zero()).map(Figure::Growth)
            }
            _ => None,
        }
    }

    pub(super) fn is_over(&self, now: UnixNanos) -> bool {
        self.sum == self.accepted && now.since(self.grown) >= IDLE_MAX
    }

    /// Takes note of an accepted sample; what is let out by it.
    pub(super) fn settle(&mut self, figure: Figure) -> Counter {
        match figure {
            Figure::Zero => {
                self.stage = Stage::Open;
                Counter::default()
            }
            Figure::Total(sum) => {
                let emitted = sum.growth(self.accepted).expect("a total never goes backwards");
                self.accepted = sum;
                emitted
            }
            Figure::Growth(growth) => {
                self.accepted += growth;
                // What came since is the next growth, and without any there is nothing to keep.
                self.begin_anew();
                growth
            }
            Figure::Stale(_) => {
                // Growth that came while the marker was under way begins the series anew.
                self.begin_anew();
                Counter::default()
            }
        }
    }
}

/// A flow's three totals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlowTotals(pub(super) [Total; Metric::ALL.len()]);

const _: () =
    assert!(size_of::<(crate::labels::FlowKey, FlowTotals)>() <= 208, "table.rs states the memory of it");

/// What is said of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Zero,
    Total(Counter),
    Stale(Counter),
    /// Since the last that was accepted.
    Growth(Counter),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Of flows that were set aside, whatever they have to say.
    Aside,
    Zeros,
    Totals,
    /// In place of both, where growth is said instead of totals.
    Growth,
}

impl Phase {
    /// Whether several requests of it may be under way at once.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::Zeros | Self::Totals)
    }

    /// The first of a cycle.
    pub(super) fn first(temporality: Temporality) -> Self {
        match temporality {
            Temporality::Cumulative => Self::Zeros,
            Temporality::Delta => Self::Growth,
        }
    }
}

impl FlowTotals {
    pub(super) fn unaccepted(&self) -> Counter {
        self.0.iter().fold(Counter::default(), |mut sum, total| {
            sum += total.unaccepted();
            sum
        })
    }
}
