//! Bytes by flow: what truth, claims and stores are compared in.
//!
//! Invariant: iteration is in the order of flows. Bound: the flows of one history, some hundreds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use egressd_flow::{Batch, IpProtocol};

/// A local end and whom it talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) local: IpAddr,
    /// `None` for the rest of a fold.
    pub(crate) remote: Option<IpAddr>,
    pub(crate) protocol: IpProtocol,
}

/// Sent and received, as the local end sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) tx: u64,
    pub(crate) rx: u64,
}

impl Bytes {
    pub(crate) fn sum(self) -> u64 {
        self.tx + self.rx
    }

    pub(crate) fn is_zero(self) -> bool {
        self.sum() == 0
    }
}

/// Bytes by flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows(BTreeMap<Flow, Bytes>);

impl Flows {
    /// What a batch says.
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut flows = Self::default();
        for record in &batch.records {
            let local = batch.owners[record.owner as usize].address;
            let flow = Flow { local, remote: record.remote, protocol: record.protocol };
            flows.add(flow, Bytes { tx: record.traffic.tx.bytes, rx: record.traffic.rx.bytes });
        }
        flows
    }

    pub(crate) fn add(&mut self, flow: Flow, bytes: Bytes) {
        if !bytes.is_zero() {
            let sum = self.0.entry(flow).or_default();
            sum.tx += bytes.tx;
            sum.rx += bytes.rx;
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(flow, bytes)| self.add(*flow, *bytes));
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.values().map(|bytes| bytes.sum()).sum()
    }

    /// With every remote folded into the rest of its local end and protocol.
    pub(crate) fn folded(&self) -> Self {
        let mut folded = Self::default();
        self.0.iter().for_each(|(flow, bytes)| folded.add(Flow { remote: None, ..*flow }, *bytes));
        folded
    }

    /// Where the two differ: what is in `self`, what is in `other`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<(Flow, Bytes, Bytes)> {
        let mut flows: Vec<Flow> = self.0.keys().chain(other.0.keys()).copied().collect();
        flows.sort_unstable();
        flows.dedup();
        let both = flows.into_iter().map(|flow| (flow, self.get(&flow), other.get(&flow)));
        both.filter(|(_, one, two)| one != two).collect()
    }

    fn get(&self, flow: &Flow) -> Bytes {
        self.0.get(flow).copied().unwrap_or_default()
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(remote) => write!(f, "{} {} > {remote}", self.protocol, self.local),
            None => write!(f, "{} {} > rest", self.protocol, self.local),
        }
    }
}
