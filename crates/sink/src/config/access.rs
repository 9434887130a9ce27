//! How a sink says who it is and whom it trusts: `basicAuth`, `bearerToken`, `bearerTokenFile` and `tls`.
//!
//! The keys are those of Prometheus' clients (`basic_auth`, `tls_config` …), spelt as this file spells its own.
//! Invariant: an [`Access`] authenticates in one way at most, and nothing in it prints a secret.

use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::{Check, Warning, expand};
use crate::secret::Secret;

/// `basicAuth` as the configuration file has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawBasicAuth {
    /// Required. Variables are expanded.
    pub username: Option<String>,
    /// Variables are expanded. Either this or the file is required.
    pub password: Option<Secret<String>>,
    /// A file whose text, without white space around it, is the password.
    pub password_file: Option<PathBuf>,
}

/// `tls` as the configuration file has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawTls {
    /// PEM.
    pub ca_file: Option<PathBuf>,
    /// PEM.
    pub cert_file: Option<PathBuf>,
    /// PEM.
    pub key_file: Option<PathBuf>,
}

/// The keys of a sink that this module reads, of either kind.
#[derive(Debug)]
pub(super) struct RawAccess {
    pub(super) basic_auth: Option<RawBasicAuth>,
    pub(super) bearer_token: Option<Secret<String>>,
    pub(super) bearer_token_file: Option<PathBuf>,
    pub(super) tls: Option<RawTls>,
}

/// How a sink authenticates, and whom it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: by a header of the configuration, by the URL, or not at all.
    pub authentication: Option<Authentication>,
    /// Of an `https` URL; means nothing for another.
    pub tls: Tls,
}

impl Access {
    /// The user name of `basicAuth`.
    pub(crate) fn user(&self) -> Option<&str> {
        match &self.authentication {
            Some(Authentication::Basic { username, .. }) => Some(username),
            Some(Authentication::Bearer(_)) | None => None,
        }
    }
}

/// What goes into the header `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// RFC 7617.
    Basic {
        /// Not empty, without a colon.
        username: String,
        /// The password.
        password: Credential,
    },
    /// RFC 6750.
    Bearer(Credential),
}

/// A secret, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Not empty.
    Value(Secret<String>),
    /// Read before each attempt: what is in it rotates.
    File {
        /// The key that names it, for messages.
        key: &'static str,
        /// As configured.
        path: PathBuf,
    },
}

/// Files in PEM, read before each attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that are trusted, in place of the system's; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// What this side shows; `None`: nothing.
    pub client: Option<ClientFiles>,
}

/// A client certificate's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, then those between it and its authority.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// What is wrong with a sink's access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessProblem {
    /// Two keys say the same thing.
    #[error("{one} and {other} exclude each other: keep one")]
    TwoWays {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A key that is needed is absent, or empty after expansion.
    #[error("{key} is missing or empty")]
    Missing {
        /// With the keys above it.
        key: &'static str,
    },
    /// A user name with a colon, where it would end.
    #[error("basicAuth.username holds a colon, which would end it")]
    Colon,
    /// A value that no header can hold.
    #[error("{key} cannot be sent, it holds control characters")]
    Unsendable {
        /// With the keys above it.
        key: &'static str,
    },
}

const PASSWORD: &str = "basicAuth.password";
const PASSWORD_FILE: &str = "basicAuth.passwordFile";
const TOKEN: &str = "bearerToken";
const TOKEN_FILE: &str = "bearerTokenFile";

impl Check<'_> {
    /// Where something is wrong it is among the problems, and what is returned is not for use.
    pub(super) fn access(&mut self, raw: RawAccess, headers: &HeaderMap, url: Option<&Url>) -> Access {
        let ways = [
            ("basicAuth", raw.basic_auth.is_some()),
            (TOKEN, is_set(raw.bearer_token.as_ref())),
            (TOKEN_FILE, given(raw.bearer_token_file.clone()).is_some()),
        ];
        let others = [
            ("the header Authorization", headers.contains_key(AUTHORIZATION)),
            (
                "the user in url",
                url.is_some_and(|url| !url.username().is_empty() || url.password().is_some()),
            ),
        ];
        self.one_of(&ways, &others);
        let authentication = match raw.basic_auth {
            Some(basic) => self.basic(basic),
            None => self.bearer(raw.bearer_token, raw.bearer_token_file),
        };
        Access { authentication, tls: self.tls(raw.tls.unwrap_or_default(), url) }
    }

    /// One of `ways` at most, and `others` only without any.
    fn one_of(&mut self, ways: &[(&'static str, bool)], others: &[(&'static str, bool)]) {
        let there = |ways: &[(&'static str, bool)]| -> Vec<&'static str> {
            ways.iter().filter(|(_, is_there)| *is_there).map(|(way, _)| *way).collect()
        };
        if let [one, rest @ ..] = there(ways).as_slice() {
            let excluded = rest.iter().copied().chain(there(others));
            self.problems.extend(excluded.map(|other| AccessProblem::TwoWays { one, other }.into()));
        }
    }

    fn basic(&mut self, raw: RawBasicAuth) -> Option<Authentication> {
        let username = expand(raw.username.as_deref().unwrap_or_default(), self.variable);
        if username.is_empty() {
            self.problems.push(AccessProblem::Missing { key: "basicAuth.username" }.into());
        } else if username.contains(':') {
            self.problems.push(AccessProblem::Colon.into());
        }
        let ways = [
            (PASSWORD, is_set(raw.password.as_ref())),
            (PASSWORD_FILE, given(raw.password_file.clone()).is_some()),
        ];
        if ways.iter().all(|(_, is_there)| !is_there) {
            return self.fault(AccessProblem::Missing { key: PASSWORD }.into());
        }
        self.one_of(&ways, &[]);
        let password = self.credential((PASSWORD, raw.password), (PASSWORD_FILE, raw.password_file))?;
        Some(Authentication::Basic { username, password })
    }

    fn bearer(&mut self, token: Option<Secret<String>>, file: Option<PathBuf>) -> Option<Authentication> {
        let token = self.credential((TOKEN, token), (TOKEN_FILE, file))?;
        match &token {
            Credential::Value(value) if HeaderValue::from_str(value.expose()).is_err() => {
                self.fault(AccessProblem::Unsendable { key: TOKEN }.into())
            }
            _ => Some(Authentication::Bearer(token)),
        }
    }

    /// `None` where neither is given, and where the value expands to nothing.
    fn credential(
        &mut self,
        (key, value): (&'static str, Option<Secret<String>>),
        (file_key, file): (&'static str, Option<PathBuf>),
    ) -> Option<Credential> {
        let Some(value) = value.filter(|value| is_set(Some(value))) else {
            return given(file).map(|path| Credential::File { key: file_key, path });
        };
        let value = expand(value.expose(), self.variable);
        if value.is_empty() {
            return self.fault(AccessProblem::Missing { key }.into());
        }
        Some(Credential::Value(Secret::new(value)))
    }

    fn tls(&mut self, raw: RawTls, url: Option<&Url>) -> Tls {
        let client = match (given(raw.cert_file), given(raw.key_file)) {
            (Some(cert_file), Some(key_file)) => Some(ClientFiles { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => self.fault(AccessProblem::Missing { key: "tls.keyFile" }.into()),
            (None, Some(_)) => self.fault(AccessProblem::Missing { key: "tls.certFile" }.into()),
        };
        let tls = Tls { ca_file: given(raw.ca_file), client };
        if tls != Tls::default() && url.is_some_and(|url| url.scheme() == "http") {
            self.warnings.push(Warning::TlsUnused);
        }
        tls
    }
}

/// A key that is written with nothing behind it is absent: templates leave such behind.
fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn is_set(value: Option<&Secret<String>>) -> bool {
    value.is_some_and(|value| !value.expose().is_empty())
}
