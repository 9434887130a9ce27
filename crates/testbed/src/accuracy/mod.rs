//! How exact the daemons are: every scenario against what nft counted, to the byte.
//!
//! Each group of scenarios has a cluster and daemons of its own, and the groups run at the same time. Within a group
//! they run one after the other and are told apart by how far truth and claim grew meanwhile, flow by flow.
//!
//! Invariant: a row that is printed was measured in this run.
//! Bounds: each scenario's traffic in time and in number, and what it waits for afterwards.

mod disturbance;
mod matrix;
mod report;
mod stand;
mod stream;
mod witness;

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use egressd_testbed::{Error, Programs};

use crate::accuracy::matrix::{Group, groups};
use crate::accuracy::report::{Report, Row};
use crate::accuracy::stand::Stand;

/// Runs the matrix; 1 when a scenario is further from the truth than it may be.
pub(crate) fn run(programs: &Programs, short: bool, json: bool) -> Result<ExitCode, Error> {
    let groups = groups(short);
    let rows = thread::scope(|scope| {
        let start = |group: &Group| {
            let group = group.clone();
            scope.spawn(move || measure(programs, &group))
        };
        let running: Vec<_> = groups.iter().map(start).collect();
        let join = |running: thread::ScopedJoinHandle<'_, Result<Vec<Row>, Error>>| {
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let joined: Vec<_> = running.into_iter().map(join).collect();
        joined.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let report = Report::of(short, rows.into_iter().flatten().collect());
    print(&if json { report.json_line()? } else { report.to_string() })?;
    let faults = report.faults();
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("faults:\n{}", faults.join("\n")));
    Ok(ExitCode::FAILURE)
}

fn measure(programs: &Programs, group: &Group) -> Result<Vec<Row>, Error> {
    let cluster = egressd_testbed::Cluster::start()?;
    let mut stand = Stand::start(&cluster, programs, group)?;
    let mut rows = Vec::new();
    for scenario in &group.scenarios {
        let row = stand.measure(*scenario)?;
        say(row.to_string().trim_end());
        rows.push(row);
    }
    stand.end()?;
    Ok(rows)
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|source| Error::Os { action: "write to", subject: "standard output".to_owned(), source })
}

/// What is of use while it runs, and is no part of the result.
fn say(text: &str) {
    // The status says it as well, should nobody read standard error.
    drop(writeln!(io::stderr().lock(), "{text}"));
}
