//! Every metric of the exporter that no other crate writes itself: attribution.

use egressd_flow::{AttributedBatch, Counter as Traffic, Unattributed};
use egressd_service::figures::Figures;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

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
        let through = (self.through.bytes, self.through.packets);
        self.figures.publish(through, through, [], (0, 0));
        for reason in [Unattributed::Unknown, Unattributed::Ambiguous, Unattributed::Folded] {
            let records = batch.records.iter().filter(|record| record.remote.identity == Err(reason));
            let bytes = records.map(|record| record.traffic.sum().bytes).sum();
            let reason = match reason {
                Unattributed::Unknown => "unknown",
                Unattributed::Ambiguous => "ambiguous",
                Unattributed::Folded => "folded",
            };
            self.unattributed_bytes.get_or_create(&ReasonLabel { reason }).inc_by(bytes);
        }
    }
}
