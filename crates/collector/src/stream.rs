//! The flags of the stream to the exporter: whom to dial, whom to trust, and by what to be known.

use std::path::PathBuf;

use clap::Args;
use egressd_delivery::dial::{ExporterAddress, Security, reach};
use egressd_service::bearer;
use egressd_service::lifecycle::chain;
use egressd_service::tls::{parse_server_name, read_authorities};

/// Said at each start without TLS, and by `check`.
pub(crate) const PLAIN_TEXT: &str = "the stream to the exporter is plain text: whoever is on the way may read every flow \
    and answer in the exporter's place; set --tls-ca-file";

/// The Service of the chart's release of that name, in its own namespace.
const DEFAULT_ADDRESS: &str = "egressd-exporter:6062";

#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// The exporter's gRPC address.
    #[arg(long, env = "EXPORTER_ADDRESS", default_value = DEFAULT_ADDRESS)]
    pub(crate) exporter_address: ExporterAddress,

    /// TLS to the exporter, trusting the authorities in this file, in PEM, and no others. It is waited for where it is not
    /// there yet, and read again at each dial. Without it the stream is plain text.
    #[arg(long)]
    tls_ca_file: Option<PathBuf>,

    /// The name or the address that the exporter's certificate must be for, wherever the stream is sent on to; the host of
    /// --exporter-address when it is not given.
    #[arg(long, value_parser = parse_server_name, requires = "tls_ca_file")]
    tls_server_name: Option<String>,

    /// A token of this pod's service account, bound to the pod, for the exporter's --token-audience, by which the exporter
    /// knows this node; read again at each dial. It goes over TLS alone.
    #[arg(long, requires = "tls_ca_file")]
    token_file: Option<PathBuf>,
}

impl StreamOptions {
    /// How the stream is kept from others.
    pub(crate) fn security(&self) -> Security {
        match &self.tls_ca_file {
            None => Security::Plain,
            Some(ca_file) => Security::Tls {
                ca_file: ca_file.clone(),
                server_name: self.server_name(),
                token_file: self.token_file.clone(),
            },
        }
    }

    fn server_name(&self) -> String {
        self.tls_server_name.clone().unwrap_or_else(|| self.exporter_address.host().to_owned())
    }

    /// What keeps a stream from being opened now, in words: files that are of no use, else an exporter that cannot be
    /// reached or trusted. One that nothing speaks of is not dialled. Whether it takes the token only a stream tells, and
    /// that would end this node's own.
    pub(crate) fn faults(&self) -> Vec<String> {
        let faults = self.files();
        let is_named = self.tls_ca_file.is_some() || self.exporter_address.to_string() != DEFAULT_ADDRESS;
        if is_named && faults.is_empty() { self.dial().err().into_iter().collect() } else { faults }
    }

    fn dial(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(reach(&self.exporter_address, &self.security())).map_err(|error| {
            let advice = error.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
            format!("{}: {}{advice}", self.exporter_address, chain(&error))
        })
    }

    fn files(&self) -> Vec<String> {
        let authorities = self.tls_ca_file.iter().filter_map(|path| read_authorities(path).err());
        let authorities =
            authorities.map(|error| format!("{}: --tls-ca-file is the exporter's CA", chain(&error)));
        let token = self.token_file.iter().filter_map(|path| bearer::header(path).err());
        let token = token.map(|error| {
            format!("{}: --token-file is a projected token of this pod's service account", chain(&error))
        });
        authorities.chain(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        stream: StreamOptions,
    }

    fn security(flags: &str) -> Result<Security, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(flags.split_whitespace()));
        line.map(|line| line.stream.security()).map_err(|error| error.to_string())
    }

    /// Goal: the certificate must be for the host that is dialled unless another name is given, and a token never goes over
    /// plain text.
    #[test]
    fn a_token_goes_over_tls_alone() {
        let tls = |server_name: &str, token_file: Option<&str>| {
            let token_file = token_file.map(PathBuf::from);
            Ok(Security::Tls { ca_file: "ca".into(), server_name: server_name.to_owned(), token_file })
        };
        for (flags, expected) in [
            ("", Ok(Security::Plain)),
            ("--tls-ca-file ca", tls("egressd-exporter", None)),
            ("--tls-ca-file ca --exporter-address [fd00::1]:1", tls("fd00::1", None)),
            ("--tls-ca-file ca --token-file t --tls-server-name e.ns.svc", tls("e.ns.svc", Some("t"))),
        ] {
            assert_eq!(security(flags), expected, "{flags}");
        }
        for (flags, words) in [
            ("--token-file t", "--tls-ca-file <TLS_CA_FILE>"),
            ("--tls-server-name e", "--tls-ca-file <TLS_CA_FILE>"),
            ("--tls-ca-file ca --tls-server-name a/b", "neither a host's name nor an address"),
        ] {
            let refused = security(flags).unwrap_err();
            assert!(refused.contains(words), "{flags}: {refused}");
        }
    }
}
