//! What the exporter shows of itself, and until when.

use egressd_flow::UnixNanos;
use egressd_service::figures::set;
use egressd_service::tls::Certificate;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::security::expiry;

/// Certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsMetrics {
    certificate: Gauge,
    authority: Gauge,
    taken_up: Counter,
    pub(crate) failures: Counter,
}

impl TlsMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "egressd_exporter_tls_certificate_expires_seconds",
            "When the certificate that is shown expires, in Unix time; 0 in plain text",
            metrics.certificate.clone(),
        );
        registry.register(
            "egressd_exporter_tls_authority_expires_seconds",
            "When the authority of our own expires, in Unix time; 0 without one",
            metrics.authority.clone(),
        );
        registry.register(
            "egressd_exporter_tls_certificates",
            "Certificates that were taken up, the first included",
            metrics.taken_up.clone(),
        );
        registry.register(
            "egressd_exporter_tls_failures",
            "Times that the authority of our own could not be read, made or published; each was tried again",
            metrics.failures.clone(),
        );
        metrics
    }

    /// One is shown from now on.
    pub(crate) fn certificate(&self, certificate: &Certificate) {
        self.taken_up.inc();
        set(&self.certificate, expiry(certificate.leaf()).map_or(0, seconds));
    }

    pub(crate) fn authority(&self, expires: UnixNanos) {
        set(&self.authority, seconds(expires));
    }
}

fn seconds(at: UnixNanos) -> u64 {
    at.0 / 1_000_000_000
}
