//! How many requests of one sink are under way at once, and which answers say something of those to come.
//!
//! What a sink has to say is cut into parts of its table that share no flow, and each part is a request: so requests
//! side by side never speak of the same series, and nothing but their number has to be decided. Lanes by a hash of the
//! labels were the other way; they would need a table each, or a rest that folds into several, and one pod with most of
//! the flows would fill one of them.
//!
//! It begins with one and allows one more after each that was accepted. After any other answer those under way are
//! waited for and the sink speaks one request at a time, until one is accepted: a destination that is away or busy is
//! asked once a wait, and what it refuses is narrowed down alone. Answers to requests that began before that one say
//! nothing of what follows.
//!
//! Bound: [`LANES_MAX`] requests under way.

/// Requests at once unless configured: at 100 ms from one to the other end and 5,000 samples each, 200,000 samples a
/// second, which is what a full table says in 15 s.
pub(crate) const LANES: usize = 4;

/// Requests at once at most, of 4 MiB each before compression; Prometheus' own default is 50 of much smaller ones.
pub(crate) const LANES_MAX: usize = 32;

/// The requests of one sink.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// The failures before each lane's request began; `None` when it has none under way.
    begun: Vec<Option<u64>>,
    allowed: usize,
    failures: u64,
}

impl Lanes {
    /// At most `most` at once, and at least one.
    pub(crate) fn new(most: usize) -> Self {
        let mut lanes = Self { begun: Vec::new(), allowed: 1, failures: 0 };
        lanes.resize(most);
        lanes
    }

    /// Another bound, and a new beginning, while none is under way.
    pub(crate) fn resize(&mut self, most: usize) {
        self.begun.resize(most.clamp(1, LANES_MAX), None);
        self.allowed = 1;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.begun.len()
    }

    /// Whether a lane may speak now: for the first time, or the same again.
    pub(crate) fn is_open(&self, lane: usize) -> bool {
        self.is_under_way(lane) || lane < self.len() && self.under_way() < self.allowed
    }

    /// Whether nothing is under way but what `lane` may have.
    pub(crate) fn is_alone(&self, lane: usize) -> bool {
        self.under_way() == usize::from(self.is_under_way(lane))
    }

    /// A request of a lane is on its way.
    pub(crate) fn begin(&mut self, lane: usize) {
        if let Some(begun) = self.begun.get_mut(lane) {
            *begun = Some(self.failures);
        }
    }

    /// It was answered; whether that says something of what follows.
    pub(crate) fn answered(&mut self, lane: usize, is_accepted: bool) -> bool {
        let begun = self.begun.get_mut(lane).and_then(Option::take);
        let is_news = begun.is_none_or(|begun| begun == self.failures);
        if is_news && !is_accepted {
            (self.failures, self.allowed) = (self.failures + 1, 1);
        }
        is_news
    }

    /// One more may be under way.
    pub(crate) fn widen(&mut self) {
        self.allowed = (self.allowed + 1).min(self.len());
    }

    /// Whether a lane has a request under way.
    pub(crate) fn is_under_way(&self, lane: usize) -> bool {
        self.begun.get(lane).is_some_and(Option::is_some)
    }

    fn under_way(&self) -> usize {
        self.begun.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: requests at once grow by one with each that is accepted, up to the bound; after a failure there is one, and
    /// what began before it changes nothing.
    #[test]
    fn a_failure_is_followed_by_one_request_at_a_time() {
        let mut lanes = Lanes::new(3);
        for open in [1, 2, 3, 3] {
            let (first, fourth) = (0..open, lanes.is_open(3));
            assert!(!fourth);
            for lane in first {
                assert!(lanes.is_open(lane), "{open}");
                lanes.begin(lane);
            }
            assert!((open..3).all(|lane| !lanes.is_open(lane)), "{open}");
            assert!((0..open).all(|lane| lanes.answered(lane, true)));
            lanes.widen();
        }
        (0..3).for_each(|lane| lanes.begin(lane));
        assert!(lanes.answered(1, false));
        assert!(!lanes.is_open(1), "two are under way");
        assert!(!lanes.answered(0, true) && !lanes.answered(2, false), "they began before");
        assert!(lanes.is_open(1) && lanes.is_alone(1));
        lanes.begin(1);
        assert!(!lanes.is_open(0) && !lanes.is_alone(0));
    }

    /// Goal: no setting leaves a sink without a request, or with more than the bound.
    #[test]
    fn lanes_are_bounded() {
        assert_eq!([0, 4, 1000].map(|most| Lanes::new(most).len()), [1, 4, LANES_MAX]);
    }
}
