//! Kernel connection tracking: bytes in, entries and ends out.
//!
//! **What enters**: bytes that the kernel wrote about its own table, under [`netfilter`] netlink messages; or, under
//! [`ebpf`], what programs of ours counted in it, and under [`cilium`] what Cilium's did.
//!
//! **What leaves**: [`Entry`](egressd_flow::Entry) by entry as a read meets them, closed by one
//! [`Snapshot`](egressd_flow::Snapshot) that says how far the read got; and [`Ended`](egressd_flow::Ended), an
//! entry's final counters, once for each entry that the kernel destroys while someone listens.
//!
//! **What is bounded**: a read holds one 32 KiB buffer whatever the table's size and allocates nothing per entry;
//! ends wait in the socket's receive buffer and in a queue of a configured number of entries; every wait for the
//! kernel has a timeout. Tables of programs hold a configured number of entries.
//!
//! **What may be lost**: rows that are not understood, or of conntrack zones that were not asked for, are skipped and
//! counted in [`Defects`](egressd_flow::Defects); ends that found the receive buffer full are counted one by one; a
//! read cut short is marked partial; traffic that found a program's table full is counted. Nothing else is, and nothing
//! here is guessed.
//!
//! The kernel's own limits stay: entries made under `nf_conntrack_acct=0` never get counters, and a resize of the
//! hash table ends a dump early without a word (see [`Completeness`](egressd_flow::Completeness)).
//!
//! No stage's types but `flow`'s cross this crate's border, it logs nothing, it reads no clock but the one since boot, by
//! which the programs stamp, and it never changes a counter that somebody else reads.

pub mod cilium;
pub mod ebpf;
pub mod netfilter;
