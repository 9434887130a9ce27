//! Attributed batches between the ledger and the sinks: on disk, or in memory.
//!
//! **Enters**: batches in the exporter's order with the (node, epoch, sequence) they came under; one
//! [`append`](Spool::append) is one atomic step for records and watermarks.
//! **Leaves**: to each sink the same batches in the same order, from its cursor on, until it
//! [`advance`](Spool::advance)s; cursor and the sink's own state (its totals, its range under way) move in one step.
//!
//! Everything is synchronous and has one owner; time is handed in. One [`sync`](Spool::sync) makes any number of appends
//! durable, and only then may they be acknowledged as taken.
//!
//! **Bounded**: bytes and age of what is kept ([`SpoolConfig`]), 32 MiB not durable yet, 16 MiB of newest batches,
//! 1/1000 of the bytes as an index, nodes, epochs, sinks and their states. **May be lost**, counted for each sink by
//! [`Reason`]: what a sink did not take before a bound was reached, and what the disk does not give back. What
//! recovery found is said by [`Recovery`].

mod spool;

mod batch;
mod code;
mod frame;
mod log;
mod segment;

mod cache;
mod cursor;
mod watermarks;

mod recovery;

mod disk;
mod error;
mod loss;

#[cfg(test)]
mod tests;

pub use cache::CACHE_BYTES_MAX;
pub use cursor::{Cursor, SINK_NAME_BYTES_MAX, SINKS_MAX, STATE_BYTES_MAX};
pub use disk::{Directory, Disk};
pub use error::SpoolError;
pub use log::UNSYNCED_BYTES_MAX;
pub use loss::{Damage, Loss, Losses, Reason};
pub use recovery::Recovery;
pub use spool::{Read, Spool, SpoolConfig, Taken};
pub use watermarks::{NODES_MAX, Watermark};
