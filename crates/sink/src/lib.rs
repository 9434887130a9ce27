//! Destinations: attributed batches in, requests to the world out.
//!
//! **Enters**: `Arc<AttributedBatch>`, numbered by [`Position`](egressd_flow::Position) from 1 by 1, through a
//! bounded channel, one a sink.
//! **Leaves**: HTTP requests, and through a watch channel the highest position of which every byte was accepted.
//!
//! Each sink folds what enters by its final key at once and keeps no batch, so a destination that is away costs
//! memory by the number of flows ([`FLOWS_MAX`]) and not by the length of the outage. A sink never waits for
//! another, and takes batches also while it pushes.
//!
//! **Keeps**, where it is given a [`Keep`]: running totals through a position, or the range of deltas that is under
//! way, so that the next life neither loses nor repeats anything ([`Resume`]). A sink of deltas then takes in nothing
//! behind the range under way; it waits where the batches come from.
//!
//! **May be lost**, each counted with its [`Reason`]: a flow beyond the bound, what a destination does not take by
//! its contract, and, when a stop runs out of time, what [`Report`] states as held.
//!
//! The books: received = emitted + discarded + held, in bytes and in packets, for each sink.

mod labels;
mod table;

mod remote_write;
mod totals;

mod http;

mod attempts;
mod books;
mod cause;
mod client;
mod config;
mod credentials;
mod destination;
mod driver;
mod keep;
mod keys;
mod lanes;
mod lead;
mod machine;
mod metrics;
mod portion;
mod retry;
mod scrape;
mod secret;
mod words;

#[cfg(test)]
mod tests;

pub use books::Reason;
pub use config::{
    Access, AccessProblem, Authentication, ClientFiles, Credential, HttpSettings, Kind, Problem,
    RawBasicAuth, RawHttp, RawRemoteWrite, RawSink, RawTls, RemoteWriteSettings, SinkConfig, SinkError,
    Temporality, Tls, Version, Warning, expand,
};
pub use credentials::ClientError;
pub use destination::{Settled, Verdict};
pub use driver::{Clock, Controls, Report, Sink, check, run, system_clock};
pub use keep::{Keep, Resume, Save, StateLost, unaccepted};
pub use keys::{BASIC_AUTH_KEYS, HTTP_KEYS, Key, REMOTE_WRITE_KEYS, SINK_KEYS, TLS_KEYS};
pub use lead::{Grant, Lead};
pub use machine::{Folded, Machine};
pub use metrics::SinkMetrics;
pub use scrape::{SCRAPE, Scrape, page_bytes_max};
pub use secret::Secret;
pub use table::FLOWS_MAX;
