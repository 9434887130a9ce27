//! Who may speak to this exporter, and how it shows who it is.
//!
//! ```text
//! files ───────────────────────────▶ Shown ─▶ TLS of the streams, and of flows off loopback
//! Secret ─▶ authority ─▶ leaf ─────▶   │
//!   └─────▶ ConfigMap ─▶ collectors    └───▶ when it expires, in metrics
//! ```
//!
//! A certificate comes from files that others renew, or from an authority of our own that one Secret holds; without
//! either the streams are plain text, which is said each time. [`DESIGN.md`](../DESIGN.md) says why it is so.

mod authority;
mod expiry;
mod flags;
mod managed;

use std::convert::Infallible;

use egressd_service::admin::Part;
use egressd_service::lifecycle::{Tasks, chain};
use egressd_service::tls::{Certificate, HandshakeMetrics, Shown, Tls};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use expiry::expiry;
pub(crate) use flags::{Certification, SecurityOptions};

use self::flags::PLAIN_TEXT;

use crate::metrics::TlsMetrics;

/// The way in, for everything that listens for gRPC.
#[derive(Clone)]
pub(crate) struct Door {
    /// `None`: plain text.
    tls: Option<(Tls, Shown)>,
}

impl Door {
    /// Starts whatever keeps the certificate current. Readiness waits for the first.
    ///
    /// # Panics
    /// When a managed authority comes without a client: the flags rule that out.
    pub(crate) fn open(
        certification: Certification,
        client: Option<&Client>,
        ready: Part,
        registry: &mut Registry,
        tasks: &mut Tasks,
    ) -> Self {
        let shown = Shown::default();
        let metrics = TlsMetrics::register(registry);
        match certification {
            Certification::Plain => {
                ready.set(true);
                warn!("{PLAIN_TEXT}");
                return Self { tls: None };
            }
            Certification::Files(files) => {
                info!(cert_file = %files.cert.display(), "the streams speak TLS by a certificate of files");
                let told = move |certificate: &Certificate| {
                    ready.set(true);
                    metrics.certificate(certificate);
                };
                tasks.spawn_aside("certificate", files.follow(shown.clone(), told));
            }
            Certification::Managed(managed) => {
                let client = client.expect("an authority of our own goes with the API alone").clone();
                let keeping = managed.keep(client, shown.clone(), metrics, ready);
                tasks.spawn_aside("authority", async {
                    keeping.await;
                    Ok::<_, Infallible>(())
                });
            }
        }
        let handshakes = HandshakeMetrics::register(registry, "egressd_exporter_tls");
        Self { tls: Some((Tls::new(shown.clone(), handshakes), shown)) }
    }

    /// What listeners speak.
    pub(crate) fn tls(&self) -> Option<Tls> {
        self.tls.as_ref().map(|(tls, _)| tls.clone())
    }

    /// Until there is something to show, or a stop. Whoever connects before waits in the listener's backlog.
    pub(crate) async fn is_there(&self, stop: &CancellationToken) {
        let Some((_, shown)) = &self.tls else { return };
        tokio::select! {
            () = shown.is_there() => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Reads what `check` can read: files.
///
/// # Errors
/// They cannot be used.
pub(crate) fn try_certificate(certification: &Certification) -> anyhow::Result<()> {
    match certification {
        Certification::Plain => warn!("{PLAIN_TEXT}"),
        Certification::Managed(_) => {}
        Certification::Files(files) => {
            let certificate = files.load()?;
            if let Err(error) = expiry(certificate.leaf()) {
                warn!(error = %chain(&error), "the certificate does not tell when it expires");
            }
        }
    }
    Ok(())
}
