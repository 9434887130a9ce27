//! Health, readiness and the daemon's own metrics over HTTP. No endpoint changes anything.
//!
//! `/healthz`: the process answers. `/readyz`: every named part is ready and no stop is under way, else 503 and what
//! is not.
//! `/metrics`: OpenMetrics text.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The content type of `/metrics`.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One part's readiness; clones speak for the same part.
#[derive(Clone, Debug)]
pub struct Part {
    name: &'static str,
    ready: Arc<AtomicBool>,
}

impl Part {
    /// Says whether the part is ready.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// What the endpoints tell.
#[derive(Debug, Default)]
pub struct Admin {
    parts: Vec<Part>,
}

impl Admin {
    /// A new part, not ready yet.
    pub fn part(&mut self, name: &'static str) -> Part {
        let part = Part { name, ready: Arc::new(AtomicBool::new(false)) };
        self.parts.push(part.clone());
        part
    }

    /// The routes. `extra` are the daemon's own; nothing is ready once `stop` has fired.
    pub fn router(self, registry: Registry, extra: Router, stop: CancellationToken) -> Router {
        let readiness = Arc::new(Readiness { parts: self.parts, stop });
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready).with_state(readiness))
            .route("/metrics", get(metrics).with_state(Arc::new(registry)))
            .merge(extra)
    }
}

struct Readiness {
    parts: Vec<Part>,
    stop: CancellationToken,
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> Response {
    let mut text = String::new();
    let mut all = true;
    let parts = readiness.parts.iter().map(|part| (part.name, part.ready.load(Ordering::Acquire)));
    for (name, ready) in parts.chain([("running", !readiness.stop.is_cancelled())]) {
        all &= ready;
        let _infallible = writeln!(text, "{name}: {}", if ready { "ready" } else { "not ready" });
    }
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Listens on `port` of every address, IPv4 and IPv6; of IPv4 alone where the kernel has no IPv6. Done before
/// anything else starts, so that a port in use is known.
///
/// # Errors
/// The port is in use, or not for this user.
pub async fn bind(port: u16) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if is_without_ipv6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
        outcome => outcome,
    };
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}")))
}

/// `ipv6.disable=1` takes the address family away, `net.ipv6.conf.all.disable_ipv6=1` only its addresses.
fn is_without_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Serves for as long as it is polled.
///
/// # Errors
/// The listener broke.
pub async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    axum::serve(listener, router).await
}
