//! DNS answers that a node's sockets receive: which address stands behind which name, and who asked.
//!
//! ```text
//! cgroup_skb/ingress (trace.bpf.c) ─ ring buffer ▶ Part ─▶ Streams ─▶ answer ─▶ Name
//! ```
//!
//! **What enters**: packets from port 53, over UDP and TCP, IPv4 and IPv6, as sockets of the node receive them: those of
//! pods, whatever network plugin moves their packets, and those of the node and its resolvers.
//! Answers on loopback addresses are left out: whoever gives them there, a node's stub or a pod's sidecar, was answered
//! before at an address of its own, by which the name is known to be that pod's or node's. Lost by it is only what such a
//! resolver asked over TLS, or knew by itself.
//! **What leaves**: a [`Name`](egressd_flow::Name) for each address of an answer.
//! **What may be lost**: what the ring has no room for, and what the decoder does not understand, each counted by its
//! reason; answers over TLS or HTTPS, which nobody can read.
//!
//! [`message`], [`streams`] and [`decoder`] are plain machines; [`tracer`] drives them. The program copies and decides
//! nothing; userland looks at its ring when it is time, and the kernel wakes nobody.
//! Whoever can send from port 53 to a socket of the node can make it name an address: names describe, and nothing is
//! decided by them.

pub mod cgroup;
pub mod decoder;
pub mod message;
pub mod part;
pub mod streams;
pub mod tracer;

pub use decoder::{Books, Decoder};
pub use tracer::{Counts, OpenError, RING_BYTES, ReadError, Tracer, probe};
