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
mod trusted;

use std::convert::Infallible;
use std::path::PathBuf;

use anyhow::Context as _;
use egressd_delivery::serve::Claim;
use egressd_service::admin::Part;
use egressd_service::bearer::Guard;
use egressd_service::lifecycle::{Tasks, chain};
use egressd_service::tls::{Certificate, HandshakeMetrics, Shown, Tls};
use kube::Client;
use prometheus_client::registry::Registry as MetricRegistry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use expiry::expiry;
pub(crate) use flags::{Certification, Security, SecurityOptions};

use crate::metrics::{TlsMetrics, TokenMetrics};
use crate::tokens::{
    ADMITTED_MAX, AT_ONCE_MAX, CLAIMS_QUEUE, Expected, REFUSED_MAX, Registry, WAITING_MAX, check_tokens,
};

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
        registry: &mut MetricRegistry,
        tasks: &mut Tasks,
    ) -> Self {
        let shown = Shown::default();
        let metrics = TlsMetrics::register(registry);
        match certification {
            Certification::Plain => {
                ready.set(true);
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

/// Starts whoever says which collector may speak for which node; `None`: each may for any.
///
/// # Panics
/// When tokens are expected without a client: the flags rule that out.
pub(crate) fn admission(
    expected: Option<Expected>,
    client: Option<&Client>,
    pods: Registry,
    registry: &mut MetricRegistry,
    tasks: &mut Tasks,
) -> Option<mpsc::Sender<Claim>> {
    let expected = expected?;
    info!(
        account = %expected.account,
        audience = expected.audience,
        reviews_max = AT_ONCE_MAX,
        waiting_max = WAITING_MAX,
        admitted_max = ADMITTED_MAX,
        refused_max = REFUSED_MAX,
        "collectors show tokens, and speak for their own node"
    );
    let client = client.expect("tokens go with the API alone").clone();
    let (claims, claims_out) = mpsc::channel(CLAIMS_QUEUE);
    let checking = check_tokens(client, expected, pods, claims_out, TokenMetrics::register(registry));
    let stop = tasks.stop.clone();
    tasks.spawn("tokens", async move {
        checking.await;
        stop.cancelled().await;
        Ok::<_, Infallible>(())
    });
    Some(claims)
}

/// Who asks readers for a token; `None`: anybody may read, which is no news on loopback.
///
/// # Errors
/// The file holds no token.
pub(crate) fn readers(path: Option<PathBuf>, tasks: &mut Tasks) -> anyhow::Result<Option<Guard>> {
    let Some(path) = path else { return Ok(None) };
    let guard = Guard::new(path).context("--readers-token-file")?;
    tasks.spawn_aside("readers' token", guard.clone().follow());
    Ok(Some(guard))
}

/// Reads what `check` can read: files.
///
/// # Errors
/// They cannot be used.
pub(crate) fn check(security: &Security, options: &SecurityOptions) -> anyhow::Result<()> {
    security.complain();
    match &security.certification {
        Certification::Plain | Certification::Managed(_) => {}
        Certification::Files(files) => {
            let certificate = files.load()?;
            if let Err(error) = expiry(certificate.leaf()) {
                warn!(error = %chain(&error), "the certificate does not tell when it expires");
            }
        }
    }
    if let Some(path) = &options.readers_token_file {
        Guard::new(path.clone()).context("--readers-token-file")?;
    }
    Ok(())
}
