//! What a collector sends: growth folded by flow, cut into numbered batches.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::{Counter, Traffic};
use crate::owner::Owner;
use crate::time::UnixNanos;
use crate::tuple::IpProtocol;

/// A node's name as Kubernetes has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(pub Arc<str>);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of one collector process: 64 random bits. Sequences restart only with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A batch's place within its epoch: from 1, by 1. As a watermark 0 means none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The one after.
    ///
    /// # Panics
    /// After 2^64−1 batches: one each nanosecond for 584 years.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("an epoch ends before 2^64 batches"))
    }

    /// The one before; that of 0 is 0.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stretch of time by the collector's clock: growth was seen after `from`, at `to` at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Exclusive.
    pub from: UnixNanos,
    /// Inclusive.
    pub to: UnixNanos,
}

/// Growth folded under (owner, remote address, protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Index into the batch's `owners`.
    pub owner: u32,
    /// The real peer's address; `None` for the rest that was folded together when there were too many.
    pub remote: Option<IpAddr>,
    /// IP protocol.
    pub protocol: IpProtocol,
    /// As seen from the owner.
    pub traffic: Traffic,
}

/// Records cut together, numbered within their epoch. Each owner is said once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The life of the collector that cut it.
    pub epoch: Epoch,
    /// Its place in that life.
    pub sequence: Sequence,
    /// When the growth was seen.
    pub span: Span,
    /// Every owner that a record names, so that an exporter which never saw the pod can still name it.
    pub owners: Vec<Arc<Owner>>,
    /// In no particular order.
    pub records: Vec<Record>,
}

impl Batch {
    /// All records added, in all directions.
    #[must_use]
    pub fn sum(&self) -> Counter {
        self.records.iter().fold(Counter::default(), |mut sum, record| {
            sum += record.traffic.sum();
            sum
        })
    }
}
