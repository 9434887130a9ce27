//! Why a stream could not be opened or went, in the words of whoever can mend it.

use std::error::Error as _;

use egressd_protocol::WireError;
use egressd_service::bearer::TokenError;
use egressd_service::tls::{CertificateError, Fault};
use tonic::{Code, Status};

use super::{DIAL_WITHIN, SILENCE_MAX};
use crate::window::AckError;

/// It is dialled again, whatever it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hangup {
    #[error("cannot reach the exporter")]
    Unreachable(#[source] tonic::transport::Error),
    #[error("no answer within {DIAL_WITHIN:?}")]
    TooSlow,
    #[error("cannot tell whom to trust")]
    Authorities(#[from] CertificateError),
    #[error("cannot show who we are")]
    Token(#[from] TokenError),
    #[error("cannot trust the exporter")]
    Tls(#[source] Fault),
    #[error("the exporter speaks TLS only")]
    TlsWanted,
    #[error("the exporter refuses the stream: {}", .0.message())]
    Refused(Status),
    #[error("the exporter hung up")]
    Closed,
    #[error("silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("the message cannot be")]
    Wire(#[from] WireError),
    #[error("the acknowledgement cannot be")]
    Ack(#[from] AckError),
    #[error("it speaks before Welcome")]
    NotWelcome,
    #[error("the exporter takes no more")]
    Redirected,
}

impl Hangup {
    /// There is no connection.
    pub(super) fn of_transport(error: tonic::transport::Error) -> Self {
        Fault::beneath(&error).map_or(Self::Unreachable(error), Self::Tls)
    }

    /// The call, or the stream, ended with a status. One that the connection made up has its cause in it: an exporter with
    /// TLS says in HTTP/2 that plain text is not secure enough.
    pub(super) fn of_status(status: Status) -> Self {
        let is_made_up = status.source().is_some();
        if is_made_up && status.code() == Code::PermissionDenied {
            Self::TlsWanted
        } else {
            Self::Refused(status)
        }
    }

    /// The value of the metric's label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::TooSlow => "unreachable",
            Self::Authorities(_) => "no_authority",
            Self::Token(_) => "no_token",
            Self::Tls(Fault::Untrusted) => "untrusted",
            Self::Tls(Fault::Expired { .. } | Fault::Early { .. }) => "expired",
            Self::Tls(Fault::Name { .. }) => "other_name",
            Self::Tls(Fault::NotTls) => "plain_text",
            Self::Tls(Fault::ClientCertificate { .. } | Fault::Other { .. }) => "tls",
            Self::TlsWanted => "tls_wanted",
            Self::Refused(status) => match status.code() {
                Code::Unauthenticated => "unauthenticated",
                Code::PermissionDenied => "forbidden",
                Code::FailedPrecondition => "superseded",
                Code::Unavailable => "unavailable",
                _ => "refused",
            },
            Self::Closed | Self::Silent => "gone",
            Self::Wire(_) | Self::Ack(_) | Self::NotWelcome => "not_understood",
            Self::Redirected => "redirected",
        }
    }

    /// What an operator can do about it; `None` where waiting may help, or the words say it.
    pub(super) fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Authorities(_) => {
                "it is read again: see that the exporter's CA is mounted at --tls-ca-file; a Secret of cert-manager has a \
                 ca.crt only where its issuer gives one"
            }
            Self::Token(_) => "mount a service account's token at --token-file, with the exporter's audience",
            Self::Tls(Fault::Untrusted) => {
                "see that --tls-ca-file has the CA that signed the exporter's certificate; one that was made anew takes \
                 a minute to come"
            }
            Self::Tls(Fault::Expired { .. } | Fault::Early { .. }) => {
                "renew the exporter's certificate; if it is new, check the clocks of both nodes"
            }
            Self::Tls(Fault::Name { .. }) => {
                "set --tls-server-name to a name of the certificate, or have the certificate issued for this one"
            }
            Self::Tls(Fault::NotTls) => {
                "give the exporter a certificate (--tls-cert-file or --tls-managed-secret), or drop --tls-ca-file"
            }
            Self::TlsWanted => "set --tls-ca-file to the exporter's CA",
            Self::Refused(status) => match status.code() {
                Code::Unauthenticated => {
                    "see that --token-file is a token of this pod's service account, bound to the pod, with the \
                     exporter's --token-audience"
                }
                Code::PermissionDenied => {
                    "see that this pod's service account is the exporter's --collector-service-account, and that \
                     --node-name is the node that the pod runs on"
                }
                Code::FailedPrecondition => {
                    "stop the other collector of this node; if there is none, empty --state-dir"
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use egressd_flow::{Epoch, Sequence};
    use egressd_service::lifecycle::chain;

    use super::*;

    /// Goal: what the log says of an exporter that breaks the contract names the fault.
    #[test]
    fn a_fault_of_the_exporter_is_named() {
        let (epoch, taken) = (Epoch(7), Sequence(99));
        for (hangup, words) in [
            (
                Hangup::Refused(Status::internal("failed to decode Protobuf message: invalid varint")),
                "the exporter refuses the stream: failed to decode Protobuf message: invalid varint",
            ),
            (Hangup::NotWelcome, "it speaks before Welcome"),
            (Hangup::Silent, "silent for 60s"),
            (Hangup::TooSlow, "no answer within 5s"),
            (
                WireError::Missing { field: "welcome.spool_id" }.into(),
                "the message cannot be: welcome.spool_id is missing",
            ),
            (
                AckError::NeverCut { epoch, taken, newest: Sequence(2) }.into(),
                "the acknowledgement cannot be: epoch 0000000000000007: 99 is acknowledged, 2 is the newest there is",
            ),
            (
                AckError::DeliveredBeforeTaken { epoch, taken: Sequence(1), delivered: Sequence(2) }.into(),
                "the acknowledgement cannot be: epoch 0000000000000007: 2 is delivered, but only 1 is taken",
            ),
        ] {
            assert_eq!(chain(&hangup), words);
        }
    }
}
