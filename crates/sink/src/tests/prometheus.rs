//! Against a real Prometheus: Debian's, which takes remote write 1.0 and checks what it is sent.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use reqwest::{Client, Url};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::push::install_provider;
use super::*;
use crate::config::SinkConfig;
use crate::driver::{Clock, Report, Sink, run, system_clock};
use crate::metrics::SinkMetrics;

const SERIES: &str = "egressd_transmit_bytes_total";
const FLOW: &str = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp";

/// What is waited for at most: a Prometheus that starts, or a push that arrives.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Prometheus, stopped with the test.
struct Prometheus {
    process: Child,
    url: String,
    client: Client,
    _data: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("prometheus runs until it is stopped");
    }
}

impl Prometheus {
    async fn start() -> Self {
        install_provider();
        let data = TempDir::new().unwrap();
        let config = data.path().join("prometheus.yml");
        std::fs::write(&config, "global: { scrape_interval: 1h }\n").unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .arg("--web.enable-remote-write-receiver")
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (Debian: prometheus)");
        let client = Client::builder().no_proxy().build().unwrap();
        let prometheus = Self { process, url: format!("http://{free}"), client, _data: data };
        let ready = format!("{}/-/ready", prometheus.url);
        eventually(async || prometheus.client.get(&ready).send().await.is_ok_and(|r| r.status() == 200))
            .await;
        prometheus
    }

    /// The result of an instant query at a time in milliseconds.
    async fn query(&self, query: &str, at_ms: i64) -> Vec<Value> {
        let at = format!("{}.{:03}", at_ms / 1000, at_ms % 1000);
        let url = format!("{}/api/v1/query", self.url);
        let url = Url::parse_with_params(&url, [("query", query), ("time", &at)]).unwrap();
        let body = self.client.get(url).send().await.unwrap().bytes().await.unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// The one series' samples within two hours before a time: milliseconds and value.
    async fn samples(&self, at_ms: i64) -> Vec<(i64, u64)> {
        let result = self.query(&format!("{SERIES}[2h]"), at_ms).await;
        let [series] = result.as_slice() else { panic!("one series, not {result:?}") };
        let sample = |pair: &Value| {
            let ms = (pair[0].as_f64().unwrap() * 1000.0).round();
            (format!("{ms}").parse().unwrap(), pair[1].as_str().unwrap().parse().unwrap())
        };
        series["values"].as_array().unwrap().iter().map(sample).collect()
    }

    /// The one value of an instant query.
    async fn value(&self, query: &str, at_ms: i64) -> Option<String> {
        let result = self.query(query, at_ms).await;
        assert!(result.len() <= 1, "{result:?}");
        Some(result.first()?["value"][1].as_str()?.to_owned())
    }

    fn sink(&self, interval: Duration, clock: Clock) -> Sink {
        self.sink_with("", interval, clock)
    }

    fn sink_with(&self, keys: &str, interval: Duration, clock: Clock) -> Sink {
        let url = &self.url;
        let yaml =
            format!("prom_remote_write: {{ url: '{url}/api/v1/write', labels: {{ team: a }} {keys} }}");
        let raw = serde_saphyr::from_str(&yaml).unwrap();
        let config = SinkConfig::new("prom", raw, Some(interval), &|_| None).unwrap();
        Sink::new(config, &SinkMetrics::register(&mut Registry::default()), clock).unwrap().0
    }
}

async fn eventually(holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn ms(instant: UnixNanos) -> i64 {
    i64::try_from(instant.as_millis()).unwrap()
}

/// Goal: a sink that lives and ends, and its successor that begins from nothing, are stored as zero and total twice,
/// with the labels of the contract; `increase()` over both is every byte, the restart being a counter reset.
#[tokio::test]
async fn zero_precedes_the_total_and_a_restart_is_a_counter_reset() {
    let prometheus = Prometheus::start().await;
    let before = ms(system_clock()());
    for bytes in [4000, 1000] {
        let sink = prometheus.sink(Duration::from_secs(15), system_clock());
        let (batches, received) = mpsc::channel(1);
        let (accepted, _position) = watch::channel(Position::default());
        batches.send(Arc::new(batch(1, &[&format!("{FLOW} tx={bytes}/1 rx=77/1")]))).await.unwrap();
        drop(batches);
        let report = run(sink, received, accepted, None, CancellationToken::new()).await;
        assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    }
    let samples = prometheus.samples(ms(system_clock()()) + 1000).await;
    let values: Vec<u64> = samples.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, [0, 4000, 0, 1000]);
    assert!(samples[0].0 >= before, "{samples:?}");

    let last = samples[3].0;
    let increase = prometheus.value(&format!("increase({SERIES}[1h])"), last).await;
    assert_eq!(increase.as_deref(), Some("5000"));

    let series = prometheus.query(SERIES, last).await;
    let labels: BTreeMap<&str, &str> = series[0]["metric"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (&**name, value.as_str().unwrap()))
        .collect();
    let expected = BTreeMap::from([
        ("__name__", SERIES),
        ("cross_zone", "true"),
        ("dst_ip", "10.0.1.2"),
        ("dst_ip_type", "private"),
        ("dst_namespace", "pg"),
        ("dst_node", "n2"),
        ("dst_pod", "db"),
        ("dst_zone", "b"),
        ("proto", "TCP"),
        ("src_ip", "10.0.0.1"),
        ("src_namespace", "web"),
        ("src_node", "n1"),
        ("src_pod", "app"),
        ("src_zone", "a"),
        ("team", "a"),
    ]);
    assert_eq!((series.len(), labels), (1, expected));
}

/// Goal: a Prometheus that knows only 1.0, and answers 2.0 as if it were well, is written to by 1.0 from the first
/// request on, and stores what it would have.
#[tokio::test]
async fn prometheus_of_1_0_loses_nothing_by_2_0() {
    let prometheus = Prometheus::start().await;
    let sink = prometheus.sink_with(", protocol: v2", Duration::from_secs(15), system_clock());
    let (batches, received) = mpsc::channel(1);
    let (accepted, _position) = watch::channel(Position::default());
    batches.send(Arc::new(batch(1, &[&format!("{FLOW} tx=4000/1")]))).await.unwrap();
    drop(batches);
    let report = run(sink, received, accepted, None, CancellationToken::new()).await;
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    let samples = prometheus.samples(ms(system_clock()()) + 1000).await;
    assert_eq!(samples.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, 4000]);
}

/// Goal: traffic of unknown direction is stored as a metric of its own, to the byte, and never as transmitted.
#[tokio::test]
async fn undirected_traffic_is_a_metric_of_its_own() {
    let prometheus = Prometheus::start().await;
    let sink = prometheus.sink(Duration::from_secs(15), system_clock());
    let (batches, received) = mpsc::channel(1);
    let (accepted, _position) = watch::channel(Position::default());
    batches.send(Arc::new(batch(1, &[&format!("{FLOW} undirected=30/3")]))).await.unwrap();
    drop(batches);
    let report = run(sink, received, accepted, None, CancellationToken::new()).await;
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    let stored = prometheus.query("{__name__=~\"egressd_.*\"}", ms(system_clock()()) + 1000).await;
    let stored: Vec<_> = stored.iter().map(|one| (&one["metric"]["__name__"], &one["value"][1])).collect();
    assert_eq!(stored, [(&Value::from("egressd_undirected_bytes_total"), &Value::from("30"))]);
}

/// Goal: an idle series repeats, ends by its marker and not by Prometheus' look-back, returns from zero, and loses
/// no byte by it.
#[tokio::test]
async fn idle_series_ends_by_its_marker_and_returns_from_zero() {
    const MINUTE: Duration = Duration::from_mins(1);
    let prometheus = Prometheus::start().await;
    let (start, begun) = (system_clock()().saturating_sub(15 * MINUTE), Instant::now());
    let skipped = Arc::new(AtomicU64::new(0));
    let clock: Clock = {
        let skipped = Arc::clone(&skipped);
        Arc::new(move || {
            let skipped = Duration::from_secs(skipped.load(Ordering::Relaxed));
            start.saturating_add(begun.elapsed() + skipped)
        })
    };
    let skip_to = |minutes: u64| skipped.store(minutes * 60, Ordering::Relaxed);
    let sink = prometheus.sink(Duration::from_millis(50), Arc::clone(&clock));
    let (batches, received) = mpsc::channel(1);
    let (accepted, mut position) = watch::channel(Position::default());
    let sink = tokio::spawn(run(sink, received, accepted, None, CancellationToken::new()));

    batches.send(Arc::new(batch(1, &[&format!("{FLOW} tx=4000/4")]))).await.unwrap();
    position.wait_for(|position| *position == Position(1)).await.unwrap();
    for minutes in [4, 8] {
        skip_to(minutes);
        // Beyond the look-back of 5 minutes from the start there is a value only because it was repeated.
        let repeated = ms(start.saturating_add(u32::try_from(minutes).unwrap() * MINUTE));
        eventually(async || prometheus.samples(ms(clock())).await.iter().any(|(at, _)| *at >= repeated))
            .await;
        assert_eq!(prometheus.value(SERIES, ms(clock())).await.as_deref(), Some("4000"));
    }
    // Two minutes after the last repetition only a marker can end it.
    skip_to(10);
    eventually(async || prometheus.value(SERIES, ms(clock())).await.is_none()).await;

    batches.send(Arc::new(batch(2, &[&format!("{FLOW} tx=7/1")]))).await.unwrap();
    position.wait_for(|position| *position == Position(2)).await.unwrap();
    drop(batches);
    assert!(sink.await.unwrap().held.is_zero());

    let samples = prometheus.samples(ms(clock()) + 1000).await;
    let mut values: Vec<u64> = samples.iter().map(|(_, value)| *value).collect();
    values.dedup();
    assert_eq!(values, [0, 4000, 0, 7]);
    let last = samples.last().unwrap().0;
    assert_eq!(prometheus.value(&format!("increase({SERIES}[1h])"), last).await.as_deref(), Some("4007"));
}
