//! The demo: the whole of egressd on a real kernel, and how far it is from the truth.
//!
//! Order: cluster, `init`, exporter, collectors, readiness, traffic, its end, comparison. What is printed as truth
//! comes from nft counters alone.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use egressd_testbed::topology::{CONTROL, node_at, node_named, pod_at, pod_named};
use egressd_testbed::traffic::ItemReport;
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Class, Cluster, Comparison, Daemons, EXPORTER_HTTP_PORT, Error, Load, Programs,
    Row, Usage, Volume, class_of, now, standard_plans, wait_for,
};
use serde::Serialize;

/// From the end of the traffic until every byte must be exported.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
const REFRESH: Duration = Duration::from_secs(5);
/// Between two looks whether everything still runs.
const WATCH: Duration = Duration::from_millis(500);

/// Runs it; 1 when a byte is missing, invented or under a wrong name, or a class of traffic did not happen.
pub(crate) fn run(programs: &Programs, seconds: Option<u64>, json: bool) -> Result<ExitCode, Error> {
    // Before any thread is there, so that none of them takes the signal; children start without the mask.
    let interrupts = if seconds.is_none() { Some(Interrupts::catch()?) } else { None };
    let cluster = Cluster::start()?;
    let mut daemons = Daemons::start(&cluster, programs, CONFIG_WITHOUT_SINKS, &[])?;
    let address = cluster.forward(CONTROL, EXPORTER_HTTP_PORT)?;
    let whereabouts = whereabouts(&cluster, &format!("http://{address}/metrics/flows"));
    let mut load = Load::start(&cluster, &programs.testbed, &standard_plans(None))?;

    if !json {
        print(&whereabouts)?;
    }
    match (seconds, interrupts) {
        (None, Some(interrupts)) => watch(&cluster, &mut daemons, &mut load, &interrupts)?,
        (seconds, _) => pass(seconds.unwrap_or_default(), json, &mut daemons, &mut load)?,
    }
    let payload = payload(&load.finish()?);
    let comparison = settle(&cluster, &mut daemons)?;
    let outcome = Outcome { comparison, usage: daemons.usage()?, payload };
    print(&if json { outcome.json_line()? } else { outcome.table() })?;
    let faults = outcome.faults();
    if faults.is_empty() {
        return daemons.end().map(|()| ExitCode::SUCCESS);
    }
    // The status says it as well, should nobody read standard error.
    drop(writeln!(io::stderr().lock(), "{}\nfaults:\n{}", daemons.log_tails(), faults.join("\n")));
    Ok(ExitCode::FAILURE)
}

/// Ctrl-C as something that can be looked for.
struct Interrupts(SignalFd);

impl Interrupts {
    fn catch() -> Result<Self, Error> {
        let failed =
            |errno: Errno| Error::Os { action: "catch", subject: "SIGINT".to_owned(), source: errno.into() };
        let mask: SigSet = [Signal::SIGINT].into_iter().collect();
        mask.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&mask, flags).map(Self).map_err(failed)
    }

    fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

/// Lets `seconds` of traffic pass.
fn pass(seconds: u64, json: bool, daemons: &mut Daemons<'_>, load: &mut Load) -> Result<(), Error> {
    if !json {
        print(&format!("{seconds} s of traffic …\n"))?;
    }
    let end = now() + Duration::from_secs(seconds);
    while now() < end {
        thread::sleep(WATCH.min(end.saturating_duration_since(now())));
        daemons.check_running()?;
        load.check_running()?;
    }
    Ok(())
}

/// A table every few seconds until Ctrl-C, which ends the traffic: what was on its way then arrives.
fn watch(
    cluster: &Cluster,
    daemons: &mut Daemons<'_>,
    load: &mut Load,
    interrupts: &Interrupts,
) -> Result<(), Error> {
    let clear = if io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    print("first table in 5 s; Ctrl-C ends the traffic, and the last table follows\n")?;
    let mut shown = now();
    while !interrupts.came() {
        thread::sleep(WATCH);
        daemons.check_running()?;
        load.check_running()?;
        if shown.elapsed() < REFRESH {
            continue;
        }
        shown = now();
        let comparison = Comparison::of(&cluster.truth()?, &daemons.exporter.flows()?);
        let outcome = Outcome { comparison, usage: daemons.usage()?, payload: BTreeMap::new() };
        let (table, note) = (outcome.table(), "what is on its way counts as a difference until Ctrl-C");
        print(&format!("{clear}{table}\n{note}\n"))?;
    }
    print("\nthe traffic ends …\n")
}

/// The last comparison: the first without a difference, else the one at the deadline.
fn settle(cluster: &Cluster, daemons: &mut Daemons<'_>) -> Result<Comparison, Error> {
    let mut last = Comparison::default();
    let settled = wait_for("the last byte", SETTLED_WITHIN, || {
        daemons.check_running()?;
        last = Comparison::of(&cluster.truth()?, &daemons.exporter.flows()?);
        Ok(match last.difference_bytes() {
            0 => Ok(()),
            bytes => Err(format!("{bytes} bytes differ")),
        })
    });
    match settled {
        Ok(()) | Err(Error::Timeout { .. }) => Ok(last),
        Err(error) => Err(error),
    }
}

/// What the senders say to have moved, by `namespace/name` of their pods.
fn payload(reports: &[(&str, Vec<ItemReport>)]) -> BTreeMap<String, Volume> {
    let of_sender = |(sender, items): &(&str, Vec<ItemReport>)| {
        let pod = pod_named(sender)?;
        let volume = Volume {
            tx_bytes: items.iter().map(|item| item.sent_bytes).sum(),
            rx_bytes: items.iter().map(|item| item.received_bytes).sum(),
            ..Volume::default()
        };
        Some((format!("{}/{}", pod.namespace, pod.name), volume))
    };
    reports.iter().filter_map(of_sender).collect()
}

fn whereabouts(cluster: &Cluster, url: &str) -> String {
    let mut text = format!("flows    {url}\nlogs     {}\n", cluster.directory().display());
    for (place, namespace) in cluster.namespaces() {
        text.push_str(&format!("enter    nsenter --net={} bash    # {place}\n", namespace.path().display()));
    }
    text
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|source| Error::Os { action: "write to", subject: "standard output".to_owned(), source })
}

/// The last line of `--json`; `flows` to `difference_bytes` are a contract.
#[derive(Serialize)]
struct Report {
    /// Local pod, remote address and protocol, seen by either side.
    flows: usize,
    truth: Bytes,
    exported: Bytes,
    /// Summed over flows, sent and received each, so that errors cannot cancel out.
    difference_bytes: u64,
    /// What the senders' programs moved, without headers and without what is charged to the other end.
    payload: Bytes,
    classes: BTreeMap<String, ClassReport>,
    daemons: BTreeMap<String, DaemonReport>,
}

#[derive(Serialize)]
struct ClassReport {
    flows: u64,
    truth: Bytes,
    exported: Bytes,
    difference_bytes: u64,
}

#[derive(Serialize)]
struct DaemonReport {
    cpu_seconds: f64,
    rss_peak_bytes: u64,
}

#[derive(Serialize)]
struct Bytes {
    tx_bytes: u64,
    rx_bytes: u64,
}

impl From<Volume> for Bytes {
    fn from(Volume { tx_bytes, rx_bytes, .. }: Volume) -> Self {
        Self { tx_bytes, rx_bytes }
    }
}

struct Outcome {
    comparison: Comparison,
    usage: BTreeMap<String, Usage>,
    /// From the senders' reports; empty while they run.
    payload: BTreeMap<String, Volume>,
}

#[derive(Default)]
struct ClassSum {
    flows: u64,
    truth: Volume,
    exported: Volume,
    difference_bytes: u64,
}

impl Outcome {
    fn truth(&self) -> Volume {
        sum(self.comparison.rows.iter().map(|row| row.truth))
    }

    fn exported(&self) -> Volume {
        sum(self.comparison.rows.iter().map(|row| row.exported))
    }

    /// One entry for each class, family and protocol, also where nothing went.
    fn classes(&self) -> BTreeMap<String, ClassSum> {
        let mut classes = BTreeMap::new();
        for class in Class::ALL {
            for (v6, protocol) in [(false, "tcp"), (false, "udp"), (true, "tcp"), (true, "udp")] {
                classes.insert(class_name(class, v6, protocol), ClassSum::default());
            }
        }
        for row in &self.comparison.rows {
            let protocol = row.key.protocol_name();
            let key = class_name(class_of(&row.key), row.key.local.is_ipv6(), &protocol);
            let sum: &mut ClassSum = classes.entry(key).or_default();
            sum.flows += 1;
            sum.truth += row.truth;
            sum.exported += row.exported;
            sum.difference_bytes += row.difference_bytes();
        }
        classes
    }

    /// Why the run does not pass; empty when it does.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for row in self.comparison.rows.iter().filter(|row| row.difference_bytes() > 0) {
            faults.push(format!("{} B differ: {}", row.difference_bytes(), row.key));
        }
        for (name, sum) in self.classes() {
            if sum.truth.tx_bytes == 0 || sum.truth.rx_bytes == 0 {
                faults.push(format!("no traffic: {name}"));
            }
        }
        for (pod, payload) in &self.payload {
            let of_pod = self.comparison.rows.iter().filter(|row| row.key.pod == *pod);
            let wire = sum(of_pod.map(|row| row.truth));
            if wire.tx_bytes < payload.tx_bytes || wire.rx_bytes < payload.rx_bytes {
                faults.push(format!("the wire carried less than the programs of {pod} moved"));
            }
        }
        faults
    }

    fn json_line(&self) -> Result<String, Error> {
        let refused = |error: serde_json::Error| Error::Os {
            action: "write",
            subject: "the report".to_owned(),
            source: error.into(),
        };
        Ok(serde_json::to_string(&self.report()).map_err(refused)? + "\n")
    }

    fn report(&self) -> Report {
        let classes = self.classes().into_iter().map(|(name, sum)| {
            let ClassSum { flows, truth, exported, difference_bytes } = sum;
            (name, ClassReport { flows, truth: truth.into(), exported: exported.into(), difference_bytes })
        });
        let daemons = self.usage.iter().map(|(name, usage)| {
            let (cpu_seconds, rss_peak_bytes) = (usage.cpu.as_secs_f64(), usage.rss_peak_bytes);
            (name.clone(), DaemonReport { cpu_seconds, rss_peak_bytes })
        });
        Report {
            flows: self.comparison.rows.len(),
            truth: self.truth().into(),
            exported: self.exported().into(),
            difference_bytes: self.comparison.difference_bytes(),
            payload: sum(self.payload.values().copied()).into(),
            classes: classes.collect(),
            daemons: daemons.collect(),
        }
    }

    /// Who sent what to whom, most first.
    fn table(&self) -> String {
        let mut rows: Vec<_> = self.comparison.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.truth.tx_bytes + row.truth.rx_bytes));
        let (tx, rx) = ("SENT", "RECEIVED");
        let mut text = format!(
            "{:<11} {:<5} {:<15} {:<7} {:<38} {:<7} {tx:>12} {:>12} {rx:>12} {:>12} {:>6}\n",
            "CLASS", "PROTO", "POD", "ZONE", "PEER", "ZONE", "TRUTH", "TRUTH", "DIFF"
        );
        for row in rows {
            text.push_str(&line(row));
        }
        let (truth, exported) = (self.truth(), self.exported());
        text.push_str(&format!(
            "\n{} flows, sent {} B (truth {} B), received {} B (truth {} B), difference {} B\n",
            self.comparison.rows.len(),
            exported.tx_bytes,
            truth.tx_bytes,
            exported.rx_bytes,
            truth.rx_bytes,
            self.comparison.difference_bytes(),
        ));
        for (name, Usage { cpu, rss_peak_bytes }) in &self.usage {
            let (cpu, kib) = (cpu.as_secs_f64(), rss_peak_bytes / 1024);
            text.push_str(&format!("{name:<18} {cpu:>6.2} s CPU, {kib:>7} KiB peak memory\n"));
        }
        text
    }
}

fn class_name(class: Class, v6: bool, protocol: &str) -> String {
    let family = if v6 { "ipv6" } else { "ipv4" };
    format!("{class}/{family}/{protocol}")
}

fn line(row: &Row) -> String {
    let Row { key, truth, exported } = row;
    let node = |address| pod_at(address).map_or_else(|| node_at(address), |pod| node_named(pod.node));
    let zone = |address| node(address).map_or("-", |node| node.zone);
    let remote = match (&key.remote_pod, node_at(key.remote)) {
        (Some(pod), _) => format!("{pod} {}", key.remote),
        (None, Some(node)) => format!("{} {}", node.name, key.remote),
        (None, None) => key.remote.to_string(),
    };
    format!(
        "{:<11} {:<5} {:<15} {:<7} {:<38} {:<7} {:>12} {:>12} {:>12} {:>12} {:>6}\n",
        class_of(key),
        key.protocol_name(),
        key.pod,
        zone(key.local),
        remote,
        zone(key.remote),
        exported.tx_bytes,
        truth.tx_bytes,
        exported.rx_bytes,
        truth.rx_bytes,
        row.difference_bytes(),
    )
}

fn sum(volumes: impl Iterator<Item = Volume>) -> Volume {
    let mut total = Volume::default();
    for volume in volumes {
        total += volume;
    }
    total
}
