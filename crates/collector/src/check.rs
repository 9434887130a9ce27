//! Says why the figures would fall short on this machine, starting nothing.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use egressd_conntrack::netfilter::{CtZones, Ends, EndsConfig, Table};
use egressd_flow::UnixNanos;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use tracing::error;

use crate::config::CheckOptions;
use crate::diagnosis::{self, Finding};
use crate::namespace;
use crate::twins::Twins;

/// Only whether one can listen is asked.
const PROBE: EndsConfig = EndsConfig {
    receive_buffer_bytes: 1 << 16,
    queue_entries: const { NonZeroUsize::new(16).expect("not zero") },
};

/// Prints each finding with its code; success when there is none.
pub(crate) fn check(options: &CheckOptions) -> ExitCode {
    if let Err(problem) = namespace::enter_host(options.namespace.host_pid) {
        error!(error = %chain(problem.as_ref()), "cannot look at the host");
        return ExitCode::FAILURE;
    }
    let mut output = std::io::stdout().lock();
    let findings = findings(&options.table.ct_zones);
    for finding in &findings {
        // Who closes standard output does not want to know.
        let _unheard = writeln!(output, "{}: {finding}", finding.code());
    }
    if findings.is_empty() {
        let _unheard = writeln!(output, "ok: connections are tracked, counted and heard of when they end");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn findings(ct_zones: &CtZones) -> Vec<Finding> {
    let mut findings = diagnosis::of_switches();
    let mut twins = Twins::new();
    let read = Table::open(ct_zones.clone()).map_err(|error| chain(&error)).and_then(|mut table| {
        table.read(UnixNanos(unix_nanos()), &mut |entry| twins.see(entry)).map_err(|error| chain(&error))
    });
    match read {
        Ok(snapshot) => {
            findings.extend(diagnosis::of_snapshot(&snapshot));
            findings.extend(diagnosis::of_twins(&twins.verdict()));
        }
        Err(error) => findings.push(Finding::Unreadable { error }),
    }
    if let Err(error) = Ends::listen(PROBE, ct_zones.clone(), None) {
        findings.push(Finding::Deaf { error: chain(&error) });
    }
    findings
}
