//! The binary with TLS and tokens, against real collectors' halves and a fake Kubernetes API: who gets in, and what both
//! ends say of who does not.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use egressd_delivery::WindowMetrics;
use egressd_delivery::dial::{DialConfig, Lines, Security, dial, reach};
use egressd_delivery::window::Window;
use egressd_flow::{Epoch, NodeName};
use egressd_protocol::{CollectorFlags, Settings, Source, Status};
use egressd_testbed::Authority;
use egressd_testbed::kubernetes::{Access, KubernetesApi, Node, Pod, Resource, Token, seconds_ago};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const AUDIENCE: &str = "egressd-exporter";
const SOON: Duration = Duration::from_secs(30);

/// An exporter that wants tokens, and what is around it.
struct Stage {
    api: KubernetesApi,
    directory: TempDir,
    exporter: Child,
    grpc_port: u16,
    http_port: u16,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.exporter.kill().unwrap();
        self.exporter.wait().unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(flags: &[&str]) -> Self {
        let api = KubernetesApi::start_on_loopback(0, Access::Plain).unwrap();
        for node in ["node-a", "node-b"] {
            api.apply(Node::new(node, &["172.18.0.2".parse().unwrap()])).unwrap();
        }
        let pod = Pod::new("egressd", "collector-a").uid("uid-a").created(seconds_ago(60));
        api.apply(pod.scheduled("node-a", &["172.18.0.2".parse().unwrap()])).unwrap();
        let directory = TempDir::new().unwrap();
        let authority = Authority::generate("ours").unwrap();
        let certificate = authority.certificate("127.0.0.1").unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let kubeconfig = write("kubeconfig", &api.kubeconfig());
        write("ca.crt", &authority.pem());
        let (cert, key) = (write("tls.crt", &certificate.pem), write("tls.key", &certificate.key_pem));
        let readers = write("readers", "secret-of-readers\n");
        let (grpc_port, http_port) = (free_port(), free_port());
        let exporter = Command::new(env!("CARGO_BIN_EXE_egressd-exporter"))
            .args(["run", "--flows-listen", "", "--collector-service-account", "egressd/egressd-collector"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--tls-cert-file")
            .arg(cert)
            .arg("--tls-key-file")
            .arg(key)
            .arg("--readers-token-file")
            .arg(readers)
            .args([
                "--grpc-listen-port",
                &grpc_port.to_string(),
                "--http-listen-port",
                &http_port.to_string(),
            ])
            .args(flags)
            .spawn()
            .unwrap();
        let stage = Self { api, directory, exporter, grpc_port, http_port };
        stage.until("readiness", || stage.get("/readyz", "").starts_with("HTTP/1.1 200")).await;
        stage
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let waits = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, waits).await.is_ok(), "{what}: {}", self.get("/metrics", ""));
    }

    /// A whole answer; nothing while nobody listens.
    fn get(&self, path: &str, header: &str) -> String {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http_port)) else {
            return String::new();
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn not_admitted(&self, reason: &str) -> u64 {
        let name = format!("egressd_exporter_ledger_not_admitted_streams_total{{reason=\"{reason}\"}}");
        value(&self.get("/metrics", ""), &name)
    }

    /// Writes a token where a collector finds it.
    fn mount(&self, name: &str, token: Token) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, self.api.issue(token)).unwrap();
        path
    }

    fn collector(&self, node: &str, epoch: u64, token_file: Option<PathBuf>) -> Collector {
        let ca_file = self.directory.path().join("ca.crt");
        let security = Security::Tls { ca_file, server_name: "127.0.0.1".to_owned(), token_file };
        Collector::start(self.grpc_port, node, epoch, security)
    }
}

fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

/// A collector's half without anything to send.
struct Collector {
    registry: Registry,
    abandon: CancellationToken,
    _lines: (mpsc::Sender<Vec<egressd_flow::Batch>>, watch::Sender<Status>),
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.abandon.cancel();
    }
}

impl Collector {
    fn start(port: u16, node: &str, epoch: u64, security: Security) -> Self {
        let mut registry = Registry::default();
        let (cuts_in, cuts) = mpsc::channel(1);
        let names = mpsc::channel(1).1;
        let (scopes, mut scopes_out) = mpsc::channel(8);
        tokio::spawn(async move { while scopes_out.recv().await.is_some() {} });
        let (diagnosis, reason) = (String::new(), String::new());
        let status = Status { source: Source::Netfilter, reason, diagnosis, losses: vec![] };
        let (status_in, status) = watch::channel(status);
        let window = Window::new(Epoch(epoch), 1 << 20, 1 << 20);
        let progress = watch::channel(window.progress()).0;
        let settings = watch::channel(Settings::default()).0;
        let config = DialConfig {
            exporter: format!("127.0.0.1:{port}").parse().unwrap(),
            security,
            node: NodeName(node.into()),
            version: "1",
            source: Source::Netfilter,
            flags: CollectorFlags::default(),
            redial_longest: Duration::from_millis(500),
        };
        let abandon = CancellationToken::new();
        let metrics = WindowMetrics::register(&mut registry);
        let lines = Lines { cuts, names, scopes, settings, status, progress };
        tokio::spawn(dial(config, window, lines, metrics, abandon.clone()));
        Self { registry, abandon, _lines: (cuts_in, status_in) }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        value(&text, name)
    }

    fn failures(&self, reason: &str) -> u64 {
        self.metric(&format!("egressd_collector_window_dial_failures_total{{reason=\"{reason}\"}}"))
    }
}

const CONNECTED: &str = "egressd_collector_window_connected";

fn collectors_token() -> Token {
    Token::of("egressd", "egressd-collector").audience(AUDIENCE)
}

/// Goal: a collector with its pod's token speaks for its node; every other is refused, counted for the same reason at the
/// exporter and as what an operator has to mend at the collector, and disturbs nobody.
#[tokio::test]
async fn a_node_speaks_for_itself_and_nobody_else_does() {
    let stage = Stage::start().await;
    let good = || collectors_token().bound("collector-a", "uid-a", "node-a");
    let token_file = stage.mount("good", good());
    let collector = stage.collector("node-a", 1, Some(token_file.clone()));
    stage.until("the good one", || collector.metric(CONNECTED) == 1).await;

    let of_another = Token::of("shop", "default").audience(AUDIENCE).bound("collector-a", "uid-a", "node-a");
    let cases = [
        ("node-a", None, "no_token", "unauthenticated"),
        ("node-a", Some(good().audience("another")), "other_audience", "unauthenticated"),
        ("node-a", Some(good().lasts(-1)), "not_authentic", "unauthenticated"),
        ("node-a", Some(of_another), "other_account", "forbidden"),
        ("node-a", Some(collectors_token()), "unbound", "forbidden"),
        ("node-b", Some(good()), "other_node", "forbidden"),
    ];
    for (node, token, at_exporter, at_collector) in cases {
        // An account of another namespace has its pods there.
        if at_exporter == "other_account" {
            let pod = Pod::new("shop", "collector-a").uid("uid-a").created(seconds_ago(60));
            stage.api.apply(pod.scheduled("node-a", &[])).unwrap();
        }
        let token_file = token.map(|token| stage.mount(at_exporter, token));
        let refused = stage.collector(node, 9, token_file);
        stage.until(at_exporter, || stage.not_admitted(at_exporter) >= 2).await;
        stage.until(at_collector, || refused.failures(at_collector) >= 2).await;
        assert_eq!(refused.metric(CONNECTED), 0, "{at_exporter}");
    }
    assert_eq!(collector.metric(CONNECTED), 1);
    assert_eq!(collector.metric("egressd_collector_window_dials_total"), 1, "nobody disturbed it");
}

/// Goal: a Hello that was recorded of a life before is refused, though its token is good; the life that runs goes on.
#[tokio::test]
async fn a_replayed_hello_of_an_older_epoch_is_refused() {
    let stage = Stage::start().await;
    let token = || collectors_token().bound("collector-a", "uid-a", "node-a");
    let token_file = stage.mount("good", token());
    let first = stage.collector("node-a", 1, Some(token_file.clone()));
    stage.until("the first life", || first.metric(CONNECTED) == 1).await;
    let both = stage.collector("node-a", 2, Some(token_file.clone()));
    stage.until("the second life", || both.metric(CONNECTED) == 1).await;
    stage
        .until("the first, which is no replay but the same to the exporter", || {
            first.failures("superseded") >= 2
        })
        .await;
    assert!(stage.not_admitted("superseded") >= 2);
    assert_eq!((both.metric(CONNECTED), both.metric("egressd_collector_window_dials_total")), (1, 1));
}

/// Goal: a collector whose pod was deleted does not come back, though its token was known a moment ago.
#[tokio::test]
async fn a_deleted_pods_token_is_worth_nothing() {
    let stage = Stage::start().await;
    let token_file = stage.mount("good", collectors_token().bound("collector-a", "uid-a", "node-a"));
    let first = stage.collector("node-a", 1, Some(token_file.clone()));
    stage.until("the stream", || first.metric(CONNECTED) == 1).await;
    drop(first);
    stage.api.delete(Resource::Pods, "egressd", "collector-a").unwrap();
    // Until the watch has told of it, a moment later, nobody knows better.
    let refused = async {
        loop {
            let again = stage.collector("node-a", 1, Some(token_file.clone()));
            stage.until("an answer", || again.metric(CONNECTED) + again.failures("forbidden") > 0).await;
            if again.metric(CONNECTED) == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("it is refused once the watch has told");
    assert!(stage.not_admitted("pod_ended") >= 1);
}

/// Goal: whoever only looks whether the exporter can be reached is told what stands in the way, by name, and disturbs no
/// stream.
#[tokio::test]
async fn who_only_looks_disturbs_nobody() {
    let stage = Stage::start().await;
    let token_file = stage.mount("good", collectors_token().bound("collector-a", "uid-a", "node-a"));
    let collector = stage.collector("node-a", 1, Some(token_file));
    stage.until("the stream", || collector.metric(CONNECTED) == 1).await;
    let other = stage.directory.path().join("other.crt");
    fs::write(&other, Authority::generate("other").unwrap().pem()).unwrap();
    let ours = stage.directory.path().join("ca.crt");
    let missing = stage.directory.path().join("missing.crt");
    let address = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
    let tls = |ca_file: &PathBuf, server_name: &str| {
        let (ca_file, server_name) = (ca_file.clone(), server_name.to_owned());
        Security::Tls { ca_file, server_name, token_file: None }
    };
    let nobody = free_port();
    for (port, security, words, advice) in [
        (stage.grpc_port, tls(&other, "127.0.0.1"), "certificate is not trusted", "--tls-ca-file"),
        (stage.grpc_port, tls(&ours, "elsewhere"), "certificate is for another name", "--tls-server-name"),
        (
            stage.grpc_port,
            tls(&missing, "127.0.0.1"),
            "cannot tell whom to trust: cannot read",
            "is mounted at",
        ),
        (stage.http_port, tls(&ours, "127.0.0.1"), "does not speak TLS", "--tls-cert-file"),
        (nobody, tls(&ours, "127.0.0.1"), "cannot reach the exporter", ""),
    ] {
        let error = reach(&address(port), &security).await.unwrap_err();
        let said = egressd_service::lifecycle::chain(&error);
        assert!(said.contains(words) && error.advice().unwrap_or_default().contains(advice), "{said}");
    }
    reach(&address(stage.grpc_port), &tls(&ours, "127.0.0.1")).await.unwrap();
    assert_eq!(
        (collector.metric(CONNECTED), collector.metric("egressd_collector_window_dials_total")),
        (1, 1)
    );
}

/// Goal: with the flag as the chart renders it, a node that the collectors' pods are kept off is told of and not missed.
#[tokio::test]
async fn nobody_is_missed_where_no_collector_is_to_run() {
    let manifest = include_str!("../../../deploy/manifests/scrape.yaml");
    let argument = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("- ").filter(|text| text.contains("--collectors-on=")));
    let argument: String = serde_json::from_str(argument.unwrap()).unwrap();
    let stage = Stage::start_with(&[&argument]).await;
    let labelled = |name: &str, os: &str| {
        let mut node = serde_json::Value::from(Node::new(name, &[]));
        node["metadata"]["labels"]["kubernetes.io/os"] = os.into();
        node
    };
    for (name, os) in [("node-a", "linux"), ("node-b", "windows"), ("node-c", "linux")] {
        stage.api.apply(labelled(name, os)).unwrap();
    }
    let mut serverless = labelled("node-d", "linux");
    serverless["metadata"]["labels"]["eks.amazonaws.com/compute-type"] = "fargate".into();
    stage.api.apply(serverless).unwrap();
    let token_file = stage.mount("good", collectors_token().bound("collector-a", "uid-a", "node-a"));
    let collector = stage.collector("node-a", 1, Some(token_file));
    stage.until("the stream", || collector.metric(CONNECTED) == 1).await;
    let row = |name: &str, to_collect: bool| {
        format!("{{\"node\":\"{name}\",\"in_cluster\":true,\"to_collect\":{to_collect},")
    };
    let rows = [row("node-a", true), row("node-b", false), row("node-c", true), row("node-d", false)];
    // The roll is called every 15 s.
    stage.until("the nodes", || rows.iter().all(|row| stage.get("/nodes", "").contains(row))).await;
    assert_eq!(value(&stage.get("/metrics", ""), "egressd_exporter_nodes_missing"), 1, "node-c");
}

/// Goal: the page of totals is for whoever shows the readers' token.
#[tokio::test]
async fn readers_show_their_token() {
    let stage = Stage::start().await;
    let status = |header: &str| stage.get("/metrics/flows", header)[..12].to_owned();
    assert_eq!(status(""), "HTTP/1.1 401");
    assert_eq!(status("Authorization: Bearer secret-of-reader\r\n"), "HTTP/1.1 401");
    assert_eq!(status("Authorization: Bearer secret-of-readers\r\n"), "HTTP/1.1 200");
    assert!(stage.get("/metrics", "").starts_with("HTTP/1.1 200"), "its own metrics tell of no flow");
}
