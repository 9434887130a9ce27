//! Debian's Prometheus in the control namespace, with its remote-write receiver on.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::clock::wait_for;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::process::Process;
use crate::series::{Series, series_in};
use crate::topology::CONTROL;

const PORT: u16 = 9090;
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running Prometheus; dropping it ends it, its data go with the cluster.
#[derive(Debug)]
pub struct Prometheus<'c> {
    cluster: &'c Cluster,
    process: Process,
}

impl<'c> Prometheus<'c> {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// [`Error::Os`] when it is not installed, [`Error::Ended`] with its log when it gives up.
    pub fn start(cluster: &'c Cluster) -> Result<Self, Error> {
        Ok(Self { cluster, process: launch(cluster)? })
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
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.process = launch(self.cluster)?;
        Ok(())
    }

    /// Where the exporter writes to.
    #[must_use]
    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{PORT}/api/v1/write")
    }

    /// The process, for its log and its usage.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Evaluates an expression now and gives `data.result` of the answer: an array for a vector.
    ///
    /// # Errors
    /// [`Error::Status`] with Prometheus's own words for a bad expression.
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
        let body = self.cluster.http_get(CONTROL, PORT, path)?.ok(path)?;
        let malformed = || Error::Malformed {
            what: "prometheus's answer",
            found: String::from_utf8_lossy(&body).into_owned(),
        };
        let mut answer: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        match answer.pointer_mut("/data/result") {
            Some(result) => Ok(result.take()),
            None => Err(malformed()),
        }
    }
}

/// On the cluster's one data directory.
fn launch(cluster: &Cluster) -> Result<Process, Error> {
    let config = cluster.write_file("prometheus.yml", "global: {}\n")?;
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", cluster.directory().join("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
        .args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
    let mut process = cluster.spawn(CONTROL, "prometheus", command)?;
    wait_for("prometheus", READY_WITHIN, || {
        process.check_running()?;
        Ok(match cluster.http_get(CONTROL, PORT, "/-/ready") {
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
