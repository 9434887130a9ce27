//! What can be wrong with a sink's settings, in words for the operator.
//!
//! Invariant: a value that may be secret is not repeated.

use egressd_service::duration::DurationError;

use super::access::AccessProblem;

/// A sink that cannot be used as configured: everything that the operator must correct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sink {name:?}: {}", list(.problems))]
pub struct SinkError {
    /// Its name in the configuration.
    pub name: String,
    /// In the order of the keys, at least one.
    pub problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// One thing that the operator must correct. Values that may be secret are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A name that the exporter's own page has in the metrics.
    #[error("is the name of the page /metrics/flows, choose another")]
    NameReserved,
    /// A sink without a destination.
    #[error("has no kind, write http or prom_remote_write")]
    NoKind,
    /// A sink with two.
    #[error("has two kinds, http and prom_remote_write: make two sinks of it")]
    TwoKinds,
    /// `url` is absent, or empty after expansion.
    #[error("url is missing or empty")]
    UrlMissing,
    /// `url` is not one.
    #[error("url is not valid: {reason}")]
    UrlInvalid {
        /// The parser's words, which do not repeat the value.
        reason: String,
    },
    /// `url` is none of HTTP.
    #[error("url has the scheme {scheme:?}, only http and https can be pushed to")]
    UrlScheme {
        /// As given.
        scheme: String,
    },
    /// `method` is not one.
    #[error("method {method:?} is not an HTTP method")]
    Method {
        /// As given.
        method: String,
    },
    /// `encoding` is not the one there is.
    #[error("encoding {encoding:?} is not known, the only one is protobuf")]
    Encoding {
        /// As given.
        encoding: String,
    },
    /// `timeout` is not a duration.
    #[error("timeout: {0}")]
    Timeout(DurationError),
    /// `timeout` leaves no time.
    #[error("timeout is zero")]
    TimeoutZero,
    /// `exportInterval` leaves no time.
    #[error("the export interval is zero")]
    IntervalZero,
    /// A header's name is none.
    #[error("header {name:?} is not a valid name")]
    HeaderName {
        /// As given.
        name: String,
    },
    /// A header's value cannot be sent.
    #[error("the value of header {name:?} cannot be sent, it holds control characters")]
    HeaderValue {
        /// As given.
        name: String,
    },
    /// A header that the protocol sets.
    #[error("header {name:?} is set by the protocol and cannot be configured")]
    HeaderReserved {
        /// As given.
        name: String,
    },
    /// Its authentication or its TLS.
    #[error(transparent)]
    Access(#[from] AccessProblem),
    /// `protocol` is not one that there is.
    #[error("protocol {protocol:?} is not known, write v1 or v2")]
    Protocol {
        /// As given.
        protocol: String,
    },
    /// `temporality` is not one that there is.
    #[error("temporality {temporality:?} is not known, write cumulative or delta")]
    Temporality {
        /// As given.
        temporality: String,
    },
    /// `concurrentRequests` is none, or more than a sink may make.
    #[error("concurrentRequests is {asked}, write a number from 1 to {most}")]
    ConcurrentRequests {
        /// As given.
        asked: u64,
        /// The bound.
        most: usize,
    },
    /// A counter of remote write 2.0 is a total, by its metadata.
    #[error("temporality delta goes with protocol v1 only")]
    DeltaByV2,
    /// A label's name is none.
    #[error("label {name:?} is not a valid name, it must match [a-zA-Z_][a-zA-Z0-9_]*")]
    LabelName {
        /// As given.
        name: String,
    },
    /// A label that every series has, or that begins with two underscores.
    #[error("label {name:?} is one of the built-in names")]
    LabelReserved {
        /// As given.
        name: String,
    },
}

/// A setting that is understood otherwise than it reads. A sink with one can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// `compression` is not one that there is, and then means none, as it does to the tool that this one replaces.
    #[error("compression {compression:?} is not known and means none; write gzip, or none")]
    Compression {
        /// As given.
        compression: String,
    },
    /// `tls` beside a URL that has none.
    #[error("tls means nothing with an http url; write https")]
    TlsUnused,
}
