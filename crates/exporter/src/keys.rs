//! Keys of the configuration that nobody knows, where they stand, and what was probably meant.
//!
//! The tool that this one replaces passes over them, so a running installation must not stop for one: `run` warns,
//! `check` refuses.

use std::fmt;

use egressd_service::yaml::{self, YamlError};
use egressd_sink::{BASIC_AUTH_KEYS, HTTP_KEYS, Key, REMOTE_WRITE_KEYS, SINK_KEYS, TLS_KEYS};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The keys at the top.
pub(crate) const FILE_KEYS: &[Key] = &[
    Key {
        name: "exportInterval",
        default: "15s, http 60s",
        meaning: "Time between two pushes of each sink. The variable `EXPORT_INTERVAL` goes before it.",
    },
    Key {
        name: "sinks",
        default: "none",
        meaning: "Where to write: a map of names of your own, each with one kind.",
    },
    Key { name: "podNamespace", default: "none", meaning: "Of the original; means nothing here." },
    Key { name: "podIP", default: "none", meaning: "Of the original; means nothing here." },
    Key {
        name: "collectorsConcurrentFetchCount",
        default: "none",
        meaning: "Of the original, which fetched from collectors; means nothing here and is warned about.",
    },
    Key {
        name: "collectorFetchTimeout",
        default: "none",
        meaning: "Of the original, which fetched from collectors; means nothing here and is warned about.",
    },
];

/// How alike two keys are, from 0 to 1, for one to be proposed in place of the other.
const LIKENESS_MIN: f64 = 0.7;

/// A key that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownKey {
    /// Where it is, `sinks.prom.prom_remote_write.lables` for one.
    pub(crate) path: String,
    /// Its line in the file, from 1.
    pub(crate) line: u64,
    /// The known key that is most like it.
    pub(crate) nearest: Option<&'static str>,
    /// Every key that is known there.
    pub(crate) known: &'static [Key],
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} is not known, ", self.line, self.path)?;
        if let Some(nearest) = self.nearest {
            return write!(f, "did you mean {nearest}");
        }
        let known: Vec<&str> = self.known.iter().map(|key| key.name).collect();
        write!(f, "known are {}", known.join(", "))
    }
}

/// What may stand under a key.
#[derive(Clone, Copy)]
enum Shape {
    /// These keys.
    Keys(&'static [Key], fn(&str) -> Self),
    /// Names of the operator's own, all of one shape.
    Names(&'static Self),
    /// Anything.
    Any,
}

const FILE: Shape = Shape::Keys(FILE_KEYS, |key| if key == "sinks" { SINKS } else { Shape::Any });
const SINKS: Shape = Shape::Names(&SINK);
const SINK: Shape = Shape::Keys(SINK_KEYS, |key| match key {
    "http" => Shape::Keys(HTTP_KEYS, access),
    _ => Shape::Keys(REMOTE_WRITE_KEYS, access),
});

/// What stands under a key of either kind.
fn access(key: &str) -> Shape {
    match key {
        "basicAuth" => Shape::Keys(BASIC_AUTH_KEYS, |_| Shape::Any),
        "tls" => Shape::Keys(TLS_KEYS, |_| Shape::Any),
        _ => Shape::Any,
    }
}

/// The unknown keys of a configuration, in its order.
///
/// # Errors
/// It is not YAML.
pub(crate) fn unknown_keys(text: &str) -> Result<Vec<UnknownKey>, YamlError> {
    let mut found = Vec::new();
    let Tree(entries) = yaml::read::<Option<Tree>>(text)?.unwrap_or(Tree(Vec::new()));
    collect(&Tree(entries), FILE, "", &mut found);
    Ok(found)
}

fn collect(tree: &Tree, shape: Shape, path: &str, found: &mut Vec<UnknownKey>) {
    let Tree(entries) = tree;
    for (key, below) in entries {
        let path = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
        match shape {
            Shape::Any => {}
            Shape::Names(shape) => collect(below, *shape, &path, found),
            Shape::Keys(known, _) if known.iter().all(|known| known.name != key.value) => {
                found.push(UnknownKey {
                    path,
                    line: key.defined.line(),
                    nearest: nearest(&key.value, known),
                    known,
                });
            }
            Shape::Keys(_, shape_of) => collect(below, shape_of(&key.value), &path, found),
        }
    }
}

fn nearest(key: &str, known: &'static [Key]) -> Option<&'static str> {
    let likeness = |candidate: &str| {
        strsim::normalized_damerau_levenshtein(&key.to_lowercase(), &candidate.to_lowercase())
    };
    let best =
        known.iter().map(|key| key.name).max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(best) >= LIKENESS_MIN).then_some(best)
}

/// The keys of a document with their places; what is not a map has none.
struct Tree(Vec<(Spanned<String>, Self)>);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Tree(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a key that nobody knows is named with its line and what was probably meant; the operator's own names
    /// are none.
    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let text = "exportIntervall: 15s
sinks:
  my-own-name:
    prom_remote_write:
      url: http://x
      lables: { anything: goes }
      labels: { anything: goes, temporality: too, number: 12e4567 }
      colour: delta
      basicAuth: { user: a }
      tls: { ca_file: b }
  other:
    htpp: { url: http://x }
colour: green
podIP: 1
";
        let found: Vec<String> = unknown_keys(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "line 1: exportIntervall is not known, did you mean exportInterval",
                "line 6: sinks.my-own-name.prom_remote_write.lables is not known, did you mean labels",
                "line 8: sinks.my-own-name.prom_remote_write.colour is not known, \
                 known are url, timeout, headers, basicAuth, bearerToken, bearerTokenFile, tls, concurrentRequests, labels, \
                 sendReceivedBytesMetric, protocol, temporality",
                "line 9: sinks.my-own-name.prom_remote_write.basicAuth.user is not known, \
                 known are username, password, passwordFile",
                "line 10: sinks.my-own-name.prom_remote_write.tls.ca_file is not known, did you mean caFile",
                "line 12: sinks.other.htpp is not known, did you mean http",
                "line 13: colour is not known, known are exportInterval, sinks, podNamespace, podIP, \
                 collectorsConcurrentFetchCount, collectorFetchTimeout",
            ]
        );
    }

    /// Goal: every key of the tables is one that is understood.
    #[test]
    fn known_keys_are_understood() {
        for (keys, parse) in [
            (
                HTTP_KEYS,
                (|yaml| serde_saphyr::from_str::<egressd_sink::RawHttp>(yaml).is_ok()) as fn(&str) -> bool,
            ),
            (REMOTE_WRITE_KEYS, |yaml| serde_saphyr::from_str::<egressd_sink::RawRemoteWrite>(yaml).is_ok()),
            (SINK_KEYS, |yaml| serde_saphyr::from_str::<egressd_sink::RawSink>(yaml).is_ok()),
            (BASIC_AUTH_KEYS, |yaml| serde_saphyr::from_str::<egressd_sink::RawBasicAuth>(yaml).is_ok()),
            (TLS_KEYS, |yaml| serde_saphyr::from_str::<egressd_sink::RawTls>(yaml).is_ok()),
        ] {
            for key in keys {
                // A list is the wrong type for each of them, and no complaint about a key that is passed over.
                assert!(!parse(&format!("{}: [[1]]", key.name)), "{}", key.name);
            }
        }
    }
}
