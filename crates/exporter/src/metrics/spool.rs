//! The spool's figures: what it holds, what each sink has not passed and has lost, how the disk does.

use std::collections::BTreeMap;
use std::time::Duration;

use egressd_service::figures::{set, store};
use egressd_spool::{Losses, Reason, Recovery, Spool};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tracing::error;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySink {
    sink: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    sink: String,
    reason: &'static str,
}

/// Written by the one who owns the spool.
#[derive(Debug)]
pub(crate) struct SpoolMetrics {
    bytes: Gauge,
    held_positions: Family<BySink, Gauge>,
    /// Batches, bytes, packets.
    lost: [Family<ByReason, Counter>; 3],
    sync_seconds: Histogram,
    failures: Counter,
    /// What was said of the losses of each sink that is there.
    told: BTreeMap<String, Losses>,
}

impl SpoolMetrics {
    pub(crate) fn register(registry: &mut Registry, spool: &Spool, recovery: &Recovery) -> Self {
        let metrics = Self {
            bytes: Gauge::default(),
            held_positions: Family::default(),
            lost: Default::default(),
            // From 100 µs to 3 s.
            sync_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            failures: Counter::default(),
            told: spool.sinks().map(|(sink, cursor)| (sink.to_owned(), cursor.losses)).collect(),
        };
        let name = |what: &str| format!("egressd_exporter_spool_{what}");
        registry.register(name("bytes"), "Bytes of batches in the spool", metrics.bytes.clone());
        let help = "Batches in the spool that a sink has not passed; what is kept in its state it has";
        registry.register(name("held_positions"), help, metrics.held_positions.clone());
        for (what, family) in ["batches", "bytes", "packets"].into_iter().zip(&metrics.lost) {
            let help = format!("What the spool let go, or lost, before a sink passed it: {what}, by reason");
            registry.register(name(&format!("lost_{what}")), help, family.clone());
        }
        let help = "Time to append what has gathered and make it safe";
        registry.register(name("sync_seconds"), help, metrics.sync_seconds.clone());
        let help = "Times that the disk did not do what was asked; it is asked again";
        registry.register(name("failures"), help, metrics.failures.clone());
        for (what, help, value) in [
            ("durable", "1 when it survives the process", u64::from(spool.durable())),
            ("recovered_bytes", "Bytes of batches that were there at the start", spool.bytes()),
            (
                "recovered_torn_bytes",
                "Bytes never said to be safe that were cut off at the start",
                recovery.torn_bytes,
            ),
            (
                "recovered_damages",
                "Damages found at the start, the first hundred",
                recovery.damages.len() as u64,
            ),
        ] {
            let gauge = Gauge::default();
            set(&gauge, value);
            registry.register(name(what), help, gauge);
        }
        // Losses are counted from when a sink joined, over every life.
        spool.sinks().for_each(|(sink, cursor)| metrics.write(sink, cursor.losses));
        metrics
    }

    /// Something was appended and synced, or should have been.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// The disk failed.
    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    /// Writes what the spool says of itself, and says each loss once.
    pub(crate) fn publish(&mut self, spool: &Spool) {
        set(&self.bytes, spool.bytes());
        let last = spool.last().0;
        let (held_positions, told) = (&self.held_positions, &mut self.told);
        told.retain(|sink, _| {
            let is_here = spool.sinks().any(|(known, _)| known == sink);
            if !is_here {
                held_positions.remove(&BySink { sink: sink.clone() });
            }
            is_here
        });
        for (sink, cursor) in spool.sinks() {
            let label = BySink { sink: sink.to_owned() };
            set(&self.held_positions.get_or_create_owned(&label), last.saturating_sub(cursor.position.0));
            match self.told.insert(sink.to_owned(), cursor.losses).unwrap_or_default() {
                told if told != cursor.losses => self.lost(sink, told, cursor.losses),
                _ => {}
            }
        }
    }

    fn lost(&self, sink: &str, told: Losses, now: Losses) {
        self.write(sink, now);
        for reason in Reason::ALL.into_iter().filter(|reason| told[*reason] != now[*reason]) {
            let batches = now[reason].batches.saturating_sub(told[reason].batches);
            let bytes = now[reason].traffic.bytes.saturating_sub(told[reason].traffic.bytes);
            error!(
                sink,
                reason = reason.reason(),
                batches,
                bytes,
                "the spool lost what a sink had not passed"
            );
        }
    }

    fn write(&self, sink: &str, losses: Losses) {
        for reason in Reason::ALL {
            let label = ByReason { sink: sink.to_owned(), reason: reason.reason() };
            let figures =
                [losses[reason].batches, losses[reason].traffic.bytes, losses[reason].traffic.packets];
            for (family, value) in self.lost.iter().zip(figures) {
                store(&family.get_or_create_owned(&label), value);
            }
        }
    }
}
