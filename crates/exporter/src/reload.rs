//! The configuration file, read again when it changes; the running sinks follow it.
//!
//! Looked at every [`LOOK`], which finds a mounted ConfigMap's or Secret's swap of links too, and on SIGHUP.
//! Invariant: a file that cannot be used changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::file::{self, Doubts, Source};
use crate::metrics::ConfigMetrics;
use crate::sinks::{LaneChange, Sinks};

/// How often the file is looked at; the kubelet itself takes up to a minute to renew a mount.
const LOOK: Duration = Duration::from_secs(10);

/// What the running sinks follow.
pub(crate) struct Reload {
    /// As on the command line.
    pub(crate) path: Option<PathBuf>,
    /// What they were made from.
    pub(crate) applied: Source,
    pub(crate) sinks: Sinks,
    pub(crate) lanes: mpsc::Sender<LaneChange>,
    pub(crate) metrics: ConfigMetrics,
}

impl Reload {
    /// Follows the file until `stop`, then waits for the sinks to end.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        let mut complaint = String::new();
        self.metrics.loaded(unix_nanos());
        loop {
            let going_on = !stop.is_cancelled();
            if !going_on && self.sinks.is_over() {
                return Ok(());
            }
            tokio::select! {
                Some(ended) = self.sinks.ended() => self.sinks.settle(ended.context("a sink panicked")?).await,
                () = stop.cancelled(), if going_on => {}
                _ = look.tick(), if going_on => self.look(&mut complaint).await,
                Some(()) = hangup.recv(), if going_on => self.look(&mut complaint).await,
            }
        }
    }

    /// Says once what is wrong with a file, and keeps looking.
    async fn look(&mut self, complaint: &mut String) {
        match self.follow().await {
            Ok(()) => {
                complaint.clear();
                self.metrics.failed.set(0);
            }
            Err(problem) => {
                let words = chain(problem.as_ref());
                if words != *complaint {
                    error!(error = %words, "the changed configuration cannot be used; the one before stays");
                    *complaint = words;
                }
                self.metrics.failed.set(1);
            }
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let source = file::read(self.path.as_deref())?;
        if source == self.applied {
            return Ok(());
        }
        let environment = |name: &str| std::env::var(name).ok();
        let settings = file::understand(&source, Doubts::Warn, &environment)?;
        let names: Vec<String> = settings.sinks.iter().map(|sink| sink.name.clone()).collect();
        for change in self.sinks.become_those_of(settings.sinks).await? {
            // The fan ends after the file is followed no more.
            let _told = self.lanes.send(change).await;
        }
        info!(path = %source.path.display(), sinks = ?names, "the changed configuration is in use");
        self.applied = source;
        self.metrics.loaded(unix_nanos());
        Ok(())
    }
}
