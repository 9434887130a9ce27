//! Every metric of the exporter that no other crate writes itself: attribution.

use egressd_flow::{AttributedBatch, Counter as Traffic, Unattributed};
use egressd_service::figures::{Figures, ReasonLabel};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Attribution takes in and lets out the same bytes; some of them without a name at the far end.
#[derive(Debug)]
pub(crate) struct EnrichMetrics {
    figures: Figures,
    through: Traffic,
    unattributed_bytes: Family<ReasonLabel, Counter>,
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
        Self { figures, through: Traffic::default(), unattributed_bytes }
    }

    pub(crate) fn attributed(&mut self, batch: &AttributedBatch) {
        self.through += batch.sum();
        self.figures.publish(self.through.into(), self.through.into(), [], (0, 0));
        for unattributed in Unattributed::ALL {
            let mut sum = Traffic::default();
            for record in batch.records.iter().filter(|record| record.remote.identity == Err(unattributed)) {
                sum += record.traffic.sum();
            }
            let label = ReasonLabel { reason: unattributed.reason() };
            self.unattributed_bytes.get_or_create(&label).inc_by(sum.bytes);
        }
    }
}
