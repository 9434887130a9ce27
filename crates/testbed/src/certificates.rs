//! Certificates for servers of the testbed, good and bad ones, and the authorities that sign them.
//!
//! Made anew for each run; keys live in memory only.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::error::Error;

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(crate) config: Arc<ServerConfig>,
    /// The certificate, PEM.
    pub pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

impl Authority {
    /// An authority that nobody trusts yet.
    ///
    /// # Errors
    /// [`Error::Malformed`] when no key can be made.
    pub fn generate(name: &str) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(refused)?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(refused)
    }

    /// Its certificate, PEM, for those who are to trust it.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a host, a name or an address, that is valid now.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `host` is neither.
    pub fn certificate(&self, host: &str) -> Result<Certificate, Error> {
        self.sign(CertificateParams::new([host.to_owned()]).map_err(refused)?)
    }

    /// One whose time ended with the year 2000.
    ///
    /// # Errors
    /// As [`certificate`](Self::certificate).
    pub fn expired_certificate(&self, host: &str) -> Result<Certificate, Error> {
        let mut params = CertificateParams::new([host.to_owned()]).map_err(refused)?;
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Certificate, Error> {
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.signed_by(&key, &self.0).map_err(refused)?;
        let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let chain = vec![certificate.der().clone()];
                builder.with_no_client_auth().with_single_cert(chain, key.into())
            })
            .map_err(refused)?;
        Ok(Certificate { config: Arc::new(config), pem, key_pem })
    }
}

fn refused(error: impl std::error::Error) -> Error {
    Error::Malformed { what: "a certificate", found: error.to_string() }
}
