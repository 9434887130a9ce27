//! The kernel's own connection tracking, over netlink (`nf_conntrack_netlink`, "ctnetlink").
//!
//! [`Table`] reads all entries at a tick, [`Ends`] hears about those that end in between, [`sysctl`] switches on
//! the counters without which both are worth nothing. `codec` and `dump` decide, `table` and `ends` drive, `socket`
//! is the edge: the one module with unsafe code.
//!
//! A socket belongs to the network namespace of the thread that opened it, and stays there: [`Table::open`] and
//! [`Ends::listen`] open theirs on the calling thread.

pub mod codec;
mod ct_zones;
mod dump;
#[cfg(test)]
mod encode;
mod ends;
mod error;
mod message;
mod queue;
mod socket;
pub mod sysctl;
mod table;
mod uapi;

pub use ct_zones::{CtZones, ParseCtZonesError};
pub use dump::{Dump, Interruption, Progress};
pub use ends::{Drained, Ends, EndsConfig, Keeper, Losses, ReceiveBufferWarning, Waker};
pub use error::{ListenError, OpenError, ReadError, ReceiveError};
pub use table::Table;
