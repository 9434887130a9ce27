//! One run: a cluster, both daemons, four destinations at once, traffic, and the checks that every run ends with.
//!
//! Whatever fails, fails by a panic, and the panic is followed by the ends of the daemons' logs.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use egressd_testbed::topology::{NODES, Node};
use egressd_testbed::traffic::{Kind, Plan};
use egressd_testbed::{
    Books, Cluster, Comparison, Daemon, Daemons, Error, Flows, HttpSink, Ingestion, Load, Programs, Request,
    Row, Series, Store, Usage, Volume, flows_by, init_nodes, now, recorded, standard_plans, wait_for,
};

const COST_API_PORT: u16 = 8090;
const RECORDER_PORT: u16 = 8091;
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The place, among the collectors and among all daemons, of the collector that may be killed.
const KILLED: usize = 0;
/// That nobody collects after a collector's kill.
const DOWN: Duration = Duration::from_millis(500);
/// After the end of the traffic: a collector dials again within 30 s, a sink tries again within 30 s.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// The exporter looks at it every 10 s.
const CONFIG_WITHIN: Duration = Duration::from_secs(30);
const BALANCED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks that cost more than a request on loopback.
const LOOK: Duration = Duration::from_millis(250);

/// Every sample of the product's series so far, whatever their metric: one that should not be there is an error.
pub(crate) const ALL_SAMPLES: &str = r#"{__name__=~"egressd_.*_bytes_total"}[1h]"#;

pub(crate) const CLUSTER_ID: &str = "7f9d1c1e";
pub(crate) const API_KEY: &str = "key-of-the-test";

/// What the recorder's requests are to carry.
pub(crate) const TENANT: &str = "tenant-of-the-test";

/// The destinations as a user writes them down.
fn config(
    prometheus: &Store<'_>,
    victoria_metrics: &Store<'_>,
    cost_api: &HttpSink,
    recorder: &HttpSink,
) -> String {
    format!(
        "exportInterval: 2s
sinks:
  castai:
    http:
      url: \"{}/v1/kubernetes/clusters/${{CLUSTER_ID}}/egressd-metrics\"
      method: POST
      compression: gzip
      encoding: protobuf
      timeout: 30s
      headers: {{ X-API-Key: \"${{API_KEY}}\" }}
  prom:
    prom_remote_write:
      url: \"{}\"
      labels: {{ team: core }}
      sendReceivedBytesMetric: true
  recorder:
    prom_remote_write:
      url: \"{}/api/v1/push\"
      timeout: 31s
      headers: {{ X-Scope-OrgID: {TENANT}, Authorization: \"Bearer ${{API_KEY}}\" }}
      sendReceivedBytesMetric: true
  victoria:
    prom_remote_write:
      url: \"{}\"
      labels: {{ Site: lab, team: other }}
",
        cost_api.url(),
        prometheus.write_url(),
        recorder.url(),
        victoria_metrics.write_url()
    )
}

/// The standard traffic at a quarter of its pace, for runs of minutes: every kind, short connections throughout.
pub(crate) fn gentle_plans() -> Vec<(&'static str, Plan)> {
    let mut plans = standard_plans(None);
    for item in plans.iter_mut().flat_map(|(_, plan)| &mut plan.items) {
        item.pause_ms *= 4;
    }
    plans
}

/// The same without connections that are reset: every entry outlives its last packet by 30 s or more, so that none ends
/// in the first half minute, and what one counted while nobody collected can be read afterwards.
pub(crate) fn lasting_plans() -> Vec<(&'static str, Plan)> {
    let mut plans = gentle_plans();
    for (_, plan) in &mut plans {
        plan.items.retain(|item| item.kind != Kind::TcpRst);
    }
    plans
}

/// What a daemon that is killed leaves to its next life.
pub(crate) enum Keeps {
    /// Nothing, so each has to stop in good order.
    Nothing,
    /// The exporter its spool, in this directory.
    Spool(PathBuf),
    /// The collectors their states, and little else: of batches that the exporter has taken and its sinks have not, so
    /// many bytes.
    States {
        /// The flag's value.
        window_taken_bytes_max: &'static str,
    },
}

impl Keeps {
    fn spool(&self) -> Option<&Path> {
        if let Self::Spool(directory) = self { Some(directory) } else { None }
    }

    /// The place, among all daemons, of the one that may be killed.
    const fn resumed(&self) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Spool(_) => Some(NODES.len()),
            Self::States { .. } => Some(KILLED),
        }
    }

    fn start_collector<'c>(
        &self,
        cluster: &'c Cluster,
        programs: &Programs,
        node: &'static str,
    ) -> Daemon<'c> {
        let state = cluster.directory().join(format!("state-{node}"));
        let state = state.to_string_lossy();
        let flags = match self {
            Self::Nothing | Self::Spool(_) => vec![],
            Self::States { window_taken_bytes_max } => {
                vec!["--state-dir", &*state, "--window-taken-bytes-max", window_taken_bytes_max]
            }
        };
        Daemon::collector(cluster, &programs.collector, node, &flags).unwrap()
    }
}

/// Truth against what each destination has.
pub(crate) struct Outcome {
    prometheus: Comparison,
    /// Of what was sent; it is not told what was received.
    victoria_metrics: Comparison,
    cost_api: Comparison,
}

impl Outcome {
    /// The flows that differ, packets included where the destination is told them; empty when none does.
    fn differences(&self) -> Vec<String> {
        let stores = [("prometheus", &self.prometheus), ("victoria-metrics", &self.victoria_metrics)];
        let stores = stores.into_iter().flat_map(|(place, comparison)| {
            let rows = comparison.rows.iter().filter(|row| row.difference_bytes() > 0);
            rows.map(move |row| (place, row))
        });
        let rows = self.cost_api.rows.iter();
        let rows = rows.filter(|row| row.difference_bytes() + row.difference_packets() > 0);
        let line = |(place, row): (_, &Row)| {
            format!("{place}: {}: truth {:?}, exported {:?}", row.key, row.truth, row.exported)
        };
        stores.chain(rows.map(|row| ("cost API", row))).map(line).collect()
    }
}

/// A run.
pub(crate) struct Harness<'c> {
    name: &'static str,
    began: Instant,
    cluster: &'c Cluster,
    programs: Programs,
    config: String,
    keeps: Keeps,
    /// Bytes that the exporters before this one counted as ambiguous at the cost API.
    ambiguous_before: u64,
    pub(crate) prometheus: Store<'c>,
    pub(crate) victoria_metrics: Store<'c>,
    pub(crate) cost_api: HttpSink,
    /// A receiver of remote write that keeps requests as they came.
    pub(crate) recorder: HttpSink,
    pub(crate) ingestion: Ingestion<'c>,
    pub(crate) daemons: Daemons<'c>,
    load: Option<Load>,
}

impl<'c> Harness<'c> {
    /// Starts everything, the traffic last.
    pub(crate) fn start(name: &'static str, cluster: &'c Cluster, plans: &[(&'static str, Plan)]) -> Self {
        Self::start_keeping(name, cluster, plans, Keeps::Nothing)
    }

    /// The same, with daemons that may be killed.
    pub(crate) fn start_keeping(
        name: &'static str,
        cluster: &'c Cluster,
        plans: &[(&'static str, Plan)],
        keeps: Keeps,
    ) -> Self {
        let (began, programs) = (now(), Programs::beside_current_exe().unwrap());
        let prometheus = Store::prometheus(cluster).unwrap();
        let victoria_metrics = Store::victoria_metrics(cluster).unwrap();
        let cost_api = HttpSink::start(cluster, COST_API_PORT).unwrap();
        let recorder = HttpSink::start(cluster, RECORDER_PORT).unwrap();
        let config = config(&prometheus, &victoria_metrics, &cost_api, &recorder);
        let daemons = start_daemons(cluster, &programs, &config, &keeps);
        let mut ingestion = Ingestion::new(cluster).unwrap();
        if !matches!(keeps, Keeps::Nothing) {
            ingestion.tell_repeats_apart();
        }
        let load = Some(Load::start(cluster, &programs.testbed, plans).unwrap());
        Self {
            name,
            began,
            cluster,
            programs,
            config,
            keeps,
            ambiguous_before: 0,
            prometheus,
            victoria_metrics,
            cost_api,
            recorder,
            ingestion,
            daemons,
            load,
        }
    }

    /// Lets time pass in which everything that was not told to end must run.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = now() + time;
        while now() < end {
            self.daemons.check_running().unwrap();
            self.load.as_mut().unwrap().check_running().unwrap();
            thread::sleep(LOOK.min(end.saturating_duration_since(now())));
        }
    }

    /// SIGTERM to the exporter. Its status is 0 only when everything it took was let out within its grace.
    pub(crate) fn stop_exporter(&mut self) {
        self.say_usage("exporter, first life", self.daemons.exporter.usage().unwrap());
        let asked = now();
        self.daemons.exporter.end().unwrap();
        self.say(&format!("the exporter ended within {:.1} s", asked.elapsed().as_secs_f32()));
    }

    /// The same command again.
    pub(crate) fn start_exporter(&mut self) {
        let Self { cluster, programs, config, keeps, .. } = self;
        self.daemons.exporter = start_exporter(cluster, programs, config, keeps);
    }

    /// SIGKILL to the exporter, and the same command again.
    pub(crate) fn kill_exporter(&mut self) {
        self.ambiguous_before += self.ambiguous();
        self.daemons.exporter.process().kill().unwrap();
        self.start_exporter();
    }

    /// SIGKILL to the first node's collector amid its stream, and the same command again, which must go on from what was
    /// kept.
    pub(crate) fn kill_collector(&mut self) {
        let connected = "egressd_collector_window_connected";
        assert_eq!(self.collector_metric(NODES[KILLED].name, connected), 1);
        let Self { cluster, programs, keeps, .. } = self;
        self.daemons.collectors[KILLED].process().kill().unwrap();
        thread::sleep(DOWN);
        let mut next = keeps.start_collector(cluster, programs, NODES[KILLED].name);
        next.wait_ready(READY_WITHIN).unwrap();
        assert!(next.process().log_text().unwrap().contains("going on from a checkpoint"));
        self.daemons.collectors[KILLED] = next;
    }

    fn ambiguous(&self) -> u64 {
        let metric = "egressd_exporter_sink_ambiguous_bytes_total";
        self.daemons.exporter.metric(metric, &[("sink", "castai")]).unwrap().unwrap_or(0)
    }

    /// The sum of a metric of the exporter.
    pub(crate) fn exporter_metric(&self, name: &str) -> u64 {
        self.daemons.exporter.metric(name, &[]).unwrap().unwrap_or(0)
    }

    /// Changes the configuration while the exporter runs, and waits until it is in use.
    pub(crate) fn change_config(&mut self, changes: &[(&str, &str)]) {
        for (from, to) in changes {
            assert!(self.config.contains(from), "{from}");
            self.config = self.config.replace(from, to);
        }
        let loaded = || self.daemons.exporter.metric("egressd_exporter_config_loaded_seconds", &[]);
        let before = loaded().unwrap();
        Daemon::rewrite_config(self.cluster, &self.config).unwrap();
        wait_for("the changed configuration", CONFIG_WITHIN, || {
            Ok(if loaded()? > before { Ok(()) } else { Err("the one before is in use".to_owned()) })
        })
        .unwrap();
    }

    /// Every sample that Prometheus has of the product's series.
    pub(crate) fn series(&self) -> Result<Vec<Series>, Error> {
        self.prometheus.series(ALL_SAMPLES, None)
    }

    /// What Prometheus has, by last value or by increments.
    pub(crate) fn in_prometheus(&self, bytes: fn(&Series) -> u64) -> Flows {
        flows_by(bytes, &self.series().unwrap()).unwrap()
    }

    /// What the cost API has accepted.
    pub(crate) fn in_cost_api(&mut self) -> &Flows {
        self.ingestion.flows(&self.cost_api).unwrap()
    }

    /// The recorder's requests as they came, and the series in them.
    pub(crate) fn recorded(&self) -> (Vec<Request>, Vec<Series>) {
        (self.recorder.requests(), recorded(self.cluster, &self.recorder).unwrap())
    }

    /// Truth against the destinations that every run asks, now.
    pub(crate) fn compare(&mut self, bytes: fn(&Series) -> u64) -> Result<(Flows, Outcome), Error> {
        let truth = self.cluster.truth()?;
        let prometheus = Comparison::of(&truth, &flows_by(bytes, &self.series()?)?);
        let series = self.victoria_metrics.series(ALL_SAMPLES, None)?;
        let victoria_metrics = Comparison::of(&only_sent(&truth), &flows_by(bytes, &series)?);
        let cost_api = Comparison::of(&truth, self.ingestion.flows(&self.cost_api)?);
        Ok((truth, Outcome { prometheus, victoria_metrics, cost_api }))
    }

    /// The sum of a metric of the collector of `node`.
    pub(crate) fn collector_metric(&self, node: &str, name: &str) -> u64 {
        self.daemons.collector(node).unwrap().metric(name, &[]).unwrap().unwrap()
    }

    /// Attempts of a sink that ended so.
    pub(crate) fn pushes(&self, sink: &str, outcome: &str) -> u64 {
        let labels = [("sink", sink), ("outcome", outcome)];
        self.daemons.exporter.metric("egressd_exporter_sink_pushes_total", &labels).unwrap().unwrap_or(0)
    }

    /// Ends the traffic, waits for the last byte to arrive everywhere, checks the daemons' books, ends the daemons and
    /// compares once more. Gives the truth.
    pub(crate) fn finish(&mut self, bytes: fn(&Series) -> u64) -> Flows {
        let traffic = self.began.elapsed();
        self.load.take().unwrap().finish().unwrap();
        let ended = now();
        wait_for("equality of truth and every destination", SETTLED_WITHIN, || {
            thread::sleep(LOOK);
            self.daemons.check_running()?;
            let differences = self.compare(bytes)?.1.differences();
            Ok(if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) })
        })
        .unwrap();
        self.say(&format!(
            "traffic until {:.1} s, settled {:.1} s later",
            traffic.as_secs_f32(),
            ended.elapsed().as_secs_f32()
        ));
        self.check_books();
        self.check_doubt();
        for (name, usage) in self.daemons.usage().unwrap() {
            self.say_usage(&name, usage);
        }
        self.daemons.end().unwrap();
        let (truth, outcome) = self.compare(bytes).unwrap();
        self.report(&truth, &outcome);
        assert_eq!(outcome.differences(), [""; 0], "after the daemons' end");
        truth
    }

    /// Every stage accounts for every byte and packet, holds nothing any more, and nothing was lost on the way in.
    fn check_books(&self) {
        wait_for("balanced and empty books", BALANCED_WITHIN, || {
            let books = self.daemons.all().map(Daemon::books).collect::<Result<Vec<_>, _>>()?;
            let books = books.iter().enumerate();
            let faults =
                books.flat_map(|(place, books)| faults_in(books, self.keeps.resumed() == Some(place)));
            let faults: Vec<_> = faults.collect();
            Ok(if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) })
        })
        .unwrap();
        let stages = |daemon: &Daemon<'_>| -> Vec<String> {
            daemon.books().unwrap().into_iter().map(|Books { stage, .. }| stage).collect()
        };
        assert_eq!(stages(&self.daemons.exporter), EXPORTER_STAGES);
        for collector in &self.daemons.collectors {
            assert_eq!(stages(collector), COLLECTOR_STAGES);
            for lost in LOSSES {
                assert_eq!(collector.metric(lost, &[]).unwrap(), Some(0), "{lost}");
            }
        }
    }

    /// What came twice to the cost API was counted as ambiguous by the exporter that sent it again.
    fn check_doubt(&self) {
        let twice = self.ingestion.repeated().total();
        let ambiguous = self.ambiguous_before + self.ambiguous();
        if !matches!(self.keeps, Keeps::Nothing) {
            let collectors = NODES.iter().map(|node| self.collector_metric(node.name, MAYBE_TWICE));
            self.say(&format!(
                "the cost API got {} B twice; {ambiguous} B are ambiguous, {} B maybe twice",
                twice.tx_bytes + twice.rx_bytes,
                collectors.sum::<u64>()
            ));
        }
        assert!(twice.tx_bytes + twice.rx_bytes <= ambiguous, "{twice:?} {ambiguous}");
    }

    /// No total is ever lower than before, at either store.
    pub(crate) fn check_never_backwards(&self) {
        for store in [&self.prometheus, &self.victoria_metrics] {
            for series in store.series(ALL_SAMPLES, None).unwrap() {
                let is_rising = series.points.is_sorted_by_key(|point| point.value);
                assert!(is_rising, "{}: {series:?}", store.process().name());
            }
        }
    }

    /// `increase()` over the run says the truth of each series, where it ends on the series' last sample and its range
    /// begins before the zero.
    pub(crate) fn check_increase(&self, truth: &Flows) {
        let mut increases = Vec::new();
        for series in self.series().unwrap() {
            let at = series.points.last().unwrap().at;
            let labels: Vec<_> =
                series.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let expression = format!("increase({}{{{}}}[1h])", series.name, labels.join(","));
            let found = self.prometheus.series(&expression, Some(at)).unwrap();
            increases.extend(found.into_iter().map(|one| Series { name: series.name.clone(), ..one }));
        }
        let sums = flows_by(Series::last_value, &increases).unwrap();
        let difference = Comparison::of(truth, &sums).difference_bytes();
        self.say(&format!("increase() of {} series, difference {difference} B", increases.len()));
        assert_eq!(difference, 0, "{truth:#?} {sums:#?}");
    }

    fn report(&self, truth: &Flows, outcome: &Outcome) {
        let line = |place: &str, Volume { tx_bytes, tx_packets, rx_bytes, rx_packets }: Volume| {
            format!("{place:<16} tx {tx_bytes} B {tx_packets} packets, rx {rx_bytes} B {rx_packets} packets")
        };
        let exported = |comparison: &Comparison| {
            let mut sum = Volume::default();
            comparison.rows.iter().for_each(|row| sum += row.exported);
            sum
        };
        let Outcome { prometheus, victoria_metrics, cost_api } = outcome;
        self.say(&format!("{} flows in {:.1} s", truth.0.len(), self.began.elapsed().as_secs_f32()));
        self.say(&line("truth", truth.total()));
        for (place, comparison) in [("prometheus", prometheus), ("victoria-metrics", victoria_metrics)] {
            let difference = comparison.difference_bytes();
            self.say(&format!("{}, difference {difference} B", line(place, exported(comparison))));
        }
        let (bytes, packets) = (cost_api.difference_bytes(), cost_api.difference_packets());
        let exported = line("cost API", exported(cost_api));
        self.say(&format!("{exported}, difference {bytes} B {packets} packets"));
    }

    fn say_usage(&self, name: &str, Usage { cpu, rss_peak_bytes }: Usage) {
        let kib = rss_peak_bytes / 1024;
        self.say(&format!("{name}: {:.2} s CPU, {kib} KiB peak memory", cpu.as_secs_f64()));
    }

    /// A figure of this run; cargo test shows it with `--nocapture`.
    pub(crate) fn say(&self, text: &str) {
        println!("{}: {text}", self.name);
    }
}

/// All daemons, ready.
fn start_daemons<'c>(cluster: &'c Cluster, programs: &Programs, config: &str, keeps: &Keeps) -> Daemons<'c> {
    init_nodes(cluster, &programs.collector).unwrap();
    let exporter = start_exporter(cluster, programs, config, keeps);
    let start = |node: &Node| keeps.start_collector(cluster, programs, node.name);
    let mut daemons = Daemons { exporter, collectors: const { &NODES }.iter().map(start).collect() };
    daemons.all_mut().for_each(|daemon| daemon.wait_ready(READY_WITHIN).unwrap());
    daemons
}

fn start_exporter<'c>(cluster: &'c Cluster, programs: &Programs, config: &str, keeps: &Keeps) -> Daemon<'c> {
    Daemon::exporter_keeping(cluster, &programs.exporter, config, ENVIRONMENT, keeps.spool()).unwrap()
}

/// The truth for a destination that is told only what was sent.
fn only_sent(truth: &Flows) -> Flows {
    let sent = |volume: &Volume| Volume { rx_bytes: 0, rx_packets: 0, ..*volume };
    Flows(truth.0.iter().map(|(key, volume)| (key.clone(), sent(volume))).collect())
}

/// What is unaccounted for in a daemon's books after the traffic, within a stage and from one to the next. A sink or a
/// window that goes on takes in again what the life before had not passed.
fn faults_in(books: &[Books], is_resumed: bool) -> Vec<String> {
    // The meter holds the stream's own far end until a scope is a minute newer; followers of flows may ask for an hour.
    let is_settled = |books: &Books| books.are_empty() || [METER, FLOWS].contains(&books.stage.as_str());
    let unsettled = books.iter().filter(|books| !books.balance() || !is_settled(books));
    let find = |name: &str| books.iter().find(|books| books.stage == name);
    let is_compared =
        |(from, to): &&(&str, &str)| !is_resumed || *from == LEDGER || [FLOWS, SCRAPE].contains(to);
    let pairs = HANDED_OVER.iter().filter(is_compared);
    let pairs = pairs.filter_map(|(from, to)| find(from).zip(find(to)));
    let emitted = |books: &Books| (books.bytes.emitted, books.packets.emitted);
    let received = |books: &Books| (books.bytes.received, books.packets.received);
    let apart = pairs.filter(|(from, to)| emitted(from) != received(to));
    unsettled.map(|books| format!("{books:?}")).chain(apart.map(|pair| format!("{pair:?}"))).collect()
}

impl Drop for Harness<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}:\n{}", self.name, self.daemons.log_tails());
            for store in [&self.prometheus, &self.victoria_metrics] {
                println!("{}:\n{}", store.process().name(), store.process().log_tail());
            }
        }
    }
}

const ENVIRONMENT: &[(&str, &str)] = &[("CLUSTER_ID", CLUSTER_ID), ("API_KEY", API_KEY)];

const METER: &str = "egressd_collector_meter";
const WINDOW: &str = "egressd_collector_window";
const LEDGER: &str = "egressd_exporter_ledger";
const ENRICH: &str = "egressd_exporter_enrich";
const FLOWS: &str = "egressd_exporter_flows";
const CASTAI: &str = "egressd_exporter_sink castai";
const PROM: &str = "egressd_exporter_sink prom";
const RECORDER: &str = "egressd_exporter_sink recorder";
const VICTORIA: &str = "egressd_exporter_sink victoria";
const SCRAPE: &str = "egressd_exporter_sink scrape";
const COLLECTOR_STAGES: [&str; 2] = [METER, WINDOW];
const EXPORTER_STAGES: [&str; 8] = [ENRICH, FLOWS, LEDGER, CASTAI, PROM, RECORDER, SCRAPE, VICTORIA];
/// What one lets out the other takes in, within a daemon.
const HANDED_OVER: [(&str, &str); 8] = [
    (METER, WINDOW),
    (LEDGER, ENRICH),
    (ENRICH, FLOWS),
    (ENRICH, CASTAI),
    (ENRICH, PROM),
    (ENRICH, RECORDER),
    (ENRICH, SCRAPE),
    (ENRICH, VICTORIA),
];
/// Of a collector: what would make its figures less than exact.
pub(crate) const LOSSES: [&str; 4] = [
    "egressd_collector_conntrack_lost_ends_total",
    "egressd_collector_conntrack_malformed_rows_total",
    "egressd_collector_meter_not_admitted_total",
    MAYBE_TWICE,
];
const MAYBE_TWICE: &str = "egressd_collector_window_maybe_twice_bytes_total";
