//! The gRPC contracts: between collector and exporter, and between the exporter and those who follow flows.
//!
//! `proto/egressd/v1/stream.proto` and `flows.proto` are the contracts; [`v1`] is what is generated from them; the
//! conversions turn it into the nouns of `flow` and refuse what does not hold together, naming the field. Everything
//! that a peer sends is bounded by [`limits`] before it is believed. No other crate builds or reads these messages by
//! hand.

#[expect(missing_docs, reason = "generated; the comments of the .proto are the documentation")]
pub mod v1 {
    tonic::include_proto!("egressd.v1");
}

mod batch;
mod down;
mod error;
mod flows;
pub mod limits;
mod scope;
mod up;

#[cfg(test)]
mod tests;

pub use batch::{batch_from_bytes, batch_to_bytes};
pub use down::{Ack, Down, Settings, Welcome};
pub use error::WireError;
pub use flows::{
    Dimension, FLOWS_DESCRIPTOR, FlowEnd, FlowEvent, FlowFilter, Missed, NamePattern, SnapshotEnd, Summary,
    SummaryOrder, SummaryQuery, SummaryRow,
};
pub use up::{CollectorFlags, HeldEpoch, Hello, Loss, Source, SpoolId, Status, Up};
