//! The flags of who may speak to this exporter, made into what can be.
//!
//! Invariant: what cannot be is refused with all that is wrong.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use egressd_service::tls::{Files, parse_server_name};
use tracing::warn;

use super::managed::Managed;
use crate::surroundings::{Surroundings, given, own_namespace};
use crate::tokens::{AccountError, Expected};

/// Said at each start without TLS.
const PLAIN_TEXT: &str = "the streams are plain text: whoever reaches the port may read every flow, and speak \
    for any node; set --tls-cert-file and --tls-key-file, or --tls-managed-secret and --tls-managed-config-map";

/// Said at each start with TLS and without tokens.
const ANYBODY: &str = "no token is asked of collectors: whoever reaches the port may speak for any node; set \
    --collector-service-account";

/// The name under which collectors ask for an exporter by default.
const DEFAULT_NAME: &str = "egressd-exporter";

#[derive(Debug, Args)]
pub(crate) struct SecurityOptions {
    /// The server's certificate, then those between it and its authority, in PEM: TLS for the collectors' streams, and for
    /// the flow subscription where that is off loopback. Looked at every 10 seconds; a changed one is shown to whoever
    /// connects next.
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,

    /// The certificate's key, in PEM, not encrypted.
    #[arg(long)]
    tls_key_file: Option<PathBuf>,

    /// In place of the files: a Secret of the exporter's own namespace, in which the first exporter to start keeps an
    /// authority of its own (`ca.crt`, `ca.key`; ten years). The certificate that it signs lives for a week, in memory,
    /// and is renewed at two thirds of that. Delete the Secret to have another authority made.
    #[arg(long)]
    tls_managed_secret: Option<String>,

    /// The ConfigMap of the same namespace in which the authority's certificate is published, as `ca.crt`, for collectors.
    #[arg(long)]
    tls_managed_config_map: Option<String>,

    /// A name or an address that collectors reach the exporter by, to be in the certificate; may be repeated. One without
    /// a dot is also valid with the namespace, and with that and `svc`. `egressd-exporter` when none is given.
    #[arg(long, value_parser = parse_server_name)]
    tls_dns_name: Vec<String>,

    /// The collectors' service account, as NAMESPACE/NAME: each stream must show a token of it, bound to a pod, which the
    /// Kubernetes API vouches for (`create` of `tokenreviews`), and speaks for that pod's node alone. Over TLS only. Without
    /// it anybody speaks for any node.
    #[arg(long)]
    collector_service_account: Option<String>,

    /// The audience that those tokens must be for.
    #[arg(long, default_value = "egressd-exporter")]
    token_audience: String,

    /// A file with a token that whoever follows flows, or reads `/metrics/flows`, must show (`Authorization: Bearer`). Looked
    /// at every 10 seconds.
    #[arg(long)]
    pub(crate) readers_token_file: Option<PathBuf>,
}

/// What the flags make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) certification: Certification,
    /// Whose tokens collectors must show; `None`: none.
    pub(crate) tokens: Option<Expected>,
}

impl Security {
    /// Says what the streams lack.
    pub(crate) fn complain(&self) {
        match self {
            Self { certification: Certification::Plain, .. } => warn!("{PLAIN_TEXT}"),
            Self { tokens: None, .. } => warn!("{ANYBODY}"),
            Self { tokens: Some(_), .. } => {}
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Certification {
    Plain,
    Files(Files),
    Managed(Managed),
}

/// Why it cannot be so. The operator must correct it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("--tls-cert-file and --tls-key-file go together")]
    HalfFiles,
    #[error("--tls-managed-secret and --tls-managed-config-map go together")]
    HalfManaged,
    #[error("--tls-managed-secret makes the certificate: it does not go with --tls-cert-file")]
    Both,
    #[error(
        "--tls-dns-name goes with --tls-managed-secret: the names of a certificate in a file are its own"
    )]
    NamesOfFiles,
    #[error("there is no Secret without a Kubernetes API: --tls-managed-secret does not go with --inventory")]
    Inventory,
    #[error("the Secret has no namespace: set POD_NAMESPACE")]
    NoNamespace,
    #[error("--collector-service-account: {0}")]
    Account(#[from] AccountError),
    #[error(
        "--collector-service-account wants tokens, and whoever listens could read them: give the exporter TLS"
    )]
    TokensInPlain,
    #[error(
        "nobody can review tokens without a Kubernetes API: --collector-service-account does not go with --inventory"
    )]
    TokensOfNobody,
}

/// All that is wrong.
#[derive(Debug)]
pub(crate) struct Refused(Vec<Problem>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&problems.join("; "))
    }
}

impl std::error::Error for Refused {}

impl SecurityOptions {
    /// What the flags make.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn security(
        &self,
        has_inventory: bool,
        around: &impl Surroundings,
    ) -> Result<Security, Refused> {
        let mut problems = Vec::new();
        let certification = self.certification(has_inventory, around, &mut problems);
        let tokens = self.tokens(has_inventory, certification == Certification::Plain, &mut problems);
        if problems.is_empty() { Ok(Security { certification, tokens }) } else { Err(Refused(problems)) }
    }

    fn certification(
        &self,
        has_inventory: bool,
        around: &impl Surroundings,
        problems: &mut Vec<Problem>,
    ) -> Certification {
        let (cert, key) = (self.tls_cert_file.clone(), self.tls_key_file.clone());
        let secret = given(self.tls_managed_secret.clone());
        let config_map = given(self.tls_managed_config_map.clone());
        let has_files = cert.is_some() || key.is_some();
        let is_managed = secret.is_some() || config_map.is_some();
        let namespace = given(around.variable("POD_NAMESPACE")).or_else(|| own_namespace(around));
        let wrong = [
            (has_files && (cert.is_none() || key.is_none()), Problem::HalfFiles),
            (is_managed && (secret.is_none() || config_map.is_none()), Problem::HalfManaged),
            (has_files && is_managed, Problem::Both),
            (!is_managed && !self.tls_dns_name.is_empty(), Problem::NamesOfFiles),
            (is_managed && has_inventory, Problem::Inventory),
            (is_managed && namespace.is_none(), Problem::NoNamespace),
        ];
        problems.extend(wrong.into_iter().filter_map(|(is_wrong, problem)| is_wrong.then_some(problem)));
        match (cert, key, secret, config_map, namespace) {
            (Some(cert), Some(key), ..) => Certification::Files(Files { cert, key }),
            (_, _, Some(secret), Some(config_map), Some(namespace)) => {
                let names = self.names(&namespace);
                Certification::Managed(Managed { namespace, secret, config_map, names })
            }
            _ => Certification::Plain,
        }
    }

    fn tokens(&self, has_inventory: bool, is_plain: bool, problems: &mut Vec<Problem>) -> Option<Expected> {
        let account = given(self.collector_service_account.clone())?;
        if is_plain {
            problems.push(Problem::TokensInPlain);
        }
        if has_inventory {
            problems.push(Problem::TokensOfNobody);
        }
        let account = account.parse().map_err(|error: AccountError| problems.push(error.into())).ok()?;
        Some(Expected { account, audience: self.token_audience.clone() })
    }

    fn names(&self, namespace: &str) -> Vec<String> {
        let default = [DEFAULT_NAME.to_owned()];
        let given = if self.tls_dns_name.is_empty() { &default[..] } else { &self.tls_dns_name };
        let mut names: Vec<String> = Vec::new();
        for name in given {
            let is_short = !name.contains(['.', ':']);
            let longer = [format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")];
            names.push(name.clone());
            names.extend(longer.into_iter().filter(|_| is_short));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        security: SecurityOptions,
    }

    struct Pod(Option<&'static str>);

    impl Surroundings for Pod {
        fn variable(&self, name: &str) -> Option<String> {
            assert_eq!(name, "POD_NAMESPACE");
            self.0.map(str::to_owned)
        }

        fn file(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn security(
        flags: &str,
        has_inventory: bool,
        namespace: Option<&'static str>,
    ) -> Result<Security, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(flags.split_whitespace())).unwrap();
        line.security.security(has_inventory, &Pod(namespace)).map_err(|refused| refused.to_string())
    }

    /// Goal: a certificate comes from files, from an authority of our own with the names that collectors use, or there is
    /// none.
    #[test]
    fn a_certificate_comes_from_files_or_an_authority() {
        let files = Files { cert: "c".into(), key: "k".into() };
        let managed = |names: &[&str]| {
            let [namespace, secret, config_map] = ["ns", "s", "m"].map(str::to_owned);
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Certification::Managed(Managed { namespace, secret, config_map, names })
        };
        let by_default = ["egressd-exporter", "egressd-exporter.ns", "egressd-exporter.ns.svc"];
        let both = "--tls-managed-secret s --tls-managed-config-map m";
        for (flags, expected) in [
            ("", Certification::Plain),
            ("--tls-managed-secret= --tls-managed-config-map=", Certification::Plain),
            ("--tls-cert-file c --tls-key-file k", Certification::Files(files)),
            (both, managed(&by_default)),
            (
                &format!("{both} --tls-dns-name e --tls-dns-name e.example --tls-dns-name fd00::1"),
                managed(&["e", "e.ns", "e.ns.svc", "e.example", "fd00::1"]),
            ),
        ] {
            let found = security(flags, false, Some("ns")).map(|security| security.certification);
            assert_eq!(found, Ok(expected), "{flags}");
        }
    }

    /// Goal: tokens are asked for over TLS, of the account and for the audience that are named.
    #[test]
    fn tokens_are_asked_for_over_tls() {
        let files = "--tls-cert-file c --tls-key-file k";
        for (flags, audience) in [("", "egressd-exporter"), ("--token-audience other", "other")] {
            let flags = format!("{files} --collector-service-account ns/collector {flags}");
            let expected =
                Expected { account: "ns/collector".parse().unwrap(), audience: audience.to_owned() };
            assert_eq!(security(&flags, false, None).unwrap().tokens, Some(expected));
        }
        let flags = format!("{files} --collector-service-account=");
        assert_eq!(security(&flags, false, None).unwrap().tokens, None);
    }

    /// Goal: all that cannot be is named at once.
    #[test]
    fn what_cannot_be_is_named_at_once() {
        for (flags, words) in [
            ("--tls-cert-file c", "--tls-cert-file and --tls-key-file go together"),
            (
                "--tls-key-file k --tls-managed-secret s",
                "--tls-cert-file and --tls-key-file go together; --tls-managed-secret and --tls-managed-config-map go \
                 together; --tls-managed-secret makes the certificate: it does not go with --tls-cert-file; there is no \
                 Secret without a Kubernetes API: --tls-managed-secret does not go with --inventory; the Secret has no \
                 namespace: set POD_NAMESPACE",
            ),
            (
                "--collector-service-account a",
                "--collector-service-account wants tokens, and whoever listens could read them: give the exporter TLS; \
                 nobody can review tokens without a Kubernetes API: --collector-service-account does not go with \
                 --inventory; --collector-service-account: \"a\" is not NAMESPACE/NAME",
            ),
            (
                "--tls-dns-name e",
                "--tls-dns-name goes with --tls-managed-secret: the names of a certificate in a file are its own",
            ),
        ] {
            assert_eq!(security(flags, true, None), Err(words.to_owned()), "{flags}");
        }
        let wrong = Line::try_parse_from(["x", "--tls-dns-name", "not a name"]).unwrap_err().to_string();
        assert!(wrong.contains("neither a host's name nor an address"), "{wrong}");
    }
}
