//! Every metric of the exporter that no other crate writes itself: attribution, and what it is based on.

use egressd_delivery::roster::Roster;
use egressd_enrich::kubernetes::{Knowledge, WatchCounts};
use egressd_enrich::{Index, NamesBooks};
use egressd_flow::{AttributedBatch, Counter as Traffic, Unattributed, UnixNanos};
use egressd_service::clock::{boot_now, unix_nanos};
use egressd_service::figures::{Figures, ReasonLabel, set, store};
use egressd_sink::Lead;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

mod security;
mod spool;

pub(crate) use security::{TlsMetrics, TokenMetrics};
pub(crate) use spool::SpoolMetrics;

/// Attribution lets out what it takes in, later; some of it without a name at the far end.
#[derive(Debug)]
pub(crate) struct EnrichMetrics {
    figures: Figures,
    received: Traffic,
    emitted: Traffic,
    unattributed_bytes: Family<ReasonLabel, Counter>,
    nodes: Gauge,
    pods: Gauge,
    names: NamesMetrics,
}

impl EnrichMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let unattributed_bytes = Family::default();
        registry.register(
            "egressd_exporter_enrich_unattributed_bytes",
            "Bytes exported without a name at the far end, by reason",
            unattributed_bytes.clone(),
        );
        let figures = Figures::register(registry, "egressd_exporter_enrich", "Records given names");
        let (nodes, pods) = (Gauge::default(), Gauge::default());
        registry.register("egressd_exporter_enrich_nodes", "Nodes known", nodes.clone());
        registry.register(
            "egressd_exporter_enrich_pods",
            "Pods known, lately ended ones included",
            pods.clone(),
        );
        Self {
            figures,
            received: Traffic::default(),
            emitted: Traffic::default(),
            unattributed_bytes,
            nodes,
            pods,
            names: NamesMetrics::register(registry),
        }
    }

    /// A batch waits for its names.
    pub(crate) fn taken(&mut self, traffic: Traffic) {
        self.received += traffic;
        self.publish();
    }

    /// It has them.
    pub(crate) fn attributed(&mut self, batch: &AttributedBatch) {
        self.emitted += batch.sum();
        self.publish();
        for unattributed in Unattributed::ALL {
            let mut sum = Traffic::default();
            for record in batch.records.iter().filter(|record| record.remote.identity == Err(unattributed)) {
                sum += record.traffic.sum();
            }
            let label = ReasonLabel { reason: unattributed.reason() };
            self.unattributed_bytes.get_or_create(&label).inc_by(sum.bytes);
        }
    }

    fn publish(&self) {
        // Sums saturate, so absurd counters may leave less than was let out.
        let held = self.received.growth(self.emitted).unwrap_or_default();
        self.figures.publish(self.received.into(), self.emitted.into(), [], held.into());
    }

    pub(crate) fn cluster(&self, index: &Index) {
        self.nodes.set(i64::try_from(index.nodes()).unwrap_or(i64::MAX));
        self.pods.set(i64::try_from(index.pods()).unwrap_or(i64::MAX));
    }

    pub(crate) fn names(&self, books: &NamesBooks) {
        self.names.publish(books);
    }
}

/// DNS names, and the records that they could name.
#[derive(Debug, Default)]
struct NamesMetrics {
    held: Gauge,
    bytes: Gauge,
    heard: Counter,
    evicted: Counter,
    named: Counter,
    ambiguous: Counter,
    over: Counter,
}

impl NamesMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, gauge) in [
            ("held", "DNS answers held", &metrics.held),
            ("bytes", "About what the answers held take", &metrics.bytes),
        ] {
            registry.register(format!("egressd_exporter_names_{name}"), help, gauge.clone());
        }
        for (name, help, counter) in [
            ("heard", "DNS answers of collectors taken in", &metrics.heard),
            ("evicted", "DNS answers that made room for others", &metrics.evicted),
            ("named_records", "Records of public addresses that got a DNS name", &metrics.named),
            (
                "ambiguous_records",
                "Records of public addresses without a DNS name, since several would do",
                &metrics.ambiguous,
            ),
            (
                "over_records",
                "Records of grouped addresses without their DNS name, as their pod has too many",
                &metrics.over,
            ),
        ] {
            registry.register(format!("egressd_exporter_names_{name}"), help, counter.clone());
        }
        metrics
    }

    fn publish(&self, books: &NamesBooks) {
        set(&self.held, books.held);
        set(&self.bytes, books.held_bytes);
        store(&self.heard, books.heard);
        store(&self.evicted, books.evicted);
        store(&self.named, books.named);
        store(&self.ambiguous, books.ambiguous);
        store(&self.over, books.over);
    }
}

/// The election.
#[derive(Debug, Default)]
pub(crate) struct LeaseMetrics {
    pub(crate) holders: Counter,
    pub(crate) failures: Counter,
}

impl LeaseMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "egressd_exporter_lease_holders",
            "Holders of the lease that this exporter saw, itself included, one after the other",
            metrics.holders.clone(),
        );
        registry.register(
            "egressd_exporter_lease_failures",
            "Requests for the lease that were refused or not answered; each was tried again",
            metrics.failures.clone(),
        );
        metrics
    }
}

/// Whether this exporter writes, read when it is scraped.
#[derive(Debug)]
pub(crate) struct LeadMetric(Lead);

impl LeadMetric {
    pub(crate) fn register(registry: &mut Registry, lead: Lead) {
        registry.register_collector(Box::new(Self(lead)));
    }
}

impl Collector for LeadMetric {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let leads = ConstGauge::new(i64::from(self.0.remaining(boot_now()).is_some()));
        let help = "1 while this exporter writes: it leads, or nobody stands by";
        leads.encode(encoder.encode_descriptor("egressd_exporter_leader", help, None, leads.metric_type())?)
    }
}

/// Which configuration is in use.
#[derive(Debug, Default)]
pub(crate) struct ConfigMetrics {
    reloads: Counter,
    loaded: Gauge,
    pub(crate) failed: Gauge,
}

impl ConfigMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "egressd_exporter_config_loaded_seconds",
            "When the configuration in use was loaded, in Unix time",
            metrics.loaded.clone(),
        );
        registry.register(
            "egressd_exporter_config_reloads",
            "Changed configurations taken up since the start",
            metrics.reloads.clone(),
        );
        registry.register(
            "egressd_exporter_config_reload_failed",
            "1 while the configuration file says something that cannot be used",
            metrics.failed.clone(),
        );
        metrics
    }

    pub(crate) fn loaded(&self, unix_nanos: u64) {
        set(&self.loaded, unix_nanos / 1_000_000_000);
    }

    pub(crate) fn reloaded(&self, unix_nanos: u64) {
        self.loaded(unix_nanos);
        self.reloads.inc();
        self.failed.set(0);
    }
}

/// Which nodes are collected from, read when they are scraped.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    roster: Roster,
}

impl NodeMetrics {
    pub(crate) fn register(registry: &mut Registry, roster: Roster) {
        registry.register_collector(Box::new(Self { roster }));
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tally = self.roster.tally(UnixNanos(unix_nanos()));
        for (name, help, value) in [
            ("connected", "Nodes whose collector has a stream open", tally.connected),
            (
                "missing",
                "Nodes that a collector is to be on and whose collector has none: they are not measured",
                tally.missing,
            ),
            (
                "unwell",
                "Connected nodes whose collector finds a fault or lost something in the last half hour; see /nodes",
                tally.unwell,
            ),
            ("foreign", "Connected nodes that the cluster does not have", tally.foreign),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let name = format!("egressd_exporter_nodes_{name}");
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// The watches of the Kubernetes API, read when they are scraped.
#[derive(Debug)]
pub(crate) struct WatchMetrics {
    counts: WatchCounts,
    knowledge: Knowledge,
}

impl WatchMetrics {
    pub(crate) fn register(registry: &mut Registry, counts: WatchCounts, knowledge: Knowledge) {
        registry.register_collector(Box::new(Self { counts, knowledge }));
    }
}

impl Collector for WatchMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in [
            ("lists", "Whole lists of pods or nodes taken in", self.counts.lists()),
            (
                "errors",
                "Requests to the Kubernetes API that failed and watches that broke",
                self.counts.errors(),
            ),
            ("objects_set_aside", "Pods and nodes that make no sense", self.counts.set_aside()),
        ] {
            let name = format!("egressd_exporter_kubernetes_{name}");
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)?;
        }
        let reaches =
            ConstGauge::new(i64::try_from(self.knowledge.reaches().0 / 1_000_000_000).unwrap_or(i64::MAX));
        let name = "egressd_exporter_kubernetes_known_until_seconds";
        let help = "Up to when the cluster is known, in Unix time; stands still while the API is away";
        reaches.encode(encoder.encode_descriptor(name, help, None, reaches.metric_type())?)
    }
}
