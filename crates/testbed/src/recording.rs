//! What a receiver of remote write has been sent, read by protoc and told as series.
//!
//! Source of the schema: remote write 1.0, `prompb/remote.proto` and `prompb/types.proto`, the fields of it that every
//! receiver must know. Snappy is undone by the library that the daemons use too: what it got wrong would not decode.
//! Invariant: every accepted body counts, whole; one that does not decode, or has more in it, is an error.

use std::collections::BTreeMap;
use std::mem;
use std::process::Command;
use std::time::Duration;

use crate::claims::{NAME_LABEL, Names};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::exposition::whole;
use crate::http_sink::HttpSink;
use crate::ingestion::field_of;
use crate::series::{Point, Series};
use crate::topology::CONTROL;

const SCHEMA: &str = "syntax = \"proto3\";
message WriteRequest { repeated TimeSeries timeseries = 1; }
message TimeSeries { repeated Label labels = 1; repeated Sample samples = 2; }
message Label { string name = 1; string value = 2; }
message Sample { double value = 1; int64 timestamp = 2; }
";
const SCHEMA_FILE: &str = "remote_write.proto";

/// The series of every body that `receiver` has accepted, samples in the order in which they came.
///
/// # Errors
/// [`Error::Malformed`] for a body that is not snappy's or is no request, [`Error::Command`] when protoc refuses.
pub fn recorded(cluster: &Cluster, receiver: &HttpSink) -> Result<Vec<Series>, Error> {
    // Messages one after another are one message with their series joined.
    let mut requests = Vec::new();
    for request in receiver.accepted() {
        let message = snap::raw::Decoder::new().decompress_vec(&request.body);
        requests.extend(message.map_err(|error| malformed(&error.to_string()))?);
    }
    let schema = cluster.write_file(SCHEMA_FILE, SCHEMA)?;
    let mut protoc = Command::new("protoc");
    protoc.arg("--decode=WriteRequest");
    protoc.arg(format!("--proto_path={}", cluster.directory().display())).arg(schema);
    let text = cluster.namespace(CONTROL)?.run(protoc, &requests)?;
    series_in(&String::from_utf8_lossy(&text))
}

/// Reads requests in protobuf's text format, in which fields that are zero are left out.
fn series_in(text: &str) -> Result<Vec<Series>, Error> {
    let mut found: BTreeMap<Names, Vec<Point>> = BTreeMap::new();
    let (mut labels, mut points, mut fields) = (Names::new(), Vec::new(), Names::new());
    let mut open = Vec::new();
    for line in text.lines().map(str::trim) {
        let bad = || malformed(line);
        match (line.strip_suffix(" {"), line) {
            (Some(message), _) => open.push(message),
            (None, "}") => match open.pop().ok_or_else(bad)? {
                "labels" => {
                    let [name, value] = ["name", "value"].map(|field| fields.remove(field));
                    labels.insert(name.ok_or_else(bad)?, value.ok_or_else(bad)?);
                }
                "samples" => points.push(point(&mem::take(&mut fields)).ok_or_else(bad)?),
                "timeseries" => {
                    found.entry(mem::take(&mut labels)).or_default().append(&mut points);
                }
                _ => return Err(bad()),
            },
            (None, _) => fields.extend([field_of(line).ok_or_else(bad)?]),
        }
    }
    if !open.is_empty() || !fields.is_empty() {
        return Err(malformed(text));
    }
    let series = |(mut labels, points): (Names, _)| {
        let name = labels.remove(NAME_LABEL).unwrap_or_default();
        Series { name, labels, points }
    };
    Ok(found.into_iter().map(series).collect())
}

fn point(fields: &Names) -> Option<Point> {
    let field = |name: &str| fields.get(name).map_or("0", String::as_str);
    Some(Point { at: Duration::from_millis(field("timestamp").parse().ok()?), value: whole(field("value"))? })
}

fn malformed(found: &str) -> Error {
    Error::Malformed { what: "a remote-write request", found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: &str = "timeseries {
  labels {
    name: \"__name__\"
    value: \"a_total\"
  }
  labels {
    name: \"team\"
    value: \"core\"
  }
  samples {
    timestamp: 1000
  }
}
";

    /// Goal: samples of a series are joined over requests, and a zero is one though it is not written.
    #[test]
    fn requests_become_series() {
        let later = SERIES.replace("timestamp: 1000", "value: 1.5e+06\n    timestamp: 2000");
        let other = later.replace("core", "other");
        let point = |seconds, value| Point { at: Duration::from_secs(seconds), value };
        let series = |team: &str, points| Series {
            name: "a_total".to_owned(),
            labels: [("team".to_owned(), team.to_owned())].into(),
            points,
        };
        assert_eq!(
            series_in(&format!("{SERIES}{later}{other}")).unwrap(),
            [
                series("core", vec![point(1, 0), point(2, 1_500_000)]),
                series("other", vec![point(2, 1_500_000)])
            ]
        );
    }

    /// Goal: what is cut off, outside of the schema or no whole number is an error, never left out.
    #[test]
    fn what_is_no_series_is_an_error() {
        for (from, to) in [
            ("timestamp: 1000", "timestamp: 1000\n    value: 0.5"),
            ("timestamp: 1000", "timestamp: -1000"),
            ("timestamp: 1000", "9: 1"),
            ("name: \"team\"", ""),
            ("samples {", "exemplars {"),
            ("samples {", ""),
            ("}\n}", "}"),
        ] {
            let text = SERIES.replace(from, to);
            assert!(matches!(series_in(&text), Err(Error::Malformed { .. })), "{text}");
        }
        assert_eq!(series_in("").unwrap(), []);
    }
}
