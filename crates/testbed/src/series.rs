//! Series as Prometheus's query API gives them back, and what their points add up to.
//!
//! Source: Prometheus's HTTP API, `resultType` vector (one point a series) and matrix.
//! Invariant: a value that is no whole number is an error, as is a series that is no flow.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::claims::{NAME_LABEL, Names, key_of_series, volume_of};
use crate::error::Error;
use crate::exposition::whole;
use crate::flows::{FlowKey, Flows};

/// A series and some of its points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The metric; empty where an expression has taken it off.
    pub name: String,
    /// All labels but the name.
    pub labels: BTreeMap<String, String>,
    /// Oldest first.
    pub points: Vec<Point>,
}

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Since 1970, in whole milliseconds.
    pub at: Duration,
    /// The value.
    pub value: u64,
}

impl Series {
    /// The newest value, zero without a point.
    #[must_use]
    pub fn last_value(&self) -> u64 {
        self.points.last().map_or(0, |point| point.value)
    }

    /// What all points add up to, over restarts of the counter: a value lower than the one before it counts whole.
    /// The first one only begins, so a series without its zero misses its first value here, as in Prometheus.
    #[must_use]
    pub fn increments(&self) -> u64 {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        pairs.map(|(before, point)| point.value.checked_sub(before.value).unwrap_or(point.value)).sum()
    }

    /// What all points add up to where each is growth of its own.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.points.iter().map(|point| point.value).sum()
    }

    /// The flow that it is of; `None` when its labels name none.
    #[must_use]
    pub fn key(&self) -> Option<FlowKey> {
        key_of_series(&self.labels)
    }
}

/// Series as flows, each with the bytes that `bytes` finds in it.
///
/// # Errors
/// [`Error::Malformed`] with a series of another metric or without a flow.
pub fn flows_by(bytes: fn(&Series) -> u64, series: &[Series]) -> Result<Flows, Error> {
    let mut flows = Flows::default();
    for one in series {
        let flow = one.key().zip(volume_of(&one.name));
        let (key, volume) = flow.ok_or_else(|| malformed(format!("{one:?}")))?;
        flows.add(key, volume(bytes(one)));
    }
    Ok(flows)
}

#[derive(Deserialize)]
struct Element {
    metric: Names,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Reads `data.result` of an answer.
pub(crate) fn series_in(result: Value) -> Result<Vec<Series>, Error> {
    let elements: Vec<Element> =
        serde_json::from_value(result).map_err(|error| malformed(error.to_string()))?;
    let series = |Element { metric: mut labels, value, values }: Element| {
        let name = labels.remove(NAME_LABEL).unwrap_or_default();
        let point = |(at, text): (f64, String)| {
            point(at, &text).ok_or_else(|| malformed(format!("{name}{labels:?} {text} at {at}")))
        };
        let points = value.into_iter().chain(values).map(point).collect::<Result<_, _>>()?;
        Ok(Series { name, labels, points })
    };
    elements.into_iter().map(series).collect()
}

/// A time has milliseconds, which its double may miss by less than one.
fn point(at: f64, text: &str) -> Option<Point> {
    let rounded = Duration::try_from_secs_f64(at).ok()? + Duration::from_micros(500);
    let at = Duration::from_millis(u64::try_from(rounded.as_millis()).ok()?);
    Some(Point { at, value: whole(text)? })
}

fn malformed(found: String) -> Error {
    Error::Malformed { what: "Prometheus's series", found }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::claims::tests::key;
    use crate::claims::{RECEIVED, TRANSMITTED};
    use crate::compare::Comparison;
    use crate::flows::Volume;

    fn series(name: &str, values: &[&str]) -> Value {
        let points: Vec<_> = (0..)
            .zip(values)
            .map(|(step, value)| json!([1_700_000_000.123 + f64::from(step), value]))
            .collect();
        json!({
            "metric": {
                "__name__": name, "dst_ip": "10.244.1.3", "dst_namespace": "shop", "dst_pod": "client-0",
                "proto": "TCP", "src_ip": "10.244.1.2", "src_namespace": "shop", "src_node": "node-a",
                "src_pod": "web-0",
            },
            "values": points,
        })
    }

    /// Goal: vectors and ranges are read to the millisecond and the byte, and what is not whole is an error.
    #[test]
    fn points_are_exact_or_an_error() {
        let ranges = series_in(json!([series(TRANSMITTED, &["0", "1.5e+06", "9007199254740993"])])).unwrap();
        let at = |seconds| Duration::from_millis(1_700_000_000_123) + Duration::from_secs(seconds);
        let points = [(0, 0), (1, 1_500_000), (2, 9_007_199_254_740_993)];
        assert_eq!(ranges[0].points, points.map(|(seconds, value)| Point { at: at(seconds), value }));

        let vector = series_in(json!([{ "metric": { "a": "b" }, "value": [1_700_000_000, "7"] }])).unwrap();
        let at = Duration::from_secs(1_700_000_000);
        let labels = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(vector, [Series { name: String::new(), labels, points: vec![Point { at, value: 7 }] }]);

        for value in ["3.5", "NaN", "-1", "+Inf"] {
            assert!(series_in(json!([series(TRANSMITTED, &[value])])).is_err(), "{value}");
        }
    }

    /// Goal: growth is added up over restarts, and a first value without a zero is missed.
    #[test]
    fn increments_add_up_over_restarts() {
        for (values, last, increments) in [
            (&["0", "10", "10", "25"][..], 25, 25),
            (&["0", "10", "0", "4", "6"], 6, 16),
            (&["0", "10", "3", "4"], 4, 14),
            (&["5", "10"], 10, 5),
            (&["0"], 0, 0),
            (&[], 0, 0),
        ] {
            let [series] = &series_in(json!([series(TRANSMITTED, values)])).unwrap()[..] else { panic!() };
            assert_eq!((series.last_value(), series.increments()), (last, increments), "{values:?}");
        }
    }

    /// Goal: the comparison with series can fail: by one byte of either metric, by a metric, by a name.
    #[test]
    fn one_byte_is_a_difference() {
        let mut truth = Flows::default();
        truth.add(key(), Volume { tx_bytes: 10, rx_bytes: 7, ..Volume::default() });
        for (name, transmitted, received, difference) in [
            ("equal", &["0", "10"][..], &["0", "7"][..], 0),
            ("one byte too few", &["0", "9"], &["0", "7"], 1),
            ("one byte too many", &["0", "10"], &["0", "8"], 1),
            ("without its zero", &["4", "10"], &["0", "7"], 4),
        ] {
            let result = json!([series(TRANSMITTED, transmitted), series(RECEIVED, received)]);
            let flows = flows_by(Series::increments, &series_in(result).unwrap()).unwrap();
            assert_eq!(Comparison::of(&truth, &flows).difference_bytes(), difference, "{name}");
        }

        let mut renamed = series_in(json!([series(TRANSMITTED, &["10"]), series(RECEIVED, &["7"])])).unwrap();
        renamed[0].labels.insert("dst_pod".to_owned(), "client-1".to_owned());
        let flows = flows_by(Series::last_value, &renamed).unwrap();
        assert_eq!(Comparison::of(&truth, &flows).difference_bytes(), 20);
        renamed[0].name = "egressd_undirected_bytes_total".to_owned();
        assert!(flows_by(Series::last_value, &renamed).is_err());
    }
}
