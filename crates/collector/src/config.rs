//! The command line. Every default is stated here, with its reason.

use std::convert::Infallible;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, value_parser};
use egressd_conntrack::cilium::Choice;
use egressd_conntrack::netfilter::{CtZones, EndsConfig};
use egressd_flow::NodeName;
use egressd_meter::MeterConfig;
use egressd_protocol::limits::{BATCH_RECORDS_MAX, EXCLUDED_NAMESPACES_MAX, NODE_NAME_BYTES_MAX, OWNERS_MAX};
use egressd_service::args::{VerbFlag, normalise, parse_go_bool};
use egressd_service::duration::parse_go_duration;
use egressd_service::telemetry::parse_level;
use tracing::Level;

use crate::source::{Mode, layout};
use crate::stream::StreamOptions;

const VERBS: &[&str] = &["run", "dump", "init", "check", "reference", "help"];
const VERB_FLAGS: &[VerbFlag] =
    &[VerbFlag { flag: "init", verb: "init" }, VerbFlag { flag: "dump-ct", verb: "dump" }];

/// Watches the network traffic of this node's pods.
#[derive(Debug, Parser)]
#[command(name = "egressd-collector", version)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read, meter and send until SIGTERM.
    Run(Box<RunOptions>),
    /// Print the conntrack entries as they are understood, and exit.
    Dump(DumpOptions),
    /// Switch on conntrack's counters, timestamps and events, and exit.
    Init(InitOptions),
    /// Say why the figures would fall short on this machine, and exit: 1 when nothing would be counted, or not rightly; 0
    /// otherwise, whatever else is said.
    Check(CheckOptions),
    /// Print every flag as Markdown, and exit.
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) stream: StreamOptions,

    /// This node's name in Kubernetes.
    #[arg(long, env = "NODE_NAME", value_parser = node_name)]
    pub(crate) node_name: NodeName,

    /// Time between two reads of conntrack; what the exporter says, or 15s, unless given. Exactness does not depend
    /// on it: connections that end in between are heard of. Longer where reads cost more than --cpu-percent-max.
    #[arg(long, value_parser = interval)]
    pub(crate) read_interval: Option<Duration>,

    /// Share of one processor that the collector may take, in percent. Above it the time between two reads grows, to
    /// five minutes at most, whatever was asked for. Ends of connections are heard of all the same: where they alone take
    /// more, some 2.5 µs each, so does the collector.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u8).range(1..=100))]
    pub(crate) cpu_percent_max: u8,

    /// Port of health and metrics.
    #[arg(long, default_value_t = 8008)]
    pub(crate) http_listen_port: u16,

    /// Namespaces whose pods are not measured.
    #[arg(long, value_delimiter = ',', default_value = "kube-system")]
    pub(crate) exclude_namespaces: Vec<String>,

    /// All public destinations become 0.0.0.0 or ::.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    pub(crate) group_public_ips: bool,

    /// Conntrack entries that may have a baseline.
    #[arg(long, default_value = "1048576")]
    pub(crate) entries_max: NonZeroUsize,

    /// Bytes of batches that the exporter does not have; above it flows merge until it does.
    #[arg(long, default_value = "67108864")]
    pub(crate) window_bytes_max: NonZeroUsize,

    /// Bytes of batches that the exporter has and its sinks have not; above it they are let go, counted.
    #[arg(long, default_value = "33554432")]
    pub(crate) window_taken_bytes_max: NonZeroUsize,

    /// Where to keep what a restart goes on from, on a tmpfs of the node such as /run/egressd; without it a restart
    /// begins anew.
    #[arg(long)]
    pub(crate) state_dir: Option<PathBuf>,

    /// Where, on a BPF file system, the programs and tables of --ct-mode ebpf outlive a restart; used with --state-dir.
    #[arg(long, default_value = "/sys/fs/bpf/egressd")]
    pub(crate) ebpf_pin_dir: PathBuf,

    /// How long a stop may take; below the 30 seconds that Kubernetes grants.
    #[arg(long, value_parser = interval, default_value = "25s")]
    pub(crate) grace: Duration,

    #[command(flatten)]
    pub(crate) source: SourceOptions,

    #[command(flatten)]
    pub(crate) dns: DnsOptions,

    #[command(flatten)]
    log: LogOptions,

    #[command(flatten)]
    obsolete: Obsolete,
}

/// Where names come from.
#[derive(Debug, Args)]
pub(crate) struct DnsOptions {
    /// Learn what public addresses are called from the DNS answers that pods get, by eBPF: needs CAP_BPF, CAP_NET_ADMIN and
    /// the node's cgroup v2 hierarchy. Off, as in the original's chart.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    pub(crate) ebpf_dns_tracer_enabled: bool,

    /// Names on their way from the tracer to the stream, 1000000 at most; above it answers wait in the kernel's ring, and
    /// are lost, counted, when that is full.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    ebpf_dns_tracer_queue_size: u32,

    /// The cgroup v2 directory whose sockets are traced, with all below it; the root of the hierarchy, wherever it is
    /// mounted, unless given.
    #[arg(long)]
    pub(crate) cgroup_dir: Option<PathBuf>,
}

impl DnsOptions {
    pub(crate) fn queue_size(&self) -> usize {
        usize::try_from(self.ebpf_dns_tracer_queue_size).unwrap_or(usize::MAX)
    }
}

/// What is read.
#[derive(Debug, Args)]
pub(crate) struct SourceOptions {
    /// Where to read: netfilter, cilium for its conntrack maps, or ebpf for counters of our own. When nothing is given
    /// cilium where there are maps of it, ebpf where these say no direction or nothing at all, and else netfilter.
    #[arg(long, value_parser = ct_mode, default_value = "")]
    pub(crate) ct_mode: CtMode,

    /// Conntrack zones to read, by the original direction: all, or numbers from 0 to 65535 with commas between. A
    /// connection that stands in two counts twice; the README has the list per CNI.
    #[arg(long, default_value = "all")]
    pub(crate) ct_zones: CtZones,

    #[command(flatten)]
    pub(crate) cilium: CiliumOptions,

    #[command(flatten)]
    pub(crate) ebpf: EbpfOptions,

    #[command(flatten)]
    pub(crate) namespace: NamespaceOptions,
}

/// What our own programs count.
#[derive(Clone, Debug, Args)]
pub(crate) struct EbpfOptions {
    /// The cgroup whose sockets are counted, with all below it; the root of the cgroup v2 hierarchy unless given.
    #[arg(long)]
    pub(crate) ebpf_cgroup: Option<PathBuf>,

    /// Pairs of addresses, by protocol, that may be counted between two reads; what finds no room is counted as that.
    #[arg(long, default_value = "65536")]
    pub(crate) ebpf_entries_max: NonZeroU32,

    /// How long dump and check count before they look at it.
    #[arg(long, value_parser = interval, default_value = "5s")]
    pub(crate) ebpf_count_for: Duration,
}

/// Where Cilium is.
#[derive(Clone, Debug, Args)]
pub(crate) struct CiliumOptions {
    /// Where Cilium pins its maps, on a BPF file system.
    #[arg(long, default_value = "/sys/fs/bpf/tc/globals")]
    pub(crate) cilium_map_dir: PathBuf,

    /// The socket of its agent, which says what it counts and how; empty for none.
    #[arg(long, default_value = "/var/run/cilium/cilium.sock", value_parser = path_or_none)]
    pub(crate) cilium_socket: PathBuf,

    /// The directory of its agent's state, with its configuration; empty for none.
    #[arg(long, default_value = "/var/run/cilium/state", value_parser = path_or_none)]
    pub(crate) cilium_state_dir: PathBuf,

    /// How its maps count: directional up to 1.15, combined from 1.16 on, or auto, which finds out. Where that cannot be
    /// told, bytes have no direction.
    #[arg(long, default_value = "auto", value_parser = layout)]
    pub(crate) cilium_layout: Choice,
}

#[derive(Debug, Args)]
pub(crate) struct NamespaceOptions {
    /// Read the network namespace of process 1; needs the host's process ids and CAP_SYS_ADMIN.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    pub(crate) host_pid: bool,
}

#[derive(Debug, Args)]
struct LogOptions {
    /// trace, debug, info, warn or error.
    #[arg(long, default_value = "info", value_parser = parse_level)]
    log_level: Level,
}

#[derive(Debug, Args)]
pub(crate) struct DumpOptions {
    /// How to print.
    #[arg(long, default_value = "table")]
    pub(crate) format: DumpFormat,

    #[command(flatten)]
    pub(crate) source: SourceOptions,

    #[command(flatten)]
    log: LogOptions,

    #[command(flatten)]
    obsolete: Obsolete,

    #[command(flatten)]
    beside: Beside,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) source: SourceOptions,

    #[command(flatten)]
    pub(crate) stream: StreamOptions,

    #[command(flatten)]
    pub(crate) dns: DnsOptions,

    #[command(flatten)]
    log: LogOptions,
}

#[derive(Debug, Args)]
pub(crate) struct InitOptions {
    /// Write in the network namespace of process 1.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    pub(crate) host_pid: bool,

    /// Means nothing here.
    #[arg(long, hide = true)]
    ct_mode: Option<String>,

    #[command(flatten)]
    log: LogOptions,

    #[command(flatten)]
    obsolete: Obsolete,

    #[command(flatten)]
    beside: Beside,
}

/// `None`: what the machine has decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CtMode(pub(crate) Option<Mode>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    Table,
    Json,
}

/// Flags of the original that mean nothing here, accepted because charts pass them.
#[derive(Debug, Args)]
#[group(skip)]
struct Obsolete {
    #[arg(long, hide = true)]
    cleanup_interval: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    send_traffic_delta: Option<Option<String>>,
    #[arg(long, hide = true)]
    cilium_clock_source: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    log_entries: Option<Option<String>>,
    #[arg(long, hide = true)]
    kubeconfig: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    init_cgroupv2: Option<Option<String>>,
}

/// Flags of `run` that the original takes beside `-dump-ct` and `-init`, where they mean nothing.
#[derive(Debug, Args)]
#[group(skip)]
struct Beside {
    #[arg(long, hide = true)]
    read_interval: Option<String>,
    #[arg(long, hide = true)]
    http_listen_port: Option<String>,
    #[arg(long, hide = true)]
    exclude_namespaces: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    group_public_ips: Option<Option<String>>,
    #[arg(long, hide = true)]
    node_name: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    ebpf_dns_tracer_enabled: Option<Option<String>>,
    #[arg(long, hide = true)]
    ebpf_dns_tracer_queue_size: Option<String>,
}

impl Config {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let config = Self::try_parse_from(normalise(arguments, VERBS, VERB_FLAGS))?;
        match &config.command {
            Command::Run(run) if run.exclude_namespaces.len() > EXCLUDED_NAMESPACES_MAX => {
                let message = format!("--exclude-namespaces takes at most {EXCLUDED_NAMESPACES_MAX} names");
                Err(Self::command().error(ErrorKind::TooManyValues, message))
            }
            _ => Ok(config),
        }
    }

    pub(crate) fn log_level(&self) -> Level {
        match &self.command {
            Command::Run(run) => run.log.log_level,
            Command::Dump(dump) => dump.log.log_level,
            Command::Init(init) => init.log.log_level,
            Command::Check(check) => check.log.log_level,
            Command::Reference => Level::INFO,
        }
    }
}

impl RunOptions {
    pub(crate) fn meter(&self, mode: Mode) -> MeterConfig {
        MeterConfig {
            absent_snapshots_max: mode.absent_snapshots_max(),
            entries_max: self.entries_max.get(),
            // A node's pods rarely talk to more peers between two cuts; above it they fold into rests.
            flows_max: 131_072,
            // A minute of other nodes' and the world's addresses.
            unclaimed_max: 131_072,
            // At 10,000 ends a second, thirteen seconds: a dump's beginning is never that far from its end.
            tombstones_max: 131_072,
            // Where one read's absence is an end, what is absent cannot come back as the entry that it was.
            retired_max: if mode.absent_snapshots_max() > 1 { 65_536 } else { 0 },
            batch_records_max: BATCH_RECORDS_MAX,
            batch_owners_max: OWNERS_MAX,
            unclaimed_grace: Duration::from_secs(60),
            ended_owner_kept: Duration::from_secs(600),
        }
    }

    pub(crate) fn ends(&self) -> EndsConfig {
        EndsConfig {
            // 13,107 ends: nothing was lost with it up to 110,000 ends a second.
            receive_buffer_bytes: 8 << 20,
            queue_entries: const { NonZeroUsize::new(16_384).expect("not zero") },
        }
    }
}

/// As Kubernetes allows it, and as the exporter takes it.
fn node_name(text: &str) -> Result<NodeName, String> {
    match text.len() {
        1..=NODE_NAME_BYTES_MAX => Ok(NodeName(text.into())),
        0 => Err("is empty".to_owned()),
        _ => Err(format!("is longer than {NODE_NAME_BYTES_MAX} bytes")),
    }
}

/// clap takes no empty path.
fn path_or_none(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

fn ct_mode(text: &str) -> Result<CtMode, String> {
    match text {
        "" => Ok(CtMode(None)),
        "netfilter" => Ok(CtMode(Some(Mode::Netfilter))),
        "cilium" => Ok(CtMode(Some(Mode::Cilium))),
        "ebpf" => Ok(CtMode(Some(Mode::Ebpf))),
        _ => Err("write netfilter, cilium or ebpf".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_go_duration(text).map_err(|error| error.to_string())?;
    if interval.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config, clap::Error> {
        Config::parse(line.split(' ').map(OsString::from))
    }

    /// Goal: the arguments that the original's chart renders are understood.
    #[test]
    fn the_arguments_of_the_originals_chart_are_understood() {
        let line = "egressd-collector -http-listen-port=6061 -host-pid -read-interval=5s -group-public-ips=true \
                    -send-traffic-delta=true -ebpf-dns-tracer-enabled=false -exclude-namespaces=kube-system,infra \
                    -cleanup-interval=120s -cilium-clock-source=ktime -ct-mode= --node-name node-a";
        let Command::Run(run) = parse(line).unwrap().command else { panic!("not run") };
        assert_eq!(run.http_listen_port, 6061);
        assert_eq!(run.read_interval, Some(Duration::from_secs(5)));
        assert!(run.group_public_ips && run.source.namespace.host_pid);
        assert_eq!(run.exclude_namespaces, ["kube-system", "infra"]);
    }

    /// Goal: each argument that the original's chart rendered for its collector is understood, where the captures are
    /// beside the project.
    #[test]
    fn the_rendered_arguments_of_the_original_are_understood() {
        let captures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/captures/original-chart");
        // `cargo xtask test` says what it left out.
        let Ok(render) = std::fs::read_to_string(format!("{captures}/render-castai.yaml")) else { return };
        let argument = |line: &str| Some(line.trim().strip_prefix("- \"")?.strip_suffix('"')?.to_owned());
        let lists = render.split(" args:\n").skip(1);
        let lists: Vec<Vec<String>> = lists.map(|list| list.lines().map_while(argument).collect()).collect();
        let [init, run, _exporter] = &lists[..] else { panic!("{lists:?}") };
        assert!(matches!(parse(&format!("c {}", init.join(" "))).unwrap().command, Command::Init(_)));
        let run = parse(&format!("c {} --node-name node-a", run.join(" "))).unwrap();
        assert!(
            matches!(run.command, Command::Run(run) if run.group_public_ips && run.http_listen_port == 6061)
        );
    }

    /// Goal: each verb that reads takes the conntrack zones to read, and without them reads all.
    #[test]
    fn each_verb_that_reads_takes_ct_zones() {
        let ct_zones = |line: &str| match parse(line).unwrap().command {
            Command::Run(run) => run.source.ct_zones,
            Command::Dump(dump) => dump.source.ct_zones,
            Command::Check(check) => check.source.ct_zones,
            other => panic!("{other:?}"),
        };
        for verb in ["run --node-name a", "dump", "check"] {
            assert_eq!(ct_zones(&format!("c {verb}")), CtZones::ALL);
            assert_eq!(ct_zones(&format!("c {verb} --ct-zones 64000,0")), "0,64000".parse().unwrap());
        }
    }

    /// Goal: verbs that were flags are verbs.
    #[test]
    fn verbs_that_were_flags_are_verbs() {
        assert!(matches!(parse("c -init -init-cgroupv2").unwrap().command, Command::Init(_)));
        assert!(matches!(parse("c -dump-ct -host-pid").unwrap().command, Command::Dump(_)));
        let beside = "-read-interval=5s -ct-mode=netfilter -exclude-namespaces=x -group-public-ips -http-listen-port=1";
        assert!(matches!(parse(&format!("c -dump-ct {beside}")).unwrap().command, Command::Dump(_)));
        assert!(matches!(parse(&format!("c {beside} -init=true")).unwrap().command, Command::Init(_)));
    }

    /// Goal: a wrong value is refused by name, before anything starts.
    #[test]
    fn a_wrong_value_is_refused_by_name() {
        for (line, words) in [
            ("c --node-name a --read-interval 5", "has no unit"),
            ("c --node-name a --read-interval 0s", "must be longer than zero"),
            (
                "c --node-name a --ct-zones 1,zone",
                "--ct-zones <CT_ZONES>': \"zone\" is not a conntrack zone: write all",
            ),
            ("c dump --ct-zones 65536", "numbers from 0 to 65535 with commas between"),
            ("c check --ct-zones=", "is not a conntrack zone"),
            ("c --node-name a --ct-mode iptables", "write netfilter, cilium or ebpf"),
            ("c --node-name a --cilium-layout new", "write auto, directional or combined"),
            ("c --node-name=", "is empty"),
            ("c --node-name a --cpu-percent-max 0", "0 is not in 1..=100"),
            ("c --node-name a --log-level loud", "write trace, debug, info, warn or error"),
            ("c --exporter-address e:6062", "--node-name"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(words), "{line}: {message}");
        }
    }
}
