//! A sink's settings, as the configuration file has them and validated.
//!
//! Keys, defaults and the expansion of variables are those of the tool that this one replaces (`castai/egressd`),
//! but for what it gets wrong: here an absent method is POST, an absent encoding is protobuf, both kinds under one
//! sink are an error, and variables are expanded for both kinds.
//! Invariant: a [`SinkConfig`] can be pushed with; nothing in it prints a secret.

mod access;
mod problem;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use egressd_service::duration::parse_go_duration;
use reqwest::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::{Deserialize, Deserializer};

use crate::client::BODY_BYTES_MAX;
use crate::http;
use crate::labels::Label;
use crate::lanes::{LANES, LANES_MAX};
use crate::remote_write::{self, NAME_LABEL};
use crate::scrape;
use crate::secret::Secret;
use access::RawAccess;
pub use access::{Access, AccessProblem, Authentication, ClientFiles, Credential, RawBasicAuth, RawTls, Tls};
pub use problem::{Problem, SinkError, Warning};

/// Prometheus' usual scrape interval, which dashboards' `rate(…[1m])` expects.
const REMOTE_WRITE_INTERVAL: Duration = Duration::from_secs(15);

/// What the cost API has been sent at so far.
const HTTP_INTERVAL: Duration = Duration::from_secs(60);

/// One attempt from connect to answer; Prometheus' own default for remote write and the cost API's documented one.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A sink as the configuration file has it. Exactly one kind must be there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RawSink {
    /// The cost API.
    pub http: Option<RawHttp>,
    /// A receiver of Prometheus remote write.
    pub prom_remote_write: Option<RawRemoteWrite>,
}

/// `http` as the configuration file has it.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawHttp {
    /// Required. Variables are expanded.
    pub url: String,
    /// POST when absent.
    pub method: Option<String>,
    /// `gzip` or `none`; absent or empty is none, and so is everything else, with a warning.
    pub compression: Option<String>,
    /// `protobuf`, also when absent.
    pub encoding: Option<String>,
    /// A Go duration; 30s when absent.
    pub timeout: Option<String>,
    /// Variables are expanded in the values.
    #[serde(deserialize_with = "null_is_empty")]
    pub headers: BTreeMap<String, String>,
    /// In place of a bearer token.
    pub basic_auth: Option<RawBasicAuth>,
    /// Variables are expanded.
    pub bearer_token: Option<Secret<String>>,
    /// A file whose text, without white space around it, is the token.
    pub bearer_token_file: Option<PathBuf>,
    /// Of an `https` URL.
    pub tls: Option<RawTls>,
    /// Requests under way at most; 4 when absent.
    pub concurrent_requests: Option<u64>,
}

/// `prom_remote_write` as the configuration file has it.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawRemoteWrite {
    /// Required. Variables are expanded.
    pub url: String,
    /// A Go duration; 30s when absent.
    pub timeout: Option<String>,
    /// Variables are expanded in the values.
    #[serde(deserialize_with = "null_is_empty")]
    pub headers: BTreeMap<String, String>,
    /// In place of a bearer token.
    pub basic_auth: Option<RawBasicAuth>,
    /// Variables are expanded.
    pub bearer_token: Option<Secret<String>>,
    /// A file whose text, without white space around it, is the token.
    pub bearer_token_file: Option<PathBuf>,
    /// Of an `https` URL.
    pub tls: Option<RawTls>,
    /// Added to every series, as they stand.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether received bytes are written too.
    pub send_received_bytes_metric: bool,
    /// `v1` or `v2`; v1 when absent.
    pub protocol: Option<String>,
    /// `cumulative` or `delta`; cumulative when absent.
    pub temporality: Option<String>,
    /// Requests under way at most; 4 when absent.
    pub concurrent_requests: Option<u64>,
}

/// `headers:` with nothing under it is a null, which templates leave behind.
fn null_is_empty<'de, D: Deserializer<'de>>(value: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Header values and the URL may hold a key in plain text.
impl fmt::Debug for RawHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawHttp")
            .field("method", &self.method)
            .field("compression", &self.compression)
            .field("encoding", &self.encoding)
            .field("timeout", &self.timeout)
            .field("headers", &self.headers.keys())
            .field("basic_auth", &self.basic_auth)
            .field("bearer_token_file", &self.bearer_token_file)
            .field("tls", &self.tls)
            .field("concurrent_requests", &self.concurrent_requests)
            .finish_non_exhaustive()
    }
}

/// Header values and the URL may hold a key in plain text.
impl fmt::Debug for RawRemoteWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRemoteWrite")
            .field("timeout", &self.timeout)
            .field("headers", &self.headers.keys())
            .field("basic_auth", &self.basic_auth)
            .field("bearer_token_file", &self.bearer_token_file)
            .field("tls", &self.tls)
            .field("labels", &self.labels)
            .field("send_received_bytes_metric", &self.send_received_bytes_metric)
            .field("protocol", &self.protocol)
            .field("temporality", &self.temporality)
            .field("concurrent_requests", &self.concurrent_requests)
            .finish_non_exhaustive()
    }
}

/// One sink, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Its name in the configuration; the label `sink` of its metrics.
    pub name: String,
    /// Between the beginnings of two pushes; not zero.
    pub interval: Duration,
    /// Where to.
    pub kind: Kind,
    /// What works and is probably not meant so; empty when all is well.
    pub warnings: Vec<Warning>,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The cost API.
    Http(HttpSettings),
    /// A receiver of Prometheus remote write.
    RemoteWrite(RemoteWriteSettings),
}

/// The cost API's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// `http` or `https`, with a host; may hold credentials.
    pub url: Secret<Url>,
    /// POST unless configured.
    pub method: Method,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Of one attempt, from connect to answer; not zero.
    pub timeout: Duration,
    /// In place of, or beside, the defaults; values are marked sensitive.
    pub headers: HeaderMap,
    /// How it authenticates, and whom it trusts.
    pub access: Access,
    /// Requests under way at most; not zero.
    pub lanes: usize,
}

/// A remote write receiver's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWriteSettings {
    /// `http` or `https`, with a host; may hold credentials.
    pub url: Secret<Url>,
    /// Of one attempt, from connect to answer; not zero.
    pub timeout: Duration,
    /// Beside those of the protocol; values are marked sensitive.
    pub headers: HeaderMap,
    /// How it authenticates, and whom it trusts.
    pub access: Access,
    /// Added to every series; no name is one of ours.
    pub labels: BTreeMap<String, String>,
    /// Whether received bytes are written too.
    pub send_received_bytes_metric: bool,
    /// How it is spoken to.
    pub version: Version,
    /// What a value is; delta only by [`Version::V1`].
    pub temporality: Temporality,
    /// Requests under way at most; not zero.
    pub lanes: usize,
}

/// A version of remote write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0, which every receiver takes.
    V1,
    /// 2.0, by its release candidate 4; a receiver that does not understand it is spoken to by 1.0 from then on.
    V2,
}

/// What the value of a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// The total since the series began.
    Cumulative,
    /// The growth since the last accepted push, under the same name: what the tool wrote that this one replaces.
    Delta,
}

impl SinkConfig {
    /// Validates a sink. `export_interval` is the file's `exportInterval`, `None` when absent; `variable` looks up
    /// the environment.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(
        name: &str,
        raw: RawSink,
        export_interval: Option<Duration>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SinkError> {
        let mut check = Check { variable, problems: Vec::new(), warnings: Vec::new() };
        if name == scrape::SCRAPE {
            check.problems.push(Problem::NameReserved);
        }
        if export_interval.is_some_and(|interval| interval.is_zero()) {
            check.problems.push(Problem::IntervalZero);
        }
        let config = match (raw.http, raw.prom_remote_write) {
            (Some(http), None) => check.http(http).map(|kind| (kind, HTTP_INTERVAL)),
            (None, Some(write)) => check.remote_write(write).map(|kind| (kind, REMOTE_WRITE_INTERVAL)),
            (None, None) => check.fault(Problem::NoKind),
            (Some(_), Some(_)) => check.fault(Problem::TwoKinds),
        };
        match config {
            Some((kind, interval)) if check.problems.is_empty() => Ok(Self {
                name: name.to_owned(),
                interval: export_interval.unwrap_or(interval),
                kind,
                warnings: check.warnings,
            }),
            _ => Err(SinkError { name: name.to_owned(), problems: check.problems }),
        }
    }

    /// Bytes that its tables, and the requests that may be under way at once, take at worst; names that nobody else knows any
    /// more come on top.
    #[must_use]
    pub fn worst_case_bytes(&self) -> usize {
        // A message, and the body made of it.
        let request = 2 * BODY_BYTES_MAX;
        match &self.kind {
            Kind::Http(settings) => http::table_bytes() + settings.lanes * request,
            Kind::RemoteWrite(settings) => remote_write::table_bytes() + settings.lanes * request,
        }
    }

    /// Where it pushes to, without what may be secret: scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        let url = match &self.kind {
            Kind::Http(settings) => &settings.url,
            Kind::RemoteWrite(settings) => &settings.url,
        };
        url.expose().origin().ascii_serialization()
    }
}

/// Collects what is wrong while it converts.
struct Check<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl Check<'_> {
    fn fault<T>(&mut self, problem: Problem) -> Option<T> {
        self.problems.push(problem);
        None
    }

    fn http(&mut self, raw: RawHttp) -> Option<Kind> {
        let url = self.url(&raw.url);
        let method = self.method(raw.method);
        self.encoding(raw.encoding);
        let timeout = self.timeout(raw.timeout);
        let headers = self.headers(&raw.headers, &[CONTENT_ENCODING]);
        let access = RawAccess {
            basic_auth: raw.basic_auth,
            bearer_token: raw.bearer_token,
            bearer_token_file: raw.bearer_token_file,
            tls: raw.tls,
        };
        let access = self.access(access, &headers, url.as_ref().map(Secret::expose));
        let gzip = self.gzip(raw.compression);
        let lanes = self.lanes(raw.concurrent_requests);
        Some(Kind::Http(HttpSettings {
            url: url?,
            method: method?,
            gzip,
            timeout: timeout?,
            headers,
            access,
            lanes: lanes?,
        }))
    }

    fn remote_write(&mut self, raw: RawRemoteWrite) -> Option<Kind> {
        let url = self.url(&raw.url);
        let timeout = self.timeout(raw.timeout);
        let headers = self.headers(&raw.headers, &remote_write::OWN_HEADERS);
        let access = RawAccess {
            basic_auth: raw.basic_auth,
            bearer_token: raw.bearer_token,
            bearer_token_file: raw.bearer_token_file,
            tls: raw.tls,
        };
        let access = self.access(access, &headers, url.as_ref().map(Secret::expose));
        self.labels(&raw.labels);
        let version = self.version(raw.protocol);
        let temporality = self.temporality(raw.temporality);
        let lanes = self.lanes(raw.concurrent_requests);
        if (version, temporality) == (Some(Version::V2), Some(Temporality::Delta)) {
            return self.fault(Problem::DeltaByV2);
        }
        Some(Kind::RemoteWrite(RemoteWriteSettings {
            url: url?,
            timeout: timeout?,
            headers,
            access,
            labels: raw.labels,
            send_received_bytes_metric: raw.send_received_bytes_metric,
            version: version?,
            temporality: temporality?,
            lanes: lanes?,
        }))
    }

    fn url(&mut self, raw: &str) -> Option<Secret<Url>> {
        let text = expand(raw, self.variable);
        if text.trim().is_empty() {
            return self.fault(Problem::UrlMissing);
        }
        match Url::parse(text.trim()) {
            Err(error) => self.fault(Problem::UrlInvalid { reason: error.to_string() }),
            // The parser refuses an HTTP URL without a host.
            Ok(url) if matches!(url.scheme(), "http" | "https") => Some(Secret::new(url)),
            Ok(url) => self.fault(Problem::UrlScheme { scheme: url.scheme().to_owned() }),
        }
    }

    fn method(&mut self, raw: Option<String>) -> Option<Method> {
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
            return Some(Method::POST);
        };
        match Method::from_bytes(raw.to_ascii_uppercase().as_bytes()) {
            Ok(method) => Some(method),
            Err(_) => self.fault(Problem::Method { method: raw }),
        }
    }

    fn gzip(&mut self, raw: Option<String>) -> bool {
        match raw.as_deref() {
            Some("gzip") => return true,
            None | Some("" | "none") => {}
            Some(other) => self.warnings.push(Warning::Compression { compression: other.to_owned() }),
        }
        false
    }

    fn encoding(&mut self, raw: Option<String>) {
        if let Some(encoding) = raw.filter(|raw| !matches!(raw.as_str(), "" | "protobuf")) {
            self.problems.push(Problem::Encoding { encoding });
        }
    }

    fn timeout(&mut self, raw: Option<String>) -> Option<Duration> {
        let Some(raw) = raw else {
            return Some(TIMEOUT);
        };
        match parse_go_duration(&raw) {
            Err(error) => self.fault(Problem::Timeout(error)),
            Ok(Duration::ZERO) => self.fault(Problem::TimeoutZero),
            Ok(timeout) => Some(timeout),
        }
    }

    fn version(&mut self, raw: Option<String>) -> Option<Version> {
        match raw.as_deref() {
            None | Some("" | "v1") => Some(Version::V1),
            Some("v2") => Some(Version::V2),
            Some(other) => self.fault(Problem::Protocol { protocol: other.to_owned() }),
        }
    }

    fn temporality(&mut self, raw: Option<String>) -> Option<Temporality> {
        match raw.as_deref() {
            None | Some("" | "cumulative") => Some(Temporality::Cumulative),
            Some("delta") => Some(Temporality::Delta),
            Some(other) => self.fault(Problem::Temporality { temporality: other.to_owned() }),
        }
    }

    fn lanes(&mut self, raw: Option<u64>) -> Option<usize> {
        let Some(asked) = raw else { return Some(LANES) };
        match usize::try_from(asked) {
            Ok(lanes) if (1..=LANES_MAX).contains(&lanes) => Some(lanes),
            _ => self.fault(Problem::ConcurrentRequests { asked, most: LANES_MAX }),
        }
    }

    fn headers(&mut self, raw: &BTreeMap<String, String>, own: &[HeaderName]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in raw {
            if let Some((name, value)) = self.header(name, value, own) {
                headers.insert(name, value);
            }
        }
        headers
    }

    fn header(&mut self, raw: &str, value: &str, own: &[HeaderName]) -> Option<(HeaderName, HeaderValue)> {
        let name_given = || raw.to_owned();
        let Ok(name) = HeaderName::from_bytes(raw.as_bytes()) else {
            return self.fault(Problem::HeaderName { name: name_given() });
        };
        // The framing of a request is the client's to say.
        let framing = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];
        if own.contains(&name) || framing.contains(&name) {
            return self.fault(Problem::HeaderReserved { name: name_given() });
        }
        let Ok(mut value) = HeaderValue::from_str(&expand(value, self.variable)) else {
            return self.fault(Problem::HeaderValue { name: name_given() });
        };
        value.set_sensitive(true);
        Some((name, value))
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) {
        for name in labels.keys() {
            if !is_label_name(name) {
                self.problems.push(Problem::LabelName { name: name.clone() });
            } else if is_reserved(name) {
                self.problems.push(Problem::LabelReserved { name: name.clone() });
            }
        }
    }
}

fn is_label_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}

/// Prometheus keeps names with two leading underscores for itself.
fn is_reserved(name: &str) -> bool {
    name == NAME_LABEL || name.starts_with("__") || Label::ALL.into_iter().any(|label| label.name() == name)
}

/// Expands `$NAME` and `${NAME}` as Go's `os.Expand` does; a variable that is not set becomes empty.
///
/// A `$` that no name follows stays. `${` that is never closed and `${}` are left out, as there.
#[must_use]
pub fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from_dollar) = rest.split_at(at);
        expanded.push_str(before);
        let after = from_dollar.strip_prefix('$').unwrap_or_default();
        let (name, tail) = shell_name(after);
        match name {
            Some(name) => expanded.push_str(&variable(name).unwrap_or_default()),
            None if tail.len() == after.len() => expanded.push('$'),
            None => {}
        }
        rest = tail;
    }
    expanded.push_str(rest);
    expanded
}

/// The name after a `$`, and what follows it; `None` when there is no name, with what follows the broken syntax.
fn shell_name(text: &str) -> (Option<&str>, &str) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some(("", tail)) => (None, tail),
            Some((name, tail)) => (Some(name), tail),
            None => (None, braced),
        };
    }
    let is_name = |next: char| next.is_ascii_alphanumeric() || next == '_';
    let end = match text.chars().next() {
        // The shell's special parameters have one character.
        Some('*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9') => 1,
        _ => text.find(|next| !is_name(next)).unwrap_or(text.len()),
    };
    let (name, tail) = text.split_at(end);
    ((!name.is_empty()).then_some(name), tail)
}

#[cfg(test)]
mod tests;
