//! How many flows the next request may name, by what became of those before.
//!
//! A destination that refuses a request for what it says refuses it again. So the next one names half as many flows,
//! down to the one that is refused, which the destination's machine then sets aside; and twice as many after each that
//! was accepted. One flow that is refused so costs the others about log2 of their number requests and no byte.
//!
//! What is set aside stays held and is tried again, first of all at the next push; it is lost only after
//! [`ASIDE_FOR`], or where it finds no place ([`ASIDE_MAX`]) and cannot be said later, and that is counted. So a
//! destination that refuses everything may look like one that refuses each flow. The position passes over what is aside:
//! without a kept state it ends with the process.
//!
//! Bounds: [`ASIDE_MAX`] flows aside a sink; [`AT_ONCE_MAX`] refusals in a row, after which each waits as after any
//! failure.

use std::time::Duration;

use crate::destination::Verdict;

/// Flows that a sink may have set aside at a time. With that many, a refused total waits for the next cycle, and refused
/// growth is discarded.
pub(crate) const ASIDE_MAX: usize = 10_000;
/// How long a flow is tried again before its bytes are discarded.
pub(crate) const ASIDE_FOR: Duration = Duration::from_hours(24);
/// Refused requests of flows that were set aside before, in one push.
pub(crate) const TRIES_MAX: usize = 4;

/// Enough to narrow the largest request down to one flow, and its neighbours.
const AT_ONCE_MAX: u32 = 32;
/// A destination that fails (500) mostly does for reasons of its own, and is asked the same again this often. Prometheus
/// answers 500 for ever to a label that stands twice.
const FAILURES_MAX: u32 = 5;

/// What to do after an answer that was no acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The same once more, later.
    Again,
    /// Fewer flows.
    Fewer,
    /// There was only one flow, which is refused.
    Aside,
}

/// The flows of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    flows: usize,
    /// More were too large for the destination.
    flows_max: usize,
    refusals: u32,
    failures: u32,
    /// Failures in a row that count as a refusal.
    failures_max: u32,
}

impl Portion {
    /// As many as fit.
    pub(crate) const WHOLE: Self = Self {
        flows: usize::MAX,
        flows_max: usize::MAX,
        refusals: 0,
        failures: 0,
        failures_max: FAILURES_MAX,
    };
    /// One at first, of those that were refused before.
    pub(crate) const ONE: Self = Self { flows: 1, failures_max: 1, ..Self::WHOLE };

    /// A push begins: what was refused in the one before is aside, and what was too large then may not be any more.
    pub(crate) fn begin(&mut self) {
        self.flows_max = self.flows_max.saturating_mul(2);
        self.flows = self.flows_max;
    }

    /// How many the next request may name.
    pub(crate) fn flows(&self) -> usize {
        self.flows
    }

    /// Whether it may name as many as any.
    pub(crate) fn is_whole(&self) -> bool {
        self.flows >= self.flows_max
    }

    pub(crate) fn accepted(&mut self) {
        let flows = self.flows.saturating_mul(2).min(self.flows_max);
        *self = Self { flows, refusals: 0, failures: 0, ..*self };
    }

    /// A request that named so many was not accepted.
    pub(crate) fn refused(&mut self, verdict: Verdict, named: usize) -> Step {
        match verdict {
            Verdict::Rejected | Verdict::TooLarge => {}
            Verdict::Failed if self.failures + 1 >= self.failures_max => {}
            Verdict::Failed => {
                self.failures += 1;
                return Step::Again;
            }
            Verdict::Accepted | Verdict::Refused | Verdict::Ambiguous => return Step::Again,
        }
        self.failures = 0;
        self.refusals = self.refusals.saturating_add(1);
        self.flows = named.div_ceil(2).max(1);
        if verdict == Verdict::TooLarge {
            self.flows_max = self.flows;
        }
        if named > 1 { Step::Fewer } else { Step::Aside }
    }

    /// Whether so much was refused in a row that it is better to wait.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.refusals > AT_ONCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a request is halved while it is refused, doubled when one is accepted, and never again as large as one that
    /// was too large.
    #[test]
    fn portions_follow_the_answers() {
        for (name, answers, flows, last) in [
            (
                "down to one",
                &[(Verdict::Rejected, 8), (Verdict::Rejected, 4), (Verdict::Rejected, 2)][..],
                1,
                Step::Fewer,
            ),
            ("the one", &[(Verdict::Rejected, 1)], 1, Step::Aside),
            ("odd", &[(Verdict::Rejected, 7)], 4, Step::Fewer),
            (
                "back up",
                &[(Verdict::Rejected, 8), (Verdict::Accepted, 4), (Verdict::Accepted, 8)],
                16,
                Step::Again,
            ),
            ("too large", &[(Verdict::TooLarge, 8), (Verdict::Accepted, 4)], 4, Step::Again),
            ("not its fault", &[(Verdict::Refused, 8), (Verdict::Ambiguous, 8)], usize::MAX, Step::Again),
            ("fails", &[(Verdict::Failed, 8); 4], usize::MAX, Step::Again),
            ("fails for ever", &[(Verdict::Failed, 8); 5], 4, Step::Fewer),
        ] {
            let mut portion = Portion::WHOLE;
            let mut step = Step::Again;
            for (verdict, named) in answers {
                step = match verdict {
                    Verdict::Accepted => {
                        portion.accepted();
                        Step::Again
                    }
                    _ => portion.refused(*verdict, *named),
                };
            }
            assert_eq!((portion.flows(), step), (flows, last), "{name}");
        }
    }

    /// Goal: the largest request is narrowed down without a wait, and a destination that refuses everything is not met
    /// with request after request.
    #[test]
    fn refusals_without_end_wait() {
        let mut portion = Portion::WHOLE;
        let mut named = 20_000;
        let mut refusals = 0;
        while !portion.is_hopeless() {
            portion.refused(Verdict::Rejected, named);
            named = portion.flows();
            refusals += 1;
        }
        assert_eq!((named, refusals), (1, AT_ONCE_MAX + 1));
        portion.accepted();
        assert!(!portion.is_hopeless());
    }
}
