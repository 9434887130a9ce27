//! Who waits for which review, and what is known without one. Pure: digests in, digests to review out.
//!
//! Invariants: no token is reviewed twice at the same time; no more than [`AT_ONCE_MAX`] are; what is known is forgotten no
//! later than it says.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use egressd_delivery::serve::NotAdmitted;
use egressd_service::clock::Boot;

use super::judge::Bound;

/// Of the API's time, for five thousand collectors that come at once.
pub(crate) const AT_ONCE_MAX: usize = 16;
/// Twice the nodes that an exporter is made for, each with a token that was just renewed.
pub(crate) const ADMITTED_MAX: usize = 20_000;
/// Whoever shows ever more wrong tokens has them reviewed again.
pub(crate) const REFUSED_MAX: usize = 1_024;
/// Collectors that wait for a review, one for each node that an exporter takes; whoever comes beyond is told to come back.
pub(crate) const WAITING_MAX: usize = egressd_delivery::ledger::NODES_MAX;
/// Those who have gone are looked for no more often, however many come.
const SWEPT_EVERY: Duration = Duration::from_secs(1);
/// How long a token that was vouched for is known, if it lasts that long.
const ADMITTED_FOR: Duration = Duration::from_mins(10);
/// How long one that was refused is: a collector that tries again at once need not be asked for.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// A token's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

/// What a review came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The token vouches for this, and lasts so long yet.
    Good(Bound, Duration),
    /// It does not, for whatever reason: whoever shows it again hears the same for a while.
    Bad(NotAdmitted),
    /// Nobody can tell. It is not kept.
    Unanswered,
}

/// Claims that wait, each with a token of `W`.
pub(crate) struct Reviews<W> {
    admitted: HashMap<Digest, (Bound, Boot)>,
    refused: HashMap<Digest, (NotAdmitted, Boot)>,
    waiting: HashMap<Digest, Vec<W>>,
    /// Of all tokens.
    waiting_count: usize,
    swept_at: Option<Boot>,
    /// To be reviewed, in the order in which they came.
    queue: VecDeque<Digest>,
    under_way: usize,
}

impl<W> Default for Reviews<W> {
    fn default() -> Self {
        let (admitted, refused, waiting) = (HashMap::new(), HashMap::new(), HashMap::new());
        let queue = VecDeque::new();
        Self { admitted, refused, waiting, waiting_count: 0, swept_at: None, queue, under_way: 0 }
    }
}

impl<W> Reviews<W> {
    /// What is known of a token, or else that `who` waits for its review; where too many wait, that it must come back.
    pub(crate) fn ask(
        &mut self,
        token: Digest,
        who: W,
        now: Boot,
        has_gone: impl Fn(&W) -> bool,
    ) -> Option<(W, Result<Bound, NotAdmitted>)> {
        if let Some((bound, until)) = self.admitted.get(&token)
            && now < *until
        {
            return Some((who, Ok(bound.clone())));
        }
        if let Some((why, until)) = self.refused.get(&token)
            && now < *until
        {
            return Some((who, Err(why.clone())));
        }
        if self.waiting_count >= WAITING_MAX {
            self.sweep(now, has_gone);
        }
        if self.waiting_count >= WAITING_MAX {
            return Some((who, Err(NotAdmitted::Busy)));
        }
        let others = self.waiting.entry(token).or_insert_with(|| {
            self.queue.push_back(token);
            Vec::new()
        });
        others.push(who);
        self.waiting_count += 1;
        None
    }

    /// Lets those go who have gone. Their tokens stay where they are in the queue, or under review.
    fn sweep(&mut self, now: Boot, has_gone: impl Fn(&W) -> bool) {
        if self.swept_at.is_some_and(|at| now < at.after(SWEPT_EVERY)) {
            return;
        }
        self.swept_at = Some(now);
        self.waiting.values_mut().for_each(|waiting| waiting.retain(|who| !has_gone(who)));
        self.waiting_count = self.waiting.values().map(Vec::len).sum();
    }

    /// The next token to review, with one of those who wait for it, while there is room for another review. Nobody reviews
    /// what only those wait for who have gone.
    pub(crate) fn next(&mut self, has_gone: impl Fn(&W) -> bool) -> Option<(Digest, &W)> {
        if self.under_way >= AT_ONCE_MAX {
            return None;
        }
        while let Some(token) = self.queue.pop_front() {
            let waiting = self.waiting.entry(token).or_default();
            let before = waiting.len();
            waiting.retain(|who| !has_gone(who));
            self.waiting_count -= before - waiting.len();
            if waiting.is_empty() {
                self.waiting.remove(&token);
                continue;
            }
            self.under_way += 1;
            return self.waiting.get(&token)?.first().map(|who| (token, who));
        }
        None
    }

    /// A review has ended; those who waited for it, and what they hear.
    pub(crate) fn ended(
        &mut self,
        token: Digest,
        outcome: Outcome,
        now: Boot,
    ) -> (Vec<W>, Result<Bound, NotAdmitted>) {
        self.under_way = self.under_way.saturating_sub(1);
        let answer = match outcome {
            Outcome::Good(bound, lasts) => {
                self.keep(token, bound.clone(), now.after(lasts.min(ADMITTED_FOR)), now);
                Ok(bound)
            }
            Outcome::Bad(why) => {
                if self.refused.len() >= REFUSED_MAX {
                    self.refused.clear();
                }
                self.refused.insert(token, (why.clone(), now.after(REFUSED_FOR)));
                Err(why)
            }
            Outcome::Unanswered => Err(NotAdmitted::ApiAway),
        };
        let waited = self.waiting.remove(&token).unwrap_or_default();
        self.waiting_count -= waited.len();
        (waited, answer)
    }

    /// One that finds no room is reviewed again.
    fn keep(&mut self, token: Digest, bound: Bound, until: Boot, now: Boot) {
        if self.admitted.len() >= ADMITTED_MAX {
            self.admitted.retain(|_, (_, until)| now < *until);
        }
        if self.admitted.len() < ADMITTED_MAX {
            self.admitted.insert(token, (bound, until));
        }
    }

    /// Those who wait for a review, under way or not.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting_count
    }

    /// Reviews under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use egressd_enrich::PodUid;

    use super::*;

    const START: Boot = Boot(Duration::from_secs(1));
    const LONG: Duration = Duration::from_hours(1);

    fn token(number: u32) -> Digest {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        Digest(digest)
    }

    fn bound() -> Bound {
        Bound { pod: PodUid("uid".into()), node: None }
    }

    fn started(reviews: &mut Reviews<u32>) -> Vec<u32> {
        std::iter::from_fn(|| reviews.next(|_| false).map(|(_, who)| *who)).collect()
    }

    /// Goal: of five thousand that come at once sixteen are reviewed at a time, in order, until all have their answer; the
    /// same five thousand again need no review.
    #[test]
    fn five_thousand_at_once_stay_within_the_bound() {
        let mut reviews = Reviews::default();
        for number in 0..5_000 {
            assert!(reviews.ask(token(number), number, START, |_| false).is_none());
        }
        let mut under_way = VecDeque::from(started(&mut reviews));
        let mut answered = 0;
        while let Some(number) = under_way.pop_front() {
            assert!(under_way.len() < AT_ONCE_MAX);
            let (waited, answer) = reviews.ended(token(number), Outcome::Good(bound(), LONG), START);
            assert_eq!((waited, answer), (vec![number], Ok(bound())));
            answered += 1;
            under_way.extend(started(&mut reviews));
        }
        assert_eq!((answered, reviews.under_way(), reviews.waiting()), (5_000, 0, 0));
        for number in 0..5_000 {
            assert_eq!(reviews.ask(token(number), number, START, |_| false), Some((number, Ok(bound()))));
        }
        assert!(started(&mut reviews).is_empty());
    }

    /// Goal: one token is reviewed once for all who wait for it, and not at all for those who have gone.
    #[test]
    fn a_token_is_reviewed_once_for_all_who_wait() {
        let mut reviews = Reviews::default();
        for who in [1, 2] {
            assert!(reviews.ask(token(1), who, START, |_| false).is_none());
        }
        assert!(reviews.ask(token(2), 3, START, |_| false).is_none());
        assert!(reviews.next(|who| *who == 3).is_some());
        assert!(reviews.next(|who| *who == 3).is_none(), "it went");
        assert!(reviews.ask(token(1), 4, START, |_| false).is_none());
        assert!(started(&mut reviews).is_empty(), "it is under way");
        let (waited, answer) = reviews.ended(token(1), Outcome::Unanswered, START);
        assert_eq!((waited, answer), (vec![1, 2, 4], Err(NotAdmitted::ApiAway)));
        assert!(
            reviews.ask(token(1), 5, START, |_| false).is_none(),
            "what nobody could tell is asked again"
        );
    }

    /// Goal: a good token is known for ten minutes or as long as it lasts, a bad one for ten seconds.
    #[test]
    fn what_is_known_is_forgotten_in_time() {
        let mut reviews = Reviews::default();
        let ends =
            |reviews: &mut Reviews<u32>, number, outcome| drop(reviews.ended(token(number), outcome, START));
        ends(&mut reviews, 1, Outcome::Good(bound(), LONG));
        ends(&mut reviews, 2, Outcome::Good(bound(), Duration::from_secs(60)));
        ends(&mut reviews, 3, Outcome::Good(bound(), Duration::ZERO));
        ends(&mut reviews, 4, Outcome::Bad(NotAdmitted::Unbound));
        for (number, seconds) in [(1, 600), (2, 60), (3, 0), (4, 10)] {
            let end = START.after(Duration::from_secs(seconds));
            let before = Boot(end.0.saturating_sub(Duration::from_nanos(1)));
            if seconds > 0 {
                assert!(reviews.ask(token(number), 0, before, |_| false).is_some(), "{number}");
            }
            assert!(reviews.ask(token(number), 0, end, |_| false).is_none(), "{number}");
        }
    }

    /// Goal: whoever comes beyond the bound is told to come back; those who have gone make room, and are not looked for at
    /// each who comes.
    #[test]
    fn those_who_wait_are_bounded() {
        let mut reviews = Reviews::default();
        let none_gone = |_: &u32| false;
        let all = u32::try_from(WAITING_MAX).unwrap();
        for who in 0..all {
            // Every second one shows a token that somebody waits for already.
            assert!(reviews.ask(token(who / 2), who, START, none_gone).is_none());
        }
        let busy = Some((all, Err(NotAdmitted::Busy)));
        assert_eq!(reviews.ask(token(all), all, START, none_gone), busy);
        assert_eq!(reviews.ask(token(0), all, START, none_gone), busy);
        let has_gone = |who: &u32| *who < 100;
        let soon = Boot(START.0 + SWEPT_EVERY / 2);
        assert_eq!(reviews.ask(token(all), all, soon, has_gone), busy, "looked for a moment ago");
        assert!(reviews.ask(token(all), all, START.after(SWEPT_EVERY), has_gone).is_none());
        assert_eq!(reviews.waiting(), WAITING_MAX - 99);
        let first = reviews.next(has_gone).map(|(token, who)| (token.0, *who));
        assert_eq!(first, Some((token(50).0, 100)), "nobody reviews what only those wait for who have gone");
        let waited = reviews.ended(token(50), Outcome::Unanswered, START).0;
        assert_eq!((waited.len(), reviews.waiting()), (2, WAITING_MAX - 101));
    }

    /// Goal: whoever shows ever more tokens fills no more than the tables.
    #[test]
    fn tables_are_bounded() {
        let mut reviews = Reviews::<u32>::default();
        for number in 0..25_000 {
            drop(reviews.ended(token(number), Outcome::Bad(NotAdmitted::Unbound), START));
            drop(reviews.ended(token(number), Outcome::Good(bound(), LONG), START));
        }
        assert_eq!(reviews.admitted.len(), ADMITTED_MAX);
        assert!(reviews.refused.len() <= REFUSED_MAX);
        let later = START.after(LONG);
        drop(reviews.ended(token(0), Outcome::Good(bound(), LONG), later));
        assert_eq!(reviews.admitted.len(), 1, "what is over makes room");
    }
}
