//! TLS of the gRPC ports, rustls with ring at both ends.
//!
//! ```text
//! files, or an authority of our own ─▶ Shown ─▶ Tls ─▶ connections      server: what is shown may change at any time
//! CA file, read at each dial ────────▶ (tonic) ─▶ Fault                 client: why there is no connection, in words
//! ```
//!
//! A certificate that is taken up is for handshakes that begin later; connections that are open go on.

mod fault;
mod files;
mod handshake;
mod shown;

pub use fault::Fault;
pub use files::{CertificateError, Files, READ_EVERY, read_authorities};
pub use handshake::{HandshakeMetrics, Tls};
pub use shown::{Certificate, PemError, Shown};

pub(crate) use handshake::{Handshake, begin};

/// Text that no certificate can be for. Whoever wrote it must correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a host's name nor an address")]
pub struct NameError {
    /// What was given.
    pub text: String,
}

/// A name or an address that a certificate can be for.
///
/// # Errors
/// It is neither.
pub fn parse_server_name(text: &str) -> Result<String, NameError> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(NameError { text: text.to_owned() }),
    }
}
