//! The flags of who may speak to this exporter, made into what can be.
//!
//! Invariant: what cannot be is refused with all that is wrong.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use egressd_service::tls::{Files, parse_server_name};

use super::managed::Managed;
use crate::surroundings::{Surroundings, given, own_namespace};

/// Said at each start without TLS.
pub(crate) const PLAIN_TEXT: &str = "the streams are plain text: whoever reaches the port may read every flow, and speak \
    for any node; set --tls-cert-file and --tls-key-file, or --tls-managed-secret and --tls-managed-config-map";

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
    /// Where the certificate comes from, by the flags.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn certification(
        &self,
        has_inventory: bool,
        around: &impl Surroundings,
    ) -> Result<Certification, Refused> {
        let files = (&self.tls_cert_file, &self.tls_key_file);
        let secret = given(self.tls_managed_secret.clone());
        let managed = (secret, given(self.tls_managed_config_map.clone()));
        let (some_files, is_managed) = (files != (&None, &None), managed.0.is_some() || managed.1.is_some());
        let namespace = given(around.variable("POD_NAMESPACE")).or_else(|| own_namespace(around));
        let problems: Vec<Problem> = [
            (some_files && (files.0.is_none() || files.1.is_none()), Problem::HalfFiles),
            (is_managed && (managed.0.is_none() || managed.1.is_none()), Problem::HalfManaged),
            (some_files && is_managed, Problem::Both),
            (!is_managed && !self.tls_dns_name.is_empty(), Problem::NamesOfFiles),
            (is_managed && has_inventory, Problem::Inventory),
            (is_managed && namespace.is_none(), Problem::NoNamespace),
        ]
        .into_iter()
        .filter_map(|(is_wrong, problem)| is_wrong.then_some(problem))
        .collect();
        if !problems.is_empty() {
            return Err(Refused(problems));
        }
        Ok(match (files, managed, namespace) {
            ((Some(cert), Some(key)), _, _) => {
                Certification::Files(Files { cert: cert.clone(), key: key.clone() })
            }
            (_, (Some(secret), Some(config_map)), Some(namespace)) => {
                let names = self.names(&namespace);
                Certification::Managed(Managed { namespace, secret, config_map, names })
            }
            _ => Certification::Plain,
        })
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

    fn certification(
        flags: &str,
        has_inventory: bool,
        namespace: Option<&'static str>,
    ) -> Result<Certification, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(flags.split_whitespace())).unwrap();
        line.security.certification(has_inventory, &Pod(namespace)).map_err(|refused| refused.to_string())
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
            assert_eq!(certification(flags, false, Some("ns")), Ok(expected), "{flags}");
        }
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
                "--tls-dns-name e",
                "--tls-dns-name goes with --tls-managed-secret: the names of a certificate in a file are its own",
            ),
        ] {
            assert_eq!(certification(flags, true, None), Err(words.to_owned()), "{flags}");
        }
        let wrong = Line::try_parse_from(["x", "--tls-dns-name", "not a name"]).unwrap_err().to_string();
        assert!(wrong.contains("neither a host's name nor an address"), "{wrong}");
    }
}
