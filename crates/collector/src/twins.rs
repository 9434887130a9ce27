//! Connections that stand in more than one conntrack zone, found among the rows of one read.
//!
//! A row is compared by the tuple that it was opened with and by the one that it goes on with after translation, so
//! that a connection is found as well that is translated in one conntrack zone and merely tracked in the next.
//! Invariant: rows that share a tuple with rows before them count as one connection, however many they are.
//!
//! Bound: [`TUPLES_MAX`]; rows beyond it are compared with those before and not remembered, and counted. For a look
//! taken once: nothing of it belongs in a tick.

use std::collections::HashMap;
use std::mem;

use egressd_flow::{CtZone, Entry, Tuple};

/// The hash table's size.
const BUCKETS: usize = 1 << 18;

/// Tuples remembered; a hash table fills 7 of 8 buckets.
pub(crate) const TUPLES_MAX: usize = BUCKETS / 8 * 7;

/// 12.25 MiB at most: a bucket and its control byte are 49 bytes.
const _: () = assert!(mem::size_of::<(Tuple, Seen)>() < 49 && BUCKETS * 49 == 49 << 18);

/// Where a tuple stands.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: CtZone,
    /// Its connection was counted.
    twice: bool,
}

/// What is known of the rows so far.
#[derive(Debug)]
pub(crate) struct Twins {
    /// By tuple, its conntrack zone left out.
    seen: HashMap<Tuple, Seen>,
    first: Option<CtZone>,
    several: bool,
    verdict: Verdict,
}

/// A connection in two conntrack zones: as it was opened in the one, and the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twin {
    pub(crate) original: Tuple,
    pub(crate) other: CtZone,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Connections that stand in more than one conntrack zone.
    pub(crate) connections: u64,
    /// The first that was found.
    pub(crate) example: Option<Twin>,
    /// Rows not remembered; 0 where all stand in one conntrack zone, since then nothing can stand in two.
    pub(crate) uncompared: u64,
}

impl Twins {
    pub(crate) fn new() -> Self {
        Self {
            // At once, since growing would hold the smaller table beside the larger. Pages come as they are used.
            seen: HashMap::with_capacity(TUPLES_MAX),
            first: None,
            several: false,
            verdict: Verdict::default(),
        }
    }

    pub(crate) fn see(&mut self, entry: &Entry) {
        let original = entry.id.original;
        let ct_zone = original.ct_zone;
        self.several |= *self.first.get_or_insert(ct_zone) != ct_zone;
        let tuples =
            [original, entry.reply.inverted()].map(|tuple| Tuple { ct_zone: CtZone::default(), ..tuple });

        let met = || tuples.iter().filter_map(|tuple| self.seen.get(tuple));
        let counted = met().any(|seen| seen.twice);
        let other = met().map(|seen| seen.first).find(|first| *first != ct_zone);
        if let (Some(other), false) = (other, counted) {
            self.verdict.connections += 1;
            self.verdict.example.get_or_insert(Twin { original, other });
        }
        self.remember(tuples, Seen { first: ct_zone, twice: counted || other.is_some() });
    }

    fn remember(&mut self, tuples: [Tuple; 2], new: Seen) {
        let mut whole = true;
        for tuple in tuples {
            if let Some(seen) = self.seen.get_mut(&tuple) {
                seen.twice |= new.twice;
            } else if self.seen.len() < TUPLES_MAX {
                self.seen.insert(tuple, new);
            } else {
                whole = false;
            }
        }
        self.verdict.uncompared += u64::from(!whole);
    }

    pub(crate) fn verdict(self) -> Verdict {
        let uncompared = if self.several { self.verdict.uncompared } else { 0 };
        Verdict { uncompared, ..self.verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry {
        line.parse().unwrap()
    }

    fn verdict(lines: &[&str]) -> Verdict {
        let mut twins = Twins::new();
        lines.iter().for_each(|line| twins.see(&entry(line)));
        twins.verdict()
    }

    /// Goal: a connection counts once for all the conntrack zones that it stands in, whatever is translated where,
    /// and different connections do not, nor one that is shown twice in the same conntrack zone.
    #[test]
    fn a_connection_in_two_ct_zones_is_found_once() {
        let plain = "tcp 10.0.0.1:4000>10.0.1.2:80";
        let service = "tcp 10.0.0.1:4000>10.96.0.1:80 reply=10.0.1.2:80>10.0.0.1:4000";
        let masqueraded = "tcp 10.0.0.1:4000>10.0.1.2:80 reply=10.0.1.2:80>172.18.0.2:61000";
        let beyond = "tcp 172.18.0.2:61000>10.0.1.2:80";
        for (lines, connections) in [
            (&[plain][..], 0),
            (&[plain, "tcp 10.0.0.1:4001>10.0.1.2:80 ctzone=5", "udp 10.0.0.1:4000>10.0.1.2:80 ctzone=5"], 0),
            (&[plain, plain], 0),
            (&[plain, &format!("{plain} ctzone=5")], 1),
            (&[plain, &format!("{plain} ctzone=5"), &format!("{plain} ctzone=7")], 1),
            (&[service, &format!("{plain} ctzone=5")], 1),
            (&[&format!("{plain} ctzone=5"), service], 1),
            (&[masqueraded, &format!("{beyond} ctzone=5")], 1),
            (&[service, &format!("{masqueraded} ctzone=5"), &format!("{beyond} ctzone=7")], 1),
            (&["icmp 10.0.0.1>10.0.1.2", "icmp 10.0.0.1>10.0.1.2 ctzone=1"], 1),
            (
                &[
                    plain,
                    "udp [fd00::1]:1>[fd00::2]:53 ctzone=3",
                    &format!("{plain} ctzone=3"),
                    "udp [fd00::1]:1>[fd00::2]:53",
                ],
                2,
            ),
        ] {
            let found = verdict(lines);
            assert_eq!((found.connections, found.uncompared), (connections, 0), "{lines:?}");
            assert_eq!(found.example.is_some(), connections > 0, "{lines:?}");
        }
    }

    /// Goal: the example names the connection and both conntrack zones.
    #[test]
    fn the_example_names_both_ct_zones() {
        let second = "tcp 10.0.0.1:4000>10.0.1.2:80 ctzone=64000";
        let found = verdict(&["tcp 10.0.0.1:4000>10.0.1.2:80 ctzone=3", second]);
        assert_eq!(found.example, Some(Twin { original: entry(second).id.original, other: CtZone(3) }));
    }

    /// Goal: rows beyond the bound are counted where another conntrack zone is among the rows, and take no memory;
    /// those before the bound are found all the same.
    #[test]
    fn rows_beyond_the_bound_are_counted() {
        let mut row = entry("udp 10.0.0.1:1>10.0.1.2:2");
        for several in [false, true] {
            let mut twins = Twins::new();
            for address in 0..u32::try_from(TUPLES_MAX).unwrap() + 3 {
                row.id.original.src = std::net::Ipv4Addr::from(address).into();
                row.reply = row.id.original.inverted();
                twins.see(&row);
            }
            if several {
                twins.see(&entry("udp 0.0.0.9:1>10.0.1.2:2 ctzone=5"));
            }
            assert_eq!(twins.seen.len(), TUPLES_MAX);
            let (connections, uncompared) = if several { (1, 3) } else { (0, 0) };
            let found = twins.verdict();
            assert_eq!((found.connections, found.uncompared), (connections, uncompared));
        }
    }
}
