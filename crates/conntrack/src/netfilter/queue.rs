//! What lies between the thread that receives ends and the one that applies them.
//!
//! Invariants: no end is dropped here, a full queue makes the receiver wait; order is kept; the taker leaves with
//! the whole content at once, by a swap, so that it never holds the receiver up.
//! Bound: `capacity` ends waiting, as many again in the taker's hands.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::{Defects, Ended};

use super::error::ReceiveError;

/// The queue and the few facts that travel with it.
pub(super) struct Queue {
    capacity: NonZeroUsize,
    state: Mutex<State>,
    /// The receiver waits for it: room, or the order to stop.
    room: Condvar,
    /// The taker waits for it: half a queue, an answer, a call or a failure.
    news: Condvar,
}

struct State {
    waiting: Vec<Ended>,
    defects: Defects,
    overruns: u64,
    /// How often the taker asked for everything that the kernel has said by now, and how often that came.
    asked: u64,
    answered: u64,
    woken: bool,
    closed: bool,
    failed: Option<ReceiveError>,
}

/// The taker has gone: the receiver stops.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Queue {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let state = State {
            waiting: Vec::with_capacity(capacity.get()),
            defects: Defects::default(),
            overruns: 0,
            asked: 0,
            answered: 0,
            woken: false,
            closed: false,
            failed: None,
        };
        Self { capacity, state: Mutex::new(state), room: Condvar::new(), news: Condvar::new() }
    }

    /// Moves a batch in, oldest first, waiting for room as often as it takes.
    pub(super) fn append(&self, batch: &mut Vec<Ended>, defects: Defects) -> Result<(), Closed> {
        let mut state = self.lock();
        state.note(defects);
        loop {
            let room = self.capacity.get() - state.waiting.len();
            let moved = room.min(batch.len());
            state.waiting.extend(batch.drain(..moved));
            if self.half_full(&state) {
                self.news.notify_all();
            }
            if state.closed {
                return Err(Closed);
            }
            if batch.is_empty() {
                return Ok(());
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Exchanges the content for an empty vector of the same capacity.
    ///
    /// # Errors
    /// [`ReceiveError`] when nothing waits and the receiver has failed, so nothing ever will.
    pub(super) fn take(&self, empty: &mut Vec<Ended>) -> Result<(), ReceiveError> {
        debug_assert!(empty.is_empty());
        let mut state = self.lock();
        match state.failed {
            Some(failed) if state.waiting.is_empty() => Err(failed),
            _ => {
                std::mem::swap(&mut state.waiting, empty);
                self.room.notify_all();
                Ok(())
            }
        }
    }

    /// Asks for everything that the kernel has said by now; the answer's number.
    pub(super) fn ask(&self) -> u64 {
        let mut state = self.lock();
        state.asked += 1;
        state.asked
    }

    /// The latest question. The receiver reads it before it finds the socket empty, and answers that number.
    pub(super) fn asked(&self) -> u64 {
        self.lock().asked
    }

    /// The socket was empty after question `number`, and what it held is in the queue.
    pub(super) fn answer(&self, number: u64) {
        let mut state = self.lock();
        if state.answered < number {
            state.answered = number;
            self.news.notify_all();
        }
    }

    /// Waits until question `number` is answered, the queue is half full or the receiver has failed; true when it
    /// is answered, `None` when nothing of it came within `patience`.
    pub(super) fn wait_answer(&self, number: u64, patience: Duration) -> Option<bool> {
        let pending = |state: &mut State| state.answered < number && !self.noteworthy(state);
        let (state, waited) = self
            .news
            .wait_timeout_while(self.lock(), patience, pending)
            .unwrap_or_else(PoisonError::into_inner);
        (!waited.timed_out()).then_some(state.answered >= number)
    }

    /// Waits until the queue is half full, somebody wakes the taker, or the receiver has failed; true when it is
    /// half full.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let pending = |state: &mut State| !state.woken && !self.noteworthy(state);
        let (mut state, _) = self
            .news
            .wait_timeout_while(self.lock(), timeout, pending)
            .unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
        self.half_full(&state)
    }

    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.news.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn fail(&self, error: ReceiveError) {
        self.lock().failed = Some(error);
        self.news.notify_all();
    }

    pub(super) fn overrun(&self) {
        self.lock().overruns += 1;
    }

    pub(super) fn overruns(&self) -> u64 {
        self.lock().overruns
    }

    pub(super) fn defects(&self) -> Defects {
        self.lock().defects
    }

    fn noteworthy(&self, state: &State) -> bool {
        self.half_full(state) || state.failed.is_some()
    }

    fn half_full(&self, state: &State) -> bool {
        state.waiting.len() >= self.capacity.get().div_ceil(2)
    }

    /// A panic elsewhere leaves the state as whole as it was between two statements; it is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, new: Defects) {
        self.defects.malformed += new.malformed;
        self.defects.unsupported += new.unsupported;
        self.defects.without_counters += new.without_counters;
        self.defects.other_ct_zones += new.other_ct_zones;
    }
}

#[cfg(test)]
mod tests;
