//! The configuration's keys of a sink, with what each means: for whoever looks for unknown ones or prints a reference.

/// A key of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What holds when it is absent; empty when it is required.
    pub default: &'static str,
    /// What it means, in a sentence or two.
    pub meaning: &'static str,
}

/// The kinds of sink; each sink has one.
pub const SINK_KEYS: &[Key] = &[
    Key {
        name: "http",
        default: "none",
        meaning: "CAST AI's cost API: growth since the last accepted push.",
    },
    Key {
        name: "prom_remote_write",
        default: "none",
        meaning: "A receiver of Prometheus remote write: running totals.",
    },
];

const HEADERS: Key = Key {
    name: "headers",
    default: "none",
    meaning: "Names and values. Variables are expanded in the values.",
};
const TIMEOUT: Key =
    Key { name: "timeout", default: "30s", meaning: "Of one attempt, from connect to answer." };
const BASIC_AUTH: Key = Key {
    name: "basicAuth",
    default: "none",
    meaning: "A user name and a password. One of this, `bearerToken`, `bearerTokenFile` and a header `Authorization`.",
};
const BEARER_TOKEN: Key =
    Key { name: "bearerToken", default: "none", meaning: "Sent as `Bearer`. Variables are expanded." };
const BEARER_TOKEN_FILE: Key = Key {
    name: "bearerTokenFile",
    default: "none",
    meaning: "A file that holds the token, read before each attempt.",
};
const TLS: Key = Key {
    name: "tls",
    default: "the system's store, no client certificate",
    meaning: "Whom to trust and what to show, with an `https` URL.",
};

const CONCURRENT_REQUESTS: Key = Key {
    name: "concurrentRequests",
    default: "4",
    meaning: "Requests under way at once at most, 1 to 32, each of other flows. After a failure there is one, until it is \
              accepted.",
};

/// The keys of `basicAuth`, in each kind of sink.
pub const BASIC_AUTH_KEYS: &[Key] = &[
    Key { name: "username", default: "", meaning: "Without a colon. Variables are expanded." },
    Key { name: "password", default: "none", meaning: "Variables are expanded. Required, this or the file." },
    Key {
        name: "passwordFile",
        default: "none",
        meaning: "A file that holds the password, read before each attempt.",
    },
];

/// The keys of `tls`, in each kind of sink.
pub const TLS_KEYS: &[Key] = &[
    Key {
        name: "caFile",
        default: "the system's store",
        meaning: "Certificates, in PEM, of the authorities to trust, and no others. Read before each attempt.",
    },
    Key {
        name: "certFile",
        default: "none",
        meaning: "A client certificate with those between it and its authority, in PEM. Read before each attempt.",
    },
    Key {
        name: "keyFile",
        default: "none",
        meaning: "The client certificate's key, in PEM, not encrypted. Read before each attempt.",
    },
];

/// The keys of `http`.
pub const HTTP_KEYS: &[Key] = &[
    Key { name: "url", default: "", meaning: "Where to push. Variables are expanded." },
    Key { name: "method", default: "POST", meaning: "The HTTP method." },
    Key { name: "compression", default: "none", meaning: "`gzip`, or none." },
    Key { name: "encoding", default: "protobuf", meaning: "The only one is `protobuf`." },
    TIMEOUT,
    HEADERS,
    BASIC_AUTH,
    BEARER_TOKEN,
    BEARER_TOKEN_FILE,
    TLS,
    CONCURRENT_REQUESTS,
];

/// The keys of `prom_remote_write`.
pub const REMOTE_WRITE_KEYS: &[Key] = &[
    Key { name: "url", default: "", meaning: "Where to push. Variables are expanded." },
    TIMEOUT,
    HEADERS,
    BASIC_AUTH,
    BEARER_TOKEN,
    BEARER_TOKEN_FILE,
    TLS,
    CONCURRENT_REQUESTS,
    Key {
        name: "labels",
        default: "none",
        meaning: "Added to every series. A name that the series have already is refused.",
    },
    Key {
        name: "sendReceivedBytesMetric",
        default: "false",
        meaning: "Write `egressd_received_bytes_total` too.",
    },
    Key {
        name: "protocol",
        default: "v1",
        meaning: "Remote write `v1` or `v2` (2.0-rc.4). A receiver that does not understand v2 is told the same by v1, and \
                  by that from then on.",
    },
    Key {
        name: "temporality",
        default: "cumulative",
        meaning: "`cumulative`: running totals. `delta`: growth since the last accepted push under the same names, as the \
                  original wrote it; `rate()` and `increase()` of that mean nothing. With v1 only.",
    },
];
