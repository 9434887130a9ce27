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
use egressd_service::tls::Fault;

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
    /// By TLS, at either end.
    #[error(transparent)]
    Tls(#[from] Fault),
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
        if let Some(fault) = Fault::beneath(error) {
            return Self::Tls(fault);
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

    /// What the operator can do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Refused => "check host and port of the sink's url, and that its server runs",
            Self::NameUnresolved { .. } => "check the host in the sink's url, and this pod's DNS",
            Self::Unreachable { .. } | Self::ConnectTimedOut => {
                "check the sink's url, and network policies and firewalls on the way to it"
            }
            Self::AnswerTimedOut => "check the load of the sink's server, or raise the sink's timeout",
            Self::Tls(Fault::Untrusted) => {
                "if the authority is your own, name its certificate in the sink's tls.caFile; if there is none, the \
                 answer may not be the sink's"
            }
            Self::Tls(Fault::Name { .. }) => {
                "write one of the certificate's names as the host of the sink's url, or have the server's \
                 certificate issued for that host"
            }
            Self::Tls(Fault::Expired { .. }) => {
                "renew the server's certificate; if it is new, check the clocks"
            }
            Self::Tls(Fault::Early { .. }) => "check the clocks of this node and of the server",
            Self::Tls(Fault::ClientCertificate { .. }) => {
                "check the sink's tls.certFile and tls.keyFile: the server wants a certificate that it trusts"
            }
            Self::Tls(Fault::NotTls) => "write http:// in the sink's url, or the port that has TLS",
            Self::Tls(Fault::Other { .. }) | Self::Other { .. } => {
                "check the sink's url and its server's log"
            }
        }
    }
}

/// Whether the server broke off because of this side's certificate: before it took any of the request, though it may
/// be said after that was sent (TLS 1.3, where the client is done first).
pub(crate) fn turned_away(error: &reqwest::Error) -> bool {
    matches!(Fault::beneath(error), Some(Fault::ClientCertificate { .. }))
}
