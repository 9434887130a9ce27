//! Why a push got no answer, in the words of whoever can mend it.
//!
//! The HTTP client wraps what happened in layers of its own words. Here the layers are searched for the fact beneath
//! them; what is not known keeps all of them, so nothing is hidden.
//!
//! Source: the certificates that are trusted are those of the sink's `tls.caFile`, or without one those of the
//! system's store, or in its place those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name (`rustls-platform-verifier` on
//! Linux, by `rustls-native-certs`).

use std::error::Error;
use std::io;

use egressd_service::lifecycle::chain;
use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

/// What stood in the way. Each is tried again, and each but silence and a break needs an operator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    /// The host answers, and nobody listens on the port.
    #[error("connection refused: the host is there and nothing listens on the port")]
    Refused,
    /// Neither the resolver nor a hosts file knows the name; or the resolver itself is away.
    #[error("the host's name cannot be resolved: {reason}")]
    NameUnresolved {
        /// The resolver's words.
        reason: String,
    },
    /// No route, or a router's word that the host is away.
    #[error("the host cannot be reached: {reason}")]
    Unreachable {
        /// The system's words.
        reason: String,
    },
    /// Not even a connection: packets are swallowed on the way.
    #[error("no connection in time: the host does not answer at all")]
    ConnectTimedOut,
    /// Sent, and the timeout passed without an answer.
    #[error("no answer in time")]
    AnswerTimedOut,
    /// The chain of certificates ends at no authority that is trusted here.
    #[error("the server's certificate is not trusted: no authority that this process knows has signed it")]
    CertificateUntrusted,
    /// A good certificate of another host.
    #[error("the server's certificate is for another name: {expected} was asked for, it is for {presented}")]
    CertificateName {
        /// The host of the URL.
        expected: String,
        /// The certificate's names.
        presented: String,
    },
    /// Its time is over.
    #[error("the server's certificate has expired, at {at}")]
    CertificateExpired {
        /// RFC 3339, as the certificate has it.
        at: String,
    },
    /// Its time has not begun.
    #[error("the server's certificate is not valid before {at}")]
    CertificateEarly {
        /// RFC 3339, as the certificate has it.
        at: String,
    },
    /// The server does not take the certificate that this side showed, or that it showed none.
    #[error("the server does not accept this sink's client certificate, or wants one: {alert}")]
    ClientCertificate {
        /// The alert's name, as TLS has it.
        alert: String,
    },
    /// Refused for another reason, by either end.
    #[error("no TLS connection: {reason}")]
    Tls {
        /// The TLS library's words.
        reason: String,
    },
    /// The peer's first bytes are not TLS.
    #[error("the server does not speak TLS on this port")]
    NotTls,
    /// Everything else.
    #[error("{reason}")]
    Other {
        /// Every layer's words.
        reason: String,
    },
}

impl Cause {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let layers = || std::iter::successors(error.source(), |layer| (*layer).source());
        if let Some(tls) = layers().find_map(tls_error) {
            return Self::of_tls(tls);
        }
        // The connector's own type is private; its words are held by a test against a real resolver.
        let is_resolving = layers().any(|layer| layer.to_string() == "dns error");
        let system = layers().find_map(|layer| layer.downcast_ref::<io::Error>());
        match system {
            Some(system) if is_resolving => Self::NameUnresolved { reason: system.to_string() },
            Some(system) if error.is_connect() => Self::of_system(system),
            _ if error.is_timeout() && error.is_connect() => Self::ConnectTimedOut,
            _ if error.is_timeout() => Self::AnswerTimedOut,
            _ => Self::Other { reason: layers().next().map_or_else(|| error.to_string(), chain) },
        }
    }

    fn of_system(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::ConnectTimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Unreachable { reason: error.to_string() }
            }
            _ => Self::Other { reason: chain(error) },
        }
    }

    pub(crate) fn of_tls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(certificate) = error else {
            return match error {
                rustls::Error::InvalidMessage(_) => Self::NotTls,
                rustls::Error::AlertReceived(alert) if is_of_certificate(*alert) => {
                    Self::ClientCertificate { alert: format!("{alert:?}") }
                }
                other => Self::Tls { reason: other.to_string() },
            };
        };
        match certificate {
            // The latter is an authority's name with another key, as when a private one was made anew.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::CertificateUntrusted,
            CertificateError::NotValidForNameContext { expected, presented } => Self::CertificateName {
                expected: expected.to_str().into_owned(),
                presented: names(presented),
            },
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::CertificateExpired { at: date(*not_after) }
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::CertificateEarly { at: date(*not_before) }
            }
            other => Self::Tls { reason: other.to_string() },
        }
    }

    /// What the operator can do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Refused => "check host and port of the sink's url, and that its server runs",
            Self::NameUnresolved { .. } => "check the host in the sink's url, and this pod's DNS",
            Self::Unreachable { .. } | Self::ConnectTimedOut => {
                "check the sink's url, and network policies and firewalls on the way to it"
            }
            Self::AnswerTimedOut => "check the load of the sink's server, or raise the sink's timeout",
            Self::CertificateUntrusted => {
                "if the authority is your own, name its certificate in the sink's tls.caFile; if there is none, the \
                 answer may not be the sink's"
            }
            Self::CertificateName { .. } => {
                "write one of the certificate's names as the host of the sink's url, or have the server's \
                 certificate issued for that host"
            }
            Self::CertificateExpired { .. } => {
                "renew the server's certificate; if it is new, check the clocks"
            }
            Self::CertificateEarly { .. } => "check the clocks of this node and of the server",
            Self::ClientCertificate { .. } => {
                "check the sink's tls.certFile and tls.keyFile: the server wants a certificate that it trusts"
            }
            Self::NotTls => "write http:// in the sink's url, or the port that has TLS",
            Self::Tls { .. } | Self::Other { .. } => "check the sink's url and its server's log",
        }
    }
}

/// Whether the server broke off because of this side's certificate: before it took any of the request, though it may
/// be said after that was sent (TLS 1.3, where the client is done first).
pub(crate) fn turned_away(error: &reqwest::Error) -> bool {
    let tls = std::iter::successors(error.source(), |layer| (*layer).source()).find_map(tls_error);
    matches!(tls, Some(rustls::Error::AlertReceived(alert)) if is_of_certificate(*alert))
}

/// `DecryptError` is what a signature by another key of the same name comes to (RFC 8446, section 6.2).
fn is_of_certificate(alert: AlertDescription) -> bool {
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
fn tls_error<'a>(layer: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
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
