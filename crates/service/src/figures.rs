//! The four figures that every stage shows, in bytes and in packets: received, emitted, discarded by reason, held.
//!
//! received = emitted + discarded + held. A stage keeps its own account and writes it here once a batch or a tick.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The label of everything that is counted by reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of a closed set.
    pub reason: &'static str,
}

/// Bytes and packets, in this order.
pub type Amount = (u64, u64);

/// One stage's four figures as metrics.
#[derive(Debug, Default)]
pub struct Figures {
    received: [Counter; 2],
    emitted: [Counter; 2],
    discarded: [Family<ReasonLabel, Counter>; 2],
    held: [Gauge; 2],
}

impl Figures {
    /// Registers them as `<stage>_received_bytes_total` and so on; `stage` is `<binary>_<stage>`, and `what` says in
    /// the help text whose bytes they are.
    pub fn register(registry: &mut Registry, stage: &str, what: &str) -> Self {
        let figures = Self::default();
        for (index, unit) in ["bytes", "packets"].into_iter().enumerate() {
            let name = |verb: &str| format!("{stage}_{verb}_{unit}");
            registry.register(
                name("received"),
                format!("{what}: {unit} taken in"),
                figures.received[index].clone(),
            );
            registry.register(
                name("emitted"),
                format!("{what}: {unit} let out"),
                figures.emitted[index].clone(),
            );
            registry.register(
                name("discarded"),
                format!("{what}: {unit} let go, by reason"),
                figures.discarded[index].clone(),
            );
            registry.register(
                name("held"),
                format!("{what}: {unit} taken in and not yet let out"),
                figures.held[index].clone(),
            );
        }
        figures
    }

    /// Writes the account so far; `discarded` by reason.
    pub fn publish(
        &self,
        received: Amount,
        emitted: Amount,
        discarded: impl IntoIterator<Item = (&'static str, Amount)>,
        held: Amount,
    ) {
        let both = |amount: Amount| [amount.0, amount.1];
        for (counter, value) in self.received.iter().zip(both(received)) {
            store(counter, value);
        }
        for (counter, value) in self.emitted.iter().zip(both(emitted)) {
            store(counter, value);
        }
        for (reason, amount) in discarded {
            for (family, value) in self.discarded.iter().zip(both(amount)) {
                store(&family.get_or_create(&ReasonLabel { reason }), value);
            }
        }
        for (gauge, value) in self.held.iter().zip(both(held)) {
            set(gauge, value);
        }
    }
}

/// Writes a counter that its stage keeps itself.
pub fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

/// Writes a gauge; what is above 2^63−1 stays there.
pub fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
