//! The stream of the disturbed node around a restart: the new collector goes on in the epoch of the one before, and the
//! exporter takes every sequence of it.
//!
//! The epoch is what each collector says at its start; sequences are the exporter's account, which counts those of an
//! epoch that it knows and never got. Bytes alone would not tell: a total may be right though a batch went missing and
//! another made up for it. The converse is for the bytes to tell: a sequence that is given out twice is discarded there.

use egressd_testbed::Error;

use crate::accuracy::disturbance::COLLECTOR;
use crate::accuracy::stand::Stand;

const EMITTED: &str = "egressd_collector_window_emitted_bytes_total";
const SKIPPED: &str = "egressd_exporter_ledger_skipped_batches_total";
const REFUSED: &str = "egressd_exporter_ledger_refused_streams_total";

/// How far it is.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// Of each collector that the node has had, in their order.
    epochs: Vec<String>,
    /// Bytes that its last collector got rid of, by its own account, which begins with it.
    emitted_bytes: u64,
    /// Of both nodes, as the following.
    skipped_batches: u64,
    refused_streams: u64,
}

impl Stream {
    /// As it is now.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the exporter does not publish a part of its account.
    pub(crate) fn of(stand: &mut Stand<'_>) -> Result<Self, Error> {
        let (collector, exporter) = (&mut stand.daemons.collectors[COLLECTOR], &mut stand.daemons.exporter);
        let log = collector.process().log_text()?;
        let known = |name: &str, found: Option<u64>| {
            found.ok_or_else(|| Error::Malformed { what: "a daemon's account", found: format!("no {name}") })
        };
        Ok(Self {
            epochs: epochs_in(&log),
            emitted_bytes: known(EMITTED, collector.metric(EMITTED, &[])?)?,
            skipped_batches: known(SKIPPED, exporter.metric(SKIPPED, &[])?)?,
            refused_streams: known(REFUSED, exporter.metric(REFUSED, &[])?)?,
        })
    }

    /// What came of a restart since `before`, in figures, and what of that may not be.
    pub(crate) fn since(&self, before: &Self) -> (String, Vec<String>) {
        let emitted = self.emitted_bytes;
        let (skipped, refused) =
            (self.skipped_batches - before.skipped_batches, self.refused_streams - before.refused_streams);
        let [first, last] = [before, self].map(|stream| stream.epochs.last().map_or("", String::as_str));
        let is_restarted = !first.is_empty() && self.epochs.len() > before.epochs.len();
        let is_same = is_restarted && first == last;
        let faults = [
            (!is_restarted).then(|| "no other collector said its epoch".to_owned()),
            (is_restarted && !is_same).then(|| format!("epoch {last} after {first}")),
            (skipped > 0).then(|| format!("{skipped} sequences skipped")),
            (refused > 0).then(|| format!("{refused} streams refused")),
            (emitted == 0).then(|| "the last collector delivered nothing".to_owned()),
        ];
        let epoch = if is_same { "same epoch" } else { "another epoch" };
        let note = format!("{epoch}, {emitted} B delivered by the last collector");
        (note, faults.into_iter().flatten().collect())
    }
}

/// Of each `starting` in a collector's log.
fn epochs_in(log: &str) -> Vec<String> {
    let starts = log.lines().filter(|line| line.contains(" starting "));
    let epochs = starts.filter_map(|line| {
        line.split_ascii_whitespace().find_map(|word| word.strip_prefix("epoch=")).map(str::to_owned)
    });
    epochs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the epoch is that of each start, and of no other line.
    #[test]
    fn each_start_says_its_epoch() {
        let log = "2026-11-23T02:00:00.000001Z  INFO starting version=\"0.1.0\" node=node-a epoch=00a1 http_port=6061\n\
                   2026-11-23T02:00:01.000001Z  INFO going on from a checkpoint epoch=00b2 entries=3\n\
                   2026-11-23T02:00:01.000002Z  INFO starting version=\"0.1.0\" node=node-a epoch=00b2 http_port=6061\n";
        assert_eq!(epochs_in(log), ["00a1", "00b2"]);
    }

    /// Goal: a restart passes when its epoch goes on and every sequence was taken; anything else is named.
    #[test]
    fn a_broken_stream_is_a_fault() {
        let stream = |epochs: &[&str], [emitted_bytes, skipped_batches, refused_streams]: [u64; 3]| Stream {
            epochs: epochs.iter().map(|&epoch| epoch.to_owned()).collect(),
            emitted_bytes,
            skipped_batches,
            refused_streams,
        };
        let before = stream(&["a"], [5000, 1, 2]);
        let same = "same epoch, 700 B delivered by the last collector";
        for (after, note, faults) in [
            (stream(&["a", "a"], [700, 1, 2]), same, &[][..]),
            (stream(&["a", "a"], [700, 3, 2]), same, &["2 sequences skipped"]),
            (stream(&["a", "a"], [700, 1, 3]), same, &["1 streams refused"]),
            (
                stream(&["a", "b"], [700, 1, 2]),
                "another epoch, 700 B delivered by the last collector",
                &["epoch b after a"],
            ),
            (
                stream(&["a"], [5000, 1, 2]),
                "another epoch, 5000 B delivered by the last collector",
                &["no other collector said its epoch"],
            ),
            (
                stream(&["a", "a"], [0, 1, 2]),
                "same epoch, 0 B delivered by the last collector",
                &["the last collector delivered nothing"],
            ),
        ] {
            assert_eq!(
                after.since(&before),
                (note.to_owned(), faults.iter().map(|&f| f.to_owned()).collect())
            );
        }
    }
}
