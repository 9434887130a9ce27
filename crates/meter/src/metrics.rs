//! Every metric of the meter.

use std::sync::atomic::Ordering;

use egressd_flow::Counter as Traffic;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::books::{Books, Discard};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Default)]
struct Flow {
    bytes: Counter,
    packets: Counter,
}

impl Flow {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(
            format!("egressd_collector_meter_{name}_bytes"),
            format!("Bytes of sides {help}"),
            self.bytes.clone(),
        );
        registry.register(
            format!("egressd_collector_meter_{name}_packets"),
            format!("Packets of sides {help}"),
            self.packets.clone(),
        );
    }

    fn store(&self, traffic: Traffic) {
        store(&self.bytes, traffic.bytes);
        store(&self.packets, traffic.packets);
    }
}

/// The meter's books as metrics, written once a tick.
#[derive(Debug, Default)]
pub struct MeterMetrics {
    received: Flow,
    emitted: Flow,
    discarded_bytes: Family<ReasonLabel, Counter>,
    discarded_packets: Family<ReasonLabel, Counter>,
    held_bytes: Gauge,
    held_packets: Gauge,
    preexisting: Counter,
    resets: Counter,
    not_admitted: Counter,
    entries: Gauge,
    entries_active: Gauge,
}

impl MeterMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.received.register(registry, "received", "that grew");
        metrics.emitted.register(registry, "emitted", "cut into batches");
        for (name, help, family) in [
            ("bytes", "Bytes of sides let go, by reason", &metrics.discarded_bytes),
            ("packets", "Packets of sides let go, by reason", &metrics.discarded_packets),
        ] {
            registry.register(format!("egressd_collector_meter_discarded_{name}"), help, family.clone());
        }
        for (name, help, gauge) in [
            ("held_bytes", "Bytes of open and unclaimed flows", &metrics.held_bytes),
            ("held_packets", "Packets of open and unclaimed flows", &metrics.held_packets),
        ] {
            registry.register(format!("egressd_collector_meter_{name}"), help, gauge.clone());
        }
        for (name, help, counter) in [
            ("preexisting_entries", "Entries older than the watch at first sight", &metrics.preexisting),
            ("resets", "Entries whose counters went back", &metrics.resets),
            ("not_admitted", "Sightings without room in the table", &metrics.not_admitted),
        ] {
            registry.register(format!("egressd_collector_meter_{name}"), help, counter.clone());
        }
        // The original's names.
        registry.register("egressd_conntrack_entries", "Entries with a baseline", metrics.entries.clone());
        registry.register(
            "egressd_conntrack_entries_active",
            "Entries that grew in the last snapshot",
            metrics.entries_active.clone(),
        );
        metrics
    }

    /// Writes the account.
    pub fn publish(&self, books: &Books) {
        self.received.store(books.received);
        self.emitted.store(books.emitted);
        for reason in Discard::ALL {
            let label = ReasonLabel { reason: reason.reason() };
            let discarded = books.discarded[reason as usize];
            store(&self.discarded_bytes.get_or_create(&label), discarded.bytes);
            store(&self.discarded_packets.get_or_create(&label), discarded.packets);
        }
        self.held_bytes.set(gauge(books.held.bytes));
        self.held_packets.set(gauge(books.held.packets));
        store(&self.preexisting, books.preexisting_entries);
        store(&self.resets, books.resets);
        store(&self.not_admitted, books.not_admitted);
        self.entries.set(gauge(books.entries));
        self.entries_active.set(gauge(books.entries_active));
    }
}

fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
