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

/// Tokens of collectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenMetrics {
    pub(crate) reviews: Counter,
    pub(crate) known: Counter,
    pub(crate) failures: Counter,
    under_way: Gauge,
    waiting: Gauge,
}

impl TokenMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("reviews", "Tokens that the Kubernetes API was asked about", &metrics.reviews),
            ("known", "Tokens of which the answer was known", &metrics.known),
            (
                "failures",
                "Reviews that were refused or not answered: whoever waited was told to come back",
                &metrics.failures,
            ),
        ] {
            registry.register(format!("egressd_exporter_tokens_{name}"), help, counter.clone());
        }
        registry.register(
            "egressd_exporter_tokens_reviews_under_way",
            "Reviews that wait for the Kubernetes API, 16 at most",
            metrics.under_way.clone(),
        );
        registry.register(
            "egressd_exporter_tokens_waiting",
            "Collectors that wait for a review, as many as nodes at most; others are told to come back",
            metrics.waiting.clone(),
        );
        metrics
    }

    /// Reviews, and those who wait for one.
    pub(crate) fn waiting(&self, under_way: usize, waiting: usize) {
        set(&self.under_way, under_way as u64);
        set(&self.waiting, waiting as u64);
    }
}
