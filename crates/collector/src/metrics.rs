//! Every metric of the collector that no other crate writes itself: the source's and the meter's.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use egressd_conntrack::netfilter::Losses;
use egressd_flow::{Batch, Defects, Snapshot};
use egressd_meter::{Books, Discard};
use egressd_service::figures::{Figures, ReasonLabel, set, store};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::diagnosis::Finding;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabel {
    finding: &'static str,
}

/// The conntrack source.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    pub(crate) snapshots: Counter,
    pub(crate) partial_snapshots: Counter,
    pub(crate) failed_reads: Counter,
    pub(crate) ends: Counter,
    pub(crate) read_interval: Gauge<f64, AtomicU64>,
    read_seconds: Histogram,
    rows: Counter,
    malformed: Counter,
    unsupported: Counter,
    other_ct_zones: Counter,
    passed_over: Counter,
    without_counters: Gauge,
    offloaded: Gauge,
    lost_ends: Counter,
    overruns: Counter,
    malformed_ends: Counter,
    other_ct_zones_ends: Counter,
    diagnosis: Family<FindingLabel, Gauge>,
    uncounted_packets: Family<ReasonLabel, Counter>,
    uncounted_bytes: Family<ReasonLabel, Counter>,
}

impl SourceMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            snapshots: Counter::default(),
            partial_snapshots: Counter::default(),
            failed_reads: Counter::default(),
            ends: Counter::default(),
            read_interval: Gauge::default(),
            // From 1 ms, an empty table, to 16 s, ten million entries.
            read_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            rows: Counter::default(),
            malformed: Counter::default(),
            unsupported: Counter::default(),
            other_ct_zones: Counter::default(),
            passed_over: Counter::default(),
            without_counters: Gauge::default(),
            offloaded: Gauge::default(),
            lost_ends: Counter::default(),
            overruns: Counter::default(),
            malformed_ends: Counter::default(),
            other_ct_zones_ends: Counter::default(),
            diagnosis: Family::default(),
            uncounted_packets: Family::default(),
            uncounted_bytes: Family::default(),
        };
        for (name, help, counter) in [
            ("snapshots", "Reads of the table", &metrics.snapshots),
            ("partial_snapshots", "Reads that the kernel did not finish", &metrics.partial_snapshots),
            ("failed_reads", "Reads that gave nothing", &metrics.failed_reads),
            ("rows", "Rows read", &metrics.rows),
            ("malformed_rows", "Rows that do not parse", &metrics.malformed),
            ("unsupported_rows", "Rows of an unknown family", &metrics.unsupported),
            (
                "other_ct_zones_rows",
                "Rows passed over: conntrack zones that --ct-zones leaves out",
                &metrics.other_ct_zones,
            ),
            (
                "passed_over_rows",
                "Rows of Cilium's maps passed over: services, their other halves and ICMP errors",
                &metrics.passed_over,
            ),
            ("ends", "Ends of entries heard of", &metrics.ends),
            (
                "lost_ends",
                "Ends that the kernel could not deliver: their last bytes are unknown",
                &metrics.lost_ends,
            ),
            ("overruns", "Stretches of loss that the kernel reported", &metrics.overruns),
            ("malformed_ends", "Ends that do not parse", &metrics.malformed_ends),
            (
                "other_ct_zones_ends",
                "Ends passed over: conntrack zones that --ct-zones leaves out",
                &metrics.other_ct_zones_ends,
            ),
        ] {
            registry.register(format!("egressd_collector_conntrack_{name}"), help, counter.clone());
        }
        registry.register(
            "egressd_collector_conntrack_rows_without_counters",
            "Rows of the last snapshot that nothing was counted of: made under nf_conntrack_acct=0, or without Cilium's accounting",
            metrics.without_counters.clone(),
        );
        registry.register(
            "egressd_collector_conntrack_offloaded_rows",
            "Rows of the last snapshot that a flowtable forwards: without its counter flag their counters stand still",
            metrics.offloaded.clone(),
        );
        registry.register(
            "egressd_collector_conntrack_read_seconds",
            "Duration of a read of the table",
            metrics.read_seconds.clone(),
        );
        registry.register(
            "egressd_collector_conntrack_read_interval_seconds",
            "Time from one read to the next, as asked for or as --cpu-percent-max makes it",
            metrics.read_interval.clone(),
        );
        registry.register(
            "egressd_collector_conntrack_uncounted_packets",
            "Packets that the programs of --ct-mode ebpf saw and that are in no row, since they were loaded",
            metrics.uncounted_packets.clone(),
        );
        registry.register(
            "egressd_collector_conntrack_uncounted_bytes",
            "Bytes of these packets",
            metrics.uncounted_bytes.clone(),
        );
        registry.register(
            "egressd_collector_diagnosis",
            "1 for each finding that makes figures fall short; egressd-collector check tells the remedy",
            metrics.diagnosis.clone(),
        );
        metrics
    }

    pub(crate) fn snapshot(&self, snapshot: &Snapshot, took: Duration) {
        self.snapshots.inc();
        self.read_seconds.observe(took.as_secs_f64());
        self.rows.inc_by(snapshot.entries);
        self.malformed.inc_by(snapshot.defects.malformed);
        self.unsupported.inc_by(snapshot.defects.unsupported);
        self.other_ct_zones.inc_by(snapshot.defects.other_ct_zones);
        self.passed_over.inc_by(snapshot.defects.passed_over);
        set(&self.without_counters, snapshot.defects.without_counters);
        set(&self.offloaded, snapshot.offloaded);
    }

    pub(crate) fn findings(&self, findings: &[Finding]) {
        for finding in Finding::CODES {
            let found = findings.iter().any(|found| found.code() == finding);
            self.diagnosis.get_or_create(&FindingLabel { finding }).set(i64::from(found));
        }
    }

    /// What a source says that it could not count.
    pub(crate) fn uncounted(&self, by_reason: &[(&'static str, egressd_flow::Counter)]) {
        for &(reason, counter) in by_reason {
            let label = ReasonLabel { reason };
            store(&self.uncounted_packets.get_or_create(&label), counter.packets);
            store(&self.uncounted_bytes.get_or_create(&label), counter.bytes);
        }
    }

    pub(crate) fn losses(&self, losses: Losses, defects: Defects) {
        store(&self.lost_ends, losses.events);
        store(&self.overruns, losses.overruns);
        store(&self.malformed_ends, defects.malformed + defects.unsupported);
        store(&self.other_ct_zones_ends, defects.other_ct_zones);
    }
}

/// What is kept for the next process.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckpointMetrics {
    pub(crate) failures: Counter,
    pub(crate) refused: Counter,
    pub(crate) lost_batches: Counter,
    pub(crate) replayed_ends: Counter,
    pub(crate) missing_ends: Counter,
    pub(crate) torn_journals: Counter,
    unprotected_ends: Counter,
    written: Counter,
    bytes: Gauge,
    microseconds: Gauge,
}

impl CheckpointMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("written", "Checkpoints written", &metrics.written),
            ("failures", "Checkpoints that could not be written", &metrics.failures),
            ("refused", "Checkpoints of another process that could not be gone on from", &metrics.refused),
            (
                "lost_batches",
                "Batches of another process that were held and cannot be read",
                &metrics.lost_batches,
            ),
            (
                "replayed_ends",
                "Ends that another process had heard since its last checkpoint",
                &metrics.replayed_ends,
            ),
            (
                "missing_ends",
                "Ends that another process had heard and could not keep: their last bytes are unknown",
                &metrics.missing_ends,
            ),
            (
                "torn_journals",
                "Files of such ends that are torn or damaged; what stands before it is replayed",
                &metrics.torn_journals,
            ),
            (
                "unprotected_ends",
                "Ends that could not be kept when they were heard: a kill before the next checkpoint loses them",
                &metrics.unprotected_ends,
            ),
        ] {
            registry.register(format!("egressd_collector_checkpoint_{name}"), help, counter.clone());
        }
        registry.register(
            "egressd_collector_checkpoint_bytes",
            "Size of the last checkpoint, without batches",
            metrics.bytes.clone(),
        );
        registry.register(
            "egressd_collector_checkpoint_microseconds",
            "How long the last checkpoint took to write",
            metrics.microseconds.clone(),
        );
        metrics
    }

    pub(crate) fn unprotected(&self, ends: u64) {
        store(&self.unprotected_ends, ends);
    }

    pub(crate) fn written(&self, bytes: u64, took: Duration) {
        self.written.inc();
        set(&self.bytes, bytes);
        set(&self.microseconds, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The meter's books.
#[derive(Debug)]
pub(crate) struct MeterMetrics {
    figures: Figures,
    preexisting: Counter,
    vanished: Counter,
    forgotten: Counter,
    resets: Counter,
    impossible: Counter,
    not_admitted: Counter,
    entries: Gauge,
    entries_active: Gauge,
    exported: Counter,
    dropped: Counter,
}

impl MeterMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            figures: Figures::register(registry, "egressd_collector_meter", "Growth of sides"),
            preexisting: Counter::default(),
            vanished: Counter::default(),
            forgotten: Counter::default(),
            resets: Counter::default(),
            impossible: Counter::default(),
            not_admitted: Counter::default(),
            entries: Gauge::default(),
            entries_active: Gauge::default(),
            exported: Counter::default(),
            dropped: Counter::default(),
        };
        for (name, help, counter) in [
            ("preexisting_entries", "Entries older than the watch at first sight", &metrics.preexisting),
            (
                "vanished_entries",
                "Entries whose end was never told: their last bytes are unknown",
                &metrics.vanished,
            ),
            (
                "forgotten_baselines",
                "Of vanished entries, those that would count whole again if they came back",
                &metrics.forgotten,
            ),
            ("resets", "Entries whose counters went back", &metrics.resets),
            (
                "impossible",
                "Sightings whose growth is more than a node can have, passed over",
                &metrics.impossible,
            ),
            ("not_admitted", "Sightings without room in the table", &metrics.not_admitted),
        ] {
            registry.register(format!("egressd_collector_meter_{name}"), help, counter.clone());
        }
        // Four names of the original, which dashboards may use.
        registry.register("egressd_conntrack_entries", "Entries with a baseline", metrics.entries.clone());
        registry.register(
            "egressd_conntrack_entries_active",
            "Entries that grew in the last snapshot",
            metrics.entries_active.clone(),
        );
        registry.register(
            "egressd_exported_events",
            "Records cut for the exporter",
            metrics.exported.clone(),
        );
        registry.register(
            "egressd_dropped_events",
            "Ends that the kernel could not deliver, and sightings without room in the table",
            metrics.dropped.clone(),
        );
        metrics
    }

    pub(crate) fn cut(&self, batches: &[Batch]) {
        self.exported.inc_by(batches.iter().map(|batch| batch.records.len() as u64).sum());
    }

    pub(crate) fn dropped(&self, losses: Losses, books: &Books) {
        store(&self.dropped, losses.events.saturating_add(books.not_admitted));
    }

    pub(crate) fn publish(&self, books: &Books) {
        let discarded =
            Discard::ALL.map(|discard| (discard.reason(), books.discarded[discard as usize].into()));
        self.figures.publish(books.received.into(), books.emitted.into(), discarded, books.held.into());
        store(&self.preexisting, books.preexisting_entries);
        store(&self.vanished, books.vanished_entries);
        store(&self.forgotten, books.forgotten_baselines);
        store(&self.resets, books.resets);
        store(&self.impossible, books.impossible);
        store(&self.not_admitted, books.not_admitted);
        set(&self.entries, books.entries);
        set(&self.entries_active, books.entries_active);
    }
}

/// The DNS tracer.
#[derive(Clone, Debug, Default)]
pub(crate) struct DnsMetrics {
    pub(crate) tracing: Gauge,
    parts: Counter,
    lost_parts: Counter,
    messages: Counter,
    answers: Counter,
    nameless: Counter,
    discarded: Family<ReasonLabel, Counter>,
}

impl DnsMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "egressd_collector_dns_tracing",
            "1 while DNS answers are traced",
            metrics.tracing.clone(),
        );
        for (name, help, counter) in [
            ("parts", "Datagrams and parts of segments from port 53 that the kernel put by", &metrics.parts),
            ("lost_parts", "Those for which its ring had no room", &metrics.lost_parts),
            ("messages", "DNS messages, whole or not", &metrics.messages),
            ("answers", "Messages that name addresses", &metrics.answers),
            ("nameless", "Messages that name none and need not: errors, other kinds", &metrics.nameless),
        ] {
            registry.register(format!("egressd_collector_dns_{name}"), help, counter.clone());
        }
        registry.register(
            "egressd_collector_dns_discarded",
            "Messages, addresses, parts and connections that gave no name, by reason",
            metrics.discarded.clone(),
        );
        metrics
    }

    /// Parts of answers that the ring had no room for.
    pub(crate) fn lost_parts(&self) -> u64 {
        self.lost_parts.get()
    }

    pub(crate) fn publish(&self, books: &egressd_dns::Books, counts: &egressd_dns::Counts) {
        store(&self.parts, counts.put);
        store(&self.lost_parts, counts.lost);
        store(&self.messages, books.messages);
        store(&self.answers, books.answers);
        store(&self.nameless, books.nameless);
        for (reason, count) in [
            ("truncated", books.truncated),
            ("malformed", books.malformed),
            ("unfit_name", books.unfit),
            ("cut", books.cut),
            ("surplus_address", books.surplus),
            ("unread_packet", counts.unread),
            ("unknown_part", books.unknown),
            ("tcp_unfollowed", books.tcp.unfollowed),
            ("tcp_gap", books.tcp.gaps),
            ("tcp_crowded", books.tcp.crowded),
        ] {
            store(&self.discarded.get_or_create(&ReasonLabel { reason }), count);
        }
    }
}
