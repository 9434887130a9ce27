//! A cluster as the Kubernetes API tells it.
//!
//! One watch of pods and one of nodes for the whole cluster; `object` reads what is needed of an object and nothing
//! else, `watch` drives. Leaves: [`Change`](crate::Change)s, in the order of the API. After a gap that the API
//! cannot bridge (410 Gone) everything is listed anew and leaves as one change, so that nobody sees half a cluster.
//! One object that is not understood is set aside and counted; it costs nobody else their name.

mod object;
mod watch;

#[cfg(test)]
mod tests;

pub use watch::{ConnectError, Knowledge, WatchCounts, check_kubeconfig, connect, watch};
