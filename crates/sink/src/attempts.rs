//! Requests under way, one a lane at most.
//!
//! Bound: the lanes that a machine has.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::time::Instant;

use crate::client::Answer;

/// The requests under way, by lane.
pub(crate) struct Attempts<F>(Vec<Option<Attempt<F>>>);

/// One of them, and when it was begun.
type Attempt<F> = (Instant, Pin<Box<F>>);

impl<F: Future<Output = Answer>> Attempts<F> {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn are_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The first lane without one.
    pub(crate) fn idle(&self) -> usize {
        self.0.iter().position(Option::is_none).unwrap_or(self.0.len())
    }

    pub(crate) fn begin(&mut self, lane: usize, attempt: F) {
        if lane == self.0.len() {
            self.0.push(None);
        }
        if let Some(idle) = self.0.get_mut(lane) {
            *idle = Some((Instant::now(), Box::pin(attempt)));
        }
    }

    /// The next answer, with its lane and when that began; never when none is under way.
    pub(crate) async fn answered(&mut self) -> (usize, Instant, Answer) {
        poll_fn(|context| {
            for (lane, attempt) in self.0.iter_mut().enumerate() {
                let Some((begun, future)) = attempt else { continue };
                if let Poll::Ready(answer) = future.as_mut().poll(context) {
                    let begun = *begun;
                    *attempt = None;
                    return Poll::Ready((lane, begun, answer));
                }
            }
            Poll::Pending
        })
        .await
    }
}
