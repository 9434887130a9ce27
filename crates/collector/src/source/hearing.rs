//! What is heard between two reads: the ends of entries, or nothing but that somebody wants this thread.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use egressd_conntrack::netfilter::{self, CtZones, Drained, Ends, EndsConfig, Keeper, Losses, ReceiveError};
use egressd_flow::{Defects, Ended};
use tracing::warn;

/// The reader's ear.
pub(crate) enum Hearing {
    /// Of a source that tells ends.
    Ends(Ends),
    /// Of one that does not: a wait and no more.
    Nothing(Arc<Bell>),
}

/// Ends a [`Hearing::wait`] from another thread.
pub(crate) enum Waker {
    Ends(netfilter::Waker),
    Nothing(Arc<Bell>),
}

impl Waker {
    /// Makes the wait under way, or the next one, return at once.
    pub(crate) fn wake(&self) {
        match self {
            Self::Ends(waker) => waker.wake(),
            Self::Nothing(bell) => bell.ring(),
        }
    }
}

impl Hearing {
    /// Listens on the calling thread's network namespace.
    pub(super) fn of_ends(
        config: EndsConfig,
        ct_zones: &CtZones,
        keeper: Option<Box<dyn Keeper>>,
    ) -> anyhow::Result<Self> {
        let ends = Ends::listen(config, ct_zones.clone(), keeper)?;
        if let Some(warning) = ends.warning() {
            warn!(%warning, "bursts of ends may be lost; what is lost is counted");
        }
        Ok(Self::Ends(ends))
    }

    /// Of a source that tells no ends.
    pub(super) fn nothing() -> Self {
        Self::Nothing(Arc::default())
    }

    pub(crate) fn waker(&self) -> Waker {
        match self {
            Self::Ends(ends) => Waker::Ends(ends.waker()),
            Self::Nothing(bell) => Waker::Nothing(Arc::clone(bell)),
        }
    }

    /// Until an end waits, somebody wakes this thread, or `timeout` is over.
    pub(crate) fn wait(&self, timeout: Duration) {
        match self {
            Self::Ends(ends) => {
                ends.wait(timeout);
            }
            Self::Nothing(bell) => bell.wait(timeout),
        }
    }

    /// Hands over the ends that wait, and never waits itself.
    pub(crate) fn drain(&mut self, each: &mut dyn FnMut(&Ended)) -> Result<u64, ReceiveError> {
        match self {
            Self::Ends(ends) => ends.drain(each),
            Self::Nothing(_) => Ok(0),
        }
    }

    /// Hands over all ends up to now, and waits for that no longer than `patience`.
    pub(crate) fn drain_all(
        &mut self,
        patience: Duration,
        each: &mut dyn FnMut(&Ended),
    ) -> Result<Drained, ReceiveError> {
        match self {
            Self::Ends(ends) => ends.drain_all(patience, each),
            Self::Nothing(_) => Ok(Drained { ends: 0, settled: true }),
        }
    }

    /// What could not be delivered so far.
    pub(crate) fn losses(&mut self) -> std::io::Result<Losses> {
        match self {
            Self::Ends(ends) => ends.losses(),
            Self::Nothing(_) => Ok(Losses::default()),
        }
    }

    /// Ends that were passed over so far.
    pub(crate) fn defects(&self) -> Defects {
        match self {
            Self::Ends(ends) => ends.defects(),
            Self::Nothing(_) => Defects::default(),
        }
    }

    /// Processor time that receiving took so far.
    pub(crate) fn spent(&self) -> Duration {
        match self {
            Self::Ends(ends) => ends.spent(),
            Self::Nothing(_) => Duration::ZERO,
        }
    }
}

/// A wait that another thread can end. A ring that nobody waits for is kept for the next wait.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        // Nobody panics while holding it.
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn wait(&self, timeout: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rung, timeout, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a ring ends the wait under way or the next one, and only one.
    #[test]
    fn a_ring_ends_one_wait() {
        let bell = Arc::new(Bell::default());
        bell.ring();
        bell.wait(Duration::MAX);
        assert!(!*bell.rung.lock().unwrap());
        let ringer = std::thread::spawn({
            let bell = Arc::clone(&bell);
            move || bell.ring()
        });
        bell.wait(Duration::MAX);
        ringer.join().unwrap();
        bell.wait(Duration::ZERO);
    }
}
