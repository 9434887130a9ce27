//! Who owned an address, when.
//!
//! ```text
//! kubernetes, inventory ─▶ Change ─▶ Index ─┬─▶ Scope, ScopeChange (for the node's collector)
//!                                           └─▶ join: Batch ─▶ Attributed records
//! what nodes heard of DNS ─▶ Name ─▶ Names ──────▲
//! ```
//!
//! Enters: a cluster's pods and nodes, and batches. Leaves: scopes, and records with names at both ends or the
//! reason why not. Nothing is lost here: a record whose remote nobody knows leaves as unknown, with its bytes; the
//! local end is named by the batch itself.
//!
//! The index and the join are pure: they never ask anybody while a batch is joined. [`kubernetes`] and
//! [`inventory::load`] are the drivers that fill them.

mod cluster;
mod index;
pub mod inventory;
mod join;
pub mod kubernetes;
mod names;
mod ranges;

#[cfg(test)]
mod tests;

pub use cluster::{Change, Node, Pod, PodUid, Taint};
pub use index::{ENDED_KEPT, Index, ScopeChange};
pub use join::{Grouping, NAMES_OF_POD_MAX, attribute};
pub use names::{ANSWERS_OF_NODE_MAX, IN_USE_KEPT, Names, NamesBooks};
pub use ranges::Ranges;
