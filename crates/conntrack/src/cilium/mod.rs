//! Cilium's own connection tracking: the maps that its datapath counts in, pinned on a BPF file system.
//!
//! [`Maps`] finds them and reads them all at a tick, [`Agent`] asks who writes them. `codec` and `layout` decide,
//! `maps`, `table` and `agent` drive, `edge` is the edge: the one module with unsafe code. Nothing of Cilium is linked.
//!
//! What a row says depends on the release that writes it (`bpf/lib/conntrack.h`, `struct ct_entry` in
//! `bpf/lib/common.h`), and the maps outlive it; [`Layout`] has the rules. Bytes are those of frames, with their 14-byte
//! Ethernet header, where netfilter counts IP packets. Cilium tells no end of an entry, so what it counted after the
//! last read is lost: a lower bound.

mod agent;
pub mod codec;
mod edge;
mod error;
mod layout;
mod maps;
mod probes;
mod table;

pub use agent::{Agent, Places};
pub use error::ReadError;
pub use layout::{Accounting, Choice, Clock, Layout, Reading, Release, Tells};
pub use table::Maps;
