//! Remote write 2.0: its messages, as the specification of rc.4 numbers them (`io/prometheus/write/v2/types.proto`), and
//! how they are filled.
//!
//! Invariant: every string of a request stands in it once, the empty one first, and every counter says when it began.
//! Bound: the buffers of one request, kept for the next.

use prost::Message;
use prost::bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::encode::{Mark, Origin, value};
use super::symbols::Symbols;
use crate::labels::FlowView;
use crate::totals::Sample as Figured;

/// Field of a request's symbols.
const SYMBOLS: u32 = 4;

/// `METRIC_TYPE_COUNTER`.
const COUNTER: i32 = 1;

/// Of every series that there is; the names end in it, before `_total`.
const UNIT: &str = "bytes";

/// A request. 1 to 3 are reserved, so that a receiver of 1.0 finds nothing in it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    /// Unique; the first is empty.
    #[prost(string, repeated, tag = "4")]
    pub(crate) symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) timeseries: Vec<TimeSeries>,
}

/// One series and its samples. 3 are histograms, 4 exemplars, 6 is reserved: until rc.3 it said when it began.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TimeSeries {
    /// Name and value in turn, as places in the symbols; sorted by name.
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) labels_refs: Vec<u32>,
    /// Oldest first; here always one.
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
    #[prost(message, optional, tag = "5")]
    pub(crate) metadata: Option<Metadata>,
}

/// One value.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Sample {
    /// A total in bytes, or the stale marker.
    #[prost(double, tag = "1")]
    pub(crate) value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub(crate) timestamp: i64,
    /// When the total began to count, before `timestamp`; 0 would mean that it is not said.
    #[prost(int64, tag = "3")]
    pub(crate) start_timestamp: i64,
}

/// What a series is. 2 is not in use.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Metadata {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    /// In the symbols.
    #[prost(uint32, tag = "3")]
    pub(crate) help_ref: u32,
    /// In the symbols.
    #[prost(uint32, tag = "4")]
    pub(crate) unit_ref: u32,
}

/// The request under way.
#[derive(Debug)]
pub(super) struct Writer {
    symbols: Symbols,
    /// One series, its buffers kept for the next; its own symbols stay empty.
    scratch: Request,
    series: Vec<u8>,
    message: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        let series = TimeSeries { samples: vec![Sample::default()], ..TimeSeries::default() };
        Self {
            symbols: Symbols::new(),
            scratch: Request { symbols: Vec::new(), timeseries: vec![series] },
            series: Vec::new(),
            message: Vec::new(),
        }
    }
}

impl Writer {
    pub(super) fn clear(&mut self) {
        self.rewind(Mark { message: 0, symbols: 1 });
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { message: self.series.len(), symbols: self.symbols.len() }
    }

    pub(super) fn rewind(&mut self, mark: Mark) {
        self.series.truncate(mark.message);
        self.symbols.truncate(mark.symbols);
    }

    pub(super) fn bytes(&self) -> usize {
        self.series.len() + self.symbols.bytes()
    }

    /// `times`: when the total began, and when this is said.
    pub(super) fn append(
        &mut self,
        labels: &[(String, Origin)],
        flow: FlowView<'_>,
        sample: &Figured,
        (began, timestamp): (i64, i64),
    ) {
        let symbols = &mut self.symbols;
        if let [series] = self.scratch.timeseries.as_mut_slice() {
            series.labels_refs.clear();
            for (name, origin) in labels {
                if let Some(value) = symbols.write(|text| origin.write(flow, sample.metric, text)) {
                    series.labels_refs.extend([symbols.of(name), value]);
                }
            }
            if let [scratch] = series.samples.as_mut_slice() {
                let start_timestamp = began.min(timestamp.saturating_sub(1));
                *scratch = Sample { value: value(sample.figure), timestamp, start_timestamp };
            }
            let (help_ref, unit_ref) = (symbols.of(sample.metric.help()), symbols.of(UNIT));
            series.metadata = Some(Metadata { kind: COUNTER, help_ref, unit_ref });
        }
        self.scratch.encode(&mut self.series).expect("a vector grows as needed");
    }

    /// Symbols first: a receiver that goes through it once knows what the series refer to.
    pub(super) fn message(&mut self) -> &[u8] {
        self.message.clear();
        for symbol in self.symbols.iter() {
            encode_key(SYMBOLS, WireType::LengthDelimited, &mut self.message);
            encode_varint(symbol.len() as u64, &mut self.message);
            self.message.put_slice(symbol.as_bytes());
        }
        self.message.extend_from_slice(&self.series);
        &self.message
    }
}
