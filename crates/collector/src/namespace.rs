//! The host's network namespace, for a collector that was not started in it.

use std::fs::File;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

/// Moves the calling thread to the network namespace of process 1, when `wanted`. Sockets opened by it afterwards,
/// and `/proc/sys/net` as it sees it, belong there.
pub(crate) fn enter_host(wanted: bool) -> anyhow::Result<()> {
    const HOST: &str = "/proc/1/ns/net";
    if !wanted {
        return Ok(());
    }
    let host = File::open(HOST).with_context(|| format!("cannot open {HOST}: is hostPID on"))?;
    setns(host, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {HOST}: it needs CAP_SYS_ADMIN; or run on the host's network"))
}
