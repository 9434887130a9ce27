//! The last hour by flow and minute.
//!
//! A record belongs to the minute in which it came here, a few seconds after its batch was measured; later still where
//! its collector was away. Time is that since the start, and never goes back.
//! Invariant: what came in is in a row or folded, until its minute is over the hour and let go whole.
//! Bound: [`ROWS_MAX`] rows, each a flow of a minute. Beyond it the oldest minute loses its flows and keeps its sum; a
//! minute that alone has more folds what is new to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Attributed, AttributedBatch, Counter, Traffic};
use egressd_protocol::limits::SUMMARY_MINUTES_MAX;

use crate::table::FlowTable;

/// Rows of the window: at most about 280 bytes each, for the table grows by doubling.
pub const ROWS_MAX: usize = 100_000;

const _: () = assert!(size_of::<Attributed>() <= 120, "the bound on memory is stated from this");

const MINUTE_SECONDS: u64 = 60;

/// One minute.
#[derive(Clone, Debug, Default)]
struct Bucket {
    minute: u64,
    flows: FlowTable,
    /// What has no row.
    folded: Traffic,
    all: Traffic,
}

/// The minutes of the last hour in which something came.
#[derive(Debug)]
pub(crate) struct Window {
    /// Oldest first; only the last one changes.
    buckets: VecDeque<Arc<Bucket>>,
    /// The highest minute so far.
    minute: u64,
    rows: usize,
    rows_max: usize,
    held: Counter,
    folded_bytes: u64,
}

impl Window {
    pub(crate) fn new(rows_max: usize) -> Self {
        Self {
            buckets: VecDeque::new(),
            minute: 0,
            rows: 0,
            rows_max,
            held: Counter::default(),
            folded_bytes: 0,
        }
    }

    /// Adds every record of a batch.
    pub(crate) fn add(&mut self, batch: &AttributedBatch) {
        if self.buckets.back().is_none_or(|bucket| bucket.minute < self.minute) {
            self.buckets.push_back(Arc::new(Bucket { minute: self.minute, ..Bucket::default() }));
        }
        for record in &batch.records {
            self.make_room();
            let Some(bucket) = self.buckets.back_mut().map(Arc::make_mut) else { return };
            let rows = bucket.flows.len();
            bucket.all += record.traffic;
            if !bucket.flows.add(record, self.rows < self.rows_max) {
                bucket.folded += record.traffic;
                self.folded_bytes = self.folded_bytes.saturating_add(record.traffic.sum().bytes);
            }
            self.rows += bucket.flows.len() - rows;
            self.held += record.traffic.sum();
        }
    }

    /// Takes the flows of the oldest minute that has any, but for the running one, while the table is full.
    fn make_room(&mut self) {
        if self.rows < self.rows_max {
            return;
        }
        let minute = self.minute;
        let mut older = self.buckets.iter_mut().take_while(|bucket| bucket.minute < minute);
        let Some(bucket) = older.find(|bucket| bucket.flows.len() > 0) else { return };
        self.rows -= bucket.flows.len();
        let lost = bucket.flows.iter().map(|flow| flow.traffic.sum().bytes).fold(0, u64::saturating_add);
        self.folded_bytes = self.folded_bytes.saturating_add(lost);
        let Bucket { minute, all, .. } = **bucket;
        *bucket = Arc::new(Bucket { minute, flows: FlowTable::default(), folded: all, all });
    }

    /// Moves on to `now`, and returns what was let go for its age.
    pub(crate) fn advance(&mut self, now: Duration) -> Counter {
        self.minute = self.minute.max(now.as_secs() / MINUTE_SECONDS);
        let mut let_go = Counter::default();
        while let Some(bucket) = self.buckets.front()
            && bucket.minute + u64::from(SUMMARY_MINUTES_MAX) < self.minute
        {
            let_go += bucket.all.sum();
            self.rows -= bucket.flows.len();
            self.buckets.pop_front();
        }
        // Sums saturate, and then the books no longer balance.
        self.held = self.held.growth(let_go).unwrap_or_default();
        let_go
    }

    /// What there is of the running minute and of so many before it.
    pub(crate) fn view(&self, minutes: u32, now: Duration) -> View {
        let first = self.minute.saturating_sub(minutes.into());
        let buckets = self.buckets.iter().filter(|bucket| bucket.minute >= first).cloned().collect();
        let began = Duration::from_secs(first * MINUTE_SECONDS);
        View { buckets, reaches_back: now.saturating_sub(began) }
    }

    /// All that is in it.
    pub(crate) fn held(&self) -> Counter {
        self.held
    }

    /// Rows taken.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that lost their flow so far.
    pub(crate) fn folded_bytes(&self) -> u64 {
        self.folded_bytes
    }
}

/// Some minutes as they were when it was asked for; while it lives, the running one is copied when it changes.
#[derive(Debug)]
pub(crate) struct View {
    buckets: Vec<Arc<Bucket>>,
    /// How long before that its first minute began.
    pub(crate) reaches_back: Duration,
}

impl View {
    /// Every flow of every minute.
    pub(crate) fn flows(&self) -> impl Iterator<Item = &Attributed> {
        self.buckets.iter().flat_map(|bucket| bucket.flows.iter())
    }

    /// What has no flow any more.
    pub(crate) fn folded(&self) -> Traffic {
        self.sum(|bucket| bucket.folded)
    }

    /// Everything.
    pub(crate) fn total(&self) -> Traffic {
        self.sum(|bucket| bucket.all)
    }

    fn sum(&self, part: impl Fn(&Bucket) -> Traffic) -> Traffic {
        let mut sum = Traffic::default();
        self.buckets.iter().for_each(|bucket| sum += part(bucket));
        sum
    }
}
