//! The configuration file: the original's keys, environment over file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egressd_service::duration::{DurationError, parse_go_duration};
use egressd_service::yaml::{self, YamlError};
use egressd_sink::{RawSink, SinkConfig, SinkError, Warning};
use serde::Deserialize;
use tracing::warn;

use crate::keys::{UnknownKey, unknown_keys};

/// Where the original's chart mounts it.
const DEFAULT_PATH: &str = "/etc/egressd/config/config.yaml";

/// Variables of the pull model.
const PULL_VARIABLES: [&str; 2] = ["COLLECTORS_CONCURRENT_FETCH_COUNT", "COLLECTOR_FETCH_TIMEOUT"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    export_interval: Option<String>,
    /// Pull model only.
    collectors_concurrent_fetch_count: Option<u32>,
    /// Pull model only.
    collector_fetch_timeout: Option<String>,
    /// An empty `sinks:` is a null.
    sinks: Option<BTreeMap<String, RawSink>>,
}

/// What the file says, validated.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) sinks: Vec<SinkConfig>,
}

/// Why the configuration cannot be used. The operator must correct it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read the configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the configuration {path} is not understood")]
    Shape {
        path: PathBuf,
        #[source]
        source: YamlError,
    },
    #[error("the configuration {path} has keys that nobody knows: {}", list(.keys))]
    UnknownKeys { path: PathBuf, keys: Vec<UnknownKey> },
    #[error("the configuration is wrong: {}", list(.0))]
    Wrong(Vec<Problem>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("exportInterval: {0}")]
    ExportInterval(DurationError),
    #[error("exportInterval is zero")]
    ExportIntervalZero,
    #[error("sink {sink:?}: {warning}")]
    Doubtful { sink: String, warning: Warning },
    #[error(transparent)]
    Sink(SinkError),
}

fn list(problems: &[impl ToString]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What becomes of what works and is probably not meant so: keys that nobody knows, values that mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubts {
    /// Each is warned about.
    Warn,
    /// They are an error.
    Refuse,
}

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    text: String,
}

/// Reads the file. Without a path the default one is read when it is there.
pub(crate) fn read(path: Option<&Path>) -> Result<Source, FileError> {
    let is_default = path.is_none();
    let path = path.unwrap_or(Path::new(DEFAULT_PATH)).to_owned();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Source { path, text }),
        Err(error) if is_default && error.kind() == io::ErrorKind::NotFound => {
            Ok(Source { path, text: String::new() })
        }
        Err(source) => Err(FileError::Read { path, source }),
    }
}

/// What a file says, validated.
pub(crate) fn understand(
    source: &Source,
    doubts: Doubts,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, FileError> {
    let Source { path, text } = source;
    let file = if text.trim().is_empty() {
        File::default()
    } else {
        yaml::read(text).map_err(|source| FileError::Shape { path: path.clone(), source })?
    };
    let keys = unknown_keys(text);
    if doubts == Doubts::Refuse && !keys.is_empty() {
        return Err(FileError::UnknownKeys { path: path.clone(), keys });
    }
    for key in keys {
        warn!(path = %path.display(), "{key}; passed over");
    }
    validate(file, doubts, environment)
}

fn validate(
    file: File,
    doubts: Doubts,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, FileError> {
    let is_set = |name: &&str| environment(name).is_some();
    if file.collectors_concurrent_fetch_count.is_some()
        || file.collector_fetch_timeout.is_some()
        || PULL_VARIABLES.iter().any(is_set)
    {
        warn!("collectorsConcurrentFetchCount and collectorFetchTimeout mean nothing: collectors push");
    }
    let mut problems = Vec::new();
    // A variable that is set to nothing is none: templates leave such behind.
    let environment_interval = environment("EXPORT_INTERVAL").filter(|text| !text.is_empty());
    let export_interval =
        match environment_interval.or(file.export_interval).as_deref().map(parse_go_duration) {
            Some(Ok(Duration::ZERO)) => {
                problems.push(Problem::ExportIntervalZero);
                None
            }
            Some(Err(error)) => {
                problems.push(Problem::ExportInterval(error));
                None
            }
            Some(Ok(interval)) => Some(interval),
            None => None,
        };
    let sinks = sinks(file.sinks.unwrap_or_default(), export_interval, environment, &mut problems);
    for (sink, warning) in
        sinks.iter().flat_map(|sink| sink.warnings.iter().map(move |warning| (&sink.name, warning)))
    {
        match doubts {
            Doubts::Warn => warn!(sink, "{warning}"),
            Doubts::Refuse => {
                problems.push(Problem::Doubtful { sink: sink.clone(), warning: warning.clone() })
            }
        }
    }
    if problems.is_empty() { Ok(Settings { sinks }) } else { Err(FileError::Wrong(problems)) }
}

fn sinks(
    raw: BTreeMap<String, RawSink>,
    export_interval: Option<Duration>,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Vec<SinkConfig> {
    let mut sinks = Vec::new();
    for (name, raw) in raw {
        let variable = |variable: &str| {
            let value = environment(variable);
            if value.is_none() {
                warn!(sink = name, variable, "is not set in the environment and becomes empty");
            }
            value
        };
        match SinkConfig::new(&name, raw, export_interval, &variable) {
            Ok(sink) => sinks.push(sink),
            Err(error) => problems.push(Problem::Sink(error)),
        }
    }
    sinks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, FileError> {
        let environment = |name: &str| (name == "API_KEY").then(|| "key".to_owned());
        validate(yaml::read(text).unwrap(), Doubts::Warn, &environment)
    }

    /// Goal: the file that the original's chart renders is understood.
    #[test]
    fn the_file_of_the_originals_chart_is_understood() {
        let text = "
exportInterval: 2m
collectorsConcurrentFetchCount: 20
sinks:
  castai:
    http:
      url: https://api.example.org/v1/kubernetes/clusters/${CLUSTER_ID}/egressd-metrics
      compression: gzip
      encoding: protobuf
      headers: { X-API-Key: '${API_KEY}' }
  prom:
    prom_remote_write:
      url: http://vm.example.org:8428/api/v1/write
      labels: { team: core }
      sendReceivedBytesMetric: true
";
        let settings = parse(text).unwrap();
        let sinks: Vec<_> = settings.sinks.iter().map(|sink| (&*sink.name, sink.interval)).collect();
        assert_eq!(sinks, [("castai", Duration::from_mins(2)), ("prom", Duration::from_mins(2))]);
    }

    /// Goal: everything that is wrong is told at once, and no sink at all is none too few.
    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text = "{ exportInterval: '15', sinks: { a: {}, b: { http: { url: 'ftp://x' } } } }";
        assert_eq!(
            parse(text).unwrap_err().to_string(),
            "the configuration is wrong: exportInterval: \"15\" has no unit; write for example \"15s\" or \"2m30s\"; \
             sink \"a\": has no kind, write http or prom_remote_write; \
             sink \"b\": url has the scheme \"ftp\", only http and https can be pushed to"
        );
        assert!(parse("sinks: {}").unwrap().sinks.is_empty());
        assert!(parse("sinks:").unwrap().sinks.is_empty());
        let nulls = "sinks: { a: { prom_remote_write: { url: 'http://x', headers:, labels: } } }";
        assert_eq!(parse(nulls).unwrap().sinks.len(), 1);
        assert_eq!(
            parse("sinks: { scrape: { prom_remote_write: { url: 'http://x' } } }").unwrap_err().to_string(),
            "the configuration is wrong: sink \"scrape\": is the name of the page /metrics/flows, choose another"
        );
    }
}
