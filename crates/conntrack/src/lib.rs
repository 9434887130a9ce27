//! Kernel connection tracking: bytes in, entries and ends out.
//!
//! **What enters**: bytes that the kernel wrote about its own table, under [`netfilter`] netlink messages.
//!
//! **What leaves**: [`Entry`](egressd_flow::Entry) by entry as a read meets them, closed by one
//! [`Snapshot`](egressd_flow::Snapshot) that says how far the read got; and [`Ended`](egressd_flow::Ended), an
//! entry's final counters, once for each entry that the kernel destroys while someone listens.
//!
//! **What is bounded**: a read holds one 32 KiB buffer whatever the table's size and allocates nothing per entry;
//! ends wait in the socket's receive buffer and in a queue of a configured number of entries; every wait for the
//! kernel has a timeout.
//!
//! **What may be lost**: rows that are not understood, or of conntrack zones that were not asked for, are skipped and
//! counted in [`Defects`](egressd_flow::Defects); ends that found the receive buffer full are counted one by one; a
//! read cut short is marked partial. Nothing else is, and nothing here is guessed.
//!
//! The kernel's own limits stay: entries made under `nf_conntrack_acct=0` never get counters, and a resize of the
//! hash table ends a dump early without a word (see [`Completeness`](egressd_flow::Completeness)).
//!
//! No stage's types but `flow`'s cross this crate's border, it logs nothing, it reads no clock, and it never
//! changes a counter in the kernel.

pub mod netfilter;
