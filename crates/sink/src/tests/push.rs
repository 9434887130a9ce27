//! Both destinations over real sockets: what is on the wire, and what each kind of answer does.

use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::driver::{books, metric};
use super::failures::Log;
use super::receiver::Reply::{Close, Hang, Status};
use super::receiver::{Receiver, Reply};
use super::*;
use crate::client::Endpoint;
use crate::config::{Access, SinkConfig};
use crate::driver::{Report, Sink, run, system_clock};
use crate::metrics::SinkMetrics;

const RECORD: &str = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2";

/// The TLS provider that a binary's main installs.
pub(crate) fn install_provider() {
    // Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
}

/// Runs a sink over one batch to its end; `yaml` has `URL` in place of the address.
async fn push(yaml: &str, address: SocketAddr, registry: &mut Registry) -> Report {
    install_provider();
    let raw = serde_saphyr::from_str(&yaml.replace("URL", &format!("http://{address}/path"))).unwrap();
    let config = SinkConfig::new("test", raw, None, &|_| None).unwrap();
    let (sink, _controls) = Sink::new(config, &SinkMetrics::register(registry), system_clock()).unwrap();
    let (batches, received) = mpsc::channel(1);
    let (accepted, position) = watch::channel(Position::default());
    batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
    drop(batches);
    let report = run(sink, received, accepted, None, CancellationToken::new()).await;
    assert_eq!(*position.borrow(), report.accepted);
    report
}

const DONE: Report = Report {
    applied: Position(1),
    accepted: Position(1),
    held: Counter { bytes: 0, packets: 0 },
    held_flows: 0,
};

/// Goal: the cost API's request is what its contract says, and after each kind of failure it is sent again
/// unchanged, counted by class, and as ambiguous exactly where it may have been taken.
#[tokio::test]
async fn cost_api_repeats_itself_after_each_kind_of_failure() {
    let cases: [(&str, &[Reply], &str, u64); 7] = [
        ("503, nothing taken", &[Status("503 Service Unavailable")], "server_error", 0),
        ("500, may be taken", &[Status("500 Internal Server Error")], "server_error", 30),
        ("closed after the request was read", &[Close], "broken_off", 30),
        ("no answer", &[Hang], "timed_out", 30),
        ("refused for good", &[Status("403 Forbidden")], "client_error", 0),
        (
            "redirected",
            &[Status("307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/")],
            "unexpected_status",
            0,
        ),
        ("twice ambiguous", &[Close, Close], "broken_off", 60),
    ];
    for (case, script, outcome, ambiguous) in cases {
        let receiver = Receiver::start("127.0.0.1:0", script).await;
        let mut registry = Registry::default();
        let yaml = "http: { url: 'URL', compression: gzip, timeout: 300ms, headers: { X-API-Key: k3y } }";
        assert_eq!(push(yaml, receiver.address, &mut registry).await, DONE, "{case}");
        let requests = receiver.requests();
        assert_eq!(requests.len(), script.len() + 1, "{case}");
        for request in &requests {
            assert_eq!(request.line, "POST /path HTTP/1.1");
            for (name, value) in [
                ("x-api-key", "k3y"),
                ("content-type", "application/protobuf"),
                ("content-encoding", "gzip"),
                ("user-agent", concat!("castai-egressd/v", env!("CARGO_PKG_VERSION"))),
            ] {
                assert_eq!(request.headers[name], value, "{case}");
            }
            assert_eq!(request.body, requests[0].body, "{case}");
        }
        let pushes = format!("outcome=\"{outcome}\"");
        assert_eq!(pushes_of(&registry, &pushes), script.len() as u64, "{case}");
        assert_eq!(metric(&registry, "egressd_exporter_sink_ambiguous_bytes_total"), ambiguous, "{case}");
        assert_eq!(books(&registry, "bytes"), [30, 30, 0, 0], "{case}");
    }
}

/// Attempts with a label.
pub(crate) fn pushes_of(registry: &Registry, label: &str) -> u64 {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("egressd_exporter_sink_pushes_total{"));
    lines
        .filter(|line| line.contains(label))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

/// Goal: the wait that a destination asks for is read off its answer where it is busy or broken, and not where it
/// refuses.
#[tokio::test]
async fn retry_after_is_read_over_a_real_connection() {
    install_provider();
    for (reply, expected) in [
        (Status("429 Too Many Requests\r\nretry-after: 7"), Some(7)),
        (Status("503 Service Unavailable\r\nretry-after: 7"), Some(7)),
        (Status("500 Internal Server Error\r\nretry-after: 7"), Some(7)),
        (Status("400 Bad Request\r\nretry-after: 7"), None),
    ] {
        let receiver = Receiver::start("127.0.0.1:0", &[reply]).await;
        let url = crate::Secret::new(format!("http://{}/", receiver.address).parse().unwrap());
        let timeout = Duration::from_secs(30);
        let endpoint =
            Endpoint::new(Method::POST, url, HeaderMap::new(), timeout, Access::default()).unwrap();
        let answer = endpoint.send(Bytes::from_static(b"body"), seconds(1)).await;
        assert_eq!(answer.retry_after(), expected.map(Duration::from_secs), "{answer:?}");
    }
}

/// Goal: remote write says the zero until it is accepted, then the total, each time at a later timestamp, under the
/// protocol's headers.
#[tokio::test]
async fn remote_write_repeats_the_zero_until_accepted() {
    let script = [Status("503 Service Unavailable"), Close, Status("200 OK"), Status("403 Forbidden")];
    let receiver = Receiver::start("127.0.0.1:0", &script).await;
    let mut registry = Registry::default();
    let yaml = "prom_remote_write: { url: 'URL', headers: { X-Scope-OrgID: tenant }, labels: { team: a } }";
    assert_eq!(push(yaml, receiver.address, &mut registry).await, DONE);
    let requests = receiver.requests();
    let mut samples = Vec::new();
    for request in &requests {
        for (name, value) in [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "0.1.0"),
            ("user-agent", concat!("egressd/v", env!("CARGO_PKG_VERSION"))),
            ("x-scope-orgid", "tenant"),
        ] {
            assert_eq!(request.headers[name], value);
        }
        let series = crate::remote_write::tests::decode(&request.body);
        assert_eq!(series.len(), 1);
        let (labels, sample) = series[0].rsplit_once(' ').unwrap();
        assert!(labels.ends_with(",src_zone=a,team=a"), "{labels}");
        let (value, timestamp) = sample.split_once('@').unwrap();
        samples.push((value.to_owned(), timestamp.parse::<i64>().unwrap()));
    }
    let values: Vec<&str> = samples.iter().map(|(value, _)| value.as_str()).collect();
    assert_eq!(values, ["0", "0", "0", "10", "10"]);
    assert!(samples.is_sorted_by(|(_, one), (_, other)| one < other), "{samples:?}");
    // Received bytes were not asked for.
    assert_eq!(books(&registry, "bytes"), [30, 10, 20, 0]);
    assert_eq!(books(&registry, "packets"), [3, 1, 2, 0]);
}

/// Goal: 2.0 is spoken under its own headers for as long as the receiver says that it wrote; each way of not
/// understanding it has the same content sent by 1.0 at once, said once in the log and counted, with nothing lost,
/// nothing emitted twice and nothing refused.
#[tokio::test]
async fn remote_write_2_0_falls_back_without_loss() {
    const WRITTEN: Reply = Status("204 No Content\r\nX-Prometheus-Remote-Write-Samples-Written: 1");
    const SHORT: Reply = Status("200 OK\r\nX-Prometheus-Remote-Write-Exemplars-Written: 0");
    let cases: [(&[Reply], &[&str], [u64; 2]); 5] = [
        (&[WRITTEN, WRITTEN], &["2.0.0 0", "2.0.0 10"], [0, 0]),
        (&[Status("204 No Content")], &["2.0.0 0", "0.1.0 0", "0.1.0 10"], [1, 0]),
        (&[Status("415 Unsupported Media Type")], &["2.0.0 0", "0.1.0 0", "0.1.0 10"], [1, 0]),
        (&[WRITTEN, Status("204 No Content")], &["2.0.0 0", "2.0.0 10", "0.1.0 10"], [1, 0]),
        (&[WRITTEN, SHORT], &["2.0.0 0", "2.0.0 10"], [0, 1]),
    ];
    for (script, expected, [fallbacks, unwritten]) in cases {
        let (log, _guard) = Log::begin();
        let receiver = Receiver::start("127.0.0.1:0", script).await;
        let mut registry = Registry::default();
        let yaml = "prom_remote_write: { url: 'URL', protocol: v2 }";
        assert_eq!(push(yaml, receiver.address, &mut registry).await, DONE);
        let said = receiver.requests().into_iter().map(|request| {
            let version = &request.headers["x-prometheus-remote-write-version"];
            let (series, content_type) = match version.as_str() {
                "2.0.0" => (
                    crate::remote_write::tests::decode_v2(&request.body),
                    "application/x-protobuf;proto=io.prometheus.write.v2.Request",
                ),
                _ => (crate::remote_write::tests::decode(&request.body), "application/x-protobuf"),
            };
            assert_eq!(request.headers["content-type"], content_type);
            let (_, sample) = series[0].rsplit_once(' ').unwrap();
            format!("{version} {}", sample.split_once('@').unwrap().0)
        });
        assert_eq!(said.collect::<Vec<_>>(), expected, "{script:?}");
        assert_eq!(pushes_of(&registry, "outcome=\"not_understood\""), fallbacks, "{script:?}");
        assert_eq!(
            metric(&registry, "egressd_exporter_sink_unwritten_samples_total"),
            unwritten,
            "{script:?}"
        );
        assert_eq!(books(&registry, "bytes"), [30, 10, 20, 0], "{script:?}");
        let fallback_lines =
            log.lines("WARN").iter().filter(|line| line.contains("2.0 is not understood")).count() as u64;
        assert_eq!((fallback_lines, log.lines("ERROR").len() as u64), (fallbacks, unwritten), "{script:?}");
    }
}

/// Goal: who asks for growth under the names of totals is told at the start what that breaks.
#[tokio::test]
async fn delta_is_warned_about_at_the_start() {
    let (log, _guard) = Log::begin();
    let receiver = Receiver::start("127.0.0.1:0", &[Close]).await;
    let mut registry = Registry::default();
    let yaml = "prom_remote_write: { url: 'URL', temporality: delta }";
    assert_eq!(push(yaml, receiver.address, &mut registry).await, DONE);
    let requests = receiver.requests();
    assert_eq!((requests.len(), &requests[0].body), (2, &requests[1].body));
    assert_eq!(metric(&registry, "egressd_exporter_sink_ambiguous_bytes_total"), 10);
    assert_eq!(books(&registry, "bytes"), [30, 10, 20, 0]);
    assert_eq!(
        log.lines("WARN")[0],
        " temporality delta writes growth under the names of totals: rate() and increase() of it mean nothing \
         sink=\"test\""
    );
}
