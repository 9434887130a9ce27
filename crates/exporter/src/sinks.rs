//! Which sinks there are: started, changed and ended as the configuration says, without a byte lost between.
//!
//! A new sink takes what comes from then on. One that is no longer configured takes nothing more and pushes what it
//! holds, for [`REMOVAL_MAX`] at most. One whose settings change goes on by the new ones with what it holds.
//! Bound: one task and one queue of [`BATCHES_QUEUE`] batches a sink.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Position};
use egressd_sink::{ClientError, Controls, Report, Sink, SinkConfig, SinkMetrics, system_clock};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::deliver::{NOT_YET, Party};

/// Batches on their way to one sink.
pub(crate) const BATCHES_QUEUE: usize = 16;
/// How long a sink that is no longer configured has to get rid of what it holds.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// A sink's end of the fan: where its batches go, and where it is told from which position on it has them.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) sink: String,
    pub(crate) batches: mpsc::Sender<Arc<AttributedBatch>>,
    pub(crate) accepted: watch::Sender<Position>,
}

/// The other end.
pub(crate) struct LaneEnd {
    pub(crate) batches: mpsc::Receiver<Arc<AttributedBatch>>,
    pub(crate) accepted: watch::Sender<Position>,
}

/// A lane that was not there, or will not be.
#[derive(Debug)]
pub(crate) enum LaneChange {
    Join(Lane),
    Leave(String),
}

/// Makes a lane, and lets deliveries wait for it.
pub(crate) async fn lane(sink: &str, parties: &mpsc::Sender<Party>) -> (Lane, LaneEnd) {
    let (batches, queue) = mpsc::channel(BATCHES_QUEUE);
    let (accepted, reached) = watch::channel(NOT_YET);
    // Deliveries end after every sink.
    let _told = parties.send(Party::Joined(sink.to_owned(), reached)).await;
    let lane = Lane { sink: sink.to_owned(), batches, accepted: accepted.clone() };
    (lane, LaneEnd { batches: queue, accepted })
}

/// Why sinks cannot be as configured now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinksError {
    #[error("sink {name:?} changed its kind: give it another name")]
    OtherKind { name: String },
    #[error("sink {name:?} was taken out and still pushes what it held; it comes back when that is done")]
    Leaving { name: String },
    #[error("sink {name:?} cannot be used")]
    Client {
        name: String,
        #[source]
        source: ClientError,
    },
}

struct Running {
    config: SinkConfig,
    controls: Controls,
    abandon: CancellationToken,
}

/// The running sinks.
pub(crate) struct Sinks {
    running: BTreeMap<String, Running>,
    leaving: BTreeSet<String>,
    tasks: JoinSet<(String, Report)>,
    metrics: SinkMetrics,
    parties: mpsc::Sender<Party>,
    abandon: CancellationToken,
}

impl Sinks {
    /// None yet. `abandon` ends them all, whatever they hold.
    pub(crate) fn new(
        metrics: SinkMetrics,
        parties: mpsc::Sender<Party>,
        abandon: CancellationToken,
    ) -> Self {
        Self {
            running: BTreeMap::new(),
            leaving: BTreeSet::new(),
            tasks: JoinSet::new(),
            metrics,
            parties,
            abandon,
        }
    }

    /// Makes the sinks those of `wanted`; returns what the fan has to be told, in this order.
    ///
    /// # Errors
    /// What cannot be; what has changed before stays changed, and none came or went.
    pub(crate) async fn become_those_of(
        &mut self,
        wanted: Vec<SinkConfig>,
    ) -> Result<Vec<LaneChange>, SinksError> {
        let prepared = self.prepare(wanted)?;
        for (config, _) in prepared.iter().filter(|(_, step)| matches!(step, Step::Changes)) {
            self.change(config.clone())?;
        }
        let kept: BTreeSet<&String> = prepared.iter().map(|(config, _)| &config.name).collect();
        let gone: Vec<String> = self.running.keys().filter(|name| !kept.contains(name)).cloned().collect();
        let mut changes: Vec<LaneChange> = gone.iter().map(|name| self.take_out(name)).collect();
        for (config, step) in prepared {
            if let Step::Begins(begun) = step {
                let (sink, controls) = *begun;
                changes.push(LaneChange::Join(self.begin(config, sink, controls).await));
            }
        }
        Ok(changes)
    }

    fn prepare(&self, wanted: Vec<SinkConfig>) -> Result<Vec<(SinkConfig, Step)>, SinksError> {
        let step = |config: SinkConfig| {
            let name = config.name.clone();
            let step = match self.running.get(&name) {
                Some(running) if running.config == config => Step::Stays,
                Some(running) if discriminant(&running.config.kind) != discriminant(&config.kind) => {
                    return Err(SinksError::OtherKind { name });
                }
                Some(_) => Step::Changes,
                None if self.leaving.contains(&name) => return Err(SinksError::Leaving { name }),
                None => {
                    let made = Sink::new(config.clone(), &self.metrics, system_clock());
                    Step::Begins(Box::new(made.map_err(|source| SinksError::Client { name, source })?))
                }
            };
            Ok((config, step))
        };
        wanted.into_iter().map(step).collect()
    }

    async fn begin(&mut self, config: SinkConfig, sink: Sink, controls: Controls) -> Lane {
        let name = config.name.clone();
        let (lane, end) = lane(&name, &self.parties).await;
        let abandon = self.abandon.child_token();
        let task = egressd_sink::run(sink, end.batches, end.accepted, None, abandon.clone());
        self.running.insert(name.clone(), Running { config, controls, abandon });
        self.tasks.spawn(async move { (name, task.await) });
        lane
    }

    fn change(&mut self, config: SinkConfig) -> Result<(), SinksError> {
        let Some(running) = self.running.get_mut(&config.name) else { return Ok(()) };
        let failed = |source| SinksError::Client { name: config.name.clone(), source };
        running.controls.change(config.clone()).map_err(failed)?;
        running.config = config;
        Ok(())
    }

    fn take_out(&mut self, name: &str) -> LaneChange {
        info!(sink = name, longest_ms = REMOVAL_MAX.as_millis(), "taken out, pushing what it holds");
        if let Some(running) = self.running.remove(name) {
            self.leaving.insert(name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(REMOVAL_MAX).await;
                running.abandon.cancel();
            });
        }
        LaneChange::Leave(name.to_owned())
    }

    /// Waits for the next sink to end; `None` when there is none.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn ended(&mut self) -> Option<Result<(String, Report), JoinError>> {
        self.tasks.join_next().await
    }

    /// Takes note of a sink that has ended.
    pub(crate) async fn settle(&mut self, (sink, report): (String, Report)) {
        if self.leaving.remove(&sink) {
            self.metrics.removed(&sink, report.held);
            let _told = self.parties.send(Party::Left(sink)).await;
        }
    }

    /// Whether every sink has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.tasks.is_empty()
    }
}

enum Step {
    Stays,
    Changes,
    Begins(Box<(Sink, Controls)>),
}
