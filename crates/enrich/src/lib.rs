//! Who owned an address, when.
//!
//! ```text
//! inventory ─▶ Index ─┬─▶ Scope (for the node's collector)
//!                     └─▶ join: Batch ─▶ Attributed records
//! ```
//!
//! Enters: a cluster's pods and nodes, and batches. Leaves: scopes, and records with names at both ends or the
//! reason why not. Nothing is lost here: a record whose remote nobody knows leaves as unknown, with its bytes; the
//! local end is named by the batch itself.
//!
//! Pure, but for [`inventory::load`]: the index never asks anybody while a batch is joined.

mod index;
pub mod inventory;
mod join;
mod ranges;

#[cfg(test)]
mod tests;

pub use index::{Index, NodeFacts, Tenure};
pub use join::{Grouping, attribute};
pub use ranges::Ranges;
