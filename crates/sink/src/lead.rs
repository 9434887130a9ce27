//! Until when this process may write: what an election says to every sink.
//!
//! Of several exporters only the one that leads writes, and none begins a push at or after its deadline, which is on
//! this machine's own boot clock: a process that was frozen, or a machine that slept, finds it passed on waking.
//!
//! What is guaranteed: a request is handed to the HTTP client before the deadline, and from then on the clock is read
//! each time before the client goes on with it, so that a request that waited for a connection over the deadline is not
//! sent. One that is under way at the deadline is dropped then, with its connection. What a socket had taken by then
//! may still arrive; so may what was between a reading of the clock and the write it allowed when the process was
//! frozen. A clock that stands still with the process, as in a paused virtual machine, tells neither.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use egressd_service::clock::{Boot, boot_now};
use tokio::sync::watch;
use tokio::time::sleep;

/// May this process write? Clones are told the same.
#[derive(Clone, Debug)]
pub struct Lead(watch::Receiver<Boot>);

/// What tells every [`Lead`]. When it is dropped, what it said last stands.
#[derive(Debug)]
pub struct Grant(watch::Sender<Boot>);

impl Grant {
    /// From now on pushes may begin before `deadline`, whatever was said before.
    pub fn until(&self, deadline: Boot) {
        self.0.send_replace(deadline);
    }

    /// From now on no push may begin.
    pub fn end(&self) {
        self.until(Boot::default());
    }
}

impl Lead {
    /// Of a process that is alone: pushes may always begin.
    #[must_use]
    pub fn always() -> Self {
        Self(watch::channel(Boot::NEVER).1)
    }

    /// Of one among several: no push may begin before it is granted.
    #[must_use]
    pub fn elected() -> (Grant, Self) {
        let (grant, lead) = watch::channel(Boot::default());
        (Grant(grant), Self(lead))
    }

    /// How long pushes may still begin, from `now` on; `None` when they must not.
    #[must_use]
    pub fn remaining(&self, now: Boot) -> Option<Duration> {
        let left = now.until(*self.0.borrow());
        (!left.is_zero()).then_some(left)
    }

    /// Waits until a push may begin.
    pub(crate) async fn held(&mut self) {
        if self.0.wait_for(|deadline| boot_now() < *deadline).await.is_err() {
            pending::<()>().await;
        }
    }

    /// What `attempt` comes to while pushes may begin; else whether it was begun.
    pub(crate) async fn over<F: Future>(self, attempt: F) -> Result<F::Output, Overdue> {
        let (mut attempt, mut news) = (pin!(attempt), self.0.clone());
        let mut begun = false;
        loop {
            let Some(left) = self.remaining(boot_now()) else { return Err(Overdue { begun }) };
            let going_on = poll_fn(|context| match self.remaining(boot_now()) {
                None => Poll::Ready(None),
                Some(_) => {
                    begun = true;
                    attempt.as_mut().poll(context).map(Some)
                }
            });
            tokio::select! {
                ended = going_on => match ended {
                    Some(output) => return Ok(output),
                    None => return Err(Overdue { begun }),
                },
                // Either may mean that it is over, and that it goes on.
                Ok(()) = news.changed() => {}
                () = sleep(left) => {}
            }
        }
    }
}

/// An attempt that the deadline kept from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// False: nothing of it was done.
    pub(crate) begun: bool,
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn in_an_hour() -> Boot {
        boot_now().after(HOUR)
    }

    /// Goal: a push may begin before the deadline and not at it, however often it was granted and ended.
    #[test]
    fn no_push_begins_at_the_deadline() {
        let (grant, lead) = Lead::elected();
        let (at, before) = (Boot(HOUR), Boot(HOUR.saturating_sub(Duration::from_nanos(1))));
        assert_eq!(lead.remaining(Boot::default()), None);
        grant.until(at);
        assert_eq!([before, at].map(|now| lead.remaining(now)), [Some(Duration::from_nanos(1)), None]);
        grant.end();
        assert_eq!(lead.remaining(before), None);
        assert!(Lead::always().remaining(Boot(HOUR)).is_some());
    }

    /// Goal: an attempt is made while the lead holds, cut off when it ends under way, and never begun after.
    #[tokio::test]
    async fn an_attempt_ends_with_the_lead() {
        let (grant, lead) = Lead::elected();
        assert_eq!(lead.clone().over(ready(1)).await, Err(Overdue { begun: false }));
        grant.until(in_an_hour());
        assert_eq!(lead.clone().over(ready(1)).await, Ok(1));
        grant.until(boot_now().after(Duration::from_millis(20)));
        assert_eq!(lead.clone().over(pending::<()>()).await, Err(Overdue { begun: true }));
        grant.until(in_an_hour());
        let ends = async {
            grant.end();
            pending::<()>().await;
        };
        assert_eq!(lead.over(ends).await, Err(Overdue { begun: true }));
    }

    /// Goal: a grant that is renewed under way lets the attempt go on beyond the first deadline.
    #[tokio::test]
    async fn a_renewed_grant_lets_an_attempt_go_on() {
        let (grant, lead) = Lead::elected();
        let first = boot_now().after(Duration::from_millis(20));
        grant.until(first);
        let beyond = async {
            grant.until(in_an_hour());
            while boot_now() < first {
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(lead.over(beyond).await, Ok(()));
    }

    /// Goal: who waits for the lead goes on when it is granted, and never after what grants it is gone.
    #[tokio::test(start_paused = true)]
    async fn the_lead_is_waited_for() {
        let (grant, mut lead) = Lead::elected();
        assert!(tokio::time::timeout(HOUR, lead.held()).await.is_err());
        grant.until(in_an_hour());
        lead.held().await;
        grant.end();
        drop(grant);
        assert!(tokio::time::timeout(HOUR, lead.held()).await.is_err());
    }
}
