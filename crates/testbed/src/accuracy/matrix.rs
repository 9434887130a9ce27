//! What is tried: the scenarios, their traffic, and how often the collectors read meanwhile.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use egressd_testbed::topology::{SERVER_PORT, pod_named};
use egressd_testbed::traffic::{Item, Kind, Plan};

/// The pod that sends.
const SENDER: &str = "client-0";
/// On its own node, and on the other.
const DESTINATIONS: [&str; 2] = ["store-0", "store-1"];
/// Below the ports that the kernel gives out.
const FIRST_REUSED_PORT: u16 = 20_000;
/// Of one line of exchanges under churn.
const CHURN_EXCHANGES_MAX: u64 = 20_000;
/// Elsewhere: a day at the fastest pace, since time is the bound there.
const EXCHANGES_MAX: u64 = 1_000_000;

/// One kind of traffic, with what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// A connection for all exchanges.
    LongTcp,
    /// A connection an exchange.
    Fin,
    /// A connection an exchange.
    Rst,
    /// A socket an exchange, and one for all.
    Udp,
    /// A connection an exchange, each with the addresses and ports of the one before.
    Reuse,
    /// UDP whose entries are deleted all the time.
    Delete,
    /// As many connections as the machine can.
    Churn,
    /// The hash table moves while it is read.
    Resize,
    /// SIGTERM to a collector, and another one.
    Stop,
    /// SIGKILL to a collector, and another one; every entry outlives the gap.
    Kill,
    /// SIGTERM to a collector, and another one, while entries end all the time.
    StopAmidEnds,
    /// SIGKILL to a collector, and another one, while entries end all the time.
    KillAmidEnds,
    /// No room for new entries.
    Full,
}

impl Scenario {
    /// Whether entries end while packets of theirs are on their way.
    pub(crate) const fn ends_amid_traffic(self) -> bool {
        matches!(self, Self::Reuse | Self::Delete)
    }

    /// Whether a collector goes and another one comes.
    pub(crate) const fn restarts(self) -> bool {
        matches!(self, Self::Stop | Self::Kill | Self::StopAmidEnds | Self::KillAmidEnds)
    }

    /// Whether exchanges are expected to fail.
    pub(crate) const fn may_fail(self) -> bool {
        matches!(self, Self::Full)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LongTcp => "long TCP",
            Self::Fin => "short TCP closed by FIN",
            Self::Rst => "short TCP closed by RST",
            Self::Udp => "UDP request and reply",
            Self::Reuse => "5-tuple reused after RST",
            Self::Delete => "UDP and conntrack -D",
            Self::Churn => "churn",
            Self::Resize => "hash resized during reads",
            Self::Stop => "collector stopped, started",
            Self::Kill => "collector killed, started",
            Self::StopAmidEnds => "collector stopped amid ends",
            Self::KillAmidEnds => "collector killed amid ends",
            Self::Full => "table full",
        })
    }
}

/// How long entries live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeouts {
    /// The kernel's.
    Default,
    /// A second in every state that traffic pauses in.
    Short,
}

impl Timeouts {
    /// What to set on each node.
    pub(crate) const fn sysctls(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Default => &[],
            Self::Short => &[
                ("net.netfilter.nf_conntrack_tcp_timeout_established", "1"),
                ("net.netfilter.nf_conntrack_tcp_timeout_fin_wait", "1"),
                ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "1"),
                ("net.netfilter.nf_conntrack_tcp_timeout_last_ack", "1"),
                ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"),
                ("net.netfilter.nf_conntrack_tcp_timeout_close", "1"),
                ("net.netfilter.nf_conntrack_udp_timeout", "1"),
                ("net.netfilter.nf_conntrack_udp_timeout_stream", "1"),
            ],
        }
    }

    /// Between two exchanges of a connection; longer than entries live where that is short.
    const fn long_pause_ms(self) -> u64 {
        match self {
            Self::Default => 250,
            Self::Short => 1600,
        }
    }
}

impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Short => "short",
        })
    }
}

/// How often the collectors read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// `--read-interval 1s`.
    EverySecond,
    /// Without the flag.
    ByDefault,
}

impl Reads {
    /// Between two reads.
    pub(crate) const fn interval(self) -> Duration {
        match self {
            Self::EverySecond => Duration::from_secs(1),
            Self::ByDefault => Duration::from_secs(15),
        }
    }
}

/// Scenarios that share a cluster and run one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Of both nodes.
    pub(crate) timeouts: Timeouts,
    /// Of both collectors.
    pub(crate) reads: Reads,
    /// Of each scenario's traffic, but for a restart's: that depends on the reads.
    pub(crate) traffic: Duration,
    /// What to try. [`Scenario::Resize`] and [`Scenario::Full`] leave entries behind, so one of them may be, as the last.
    pub(crate) scenarios: Vec<Scenario>,
}

/// The matrix; the short one reads every second only, and leaves out what changes a setting of the whole machine.
pub(crate) fn groups(short: bool) -> Vec<Group> {
    use Scenario::{
        Churn, Delete, Fin, Full, Kill, KillAmidEnds, LongTcp, Resize, Reuse, Rst, Stop, StopAmidEnds, Udp,
    };
    let everywhere = [LongTcp, Fin, Rst, Udp, Reuse, Delete];
    let group = |timeouts, reads, seconds, scenarios: &[Scenario]| Group {
        timeouts,
        reads,
        traffic: Duration::from_secs(seconds),
        scenarios: scenarios.to_vec(),
    };
    let restarts = [Stop, Kill, StopAmidEnds, KillAmidEnds];
    let restarts_and_full = [&restarts[..], &[Full]].concat();
    if short {
        return vec![
            group(Timeouts::Default, Reads::EverySecond, 3, &[&everywhere[..], &[Churn]].concat()),
            group(Timeouts::Short, Reads::EverySecond, 4, &everywhere),
            group(Timeouts::Default, Reads::EverySecond, 3, &restarts_and_full),
        ];
    }
    vec![
        group(Timeouts::Default, Reads::EverySecond, 10, &[&everywhere[..], &[Churn]].concat()),
        group(Timeouts::Short, Reads::EverySecond, 10, &everywhere),
        group(Timeouts::Default, Reads::EverySecond, 10, &restarts_and_full),
        group(Timeouts::Default, Reads::EverySecond, 10, &[Resize]),
        group(Timeouts::Default, Reads::ByDefault, 20, &[&everywhere[..], &[Churn]].concat()),
        group(Timeouts::Short, Reads::ByDefault, 20, &[&everywhere[..], &[Churn]].concat()),
        group(Timeouts::Default, Reads::ByDefault, 20, &restarts),
    ]
}

/// Who sends what in a scenario: within a node and between nodes, over both families.
pub(crate) fn plans(scenario: Scenario, timeouts: Timeouts) -> Vec<(&'static str, Plan)> {
    let destinations = DESTINATIONS.iter().filter_map(|name| pod_named(name));
    let addresses = destinations.flat_map(|pod| pod.addresses.both());
    let addresses = addresses.map(|address| SocketAddr::new(address, SERVER_PORT));
    let items = addresses.zip(FIRST_REUSED_PORT..);
    let items = items.flat_map(|(to, port)| items_to(scenario, timeouts, to, port)).collect();
    vec![(SENDER, Plan { seconds: None, items })]
}

fn items_to(scenario: Scenario, timeouts: Timeouts, to: SocketAddr, port: u16) -> Vec<Item> {
    let item = |kind, pause_ms| {
        let (request_bytes, reply_bytes) = match kind {
            Kind::TcpLong => (40_000, 200_000),
            Kind::TcpFin => (1_000, 9_000),
            Kind::TcpRst => (2_000, 700),
            Kind::UdpLong => (300, 1_200),
            Kind::UdpShort => (120, 500),
        };
        let exchanges_max = if pause_ms == 0 { CHURN_EXCHANGES_MAX } else { EXCHANGES_MAX };
        Item { kind, to, from_port: None, request_bytes, reply_bytes, pause_ms, exchanges_max }
    };
    let long_tcp = || item(Kind::TcpLong, timeouts.long_pause_ms());
    let reused = || Item { from_port: Some(port), ..item(Kind::TcpRst, 30) };
    match scenario {
        Scenario::LongTcp => vec![long_tcp()],
        Scenario::Fin => vec![item(Kind::TcpFin, 30)],
        Scenario::Rst => vec![item(Kind::TcpRst, 30)],
        Scenario::Udp => vec![item(Kind::UdpShort, 30), item(Kind::UdpLong, timeouts.long_pause_ms())],
        Scenario::Reuse | Scenario::StopAmidEnds | Scenario::KillAmidEnds => vec![reused()],
        Scenario::Delete => vec![item(Kind::UdpLong, 20)],
        Scenario::Churn => vec![item(Kind::TcpRst, 0), item(Kind::UdpShort, 0)],
        Scenario::Resize | Scenario::Stop | Scenario::Kill => {
            vec![long_tcp(), item(Kind::TcpFin, 50), item(Kind::UdpShort, 50)]
        }
        Scenario::Full => vec![item(Kind::TcpFin, 10), item(Kind::UdpLong, 50)],
    }
}
