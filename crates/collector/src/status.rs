//! How the collector is, in plain words with the remedy.

use egressd_conntrack::netfilter::{Losses, sysctl};
use egressd_flow::{Defects, Snapshot};
use egressd_meter::Books;
use egressd_protocol::{Loss, Source, Status};

/// What is known before the first snapshot.
pub(crate) fn starting() -> Status {
    Status { source: Source::Netfilter, diagnosis: "no snapshot yet".to_owned(), losses: Vec::new() }
}

/// What is wrong, most telling first; empty when nothing is.
pub(crate) fn status(snapshot: &Snapshot, books: &Books, losses: Losses, defects: Defects) -> Status {
    let mut findings = Vec::new();
    if let Ok(state) = sysctl::state() {
        findings.extend(state.wanting().map(|(name, value)| {
            format!("{name} is {value}, not 1: run egressd-collector init on the node")
        }));
    }
    if snapshot.entries == 0 {
        findings.push(
            "the conntrack table is empty: no rule of this network namespace tracks, or it is not the node's"
                .to_owned(),
        );
    }
    if snapshot.defects.without_counters > 0 {
        findings.push(format!(
            "{} entries have no counters: they were made under nf_conntrack_acct=0 and count once they are made anew",
            snapshot.defects.without_counters
        ));
    }
    let loss = |reason: &str, count: u64| Loss { reason: reason.to_owned(), count, bytes: 0 };
    Status {
        source: Source::Netfilter,
        diagnosis: findings.join("; "),
        losses: [
            loss("lost_ends", losses.events),
            loss("malformed_ends", defects.malformed + defects.unsupported),
            loss("not_admitted", books.not_admitted),
        ]
        .into_iter()
        .filter(|loss| loss.count > 0)
        .collect(),
    }
}
