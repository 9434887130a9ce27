//! Prometheus's text format, as far as the daemons' pages use it.
//!
//! Source: the exposition format of Prometheus (text, version 0.0.4) and OpenMetrics 1.0, which agree on a sample's
//! line. Comments, `# EOF` included, are passed over; everything else must be a sample.

use std::collections::BTreeMap;

use crate::error::Error;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// As printed.
    pub(crate) value: String,
}

impl Sample {
    /// [`whole`] of the value, or the sample as it could not be.
    pub(crate) fn whole(&self) -> Result<u64, Error> {
        whole(&self.value).ok_or_else(|| malformed(&format!("{self:?}")))
    }
}

/// A value as a whole number; `None` for anything else. Counters may be printed as `1.5e+06`.
pub(crate) fn whole(value: &str) -> Option<u64> {
    if let Ok(whole) = value.parse() {
        return Some(whole);
    }
    let value: f64 = value.parse().ok()?;
    (value.fract() == 0.0).then(|| format!("{value:.0}").parse().ok())?
}

/// The samples of a text, or the first line that is none.
pub(crate) fn parse(text: &str) -> Result<Vec<Sample>, Error> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| parse_line(line).ok_or_else(|| malformed(line)))
        .collect()
}

/// The sum of the samples of that name which carry all of `labels`; `None` when there is none.
pub(crate) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<Option<u64>, Error> {
    let mut sum = None;
    for sample in parse(text)?.iter().filter(|sample| sample.name == name) {
        let carries =
            |(label, value): &(&str, &str)| sample.labels.get(*label).is_some_and(|found| found == value);
        if labels.iter().all(carries) {
            sum = Some(sum.unwrap_or(0) + sample.whole()?);
        }
    }
    Ok(sum)
}

/// The value of the one sample of that name, which has no labels; `None` when there is none.
pub(crate) fn value(text: &str, name: &str) -> Result<Option<f64>, Error> {
    let samples = parse(text)?;
    let sample = samples.iter().find(|sample| sample.name == name && sample.labels.is_empty());
    sample.map(|sample| sample.value.parse().map_err(|_| malformed(&format!("{sample:?}")))).transpose()
}

pub(crate) fn malformed(found: &str) -> Error {
    Error::Malformed { what: "a page of metrics", found: found.to_owned() }
}

fn parse_line(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches([',', ' ']);
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = inner.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.to_owned(), value);
            inner = after;
        }
    }
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample { name: name.to_owned(), labels, value: value.to_owned() })
}

/// Up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, labels: &[(&str, &str)], value: &str) -> Sample {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sample { name: name.to_owned(), labels, value: value.to_owned() }
    }

    /// Goal: samples are read with their labels unescaped; a line that is none is named.
    #[test]
    fn samples_are_read_or_named() {
        let text = "# HELP a_total x\na_total{b=\"c\",d=\"e \\\"f\\\" \\\\ {g}\\n\"} 12 1700000000\n\nup 1\n\
                    a_total{} 3.5\n# EOF\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                sample("a_total", &[("b", "c"), ("d", "e \"f\" \\ {g}\n")], "12"),
                sample("up", &[], "1"),
                sample("a_total", &[], "3.5"),
            ]
        );
        for line in ["a_total{b=\"c\" 1", "a_total{b=c} 1", "a_total", "a_total{b=\"c\"}"] {
            assert!(parse(line).unwrap_err().chain().ends_with(line), "{line}");
        }
    }

    /// Goal: a counter printed as a float is read exactly, and a fraction is not rounded.
    #[test]
    fn whole_values_are_exact() {
        for (value, expected) in [
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("1.5e+06", Some(1_500_000)),
            ("7.0", Some(7)),
            ("3.5", None),
            ("-1", None),
            ("NaN", None),
        ] {
            assert_eq!(whole(value), expected, "{value}");
        }
    }

    /// Goal: a gauge is read as it is printed, a name that is not there is none, and no number is an error.
    #[test]
    fn a_value_is_of_the_one_sample_of_its_name() {
        let text = "f_seconds 37.25\nf_seconds_sum{a=\"b\"} 1\nbad x\n";
        assert_eq!(value(text, "f_seconds").unwrap(), Some(37.25));
        assert_eq!(value(text, "f_seconds_sum").unwrap(), None);
        value(text, "bad").unwrap_err();
    }

    /// Goal: a sum is of what was asked for, nothing is not zero, and a fraction is an error.
    #[test]
    fn a_sum_is_of_matching_samples_only() {
        let text = "a{b=\"1\",c=\"x\"} 5\na{b=\"2\",c=\"x\"} 7\nab{b=\"1\"} 100\nf 0.5\n";
        for (name, labels, expected) in [
            ("a", &[][..], Some(12)),
            ("a", &[("b", "1"), ("c", "x")], Some(5)),
            ("a", &[("b", "3")], None),
            ("c", &[], None),
        ] {
            assert_eq!(sum(text, name, labels).unwrap(), expected, "{name} {labels:?}");
        }
        assert!(sum(text, "f", &[]).is_err());
    }
}
