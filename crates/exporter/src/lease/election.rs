//! The election's machine: what to ask of the API next, and until when this exporter leads.
//!
//! Invariant: an exporter begins to lead by a write at a version that nobody wrote over for a whole duration as seen from
//! here, or that was given back. So whoever led before sent nothing that succeeded for that long. A Lease that is not
//! there has no version: to make one is to claim it, and its duration is waited for like another's, since it may have
//! been deleted under a leader.
//! Bound: one request at a time, at most one in [`Pace::retry`] but for the write that follows a read.

use std::time::Duration;

use egressd_service::clock::Boot;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

/// The spans of an election, all of the lease's duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long a holder may be silent.
    pub(crate) duration: Duration,
    /// How much earlier its holder lets go.
    margin: Duration,
    /// Between two renewals, and between two looks of a standby.
    renew: Duration,
    /// After a request that failed.
    retry: Duration,
    /// How long a request may take.
    pub(crate) answer: Duration,
}

impl Pace {
    /// Two requests that are never answered, the pause between them and one that is fit into the leader's time.
    pub(crate) fn of(duration: Duration) -> Self {
        let [margin, renew, retry, answer] = [5, 3, 12, 6].map(|part| duration / part);
        Self { duration, margin, renew, retry, answer }
    }

    /// Up to a tenth earlier, so that exporters that started together do not ask together.
    fn renew_after(&self, random: u64) -> Duration {
        let tenth = (self.renew / 10).as_nanos();
        let earlier = u64::try_from(u128::from(random) * tenth / (1 << 64)).unwrap_or(0);
        self.renew.saturating_sub(Duration::from_nanos(earlier))
    }
}

/// A version of the Lease (`metadata.resourceVersion`); equal or not, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) String);

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// `None`: nobody holds it.
    pub(crate) holder: Option<String>,
    /// How long its holder may be silent; zero where it does not say.
    pub(crate) duration: Duration,
    /// How often it went from one to another.
    pub(crate) transitions: i32,
}

/// A request to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The Lease.
    Read,
    /// Make it, as there is none.
    Create(Record),
    /// Write it over this version.
    Replace(Version, Record),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It says so; what was written, after a write.
    Is(Version, Record),
    /// There is no such Lease.
    Absent,
    /// Another version is there.
    Conflict,
    /// Refused, or not answered: whether it was done is not known.
    Failed,
}

/// Why an exporter leads no more. Its process ends, and is started again as a standby.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Loss {
    /// It was taken for dead.
    #[error("the lease is {holder}'s now; this exporter ends and stands by when it is started again")]
    Taken {
        /// Whose it is.
        holder: String,
    },
    /// Another may take it by now.
    #[error(
        "the lease could not be renewed in time, {overdue:?} ago; this exporter ends and stands by when it is started \
         again"
    )]
    Expired {
        /// How long the deadline has passed.
        overdue: Duration,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before this instant.
    Wait(Boot),
    /// Ask, and tell [`heard`](Election::heard).
    Ask(Ask),
    /// It is over.
    Lost(Loss),
}

/// The Lease as it was seen last.
#[derive(Debug)]
struct Sight {
    /// `None`: there is none.
    lease: Option<(Version, Record)>,
    /// Since when it has been so, at the latest.
    since: Boot,
}

/// One exporter's part in the election.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    pace: Pace,
    sight: Option<Sight>,
    /// It may be otherwise by now: it is read before it is written.
    stale: bool,
    /// Until when this exporter leads; `None` while it stands by.
    deadline: Option<Boot>,
    lost: Option<Loss>,
    due: Boot,
    /// Whether it would be of use as a leader.
    eligible: bool,
}

impl Election {
    /// A standby that knows of nobody. `identity` is of this process alone.
    pub(crate) fn new(identity: String, pace: Pace) -> Self {
        Self {
            identity,
            pace,
            sight: None,
            stale: true,
            deadline: None,
            lost: None,
            due: Boot::default(),
            eligible: false,
        }
    }

    /// Until when pushes may begin; `None` while it stands by.
    pub(crate) fn deadline(&self) -> Option<Boot> {
        self.deadline
    }

    /// Who holds the lease, as far as is known.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.record()?.holder.as_deref()
    }

    /// Who leads instead of this exporter, as far as is known.
    pub(crate) fn other_holder(&self) -> Option<&str> {
        self.holder().filter(|holder| *holder != self.identity)
    }

    /// What to do at `now`. An exporter that is not `eligible` looks, and does not contend.
    pub(crate) fn next(&mut self, now: Boot, eligible: bool) -> Step {
        self.eligible = eligible;
        if let Some(loss) = &self.lost {
            return Step::Lost(loss.clone());
        }
        if let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) {
            return Step::Lost(self.lose(Loss::Expired { overdue: deadline.until(now) }));
        }
        if now < self.due {
            return Step::Wait(self.deadline.map_or(self.due, |deadline| deadline.min(self.due)));
        }
        Step::Ask(if self.stale || !self.may_write(now) { Ask::Read } else { self.write() })
    }

    /// What came of the request that was sent at `sent`. `random` is uniform over all 64 bits.
    pub(crate) fn heard(&mut self, ask: &Ask, sent: Boot, now: Boot, answer: Answer, random: u64) {
        match answer {
            Answer::Failed => self.due = now.after(self.pace.retry),
            Answer::Conflict => {
                self.stale = true;
                self.due = now.after(self.pace.retry);
            }
            Answer::Is(version, record) if *ask != Ask::Read => {
                self.see(Some((version, record)), now);
                self.due = sent.after(self.pace.renew_after(random));
                let deadline = sent.after(self.pace.duration.saturating_sub(self.pace.margin));
                // An answer that came too late is no lead, and the write is tried again.
                if self.deadline.is_some() || (matches!(ask, Ask::Replace(..)) && now < deadline) {
                    self.deadline = Some(deadline);
                }
                if self.deadline.is_none() {
                    self.look_again(now, random);
                }
            }
            Answer::Is(version, record) => {
                self.see(Some((version, record)), now);
                let other = self.other_holder().map(str::to_owned);
                if let (Some(_), Some(holder)) = (self.deadline, other) {
                    self.lose(Loss::Taken { holder });
                }
                self.look_again(now, random);
            }
            Answer::Absent => {
                self.see(None, now);
                self.look_again(now, random);
            }
        }
    }

    /// What to ask so that another may lead at once, once nothing more is pushed; `None` when there is nothing to give
    /// back. It leads no more.
    pub(crate) fn release(&mut self) -> Option<Ask> {
        self.deadline.take()?;
        let (version, record) = self.sight.as_ref()?.lease.clone()?;
        Some(Ask::Replace(version, Record { holder: None, ..record }))
    }

    fn record(&self) -> Option<&Record> {
        Some(&self.sight.as_ref()?.lease.as_ref()?.1)
    }

    fn lose(&mut self, loss: Loss) -> Loss {
        self.deadline = None;
        self.lost.insert(loss).clone()
    }

    fn see(&mut self, lease: Option<(Version, Record)>, now: Boot) {
        let version = |lease: &Option<(Version, Record)>| lease.as_ref().map(|(version, _)| version.clone());
        let known = self.sight.as_ref().filter(|sight| version(&sight.lease) == version(&lease));
        let since = known.map_or(now, |sight| sight.since);
        self.sight = Some(Sight { lease, since });
        self.stale = false;
    }

    /// At once where that helps; when its holder is dead; in any case after a while.
    fn look_again(&mut self, now: Boot, random: u64) {
        let free = self.free_at().filter(|free| self.eligible || now < *free);
        let again = now.after(self.pace.renew_after(random));
        self.due = free.map_or(again, |free| free.max(now).min(again));
    }

    fn may_write(&self, now: Boot) -> bool {
        self.deadline.is_some() || (self.eligible && self.free_at().is_some_and(|free| free <= now))
    }

    /// From when on this exporter may write the lease; `None` before it was read.
    fn free_at(&self) -> Option<Boot> {
        let Sight { lease, since } = self.sight.as_ref()?;
        let Some((_, record)) = lease else { return Some(*since) };
        let is_free = match &record.holder {
            None => true,
            // One that it made is a claim.
            Some(holder) => *holder == self.identity && (self.deadline.is_some() || record.transitions > 0),
        };
        let duration = if record.duration.is_zero() { self.pace.duration } else { record.duration };
        Some(if is_free { *since } else { since.after(duration) })
    }

    fn write(&self) -> Ask {
        let own = |transitions| Record {
            holder: Some(self.identity.clone()),
            duration: self.pace.duration,
            transitions,
        };
        match self.sight.as_ref().and_then(|sight| sight.lease.as_ref()) {
            None => Ask::Create(own(0)),
            Some((version, record)) => {
                let stays = self.deadline.is_some() && record.holder.as_ref() == Some(&self.identity);
                let transitions = record.transitions.saturating_add(i32::from(!stays));
                Ask::Replace(version.clone(), own(transitions))
            }
        }
    }
}
