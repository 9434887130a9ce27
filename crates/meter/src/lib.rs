//! Counters in, growth out, folded into records.
//!
//! ```text
//! Entry, Ended ─▶ baseline (growth) ─▶ sides ─▶ scope (whose?) ─┬─▶ reduce ─▶ Batch
//!                                                               └─▶ unclaimed ─▶ reduce or discard
//! ```
//!
//! Enters: [`Entry`](egressd_flow::Entry) rows of a snapshot, [`Ended`](egressd_flow::Ended) entries, the
//! [`Scope`](egressd_flow::Scope). Leaves: numbered [`Batch`](egressd_flow::Batch)es.
//! Bounded: baselines, unclaimed flows and open flows, each by [`MeterConfig`].
//! May be lost: what [`Discard`] names, counted in bytes and packets; nothing else. The books balance:
//! received = emitted + discarded + held. A counter that jumps by more than a node can have
//! ([`GROWTH_MAX`](egressd_flow::Counter::GROWTH_MAX)) is passed over and counted: it would spoil every sum after it.
//!
//! Pure: this crate never reads a clock, a file or a socket.

mod baseline;
mod books;
mod config;
mod fingerprint;
mod hashing;
mod meter;
mod reduce;
mod retired;
mod scope;
mod state;
mod table;
mod unclaimed;

#[cfg(test)]
mod tests;

pub use baseline::LOOKS_APART_MAX;
pub use books::{Books, Discard};
pub use config::MeterConfig;
pub use meter::Meter;
