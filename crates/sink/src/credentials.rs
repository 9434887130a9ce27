//! The files behind a sink's access, as they were when they were last read.
//!
//! They are read before each attempt, since what is in them rotates: tokens by the hour, certificates before they
//! expire.
//! Invariant: what cannot be read or used is an error and replaces nothing.
//! Bound: [`FILE_BYTES_MAX`] a file, five files a sink at most, all regular ones, so that none is waited for.

use std::io;
use std::path::{Path, PathBuf};

use egressd_service::small_file::{self, FILE_BYTES_MAX, ReadError};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, ClientBuilder, Identity, RequestBuilder};

use crate::config::{Access, Authentication, Credential, Tls};
use crate::secret::Secret;

/// Why a sink's client cannot be made. An operator must act; a sink that runs goes on with what it had, and tries
/// again before its next attempt.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The machine's certificate store is missing or broken, or the certificates of the files are.
    #[error("cannot build the HTTP client")]
    Build(#[source] reqwest::Error),
    /// A file is not there, is no regular file, or may not be read.
    #[error("cannot read {path}, of {key}")]
    Read {
        /// The key that names the file.
        key: &'static str,
        /// As configured.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// A file that is none of these.
    #[error("{path}, of {key}, is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The key that names the file.
        key: &'static str,
        /// As configured.
        path: PathBuf,
    },
    /// A credential's file without one.
    #[error("{path}, of {key}, is empty")]
    Empty {
        /// The key that names the file.
        key: &'static str,
        /// As configured.
        path: PathBuf,
    },
    /// A credential's file with what no header can hold.
    #[error("{path}, of {key}, is no text that a header can hold")]
    Unsendable {
        /// The key that names the file.
        key: &'static str,
        /// As configured.
        path: PathBuf,
    },
    /// An authority's file without a certificate.
    #[error("{path}, of tls.caFile, holds no certificate in PEM")]
    NoCertificate {
        /// As configured.
        path: PathBuf,
    },
    /// A client certificate that cannot be used.
    #[error("{cert}, of tls.certFile, and {key}, of tls.keyFile, are no certificate and key in PEM")]
    Identity {
        /// As configured.
        cert: PathBuf,
        /// As configured.
        key: PathBuf,
        /// The TLS library's words.
        #[source]
        source: reqwest::Error,
    },
}

/// What the header `Authorization` is made of.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Basic(String, Secret<String>),
    Bearer(Secret<String>),
}

impl Proof {
    /// `None` where the sink does not authenticate by itself.
    pub(crate) fn read(access: &Access) -> Result<Option<Self>, ClientError> {
        Ok(match &access.authentication {
            None => None,
            Some(Authentication::Bearer(token)) => Some(Self::Bearer(text(token)?)),
            Some(Authentication::Basic { username, password }) => {
                Some(Self::Basic(username.clone(), text(password)?))
            }
        })
    }

    /// The header is marked sensitive.
    pub(crate) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic(username, password) => request.basic_auth(username, Some(password.expose())),
            Self::Bearer(token) => request.bearer_auth(token.expose()),
        }
    }
}

fn text(credential: &Credential) -> Result<Secret<String>, ClientError> {
    let (key, path) = match credential {
        Credential::Value(value) => return Ok(value.clone()),
        Credential::File { key, path } => (*key, path),
    };
    let unsendable = || ClientError::Unsendable { key, path: path.clone() };
    let text = String::from_utf8(read(key, path)?).map_err(|_| unsendable())?;
    let text = text.trim();
    if text.is_empty() {
        return Err(ClientError::Empty { key, path: path.clone() });
    }
    HeaderValue::from_str(text).map_err(|_| unsendable())?;
    Ok(Secret::new(text.to_owned()))
}

/// The files of `tls`, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pem {
    authorities: Option<Vec<u8>>,
    /// Certificates and key, one after the other.
    identity: Option<Secret<Vec<u8>>>,
}

impl Pem {
    pub(crate) fn read(tls: &Tls) -> Result<Self, ClientError> {
        let authorities = tls.ca_file.as_deref().map(|path| read("tls.caFile", path)).transpose()?;
        let identity = match &tls.client {
            None => None,
            Some(files) => {
                let mut pem = read("tls.certFile", &files.cert_file)?;
                pem.push(b'\n');
                pem.extend(read("tls.keyFile", &files.key_file)?);
                Some(Secret::new(pem))
            }
        };
        Ok(Self { authorities, identity })
    }

    /// A client that trusts these authorities, or the system's where there are none, and shows this certificate.
    pub(crate) fn equip(&self, tls: &Tls, mut builder: ClientBuilder) -> Result<ClientBuilder, ClientError> {
        if let (Some(pem), Some(path)) = (&self.authorities, &tls.ca_file) {
            let authorities = Certificate::from_pem_bundle(pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(ClientError::NoCertificate { path: path.clone() });
            }
            builder = builder.tls_certs_only(authorities);
        }
        if let (Some(pem), Some(files)) = (&self.identity, &tls.client) {
            let identity = Identity::from_pem(pem.expose()).map_err(|source| {
                let (cert, key) = (files.cert_file.clone(), files.key_file.clone());
                ClientError::Identity { cert, key, source }
            })?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ClientError> {
    small_file::read(path).map_err(|error| match error {
        ReadError::Unreadable { path, source } => ClientError::Read { key, path, source },
        ReadError::TooLarge { path } => ClientError::TooLarge { key, path },
    })
}
