//! How a stream is kept from others: who may be at its far end, and by what that one knows us.
//!
//! The files are read at each dial, so that what is in them may be renewed, and may be there later than we are; aside, so
//! that no file system keeps the collector from its other work.

use std::fmt;
use std::path::PathBuf;

use egressd_service::bearer;
use egressd_service::small_file::aside;
use egressd_service::tls::read_authorities;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::ExporterAddress;
use super::hangup::Hangup;

/// Whom a collector speaks to, and how it shows who it is. A token goes over TLS alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Anybody, and anybody may listen.
    Plain,
    /// Whoever an authority of ours vouches for.
    Tls {
        /// The certificates of the authorities that are trusted, in PEM, and no others.
        ca_file: PathBuf,
        /// Whom the certificate must be for, wherever the stream is sent on to.
        server_name: String,
        /// What is shown: a token of our service account.
        token_file: Option<PathBuf>,
    },
}

impl Security {
    /// Where to connect to.
    pub(super) async fn endpoint(&self, exporter: &ExporterAddress) -> Result<Endpoint, Hangup> {
        match self {
            Self::Plain => Ok(exporter.endpoint("http")),
            Self::Tls { ca_file, server_name, .. } => {
                let ca_file = ca_file.clone();
                let authorities = Certificate::from_pem(aside(move || read_authorities(&ca_file)).await?);
                let config = ClientTlsConfig::new().ca_certificate(authorities).domain_name(server_name);
                exporter.endpoint("https").tls_config(config).map_err(Hangup::Unreachable)
            }
        }
    }

    /// The header that says who we are.
    pub(super) async fn proof(&self) -> Result<Option<MetadataValue<Ascii>>, Hangup> {
        match self {
            Self::Plain | Self::Tls { token_file: None, .. } => Ok(None),
            Self::Tls { token_file: Some(path), .. } => {
                let path = path.clone();
                Ok(Some(aside(move || bearer::header(&path)).await?))
            }
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain text",
            Self::Tls { token_file: None, .. } => "TLS",
            Self::Tls { token_file: Some(_), .. } => "TLS and token",
        })
    }
}
