//! Every metric of the stream's two halves.

use egressd_service::figures::{Figures, ReasonLabel, set, store};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::ledger::LedgerBooks;
use crate::outbox::OutboxBooks;
use crate::window::WindowBooks;

/// The collector's half.
#[derive(Debug)]
pub struct WindowMetrics {
    figures: Figures,
    held_batches: Gauge,
    names: NamesMetrics,
    maybe_twice: Counter,
    unprotected: Counter,
    pub(crate) unknown_messages: Counter,
    pub(crate) connected: Gauge,
    pub(crate) dials: Counter,
    pub(crate) dial_failures: Family<ReasonLabel, Counter>,
}

impl WindowMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            figures: Figures::register(registry, "egressd_collector_window", "Batches for the exporter"),
            held_batches: Gauge::default(),
            names: NamesMetrics::register(registry),
            maybe_twice: Counter::default(),
            unprotected: Counter::default(),
            unknown_messages: Counter::default(),
            connected: Gauge::default(),
            dials: Counter::default(),
            dial_failures: Family::default(),
        };
        for (name, help, gauge) in [
            ("held_batches", "Batches sent and not let go, or not yet sent", &metrics.held_batches),
            ("connected", "1 while a stream to the exporter is open", &metrics.connected),
        ] {
            registry.register(format!("egressd_collector_window_{name}"), help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "maybe_twice_bytes",
                "Bytes sent again because the exporter that had them is gone",
                &metrics.maybe_twice,
            ),
            (
                "unprotected_bytes",
                "Bytes that the exporter has taken and not delivered, let go here for lack of room",
                &metrics.unprotected,
            ),
            (
                "unknown_messages",
                "Messages of a kind that this version does not know",
                &metrics.unknown_messages,
            ),
            ("dials", "Streams that were opened", &metrics.dials),
        ] {
            registry.register(format!("egressd_collector_window_{name}"), help, counter.clone());
        }
        registry.register(
            "egressd_collector_window_dial_failures",
            "Streams that could not be opened or broke, by reason; the log says what to do",
            metrics.dial_failures.clone(),
        );
        metrics
    }

    pub(crate) fn publish(&self, books: &WindowBooks, names: &OutboxBooks) {
        self.names.publish(names);
        self.figures.publish(books.received.into(), books.emitted.into(), [], books.held.into());
        set(&self.held_batches, books.held_batches);
        store(&self.maybe_twice, books.maybe_twice.bytes);
        store(&self.unprotected, books.unprotected.bytes);
    }
}

/// DNS answers on their way to the exporter.
#[derive(Debug, Default)]
struct NamesMetrics {
    received: Counter,
    told: Counter,
    discarded: Counter,
    held: Gauge,
}

impl NamesMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("received", "DNS answers for the exporter: an address, a name, who asked", &metrics.received),
            ("told", "DNS answers told, on a new stream all that hold again", &metrics.told),
            ("discarded", "DNS answers never told for want of room", &metrics.discarded),
        ] {
            registry.register(format!("egressd_collector_names_{name}"), help, counter.clone());
        }
        registry.register("egressd_collector_names_held", "DNS answers held", metrics.held.clone());
        metrics
    }

    fn publish(&self, books: &OutboxBooks) {
        store(&self.received, books.received);
        store(&self.told, books.told);
        store(&self.discarded, books.discarded);
        set(&self.held, books.held);
    }
}

/// The exporter's half.
#[derive(Debug)]
pub struct LedgerMetrics {
    figures: Figures,
    taken: Counter,
    skipped: Counter,
    pub(crate) streams: Gauge,
    pub(crate) refused: Counter,
    pub(crate) not_admitted: Family<ReasonLabel, Counter>,
    pub(crate) redirected: Counter,
    pub(crate) unknown_messages: Counter,
    pub(crate) discarded_names: Counter,
}

impl LedgerMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            figures: Figures::register(registry, "egressd_exporter_ledger", "Batches of collectors"),
            taken: Counter::default(),
            skipped: Counter::default(),
            streams: Gauge::default(),
            refused: Counter::default(),
            not_admitted: Family::default(),
            redirected: Counter::default(),
            unknown_messages: Counter::default(),
            discarded_names: Counter::default(),
        };
        registry.register("egressd_exporter_ledger_streams", "Streams open", metrics.streams.clone());
        registry.register(
            "egressd_exporter_ledger_not_admitted_streams",
            "Streams of collectors that may not speak for their node, by reason",
            metrics.not_admitted.clone(),
        );
        for (name, help, counter) in [
            ("taken_batches", "Batches taken, each sequence of an epoch once", &metrics.taken),
            ("skipped_batches", "Sequences that collectors lost before sending them", &metrics.skipped),
            ("refused_streams", "Streams closed because what they said cannot be", &metrics.refused),
            ("redirected_streams", "Streams sent on, since another exporter leads", &metrics.redirected),
            (
                "unknown_messages",
                "Messages of a kind that this version does not know",
                &metrics.unknown_messages,
            ),
            (
                "discarded_names",
                "DNS answers of collectors that came while those before them were not taken in",
                &metrics.discarded_names,
            ),
        ] {
            registry.register(format!("egressd_exporter_ledger_{name}"), help, counter.clone());
        }
        metrics
    }

    pub(crate) fn publish(&self, books: &LedgerBooks) {
        let discarded = [("duplicate", books.duplicate.into())];
        self.figures.publish(books.received.into(), books.emitted.into(), discarded, books.held.into());
        store(&self.taken, books.taken_batches);
        store(&self.skipped, books.skipped_batches);
    }
}
