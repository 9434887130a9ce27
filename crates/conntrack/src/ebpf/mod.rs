//! Counters of our own: what sockets send and receive, counted in the kernel by a program of this crate.
//!
//! Two cgroup_skb programs (`count.bpf.c`) add up bytes and packets by local address, remote address and protocol, at
//! the root of the cgroup v2 hierarchy and so for every pod at once, whatever network plugin moves its packets.
//! Two tables take turns: the programs count in one while the other is read, and what is read stands still.
//! [`Counts`] drives; `row` decodes, `cgroup` finds the hierarchy, `program` loads, attaches and pins, and `kernel` is
//! the edge: the one module with unsafe code. `DESIGN.md` beside this crate's manifest says why the hook is this one,
//! what exact means for it and what it leaves out.
//!
//! An entry here is a pair of addresses and a protocol during one turn of a table. It starts with its first packet, and
//! its counters are final when they are read: growth is the whole of it, and its owner is who had the address then.

mod cgroup;
mod counts;
mod error;
mod kernel;
mod program;
pub mod row;
mod runs;

pub use cgroup::CgroupError;
pub use counts::{Counts, CountsConfig, Uncounted, Warning};
pub use error::{OpenError, ReadError};
pub use program::{Programs, forget};
pub use runs::{Runs, measure_runs};
