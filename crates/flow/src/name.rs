//! What DNS said of an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::time::UnixNanos;

/// No answer is believed for less: an answer of 0 seconds is used too, and traffic is known up to a read interval late.
pub const TIME_TO_LIVE_MIN: Duration = Duration::from_secs(60);

/// No answer is believed for longer, whatever it says. What is talked to all along keeps its name beyond it.
pub const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a name in text, without the final dot: 255 on the wire (RFC 1035, 3.1), less lengths and the root.
pub const NAME_BYTES_MAX: usize = 253;

/// A DNS answer: this address stands behind that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The address that was answered.
    pub address: IpAddr,
    /// The name that was asked, in lower case and without the final dot.
    pub name: Arc<str>,
    /// How long the answer holds, from [`TIME_TO_LIVE_MIN`] to [`TIME_TO_LIVE_MAX`].
    pub time_to_live: Duration,
    /// When it was seen.
    pub seen: UnixNanos,
    /// The address of the node or of a pod on it that the answer went to; `None` where that is not known.
    pub asker: Option<IpAddr>,
}

/// Who gives way where there are more answers than room: of those who asked for most, so that nobody pushes out the names
/// of others, the answers that would hold the shortest.
#[derive(Clone, Debug)]
pub struct Shares(HashMap<Option<IpAddr>, Cut>);

/// What one asker is to give up: all that holds shorter, and so many of those that hold just as long.
#[derive(Clone, Copy, Debug)]
struct Cut {
    until: UnixNanos,
    of_these: usize,
}

impl Shares {
    /// Leaves `room` of all these answers at most: who asked, and until when each holds. An asker with fewer than its share
    /// keeps all of them, and what it leaves is the others'.
    #[must_use]
    pub fn new(answers: impl Iterator<Item = (Option<IpAddr>, UnixNanos)>, room: usize) -> Self {
        let mut askers: HashMap<_, Vec<UnixNanos>> = HashMap::new();
        answers.for_each(|(asker, until)| askers.entry(asker).or_default().push(until));
        let mut counts: Vec<usize> = askers.values().map(Vec::len).collect();
        let share = share(&mut counts, room);
        let over = askers.into_iter().filter(|(_, ends)| ends.len() > share);
        Self(over.map(|(asker, ends)| (asker, Cut::new(ends, share))).collect())
    }

    /// Whether an answer stays. Each is asked for once.
    pub fn keeps(&mut self, asker: Option<IpAddr>, until: UnixNanos) -> bool {
        let Some(cut) = self.0.get_mut(&asker).filter(|cut| until <= cut.until) else { return true };
        if until == cut.until && cut.of_these == 0 {
            return true;
        }
        cut.of_these -= usize::from(until == cut.until);
        false
    }
}

impl Cut {
    /// `share` is less than there are.
    fn new(mut ends: Vec<UnixNanos>, share: usize) -> Self {
        let goes = ends.len() - share;
        let (sooner, &mut until, _) = ends.select_nth_unstable(goes - 1);
        Self { until, of_these: goes - sooner.iter().filter(|end| **end < until).count() }
    }
}

/// What each may keep so that all together have room.
fn share(counts: &mut [usize], room: usize) -> usize {
    counts.sort_unstable();
    let mut left = room;
    for (at, &count) in counts.iter().enumerate() {
        let share = left / (counts.len() - at);
        if count > share {
            return share;
        }
        left -= count;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who asked for little keeps all, who asked for much keeps what would hold longest, and as many stay as have room
    /// up to one for each asker.
    #[test]
    fn who_asked_for_most_gives_way() {
        let asker = |host: u8| Some(IpAddr::from([10, 0, 0, host]));
        let answers = |counts: &[(u8, u64)]| -> Vec<_> {
            let of = |&(host, count): &(u8, u64)| (0..count).map(move |at| (asker(host), UnixNanos(at / 2)));
            counts.iter().flat_map(of).collect()
        };
        for (counts, room, kept) in [
            (&[(1, 5), (2, 5)][..], 10, &[5, 5][..]),
            (&[(1, 100), (2, 3)], 10, &[7, 3]),
            (&[(1, 100), (2, 3), (3, 50)], 20, &[8, 3, 8]),
            (&[(1, 9)], 4, &[4]),
            (&[(1, 9), (2, 9)], 1, &[0, 0]),
        ] {
            let answers = answers(counts);
            let mut shares = Shares::new(answers.iter().copied(), room);
            let stay: Vec<_> = answers.iter().filter(|&&(asker, until)| shares.keeps(asker, until)).collect();
            for (&(host, count), &kept) in counts.iter().zip(kept) {
                let ends: Vec<_> =
                    stay.iter().filter(|answer| answer.0 == asker(host)).map(|answer| answer.1.0).collect();
                assert_eq!(ends.len(), kept, "{counts:?} {room}");
                let mut longest: Vec<_> = (0..count).map(|at| at / 2).rev().take(kept).collect();
                longest.reverse();
                let mut found = ends.clone();
                found.sort_unstable();
                assert_eq!(found, longest);
            }
        }
    }
}
