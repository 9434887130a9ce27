//! Growth by flow since the last accepted request: the machine behind the cost API.
//!
//! A cycle freezes what has come in and cuts it into requests; growth meanwhile folds into the next one.
//! Invariant: what is frozen does not change until it is accepted, so that a request that is sent again says the
//! same, byte for byte. The position moves with the last request of the frozen range.
//! Where a life after this one goes on, how far the range is gets noted before each request: the same batches give the
//! same flows in the same order, so the next life builds the range again and says what was not accepted of it. Nothing
//! behind the range is taken in before it is accepted, so what waits for an absent destination stays in the spool.
//! Bound: the flows of one table twice (open and frozen), and [`ITEMS_MAX`] items a request, which whoever encodes
//! it may cut further.

use std::ops::Range;

use egressd_flow::{Attributed, AttributedBatch, Counter, Position};
use prost::Message;

use super::ITEMS_MAX;
use super::aside::{self, Refused};
use crate::books::{Applied, Reason, Standing};
use crate::destination::Verdict;
use crate::keep::StateLost;
use crate::labels::{FlowKey, FlowView};
use crate::portion::{Portion, Step};
use crate::table::Table;

/// Sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) tx: Counter,
    pub(crate) rx: Counter,
}

/// The largest figure that the body's signed fields hold.
const FIGURE_MAX: u64 = i64::MAX.unsigned_abs();

impl Delta {
    /// Takes off as much as one item holds; `None` when nothing is left.
    fn split_off(&mut self) -> Option<Self> {
        let take = |from: &mut u64| {
            let part = (*from).min(FIGURE_MAX);
            *from -= part;
            part
        };
        let take =
            |from: &mut Counter| Counter { bytes: take(&mut from.bytes), packets: take(&mut from.packets) };
        let part = Self { tx: take(&mut self.tx), rx: take(&mut self.rx) };
        (part != Self::default()).then_some(part)
    }

    /// The items that say it: one, or up to three where a figure is beyond 2^63−1; none when all is zero.
    pub(crate) fn parts(mut self) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || self.split_off())
    }

    pub(super) fn sum(self) -> Counter {
        let mut sum = self.tx;
        sum += self.rx;
        sum
    }
}

#[derive(Debug)]
struct Frozen {
    flows: Vec<(FlowKey, Delta)>,
    /// The flows of the current request; it is empty before the first.
    request: Range<usize>,
    /// The position that is accepted with the last request.
    through: Position,
}

/// How far a range is, as it is kept for the life after this one.
#[derive(Clone, PartialEq, Message)]
struct Note {
    /// Raised when a range would be built otherwise than before.
    #[prost(uint32, tag = "1")]
    format: u32,
    /// The last position of the range.
    #[prost(uint64, tag = "2")]
    through: u64,
    /// How many of its flows are accepted or set aside; what follows may be.
    #[prost(uint64, tag = "3")]
    accepted_flows: u64,
    /// What is set aside, of this range and of those before.
    #[prost(message, repeated, tag = "4")]
    aside: Vec<Refused>,
    /// Lives before this one that may have made the request that is next, and were not counted for that.
    #[prost(uint64, tag = "5")]
    lives: u64,
    /// The position behind which the range begins.
    #[prost(uint64, tag = "6")]
    after: u64,
}

const FORMAT: u32 = 1;

/// What is kept for the life after this one, and what of the life before is still to be said.
#[derive(Debug, Default)]
struct Keeping {
    /// How far the state goes that is kept.
    kept: Position,
    /// Nothing is said before a state is kept.
    is_due: bool,
    /// The range that the life before was at, until it is frozen again.
    noted: Option<Note>,
    /// What of that range was set aside then.
    aside_before: Counter,
    /// What of that range was accepted then.
    accepted_before: Counter,
    /// Lives before this one that may have made the current request.
    doubts: u64,
    /// The range is not known to be as it was: any part of it may have been said.
    is_all_doubtful: bool,
}

/// The growth that one destination has not accepted yet.
#[derive(Debug)]
pub(crate) struct Deltas {
    open: Table<Delta>,
    frozen: Option<Frozen>,
    standing: Standing,
    /// `None`: nothing outlives the process.
    keeping: Option<Keeping>,
    portion: Portion,
}

impl Deltas {
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            open: Table::new(flows_max),
            frozen: None,
            standing: Standing::default(),
            keeping: None,
            portion: Portion::WHOLE,
        }
    }

    /// Keeps notes from now on. Goes on behind `position` with the range of a `state`, which is empty where there is none;
    /// of one that does not read, all through `through` may have been said. Gives what was set aside, and the sum of what
    /// will not be taken in again with the range.
    ///
    /// # Errors
    /// It does not read.
    pub(crate) fn resume(
        &mut self,
        (position, state): (Position, &[u8]),
        through: Position,
    ) -> Result<(Vec<Refused>, Counter), StateLost> {
        (self.standing.applied, self.standing.accepted) = (position, position);
        let read = Note::decode(state).ok().filter(|note| note.format == FORMAT);
        let is_lost = read.is_none() && !state.is_empty();
        let doubt = Note { format: FORMAT, through: through.0, after: position.0, ..Note::default() };
        let mut noted = (!state.is_empty()).then(|| read.unwrap_or(doubt));
        let aside = noted.as_mut().map(|note| std::mem::take(&mut note.aside)).unwrap_or_default();
        let mut noted = noted.filter(|note| Position(note.through) > position);
        let mut is_all_doubtful = is_lost;
        // The spool let go of a part of the range: what is left of it gives other requests.
        if let Some(note) = noted.as_mut().filter(|note| note.after != position.0) {
            (note.accepted_flows, is_all_doubtful) = (0, true);
        }
        let mut aside_before = Counter::default();
        if let Some(note) = noted.as_ref().filter(|_| !is_all_doubtful) {
            aside.iter().for_each(|flow| aside_before += flow.fresh_of(Position(note.through)));
        }
        let all = aside::sum(aside.iter());
        let held = all.growth(aside_before).unwrap_or(all);
        self.standing.held += held;
        self.keeping =
            Some(Keeping { kept: position, noted, aside_before, is_all_doubtful, ..Keeping::default() });
        if is_lost { Err(StateLost) } else { Ok((aside, held)) }
    }

    /// How far every byte is accepted, and the note of the range behind that and of what is set aside.
    pub(crate) fn state(&self, aside: Vec<Refused>) -> (Position, Vec<u8>) {
        let (through, accepted_flows) = match &self.frozen {
            Some(Frozen { request, through, .. }) => (*through, request.start as u64),
            None => (self.standing.accepted, 0),
        };
        let lives = self.keeping.as_ref().map_or(0, |keeping| keeping.doubts);
        let after = self.standing.accepted.0;
        let note = Note { format: FORMAT, through: through.0, accepted_flows, aside, lives, after };
        let is_empty = self.frozen.is_none() && note.aside.is_empty();
        (self.standing.accepted, if is_empty { Vec::new() } else { note.encode_to_vec() })
    }

    /// The state has to be kept before anything else is said, where one is kept at all.
    pub(crate) fn make_due(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.is_due = true;
        }
    }

    /// The state is kept.
    pub(crate) fn kept(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            (keeping.kept, keeping.is_due) = (self.standing.accepted, false);
        }
    }

    /// Whether the next thing to do is to keep the [state](Self::state).
    pub(crate) fn is_due(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_due)
    }

    /// Whether a range is frozen.
    pub(crate) fn is_running(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether batches are taken in: those behind a range that is kept stay where they are until it is accepted.
    pub(crate) fn has_room(&self) -> bool {
        self.keeping.is_none() || self.frozen.is_none()
    }

    /// What of the range under way a life before had accepted, once.
    pub(crate) fn take_accepted_before(&mut self) -> Counter {
        let taken = self.keeping.as_mut().map(|keeping| std::mem::take(&mut keeping.accepted_before));
        let taken = taken.unwrap_or_default();
        self.release(taken);
        taken
    }

    /// How many lives before may have made the current request; once a request.
    pub(crate) fn take_doubts(&mut self) -> u64 {
        let Some(keeping) = &mut self.keeping else { return 0 };
        let doubts = std::mem::take(&mut keeping.doubts);
        if keeping.is_all_doubtful { doubts.max(1) } else { doubts }
    }

    /// Folds a batch in. One whose position was applied before changes nothing.
    pub(crate) fn apply(&mut self, batch: &AttributedBatch) -> Applied {
        self.freeze_noted(|note| batch.position > Position(note.through));
        let mut applied = match Applied::begin(batch, &mut self.standing.applied) {
            Ok(begun) => begun,
            Err(repeated) => return *repeated,
        };
        for record in &batch.records {
            self.apply_record(record, &mut applied);
        }
        applied
    }

    fn apply_record(&mut self, record: &Attributed, applied: &mut Applied) {
        applied.received += record.traffic.sum();
        applied.discard(Reason::undirected, record.traffic.undirected);
        let delta = Delta { tx: record.traffic.tx, rx: record.traffic.rx };
        if delta == Delta::default() {
            return;
        }
        if let Some(sum) = self.open.fold(FlowView::of(record).with_dns_name(), delta.sum(), applied) {
            self.standing.held += delta.sum();
            sum.tx += delta.tx;
            sum.rx += delta.rx;
        }
    }

    /// Begins a cycle, unless one is running or the range of the life before is not whole again.
    pub(crate) fn begin(&mut self) {
        let applied = self.standing.applied;
        self.freeze_noted(|note| applied >= Position(note.through));
        let is_catching_up = self.keeping.as_ref().is_some_and(|keeping| keeping.noted.is_some());
        if self.frozen.is_none() && !is_catching_up {
            let flows = self.open.take();
            self.portion.begin();
            if let Some(keeping) = &mut self.keeping {
                keeping.is_due = !flows.is_empty();
            }
            self.frozen = Some(Frozen { flows, request: 0..0, through: applied });
        }
    }

    /// Freezes the range of the life before, if there is one and `is_whole` says that all of it was taken in.
    fn freeze_noted(&mut self, is_whole: impl FnOnce(&Note) -> bool) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(note) = keeping.noted.take_if(|note| is_whole(note)) else { return };
        let flows = self.open.take();
        let start = usize::try_from(note.accepted_flows).unwrap_or(usize::MAX).min(flows.len());
        let passed = sum(&flows[..start]);
        // What was set aside of the range is held on.
        let accepted = passed.growth(keeping.aside_before).unwrap_or(passed);
        // Kept before the request is made again: otherwise a third life would not know of a second.
        (keeping.accepted_before, keeping.doubts, keeping.is_due) =
            (accepted, note.lives.saturating_add(1), true);
        self.frozen = Some(Frozen { flows, request: start..start, through: Position(note.through) });
    }

    /// The flows of the current request: the next ones when the last request was accepted, otherwise the same
    /// again. `None` when the cycle is over, with its position accepted; and while it [is due](Self::is_due) that a
    /// state is kept.
    /// Flows of which `is_aside` is true are no part of a request with others.
    pub(crate) fn advance(&mut self, is_aside: impl Fn(FlowView<'_>) -> bool) -> Option<&[(FlowKey, Delta)]> {
        if self.is_due() {
            return None;
        }
        let frozen = self.frozen.as_mut()?;
        if frozen.request.is_empty() {
            frozen.request.end =
                request_end(&frozen.flows, frozen.request.start, self.portion.flows(), is_aside);
        }
        if frozen.request.is_empty() {
            self.standing.accepted = frozen.through;
            self.frozen = None;
            if let Some(keeping) = &mut self.keeping {
                keeping.is_all_doubtful = false;
                keeping.is_due = self.standing.accepted > keeping.kept;
            }
            return None;
        }
        let Frozen { flows, request, .. } = self.frozen.as_ref()?;
        flows.get(request.clone())
    }

    /// Leaves the current request with its first `flows`: the others go with the next.
    pub(crate) fn cut(&mut self, flows: usize) {
        if let Some(Frozen { request, .. }) = &mut self.frozen {
            request.end = request.end.min(request.start + flows);
        }
    }

    /// The flows of the current request.
    pub(crate) fn current(&self) -> &[(FlowKey, Delta)] {
        let flows = self.frozen.as_ref().and_then(|frozen| frozen.flows.get(frozen.request.clone()));
        flows.unwrap_or_default()
    }

    /// What the current request says.
    pub(crate) fn requested(&self) -> Counter {
        sum(self.current())
    }

    /// The current request was accepted; what was let out by it.
    pub(crate) fn settle(&mut self) -> Counter {
        let emitted = self.requested();
        self.portion.accepted();
        self.release(emitted);
        self.pass();
        if let (Some(frozen), Some(keeping)) = (&self.frozen, &mut self.keeping) {
            keeping.is_due = frozen.request.start < frozen.flows.len();
        }
        emitted
    }

    /// What was taken in and set aside is out, or given up.
    pub(crate) fn release(&mut self, out: Counter) {
        self.standing.held.release(out);
    }

    /// The current request was not accepted. What the machine makes of that, and whether to wait before the next.
    pub(crate) fn refused(&mut self, verdict: Verdict) -> (Step, bool) {
        let named = self.frozen.as_ref().map_or(0, |frozen| frozen.request.len());
        let step = self.portion.refused(verdict, named);
        if let (Step::Fewer, Some(frozen)) = (step, &mut self.frozen) {
            frozen.request.end = frozen.request.start;
        }
        (step, verdict == Verdict::Failed || self.portion.is_hopeless())
    }

    /// The end of the range under way.
    pub(crate) fn through(&self) -> Position {
        self.frozen.as_ref().map_or(self.standing.applied, |frozen| frozen.through)
    }

    /// Requests of any size are tried again: the destination may be another one.
    pub(crate) fn widen(&mut self) {
        self.portion = Portion::WHOLE;
    }

    /// The range goes on behind the current request.
    pub(crate) fn pass(&mut self) {
        if let Some(frozen) = &mut self.frozen {
            frozen.request.start = frozen.request.end;
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Flows held, those of the frozen range and of the open one.
    pub(crate) fn flows(&self) -> usize {
        self.open.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.flows.len() - frozen.request.start)
    }
}

fn sum(flows: &[(FlowKey, Delta)]) -> Counter {
    flows.iter().fold(Counter::default(), |mut sum, (_, delta)| {
        sum += delta.sum();
        sum
    })
}

/// The end of a request that starts at `start`: at most `flows_max` flows, as many as make [`ITEMS_MAX`] items, none of
/// them aside unless it is the only one.
fn request_end(
    flows: &[(FlowKey, Delta)],
    start: usize,
    flows_max: usize,
    is_aside: impl Fn(FlowView<'_>) -> bool,
) -> usize {
    let waiting = flows.iter().skip(start);
    if waiting.clone().next().is_some_and(|(flow, _)| is_aside(flow.view())) {
        return start + 1;
    }
    let mut items = 0;
    let fitting = waiting.take(flows_max).take_while(|(flow, delta)| {
        items += delta.parts().count();
        items <= ITEMS_MAX && !is_aside(flow.view())
    });
    start + fitting.count()
}

#[cfg(test)]
mod tests;
