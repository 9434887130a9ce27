//! The one place where a batch becomes known: to the window and to every subscriber, in one step.
//!
//! Invariant: a batch is in the view that a subscriber begins with, or goes through its queue, and never both.
//! Bound: the window's, and one queue a subscriber.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Counter, Position};
use egressd_protocol::{FlowEvent, FlowFilter, Missed};

use crate::feed::Unseen;
use crate::filter::matches;
use crate::question::SNAPSHOT_MINUTES;
use crate::queue::Queue;
use crate::window::{View, Window};

/// A subscriber's number; none comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriberId(u64);

#[derive(Debug)]
struct Subscriber {
    filter: FlowFilter,
    queue: Queue,
}

/// The account of this stage; bytes of all directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// What was attributed.
    pub(crate) received: Counter,
    /// Let go for its age.
    pub(crate) emitted: Counter,
    /// Found no room on its way here.
    pub(crate) unseen: Counter,
    /// In the window.
    pub(crate) held: Counter,
    /// Rows of the window.
    pub(crate) rows: usize,
    /// Bytes that lost their flow.
    pub(crate) folded_bytes: u64,
    /// Now.
    pub(crate) subscribers: usize,
    /// By all subscribers together.
    pub(crate) missed: Missed,
}

/// Window and subscribers.
#[derive(Debug)]
pub(crate) struct Board {
    window: Window,
    subscribers: HashMap<SubscriberId, Subscriber>,
    subscribed: u64,
    queue_records_max: usize,
    position: Position,
    received: Counter,
    emitted: Counter,
    unseen: Counter,
    missed: Missed,
}

/// What a subscriber begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) subscriber: SubscriberId,
    pub(crate) view: View,
    /// The last batch in the view.
    pub(crate) position: Position,
}

impl Board {
    pub(crate) fn new(rows_max: usize, queue_records_max: usize) -> Self {
        Self {
            window: Window::new(rows_max),
            subscribers: HashMap::new(),
            subscribed: 0,
            queue_records_max,
            position: Position::default(),
            received: Counter::default(),
            emitted: Counter::default(),
            unseen: Counter::default(),
            missed: Missed::default(),
        }
    }

    /// A batch was attributed.
    pub(crate) fn add(&mut self, batch: &Arc<AttributedBatch>, now: Duration) {
        self.advance(now);
        self.received += batch.sum();
        self.window.add(batch);
        self.position = self.position.max(batch.position);
        for subscriber in self.subscribers.values_mut() {
            let Some(matching) = matching(&subscriber.filter, batch) else { continue };
            if let Err(missed) = subscriber.queue.offer(matching) {
                self.missed += missed;
            }
        }
    }

    /// Batches found no room on their way here, after the one that was added last.
    pub(crate) fn miss(&mut self, unseen: Unseen) {
        if unseen == Unseen::default() {
            return;
        }
        self.received += unseen.traffic;
        self.unseen += unseen.traffic;
        let missed = Missed {
            unseen_records: unseen.records,
            unseen_bytes: unseen.traffic.bytes,
            ..Missed::default()
        };
        for subscriber in self.subscribers.values_mut() {
            subscriber.queue.miss(missed);
            self.missed += missed;
        }
    }

    /// Time goes by.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.emitted += self.window.advance(now);
    }

    /// A subscriber joins, between two batches.
    pub(crate) fn subscribe(&mut self, filter: FlowFilter, now: Duration) -> Beginning {
        let view = self.view(SNAPSHOT_MINUTES, now);
        self.subscribed += 1;
        let subscriber = SubscriberId(self.subscribed);
        let queue = Queue::new(self.queue_records_max);
        self.subscribers.insert(subscriber, Subscriber { filter, queue });
        Beginning { subscriber, view, position: self.position }
    }

    /// What the subscriber is to be told next.
    pub(crate) fn take(&mut self, subscriber: SubscriberId) -> Option<FlowEvent> {
        self.subscribers.get_mut(&subscriber)?.queue.take()
    }

    /// A subscriber leaves; what waited for it is let go.
    pub(crate) fn leave(&mut self, subscriber: SubscriberId) {
        self.subscribers.remove(&subscriber);
    }

    /// The running minute and so many before it.
    pub(crate) fn view(&mut self, minutes: u32, now: Duration) -> View {
        self.advance(now);
        self.window.view(minutes, now)
    }

    pub(crate) fn books(&self) -> Books {
        Books {
            received: self.received,
            emitted: self.emitted,
            unseen: self.unseen,
            held: self.window.held(),
            rows: self.window.rows(),
            folded_bytes: self.window.folded_bytes(),
            subscribers: self.subscribers.len(),
            missed: self.missed,
        }
    }
}

/// The matching records of a batch; the batch itself where all of them match, `None` where none does.
fn matching(filter: &FlowFilter, batch: &Arc<AttributedBatch>) -> Option<Arc<AttributedBatch>> {
    let records: Vec<_> = batch.records.iter().filter(|record| matches(filter, record)).collect();
    match records.len() {
        0 => None,
        all if all == batch.records.len() => Some(Arc::clone(batch)),
        _ => Some(Arc::new(AttributedBatch {
            records: records.into_iter().cloned().collect(),
            node: batch.node.clone(),
            ..**batch
        })),
    }
}
