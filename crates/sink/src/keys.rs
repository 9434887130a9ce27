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

/// The keys of `http`.
pub const HTTP_KEYS: &[Key] = &[
    Key { name: "url", default: "", meaning: "Where to push. Variables are expanded." },
    Key { name: "method", default: "POST", meaning: "The HTTP method." },
    Key { name: "compression", default: "none", meaning: "`gzip`, or none." },
    Key { name: "encoding", default: "protobuf", meaning: "The only one is `protobuf`." },
    Key { name: "timeout", default: "30s", meaning: "Of one attempt, from connect to answer." },
    Key {
        name: "headers",
        default: "none",
        meaning: "Names and values. Variables are expanded in the values.",
    },
];

/// The keys of `prom_remote_write`.
pub const REMOTE_WRITE_KEYS: &[Key] = &[
    Key { name: "url", default: "", meaning: "Where to push. Variables are expanded." },
    Key {
        name: "headers",
        default: "none",
        meaning: "Names and values. Variables are expanded in the values.",
    },
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
];
