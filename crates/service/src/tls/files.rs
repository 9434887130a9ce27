//! A certificate and its key in two files, which whoever renews them writes anew: cert-manager, or a person.
//!
//! Invariant: what cannot be read or used replaces nothing.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::{info, warn};

use super::shown::{Certificate, PemError, Shown};
use crate::lifecycle::chain;
use crate::small_file::{ReadError, aside, read};

/// How often files are looked at. A mounted Secret changes a minute after the object.
pub const READ_EVERY: Duration = Duration::from_secs(10);

/// Why a certificate cannot be had. An operator must act; its files are read again.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// One of its files cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Both are there and make no certificate.
    #[error("{cert} and {key} cannot be used")]
    Pem {
        /// As configured.
        cert: PathBuf,
        /// As configured.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: PemError,
    },
    /// Nobody would be trusted.
    #[error("{path} holds no authority's certificate in PEM")]
    NoAuthority {
        /// As configured.
        path: PathBuf,
    },
}

/// The certificates of authorities to trust, in PEM: one at least.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn read_authorities(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let pem = read(path)?;
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    let is_one = |found: &Result<CertificateDer<'_>, _>| {
        found.as_ref().is_ok_and(|found| RootCertStore::empty().add(found.clone()).is_ok())
    };
    if certificates.any(|found| is_one(&found)) {
        Ok(pem)
    } else {
        Err(CertificateError::NoAuthority { path: path.to_owned() })
    }
}

/// Where a server's certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first, in PEM.
    pub cert: PathBuf,
    /// The key to the first, in PEM.
    pub key: PathBuf,
}

impl Files {
    /// What they hold now.
    ///
    /// # Errors
    /// One cannot be read, or they do not go together.
    pub fn load(&self) -> Result<Certificate, CertificateError> {
        let (chain, key) = (read(&self.cert)?, read(&self.key)?);
        Certificate::from_pem(&chain, &key).map_err(|source| {
            let (cert, key) = (self.cert.clone(), self.key.clone());
            CertificateError::Pem { cert, key, source }
        })
    }

    /// Shows what they hold, for ever. `told` hears of each certificate that is taken up.
    ///
    /// # Errors
    /// Never.
    pub async fn follow(self, shown: Shown, mut told: impl FnMut(&Certificate)) -> Result<(), Infallible> {
        let mut current = None;
        let mut failing = false;
        let mut look = tokio::time::interval(READ_EVERY);
        loop {
            look.tick().await;
            let files = self.clone();
            match aside(move || files.load()).await {
                Ok(certificate) => {
                    failing = false;
                    if current.as_ref() != Some(&certificate) {
                        if current.replace(certificate.clone()).is_some() {
                            info!(file = %self.cert.display(), "another certificate is shown from now on");
                        }
                        told(&certificate);
                        shown.show(certificate);
                    }
                }
                // Files that are written one after the other belong together a moment later.
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = %chain(&error), "the certificate cannot be taken up: the one before is shown");
                    }
                }
            }
        }
    }
}
