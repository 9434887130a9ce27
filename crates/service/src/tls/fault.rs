//! Why there is no TLS connection to a server, in the words of whoever can mend it.
//!
//! Client libraries wrap what happened in layers of their own words. Here the layers are searched for the fact
//! beneath them.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

/// What stood in the way. Each needs an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The chain of certificates ends at no authority that is trusted here.
    #[error("the server's certificate is not trusted: no authority that this process knows has signed it")]
    Untrusted,
    /// A good certificate of another host.
    #[error("the server's certificate is for another name: {expected} was asked for, it is for {presented}")]
    Name {
        /// What was asked for.
        expected: String,
        /// The certificate's names.
        presented: String,
    },
    /// Its time is over.
    #[error("the server's certificate has expired, at {at}")]
    Expired {
        /// RFC 3339, as the certificate has it.
        at: String,
    },
    /// Its time has not begun.
    #[error("the server's certificate is not valid before {at}")]
    Early {
        /// RFC 3339, as the certificate has it.
        at: String,
    },
    /// The server does not take the certificate that this side showed, or that it showed none.
    #[error("the server does not accept this side's client certificate, or wants one: {alert}")]
    ClientCertificate {
        /// The alert's name, as TLS has it.
        alert: String,
    },
    /// The peer's first bytes are not TLS.
    #[error("the server does not speak TLS on this port")]
    NotTls,
    /// Refused for another reason, by either end.
    #[error("no TLS connection: {reason}")]
    Other {
        /// The TLS library's words.
        reason: String,
    },
}

impl Fault {
    /// The fault beneath an error and its sources; `None` when it is none of TLS.
    #[must_use]
    pub fn beneath(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |layer| (*layer).source()).find_map(tls_error).map(Self::of)
    }

    fn of(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(certificate) = error else {
            return match error {
                rustls::Error::InvalidMessage(_) => Self::NotTls,
                rustls::Error::AlertReceived(alert) if is_of_certificate(*alert) => {
                    Self::ClientCertificate { alert: format!("{alert:?}") }
                }
                other => Self::Other { reason: other.to_string() },
            };
        };
        match certificate {
            // The latter is an authority's name with another key, as when a private one was made anew.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted,
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::Name { expected: expected.to_str().into_owned(), presented: names(presented) }
            }
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired { at: date(*not_after) },
            CertificateError::NotValidYetContext { not_before, .. } => Self::Early { at: date(*not_before) },
            other => Self::Other { reason: other.to_string() },
        }
    }
}

/// Whether a peer broke off because of a certificate. `DecryptError` is what a signature by another key of the same
/// name comes to (RFC 8446, section 6.2).
pub(super) fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

/// I/O errors carry another error without naming it as their source, and that may be an I/O error too.
pub(super) fn tls_error<'a>(layer: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match layer.downcast_ref::<io::Error>() {
        Some(carrier) => tls_error(carrier.get_ref()?),
        None => layer.downcast_ref(),
    }
}

/// The library says each name with its kind, `DnsName("host.example")` or `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name".to_owned(),
        presented => presented.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn date(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    /// Goal: what is wrong with a certificate is told in plain words, with the facts that the operator needs.
    #[test]
    fn certificates_are_told_in_plain_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("prom.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        for (error, expected) in [
            (
                CertificateError::UnknownIssuer,
                "the server's certificate is not trusted: no authority that this process knows has signed it",
            ),
            (
                CertificateError::BadSignature,
                "the server's certificate is not trusted: no authority that this process knows has signed it",
            ),
            (
                name(&["DnsName(\"other.example\")", "IpAddress(10.0.0.1)"]),
                "the server's certificate is for another name: prom.example was asked for, it is for \
                 other.example, 10.0.0.1",
            ),
            (
                name(&[]),
                "the server's certificate is for another name: prom.example was asked for, it is for no name",
            ),
            (
                CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) },
                "the server's certificate has expired, at 2001-09-09T01:46:40Z",
            ),
            (
                CertificateError::NotValidYetContext { time: at(0), not_before: at(1_000_000_000) },
                "the server's certificate is not valid before 2001-09-09T01:46:40Z",
            ),
            (CertificateError::Revoked, "no TLS connection: Revoked"),
        ] {
            assert_eq!(Fault::of(&error.into()).to_string(), expected);
        }
    }
}
