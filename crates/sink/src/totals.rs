//! Running totals by flow, and when which of them is said: the machine behind remote write.
//!
//! A cycle accounts for everything that was applied when it began. It sweeps the table twice: first a zero for each
//! series that the destination has none of, then the total of each series. What the destination refuses is narrowed down
//! to the flow and set [aside](crate::portion), which keeps no position back; each cycle tries such flows first. Zero and first total thus never share a
//! request, and `increase()` sees the growth from zero.
//!
//! Invariants:
//! - Timestamps rise from request to request, also where the clock does not, and a request holds a series once; so
//!   samples of a series rise strictly, over its end and return too.
//! - State changes only when a request was accepted. After any other answer the same part of the sweep is built
//!   again, from the totals of then and at a new time: a total is idempotent.
//! - Requests that are under way [at once](crate::lanes) are parts of one sweep without a flow in common, and the next
//!   sweep begins when all of this one is answered: what is said of a series is said in order.
//! - A series whose total is unchanged for [`IDLE_MAX`] and known to be accepted ends with one stale marker and is
//!   forgotten; a return begins with a new zero.
//!
//! Where growth is said in place of totals, a cycle is one sweep of what grew, one request at a time, each said again with
//! the same figures until it is accepted, and what is accepted is forgotten.
//!
//! Where a life after this one goes on from a state that was kept, two things must not be said twice: a zero after a
//! value, and a value that is lower than one before. So after zeros or ends were accepted nothing of the next kind is
//! said before a state that knows of them is kept, and the next life says nothing before it took in again all that this
//! one may have. A request of growth is said only once a state is kept that knows of it: the next life says that growth
//! again, and that it may be taken.
//!
//! Bound: the table's flows, and for each lane one request of `samples_max` samples, which whoever encodes it may cut
//! further.
//!
//! Prometheus adds up `increase()` over a series' end and its new zero as over a counter reset
//! (`promql/functions.go`, `extrapolatedRate`), and leaves stale markers out of ranges.

use std::ops::Range;

use egressd_flow::{Attributed, AttributedBatch, Counter, Position, UnixNanos};

use crate::books::{Applied, Reason, Standing};
use crate::config::Temporality;
use crate::destination::Verdict;
use crate::labels::FlowView;
use crate::lanes::Lanes;
use crate::portion::{Portion, Step};
use crate::table::Table;

mod aside;
mod chunk;
mod series;
mod state;

use aside::Aside;
use chunk::Chunk;
pub(crate) use chunk::Sample;
pub(crate) use series::{Figure, FlowTotals, IDLE_MAX, Metric};
use series::{Phase, Stage, Total};
pub(crate) use state::{FORMAT, unaccepted};

#[derive(Clone, Copy, Debug)]
struct Cycle {
    /// What had been applied when it began.
    through: Position,
    phase: Phase,
    /// The first slot that no request of the sweep has reached.
    next: u32,
}

/// What came of an answer that was no acceptance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The flow that was set aside.
    pub(crate) aside: Option<String>,
    /// Given up.
    pub(crate) discarded: Counter,
    /// The next request says something else.
    pub(crate) goes_on: bool,
    /// The request began before another failed.
    pub(crate) is_late: bool,
}

/// What is kept for the life after this one, and what of the life before is still to be taken in.
#[derive(Debug, Default)]
struct Keeping {
    /// How far the state goes that is kept.
    kept: Position,
    /// The last time that it knows of, in milliseconds since 1970.
    kept_ms: i64,
    /// Both of the one that is being kept.
    under_way: Option<(Position, i64)>,
    /// Zeros, ends or growth were accepted that the state does not know of.
    has_news: bool,
    /// Nothing is said before a state is kept.
    is_due: bool,
    catching_up: Option<CatchingUp>,
    /// Growth that the life before may have had taken.
    doubt: Counter,
}

/// Until the totals are at least those that the life before may have told.
#[derive(Debug)]
struct CatchingUp {
    through: Position,
    /// Whether series begin anew then.
    anew: bool,
    /// Whether received bytes are exported from then on; until then as in the life before.
    received_asked: bool,
}

/// The running totals of one destination.
#[derive(Debug)]
pub(crate) struct Totals {
    table: Table<FlowTotals>,
    received_asked: bool,
    temporality: Temporality,
    samples_max: usize,
    standing: Standing,
    cycle: Option<Cycle>,
    lanes: Lanes,
    /// The request of each lane, and the buffers of the next.
    chunks: Vec<Chunk>,
    /// Parts of the sweep to be said again, the next one last: at most two for each lane.
    again: Vec<Range<u32>>,
    portion: Portion,
    aside: Aside,
    last_timestamp_ms: i64,
    /// `None`: nothing outlives the process.
    keeping: Option<Keeping>,
}

impl Totals {
    /// `received_asked`: whether received bytes are exported. `samples_max`: of a request, at least one flow's
    /// three.
    pub(crate) fn new(flows_max: usize, samples_max: usize, received_asked: bool) -> Self {
        Self {
            table: Table::new(flows_max),
            received_asked,
            temporality: Temporality::Cumulative,
            samples_max: samples_max.max(Metric::ALL.len()),
            standing: Standing::default(),
            cycle: None,
            lanes: Lanes::new(1),
            chunks: vec![Chunk::default()],
            again: Vec::new(),
            portion: Portion::WHOLE,
            aside: Aside::new(),
            last_timestamp_ms: 0,
            keeping: None,
        }
    }

    /// From now on so many requests at most are under way at once. None is now.
    pub(crate) fn speak_at_once(&mut self, requests: usize) {
        self.lanes.resize(requests);
        self.chunks.resize_with(self.lanes.len(), Chunk::default);
    }

    /// Folds a batch in. One whose position was applied before changes nothing.
    pub(crate) fn apply(&mut self, batch: &AttributedBatch, now: UnixNanos) -> Applied {
        let mut applied = match Applied::begin(batch, &mut self.standing.applied) {
            Ok(begun) => begun,
            Err(repeated) => return *repeated,
        };
        for record in &batch.records {
            self.apply_record(record, now, &mut applied);
        }
        applied
    }

    fn apply_record(&mut self, record: &Attributed, now: UnixNanos, applied: &mut Applied) {
        let mut traffic = record.traffic;
        applied.received += traffic.sum();
        if !self.received_asked {
            applied.discard(Reason::not_asked, std::mem::take(&mut traffic.rx));
        }
        if traffic.is_zero() {
            return;
        }
        let Some(FlowTotals(totals)) = self.table.fold(FlowView::of(record), traffic.sum(), applied) else {
            return;
        };
        self.standing.held += traffic.sum();
        for (total, growth) in totals.iter_mut().zip([traffic.tx, traffic.rx, traffic.undirected]) {
            if !growth.is_zero() {
                total.grow(growth, now);
            }
        }
    }

    /// From now on received bytes are exported, or are not; what is held stays.
    pub(crate) fn ask_received(&mut self, asked: bool) {
        match self.catching_up() {
            Some(catching_up) => catching_up.received_asked = asked,
            None => self.received_asked = asked,
        }
    }

    /// From now on totals are said, or growth. Where that is another than before, everything [begins
    /// anew](Self::begin_anew) with it.
    pub(crate) fn say(&mut self, temporality: Temporality) {
        if self.temporality != temporality {
            self.temporality = temporality;
            self.begin_anew();
        }
    }

    /// Begins every series anew, with what was not accepted: for a destination that has none of them. A cycle that is
    /// running sweeps everything again.
    pub(crate) fn begin_anew(&mut self) {
        if let Some(catching_up) = self.catching_up() {
            catching_up.anew = true;
            return;
        }
        if let Some(keeping) = &mut self.keeping {
            keeping.is_due = true;
        }
        for slot in 0..self.table.end() {
            let Some(FlowTotals(totals)) = self.table.value_mut(slot) else { continue };
            totals.iter_mut().for_each(Total::begin_anew);
            if totals.iter().all(|total| total.stage == Stage::Absent) {
                self.table.remove(slot);
            }
        }
        self.aside = Aside::new();
        self.chunks.iter_mut().for_each(|chunk| chunk.samples.clear());
        self.again.clear();
        if let Some(cycle) = &mut self.cycle {
            *cycle = Cycle { phase: Phase::first(self.temporality), next: 0, ..*cycle };
        }
    }

    fn catching_up(&mut self) -> Option<&mut CatchingUp> {
        self.keeping.as_mut()?.catching_up.as_mut()
    }

    /// Ends the catching up once it is complete; whether it is.
    fn is_caught_up(&mut self) -> bool {
        let applied = self.standing.applied;
        let Some(keeping) = &mut self.keeping else { return true };
        if let Some(done) = keeping.catching_up.take_if(|catching_up| catching_up.through <= applied) {
            self.received_asked = done.received_asked;
            if done.anew {
                self.begin_anew();
            }
            return true;
        }
        keeping.catching_up.is_none()
    }

    /// Begins a cycle, unless one is running or the life before was further.
    pub(crate) fn begin(&mut self) {
        if !self.is_caught_up() {
            return;
        }
        if self.cycle.is_none() {
            self.aside.begin();
            self.portion.begin();
            let next = self.aside.from;
            self.cycle = Some(Cycle { through: self.standing.applied, phase: Phase::Aside, next });
        }
    }

    /// Requests of any size are tried again: the destination may be another one.
    pub(crate) fn widen(&mut self) {
        self.portion = Portion::WHOLE;
    }

    /// The next request of a lane: a part of the sweep that was not accepted, or a new one, and the same part again until
    /// that is answered. `None` when the cycle is over, with its position accepted; while other lanes are to be waited
    /// for; and while it [is due](Self::is_due) that a state is kept.
    pub(crate) fn advance(&mut self, lane: usize, now: UnixNanos) -> Option<&[Sample]> {
        while let Some(cycle) = self.cycle.filter(|_| !self.is_keeping()) {
            let speaks = lane == 0 || cycle.phase.is_shared();
            if !(speaks && self.lanes.is_open(lane)) || self.outlives(self.next_timestamp_ms(now)) {
                return None;
            }
            if !self.is_frozen(lane) {
                self.say_again(lane);
                self.fill(lane, cycle, now);
                if self.is_frozen(lane) && self.keeping.is_some() {
                    self.keep_if(|_, _| true);
                    return None;
                }
            }
            if self.chunks.get(lane).is_some_and(|chunk| !chunk.samples.is_empty()) {
                return self.send(lane, now);
            }
            if !self.lanes.is_alone(lane) {
                return None;
            }
            self.cycle = self.swept(cycle);
        }
        None
    }

    /// Whether a lane's request may go once more as it was, at its own time.
    pub(crate) fn repeat(&mut self, lane: usize) -> bool {
        let may_go = !self.is_keeping();
        if may_go {
            self.lanes.begin(lane);
        }
        may_go
    }

    /// Requests that may be under way at once.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn next_timestamp_ms(&self, now: UnixNanos) -> i64 {
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        now_ms.max(self.last_timestamp_ms.saturating_add(1))
    }

    /// The request of a lane goes, at a later time than any before.
    fn send(&mut self, lane: usize, now: UnixNanos) -> Option<&[Sample]> {
        self.last_timestamp_ms = self.next_timestamp_ms(now);
        self.lanes.begin(lane);
        let chunk = self.chunks.get_mut(lane)?;
        chunk.timestamp_ms = self.last_timestamp_ms;
        Some(&chunk.samples)
    }

    /// A sweep is over; what follows it.
    fn swept(&mut self, cycle: Cycle) -> Option<Cycle> {
        match cycle.phase {
            Phase::Aside => {
                self.keep_if(|keeping, _| keeping.has_news);
                let untried = self.again.drain(..).map(|part| part.start).fold(cycle.next, u32::min);
                self.aside.from = if self.aside.is_over() { untried } else { 0 };
                Some(Cycle { phase: Phase::first(self.temporality), next: 0, ..cycle })
            }
            Phase::Zeros => {
                self.keep_if(|keeping, _| keeping.has_news);
                Some(Cycle { phase: Phase::Totals, next: 0, ..cycle })
            }
            Phase::Totals | Phase::Growth => {
                self.standing.accepted = cycle.through;
                self.keep_if(|keeping, applied| keeping.has_news || applied > keeping.kept);
                None
            }
        }
    }

    /// Has a state kept next, where one is kept at all.
    fn keep_if(&mut self, is_due: impl FnOnce(&Keeping, Position) -> bool) {
        if let Some(keeping) = &mut self.keeping {
            keeping.is_due |= is_due(keeping, self.standing.applied);
        }
    }

    /// Whether the next thing to do is to keep the [state](Self::state).
    pub(crate) fn is_due(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_due && keeping.under_way.is_none())
    }

    /// Whether nothing may be said before a state is kept.
    fn is_keeping(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_due || keeping.under_way.is_some())
    }

    /// Whether a cycle is running.
    pub(crate) fn is_running(&self) -> bool {
        self.cycle.is_some()
    }

    /// The request of a lane was not accepted, or it is not known; what was taken in meanwhile is kept before the next.
    pub(crate) fn refused(&mut self, lane: usize, verdict: Verdict, now: UnixNanos) -> Refusal {
        self.keep_if(|keeping, applied| applied > keeping.kept);
        let is_news = self.lanes.answered(lane, false);
        let request =
            self.chunks.get(lane).and_then(|chunk| Some((chunk.samples.first()?.slot, chunk.named())));
        let Some((cycle, (slot, named))) = self.cycle.zip(request) else { return Refusal::default() };
        if !is_news {
            self.say_again(lane);
            return Refusal { is_late: true, ..Refusal::default() };
        }
        let is_aside = cycle.phase == Phase::Aside;
        let portion = if is_aside { &mut self.aside.portion } else { &mut self.portion };
        let step = portion.refused(verdict, named);
        let waits = verdict == Verdict::Failed && !is_aside || portion.is_hopeless();
        let goes_on = step != Step::Again && !waits;
        let mut refusal = Refusal { goes_on, ..Refusal::default() };
        if is_aside {
            self.aside.refused(step);
        }
        match step {
            Step::Again if self.is_frozen(lane) => {}
            Step::Again | Step::Fewer => self.say_again(lane),
            Step::Aside if is_aside => {
                if self.aside.is_given_up(slot, now) {
                    refusal.discarded = self.give_up(slot);
                }
                self.pass(lane);
            }
            Step::Aside => {
                // Without room it is found again in the next cycle.
                if self.aside.add(slot, now) {
                    refusal.aside = self.table.get(slot).map(|(flow, _)| flow.to_string());
                }
                self.pass(lane);
            }
        }
        refusal
    }

    /// The request of a lane was not taken for what it is: its part is said again, whatever was said before.
    pub(crate) fn not_understood(&mut self, lane: usize) {
        self.lanes.answered(lane, false);
        if !self.is_frozen(lane) {
            self.say_again(lane);
        }
    }

    /// The part of a lane's request, if there is one, is to be said again by whoever is next.
    fn say_again(&mut self, lane: usize) {
        let Some(chunk) = self.chunks.get_mut(lane).filter(|chunk| !chunk.samples.is_empty()) else { return };
        chunk.samples.clear();
        self.again.push(chunk.part.clone());
    }

    /// The sweep goes on behind a lane's request.
    fn pass(&mut self, lane: usize) {
        if let Some(chunk) = self.chunks.get_mut(lane) {
            chunk.samples.clear();
        }
    }

    /// Forgets a flow with what was not accepted of it.
    fn give_up(&mut self, slot: u32) -> Counter {
        let lost = self.table.get(slot).map_or_else(Counter::default, |(_, totals)| totals.unaccepted());
        self.table.remove(slot);
        self.aside.remove(slot);
        self.standing.held.release(lost);
        self.keep_if(|_, _| true);
        lost
    }

    /// Growth that was said may be taken; it is said again as it was until it is accepted, so that it counts once.
    fn is_frozen(&self, lane: usize) -> bool {
        self.temporality == Temporality::Delta && !self.chunk(lane).is_empty()
    }

    /// Builds a lane's request of the next part of the sweep that has something to say.
    fn fill(&mut self, lane: usize, cycle: Cycle, now: UnixNanos) {
        let Self { table, chunks, again, aside, portion, samples_max, temporality, .. } = self;
        let Some(chunk) = chunks.get_mut(lane) else { return };
        let figure = |total: &Total| match (cycle.phase, *temporality) {
            (Phase::Aside, Temporality::Cumulative) => {
                total.sample(Phase::Zeros, now).or_else(|| total.sample(Phase::Totals, now))
            }
            (Phase::Aside, Temporality::Delta) => total.sample(Phase::Growth, now),
            (phase, _) => total.sample(phase, now),
        };
        chunk.samples.clear();
        while chunk.samples.is_empty() {
            if cycle.phase == Phase::Aside && aside.is_over() {
                return;
            }
            let part = again.pop();
            let is_new = part.is_none();
            chunk.part = part.unwrap_or(cycle.next..table.end());
            let (start, end) = (chunk.part.start, chunk.part.end);
            if cycle.phase == Phase::Aside {
                let flows = aside.from(start).filter_map(|slot| Some((slot, table.get(slot)?.1)));
                chunk.fill(flows, (aside.portion.flows(), *samples_max), figure);
            } else {
                let flows = table.iter_from(start).filter(|(slot, ..)| !aside.has(*slot));
                let flows = flows.map(|(slot, _, totals)| (slot, totals));
                chunk.fill(flows, (portion.flows(), *samples_max), figure);
            }
            if is_new {
                self.cycle = Some(Cycle { next: chunk.part.end, ..cycle });
                return;
            }
            if chunk.part.end < end {
                again.push(chunk.part.end..end);
            }
        }
    }

    /// Leaves a lane's request without the flows from a slot on: they go with the next.
    pub(crate) fn cut(&mut self, lane: usize, slot: u32) {
        let Some(chunk) = self.chunks.get_mut(lane) else { return };
        let kept = chunk.samples.partition_point(|sample| sample.slot < slot);
        chunk.samples.truncate(kept);
        self.again.push(slot..chunk.part.end);
        chunk.part.end = slot;
    }

    /// A lane's request; empty when there is none.
    pub(crate) fn chunk(&self, lane: usize) -> &[Sample] {
        self.chunks.get(lane).map(|chunk| chunk.samples.as_slice()).unwrap_or_default()
    }

    /// The time of a lane's request, in milliseconds since 1970.
    pub(crate) fn timestamp_ms(&self, lane: usize) -> i64 {
        self.chunks.get(lane).map_or(0, |chunk| chunk.timestamp_ms)
    }

    /// The flow that a sample of the current request speaks of.
    pub(crate) fn flow(&self, sample: &Sample) -> Option<FlowView<'_>> {
        self.table.get(sample.slot).map(|(flow, _)| flow)
    }

    /// When the total of a sample of the current request began to count, in milliseconds since 1970.
    pub(crate) fn began_ms(&self, sample: &Sample) -> i64 {
        let total = self.table.get(sample.slot).and_then(|(_, totals)| totals.0.get(sample.metric as usize));
        total.map_or(0, |total| total.began.as_millis())
    }

    /// The growth that the requests of all lanes say; nothing where they say totals.
    pub(crate) fn requested(&self) -> Counter {
        self.chunks.iter().flat_map(|chunk| &chunk.samples).fold(Counter::default(), |mut sum, sample| {
            if let Figure::Growth(growth) = sample.figure {
                sum += growth;
            }
            sum
        })
    }

    /// Once, the growth that is held and that the life before may have had taken.
    pub(crate) fn take_doubt(&mut self) -> Counter {
        self.keeping.as_mut().map(|keeping| std::mem::take(&mut keeping.doubt)).unwrap_or_default()
    }

    /// The request of a lane was accepted; what was let out by it, and whether it began before another failed.
    pub(crate) fn settle(&mut self, lane: usize) -> (Counter, bool) {
        let is_news = self.lanes.answered(lane, true);
        let Some(chunk) = self.chunks.get_mut(lane) else { return Default::default() };
        let samples = std::mem::take(&mut chunk.samples);
        let mut emitted = Counter::default();
        for sample in &samples {
            let Some(FlowTotals(totals)) = self.table.value_mut(sample.slot) else {
                continue;
            };
            if let Some(total) = totals.get_mut(sample.metric as usize) {
                emitted += total.settle(sample.figure);
            }
            if let (Some(keeping), Figure::Zero | Figure::Stale(_) | Figure::Growth(_)) =
                (&mut self.keeping, sample.figure)
            {
                keeping.has_news = true;
            }
            if totals.iter().all(|total| total.stage == Stage::Absent) {
                self.table.remove(sample.slot);
            }
            self.aside.remove(sample.slot);
        }
        self.standing.held.release(emitted);
        if is_news {
            self.accepted();
        }
        // The buffer is kept for the next request.
        if let Some(chunk) = self.chunks.get_mut(lane) {
            chunk.samples = samples;
        }
        self.pass(lane);
        (emitted, !is_news)
    }

    /// The next requests may be larger, then more.
    fn accepted(&mut self) {
        if matches!(self.cycle, Some(Cycle { phase: Phase::Aside, .. })) {
            self.aside.portion.accepted();
            return;
        }
        self.portion.accepted();
        if self.portion.is_whole() {
            self.lanes.widen();
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Flows in the table.
    pub(crate) fn flows(&self) -> usize {
        self.table.len()
    }

    /// Flows that the destination refuses.
    pub(crate) fn flows_aside(&self) -> usize {
        self.aside.len()
    }

    /// Flows with growth that is not known to be accepted. Goes through the whole table.
    pub(crate) fn held_flows(&self) -> u64 {
        self.table.iter_from(0).map(|(_, _, flow)| u64::from(!flow.unaccepted().is_zero())).sum()
    }
}

#[cfg(test)]
mod tests;
