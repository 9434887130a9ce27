//! The host's network namespace, for a collector that was not started in it.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

const HOST: &str = "/proc/1/ns/net";
const OURS: &str = "/proc/self/ns/net";

/// The name of the network namespace that is read, of process 1 when `host` says so: no other has it while this one is
/// there.
pub(crate) fn name(host: bool) -> anyhow::Result<PathBuf> {
    let link = if host { HOST } else { OURS };
    fs::read_link(link).with_context(|| format!("cannot read {link}"))
}

/// Moves the calling thread to the network namespace of process 1, when `wanted`. Sockets opened by it afterwards,
/// and `/proc/sys/net` as it sees it, belong there.
pub(crate) fn enter_host(wanted: bool) -> anyhow::Result<()> {
    if !wanted {
        return Ok(());
    }
    let host = File::open(HOST).with_context(|| format!("cannot open {HOST}: is hostPID on"))?;
    setns(host, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {HOST}: it needs CAP_SYS_ADMIN; or run on the host's network"))
}
