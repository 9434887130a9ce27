//! The configuration file: the original's keys, environment over file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egressd_service::duration::{DurationError, parse_go_duration};
use egressd_service::lifecycle::chain;
use egressd_service::yaml::{self, YamlError};
use egressd_sink::{ClientError, RawSink, SinkConfig, SinkError, Warning};
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
    #[error("the configuration {path} is gone or empty; write `sinks: {{}}` for none")]
    Empty { path: PathBuf },
    #[error("the configuration {path} is not understood")]
    Shape {
        path: PathBuf,
        #[source]
        source: YamlError,
    },
    #[error("the configuration {path} is wrong: {}", list(.problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("exportInterval: {0}")]
    ExportInterval(DurationError),
    #[error("exportInterval is zero")]
    ExportIntervalZero,
    #[error(transparent)]
    Sink(SinkError),
    #[error("sink {sink:?}: {}", chain(.error))]
    Access { sink: String, error: ClientError },
    #[error(transparent)]
    Doubt(Doubt),
}

/// What works and is probably not meant so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Doubt {
    #[error("{0}")]
    UnknownKey(UnknownKey),
    #[error("sink {sink:?}: the variable {variable} is not set in the environment and becomes empty")]
    Unset { sink: String, variable: String },
    #[error("sink {sink:?}: {warning}")]
    Sink { sink: String, warning: Warning },
}

/// All that there is to say of a file.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    doubts: Vec<Doubt>,
}

fn list(problems: &[impl ToString]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What becomes of doubts.
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

impl Source {
    /// What stands for a file that cannot be read.
    pub(crate) fn unreadable() -> Self {
        Self { path: PathBuf::new(), text: String::new() }
    }
}

/// Reads the file again. One that said something and is gone or says nothing now is being written, or was lost.
pub(crate) fn read_changed(path: Option<&Path>, applied: Option<&Source>) -> Result<Source, FileError> {
    let source = read(path)?;
    let said_something = applied.is_none_or(|applied| !applied.text.trim().is_empty());
    if said_something && source.text.trim().is_empty() {
        return Err(FileError::Empty { path: source.path });
    }
    Ok(source)
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
    let mut findings = Findings::default();
    let keys = unknown_keys(text).map_err(|source| FileError::Shape { path: path.clone(), source })?;
    findings.doubts.extend(keys.into_iter().map(Doubt::UnknownKey));
    let sinks = validate(file, environment, &mut findings);
    let Findings { mut problems, doubts: found } = findings;
    match doubts {
        Doubts::Warn => found.iter().for_each(|doubt| warn!(path = %path.display(), "{doubt}")),
        Doubts::Refuse => problems.extend(found.into_iter().map(Problem::Doubt)),
    }
    if problems.is_empty() {
        Ok(Settings { sinks })
    } else {
        Err(FileError::Wrong { path: path.clone(), problems })
    }
}

/// Tries the files that the sinks name. A reload has them tried where sinks are made, which it repeats: there they may
/// come later.
pub(crate) fn try_access(source: &Source, settings: &Settings) -> Result<(), FileError> {
    let problem = |config: &SinkConfig| {
        let error = egressd_sink::check(config).err()?;
        Some(Problem::Access { sink: config.name.clone(), error })
    };
    let problems: Vec<_> = settings.sinks.iter().filter_map(problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(FileError::Wrong { path: source.path.clone(), problems })
}

fn validate(
    file: File,
    environment: &dyn Fn(&str) -> Option<String>,
    findings: &mut Findings,
) -> Vec<SinkConfig> {
    let is_set = |name: &&str| environment(name).is_some();
    if file.collectors_concurrent_fetch_count.is_some()
        || file.collector_fetch_timeout.is_some()
        || PULL_VARIABLES.iter().any(is_set)
    {
        warn!("collectorsConcurrentFetchCount and collectorFetchTimeout mean nothing: collectors push");
    }
    // A variable that is set to nothing is none: templates leave such behind.
    let from_environment = environment("EXPORT_INTERVAL").filter(|text| !text.is_empty());
    let export_interval = export_interval(from_environment.or(file.export_interval), findings);
    let mut sinks = Vec::new();
    for (name, raw) in file.sinks.unwrap_or_default() {
        sinks.extend(sink(&name, raw, export_interval, environment, findings));
    }
    sinks
}

fn export_interval(text: Option<String>, findings: &mut Findings) -> Option<Duration> {
    let problem = match parse_go_duration(&text?) {
        Ok(Duration::ZERO) => Problem::ExportIntervalZero,
        Ok(interval) => return Some(interval),
        Err(error) => Problem::ExportInterval(error),
    };
    findings.problems.push(problem);
    None
}

fn sink(
    name: &str,
    raw: RawSink,
    export_interval: Option<Duration>,
    environment: &dyn Fn(&str) -> Option<String>,
    findings: &mut Findings,
) -> Option<SinkConfig> {
    let unset = RefCell::new(BTreeSet::new());
    let variable = |variable: &str| {
        let value = environment(variable);
        if value.is_none() {
            unset.borrow_mut().insert(variable.to_owned());
        }
        value
    };
    let made = SinkConfig::new(name, raw, export_interval, &variable);
    let unset = unset.into_inner().into_iter();
    findings.doubts.extend(unset.map(|variable| Doubt::Unset { sink: name.to_owned(), variable }));
    match made {
        Ok(sink) => {
            let warnings = sink.warnings.iter().cloned();
            findings.doubts.extend(warnings.map(|warning| Doubt::Sink { sink: name.to_owned(), warning }));
            Some(sink)
        }
        Err(error) => {
            findings.problems.push(Problem::Sink(error));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(text: &str, doubts: Doubts) -> Result<Settings, FileError> {
        let environment = |name: &str| (name == "API_KEY").then(|| "key".to_owned());
        understand(&Source { path: "file".into(), text: text.to_owned() }, doubts, &environment)
    }

    fn parse(text: &str) -> Result<Settings, FileError> {
        parse_with(text, Doubts::Warn)
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
            "the configuration file is wrong: exportInterval: \"15\" has no unit; write for example \"15s\" or \"2m30s\"; \
             sink \"a\": has no kind, write http or prom_remote_write; \
             sink \"b\": url has the scheme \"ftp\", only http and https can be pushed to"
        );
        assert!(parse("sinks: {}").unwrap().sinks.is_empty());
        assert!(parse("sinks:").unwrap().sinks.is_empty());
        let nulls = "sinks: { a: { prom_remote_write: { url: 'http://x', headers:, labels: } } }";
        assert_eq!(parse(nulls).unwrap().sinks.len(), 1);
        assert_eq!(
            parse("sinks: { scrape: { prom_remote_write: { url: 'http://x' } } }").unwrap_err().to_string(),
            "the configuration file is wrong: sink \"scrape\": is the name of the page /metrics/flows, choose another"
        );
    }

    /// Goal: what is in doubt is refused where it was asked for, beside what is wrong, and runs otherwise.
    #[test]
    fn doubts_are_refused_beside_what_is_wrong() {
        let doubtful =
            "{ colour: green, sinks: { a: { http: { url: 'http://x/$NOPE', compression: lz4 } } } }";
        assert_eq!(parse(doubtful).unwrap().sinks.len(), 1);
        let refused = parse_with(&doubtful.replace("colour", "exportInterval: 1, colour"), Doubts::Refuse);
        let words = refused.unwrap_err().to_string();
        for part in [
            "exportInterval: \"1\" has no unit",
            "line 1: colour is not known",
            "sink \"a\": the variable NOPE is not set in the environment and becomes empty",
            "sink \"a\": compression",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }
}
