//! What DNS said of an address.

use std::cmp::Reverse;
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
        let (share, one_more) = share(&mut counts, room);
        let mut over: Vec<_> = askers.into_iter().filter(|(_, ends)| ends.len() > share).collect();
        over.iter_mut().for_each(|(_, ends)| ends.sort_unstable());
        // What is left over goes to those whose next answer holds longest.
        over.sort_by_key(|(_, ends)| Reverse(ends[ends.len() - 1 - share]));
        let kept = |at: usize| share + usize::from(at < one_more);
        let cuts = over.into_iter().enumerate();
        Self(cuts.filter_map(|(at, (asker, ends))| Some((asker, Cut::new(&ends, kept(at))?))).collect())
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
    /// Of answers in the order of their ends, so that so many are kept; `None` where all of them are.
    fn new(ends: &[UnixNanos], kept: usize) -> Option<Self> {
        let goes = ends.len().checked_sub(kept).filter(|goes| *goes > 0)?;
        let until = ends[goes - 1];
        Some(Self { until, of_these: goes - ends.partition_point(|end| *end < until) })
    }
}

/// What each may keep so that all together have room, and how many of those who have more may keep one more.
fn share(counts: &mut [usize], room: usize) -> (usize, usize) {
    counts.sort_unstable();
    let mut left = room;
    for (at, &count) in counts.iter().enumerate() {
        let (share, rest) = (left / (counts.len() - at), left % (counts.len() - at));
        if count > share {
            return (share, rest);
        }
        left -= count;
    }
    (usize::MAX, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who asked for little keeps all, who asked for much keeps what would hold longest, and as many stay as have room.
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
            (&[(1, 100), (2, 3), (3, 50)], 20, &[9, 3, 8]),
            (&[(1, 9)], 4, &[4]),
            (&[(1, 9), (2, 7)], 1, &[1, 0]),
            (&[(1, 1), (2, 1), (3, 3), (4, 5)], 7, &[1, 1, 2, 3]),
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
