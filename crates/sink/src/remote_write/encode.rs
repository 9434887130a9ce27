//! Samples to the body of a request.
//!
//! One series is filled and encoded after another through a scratch message whose strings are used again, so a
//! request of thousands of series costs a handful of allocations: a concatenation of encoded messages is the
//! message with their repeated fields joined (protobuf encoding, "Last One Wins").

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use bytes::Bytes;
use prost::Message;

use super::proto::{self, TimeSeries, WriteRequest};
use crate::labels::{FlowView, Label};
use crate::totals::{Figure, Metric, Sample, Totals};

/// The value that ends a series (`model/value/value.go`, `StaleNaN` is 0x7ff0000000000002).
pub(crate) const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// The label that names the series.
pub(crate) const NAME_LABEL: &str = "__name__";

/// Where a label's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Name,
    BuiltIn(Label),
    Custom(String),
}

/// Every label that a series may have, sorted by name.
fn labels(custom: &BTreeMap<String, String>) -> Vec<(String, Origin)> {
    let built_in = Label::ALL.map(|label| (label.name().to_owned(), Origin::BuiltIn(label)));
    let custom = custom
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.clone(), Origin::Custom(value.clone())));
    let mut labels: Vec<_> = built_in.into_iter().chain(custom).collect();
    labels.push((NAME_LABEL.to_owned(), Origin::Name));
    labels.sort_by(|(one, _), (other, _)| one.cmp(other));
    labels
}

/// Encodes requests for one destination.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Every label that a series may have, sorted by name.
    labels: Vec<(String, Origin)>,
    /// One series, its strings kept for the next.
    scratch: WriteRequest,
    spare: Vec<proto::Label>,
    message: Vec<u8>,
    /// Of a message, before compression.
    bytes_max: usize,
    snappy: snap::raw::Encoder,
}

impl Encoder {
    /// `custom` labels go onto every series; none bears a name of our own (the configuration refuses that).
    pub(crate) fn new(custom: &BTreeMap<String, String>, bytes_max: usize) -> Self {
        let series = TimeSeries { labels: Vec::new(), samples: vec![proto::Sample::default()] };
        Self {
            labels: labels(custom),
            scratch: WriteRequest { timeseries: vec![series] },
            spare: Vec::new(),
            message: Vec::new(),
            bytes_max,
            snappy: snap::raw::Encoder::new(),
        }
    }

    /// Other custom labels from the next request on.
    pub(crate) fn relabel(&mut self, custom: &BTreeMap<String, String>) {
        self.labels = labels(custom);
    }

    /// The body for the current request of the totals, which is cut to the flows that fit.
    pub(crate) fn encode(&mut self, totals: &mut Totals) -> Bytes {
        self.message.clear();
        if let Some(slot) = self.fill(totals) {
            totals.cut(slot);
        }
        let body = self.snappy.compress_vec(&self.message);
        Bytes::from(body.expect("snappy takes up to 4 GiB, a request is bounded far below"))
    }

    /// Appends flow by flow; the first that does not fit, of which nothing stays.
    fn fill(&mut self, totals: &Totals) -> Option<u32> {
        let chunk = totals.chunk();
        for samples in chunk.samples.chunk_by(|one, next| one.slot == next.slot) {
            let fitting = self.message.len();
            for sample in samples {
                if let Some(flow) = totals.flow(sample) {
                    self.append(flow, sample, chunk.timestamp_ms);
                }
            }
            if fitting > 0 && self.message.len() > self.bytes_max {
                self.message.truncate(fitting);
                return samples.first().map(|sample| sample.slot);
            }
        }
        None
    }

    fn append(&mut self, flow: FlowView<'_>, sample: &Sample, timestamp: i64) {
        if let [series] = self.scratch.timeseries.as_mut_slice() {
            self.spare.append(&mut series.labels);
            for (name, origin) in &self.labels {
                if let Some(label) = filled(&mut self.spare, name, origin, flow, sample.metric) {
                    series.labels.push(label);
                }
            }
            if let [scratch] = series.samples.as_mut_slice() {
                *scratch = proto::Sample { value: value(sample.figure), timestamp };
            }
        }
        self.scratch.encode(&mut self.message).expect("a vector grows as needed");
    }
}

/// A label out of the spare ones; `None` where the flow has no such value.
fn filled(
    spare: &mut Vec<proto::Label>,
    name: &str,
    origin: &Origin,
    flow: FlowView<'_>,
    metric: Metric,
) -> Option<proto::Label> {
    let value: &dyn fmt::Display = match origin {
        Origin::Name => &metric.series(),
        Origin::Custom(text) => text,
        Origin::BuiltIn(label) => &flow.value(*label)?,
    };
    let mut label = spare.pop().unwrap_or_default();
    label.name.clear();
    label.name.push_str(name);
    label.value.clear();
    write!(label.value, "{value}").expect("a string grows as needed");
    Some(label)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the protocol's values are doubles: exact up to 2^53 bytes, 9 PB"
)]
fn value(figure: Figure) -> f64 {
    match figure {
        Figure::Zero => 0.0,
        Figure::Total(sum) => sum.bytes as f64,
        Figure::Stale(_) => f64::from_bits(STALE_NAN),
    }
}
