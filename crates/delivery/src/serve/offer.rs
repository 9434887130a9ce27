//! A batch's way through the ledger to the next stage.
//!
//! Once begun it is brought to its end, whatever becomes of its stream, so that what is taken is committed. It waits
//! for its predecessor on an older stream, for room, and for its position; a stop ends the wait for room.

use std::pin::Pin;
use std::sync::Arc;

use egressd_flow::{Batch, Epoch, Position, Sequence, Span, UnixNanos};
use egressd_protocol::Hello;
use egressd_service::clock::unix_nanos;
use tokio::sync::oneshot;

use super::names::by_our_clock;
use super::{Hangup, RESERVED_POLL, Shared, Taking};
use crate::ledger::{StreamId, Verdict};

/// What a collector has to hear after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// How far each epoch got, where that is news.
    Taken,
    /// The same in any case: it sent something again.
    Again,
}

/// A batch on its way.
pub(super) type Offer = Pin<Box<dyn Future<Output = Result<News, Hangup>> + Send + Sync>>;

/// What a batch needs on its way, whatever becomes of its stream.
pub(super) struct Offering {
    pub(super) shared: Arc<Shared>,
    pub(super) hello: Arc<Hello>,
    pub(super) stream: StreamId,
    pub(super) clock_ahead: i128,
}

impl Offering {
    /// Ends when the batch is taken and committed, or when it never will be.
    pub(super) async fn take(self, batch: Batch) -> Result<News, Hangup> {
        let (epoch, sequence, traffic) = (batch.epoch, batch.sequence, batch.sum());
        match self.check(epoch, sequence).await {
            Verdict::Take => {}
            Verdict::Replaced => return Err(Hangup::Replaced),
            Verdict::UnknownEpoch => return Err(Hangup::UnknownEpoch),
            Verdict::Gap { expected } => {
                return Err(Hangup::Gap { expected: expected.0, found: sequence.0 });
            }
            Verdict::Duplicate | Verdict::Reserved => {
                self.shared.ledger().duplicate(traffic);
                return Ok(News::Again);
            }
        }
        let Some(position) = self.pass_on(batch).await else {
            self.shared.ledger().release(&self.hello.node, epoch);
            return if self.shared.stop.is_cancelled() { Ok(News::Taken) } else { Err(Hangup::Stopping) };
        };
        self.shared.ledger().commit(&self.hello.node, epoch, sequence, position, traffic);
        // The sinks may have been quicker than this task.
        self.shared.settle();
        Ok(News::Taken)
    }

    /// The ledger's word, once the node's older stream has done with the batch that it was taking.
    async fn check(&self, epoch: Epoch, sequence: Sequence) -> Verdict {
        loop {
            let now = UnixNanos(unix_nanos());
            let verdict = self.shared.ledger().check(&self.hello.node, self.stream, epoch, sequence, now);
            match verdict {
                Verdict::Reserved => tokio::time::sleep(RESERVED_POLL).await,
                settled => return settled,
            }
        }
    }

    /// The position that the next stage gave the batch; `None` when it takes nothing any more.
    async fn pass_on(&self, mut batch: Batch) -> Option<Position> {
        let intake = self.shared.intake()?;
        let to = by_our_clock(batch.span.to, self.clock_ahead);
        batch.span = Span { from: by_our_clock(batch.span.from, self.clock_ahead).min(to), to };
        let (taken, position) = oneshot::channel();
        tokio::select! {
            biased;
            place = intake.reserve() => {
                place.ok()?.send(Taking { hello: Arc::clone(&self.hello), batch, taken });
            }
            // Where there is no room its collector keeps it.
            () = self.shared.stop.cancelled() => return None,
        }
        drop(intake);
        position.await.ok()
    }
}

/// The end of an offer; `None` without one.
pub(super) async fn next_of(offer: &mut Option<Offer>) -> Option<Result<News, Hangup>> {
    Some(offer.as_mut()?.await)
}
