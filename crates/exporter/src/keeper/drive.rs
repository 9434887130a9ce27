//! Has the keeper do what attribution and the sinks ask for, one thing after another.
//!
//! While the disk takes no batches, nothing more is appended: attribution waits, then the streams do, and collectors keep
//! what they have. A state that cannot be kept, or a batch that cannot be read, holds up its own sink and nobody else. What
//! may go goes all the time: it is what makes room.
//! Bound: the queues of [`Inputs`], and one state a sink.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use egressd_sink::{Resume, Save};
use egressd_spool::{SpoolError, Taken};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{GROUP_MAX, Keeper};
use crate::metrics::SpoolMetrics;

/// How long to wait after the disk failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked what may go, beside at each new segment.
const LET_GO_EVERY: Duration = Duration::from_mins(1);
/// How often a failing disk is complained of.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
const NOTHING_WRITTEN: &str = "the spool takes nothing, collectors keep what they have, trying again";

/// What a sink, or who manages them, wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// To take part; what every batch behind its position is waited for is told it at the same time.
    Join(Join),
    /// To take no part any more.
    Leave { sink: String },
    /// The sinks are these: any other that the spool knows of was taken out while nobody ran. Answered with those, and what
    /// each had not accepted.
    Only { sinks: Vec<String>, answer: oneshot::Sender<Vec<(String, Counter)>> },
    /// Batches behind a position.
    Read { sink: String, after: Position, answer: oneshot::Sender<Vec<Arc<AttributedBatch>>> },
}

/// A sink that wants to take part.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) sink: String,
    /// Told where it begins.
    pub(crate) accepted: watch::Sender<Position>,
    /// Answered once the disk does it. When it is closed, the sink takes no part.
    pub(crate) answer: oneshot::Sender<Result<Resume, SpoolError>>,
}

/// What comes in.
pub(crate) struct Inputs {
    /// Named batches, in order. Closed when there are no more.
    pub(crate) appends: mpsc::Receiver<Taken>,
    /// Closed when every sink has ended.
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) saves: mpsc::Receiver<Save>,
    /// Told each position that is safe; dropped behind the last.
    pub(crate) safe: watch::Sender<Position>,
    /// Fires when the last batch is safe.
    pub(crate) ending: CancellationToken,
    pub(crate) abandon: CancellationToken,
}

struct Driver {
    keeper: Keeper,
    metrics: SpoolMetrics,
    /// `None` behind the last append.
    safe: Option<watch::Sender<Position>>,
    ending: CancellationToken,
    /// States that the disk did not take.
    unkept: VecDeque<Save>,
    /// Sinks that it did not take.
    unjoined: VecDeque<Join>,
    /// Appends are over.
    is_closed: bool,
    /// When batches are written again; `None` while that works.
    write_at: Option<Instant>,
    /// When states are kept again and sinks taken; `None` while there is none that is not.
    keep_at: Option<Instant>,
    complained: Option<Instant>,
}

/// Runs until nothing comes in any more, or `abandon` fires.
///
/// # Errors
/// The spool refuses what no disk is to blame for.
pub(crate) async fn drive(keeper: Keeper, metrics: SpoolMetrics, inputs: Inputs) -> Result<(), SpoolError> {
    let Inputs { mut appends, mut requests, mut saves, safe, ending, abandon } = inputs;
    let mut driver = Driver {
        keeper,
        metrics,
        safe: Some(safe),
        ending,
        unkept: VecDeque::new(),
        unjoined: VecDeque::new(),
        is_closed: false,
        write_at: None,
        keep_at: None,
        complained: None,
    };
    let mut is_used = true;
    let mut let_go = tokio::time::interval_at(Instant::now() + LET_GO_EVERY, LET_GO_EVERY);
    while is_used || driver.safe.is_some() {
        driver.publish();
        let (write_at, keep_at) = (driver.write_at, driver.keep_at);
        tokio::select! {
            () = abandon.cancelled() => break,
            taken = appends.recv(), if write_at.is_none() && !driver.is_closed => driver.append(taken, &mut appends)?,
            request = requests.recv(), if is_used => match request {
                Some(request) => driver.serve(request)?,
                None => is_used = false,
            },
            Some(save) = saves.recv() => driver.save(save)?,
            () = at(write_at), if write_at.is_some() => driver.write_again()?,
            () = at(keep_at), if keep_at.is_some() => driver.keep_again()?,
            _ = let_go.tick() => driver.let_go()?,
        }
    }
    driver.publish();
    Ok(())
}

impl Driver {
    /// What has gathered becomes safe together.
    fn append(&mut self, taken: Option<Taken>, more: &mut mpsc::Receiver<Taken>) -> Result<(), SpoolError> {
        match taken {
            Some(taken) => {
                self.keeper.take(taken);
                for _ in 1..GROUP_MAX {
                    let Ok(taken) = more.try_recv() else { break };
                    self.keeper.take(taken);
                }
            }
            None => self.is_closed = true,
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        let begun = Instant::now();
        if self.keeper.is_behind() {
            let flushed = self.keeper.flush(now());
            self.metrics.synced(begun.elapsed());
            if !self.works(flushed, NOTHING_WRITTEN)? {
                self.write_at = Some(Instant::now() + RETRY);
                return Ok(());
            }
        }
        let safe = self.keeper.safe();
        if let Some(told) = &self.safe {
            told.send_if_modified(|told| std::mem::replace(told, safe) < safe);
        }
        if self.is_closed {
            self.safe = None;
            self.ending.cancel();
        }
        Ok(())
    }

    /// The disk may take again the batches that it did not.
    fn write_again(&mut self) -> Result<(), SpoolError> {
        self.write_at = None;
        self.flush()?;
        self.say_well();
        Ok(())
    }

    /// The same for states.
    fn keep_again(&mut self) -> Result<(), SpoolError> {
        self.keep_at = None;
        for save in std::mem::take(&mut self.unkept) {
            self.save(save)?;
        }
        for join in std::mem::take(&mut self.unjoined).into_iter().filter(|join| !join.answer.is_closed()) {
            self.join(join)?;
        }
        self.say_well();
        Ok(())
    }

    fn say_well(&mut self) {
        if self.write_at.is_none() && self.keep_at.is_none() && self.complained.take().is_some() {
            info!("the spool's disk works again");
        }
    }

    fn serve(&mut self, request: Request) -> Result<(), SpoolError> {
        match request {
            Request::Join(join) => self.join(join)?,
            Request::Leave { sink } => {
                let left = self.keeper.leave(&sink);
                self.works(left, "a sink that left is known until it can be forgotten")?;
            }
            Request::Only { sinks, answer } => {
                let gone = self.keep_only(&sinks)?;
                // Who asked is gone at a stop.
                let _gone = answer.send(gone);
            }
            Request::Read { sink, after, answer } => match self.keeper.read(&sink, after) {
                Ok(batches) => drop(answer.send(batches)),
                // Who asked asks again.
                Err(failed) => {
                    self.works(Err(failed), "a sink waits for what cannot be read, trying again")?;
                }
            },
        }
        Ok(())
    }

    /// One that the disk does not take waits; the others go on.
    fn join(&mut self, join: Join) -> Result<(), SpoolError> {
        match self.keeper.join(&join.sink) {
            Err(failed) if failed.is_transient() => {
                self.works(Err(failed), "a sink waits to take part in the spool, trying again")?;
                self.unjoined.push_back(join);
                self.keep_at = Some(Instant::now() + RETRY);
            }
            joined => {
                if let Ok(Resume { position, .. }) = &joined {
                    join.accepted.send_replace(*position);
                }
                // Who asked is gone at a stop.
                let _gone = join.answer.send(joined);
            }
        }
        Ok(())
    }

    fn keep_only(&mut self, sinks: &[String]) -> Result<Vec<(String, Counter)>, SpoolError> {
        let is_other = |(name, _): &(&str, _)| !sinks.iter().any(|sink| sink == name);
        let others = self.keeper.spool().sinks().filter(is_other);
        let others: Vec<String> = others.map(|(name, _)| name.to_owned()).collect();
        let mut gone = Vec::new();
        for sink in others {
            let owed = match self.keeper.owed(&sink) {
                Ok(owed) => owed,
                Err(failed) => {
                    self.works(Err(failed), "what a sink that is gone had not accepted is not known")?;
                    Counter::default()
                }
            };
            warn!(sink, owed.bytes, "not configured any more: what it had not accepted is let go");
            let left = self.keeper.leave(&sink);
            self.works(left, "a sink that left is known until it can be forgotten")?;
            gone.push((sink, owed));
        }
        Ok(gone)
    }

    fn save(&mut self, save: Save) -> Result<(), SpoolError> {
        let kept = self.keeper.save(&save.sink, save.position, &save.state);
        if matches!(kept, Err(SpoolError::UnknownSink { .. })) {
            return Ok(());
        }
        if self.works(kept, "a sink waits for its state to be kept, trying again")? {
            // A sink that was abandoned does not listen.
            let _gone = save.kept.send(());
        } else {
            self.unkept.push_back(save);
            self.keep_at = Some(Instant::now() + RETRY);
        }
        Ok(())
    }

    fn let_go(&mut self) -> Result<(), SpoolError> {
        let gone = self.keeper.let_go(now());
        self.works(gone, "what may go from the spool stays, trying again").map(drop)
    }

    /// Whether it went well; `else_what` follows where the disk does not do it now.
    fn works(&mut self, done: Result<(), SpoolError>, else_what: &'static str) -> Result<bool, SpoolError> {
        let Err(failed) = done else { return Ok(true) };
        if !failed.is_transient() {
            return Err(failed);
        }
        self.metrics.failed();
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            error!(error = %chain(&failed), "{else_what}");
        }
        Ok(false)
    }

    fn publish(&mut self) {
        self.metrics.publish(self.keeper.spool());
    }
}

/// Until then; for ever without an instant.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

fn now() -> UnixNanos {
    UnixNanos(unix_nanos())
}
