//! Start, stop and the deadline of a stop.
//!
//! A daemon is a handful of tasks. One token asks them to stop; each stage then finishes what it holds and closes
//! its channel, which tells the next one. A task that ends unasked ends the process.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// The tasks of a daemon and the tokens that they obey.
#[derive(Debug)]
pub struct Tasks {
    stages: JoinSet<Named>,
    aside: JoinSet<Named>,
    /// Fires when the daemon should stop: finish what is held, take nothing new. A task that fires it asks for that, and such
    /// an end is a good one.
    pub stop: CancellationToken,
    /// Fires when the grace is over: say what is still held, and return.
    pub abandon: CancellationToken,
}

type Named = (&'static str, Result<(), BoxError>);

/// Why a task ended; printed with its chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Tasks {
    fn new() -> Self {
        Self {
            stages: JoinSet::new(),
            aside: JoinSet::new(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        }
    }

    /// Adds a stage. It may end only after `stop` fired; its error ends the daemon at any time.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.stages.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Adds a task that stands beside the data: it runs until every stage has ended, and is dropped then.
    pub fn spawn_aside<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.aside.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Waits for the next task to end, true when it went well; `None` when no stage is left.
    async fn join_next(&mut self) -> Option<bool> {
        tokio::select! {
            ended = self.stages.join_next() => Some(settle(ended?, self.stop.is_cancelled())),
            Some(ended) = self.aside.join_next() => Some(settle(ended, false)),
        }
    }
}

fn settle(ended: Result<(&'static str, Result<(), BoxError>), JoinError>, asked: bool) -> bool {
    match ended {
        Ok((task, Ok(()))) if asked => {
            info!(task, "stopped");
            true
        }
        Ok((task, Ok(()))) => {
            error!(task, "ended unasked");
            false
        }
        Ok((task, Err(error))) => {
            error!(task, error = %chain(error.as_ref()), "failed");
            false
        }
        Err(error) => {
            error!(%error, "panicked");
            false
        }
    }
}

/// An error and its sources in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// Runs a daemon: `wire` starts its tasks; SIGTERM or SIGINT, or a task that fails, stops them in the order of
/// their data. `grace` is how long a stop may take.
#[must_use]
pub fn run<W, F, E>(grace: Duration, wire: W) -> ExitCode
where
    W: FnOnce(Tasks) -> F,
    F: Future<Output = Result<Tasks, E>>,
    E: Into<BoxError>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let clean = runtime.block_on(async {
        match wire(Tasks::new()).await {
            Ok(tasks) => supervise(tasks, grace).await,
            Err(error) => {
                error!(error = %chain(error.into().as_ref()), "cannot start");
                false
            }
        }
    });
    // A blocking read of the kernel that never comes back must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn supervise(mut tasks: Tasks, grace: Duration) -> bool {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("cannot listen for signals");
        return false;
    };
    let mut clean = true;
    tokio::select! {
        _ = terminate.recv() => info!(grace_ms = grace.as_millis(), "asked to stop by SIGTERM"),
        _ = interrupt.recv() => info!(grace_ms = grace.as_millis(), "asked to stop by SIGINT"),
        () = tasks.stop.clone().cancelled_owned() => info!(grace_ms = grace.as_millis(), "asked to stop by a task"),
        ended = tasks.join_next() => clean = ended == Some(true),
    }
    tasks.stop.cancel();
    let abandon = tasks.abandon.clone();
    let deadline = tokio::time::sleep(grace);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(went_well) => clean &= went_well,
                None => return clean,
            },
            () = &mut deadline, if !abandon.is_cancelled() => {
                warn!(grace_ms = grace.as_millis(), "the grace is over, what is held is left");
                clean = false;
                abandon.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer")]
    struct Outer(#[source] std::io::Error);

    /// Goal: a reader of the log sees every cause once.
    #[test]
    fn a_chain_names_every_cause() {
        let error = Outer(std::io::Error::other("the inner"));
        assert_eq!(chain(&error), "the outer: the inner");
    }

    /// Goal: a task that returns before it was asked to is a failure of the daemon.
    #[test]
    fn a_task_that_ends_unasked_is_a_failure() {
        let code = run(Duration::from_secs(5), |mut tasks| async {
            tasks.spawn("early", async { Ok::<(), std::io::Error>(()) });
            let stop = tasks.stop.clone();
            tasks.spawn("patient", async move {
                stop.cancelled().await;
                Ok::<(), std::io::Error>(())
            });
            Ok::<_, std::io::Error>(tasks)
        });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }

    /// Goal: a task may ask the daemon to stop, and that is no failure.
    #[test]
    fn a_task_may_ask_for_a_stop() {
        let code = run(Duration::from_secs(5), |mut tasks| async {
            for name in ["asking", "patient"] {
                let stop = tasks.stop.clone();
                tasks.spawn(name, async move {
                    if name == "asking" {
                        stop.cancel();
                    }
                    stop.cancelled().await;
                    Ok::<(), std::io::Error>(())
                });
            }
            Ok::<_, std::io::Error>(tasks)
        });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    }

    /// Goal: the grace bounds a stop, and what outlives it is told to give up.
    #[test]
    fn the_grace_bounds_a_stop() {
        let code = run(Duration::from_millis(20), |mut tasks| async {
            let abandon = tasks.abandon.clone();
            tasks.spawn("stubborn", async move {
                abandon.cancelled().await;
                Ok::<(), std::io::Error>(())
            });
            tasks.spawn("failing", async { Err(std::io::Error::other("broken")) });
            Ok::<_, std::io::Error>(tasks)
        });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
