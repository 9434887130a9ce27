//! Says why the figures would fall short on this machine, starting nothing. An exporter that the flags name is dialled, and
//! left without a word.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use egressd_conntrack::netfilter::EndsConfig;
use egressd_delivery::dial::Security;
use egressd_flow::UnixNanos;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;

use crate::config::CheckOptions;
use crate::diagnosis::{self, Finding};
use crate::names;
use crate::source::{Mode, Plan, Rows, Unread};
use crate::stream::PLAIN_TEXT;
use crate::twins::Twins;

/// Only whether one can listen is asked.
const PROBE: EndsConfig = EndsConfig {
    receive_buffer_bytes: 1 << 16,
    queue_entries: const { NonZeroUsize::new(16).expect("not zero") },
};

/// Prints what is read and why, and each finding with its code; success when all of them are warnings.
pub(crate) fn check(options: &CheckOptions) -> ExitCode {
    let plan = Plan::choose(&options.source);
    let (mut findings, description) = look(&plan);
    let description = description.map(|description| format!("; {description}")).unwrap_or_default();
    let mut output = std::io::stdout().lock();
    findings.extend(options.stream.faults().into_iter().map(|fault| Finding::Stream { fault }));
    findings.extend(names::check(&options.dns));
    // Who closes standard output does not want to know.
    let _unheard = writeln!(output, "source: {} ({}{description})", plan.mode.name(), plan.reason);
    if options.stream.security() == Security::Plain {
        let _unheard = writeln!(output, "note: plain_text: {PLAIN_TEXT}");
    }
    for finding in &findings {
        let _unheard = writeln!(output, "{}: {finding}", finding.code());
    }
    if !findings.iter().all(Finding::is_warning) {
        return ExitCode::FAILURE;
    }
    let heard = if plan.mode.tells_ends() { ", and heard of when they end" } else { "" };
    let but = if findings.is_empty() { "" } else { "; what is said above falls short" };
    let _unheard = writeln!(output, "ok: connections are tracked and counted{heard}{but}");
    ExitCode::SUCCESS
}

fn look(plan: &Plan) -> (Vec<Finding>, Option<String>) {
    let (mut findings, mut description) = (Vec::new(), None);
    match plan.rows() {
        Ok(mut rows) => {
            findings.extend(of_rows(plan.mode, rows.as_mut()));
            description = rows.description();
        }
        Err(error) => findings.push(Finding::Unreadable { error: chain(error.as_ref()) }),
    }
    if let Err(error) = plan.hearing(PROBE, None) {
        findings.push(Finding::Deaf { error: chain(error.as_ref()) });
    }
    (findings, description)
}

fn of_rows(mode: Mode, rows: &mut dyn Rows) -> Vec<Finding> {
    let mut twins = (mode == Mode::Netfilter).then(Twins::new);
    rows.prepare();
    let read = rows.read(UnixNanos(unix_nanos()), &mut |entry| {
        if let Some(twins) = &mut twins {
            twins.see(entry);
        }
    });
    match read {
        Ok(snapshot) => {
            let twins = twins.map(|twins| diagnosis::of_twins(&twins.verdict()));
            rows.findings(&snapshot).into_iter().chain(twins.into_iter().flatten()).collect()
        }
        Err(Unread { error, .. }) => {
            let switches = (mode == Mode::Netfilter).then(diagnosis::of_switches);
            let unreadable = Finding::Unreadable { error: chain(error.as_ref()) };
            switches.into_iter().flatten().chain([unreadable]).collect()
        }
    }
}
