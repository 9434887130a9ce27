//! What the log says of a sink's settings, of the answers that it gets and of its end.
//!
//! Bound: whoever calls speaks of failures once a minute, with how many it withheld.

use egressd_service::lifecycle::chain;
use tracing::{error, info, warn};

use crate::cause::Cause;
use crate::client::Answer;
use crate::config::{Kind, SinkConfig, Temporality};
use crate::credentials::ClientError;
use crate::driver::Report;

/// A sink starts, or goes on by other settings: `what`. Growth was asked for, and those who read the series have to know.
pub(crate) fn of_start(what: &'static str, config: &SinkConfig) {
    let (sink, origin, interval) = (&config.name, config.origin(), config.interval);
    info!(sink, origin, ?interval, "{what}");
    if let Kind::RemoteWrite(settings) = &config.kind
        && settings.temporality == Temporality::Delta
    {
        warn!(
            sink,
            "temporality delta writes growth under the names of totals: rate() and increase() of it mean nothing"
        );
    }
}

/// A file of credentials or certificates cannot be used.
pub(crate) fn of_unread(sink: &str, error: &ClientError, withheld: u64) {
    let error = chain(error);
    warn!(sink, error, withheld, "cannot renew what this sink authenticates with, it keeps the old");
}

/// The same goes again by 1.0.
pub(crate) fn of_fallback(sink: &str, origin: &str, answer: &Answer) {
    warn!(
        sink,
        origin,
        ?answer,
        "remote write 2.0 is not understood there, going on by 1.0 with nothing lost"
    );
}

/// Samples of an accepted request are not there.
pub(crate) fn of_unwritten(sink: &str, samples: u64, sent: u64, withheld: u64) {
    error!(sink, samples, sent, withheld, "accepted, and not all of it was written there");
}

/// Nothing was accepted.
pub(crate) fn of_failure(sink: &str, origin: &str, answer: &Answer, withheld: u64) {
    let outcome = answer.outcome();
    match answer {
        Answer::Accepted | Answer::Written(_) => {}
        Answer::Overdue(overdue) => {
            let begun = overdue.begun;
            warn!(sink, origin, begun, withheld, "push given up, another exporter may lead");
        }
        Answer::Failed(error) => {
            let cause = Cause::of(error);
            let advice = cause.advice();
            warn!(
                sink,
                origin,
                error = %cause,
                advice,
                ?outcome,
                withheld,
                "push failed, data kept, trying again"
            );
        }
        Answer::Refused { status, excerpt, .. } if answer.is_transient() => {
            let status = status.as_u16();
            warn!(sink, ?outcome, withheld, status, ?excerpt, "push refused, data kept, trying again");
        }
        Answer::Refused { status, excerpt, .. } => {
            let status = status.as_u16();
            error!(sink, ?outcome, withheld, status, ?excerpt, "push refused until somebody acts, data kept");
        }
    }
}

/// A sink has ended; what it holds is lost with the process, unless it is kept.
pub(crate) fn of_end(sink: &str, report: &Report, is_kept: bool) {
    let (bytes, flows) = (report.held.bytes, report.held_flows);
    if report.held.is_zero() {
        info!(sink, "everything is accepted");
    } else if is_kept {
        info!(sink, bytes, "what is not accepted is kept for the next start");
    } else {
        error!(sink, bytes, flows, "left unaccepted");
    }
}
