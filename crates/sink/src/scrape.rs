//! `/metrics/flows`: the running totals for whoever scrapes, no destination needed.
//!
//! Invariant: a batch is accepted as soon as it is folded in; the page says the totals of that moment.
//! Bound: the table's flows; a flow that is idle for ten minutes is forgotten, and its return begins at zero.
//! The lock is held for a batch, or for [`STEP`] flows of a page, so neither waits long for the other.
//!
//! A scraped series has no zero before its first value, as the page cannot know who has read it: what counts a
//! cost to the byte is remote write.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::{Attributed, AttributedBatch, Position, UnixNanos};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelKey, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::books::{Applied, Reason};
use crate::labels::FlowView;
use crate::metrics::{OneSink, SinkMetrics};
use crate::table::{self, FLOWS_MAX, Table};
use crate::totals::{IDLE_MAX, Metric};

/// The value of the label `sink` in its metrics.
pub const SCRAPE: &str = "scrape";

/// Bytes of the page's totals at worst.
#[must_use]
pub const fn page_bytes_max() -> usize {
    table::worst_case_bytes::<FlowSums>()
}

/// Flows rendered under one lock.
const STEP: usize = 4_096;

/// How often idle flows are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// A handle on the totals that are scraped; clones share them.
#[derive(Clone, Debug)]
pub struct Scrape {
    state: Arc<Mutex<State>>,
    metrics: OneSink,
}

#[derive(Debug)]
struct State {
    table: Table<FlowSums>,
    applied: Position,
    swept: UnixNanos,
}

/// A flow's sums in bytes, in the order of [`Metric::ALL`].
#[derive(Clone, Copy, Debug, Default)]
struct FlowSums {
    bytes: [u64; Metric::ALL.len()],
    grown: UnixNanos,
}

impl FlowSums {
    fn is_idle(&self, now: UnixNanos) -> bool {
        now.since(self.grown) >= IDLE_MAX
    }
}

impl Scrape {
    /// No totals yet.
    #[must_use]
    pub fn new(metrics: &SinkMetrics) -> Self {
        Self::bounded(metrics, FLOWS_MAX)
    }

    fn bounded(metrics: &SinkMetrics, flows_max: usize) -> Self {
        let state =
            State { table: Table::new(flows_max), applied: Position::default(), swept: UnixNanos::default() };
        Self { state: Arc::new(Mutex::new(state)), metrics: metrics.of(SCRAPE) }
    }

    /// Folds one batch in; every byte up to the returned position is in the totals.
    /// A batch whose position was applied before changes nothing.
    pub fn apply(&self, batch: &AttributedBatch, now: UnixNanos) -> Position {
        let mut state = self.lock();
        let applied = state.apply(batch, now);
        state.sweep(now);
        let mut emitted = applied.received;
        for reason in Reason::ALL {
            let discarded = applied.discarded(reason);
            emitted.bytes = emitted.bytes.saturating_sub(discarded.bytes);
            emitted.packets = emitted.packets.saturating_sub(discarded.packets);
        }
        self.metrics.applied(&applied);
        self.metrics.emitted(emitted);
        self.metrics.levels(egressd_flow::Counter::default(), state.table.len());
        state.applied
    }

    /// The page at `now`: every flow that grew within ten minutes.
    #[must_use]
    pub fn render(&self, now: UnixNanos) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page { scrape: self.clone(), now }));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("a string grows as needed");
        page
    }

    /// A panic while it was held left sums that are each whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, batch: &AttributedBatch, now: UnixNanos) -> Applied {
        let mut applied = match Applied::begin(batch, &mut self.applied) {
            Ok(begun) => begun,
            Err(repeated) => return *repeated,
        };
        for record in &batch.records {
            self.apply_record(record, now, &mut applied);
        }
        applied
    }

    fn apply_record(&mut self, record: &Attributed, now: UnixNanos, applied: &mut Applied) {
        let sum = record.traffic.sum();
        applied.received += sum;
        if sum.is_zero() {
            return;
        }
        let Some(flow) = self.table.fold(FlowView::of(record), sum, applied) else {
            return;
        };
        if flow.is_idle(now) {
            *flow = FlowSums::default();
        }
        flow.grown = now;
        for (bytes, metric) in flow.bytes.iter_mut().zip(Metric::ALL) {
            *bytes = bytes.saturating_add(metric.of(record).bytes);
        }
    }

    /// Forgets idle flows, once a minute.
    fn sweep(&mut self, now: UnixNanos) {
        if now.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let idle: Vec<u32> =
            self.table.iter_from(0).filter(|(_, _, flow)| flow.is_idle(now)).map(|(slot, ..)| slot).collect();
        for slot in idle {
            self.table.remove(slot);
        }
    }
}

/// One rendering.
#[derive(Debug)]
struct Page {
    scrape: Scrape,
    now: UnixNanos,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in Metric::ALL {
            let family =
                encoder.encode_descriptor(metric.family(), metric.help(), None, MetricType::Counter)?;
            self.encode_family(metric, family)?;
        }
        Ok(())
    }
}

impl Page {
    fn encode_family(&self, metric: Metric, mut family: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut next = Some(0);
        while let Some(slot) = next {
            next = self.encode_step(metric, slot, &mut family)?;
        }
        Ok(())
    }

    /// Renders some flows; where to go on, `None` at the end.
    fn encode_step(
        &self,
        metric: Metric,
        from: u32,
        family: &mut MetricEncoder<'_>,
    ) -> Result<Option<u32>, fmt::Error> {
        let state = self.scrape.lock();
        for (step, (slot, view, flow)) in state.table.iter_from(from).enumerate() {
            if step == STEP {
                return Ok(Some(slot));
            }
            let bytes = flow.bytes.get(metric as usize).copied().unwrap_or_default();
            if bytes > 0 && !flow.is_idle(self.now) {
                let labels = FlowLabels(view);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&bytes, None)?;
            }
        }
        Ok(None)
    }
}

/// A flow's labels in the encoder's terms.
struct FlowLabels<'a>(FlowView<'a>);

impl EncodeLabelSet for FlowLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in self.0.labels() {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            EncodeLabelKey::encode(&name, &mut key)?;
            let mut text = key.encode_label_value()?;
            write!(text, "{value}")?;
            text.finish()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
