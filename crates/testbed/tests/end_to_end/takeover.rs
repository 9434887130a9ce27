//! Two exporters in an election: the one that leads is killed, frozen or cut off from the API amid traffic.
//!
//! Each takes streams on a port of its own behind one service, which sends a connection to either. The leader reaches the
//! API through a port that can be cut.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use egressd_testbed::kubernetes::Resource;
use egressd_testbed::topology::{CONTROL, CONTROL_ADDRESSES, NODES, Node};
use egressd_testbed::{
    Authority, Cluster, Comparison, Daemon, Flows, GRPC_PORT, HttpSink, Ingestion, Load, Programs, Row,
    Series, Store, flows_by, init_nodes, now, wait_for,
};

use crate::harness::{ALL_SAMPLES, LOSSES, gentle_plans};
use crate::lives::{READY_WITHIN, Stage};
use crate::{seconds, secured};

const LEASE_DURATION: Duration = seconds(3);
const NAMESPACE: &str = "egressd";
const LEASE: &str = "egressd-exporter";
const RECORDER_PORT: u16 = 8091;
/// Leads to the API's own port.
const API_PORT: u16 = 6443;
const API_PORT_TO_CUT: u16 = 6444;
/// A stream that went silent is noticed after 20 s, and dialled again within 30 s.
const FOLLOWED_WITHIN: Duration = seconds(90);
const SETTLED_WITHIN: Duration = seconds(90);
const ENDED_WITHIN: Duration = seconds(30);
const MAYBE_TWICE: &str = "egressd_collector_window_maybe_twice_bytes_total";

struct Contender {
    name: &'static str,
    grpc_port: u16,
    http_port: u16,
    api_port: u16,
}

const FIRST: Contender =
    Contender { name: "first", grpc_port: 7062, http_port: 6060, api_port: API_PORT_TO_CUT };
const SECOND: Contender = Contender { name: "second", grpc_port: 7063, http_port: 6070, api_port: API_PORT };

/// How the streams are kept from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    Plain,
    /// TLS by one certificate for both, and tokens of the collectors' pods.
    Secured,
}

struct Takeover<'c> {
    name: &'static str,
    streams: Streams,
    stage: Stage<'c>,
    prometheus: Store<'c>,
    /// A cost API that tells its senders apart.
    recorder: HttpSink,
    ingestion: Ingestion<'c>,
    first: Daemon<'c>,
    second: Daemon<'c>,
    collectors: Vec<Daemon<'c>>,
    load: Option<Load>,
}

impl<'c> Takeover<'c> {
    /// The first one leads, the second stands by, and traffic arrives.
    fn start(name: &'static str, cluster: &'c Cluster, programs: &'c Programs) -> Self {
        Self::start_with(Streams::Plain, name, cluster, programs)
    }

    fn start_with(
        streams: Streams,
        name: &'static str,
        cluster: &'c Cluster,
        programs: &'c Programs,
    ) -> Self {
        nft(cluster, &service_rules());
        let stage = Stage::new(cluster, programs);
        if streams == Streams::Secured {
            let authority = Authority::generate("ours").unwrap();
            secured::certify(&stage, &authority);
            secured::trust(&stage, &authority.pem());
        }
        let prometheus = Store::prometheus(cluster).unwrap();
        let recorder = HttpSink::start(cluster, RECORDER_PORT).unwrap();
        init_nodes(cluster, &programs.collector).unwrap();
        let mut first = contender(&stage, &prometheus, &recorder, streams, &FIRST);
        first.wait_ready(READY_WITHIN).unwrap();
        wait_lead(&first, 1);
        let mut second = contender(&stage, &prometheus, &recorder, streams, &SECOND);
        second.wait_ready(READY_WITHIN).unwrap();
        let start = |node: &'static Node| {
            let flags = match streams {
                Streams::Plain => Vec::new(),
                Streams::Secured => secured::collector_flags(&stage, node),
            };
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            Daemon::collector(cluster, &programs.collector, node.name, &flags).unwrap()
        };
        let mut collectors: Vec<_> = const { &NODES }.iter().map(start).collect();
        for collector in &mut collectors {
            collector.wait_ready(READY_WITHIN).unwrap();
        }
        wait_followed(&first);
        assert_eq!([lead(&first), lead(&second)], [1, 0]);
        let load = Some(Load::start(cluster, &programs.testbed, &gentle_plans()).unwrap());
        let ingestion = Ingestion::new(cluster).unwrap();
        thread::sleep(seconds(8));
        Self { name, streams, stage, prometheus, recorder, ingestion, first, second, collectors, load }
    }

    /// Until the first has something that the recorder did not take.
    fn wait_held(&self) {
        wait_for("bytes held for the recorder", SETTLED_WITHIN, || {
            let held = self.first.metric("egressd_exporter_sink_held_bytes", &[("sink", "recorder")])?;
            let failed = [("sink", "recorder"), ("outcome", "not_connected")];
            let failed = self.first.metric("egressd_exporter_sink_pushes_total", &failed)?;
            let is_held = held.is_some_and(|held| held > 0) && failed.is_some_and(|failed| failed > 0);
            Ok(if is_held { Ok(()) } else { Err(format!("{held:?} {failed:?}")) })
        })
        .unwrap();
    }

    /// Until the second leads and has the collectors; what it took is pushed by then.
    fn wait_taken_over(&self, since: Instant) {
        wait_lead(&self.second, 1);
        self.say(&format!("the second leads {:.1} s after the fault", since.elapsed().as_secs_f32()));
        wait_followed(&self.second);
        self.say(&format!("the collectors are there after {:.1} s", since.elapsed().as_secs_f32()));
        wait_for("a push of the second", SETTLED_WITHIN, || {
            let (_, second) = self.senders();
            Ok(if second.is_empty() { Err("none".to_owned()) } else { Ok(()) })
        })
        .unwrap();
    }

    /// The first ends by itself, as one that has lost the lease, and says so.
    fn check_lost(&mut self, words: &str) {
        let process = self.first.process();
        let status = process.wait(ENDED_WITHIN).unwrap();
        let log = process.log_text().unwrap();
        assert!(!status.success() && log.contains(words), "{status}\n{log}");
    }

    /// What keeps pods running starts the first one again; it stands by.
    fn restart_first(&mut self) {
        self.first = contender(&self.stage, &self.prometheus, &self.recorder, self.streams, &FIRST);
        self.first.wait_ready(READY_WITHIN).unwrap();
        thread::sleep(2 * LEASE_DURATION);
        assert_eq!([lead(&self.first), lead(&self.second)], [0, 1]);
    }

    /// When the pushes of each arrived.
    fn senders(&self) -> (Vec<Instant>, Vec<Instant>) {
        let requests = self.recorder.requests();
        let arrivals = self.recorder.arrivals();
        let by = |name: &str| {
            let of_sender = requests.iter().zip(&arrivals);
            let of_sender = of_sender.filter(|(request, _)| request.header("x-exporter") == Some(name));
            of_sender.map(|(_, at)| *at).collect()
        };
        (by(FIRST.name), by(SECOND.name))
    }

    fn maybe_twice(&self) -> u64 {
        self.collectors.iter().map(|one| one.metric(MAYBE_TWICE, &[]).unwrap().unwrap()).sum()
    }

    /// What each destination has, against the truth.
    fn compare(&mut self, truth: &Flows) -> Result<[Comparison; 2], egressd_testbed::Error> {
        let series = self.prometheus.series(ALL_SAMPLES, None)?;
        let stored = flows_by(Series::increments, &series)?;
        let told = self.ingestion.flows(&self.recorder)?;
        Ok([Comparison::of(truth, &stored), Comparison::of(truth, told)])
    }

    /// Ends the traffic and checks that nothing is missing, that no more is there twice than is counted so, and that no
    /// two pushed at one time; then the second is stopped, and the first leads at once.
    fn finish(mut self) {
        self.load.take().unwrap().finish().unwrap();
        let truth = self.stage.cluster.truth().unwrap();
        let maybe_twice = self.maybe_twice();
        let settled = wait_for("every byte, and no more than is counted", SETTLED_WITHIN, || {
            let comparisons = self.compare(&truth)?;
            let faults: Vec<String> = comparisons.iter().flat_map(|one| faults(one, maybe_twice)).collect();
            Ok(if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) })
        });
        settled.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log_tails()));
        for (collector, lost) in self.collectors.iter().flat_map(|one| LOSSES.map(|lost| (one, lost))) {
            if lost != MAYBE_TWICE {
                assert_eq!(collector.metric(lost, &[]).unwrap(), Some(0), "{lost}");
            }
        }
        for daemon in self.collectors.iter_mut().chain([&mut self.second]) {
            daemon.end().unwrap();
        }
        wait_lead(&self.first, 1);
        self.check_senders();
        let [stored, told] = self.compare(&truth).unwrap().map(|one| one.difference_bytes());
        self.say(&format!(
            "{} flows, tx {} B; maybe twice {maybe_twice} B; twice in Prometheus {stored} B, in the cost API {told} B",
            truth.0.len(),
            truth.total().tx_bytes
        ));
        assert!(truth.0.len() >= 8 && stored.max(told) <= maybe_twice);
        self.first.end().unwrap();
        let lease = self.stage.api.get(Resource::Leases, NAMESPACE, LEASE).unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], serde_json::Value::Null, "it was given back");
    }

    fn check_senders(&self) {
        let (first, second) = self.senders();
        let (last, next) = (*first.last().unwrap(), *second.first().unwrap());
        self.say(&format!(
            "{} pushes of the first, {} of the second, {:.1} s between them",
            first.len(),
            second.len(),
            next.saturating_duration_since(last).as_secs_f32()
        ));
        assert!(last < next, "the first pushed after the second had begun");
    }

    fn log_tails(&mut self) -> String {
        let daemons = self.collectors.iter_mut().chain([&mut self.first, &mut self.second]);
        daemons.map(|daemon| format!("{}\n", daemon.process().log_tail())).collect()
    }

    fn say(&self, text: &str) {
        println!("{}: {text}", self.name);
    }
}

/// What is missing, and what is there beyond what is counted.
fn faults(comparison: &Comparison, maybe_twice: u64) -> Vec<String> {
    let is_short =
        |row: &&Row| row.exported.tx_bytes < row.truth.tx_bytes || row.exported.rx_bytes < row.truth.rx_bytes;
    let line = |row: &Row| format!("{}: truth {:?}, exported {:?}", row.key, row.truth, row.exported);
    let mut faults: Vec<String> = comparison.rows.iter().filter(is_short).map(line).collect();
    let beyond = comparison.difference_bytes();
    if faults.is_empty() && beyond > maybe_twice {
        faults.push(format!("{beyond} B too many, {maybe_twice} B are counted"));
    }
    faults
}

/// In the control namespace.
pub(crate) fn nft(cluster: &Cluster, rules: &str) {
    let mut command = Command::new("nft");
    command.arg(rules);
    cluster.run(CONTROL, command).unwrap();
}

/// The service over both exporters, and the way to the API that can be cut.
fn service_rules() -> String {
    let [one, two] = [FIRST.grpc_port, SECOND.grpc_port];
    format!(
        "table inet elected {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    tcp dport {GRPC_PORT} redirect to :numgen inc mod 2 map {{ 0 : {one}, 1 : {two} }}
  }}
  chain output {{
    type nat hook output priority -100;
    tcp dport {API_PORT_TO_CUT} redirect to :{API_PORT}
  }}
}}"
    )
}

/// Before the translation, so that connections which are open are cut too.
fn cut_rules() -> String {
    format!(
        "table inet no_api {{
  chain output {{
    type filter hook output priority raw;
    tcp dport {API_PORT_TO_CUT} drop
  }}
}}"
    )
}

fn contender<'c>(
    stage: &Stage<'c>,
    prometheus: &Store<'_>,
    recorder: &HttpSink,
    streams: Streams,
    contender: &Contender,
) -> Daemon<'c> {
    let (cluster, name) = (stage.cluster, contender.name);
    let config = format!(
        "exportInterval: 1s
sinks:
  prom: {{ prom_remote_write: {{ url: '{}', sendReceivedBytesMetric: true }} }}
  recorder: {{ http: {{ url: '{}/', headers: {{ X-Exporter: {name} }} }} }}
",
        prometheus.write_url(),
        recorder.url()
    );
    let kubeconfig =
        stage.api.kubeconfig().replace(&format!(":{API_PORT}"), &format!(":{}", contender.api_port));
    let config = cluster.write_file(&format!("{name}.yaml"), &config).unwrap();
    let kubeconfig = cluster.write_file(&format!("kubeconfig-{name}.yaml"), &kubeconfig).unwrap();
    let mut command = Command::new(&stage.programs.exporter);
    command.arg("run").arg("--config-path").arg(config).arg("--kubeconfig").arg(kubeconfig);
    command.args(["--grpc-listen-port", &contender.grpc_port.to_string()]);
    command.args(["--http-listen-port", &contender.http_port.to_string()]);
    command.args([
        "--flows-listen",
        "",
        "--leader-elect",
        "--lease-namespace",
        NAMESPACE,
        "--pod-name",
        name,
    ]);
    if streams == Streams::Secured {
        command.args(secured::exporter_flags(cluster));
    }
    command.args(["--lease-duration", &format!("{}s", LEASE_DURATION.as_secs())]);
    command.args(["--advertise-address", &format!("{}:{}", CONTROL_ADDRESSES.v4, contender.grpc_port)]);
    let control = cluster.namespace(CONTROL).unwrap();
    Daemon::start(control, &cluster.directory(), name, command, contender.http_port).unwrap()
}

fn lead(exporter: &Daemon<'_>) -> u64 {
    exporter.metric("egressd_exporter_leader", &[]).unwrap().unwrap()
}

fn wait_lead(exporter: &Daemon<'_>, expected: u64) {
    wait_for("a leader", READY_WITHIN, || {
        let found = exporter.metric("egressd_exporter_leader", &[])?;
        Ok(if found == Some(expected) { Ok(()) } else { Err(format!("{found:?}")) })
    })
    .unwrap();
}

fn wait_followed(exporter: &Daemon<'_>) {
    wait_for("both collectors", FOLLOWED_WITHIN, || {
        let streams = exporter.metric("egressd_exporter_nodes_connected", &[])?;
        Ok(if streams == Some(2) { Ok(()) } else { Err(format!("{streams:?}")) })
    })
    .unwrap();
}

/// Goal: when the leader is killed the other takes over, and nothing is missing or twice beyond what is counted.
#[test]
fn a_leader_that_is_killed_is_followed() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let mut takeover = Takeover::start("leader killed", &cluster, &programs);
    takeover.first.process().kill().unwrap();
    takeover.wait_taken_over(now());
    takeover.restart_first();
    takeover.finish();
}

/// Goal: the same with TLS and tokens: a collector that is sent on, or follows, asks for the Service's name wherever it is
/// sent, and shows each exporter its token.
#[test]
fn a_leader_that_is_killed_is_followed_with_tls_and_tokens() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let name = "leader killed, secured";
    let mut takeover = Takeover::start_with(Streams::Secured, name, &cluster, &programs);
    let reviews =
        |exporter: &Daemon<'_>| exporter.metric("egressd_exporter_tokens_reviews_total", &[]).unwrap();
    assert_eq!(reviews(&takeover.first), Some(2), "one for each collector");
    let before = reviews(&takeover.second);
    takeover.first.process().kill().unwrap();
    takeover.wait_taken_over(now());
    assert!(
        reviews(&takeover.second) >= Some(2),
        "it had {before:?}, and knows what the first knew by itself"
    );
    takeover.restart_first();
    takeover.finish();
}

/// Goal: a leader that was frozen for longer than its lease, with pushes that are due, pushes nothing on waking, and
/// ends.
#[test]
fn a_leader_that_was_frozen_pushes_nothing_on_waking() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let mut takeover = Takeover::start("leader frozen", &cluster, &programs);
    takeover.recorder.go_away();
    takeover.wait_held();
    takeover.first.process().freeze().unwrap();
    takeover.recorder.come_back().unwrap();
    takeover.wait_taken_over(now());
    takeover.first.process().thaw().unwrap();
    takeover.check_lost("the lease could not be renewed in time");
    takeover.restart_first();
    takeover.finish();
}

/// Goal: a leader that cannot reach the API stops before another takes over, and sends its collectors away.
#[test]
fn a_leader_cut_off_from_the_api_lets_go_in_time() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let mut takeover = Takeover::start("leader cut off", &cluster, &programs);
    nft(&cluster, &cut_rules());
    let cut = now();
    takeover.check_lost("the lease could not be renewed in time");
    takeover.wait_taken_over(cut);
    nft(&cluster, "delete table inet no_api");
    takeover.restart_first();
    takeover.finish();
}
