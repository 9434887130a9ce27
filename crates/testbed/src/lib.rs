//! A cluster in network namespaces, with byte-exact truth about the traffic in it.
//!
//! Two nodes in two zones with three pods each, a service address, an internet host and a namespace for whatever
//! watches them; more pods come and go while it runs. A fake Kubernetes API server stands beside it for those who ask
//! who lives there. Traffic programs run in the pods, nft counters in the nodes' forward hooks say what went over the
//! wire, and the daemons under test are ordinary child processes.
//!
//! Invariant: nothing here knows the code under test, only its command line and its published text; so truth and
//! claim share no line of code. Nothing reaches outside the namespaces but forwarded loopback ports and a
//! [`Borrowed`] setting, and nothing outlives the process, however it ends: namespaces and files are held by
//! descriptors, children by a death signal.
//!
//! Bounds: one process may hold several clusters; a cluster's files live in 512 MiB of memory at most.

mod acceptor;
mod books;
mod certificates;
mod cgroup;
pub mod cilium;
mod claims;
mod clock;
mod cluster;
mod compare;
mod daemons;
pub mod dns;
mod error;
mod exec;
mod exposition;
pub mod filler;
mod flows;
mod forward;
mod http;
mod http_sink;
mod ingestion;
pub mod kubernetes;
mod life;
mod namespace;
mod network;
mod process;
mod recording;
mod remote_write;
mod residents;
mod scenario;
mod scratch;
mod series;
mod setting;
mod store;
pub mod topology;
pub mod traffic;
mod truth;

pub use books::{Account, Books};
pub use certificates::{Authority, Certificate};
pub use cgroup::Cgroup;
pub use claims::{RECEIVED, TRANSMITTED, flows_in};
pub use clock::{now, unix_time, wait_for};
pub use cluster::{Cluster, Truth};
pub use compare::{Comparison, Row};
pub use daemons::{COLLECTOR_HTTP_PORT, EXPORTER_HTTP_PORT, GRPC_PORT};
pub use daemons::{CONFIG_WITHOUT_SINKS, Daemon, Daemons, Programs, beside_current_exe, init_nodes};
pub use error::Error;
pub use flows::{FlowKey, Flows, Volume};
pub use http::Response;
pub use http_sink::{Answer, HttpSink, Request};
pub use ingestion::Ingestion;
pub use life::{Life, LifePlan};
pub use namespace::Namespace;
pub use process::{Process, Usage};
pub use recording::recorded;
pub use residents::Resident;
pub use scenario::{Class, Load, class_of, standard_plans};
pub use scratch::Scratch;
pub use series::{Point, Series, flows_by};
pub use setting::{Borrowed, Setting, keep_setting};
pub use store::Store;
pub use truth::TruthError;
