//! What a server shows of itself: a chain of certificates and the key to the first.
//!
//! Invariant: what is shown is whole: the key belongs to the certificate.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

/// A chain of certificates, the server's own first, with its key.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

/// No certificate with its key. Whoever made them must correct it.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Not one certificate.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// What calls itself a certificate is none.
    #[error("a certificate is broken")]
    Certificate(#[source] pem::Error),
    /// No key, or an encrypted one.
    #[error("there is no key in PEM, or it is encrypted")]
    Key(#[source] pem::Error),
    /// The key is of a kind that is not known, or another certificate's.
    #[error("the key does not go with the certificate")]
    Apart(#[source] rustls::Error),
}

impl Certificate {
    /// From PEM.
    ///
    /// # Errors
    /// What is missing, broken, or does not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(PemError::Certificate)?;
        if chain.is_empty() {
            return Err(PemError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(PemError::Key)?;
        Self::new(chain, key)
    }

    /// From DER.
    ///
    /// # Errors
    /// The key is not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, PemError> {
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        certified.map(|certified| Self(Arc::new(certified))).map_err(PemError::Apart)
    }

    /// The server's own, in DER.
    ///
    /// # Panics
    /// Never: a chain is not empty.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'_> {
        self.0.end_entity_cert().expect("a chain that has a key has a certificate")
    }
}

/// The same chain has the same key.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl Eq for Certificate {}

/// Keeps the key out of what is printed.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} certificates)", self.0.cert.len())
    }
}

/// The certificate of now; clones speak of the same. Nothing at first.
#[derive(Clone, Debug)]
pub struct Shown(watch::Sender<Option<Certificate>>);

impl Default for Shown {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Shown {
    /// From the next handshake on.
    pub fn show(&self, certificate: Certificate) {
        self.0.send_replace(Some(certificate));
    }

    /// Until there is something to show.
    pub async fn is_there(&self) {
        let mut shown = self.0.subscribe();
        // The sender is ours: it does not go.
        let _there = shown.wait_for(Option::is_some).await;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|certificate| Arc::clone(&certificate.0))
    }
}
