//! The collector's half: batches kept until they need not be sent again.
//!
//! Within an epoch the batches held are contiguous: from the first that is not yet let go to the newest.
//! What the exporter has not taken and what it has taken each have a bound of their own: a sink that is away keeps
//! `delivered` back, and must not keep new batches from the other sinks.

use std::collections::VecDeque;
use std::sync::Arc;

use egressd_flow::{Batch, Counter, Epoch, Owner, Record, Sequence};
use egressd_protocol::{Ack, HeldEpoch, SpoolId, Welcome};

/// An acknowledgement that cannot be. The peer is broken: the stream is closed and dialled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The exporter says that it has what does not exist yet.
    #[error("epoch {epoch}: {taken} is acknowledged, {newest} is the newest there is")]
    NeverCut {
        /// Which epoch.
        epoch: Epoch,
        /// What was acknowledged.
        taken: Sequence,
        /// The newest batch of the epoch.
        newest: Sequence,
    },
    /// More was delivered than was taken.
    #[error("epoch {epoch}: {delivered} is delivered, but only {taken} is taken")]
    DeliveredBeforeTaken {
        /// Which epoch.
        epoch: Epoch,
        /// Taken.
        taken: Sequence,
        /// Delivered.
        delivered: Sequence,
    },
}

/// What of a window its next life must know beside its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The spool that acknowledged last; `None` before the first.
    pub spool: Option<SpoolId>,
    /// The oldest batch of the running epoch that is still held; the next one to come when none is.
    pub first: Sequence,
}

/// The window's account since it began. received = emitted + held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowBooks {
    /// Pushed into the window.
    pub received: Counter,
    /// Let go: delivered, taken by a durable spool, or unprotected.
    pub emitted: Counter,
    /// Still in the window.
    pub held: Counter,
    /// Sent to a spool that is gone and not known delivered, then sent again.
    pub maybe_twice: Counter,
    /// Let go although only taken, for lack of room: the exporter has it, and no replay covers it any more.
    pub unprotected: Counter,
    /// Batches in the window.
    pub held_batches: u64,
}

impl WindowBooks {
    fn let_go(&mut self, traffic: Counter) {
        self.emitted += traffic;
        // Sums saturate, so absurd counters may leave less here than is let go.
        self.held = self.held.growth(traffic).unwrap_or_default();
        self.held_batches -= 1;
    }
}

#[derive(Debug)]
struct Held {
    batch: Arc<Batch>,
    bytes: usize,
    traffic: Counter,
    /// Sent to the spool that is, or was, on the other side.
    sent: bool,
}

#[derive(Debug)]
struct EpochWindow {
    epoch: Epoch,
    /// Of the batch that comes next.
    next: Sequence,
    /// In the spool, as acknowledged.
    taken: Sequence,
    /// The newest sent on this stream; `None` until the exporter's first Ack says where to go on.
    sent: Option<Sequence>,
    batches: VecDeque<Held>,
}

impl EpochWindow {
    fn new(epoch: Epoch) -> Self {
        let none = Sequence(0);
        Self { epoch, next: Sequence(1), taken: none, sent: None, batches: VecDeque::new() }
    }

    fn first(&self) -> Sequence {
        self.batches.front().map_or(self.next, |held| held.batch.sequence)
    }

    fn unsent(&self) -> Option<Sequence> {
        let sequence = self.sent?.next().max(self.first());
        (sequence < self.next).then_some(sequence)
    }

    fn newest(&self) -> Sequence {
        self.next.previous()
    }

    fn untaken_bytes(&self) -> usize {
        self.batches
            .iter()
            .rev()
            .take_while(|held| held.batch.sequence > self.taken)
            .map(|held| held.bytes)
            .sum()
    }

    fn held_mut(&mut self, sequence: Sequence) -> Option<&mut Held> {
        let index = sequence.0.checked_sub(self.first().0)?;
        self.batches.get_mut(usize::try_from(index).ok()?)
    }
}

/// Sent, unacknowledged and unsent batches of one node.
#[derive(Debug)]
pub struct Window {
    untaken_bytes_max: usize,
    taken_bytes_max: usize,
    /// Of all batches held.
    bytes: usize,
    /// Of those that the exporter has not taken, as far as is known.
    untaken_bytes: usize,
    /// Oldest first; the last one is running.
    epochs: VecDeque<EpochWindow>,
    spool: Option<SpoolId>,
    durable: bool,
    books: WindowBooks,
}

impl Window {
    /// An empty window for the batches of `epoch`: at most about `untaken_bytes_max` (one cut may exceed it) of what
    /// the exporter does not have, and `taken_bytes_max` of what it has and has not delivered.
    #[must_use]
    pub fn new(epoch: Epoch, untaken_bytes_max: usize, taken_bytes_max: usize) -> Self {
        Self {
            untaken_bytes_max,
            taken_bytes_max,
            bytes: 0,
            untaken_bytes: 0,
            epochs: [EpochWindow::new(epoch)].into(),
            spool: None,
            durable: false,
            books: WindowBooks::default(),
        }
    }

    /// The window of a process that ended, as far as it was kept: its epoch and the sequence of the next batch, `batches`
    /// in the order in which they were cut, and the spool that some of them may have been sent to. What was cut before
    /// them is let go or lost. The bounds are those of [`new`](Self::new).
    ///
    /// # Panics
    /// When the batches are of another epoch or out of order, or one is not before `next`: whoever kept them is wrong.
    #[must_use]
    pub fn resume(
        (epoch, next): (Epoch, Sequence),
        batches: Vec<Batch>,
        spool: Option<SpoolId>,
        (untaken_bytes_max, taken_bytes_max): (usize, usize),
    ) -> Self {
        let mut window = Self::new(epoch, untaken_bytes_max, taken_bytes_max);
        let running = window.epochs.back_mut().expect("the running epoch stays");
        running.next = batches.first().map_or(next, |batch| batch.sequence);
        running.taken = running.next.previous();
        batches.into_iter().for_each(|batch| window.push(batch));
        assert_eq!(window.epochs.back().map(|running| running.next), Some(next), "no batch is missing");
        // Whether they were sent is not known: if that spool is gone, they may come twice.
        for held in window.epochs.iter_mut().flat_map(|running| &mut running.batches) {
            held.sent = true;
        }
        window.spool = spool;
        window
    }

    /// Whether another cut may come in. While there is no room the meter does not cut: its open flows merge by key.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.untaken_bytes < self.untaken_bytes_max
    }

    /// Bytes that the batches held occupy.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in the running epoch's next batch.
    ///
    /// # Panics
    /// When the batch is of another epoch or out of order: whoever cuts them is wrong.
    pub fn push(&mut self, batch: Batch) {
        let running = self.epochs.back_mut().expect("the running epoch stays");
        assert_eq!((batch.epoch, batch.sequence), (running.epoch, running.next), "batches come in order");
        let bytes = memory_of(&batch);
        running.next = batch.sequence.next();
        let traffic = batch.sum();
        self.bytes += bytes;
        self.untaken_bytes += bytes;
        self.books.received += traffic;
        self.books.held += traffic;
        self.books.held_batches += 1;
        running.batches.push_back(Held { batch: Arc::new(batch), bytes, traffic, sent: false });
    }

    /// The spool that the last Welcome came from.
    #[must_use]
    pub fn spool(&self) -> Option<SpoolId> {
        self.spool
    }

    /// How far the running epoch got.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let first = self.epochs.back().map_or(Sequence(1), EpochWindow::first);
        Progress { spool: self.spool, first }
    }

    /// What Hello says of the batches held.
    #[must_use]
    pub fn held_epochs(&self) -> Vec<HeldEpoch> {
        self.epochs.iter().map(|window| HeldEpoch { epoch: window.epoch, first: window.first() }).collect()
    }

    /// A stream was opened. Nothing is sent before the exporter's Ack of each epoch.
    pub fn welcomed(&mut self, welcome: &Welcome) {
        let another = self.spool.is_some_and(|spool| spool != welcome.spool);
        self.spool = Some(welcome.spool);
        self.durable = welcome.durable;
        for window in &mut self.epochs {
            window.sent = None;
            if another {
                window.taken = window.first().previous();
                for held in window.batches.iter_mut().filter(|held| held.sent) {
                    held.sent = false;
                    self.books.maybe_twice += held.traffic;
                }
            }
        }
        self.weigh();
    }

    /// Whether [`next_unsent`](Self::next_unsent) has something.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.epochs.iter().any(|window| window.unsent().is_some())
    }

    /// The next batch to send on this stream, oldest epoch first.
    pub fn next_unsent(&mut self) -> Option<Arc<Batch>> {
        let window = self.epochs.iter_mut().find(|window| window.unsent().is_some())?;
        let sequence = window.unsent()?;
        window.sent = Some(sequence);
        let held = window.held_mut(sequence)?;
        held.sent = true;
        Some(Arc::clone(&held.batch))
    }

    /// The exporter says how far an epoch got. An epoch that is not held any more is passed over.
    ///
    /// # Errors
    /// The acknowledgement cannot be; nothing is changed.
    pub fn acknowledged(&mut self, ack: &Ack) -> Result<(), AckError> {
        let Ack { epoch, taken, delivered } = *ack;
        let durable = self.durable;
        let Some(window) = self.epochs.iter_mut().find(|window| window.epoch == epoch) else { return Ok(()) };
        if delivered > taken {
            return Err(AckError::DeliveredBeforeTaken { epoch, taken, delivered });
        }
        let newest = window.newest();
        if taken > newest {
            return Err(AckError::NeverCut { epoch, taken, newest });
        }
        window.taken = if window.sent.is_none() { taken } else { window.taken.max(taken) };
        window.sent = Some(window.sent.map_or(taken, |on_stream| on_stream.max(taken)));
        let settled = if durable { taken } else { delivered };
        while window.batches.front().is_some_and(|held| held.batch.sequence <= settled) {
            let Some(held) = window.batches.pop_front() else { break };
            self.bytes -= held.bytes;
            self.books.let_go(held.traffic);
        }
        self.weigh();
        self.let_go_unprotected();
        let running = self.epochs.back().map(|window| window.epoch);
        self.epochs.retain(|window| !window.batches.is_empty() || Some(window.epoch) == running);
        Ok(())
    }

    /// Weighs what is not taken; the rest of `bytes` is.
    fn weigh(&mut self) {
        self.untaken_bytes = self.epochs.iter().map(EpochWindow::untaken_bytes).sum();
    }

    /// Lets go of the oldest taken batches until the others fit their bound.
    fn let_go_unprotected(&mut self) {
        for window in &mut self.epochs {
            while self.bytes - self.untaken_bytes > self.taken_bytes_max {
                let taken = window.taken;
                let Some(held) = window.batches.pop_front_if(|held| held.batch.sequence <= taken) else {
                    break;
                };
                self.bytes -= held.bytes;
                self.books.let_go(held.traffic);
                self.books.unprotected += held.traffic;
            }
        }
    }

    /// The exporter stopped in good order: what it had not taken by its last Ack is known not to be delivered.
    pub fn redirected(&mut self) {
        for window in &mut self.epochs {
            let taken = window.taken;
            for held in window.batches.iter_mut().filter(|held| held.batch.sequence > taken) {
                held.sent = false;
            }
        }
    }

    /// Whether everything is at least in the exporter's hands.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.epochs.iter().all(|window| window.taken.next() >= window.next)
    }

    /// The account so far.
    #[must_use]
    pub fn books(&self) -> WindowBooks {
        self.books
    }
}

/// Bytes that a batch occupies; owners are shared with the scope, so this is the upper end.
fn memory_of(batch: &Batch) -> usize {
    const OWNER_TEXT_TYPICAL: usize = 160;
    size_of::<Batch>()
        + batch.records.len() * size_of::<Record>()
        + batch.owners.len() * (size_of::<Owner>() + OWNER_TEXT_TYPICAL)
}
