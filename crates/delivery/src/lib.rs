//! Both halves of the stream: what is cut on a node reaches the exporter once, whatever happens between.
//!
//! ```text
//! collector: Batch ─▶ window ─▶ dial ~ gRPC ~ serve ─▶ ledger ─▶ Taking ─▶ (the exporter's next stage)
//!                        ▲                                │
//!                        └──────────── Ack ◀──────────────┘ ◀── delivered: Position
//! ```
//!
//! [`window`] and [`ledger`] are pure machines; [`dial`] and [`serve`] drive them over gRPC.
//! Beside them go DNS answers ([`outbox`]), as good as it goes.
//! A batch leaves the window when the exporter says that every sink accepted it (`delivered`), or that its spool
//! holds it and survives a restart (`taken`, durable). The ledger takes each (node, epoch, sequence) once.
//! Bounded: the window in bytes, connections, nodes, epochs and pending places in the ledger, messages and owners by
//! `egressd_protocol::limits`, every queue by its capacity, every wait by a deadline.
//! May be lost: what a collector still holds when its grace is over, and what an exporter that dies had taken from a
//! collector that has stopped since or had no room to keep it (`unprotected`). May come twice: what was sent to an
//! exporter without a durable spool that ended before it said whether it delivered; counted as `maybe_twice`.

pub mod dial;
pub mod ledger;
mod metrics;
pub mod outbox;
pub mod roster;
pub mod serve;
pub mod window;

#[cfg(test)]
mod pair_tests;

pub use metrics::{LedgerMetrics, WindowMetrics};

/// 64 random bits other than 0, for an epoch or a spool.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn random_id() -> Result<u64, getrandom::Error> {
    loop {
        let id = getrandom::u64()?;
        if id != 0 {
            return Ok(id);
        }
    }
}
