//! What the kernel told of a node's traffic, by another reader than ours.
//!
//! A packet that arrives in the moment in which its entry ends may be counted where nobody hears of it: the kernel sends
//! an entry's last words before it unlinks the entry (`nf_ct_delete`), for one. Where entries end amid traffic,
//! `conntrack -E` with `conntrack -L` says by how much the kernel itself fell short of nft.
//!
//! Invariant: what is still counted and what has ended stand for all that was counted since the table was empty.

use std::process::Command;
use std::time::Duration;

use egressd_testbed::filler::Filler;
use egressd_testbed::topology::{NODES, pod_at};
use egressd_testbed::{Cluster, Error, Process, wait_for};

const LISTENING_WITHIN: Duration = Duration::from_secs(10);
/// What `conntrack -E` says when it missed something.
const MISSED: &str = "ENOBUFS";

/// A listener for the ends of a node's entries.
pub(crate) struct Listener {
    node: &'static str,
    process: Process,
}

impl Listener {
    /// Starts it, and waits until it hears of ends. `name` is its log's, and unique.
    pub(crate) fn start(cluster: &Cluster, node: &'static str, name: &str) -> Result<Self, Error> {
        let mut command = Command::new("conntrack");
        command.args(["-E", "-e", "DESTROY", "-o", "timestamp"]);
        let process = cluster.spawn(node, name, command)?;
        let listener = Self { node, process };
        wait_for("an end that is heard of", LISTENING_WITHIN, || {
            let ended = cluster.namespace(node)?.enter(|| {
                let mut filler = Filler::open()?;
                filler.create(0..1).and_then(|()| filler.delete(0..1))
            })?;
            ended.map_err(|source| Error::Os {
                action: "end an entry of",
                subject: node.to_owned(),
                source,
            })?;
            Ok(if listener.process.log_text()?.is_empty() { Err("silence".to_owned()) } else { Ok(()) })
        })?;
        Ok(listener)
    }

    /// Ends of entries with traffic so far, and their bytes, once for each of their two ends that is a pod of the node.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it missed some.
    pub(crate) fn heard(&mut self) -> Result<(usize, u64), Error> {
        self.heard_from(Duration::ZERO)
    }

    /// Those alone that it heard of from `since` on, by the time since 1970.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it missed some.
    pub(crate) fn heard_from(&mut self, since: Duration) -> Result<(usize, u64), Error> {
        self.process.check_running()?;
        let text = self.process.log_text()?;
        if text.contains(MISSED) {
            return Err(Error::Malformed { what: "the ends of entries", found: MISSED.to_owned() });
        }
        let lines = text.lines().filter(|line| heard_at(line).is_some_and(|at| at >= since));
        let ends: Vec<u64> = lines.map(|line| bytes_of(line, self.node)).filter(|bytes| *bytes > 0).collect();
        Ok((ends.len(), ends.iter().sum()))
    }
}

/// When `conntrack -E -o timestamp` says that it heard of an end: `[seconds.microseconds]`, since 1970.
fn heard_at(line: &str) -> Option<Duration> {
    let (seconds, microseconds) = line.strip_prefix('[')?.split_once(']')?.0.split_once('.')?;
    Some(Duration::new(seconds.trim().parse().ok()?, microseconds.parse::<u32>().ok()?.checked_mul(1000)?))
}

/// Listeners on both nodes, from empty tables on.
pub(crate) struct Witness<'c> {
    cluster: &'c Cluster,
    listeners: Vec<Listener>,
}

impl<'c> Witness<'c> {
    /// Empties both tables and listens. `name` is unique.
    pub(crate) fn start(cluster: &'c Cluster, name: &str) -> Result<Self, Error> {
        for node in &NODES {
            let mut command = Command::new("conntrack");
            command.arg("-F");
            cluster.run(node.name, command)?;
        }
        let nodes = const { &NODES }.iter();
        let listeners =
            nodes.map(|node| Listener::start(cluster, node.name, &format!("ends-{}-{name}", node.name)));
        Ok(Self { cluster, listeners: listeners.collect::<Result<_, _>>()? })
    }

    /// All that the kernel told of traffic since, in bytes; to be asked when nothing moves.
    pub(crate) fn told_bytes(&mut self) -> Result<u64, Error> {
        let mut told = 0;
        for listener in &mut self.listeners {
            for family in ["ipv4", "ipv6"] {
                let mut command = Command::new("conntrack");
                command.args(["-L", "-f", family]);
                let listing = self.cluster.run(listener.node, command)?;
                told += String::from_utf8_lossy(&listing)
                    .lines()
                    .map(|line| bytes_of(line, listener.node))
                    .sum::<u64>();
            }
            told += listener.heard()?.1;
        }
        Ok(told)
    }
}

/// Of a line of `conntrack`: the first `src=` is the opener, the second the real peer.
fn bytes_of(line: &str, node: &str) -> u64 {
    let words = || line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let values = |name| words().filter(move |(found, _)| *found == name).map(|(_, value)| value);
    let pods = values("src").filter_map(|address| pod_at(address.parse().ok()?));
    let sides = u64::try_from(pods.filter(|pod| pod.node == node).count()).unwrap_or_default();
    sides * values("bytes").filter_map(|bytes| bytes.parse::<u64>().ok()).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an end is charged to each pod of the node that took part, both directions.
    #[test]
    fn an_end_counts_for_each_of_its_pods() {
        let line = |src: &str, dst: &str| {
            format!(
                "[1763862000.123456]\t[DESTROY] tcp      6 src={src} dst={dst} sport=1 dport=2 packets=1 bytes=100 \
                 src={dst} dst={src} sport=2 dport=1 packets=1 bytes=20 [ASSURED]"
            )
        };
        for (src, dst, bytes) in [
            ("10.244.1.3", "10.244.1.4", 240),
            ("10.244.1.3", "10.244.2.4", 120),
            ("fd00:10:244:2::4", "fd00:10:244:1::3", 120),
            ("172.18.0.2", "172.18.0.1", 0),
        ] {
            assert_eq!(bytes_of(&line(src, dst), "node-a"), bytes, "{src} {dst}");
            assert_eq!(heard_at(&line(src, dst)), Some(Duration::from_micros(1_763_862_000_123_456)));
        }
    }
}
