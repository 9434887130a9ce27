//! The range under way: which of its flows were named, by which request, and how that is kept.
//!
//! Invariant: a flow is in one part at most, named or to be said again, or was accepted, set aside or given up.
//! Bound: the flows of one table, and two parts for each lane.

use std::ops::Range;

use egressd_flow::{Counter, Position};
use prost::Message;

use super::super::ITEMS_MAX;
use super::super::aside::{self, Refused};
use super::Delta;
use crate::labels::{FlowKey, FlowView};

#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) flows: Vec<(FlowKey, Delta)>,
    /// The first flow that no request has named yet.
    pub(super) next: usize,
    /// The request of each lane.
    pub(super) requests: Vec<Option<Part>>,
    /// To be said again, the next one last: at most two for each lane.
    pub(super) again: Vec<Part>,
    /// What of its flows was given up.
    pub(super) discarded: Counter,
    /// The position that is accepted with the last request.
    pub(super) through: Position,
}

impl Frozen {
    pub(super) fn new(flows: Vec<(FlowKey, Delta)>, through: Position, lanes: usize) -> Self {
        let (requests, discarded) = (vec![None; lanes], Counter::default());
        Self { flows, next: 0, requests, again: Vec::new(), discarded, through }
    }

    pub(super) fn request(&self, lane: usize) -> Option<&Part> {
        self.requests.get(lane)?.as_ref()
    }

    pub(super) fn request_mut(&mut self, lane: usize) -> Option<&mut Part> {
        self.requests.get_mut(lane)?.as_mut()
    }

    pub(super) fn take(&mut self, lane: usize) -> Option<Part> {
        self.requests.get_mut(lane)?.take()
    }

    /// What a request had no room for. The end of what was named is new again, unless it may have been said.
    pub(super) fn give_back(&mut self, rest: Part) {
        if rest.flows.end == self.next && !rest.is_noted && rest.lives == 0 {
            self.next = rest.flows.start;
        } else {
            self.again.push(rest);
        }
    }

    /// What a free lane says next: a part that is to be said again, or new flows; `None` when there is neither.
    pub(super) fn next_part(
        &mut self,
        flows_max: usize,
        is_aside: impl Fn(FlowView<'_>) -> bool,
    ) -> Option<Part> {
        let part = self.again.pop().filter(|part| !part.flows.is_empty());
        let whole = part.unwrap_or(Part { flows: self.next..self.flows.len(), lives: 0, is_noted: false });
        let end = whole.flows.start + fitting(self.part(&whole), flows_max, is_aside);
        let (part, rest) = (whole.flows.start..end, end..whole.flows.end);
        self.next = self.next.max(whole.flows.end);
        if !rest.is_empty() {
            self.give_back(Part { flows: rest, ..whole });
        }
        (!part.is_empty()).then_some(Part { flows: part, ..whole })
    }

    pub(super) fn part(&self, part: &Part) -> &[(FlowKey, Delta)] {
        self.flows.get(part.flows.clone()).unwrap_or_default()
    }

    /// What was named and is not known to be accepted.
    pub(super) fn open(&self) -> impl Iterator<Item = &Part> {
        self.requests.iter().flatten().chain(&self.again)
    }
}

/// Neighbouring flows of a range, as one request names them.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) flows: Range<usize>,
    /// Lives before this one that may have said it, and were not counted for that.
    pub(super) lives: u64,
    /// Whether the note that is kept has it.
    pub(super) is_noted: bool,
}

/// How far a range is, as it is kept for the life after this one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Note {
    /// Raised when a range would be built otherwise than before.
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    /// The last position of the range.
    #[prost(uint64, tag = "2")]
    pub(super) through: u64,
    /// How many of its flows were named; what of them is not open was accepted or set aside.
    #[prost(uint64, tag = "3")]
    pub(super) named_flows: u64,
    /// What is set aside, of this range and of those before.
    #[prost(message, repeated, tag = "4")]
    pub(super) aside: Vec<Refused>,
    /// The position behind which the range begins.
    #[prost(uint64, tag = "6")]
    pub(super) after: u64,
    /// Requests that may have been made and are not known to be accepted.
    #[prost(message, repeated, tag = "7")]
    pub(super) open: Vec<Open>,
    /// What of its flows was given up.
    #[prost(uint64, tag = "8")]
    pub(super) discarded_bytes: u64,
    #[prost(uint64, tag = "9")]
    pub(super) discarded_packets: u64,
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Open {
    #[prost(uint64, tag = "1")]
    pub(super) start: u64,
    #[prost(uint64, tag = "2")]
    pub(super) end: u64,
    /// Lives that may have made it and were not counted for that.
    #[prost(uint64, tag = "3")]
    pub(super) lives: u64,
}

impl Open {
    pub(super) fn of(part: &Part) -> Self {
        Self { start: part.flows.start as u64, end: part.flows.end as u64, lives: part.lives }
    }

    /// As the next life has it, of a range of so many flows.
    pub(super) fn part(self, flows: usize) -> Part {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(flows);
        let start = place(self.start);
        let flows = start..place(self.end).max(start);
        Part { flows, lives: self.lives.saturating_add(1), is_noted: false }
    }
}

pub(super) const FORMAT: u32 = 2;

const _: () = assert!(FORMAT != crate::totals::FORMAT, "a state tells whose it is");

/// What a note holds beside its range, which is behind the position that is kept with it.
pub(crate) fn set_aside(note: &[u8]) -> Option<Counter> {
    let note = Note::decode(note).ok().filter(|note| note.format == FORMAT)?;
    Some(aside::sum(note.aside.iter()))
}

/// How many of these flows a request names: at most `flows_max`, as many as make [`ITEMS_MAX`] items, none of them aside
/// unless it is the only one.
fn fitting(flows: &[(FlowKey, Delta)], flows_max: usize, is_aside: impl Fn(FlowView<'_>) -> bool) -> usize {
    if flows.first().is_some_and(|(flow, _)| is_aside(flow.view())) {
        return 1;
    }
    let mut items = 0;
    let fitting = flows.iter().take(flows_max).take_while(|(flow, delta)| {
        items += delta.parts().count();
        items <= ITEMS_MAX && !is_aside(flow.view())
    });
    fitting.count()
}
