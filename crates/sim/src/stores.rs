//! Where bytes end up: a store of remote write and a cost API, honest and forgetful of nothing.
//!
//! Both decode by their own specifications. The store refuses what Prometheus refuses, and is stricter: a series begins
//! with a zero, and a total never goes backwards.
//!
//! Invariant: what was taken is taken, whatever was answered. Bound: the series of one history.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egressd_flow::IpProtocol;
use prost::Message;

use crate::Violation;
use crate::flows::{Bytes, Flow, Flows};

/// `model/value/value.go` of Prometheus, `StaleNaN`.
const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// `prompb/remote.proto`, as far as 1.0 has it.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The cost API's body, as far as bytes go.
#[derive(Clone, PartialEq, Eq, Message)]
struct CostBatch {
    #[prost(message, repeated, tag = "1")]
    items: Vec<CostItem>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CostItem {
    #[prost(string, tag = "1")]
    src_ip: String,
    #[prost(string, tag = "6")]
    dst_ip: String,
    #[prost(int64, tag = "11")]
    tx_bytes: i64,
    #[prost(int64, tag = "13")]
    rx_bytes: i64,
    #[prost(int32, tag = "15")]
    proto: i32,
}

/// A destination.
#[derive(Debug)]
pub(crate) enum Store {
    Prometheus(Prometheus),
    Cost(Cost),
}

impl Store {
    /// Takes a request in.
    ///
    /// # Errors
    /// No receiver would take it, or its figures cannot be.
    pub(crate) fn take(&mut self, body: &[u8]) -> Result<(), Violation> {
        match self {
            Self::Prometheus(store) => store.take(body),
            Self::Cost(store) => store.take(body),
        }
    }

    /// What it has: for totals, their increase.
    pub(crate) fn flows(&self) -> &Flows {
        match self {
            Self::Prometheus(store) => &store.flows,
            Self::Cost(store) => &store.flows,
        }
    }

    /// Another exporter begins that knows nothing of the totals of the one before.
    pub(crate) fn totals_restart(&mut self) {
        if let Self::Prometheus(store) = self {
            store.life += 1;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Series {
    last: u64,
    timestamp: i64,
    is_stale: bool,
    life: u64,
}

/// A store of running totals.
#[derive(Debug, Default)]
pub(crate) struct Prometheus {
    series: BTreeMap<Vec<(String, String)>, Series>,
    flows: Flows,
    life: u64,
}

impl Prometheus {
    fn take(&mut self, body: &[u8]) -> Result<(), Violation> {
        let wrong = |what: &str| Violation(format!("remote write: {what}"));
        let message = snap::raw::Decoder::new().decompress_vec(body).map_err(|_| wrong("no snappy block"))?;
        let request = WriteRequest::decode(&*message).map_err(|_| wrong("no request"))?;
        let mut said = BTreeSet::new();
        for TimeSeries { labels, samples } in request.timeseries {
            let labels: Vec<_> = labels.into_iter().map(|label| (label.name, label.value)).collect();
            let [sample] = samples[..] else { return Err(wrong("not one sample of a series")) };
            if !said.insert(labels.clone()) {
                return Err(wrong(&format!("a series stands twice in a request: {labels:?}")));
            }
            self.sample(labels, sample)?;
        }
        Ok(())
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "totals of some gigabytes at most"
    )]
    fn sample(&mut self, labels: Vec<(String, String)>, sample: Sample) -> Result<(), Violation> {
        let wrong = |what: String| Violation(format!("remote write: {what}: {labels:?}"));
        let Sample { value, timestamp } = sample;
        let is_stale = value.to_bits() == STALE_NAN;
        let known = self.series.get(&labels).copied();
        if known.is_some_and(|known| timestamp <= known.timestamp) {
            return Err(wrong(format!("a timestamp does not rise, {timestamp}")));
        }
        let before = known.filter(|known| known.life == self.life);
        let total = if is_stale { before.map_or(0, |before| before.last) } else { value as u64 };
        let from = match before {
            Some(before) if total >= before.last => before.last,
            Some(before) if before.is_stale && total == 0 => 0,
            None if total == 0 => 0,
            Some(before) => {
                return Err(wrong(format!("a total goes backwards, from {} to {total}", before.last)));
            }
            None => return Err(wrong(format!("a series begins without a zero, with {total}"))),
        };
        let (flow, bytes) = increase(&labels, total - from).ok_or_else(|| wrong("unknown labels".into()))?;
        self.flows.add(flow, bytes);
        self.series.insert(labels, Series { last: total, timestamp, is_stale, life: self.life });
        Ok(())
    }
}

fn increase(labels: &[(String, String)], by: u64) -> Option<(Flow, Bytes)> {
    let value = |name| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str());
    let remote: Option<IpAddr> = match value("dst_ip") {
        Some(address) => Some(address.parse().ok()?),
        None => None,
    };
    let protocol = match value("proto")? {
        "TCP" => IpProtocol::TCP,
        "UDP" => IpProtocol::UDP,
        _ => return None,
    };
    let bytes = match value("__name__")? {
        "egressd_transmit_bytes_total" => Bytes { tx: by, rx: 0 },
        "egressd_received_bytes_total" => Bytes { tx: 0, rx: by },
        _ => return None,
    };
    Some((Flow { local: value("src_ip")?.parse().ok()?, remote, protocol }, bytes))
}

/// A store of sums.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    flows: Flows,
}

impl Cost {
    fn take(&mut self, body: &[u8]) -> Result<(), Violation> {
        let wrong = |what: &str| Violation(format!("cost API: {what}"));
        let batch = CostBatch::decode(body).map_err(|_| wrong("no batch"))?;
        for item in batch.items {
            let (flow, bytes) =
                charge(&item).ok_or_else(|| wrong(&format!("an item cannot be: {item:?}")))?;
            self.flows.add(flow, bytes);
        }
        Ok(())
    }
}

fn charge(item: &CostItem) -> Option<(Flow, Bytes)> {
    let remote = match &*item.dst_ip {
        "" => None,
        address => Some(address.parse().ok()?),
    };
    let protocol = IpProtocol(u8::try_from(item.proto).ok()?);
    let bytes = Bytes { tx: u64::try_from(item.tx_bytes).ok()?, rx: u64::try_from(item.rx_bytes).ok()? };
    Some((Flow { local: item.src_ip.parse().ok()?, remote, protocol }, bytes))
}
