//! Samples to the body of a request.
//!
//! One series is filled and encoded after another through a scratch message whose buffers are used again, so a
//! request of thousands of series costs a handful of allocations: a concatenation of encoded messages is the
//! message with their repeated fields joined (protobuf encoding, "Last One Wins").

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use bytes::Bytes;
use prost::Message;

use super::proto::{self, TimeSeries, WriteRequest};
use super::v2;
use crate::config::Version;
use crate::labels::{FlowView, Label};
use crate::totals::{Figure, Metric, Sample, Totals};

/// The value that ends a series (`model/value/value.go`, `StaleNaN` is 0x7ff0000000000002).
pub(crate) const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// The label that names the series.
pub(crate) const NAME_LABEL: &str = "__name__";

/// Where a label's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Name,
    BuiltIn(Label),
    Custom(String),
}

impl Origin {
    /// Writes the value into `text` and says so; where the flow has no such value, neither.
    pub(super) fn write(&self, flow: FlowView<'_>, metric: Metric, text: &mut String) -> bool {
        let value: &dyn fmt::Display = match self {
            Self::Name => &metric.series(),
            Self::Custom(value) => value,
            Self::BuiltIn(label) => match flow.value(*label) {
                Some(value) => &{ value },
                None => return false,
            },
        };
        write!(text, "{value}").expect("a string grows as needed");
        true
    }
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
    writer: Writer,
    /// Of a message, before compression.
    bytes_max: usize,
    snappy: snap::raw::Encoder,
}

/// The message under way, in one version of the protocol.
#[derive(Debug)]
enum Writer {
    V1(V1),
    V2(v2::Writer),
}

/// A place in the message to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) message: usize,
    pub(super) symbols: usize,
}

impl Encoder {
    /// `custom` labels go onto every series; none bears a name of our own (the configuration refuses that).
    pub(crate) fn new(version: Version, custom: &BTreeMap<String, String>, bytes_max: usize) -> Self {
        let mut encoder = Self {
            labels: labels(custom),
            writer: Writer::V1(V1::default()),
            bytes_max,
            snappy: snap::raw::Encoder::new(),
        };
        encoder.speak(version);
        encoder
    }

    /// Other custom labels from the next request on.
    pub(crate) fn relabel(&mut self, custom: &BTreeMap<String, String>) {
        self.labels = labels(custom);
    }

    /// By another version from the next request on.
    pub(crate) fn speak(&mut self, version: Version) {
        self.writer = match version {
            Version::V1 => Writer::V1(V1::default()),
            Version::V2 => Writer::V2(v2::Writer::default()),
        };
    }

    /// The version of the next request.
    pub(crate) fn version(&self) -> Version {
        match self.writer {
            Writer::V1(_) => Version::V1,
            Writer::V2(_) => Version::V2,
        }
    }

    /// The body for a lane's request of the totals, which is cut to the flows that fit.
    pub(crate) fn encode(&mut self, totals: &mut Totals, lane: usize) -> Bytes {
        self.writer.clear();
        if let Some(slot) = self.fill(totals, lane) {
            totals.cut(lane, slot);
        }
        let body = self.snappy.compress_vec(self.writer.message());
        Bytes::from(body.expect("snappy takes up to 4 GiB, a request is bounded far below"))
    }

    /// Appends flow by flow; the first that does not fit, of which nothing stays.
    fn fill(&mut self, totals: &Totals, lane: usize) -> Option<u32> {
        let timestamp = totals.timestamp_ms(lane);
        for samples in totals.chunk(lane).chunk_by(|one, next| one.slot == next.slot) {
            let fitting = self.writer.mark();
            for sample in samples {
                self.append(totals, sample, timestamp);
            }
            if fitting.message > 0 && self.writer.bytes() > self.bytes_max {
                self.writer.rewind(fitting);
                return samples.first().map(|sample| sample.slot);
            }
        }
        None
    }

    fn append(&mut self, totals: &Totals, sample: &Sample, timestamp: i64) {
        let Some(flow) = totals.flow(sample) else { return };
        match &mut self.writer {
            Writer::V1(writer) => writer.append(&self.labels, flow, sample, timestamp),
            Writer::V2(writer) => {
                writer.append(&self.labels, flow, sample, (totals.began_ms(sample), timestamp));
            }
        }
    }
}

impl Writer {
    fn clear(&mut self) {
        match self {
            Self::V1(writer) => writer.message.clear(),
            Self::V2(writer) => writer.clear(),
        }
    }

    fn mark(&self) -> Mark {
        match self {
            Self::V1(writer) => Mark { message: writer.message.len(), symbols: 0 },
            Self::V2(writer) => writer.mark(),
        }
    }

    fn rewind(&mut self, mark: Mark) {
        match self {
            Self::V1(writer) => writer.message.truncate(mark.message),
            Self::V2(writer) => writer.rewind(mark),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::V1(writer) => writer.message.len(),
            Self::V2(writer) => writer.bytes(),
        }
    }

    fn message(&mut self) -> &[u8] {
        match self {
            Self::V1(writer) => &writer.message,
            Self::V2(writer) => writer.message(),
        }
    }
}

/// Remote write 1.0.
#[derive(Debug)]
struct V1 {
    /// One series, its strings kept for the next.
    scratch: WriteRequest,
    spare: Vec<proto::Label>,
    message: Vec<u8>,
}

impl Default for V1 {
    fn default() -> Self {
        let series = TimeSeries { labels: Vec::new(), samples: vec![proto::Sample::default()] };
        Self { scratch: WriteRequest { timeseries: vec![series] }, spare: Vec::new(), message: Vec::new() }
    }
}

impl V1 {
    fn append(&mut self, labels: &[(String, Origin)], flow: FlowView<'_>, sample: &Sample, timestamp: i64) {
        if let [series] = self.scratch.timeseries.as_mut_slice() {
            self.spare.append(&mut series.labels);
            for (name, origin) in labels {
                let mut label = self.spare.pop().unwrap_or_default();
                label.value.clear();
                if origin.write(flow, sample.metric, &mut label.value) {
                    label.name.clear();
                    label.name.push_str(name);
                    series.labels.push(label);
                } else {
                    self.spare.push(label);
                }
            }
            if let [scratch] = series.samples.as_mut_slice() {
                *scratch = proto::Sample { value: value(sample.figure), timestamp };
            }
        }
        self.scratch.encode(&mut self.message).expect("a vector grows as needed");
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the protocol's values are doubles: exact up to 2^53 bytes, 9 PB"
)]
pub(super) fn value(figure: Figure) -> f64 {
    match figure {
        Figure::Zero => 0.0,
        Figure::Total(sum) | Figure::Growth(sum) => sum.bytes as f64,
        Figure::Stale(_) => f64::from_bits(STALE_NAN),
    }
}
