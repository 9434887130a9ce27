//! A receiver of remote write 2.0 by its specification: what it takes, what it refuses and with which words.
//!
//! Source: the specification of Remote-Write 2.0 and `io/prometheus/write/v2/types.proto`, both of rc.4. Bodies are read
//! by protoc; snappy is undone by the library that the daemons use too: what it got wrong would not decode. Exemplars
//! and histograms are not in the schema here, and refused like everything else that is not.
//! Invariant: a request is taken whole or not at all, and what was taken is what a store would have: per series, each
//! sample later than the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::claims::{NAME_LABEL, Names};
use crate::exposition::whole;
use crate::http_sink::Request;
use crate::ingestion::field_of;
use crate::namespace::Namespace;
use crate::series::{Point, Series};

pub(crate) const SCHEMA: &str = "syntax = \"proto3\";
package io.prometheus.write.v2;
message Request { reserved 1 to 3; repeated string symbols = 4; repeated TimeSeries timeseries = 5; }
message TimeSeries {
  repeated uint32 labels_refs = 1;
  repeated Sample samples = 2;
  Metadata metadata = 5;
  reserved 6;
}
message Sample { double value = 1; int64 timestamp = 2; int64 start_timestamp = 3; }
message Metadata {
  enum MetricType {
    METRIC_TYPE_UNSPECIFIED = 0;
    METRIC_TYPE_COUNTER = 1;
    METRIC_TYPE_GAUGE = 2;
  }
  MetricType type = 1;
  uint32 help_ref = 3;
  uint32 unit_ref = 4;
}
";
pub(crate) const SCHEMA_FILE: &str = "remote_write_2.proto";
const MESSAGE: &str = "io.prometheus.write.v2.Request";

/// A request that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) words: String,
}

/// What was taken so far.
#[derive(Debug)]
pub(crate) struct Receiver {
    namespace: Namespace,
    schema: PathBuf,
    taken: BTreeMap<Names, Vec<Taken>>,
}

/// A sample as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    timestamp: i64,
    /// `None` ends the series.
    value: Option<u64>,
}

impl Receiver {
    /// Nothing yet; `schema` is a file with [`SCHEMA`].
    pub(crate) fn new(namespace: Namespace, schema: PathBuf) -> Self {
        Self { namespace, schema, taken: BTreeMap::new() }
    }

    /// Takes a request; the number of its samples.
    pub(crate) fn take(&mut self, request: &Request) -> Result<usize, Refusal> {
        check_headers(request)?;
        let message = snap::raw::Decoder::new().decompress_vec(&request.body);
        let message = message.map_err(|error| refused(400, &error.to_string()))?;
        self.merge(&self.decode(&message).map_err(|words| refused(400, &words))?)
    }

    fn decode(&self, message: &[u8]) -> Result<Vec<(Names, Taken)>, String> {
        let mut protoc = Command::new("protoc");
        let directory = self.schema.parent().unwrap_or(&self.schema);
        protoc.arg(format!("--decode={MESSAGE}")).arg(format!("--proto_path={}", directory.display()));
        protoc.arg(&self.schema);
        let text = self.namespace.run(protoc, message).map_err(|error| error.chain())?;
        samples_in(&String::from_utf8_lossy(&text))
    }

    fn merge(&mut self, samples: &[(Names, Taken)]) -> Result<usize, Refusal> {
        let mut taken = self.taken.clone();
        for (labels, sample) in samples {
            let series = taken.entry(labels.clone()).or_default();
            if series.last().is_some_and(|last| last.timestamp >= sample.timestamp) {
                return Err(refused(
                    400,
                    &format!("{labels:?}: {sample:?} is not later than {:?}", series.last()),
                ));
            }
            series.push(*sample);
        }
        self.taken = taken;
        Ok(samples.len())
    }

    /// Every series, without the markers of ends.
    pub(crate) fn series(&self) -> Vec<Series> {
        let point = |taken: &Taken| {
            let at = Duration::from_millis(u64::try_from(taken.timestamp).ok()?);
            Some(Point { at, value: taken.value? })
        };
        let series = self.taken.iter().map(|(labels, taken)| {
            let mut labels = labels.clone();
            let name = labels.remove(NAME_LABEL).unwrap_or_default();
            Series { name, labels, points: taken.iter().filter_map(point).collect() }
        });
        series.collect()
    }
}

fn refused(status: u16, words: &str) -> Refusal {
    Refusal { status, words: words.to_owned() }
}

fn check_headers(request: &Request) -> Result<(), Refusal> {
    let content_type = format!("application/x-protobuf;proto={MESSAGE}");
    for (name, expected, status) in [
        ("content-type", Some(content_type.as_str()), 415),
        ("content-encoding", Some("snappy"), 415),
        ("x-prometheus-remote-write-version", Some("2.0.0"), 400),
        ("user-agent", None, 400),
    ] {
        let found = request.header(name);
        if found.is_none() || expected.is_some() && found != expected {
            return Err(refused(status, &format!("{name}: {found:?}")));
        }
    }
    if request.method == "POST" { Ok(()) } else { Err(refused(405, &request.method)) }
}

/// A message in protobuf's text format: fields as they come, messages among them.
#[derive(Debug, Default)]
struct Message {
    fields: Vec<(String, String)>,
    messages: Vec<(String, Self)>,
}

impl Message {
    /// Up to its closing brace, or for the outermost to the end.
    fn read<'t>(lines: &mut impl Iterator<Item = &'t str>, is_inner: bool) -> Result<Self, String> {
        let mut message = Self::default();
        while let Some(line) = lines.next() {
            match (line.strip_suffix(" {"), line) {
                (Some(name), _) => message.messages.push((name.to_owned(), Self::read(lines, true)?)),
                (None, "}") if is_inner => return Ok(message),
                (None, _) => message.fields.push(field_of(line).ok_or_else(|| line.to_owned())?),
            }
        }
        if is_inner { Err("it is cut off".to_owned()) } else { Ok(message) }
    }

    fn all<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// A number, which is left out when it is zero.
    fn number<T: std::str::FromStr + Default>(&self, name: &str) -> Result<T, String> {
        let text = self.all(name).last();
        text.map_or(Ok(T::default()), |text| text.parse().map_err(|_| format!("{name}: {text}")))
    }
}

/// The samples of a request in protobuf's text format, or why it is to be refused.
fn samples_in(text: &str) -> Result<Vec<(Names, Taken)>, String> {
    let request = Message::read(&mut text.lines().map(str::trim), false)?;
    let symbols: Vec<&str> = request.all("symbols").collect();
    if symbols.first() != Some(&"") || symbols.iter().collect::<BTreeSet<_>>().len() != symbols.len() {
        return Err("symbols do not begin with the empty one, or repeat one".to_owned());
    }
    let mut samples = Vec::new();
    for (_, series) in &request.messages {
        let labels = labels_of(series, &symbols)?;
        let is_counter = is_counter(series, &symbols)?;
        let before = samples.len();
        for (_, sample) in series.messages.iter().filter(|(name, _)| name == "samples") {
            samples.push((labels.clone(), taken(sample, is_counter)?));
        }
        if samples.len() == before {
            return Err(format!("{labels:?} has no sample"));
        }
    }
    Ok(samples)
}

fn symbol<'s>(symbols: &[&'s str], at: &str) -> Result<&'s str, String> {
    let found = at.parse::<usize>().ok().and_then(|at| symbols.get(at));
    found.copied().ok_or_else(|| format!("symbol {at} is not there"))
}

fn labels_of(series: &Message, symbols: &[&str]) -> Result<Names, String> {
    let words = series.all("labels_refs").map(|at| symbol(symbols, at)).collect::<Result<Vec<_>, _>>()?;
    let pairs = words.chunks(2);
    let is_sorted = pairs.clone().map(|pair| pair[0]).is_sorted_by(|one, next| one < next);
    if words.len() % 2 != 0
        || words.contains(&"")
        || !is_sorted
        || !words.iter().step_by(2).any(|name| *name == NAME_LABEL)
    {
        return Err(format!("labels {words:?}"));
    }
    Ok(pairs.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
}

fn is_counter(series: &Message, symbols: &[&str]) -> Result<bool, String> {
    let metadata = series.messages.iter().find(|(name, _)| name == "metadata");
    let (_, metadata) = metadata.ok_or("a series has no metadata")?;
    for reference in ["help_ref", "unit_ref"] {
        metadata.all(reference).try_for_each(|at| symbol(symbols, at).map(drop))?;
    }
    match metadata.all("type").last() {
        Some("METRIC_TYPE_COUNTER") => Ok(true),
        Some("METRIC_TYPE_GAUGE") => Ok(false),
        other => Err(format!("type {other:?}")),
    }
}

/// A counter says when it began, before the sample.
fn taken(sample: &Message, is_counter: bool) -> Result<Taken, String> {
    let (start, timestamp) = (sample.number::<i64>("start_timestamp")?, sample.number("timestamp")?);
    if is_counter && !(0 < start && start < timestamp) {
        return Err(format!("began at {start}, sampled at {timestamp}"));
    }
    let value = sample.all("value").last().unwrap_or("0");
    match whole(value) {
        None if value != "nan" => Err(format!("value {value}")),
        value => Ok(Taken { timestamp, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "symbols: \"\"
symbols: \"__name__\"
symbols: \"a_total\"
symbols: \"team\"
symbols: \"core\"
symbols: \"What it is.\"
timeseries {
  labels_refs: 1
  labels_refs: 2
  labels_refs: 3
  labels_refs: 4
  samples {
    value: 1.5e+06
    timestamp: 2000
    start_timestamp: 1000
  }
  metadata {
    type: METRIC_TYPE_COUNTER
    help_ref: 5
  }
}
";

    /// Goal: a request is read by its symbols; a zero is one though it is not written, and an end is no value.
    #[test]
    fn requests_are_read_by_their_symbols() {
        let labels: Names = [("__name__", "a_total"), ("team", "core")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        for (from, to, value) in [
            ("", "", Some(1_500_000)),
            ("value: 1.5e+06\n", "", Some(0)),
            ("value: 1.5e+06", "value: nan", None),
        ] {
            let samples = samples_in(&REQUEST.replace(from, to)).unwrap();
            assert_eq!(samples, [(labels.clone(), Taken { timestamp: 2000, value })]);
        }
    }

    /// Goal: whatever the specification rules out is refused.
    #[test]
    fn what_the_specification_rules_out_is_refused() {
        for (from, to) in [
            ("symbols: \"\"\n", ""),
            ("symbols: \"core\"", "symbols: \"team\""),
            ("symbols: \"core\"\n", ""),
            ("symbols: \"core\"", "2: \"core\""),
            ("labels_refs: 4\n", ""),
            ("labels_refs: 4", "labels_refs: 0"),
            ("labels_refs: 4", "labels_refs: 6"),
            ("labels_refs: 1\n  labels_refs: 2\n", ""),
            ("labels_refs: 3", "labels_refs: 1"),
            ("symbols: \"team\"", "symbols: \"Team\""),
            ("start_timestamp: 1000", ""),
            ("start_timestamp: 1000", "start_timestamp: 2000"),
            ("timestamp: 2000", "timestamp: soon"),
            ("value: 1.5e+06", "value: 0.5"),
            ("value: 1.5e+06", "value: -1"),
            ("samples {", "exemplars {"),
            ("  samples {\n    value: 1.5e+06\n    timestamp: 2000\n    start_timestamp: 1000\n  }\n", ""),
            ("type: METRIC_TYPE_COUNTER", ""),
            ("type: METRIC_TYPE_COUNTER", "type: 9"),
            ("help_ref: 5", "help_ref: 6"),
            ("metadata {", "6 {"),
            ("}\n}", "}"),
        ] {
            let text = REQUEST.replace(from, to);
            assert_ne!(text, REQUEST, "{from}");
            assert!(samples_in(&text).is_err(), "{text}");
        }
    }

    /// Goal: only requests that say themselves to be of 2.0 are taken for such.
    #[test]
    fn headers_say_what_a_request_is() {
        let good = Request {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: [
                ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
                ("content-encoding", "snappy"),
                ("x-prometheus-remote-write-version", "2.0.0"),
                ("user-agent", "a"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            body: Vec::new(),
            status: 0,
        };
        assert_eq!(check_headers(&good), Ok(()));
        for (at, value, status) in [
            (0, Some("application/x-protobuf"), 415),
            (1, Some("gzip"), 415),
            (2, Some("0.1.0"), 400),
            (2, None, 400),
            (3, None, 400),
        ] {
            let mut request = good.clone();
            match value {
                Some(value) => value.clone_into(&mut request.headers[at].1),
                None => drop(request.headers.remove(at)),
            }
            assert_eq!(check_headers(&request).unwrap_err().status, status);
        }
        let get = Request { method: "GET".to_owned(), ..good };
        assert_eq!(check_headers(&get).unwrap_err().status, 405);
    }
}
