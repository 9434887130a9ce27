//! The stores that Debian has, in the control namespace: Prometheus with its remote-write receiver on, and
//! VictoriaMetrics. Both take `/api/v1/write` and answer Prometheus's query API.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::clock::wait_for;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::process::Process;
use crate::series::{Series, series_in};
use crate::topology::CONTROL;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// What tells one store from another.
#[derive(Debug)]
struct Kind {
    /// The binary, and the name of its process and its data.
    name: &'static str,
    port: u16,
    /// Answers 200 once it can be written to.
    ready: &'static str,
    /// What to start it with, given where its data go.
    arguments: fn(&Cluster, &Path, u16) -> Result<Vec<String>, Error>,
}

static PROMETHEUS: Kind = Kind {
    name: "prometheus",
    port: 9090,
    ready: "/-/ready",
    arguments: |cluster, data, port| {
        let config = cluster.write_file("prometheus.yml", "global: {}\n")?;
        Ok(vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--web.enable-remote-write-receiver".to_owned(),
            "--log.level=warn".to_owned(),
        ])
    },
};

/// Its index shows a new series up to 10 s late; samples of known ones after a second.
static VICTORIA_METRICS: Kind = Kind {
    name: "victoria-metrics",
    port: 8428,
    ready: "/health",
    arguments: |_, data, port| {
        Ok(vec![
            format!("-storageDataPath={}", data.display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            // By default a query leaves out the last 30 s.
            "-search.latencyOffset=0s".to_owned(),
            "-memory.allowedBytes=128MiB".to_owned(),
            "-loggerLevel=WARN".to_owned(),
        ])
    },
};

/// A running store; dropping it ends it, its data go with the cluster.
#[derive(Debug)]
pub struct Store<'c> {
    cluster: &'c Cluster,
    kind: &'static Kind,
    process: Process,
}

impl<'c> Store<'c> {
    /// Starts Prometheus and waits until it is ready.
    ///
    /// # Errors
    /// [`Error::Os`] when it is not installed, [`Error::Ended`] with its log when it gives up.
    pub fn prometheus(cluster: &'c Cluster) -> Result<Self, Error> {
        Self::start(cluster, &PROMETHEUS)
    }

    /// Starts VictoriaMetrics and waits until it is ready.
    ///
    /// # Errors
    /// As [`prometheus`](Self::prometheus).
    pub fn victoria_metrics(cluster: &'c Cluster) -> Result<Self, Error> {
        Self::start(cluster, &VICTORIA_METRICS)
    }

    fn start(cluster: &'c Cluster, kind: &'static Kind) -> Result<Self, Error> {
        Ok(Self { cluster, kind, process: launch(cluster, kind)? })
    }

    /// Ends it at once (SIGKILL); what it has accepted stays in its write-ahead log.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be signalled.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.process.kill().map(drop)
    }

    /// Starts it again on the same data, and waits until it is ready.
    ///
    /// # Errors
    /// As [`prometheus`](Self::prometheus).
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.process = launch(self.cluster, self.kind)?;
        Ok(())
    }

    /// Where the exporter writes to.
    #[must_use]
    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.kind.port)
    }

    /// The process, for its log and its usage.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Evaluates an expression now and gives `data.result` of the answer: an array for a vector.
    ///
    /// # Errors
    /// [`Error::Status`] with the store's own words for a bad expression.
    pub fn query(&self, expression: &str) -> Result<Value, Error> {
        self.result(&format!("/api/v1/query?query={}", escaped(expression)))
    }

    /// The series of a vector or of ranges (`metric[1h]`), evaluated now or at a time since 1970.
    ///
    /// # Errors
    /// As [`query`](Self::query), and [`Error::Malformed`] for a value that is no whole number of bytes.
    pub fn series(&self, expression: &str, at: Option<Duration>) -> Result<Vec<Series>, Error> {
        let time =
            at.map(|at| format!("&time={}.{:03}", at.as_secs(), at.subsec_millis())).unwrap_or_default();
        series_in(self.result(&format!("/api/v1/query?query={}{time}", escaped(expression)))?)
    }

    fn result(&self, path: &str) -> Result<Value, Error> {
        let body = self.cluster.http_get(CONTROL, self.kind.port, path)?.ok(path)?;
        let malformed = || Error::Malformed {
            what: "a store's answer",
            found: String::from_utf8_lossy(&body).into_owned(),
        };
        let mut answer: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        match answer.pointer_mut("/data/result") {
            Some(result) => Ok(result.take()),
            None => Err(malformed()),
        }
    }
}

/// On the cluster's one data directory of that kind.
fn launch(cluster: &Cluster, kind: &Kind) -> Result<Process, Error> {
    let Kind { name, port, ready, arguments } = kind;
    let mut command = Command::new(name);
    command.args(arguments(cluster, &cluster.directory().join(name), *port)?);
    let mut process = cluster.spawn(CONTROL, name, command)?;
    wait_for(name, READY_WITHIN, || {
        process.check_running()?;
        Ok(match cluster.http_get(CONTROL, *port, ready) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.text()),
            Err(error) => Err(error.chain()),
        })
    })?;
    Ok(process)
}

/// Everything but RFC 3986's unreserved characters, percent-encoded.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => write!(escaped, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an expression survives the query string.
    #[test]
    fn expressions_are_percent_encoded() {
        assert_eq!(escaped(r#"sum(a{b="c d"})"#), "sum%28a%7Bb%3D%22c%20d%22%7D%29");
    }
}
