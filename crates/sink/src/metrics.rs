//! Every metric of this crate. Names are `egressd_exporter_sink_<what>_<unit>`; counters get `_total` from the
//! encoder. Labels: the sink's name in the configuration, and where said a reason or an outcome of a closed set.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use egressd_flow::Counter as Traffic;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::books::{Applied, Reason};

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values")]
pub(crate) enum Outcome {
    /// 2xx.
    accepted,
    /// A request of remote write 2.0 that the receiver did not take for one, whatever its status.
    not_understood,
    /// 429.
    throttled,
    /// Another 4xx: it will be refused again until somebody acts.
    client_error,
    /// 5xx.
    server_error,
    /// 1xx or 3xx: redirects are not followed.
    unexpected_status,
    /// No connection, so nothing was sent.
    not_connected,
    /// Sent, at least in part, and no answer in time.
    timed_out,
    /// Sent, at least in part, and the connection broke.
    broken_off,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySink {
    sink: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    sink: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    sink: String,
    outcome: Outcome,
}

type Level = Gauge<u64, AtomicU64>;

/// The metrics of all sinks.
#[derive(Clone, Debug)]
pub struct SinkMetrics {
    received_bytes: Family<BySink, Counter>,
    received_packets: Family<BySink, Counter>,
    received_records: Family<BySink, Counter>,
    emitted_bytes: Family<BySink, Counter>,
    emitted_packets: Family<BySink, Counter>,
    discarded_bytes: Family<ByReason, Counter>,
    discarded_packets: Family<ByReason, Counter>,
    held_bytes: Family<BySink, Level>,
    held_packets: Family<BySink, Level>,
    flows: Family<BySink, Level>,
    aside: Family<BySink, Level>,
    folded_bytes: Family<BySink, Counter>,
    ambiguous_bytes: Family<BySink, Counter>,
    states_lost: Family<BySink, Counter>,
    pushes: Family<ByOutcome, Counter>,
    unread: Family<BySink, Counter>,
    unwritten: Family<BySink, Counter>,
    push_seconds: Family<BySink, Histogram, fn() -> Histogram>,
}

/// From 5 ms to 41 s, beyond the longest timeout.
fn push_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 14))
}

impl SinkMetrics {
    /// Registers the metrics under their full names, so the registry must add no prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            received_bytes: Family::default(),
            received_packets: Family::default(),
            received_records: Family::default(),
            emitted_bytes: Family::default(),
            emitted_packets: Family::default(),
            discarded_bytes: Family::default(),
            discarded_packets: Family::default(),
            held_bytes: Family::default(),
            held_packets: Family::default(),
            flows: Family::default(),
            aside: Family::default(),
            folded_bytes: Family::default(),
            ambiguous_bytes: Family::default(),
            states_lost: Family::default(),
            pushes: Family::default(),
            unread: Family::default(),
            unwritten: Family::default(),
            push_seconds: Family::new_with_constructor(push_seconds),
        };
        metrics.register_books(registry);
        metrics.register_pushes(registry);
        metrics
    }

    fn register_books(&self, registry: &mut Registry) {
        let counters = [
            ("received_bytes", "Bytes of records taken in, all directions", &self.received_bytes),
            ("received_packets", "Packets of records taken in, all directions", &self.received_packets),
            ("received_records", "Records taken in", &self.received_records),
            ("emitted_bytes", "Bytes that the destination accepted", &self.emitted_bytes),
            ("emitted_packets", "Packets of the bytes that the destination accepted", &self.emitted_packets),
            (
                "folded_bytes",
                "Bytes folded into a rest because the table of flows is full",
                &self.folded_bytes,
            ),
            (
                "ambiguous_bytes",
                "Bytes sent again after an attempt, or an end of the process, that left it open whether they were accepted; once an attempt",
                &self.ambiguous_bytes,
            ),
            (
                "states_lost",
                "Starts at which what the life before had kept was not understood",
                &self.states_lost,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(full(name), help, family.clone());
        }
        let discarded = [
            ("discarded_bytes", "Bytes left out, by reason", &self.discarded_bytes),
            ("discarded_packets", "Packets of the bytes left out, by reason", &self.discarded_packets),
        ];
        for (name, help, family) in discarded {
            registry.register(full(name), help, family.clone());
        }
        let levels = [
            ("held_bytes", "Bytes taken in and not yet accepted by the destination", &self.held_bytes),
            ("held_packets", "Packets of the bytes not yet accepted", &self.held_packets),
            ("flows", "Flows in the sink's tables", &self.flows),
            ("aside_flows", "Flows that the destination refuses, tried again at each push", &self.aside),
        ];
        for (name, help, family) in levels {
            registry.register(full(name), help, family.clone());
        }
    }

    fn register_pushes(&self, registry: &mut Registry) {
        registry.register(full("pushes"), "Attempts to push, by outcome", self.pushes.clone());
        let help = "Attempts made with older credentials or certificates, as their files could not be used";
        registry.register(full("unread_files"), help, self.unread.clone());
        let help = "Samples of accepted requests that a receiver of remote write 2.0 does not say it wrote";
        registry.register(full("unwritten_samples"), help, self.unwritten.clone());
        let help = "Duration of an attempt to push, from connect to answer, whatever the outcome";
        registry.register(full("push_seconds"), help, self.push_seconds.clone());
    }

    /// A sink that was taken out of the configuration has ended; `held` is what its [`Report`](crate::Report) holds, and
    /// `never_taken` what was there for it beside that.
    pub fn removed(&self, sink: &str, held: Traffic, never_taken: Traffic) {
        let mut last = Applied::default();
        last.discard(Reason::removed, held);
        last.discard(Reason::removed, never_taken);
        let metrics = self.of(sink);
        metrics.received(never_taken);
        metrics.applied(&last);
        metrics.levels(Traffic::default(), 0);
        metrics.aside(0);
    }

    /// The metrics of one sink.
    pub(crate) fn of(&self, sink: &str) -> OneSink {
        let by_sink = BySink { sink: sink.to_owned() };
        let by_reason = |reason| ByReason { sink: sink.to_owned(), reason };
        OneSink {
            received_bytes: self.received_bytes.get_or_create_owned(&by_sink),
            received_packets: self.received_packets.get_or_create_owned(&by_sink),
            received_records: self.received_records.get_or_create_owned(&by_sink),
            emitted_bytes: self.emitted_bytes.get_or_create_owned(&by_sink),
            emitted_packets: self.emitted_packets.get_or_create_owned(&by_sink),
            discarded: Reason::ALL.map(|reason| {
                let bytes = self.discarded_bytes.get_or_create_owned(&by_reason(reason));
                (reason, bytes, self.discarded_packets.get_or_create_owned(&by_reason(reason)))
            }),
            held_bytes: self.held_bytes.get_or_create_owned(&by_sink),
            held_packets: self.held_packets.get_or_create_owned(&by_sink),
            flows: self.flows.get_or_create_owned(&by_sink),
            aside: self.aside.get_or_create_owned(&by_sink),
            folded_bytes: self.folded_bytes.get_or_create_owned(&by_sink),
            ambiguous_bytes: self.ambiguous_bytes.get_or_create_owned(&by_sink),
            states_lost: self.states_lost.get_or_create_owned(&by_sink),
            pushes: self.pushes.clone(),
            unread: self.unread.get_or_create_owned(&by_sink),
            unwritten: self.unwritten.get_or_create_owned(&by_sink),
            push_seconds: self.push_seconds.get_or_create_owned(&by_sink),
            sink: by_sink.sink,
        }
    }
}

fn full(name: &str) -> String {
    format!("egressd_exporter_sink_{name}")
}

/// The metrics of one sink, their labels resolved.
#[derive(Clone, Debug)]
pub(crate) struct OneSink {
    sink: String,
    received_bytes: Counter,
    received_packets: Counter,
    received_records: Counter,
    emitted_bytes: Counter,
    emitted_packets: Counter,
    discarded: [(Reason, Counter, Counter); Reason::ALL.len()],
    held_bytes: Level,
    held_packets: Level,
    flows: Level,
    aside: Level,
    folded_bytes: Counter,
    ambiguous_bytes: Counter,
    states_lost: Counter,
    pushes: Family<ByOutcome, Counter>,
    unread: Counter,
    unwritten: Counter,
    push_seconds: Histogram,
}

impl OneSink {
    /// One batch was applied.
    pub(crate) fn applied(&self, applied: &Applied) {
        self.received_bytes.inc_by(applied.received.bytes);
        self.received_packets.inc_by(applied.received.packets);
        self.received_records.inc_by(applied.records);
        self.folded_bytes.inc_by(applied.folded.bytes);
        for (reason, bytes, packets) in &self.discarded {
            let traffic = applied.discarded(*reason);
            bytes.inc_by(traffic.bytes);
            packets.inc_by(traffic.packets);
        }
    }

    /// Bytes came otherwise than in a batch: held from the life before, or never taken by a sink that is gone.
    pub(crate) fn received(&self, traffic: Traffic) {
        self.received_bytes.inc_by(traffic.bytes);
        self.received_packets.inc_by(traffic.packets);
    }

    /// What a life before had kept is not understood.
    pub(crate) fn state_lost(&self) {
        self.states_lost.inc();
    }

    /// Bytes were accepted.
    pub(crate) fn emitted(&self, traffic: Traffic) {
        self.emitted_bytes.inc_by(traffic.bytes);
        self.emitted_packets.inc_by(traffic.packets);
    }

    /// Bytes will be sent again that may have been taken.
    pub(crate) fn ambiguous(&self, traffic: Traffic) {
        self.ambiguous_bytes.inc_by(traffic.bytes);
    }

    /// Bytes were given up that the destination refused.
    pub(crate) fn refused(&self, traffic: Traffic) {
        let mut last = Applied::default();
        last.discard(Reason::refused, traffic);
        self.applied(&last);
    }

    /// One attempt ended.
    pub(crate) fn pushed(&self, outcome: Outcome, took: Duration) {
        self.pushes.get_or_create_owned(&ByOutcome { sink: self.sink.clone(), outcome }).inc();
        self.push_seconds.observe(took.as_secs_f64());
    }

    /// An attempt goes with what was read before.
    pub(crate) fn unread(&self) {
        self.unread.inc();
    }

    /// A request was accepted, and these samples of it not written.
    pub(crate) fn unwritten(&self, samples: u64) {
        self.unwritten.inc_by(samples);
    }

    /// What is in the sink now.
    pub(crate) fn levels(&self, held: Traffic, flows: usize) {
        self.held_bytes.set(held.bytes);
        self.held_packets.set(held.packets);
        self.flows.set(flows as u64);
    }

    /// Flows that are set aside now.
    pub(crate) fn aside(&self, flows: usize) {
        self.aside.set(flows as u64);
    }
}
