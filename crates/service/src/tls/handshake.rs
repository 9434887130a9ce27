//! The first words of a connection: TLS, or the door stays shut.
//!
//! A peer that speaks HTTP/2 without TLS is told so in its own words, so that its log does not speak of broken frames.
//! Bound: none here; whoever holds the connection cuts off what takes too long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::warn;

use super::fault::{is_of_certificate, tls_error};
use super::shown::Shown;
use crate::figures::ReasonLabel;
use crate::seldom::Seldom;

/// What a TLS record with a handshake in it begins with (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// The first byte of HTTP/2's preface (RFC 9113, section 3.4).
const PREFACE: u8 = b'P';
/// Empty SETTINGS, which come first, then GOAWAY with INADEQUATE_SECURITY (RFC 9113, sections 6.5, 6.8 and 7) and words
/// for whoever reads them.
const GO_AWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
                         \0\0\x21\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS only";
/// How often a refusal is said.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// What is still read of a peer that was told.
const LAST_WORDS_MAX: u64 = 64 << 10;

/// Handshakes that came to nothing.
#[derive(Clone, Debug, Default)]
pub struct HandshakeMetrics(Family<ReasonLabel, Counter>);

impl HandshakeMetrics {
    /// Registers them as `<door>_refused_handshakes_total`.
    pub fn register(registry: &mut Registry, door: &str) -> Self {
        let metrics = Self::default();
        registry.register(
            format!("{door}_refused_handshakes"),
            "Connections that ended before TLS was agreed on, by reason",
            metrics.0.clone(),
        );
        for reason in Refusal::ALL {
            // There from the start, at zero.
            drop(metrics.0.get_or_create(&ReasonLabel { reason: reason.reason() }));
        }
        metrics
    }
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The peer speaks no TLS.
    PlainText,
    /// The peer does not take our certificate: it trusts another authority, asks for another name, or its clock differs.
    Distrusted,
    /// No common ground, or nonsense.
    Failed,
    /// The peer went.
    Closed,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::PlainText, Self::Distrusted, Self::Failed, Self::Closed];

    fn reason(self) -> &'static str {
        match self {
            Self::PlainText => "plain_text",
            Self::Distrusted => "distrusted",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }

    fn of(error: &io::Error) -> Self {
        match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) if is_of_certificate(*alert) => Self::Distrusted,
            Some(_) => Self::Failed,
            None => Self::Closed,
        }
    }
}

/// The TLS of a server's door.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    metrics: HandshakeMetrics,
    complaints: Arc<Seldom>,
}

impl Tls {
    /// TLS 1.2 and 1.3 with ring, HTTP/2 alone, nothing asked of the client.
    ///
    /// # Panics
    /// Never: ring has both versions.
    #[must_use]
    pub fn new(shown: Shown, metrics: HandshakeMetrics) -> Self {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A collector looks at the certificate at each dial.
        config.send_tls13_tickets = 0;
        let complaints = Arc::new(Seldom::new(SAID_EVERY));
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), metrics, complaints }
    }
}

/// A handshake under way.
pub(crate) type Handshake = Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>;

/// Ends with the connection's TLS, or with why there is none, counted.
pub(crate) fn begin(tls: Tls, stream: TcpStream, peer: SocketAddr) -> Handshake {
    Box::pin(async move {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            tls.refuse(Refusal::PlainText, peer, "it speaks no TLS");
            if first[0] == PREFACE {
                tell_plain(stream).await?;
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks no TLS"));
        }
        let accepted = tls.acceptor.accept(stream).await;
        accepted.inspect_err(|error| tls.refuse(Refusal::of(error), peer, error))
    })
}

impl Tls {
    fn refuse(&self, refusal: Refusal, peer: SocketAddr, error: impl std::fmt::Display) {
        let reason = refusal.reason();
        self.metrics.0.get_or_create(&ReasonLabel { reason }).inc();
        // Whoever looks whether the port is open goes without a word.
        if refusal != Refusal::Closed && self.complaints.may() {
            warn!(%peer, reason, %error, "no TLS with a peer; said once a minute at most");
        }
    }
}

/// What it said is read to its end: closing a socket with something unread takes our words back.
async fn tell_plain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(GO_AWAY).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LAST_WORDS_MAX), &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the frames are as long as they say.
    #[test]
    fn go_away_is_well_formed() {
        let (settings, go_away) = GO_AWAY.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(usize::from(go_away[2]), go_away.len() - 9, "the payload's length");
        assert_eq!(&go_away[13..17], [0, 0, 0, 12]);
    }
}
