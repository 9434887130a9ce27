//! Who talks with whom, for people and tools that ask: `egressd.v1.Flows`.
//!
//! What enters are attributed batches, through a [`Feed`] that never waits. What leaves: to each subscriber the flows
//! of the last [`SNAPSHOT_MINUTES`], then every batch's matching records, each record exactly once; and sums of the
//! last hour, in which every byte is in a row, in the rest or in what was folded.
//!
//! Bounded: [`SUBSCRIBERS_MAX`] subscribers, for each [`QUEUE_RECORDS_MAX`] records (9 MB, if each came alone) and a
//! snapshot of [`SNAPSHOT_FLOWS_MAX`] flows (1.2 MB) at most; [`ROWS_MAX`] rows of the window (28 MB, thrice that while a batch
//! comes amid a question); [`CONNECTIONS_MAX`] connections; the feed in batches. What does not fit is told to those
//! whom it concerns and counted: a subscriber misses records, the window folds its oldest minute.
//!
//! Nothing here goes to a sink, and no sink waits for anything here.

mod board;
mod driver;
mod feed;
mod filter;
mod metrics;
mod question;
mod queue;
mod table;
mod window;

#[cfg(test)]
mod tests;

pub use driver::{CONNECTIONS_MAX, Entrance, Patience, SUBSCRIBERS_MAX, serve};
pub use feed::{FEED_BATCHES_MAX, Feed, Inbox, feed};
pub use metrics::FlowsMetrics;
pub use question::{SNAPSHOT_FLOWS_MAX, SNAPSHOT_MINUTES};
pub use queue::QUEUE_RECORDS_MAX;
pub use window::ROWS_MAX;
