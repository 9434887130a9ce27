//! The daemons' own books, read from their `/metrics`: received = emitted + discarded + held, in each stage.
//!
//! A stage is whatever publishes `<stage>_received_bytes_total` or its twin in packets; one that is there for each of
//! several sinks is a stage of its own for each.
//! Invariant: a stage that publishes one figure of a book publishes all; discards may be absent when there is no reason
//! to discard.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::exposition::{Sample, malformed, parse};

/// The books of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// As its metrics begin, with the sink where there are several.
    pub stage: String,
    /// In bytes.
    pub bytes: Account,
    /// In packets.
    pub packets: Account,
}

impl Books {
    /// That nothing is unaccounted for.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.bytes.balances() && self.packets.balances()
    }

    /// That everything which came in has left, to where it should or by a named discard.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.bytes.held == 0 && self.packets.held == 0
    }
}

/// A stage's four figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Taken in.
    pub received: u64,
    /// Let out.
    pub emitted: u64,
    /// Let go, over all reasons.
    pub discarded: u64,
    /// Taken in and not yet let out.
    pub held: u64,
}

impl Account {
    fn balances(self) -> bool {
        self.received == self.emitted + self.discarded + self.held
    }
}

/// One unit of a stage, as far as it was read.
#[derive(Default)]
struct Open {
    received: Option<u64>,
    emitted: Option<u64>,
    discarded: u64,
    held: Option<u64>,
}

impl Open {
    fn note(&mut self, verb: &str, value: u64) {
        match verb {
            "received" => self.received = Some(value),
            "emitted" => self.emitted = Some(value),
            "held" => self.held = Some(value),
            _ => self.discarded += value,
        }
    }

    fn close(&self) -> Option<Account> {
        let Self { received, emitted, discarded, held } = *self;
        Some(Account { received: received?, emitted: emitted?, discarded, held: held? })
    }
}

/// The books in the text of `/metrics`, by stage.
pub(crate) fn books_in(text: &str) -> Result<Vec<Books>, Error> {
    let mut open: BTreeMap<String, [Open; 2]> = BTreeMap::new();
    for sample in parse(text)? {
        if let Some((stage, verb, unit)) = place_of(&sample) {
            open.entry(stage).or_default()[unit].note(verb, sample.whole()?);
        }
    }
    let close = |(stage, [bytes, packets]): (String, [Open; 2])| {
        let closed = bytes.close().zip(packets.close());
        let (bytes, packets) = closed.ok_or_else(|| malformed(&format!("half a book of {stage}")))?;
        Ok(Books { stage, bytes, packets })
    };
    open.into_iter().map(close).collect()
}

/// Stage, verb and unit (0 bytes, 1 packets) of a figure; `None` for what is no figure of a book.
fn place_of(sample: &Sample) -> Option<(String, &'static str, usize)> {
    const VERBS: [(&str, &str); 4] =
        [("received", "_total"), ("emitted", "_total"), ("discarded", "_total"), ("held", "")];
    for (verb, suffix) in VERBS {
        for (unit, name) in ["bytes", "packets"].into_iter().enumerate() {
            let stage = sample.name.strip_suffix(&format!("_{verb}_{name}{suffix}"));
            if let Some(stage) = stage {
                let sink = sample.labels.get("sink").map(|sink| format!(" {sink}")).unwrap_or_default();
                return Some((format!("{stage}{sink}"), verb, unit));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE a_received_bytes counter
a_received_bytes_total 100
a_received_packets_total 10
a_emitted_bytes_total 60
a_emitted_packets_total 5
a_discarded_bytes_total{reason=\"x\"} 20
a_discarded_bytes_total{reason=\"y\"} 10
a_discarded_packets_total{reason=\"x\"} 2
a_held_bytes 10
a_held_packets 3
a_held_batches 7
a_folded_bytes_total 99
b_received_bytes_total{sink=\"p\"} 4
b_received_packets_total{sink=\"p\"} 1
b_emitted_bytes_total{sink=\"p\"} 4
b_emitted_packets_total{sink=\"p\"} 1
b_held_bytes{sink=\"p\"} 0
b_held_packets{sink=\"p\"} 0
# EOF
";

    /// Goal: each stage and each sink has its books, over all reasons, and nothing else is taken for a figure.
    #[test]
    fn books_are_read_by_stage() {
        let account = |received, emitted, discarded, held| Account { received, emitted, discarded, held };
        let expected = [
            Books { stage: "a".to_owned(), bytes: account(100, 60, 30, 10), packets: account(10, 5, 2, 3) },
            Books { stage: "b p".to_owned(), bytes: account(4, 4, 0, 0), packets: account(1, 1, 0, 0) },
        ];
        let books = books_in(PAGE).unwrap();
        assert_eq!(books, expected);
        assert!(books.iter().all(Books::balance));
        assert_eq!(books.iter().map(Books::are_empty).collect::<Vec<_>>(), [false, true]);
    }

    /// Goal: one byte or packet that is unaccounted for shows, and half a book is an error.
    #[test]
    fn a_book_can_fail() {
        for (from, to) in [
            ("a_received_bytes_total 100", "a_received_bytes_total 101"),
            ("{reason=\"y\"} 10", "{reason=\"y\"} 9"),
            ("a_held_packets 3", "a_held_packets 4"),
        ] {
            let books = books_in(&PAGE.replace(from, to)).unwrap();
            assert_eq!(books.iter().map(Books::balance).collect::<Vec<_>>(), [false, true], "{to}");
        }
        for figure in ["a_received_packets_total 10\n", "a_emitted_bytes_total 60\n", "a_held_bytes 10\n"] {
            assert!(books_in(&PAGE.replace(figure, "")).is_err(), "{figure}");
        }
    }
}
