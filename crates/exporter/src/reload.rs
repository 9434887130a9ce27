//! The configuration file, read again when it changes; the running sinks follow it.
//!
//! Looked at every [`LOOK`], which finds a mounted ConfigMap's or Secret's swap of links too, and on SIGHUP. A change
//! counts once two looks, [`SETTLE`] apart, read the same, so that half a file is not taken for one.
//! Invariant: a file that cannot be used changes nothing, and is complained of once.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use egressd_sink::SinkConfig;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::file::{self, Doubts, Source};
use crate::metrics::ConfigMetrics;
use crate::sinks::{Ended, Sinks};

/// How often the file is looked at; the kubelet itself takes up to a minute to renew a mount.
const LOOK: Duration = Duration::from_secs(10);
/// How long a changed file must stay as it is.
const SETTLE: Duration = Duration::from_secs(1);

/// What the running sinks follow.
pub(crate) struct Reload {
    /// As on the command line.
    pub(crate) path: Option<PathBuf>,
    /// What they were made from; `None` when a change stopped half-way.
    pub(crate) applied: Option<Source>,
    pub(crate) sinks: Sinks,
    pub(crate) metrics: ConfigMetrics,
    /// SIGHUP; heard from before anything answers, since it would end a process that does not listen.
    pub(crate) hangup: Signal,
}

/// A file that is not in use.
struct Changed {
    source: Source,
    /// `None` until it stayed as it is for a while; then the sinks that it asks for, or that it cannot be used.
    wanted: Option<Result<Vec<SinkConfig>, Refused>>,
    complaint: String,
}

/// It was complained of.
struct Refused;

impl Reload {
    /// Follows the file until `stop`, then waits for the sinks to end.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        let mut changed = None;
        self.metrics.loaded(unix_nanos());
        loop {
            let going_on = !stop.is_cancelled();
            if !going_on && self.sinks.is_over() {
                return Ok(());
            }
            tokio::select! {
                Some(ended) = self.sinks.ended() => self.settle(ended.context("a sink panicked")?).await,
                () = stop.cancelled(), if going_on => {}
                _ = look.tick(), if going_on => self.look(&mut changed).await,
                Some(()) = self.hangup.recv(), if going_on => self.look(&mut changed).await,
            }
            if changed.as_ref().is_some_and(|changed| changed.wanted.is_none()) {
                look.reset_after(SETTLE);
            }
        }
    }

    /// A sink that the spool refused is one that the file asks for and that is missing: the file is followed again.
    async fn settle(&mut self, ended: Ended) {
        if let Err(problem) = self.sinks.settle(ended).await {
            error!(error = %chain(&problem), "a sink takes nothing, trying again");
            self.applied = None;
        }
    }

    async fn look(&mut self, changed: &mut Option<Changed>) {
        let source = match file::read_changed(self.path.as_deref(), self.applied.as_ref()) {
            Ok(source) => source,
            Err(problem) => {
                // Whoever writes it may be at it: it counts as one more change.
                let source = Source::unreadable();
                let known = changed.take().filter(|changed| changed.source == source);
                let mut known = known.unwrap_or_else(|| Changed::new(source));
                known.wanted = Some(Err(Refused));
                known.complain(&chain(&problem), &self.metrics);
                *changed = Some(known);
                return;
            }
        };
        if self.applied.as_ref() == Some(&source) {
            *changed = None;
            self.metrics.failed.set(0);
            return;
        }
        match changed.take().filter(|changed| changed.source == source) {
            None => *changed = Some(Changed::new(source)),
            Some(known) => *changed = self.follow(known).await,
        }
    }

    /// What is left to be done of a change that has settled.
    async fn follow(&mut self, mut changed: Changed) -> Option<Changed> {
        let wanted = changed.wanted.take().unwrap_or_else(|| {
            let environment = |name: &str| std::env::var(name).ok();
            let settings = file::understand(&changed.source, Doubts::Warn, &environment);
            settings.map(|settings| settings.sinks).map_err(|problem| {
                changed.complain(&chain(&problem), &self.metrics);
                Refused
            })
        });
        let Ok(sinks) = wanted else { return Some(Changed { wanted: Some(Err(Refused)), ..changed }) };
        let names: Vec<String> = sinks.iter().map(|sink| sink.name.clone()).collect();
        match self.sinks.become_those_of(sinks.clone()).await {
            Ok(()) => {
                info!(path = %changed.source.path.display(), sinks = ?names, "the changed configuration is in use");
                self.applied = Some(changed.source);
                self.metrics.reloaded(unix_nanos());
                None
            }
            Err(problem) => {
                self.applied = None;
                changed.complain(&chain(&problem), &self.metrics);
                Some(Changed { wanted: Some(Ok(sinks)), ..changed })
            }
        }
    }
}

impl Changed {
    fn new(source: Source) -> Self {
        Self { source, wanted: None, complaint: String::new() }
    }

    fn complain(&mut self, words: &str, metrics: &ConfigMetrics) {
        metrics.failed.set(1);
        if words != self.complaint {
            error!(error = words, "the changed configuration cannot be used; the one before stays");
            words.clone_into(&mut self.complaint);
        }
    }
}
