//! The nouns that cross a stage.
//!
//! Bytes leave the kernel as an [`Entry`] or an [`Ended`], become [`Record`]s in a [`Batch`] on the node, and
//! leave the exporter as [`Attributed`] records.
//! Everything here is plain data: this crate reads no clock, opens nothing, allocates only where a type owns text,
//! and depends on no other crate of the workspace.

mod attributed;
mod counters;
mod entry;
mod name;
mod owner;
mod record;
mod text;
mod time;
mod tuple;

pub use attributed::{
    AddressClass, Attributed, AttributedBatch, End, Identity, PodName, Position, TopologyZone,
};
pub use attributed::{Unattributed, Workload};
pub use counters::{Counter, Counters, Traffic};
pub use entry::{Completeness, Defects, Ended, Entry, EntryId, Snapshot, View};
pub use name::{NAME_BYTES_MAX, Name, Shares, TIME_TO_LIVE_MAX, TIME_TO_LIVE_MIN};
pub use owner::{Owner, Scope};
pub use record::{Batch, Epoch, NodeName, Record, Sequence, Span};
pub use text::ParseEntryError;
pub use time::UnixNanos;
pub use tuple::{CtZone, IpProtocol, L4, Tuple};
