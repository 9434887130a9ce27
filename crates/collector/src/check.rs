//! Says why the figures would fall short on this machine, starting nothing.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use egressd_conntrack::netfilter::EndsConfig;
use egressd_delivery::dial::Security;
use egressd_flow::UnixNanos;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use tracing::error;

use crate::config::CheckOptions;
use crate::diagnosis::{self, Finding};
use crate::names;
use crate::namespace;
use crate::source::{Plan, Unread};
use crate::stream::PLAIN_TEXT;
use crate::twins::Twins;

/// Only whether one can listen is asked.
const PROBE: EndsConfig = EndsConfig {
    receive_buffer_bytes: 1 << 16,
    queue_entries: const { NonZeroUsize::new(16).expect("not zero") },
};

/// Prints each finding with its code; success when there is none.
pub(crate) fn check(options: &CheckOptions) -> ExitCode {
    let plan = Plan::choose(&options.source);
    if let Err(problem) = namespace::enter_host(options.source.namespace.host_pid) {
        error!(error = %chain(problem.as_ref()), "cannot look at the host");
        return ExitCode::FAILURE;
    }
    let mut output = std::io::stdout().lock();
    let mut findings = findings(&plan);
    findings.extend(options.stream.faults().into_iter().map(|fault| Finding::Stream { fault }));
    findings.extend(names::check(&options.dns));
    // Who closes standard output does not want to know.
    let _unheard = writeln!(output, "source: {} ({})", plan.mode.name(), plan.reason);
    if options.stream.security() == Security::Plain {
        let _unheard = writeln!(output, "note: plain_text: {PLAIN_TEXT}");
    }
    for finding in &findings {
        let _unheard = writeln!(output, "{}: {finding}", finding.code());
    }
    if findings.is_empty() {
        let _unheard = writeln!(output, "ok: connections are tracked, counted and heard of when they end");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn findings(plan: &Plan) -> Vec<Finding> {
    let mut findings = diagnosis::of_switches();
    let mut twins = Twins::new();
    let read = plan.rows().and_then(|mut rows| {
        let read = rows.read(UnixNanos(unix_nanos()), &mut |entry| twins.see(entry));
        read.map_err(|Unread { error, .. }| error)
    });
    match read {
        Ok(snapshot) => {
            findings.extend(diagnosis::of_snapshot(&snapshot));
            findings.extend(diagnosis::of_twins(&twins.verdict()));
        }
        Err(error) => findings.push(Finding::Unreadable { error: chain(error.as_ref()) }),
    }
    if let Err(error) = plan.hearing(PROBE, None) {
        findings.push(Finding::Deaf { error: chain(error.as_ref()) });
    }
    findings
}
