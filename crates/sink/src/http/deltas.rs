//! Growth by flow since the last accepted request: the machine behind the cost API.
//!
//! A cycle freezes what has come in and cuts it into requests; growth meanwhile folds into the next one.
//! Invariant: what is frozen does not change until it is accepted, so that a request that is sent again says the
//! same, byte for byte. The position moves with the last request of the frozen range. Requests that are under way [at
//! once](crate::lanes) are parts of one range, each contiguous, and the next range is frozen when all of this one is
//! accepted.
//! Where a life after this one goes on, how far the range is gets noted before each request: the same batches give the
//! same flows in the same order, so the next life builds the range again and says what was not accepted of it, by the same
//! requests. Nothing behind the range is taken in before it is accepted, so what waits for an absent destination stays in
//! the spool.
//! Bound: the flows of one table twice (open and frozen), and [`ITEMS_MAX`] items a request, which whoever encodes
//! it may cut further.

use egressd_flow::{Attributed, AttributedBatch, Counter, Position};
use prost::Message;

use super::aside::{self, Refused};
use crate::books::{Applied, Reason, Standing};
use crate::destination::Verdict;
use crate::keep::StateLost;
use crate::labels::{FlowKey, FlowView};
use crate::lanes::Lanes;
use crate::portion::{Portion, Step};
use crate::table::Table;

mod range;

pub(crate) use range::set_aside;
use range::{FORMAT, Frozen, Note, Open, Part};

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

/// What is kept for the life after this one, and what of the life before is still to be said.
#[derive(Debug, Default)]
struct Keeping {
    /// How far the state goes that is kept.
    kept: Position,
    /// How far the one goes that is being kept.
    under_way: Option<Position>,
    /// Nothing is said before a state is kept.
    is_due: bool,
    /// Something was accepted or given up that the note does not know of.
    has_news: bool,
    /// The range that the life before was at, until it is frozen again.
    noted: Option<Note>,
    /// What of that range was set aside then.
    aside_before: Counter,
    /// What of that range was accepted then.
    accepted_before: Counter,
    /// What of that range was given up then.
    discarded_before: Counter,
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
    lanes: Lanes,
    portion: Portion,
}

impl Deltas {
    pub(crate) fn new(flows_max: usize, lanes: usize) -> Self {
        Self {
            open: Table::new(flows_max),
            frozen: None,
            standing: Standing::default(),
            keeping: None,
            lanes: Lanes::new(lanes),
            portion: Portion::WHOLE,
        }
    }

    /// From now on so many requests at most are under way at once. None is now.
    pub(crate) fn speak_at_once(&mut self, requests: usize) {
        self.lanes.resize(requests);
        if let Some(frozen) = &mut self.frozen {
            frozen.again.extend(frozen.requests.drain(..).flatten());
            frozen.requests.resize(self.lanes.len(), None);
        }
    }

    /// Requests that may be under way at once.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
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
            (note.named_flows, is_all_doubtful) = (0, true);
            note.open.clear();
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
    pub(crate) fn state(&mut self, aside: Vec<Refused>) -> (Position, Vec<u8>) {
        let accepted = self.standing.accepted;
        if let Some(keeping) = &mut self.keeping {
            keeping.under_way = Some(accepted);
            (keeping.is_due, keeping.has_news) = (false, false);
        }
        let mut note =
            Note { format: FORMAT, through: accepted.0, after: accepted.0, aside, ..Note::default() };
        if let Some(frozen) = &mut self.frozen {
            (note.through, note.named_flows) = (frozen.through.0, frozen.next as u64);
            note.open = frozen.open().map(Open::of).collect();
            (note.discarded_bytes, note.discarded_packets) =
                (frozen.discarded.bytes, frozen.discarded.packets);
            frozen
                .requests
                .iter_mut()
                .flatten()
                .chain(&mut frozen.again)
                .for_each(|part| part.is_noted = true);
        }
        let is_empty = self.frozen.is_none() && note.aside.is_empty();
        (accepted, if is_empty { Vec::new() } else { note.encode_to_vec() })
    }

    /// The state has to be kept before anything else is said, where one is kept at all.
    pub(crate) fn make_due(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.is_due = true;
        }
    }

    /// The state is kept.
    pub(crate) fn kept(&mut self) {
        if let Some(keeping) = &mut self.keeping
            && let Some(kept) = keeping.under_way.take()
        {
            keeping.kept = kept;
        }
    }

    /// Whether the next thing to do is to keep the [state](Self::state).
    pub(crate) fn is_due(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_due && keeping.under_way.is_none())
    }

    /// Whether nothing may be said before a state is kept.
    pub(crate) fn is_keeping(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_due || keeping.under_way.is_some())
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

    /// What of the range under way a life before gave up, once.
    pub(crate) fn take_discarded_before(&mut self) -> Counter {
        let taken = self.keeping.as_mut().map(|keeping| std::mem::take(&mut keeping.discarded_before));
        let taken = taken.unwrap_or_default();
        self.release(taken);
        taken
    }

    /// Gives up a lane's request; what is lost by that.
    pub(crate) fn give_up(&mut self, lane: usize) -> Counter {
        let lost = self.requested(lane);
        self.release(lost);
        self.pass(lane);
        if let Some(frozen) = &mut self.frozen {
            frozen.discarded += lost;
        }
        self.has_news();
        lost
    }

    fn has_news(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.has_news = true;
        }
    }

    /// How many lives before may have made a lane's request; once a request.
    pub(crate) fn take_doubts(&mut self, lane: usize) -> u64 {
        let request = self.frozen.as_mut().and_then(|frozen| frozen.request_mut(lane));
        let doubts = request.map(|request| std::mem::take(&mut request.lives)).unwrap_or_default();
        let is_doubtful = self.keeping.as_ref().is_some_and(|keeping| keeping.is_all_doubtful);
        if is_doubtful { doubts.max(1) } else { doubts }
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
            self.frozen = Some(Frozen::new(flows, applied, self.lanes.len()));
        }
    }

    /// Freezes the range of the life before, if there is one and `is_whole` says that all of it was taken in.
    fn freeze_noted(&mut self, is_whole: impl FnOnce(&Note) -> bool) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(note) = keeping.noted.take_if(|note| is_whole(note)) else { return };
        let mut frozen = Frozen::new(self.open.take(), Position(note.through), self.lanes.len());
        let flows = frozen.flows.len();
        frozen.next = usize::try_from(note.named_flows).unwrap_or(usize::MAX).min(flows);
        let mut accepted = sum(&frozen.flows[..frozen.next]);
        for part in note.open.iter().rev().map(|open| open.part(flows)) {
            accepted = accepted.growth(sum(frozen.part(&part))).unwrap_or_default();
            frozen.again.push(part);
        }
        // What was set aside of the range is held on.
        accepted = accepted.growth(keeping.aside_before).unwrap_or(accepted);
        let discarded = Counter { bytes: note.discarded_bytes, packets: note.discarded_packets };
        (keeping.accepted_before, frozen.discarded) = match accepted.growth(discarded) {
            Some(accepted) => (accepted, discarded),
            None => (accepted, Counter::default()),
        };
        keeping.discarded_before = frozen.discarded;
        // Kept before a request is made again: otherwise a third life would not know of a second.
        keeping.is_due = true;
        self.frozen = Some(frozen);
    }

    /// The flows of a lane's request: a part that was not accepted, or a new one, and the same again until that is
    /// answered. `None` when the cycle is over, with its position accepted; while other lanes are to be waited for; and
    /// while it [is due](Self::is_due) that a state is kept.
    /// Flows of which `is_aside` is true are no part of a request with others.
    pub(crate) fn advance(
        &mut self,
        lane: usize,
        is_aside: impl Fn(FlowView<'_>) -> bool,
    ) -> Option<&[(FlowKey, Delta)]> {
        if self.is_keeping() || !self.lanes.is_open(lane) {
            return None;
        }
        let flows_max = self.portion.flows();
        let frozen = self.frozen.as_mut()?;
        if frozen.request(lane).is_none() {
            let part = frozen.next_part(flows_max, is_aside);
            *frozen.requests.get_mut(lane)? = part;
        }
        if frozen.request(lane).is_none() {
            if frozen.open().next().is_none() {
                self.standing.accepted = frozen.through;
                self.frozen = None;
            }
            let accepted = self.standing.accepted;
            if let Some(keeping) = &mut self.keeping {
                keeping.is_all_doubtful &= self.frozen.is_some();
                keeping.is_due = keeping.has_news || accepted > keeping.kept;
            }
            return None;
        }
        Some(self.current(lane))
    }

    /// Gives an idle lane the request that another lane has and that never went; the lane that had it.
    pub(crate) fn take_over(&mut self, lane: usize) -> Option<usize> {
        let Self { frozen: Some(frozen), lanes, .. } = self else { return None };
        if frozen.request(lane).is_some() || lane >= frozen.requests.len() {
            return None;
        }
        let waits = |other: &usize| frozen.request(*other).is_some() && !lanes.is_under_way(*other);
        let other = (0..frozen.requests.len()).find(waits)?;
        frozen.requests.swap(lane, other);
        Some(other)
    }

    /// A lane's request goes, once it is noted, and what was accepted before; whether it does.
    pub(crate) fn send(&mut self, lane: usize) -> bool {
        if self.is_keeping() {
            return false;
        }
        let request = self.frozen.as_ref().and_then(|frozen| frozen.request(lane));
        let is_noted = request.is_some_and(|part| part.is_noted);
        if let Some(keeping) = self.keeping.as_mut().filter(|keeping| !is_noted || keeping.has_news) {
            keeping.is_due = true;
            return false;
        }
        self.lanes.begin(lane);
        true
    }

    /// Leaves a lane's request with its first `flows`: the others go with the next.
    pub(crate) fn cut(&mut self, lane: usize, flows: usize) {
        let Some(frozen) = &mut self.frozen else { return };
        let Some(part) = frozen.request_mut(lane) else { return };
        let middle = part.flows.start + flows;
        if middle < part.flows.end {
            let rest = Part { flows: middle..part.flows.end, ..*part };
            part.flows.end = middle;
            frozen.give_back(rest);
        }
    }

    /// The flows of a lane's request.
    pub(crate) fn current(&self, lane: usize) -> &[(FlowKey, Delta)] {
        let request = self.frozen.as_ref().and_then(|frozen| Some(frozen.part(frozen.request(lane)?)));
        request.unwrap_or_default()
    }

    /// What a lane's request says.
    pub(crate) fn requested(&self, lane: usize) -> Counter {
        sum(self.current(lane))
    }

    /// A lane's request was accepted; what was let out by it, and whether it began before another failed.
    pub(crate) fn settle(&mut self, lane: usize) -> (Counter, bool) {
        let emitted = self.requested(lane);
        let is_news = self.lanes.answered(lane, true);
        if is_news {
            self.portion.accepted();
            if self.portion.is_whole() {
                self.lanes.widen();
            }
        }
        self.release(emitted);
        self.pass(lane);
        self.has_news();
        (emitted, !is_news)
    }

    /// A request of none of these flows goes in the first lane; whether it does.
    pub(crate) fn send_aside(&mut self) -> bool {
        let goes = !self.is_keeping();
        if goes {
            self.lanes.begin(0);
        }
        goes
    }

    /// It was answered; whether it was accepted.
    pub(crate) fn answered_aside(&mut self, is_accepted: bool) {
        self.lanes.answered(0, is_accepted);
    }

    /// Whether nothing is under way but what the first lane may have.
    pub(crate) fn is_alone(&self) -> bool {
        self.lanes.is_alone(0)
    }

    /// What was taken in and set aside is out, or given up.
    pub(crate) fn release(&mut self, out: Counter) {
        self.standing.held.release(out);
    }

    /// A lane's request was not accepted. What the machine makes of that and whether to wait before the next; `None` where
    /// the request began before another that failed.
    pub(crate) fn refused(&mut self, lane: usize, verdict: Verdict) -> Option<(Step, bool)> {
        let is_news = self.lanes.answered(lane, false);
        let named = self.current(lane).len();
        let step = if is_news { self.portion.refused(verdict, named) } else { Step::Again };
        if let (Step::Again | Step::Fewer, Some(frozen)) = (step, &mut self.frozen)
            && let Some(part) = frozen.take(lane)
        {
            frozen.again.push(part);
        }
        is_news.then(|| (step, verdict == Verdict::Failed || self.portion.is_hopeless()))
    }

    /// The end of the range under way.
    pub(crate) fn through(&self) -> Position {
        self.frozen.as_ref().map_or(self.standing.applied, |frozen| frozen.through)
    }

    /// Requests of any size are tried again: the destination may be another one.
    pub(crate) fn widen(&mut self) {
        self.portion = Portion::WHOLE;
    }

    /// The range goes on without a lane's request.
    pub(crate) fn pass(&mut self, lane: usize) {
        if let Some(frozen) = &mut self.frozen {
            frozen.take(lane);
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Flows held, those of the frozen range and of the open one.
    pub(crate) fn flows(&self) -> usize {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| {
            let named: usize = frozen.open().map(|part| part.flows.len()).sum();
            frozen.flows.len() - frozen.next + named
        });
        self.open.len() + frozen
    }
}

pub(super) fn sum(flows: &[(FlowKey, Delta)]) -> Counter {
    flows.iter().fold(Counter::default(), |mut sum, (_, delta)| {
        sum += delta.sum();
        sum
    })
}

#[cfg(test)]
mod tests;
