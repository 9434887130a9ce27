//! Every metric of this crate.
//!
//! The window's account is that of every stage: received = emitted + discarded + held, where what is an hour old is
//! let out. What is told to subscribers is counted beside it, once for each of them.

use egressd_service::figures::{Figures, set, store};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::board::Books;

/// The flow subscription's figures.
#[derive(Debug)]
pub struct FlowsMetrics {
    figures: Figures,
    subscribers: Gauge,
    rows: Gauge,
    folded_bytes: Counter,
    sent_records: Counter,
    sent_bytes: Counter,
    missed_records: Counter,
    missed_bytes: Counter,
    unseen_records: Counter,
    pub(crate) refused: Counter,
    pub(crate) let_go: Counter,
    pub(crate) summaries: Counter,
}

impl FlowsMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let figures = Figures::register(registry, "egressd_exporter_flows", "Flows of the last hour");
        let metrics = Self {
            figures,
            subscribers: Gauge::default(),
            rows: Gauge::default(),
            folded_bytes: Counter::default(),
            sent_records: Counter::default(),
            sent_bytes: Counter::default(),
            missed_records: Counter::default(),
            missed_bytes: Counter::default(),
            unseen_records: Counter::default(),
            refused: Counter::default(),
            let_go: Counter::default(),
            summaries: Counter::default(),
        };
        for (name, help, gauge) in [
            ("subscribers", "Who follows flows", &metrics.subscribers),
            ("rows", "Flows of a minute in the window of the last hour", &metrics.rows),
        ] {
            registry.register(format!("egressd_exporter_flows_{name}"), help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "folded_bytes",
                "Bytes in the window that lost their flow for lack of room",
                &metrics.folded_bytes,
            ),
            ("sent_records", "Records sent to subscribers, snapshots left out", &metrics.sent_records),
            ("sent_bytes", "Bytes that these records say", &metrics.sent_bytes),
            ("missed_records", "Matching records that subscribers left unread", &metrics.missed_records),
            ("missed_bytes", "Bytes that these records say", &metrics.missed_bytes),
            (
                "missed_unseen_records",
                "Records that subscribers missed as they came faster than they were looked at",
                &metrics.unseen_records,
            ),
            ("refused", "Requests refused for what they say or for lack of room", &metrics.refused),
            ("let_go", "Subscribers let go because they read nothing", &metrics.let_go),
            ("summaries", "Summaries made", &metrics.summaries),
        ] {
            registry.register(format!("egressd_exporter_flows_{name}"), help, counter.clone());
        }
        metrics
    }

    pub(crate) fn publish(&self, books: &Books) {
        let discarded = [("feed_full", books.unseen.into())];
        self.figures.publish(books.received.into(), books.emitted.into(), discarded, books.held.into());
        set(&self.subscribers, books.subscribers as u64);
        set(&self.rows, books.rows as u64);
        store(&self.folded_bytes, books.folded_bytes);
        store(&self.missed_records, books.missed.records);
        store(&self.missed_bytes, books.missed.bytes);
        store(&self.unseen_records, books.missed.unseen_records);
    }

    pub(crate) fn sent(&self, records: u64, bytes: u64) {
        self.sent_records.inc_by(records);
        self.sent_bytes.inc_by(bytes);
    }
}
