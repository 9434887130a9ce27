//! Where a bench takes place: a network namespace of this process, with tracking on and routes to nowhere.
//!
//! Invariant: nothing outside of the namespace changes but `net.netfilter.nf_conntrack_max`, which has no other home
//! than the initial namespace, and that is put back however this process ends.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use egressd_testbed::{Borrowed, Setting};
use nix::sched::{CloneFlags, unshare};

/// Room beside the entries that are asked for.
const SPARE_ENTRIES: u32 = 1000;

const RULES: &str =
    "table inet bench { chain out { type filter hook output priority 0; ct state new counter; }; }";

/// Timeouts outlast a bench: a packet sets its entry's timeout anew, and what a bench asks the daemons is no end that it
/// has not sent. A connection that was refused is gone after ten seconds by default.
const SYSCTLS: [(&str, &str); 7] = [
    ("net/netfilter/nf_conntrack_acct", "1"),
    ("net/netfilter/nf_conntrack_timestamp", "1"),
    ("net/netfilter/nf_conntrack_events", "1"),
    ("net/netfilter/nf_conntrack_udp_timeout", "86400"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "86400"),
    ("net/netfilter/nf_conntrack_tcp_timeout_close", "86400"),
    ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "86400"),
];

/// What leaves through `nowhere` is sent to its own link address, so `void` takes it for another host's and drops it
/// before anything counts it again.
const LINKS: [&[&str]; 6] = [
    &["link", "add", "nowhere", "type", "veth", "peer", "name", "void"],
    &["link", "set", "lo", "up"],
    &["link", "set", "void", "up"],
    &["link", "set", "nowhere", "arp", "off", "up"],
    &["route", "add", "default", "dev", "nowhere"],
    &["-6", "route", "add", "default", "dev", "nowhere"],
];

/// The place. Goes with the process; what it changed outside goes back when this is dropped.
pub(crate) struct Place {
    _limit: Option<Borrowed>,
}

impl Place {
    /// Moves the calling thread, which must be the only one, into a new namespace with room for `entries`.
    pub(crate) fn enter(entries: u32) -> anyhow::Result<Self> {
        let limit = make_room(entries.saturating_add(SPARE_ENTRIES))?;
        unshare(CloneFlags::CLONE_NEWNET).context("a bench needs root: no network namespace can be made")?;
        for arguments in LINKS {
            run("ip", arguments, "")?;
        }
        run("nft", &["-f", "-"], RULES)?;
        for (name, value) in SYSCTLS {
            fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name}"))?;
        }
        Ok(Self { _limit: limit })
    }
}

/// `None` when there is room already.
fn make_room(entries: u32) -> anyhow::Result<Option<Borrowed>> {
    if Setting::ConntrackMax.read().context("conntrack is not loaded")? >= entries {
        return Ok(None);
    }
    let borrowed = Borrowed::of(Setting::ConntrackMax)?;
    borrowed.set(entries).with_context(|| {
        format!("cannot raise nf_conntrack_max to {entries}: it belongs to the initial network namespace")
    })?;
    Ok(Some(borrowed))
}

fn run(tool: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("{tool} is not installed"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("{tool} does not read"))?;
    }
    let status = child.wait().with_context(|| format!("{tool} is lost"))?;
    if !status.success() {
        bail!("{tool} {arguments:?} ended with {status}");
    }
    Ok(())
}
