//! DNS answers on their way to the exporter: told as good as it goes, and never acknowledged.
//!
//! An answer that was told stays as long as it holds, so that an exporter that begins anew is told again; one that comes
//! again is told again, for the exporter goes by which was last. In between answers of the same (address, asker, name)
//! are one.
//! Bound: [`ANSWERS_MAX`] answers. Beyond it who asked for most gives way ([`Shares`]); what was not told yet is counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{NAME_BYTES_MAX, Name, Shares, UnixNanos};

/// Answers held: as many as the exporter holds of a node.
pub const ANSWERS_MAX: usize = 8_192;

/// What answers take at worst, in bytes: a place in the table and one in the queue, with what both have to spare, and a
/// name of its own each.
pub const BYTES_MAX: usize =
    ANSWERS_MAX * (4 * size_of::<(Key, Answer)>() + 2 * size_of::<Key>() + NAME_BYTES_MAX + 32);

/// What became of answers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutboxBooks {
    pub(crate) received: u64,
    /// Told, each time.
    pub(crate) told: u64,
    /// Never told for want of room.
    pub(crate) discarded: u64,
    /// Held, told or not.
    pub(crate) held: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: IpAddr,
    asker: Option<IpAddr>,
    name: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    seen: UnixNanos,
    time_to_live: Duration,
    is_due: bool,
}

impl Answer {
    fn until(self) -> UnixNanos {
        self.seen.saturating_add(self.time_to_live)
    }
}

/// The answers of this node.
#[derive(Debug)]
pub(crate) struct Outbox {
    answers: HashMap<Key, Answer>,
    /// Those to be told, oldest first; one that was let go meanwhile is passed over.
    due: VecDeque<Key>,
    answers_max: usize,
    books: OutboxBooks,
}

impl Outbox {
    pub(crate) fn new(answers_max: usize) -> Self {
        let books = OutboxBooks::default();
        Self { answers: HashMap::new(), due: VecDeque::new(), answers_max: answers_max.max(1), books }
    }

    pub(crate) fn books(&self) -> OutboxBooks {
        OutboxBooks { held: self.answers.len() as u64, ..self.books }
    }

    /// Answers to be told.
    pub(crate) fn due(&self) -> usize {
        self.due.len()
    }

    /// Takes in an answer.
    pub(crate) fn note(&mut self, name: Name) {
        self.books.received += 1;
        let Name { address, name, time_to_live, seen, asker } = name;
        let key = Key { address, asker, name };
        let was_due = self.answers.get(&key).is_some_and(|answer| answer.is_due);
        if !was_due {
            self.due.push_back(key.clone());
        }
        self.answers.insert(key, Answer { seen, time_to_live, is_due: true });
        if self.answers.len() > self.answers_max {
            self.shrink();
        }
    }

    /// The next answers to tell, so many at most.
    pub(crate) fn take(&mut self, names_max: usize) -> Vec<Name> {
        let mut names = Vec::new();
        while names.len() < names_max
            && let Some(key) = self.due.pop_front()
        {
            let Some(answer) = self.answers.get_mut(&key).filter(|answer| answer.is_due) else { continue };
            answer.is_due = false;
            let Answer { seen, time_to_live, .. } = *answer;
            let Key { address, asker, name } = key;
            names.push(Name { address, name, time_to_live, seen, asker });
        }
        self.books.told += names.len() as u64;
        names
    }

    /// Whoever listens now was told nothing yet: all that holds is told again.
    pub(crate) fn begin_anew(&mut self, now: UnixNanos) {
        self.answers.retain(|_, answer| answer.until() > now);
        self.answers.values_mut().for_each(|answer| answer.is_due = true);
        let mut due: Vec<_> = self.answers.iter().map(|(key, answer)| (answer.seen, key.clone())).collect();
        // The exporter's room is for what was asked last.
        due.sort_unstable_by_key(|(seen, _)| *seen);
        self.due = due.into_iter().map(|(_, key)| key).collect();
    }

    /// Lets an eighth go at least, so that this is rare.
    fn shrink(&mut self) {
        let answers = self.answers.iter().map(|(key, answer)| (key.asker, answer.until()));
        let mut shares = Shares::new(answers, self.answers_max - self.answers_max / 8);
        let discarded = &mut self.books.discarded;
        self.answers.retain(|key, answer| {
            let is_kept = shares.keeps(key.asker, answer.until());
            *discarded += u64::from(!is_kept && answer.is_due);
            is_kept
        });
        let answers = &self.answers;
        self.due.retain(|key| answers.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32, name: &str, seen: u64) -> Name {
        Name {
            address: std::net::Ipv4Addr::from(0xc612_0000 + number).into(),
            name: name.into(),
            time_to_live: Duration::from_secs(60),
            seen: UnixNanos(seen),
            asker: Some([10, 0, 0, 1].into()),
        }
    }

    /// Goal: the same answer is told once for as often as it came meanwhile, as it was last, and again when it comes again.
    #[test]
    fn the_same_answer_is_one_until_it_is_told() {
        let mut outbox = Outbox::new(10);
        for seen in [1, 2, 3] {
            outbox.note(name(1, "a.com", seen));
            outbox.note(name(1, "b.com", seen));
        }
        assert_eq!(outbox.take(1), [name(1, "a.com", 3)]);
        assert_eq!(outbox.take(9), [name(1, "b.com", 3)]);
        assert_eq!((outbox.due(), outbox.take(9)), (0, vec![]));
        outbox.note(name(1, "a.com", 4));
        assert_eq!(outbox.take(9), [name(1, "a.com", 4)]);
        assert_eq!(outbox.books(), OutboxBooks { received: 7, told: 3, discarded: 0, held: 2 });
    }

    /// Goal: a new listener is told all that holds, in the order in which it was seen, and nothing that is over.
    #[test]
    fn a_new_listener_is_told_all_that_holds() {
        let mut outbox = Outbox::new(10);
        let minute = 60_000_000_000;
        for (number, seen) in [(3, 3 * minute), (1, 1), (2, 2 * minute)] {
            outbox.note(name(number, "a.com", seen));
        }
        assert_eq!(outbox.take(9).len(), 3);
        outbox.begin_anew(UnixNanos(2 * minute));
        assert_eq!(outbox.take(9), [name(2, "a.com", 2 * minute), name(3, "a.com", 3 * minute)]);
    }

    /// Goal: a pod that asks for more than has room pushes out its own answers, and none of another.
    #[test]
    fn nobody_pushes_out_the_names_of_others() {
        let mut outbox = Outbox::new(16);
        let other = Name { asker: Some([10, 0, 0, 2].into()), ..name(99, "other.com", 0) };
        outbox.note(other.clone());
        for number in 1..1_000 {
            outbox.note(name(number, "a.com", u64::from(number)));
        }
        assert!(outbox.take(16).contains(&other));
    }

    /// Goal: at the bound what ends first goes, and what was not told is counted.
    #[test]
    fn at_the_bound_what_ends_first_goes() {
        let mut outbox = Outbox::new(16);
        for number in 0..16 {
            outbox.note(name(number, "a.com", number.into()));
        }
        assert_eq!(outbox.take(1), [name(0, "a.com", 0)]);
        outbox.note(name(16, "a.com", 16));
        let books = OutboxBooks { received: 17, told: 1, discarded: 2, held: 14 };
        assert_eq!((outbox.books(), outbox.due()), (books, 14));
        assert_eq!(outbox.take(20)[0], name(3, "a.com", 3));
    }
}
