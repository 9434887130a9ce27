//! A push that is cut into requests which are under way at once, with failures among them: the binary between a
//! collector's half and two destinations over real sockets, one of them Debian's Prometheus.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, outside of test functions")]

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use egressd_delivery::WindowMetrics;
use egressd_delivery::dial::{DialConfig, Lines, Security, dial};
use egressd_delivery::window::Window;
use egressd_flow::{
    Batch, Counter, Epoch, IpProtocol, NodeName, Owner, Record, Sequence, Span, Traffic, UnixNanos,
};
use egressd_protocol::limits::BATCH_RECORDS_MAX;
use egressd_protocol::{CollectorFlags, Settings, Source, Status};
use egressd_service::clock::unix_nanos;
use prometheus_client::registry::Registry;
use prost::Message as _;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// More than three requests of the cost API hold, and twelve of remote write.
const FLOWS: u32 = 65_000;
const LANES: usize = 4;
/// How long a destination waits for requests beside the one that it has.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(500);
/// Requests accepted before the next fault: a sink has as many as it may under way again by then.
const ACCEPTED_BETWEEN: usize = 2 * LANES;
const PATIENCE: Duration = Duration::from_secs(60);
/// Times that every flow grows at most, until every fault has struck and as many were under way as may be.
const ROUNDS_MAX: u64 = 40;
const SERIES: &str = "egressd_transmit_bytes_total";

/// What becomes of a request that finds others under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Not taken, and said so.
    Status(u16),
    /// Not taken, and not a word.
    Lost,
    /// Taken, and not a word.
    Untold,
}

/// In the order in which they strike, last to first.
const FAULTS: [Fault; 6] =
    [Fault::Untold, Fault::Status(500), Fault::Lost, Fault::Untold, Fault::Status(429), Fault::Status(503)];

/// The body of the cost API, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Item>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(string, tag = "6")]
    dst_ip: String,
    #[prost(int64, tag = "11")]
    tx_bytes: i64,
    #[prost(int64, tag = "13")]
    rx_bytes: i64,
}

impl Items {
    fn bytes(&self) -> i64 {
        self.items.iter().map(|item| item.tx_bytes + item.rx_bytes).sum()
    }
}

/// What a destination has seen.
#[derive(Debug)]
struct Seen {
    under_way: usize,
    most: usize,
    requests: usize,
    faults: Vec<Fault>,
    /// Requests that were accepted since the last fault.
    accepted_since: usize,
    /// By remote address, transmitted and received bytes of what the cost API accepted.
    charged: HashMap<String, (i64, i64)>,
    /// Bytes of requests that it answered in a way that leaves a doubt.
    doubtful_bytes: i64,
}

/// A destination that has up to [`LANES`] requests under way before it answers one.
struct Destination {
    port: u16,
    seen: Mutex<Seen>,
    came: Condvar,
    /// What is behind it; `None` for the cost API.
    prometheus: Option<u16>,
}

impl Destination {
    fn start(prometheus: Option<u16>) -> Arc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let seen = Seen {
            under_way: 0,
            most: 0,
            requests: 0,
            faults: FAULTS.to_vec(),
            accepted_since: 0,
            charged: HashMap::new(),
            doubtful_bytes: 0,
        };
        let port = listener.local_addr().unwrap().port();
        let destination = Arc::new(Self { port, seen: Mutex::new(seen), came: Condvar::new(), prometheus });
        let server = Arc::clone(&destination);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Arc::clone(&server);
                // A connection that breaks is the exporter's to notice.
                thread::spawn(move || server.serve(&stream.unwrap()));
            }
        });
        destination
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let (mut reader, mut writer) = (BufReader::new(stream), stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
            });
            let mut body = vec![0; length.unwrap()];
            reader.read_exact(&mut body)?;
            let Some(status) = self.answer(&head, &body) else { return Ok(()) };
            write!(writer, "HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n")?;
        }
    }

    /// The status to answer with; `None` for none.
    fn answer(&self, head: &str, body: &[u8]) -> Option<u16> {
        let fault = self.begin();
        let is_taken = matches!(fault, None | Some(Fault::Untold));
        let status = match self.prometheus.filter(|_| is_taken) {
            Some(prometheus) => forward(prometheus, head, body),
            None => 200,
        };
        let mut seen = self.seen.lock().unwrap();
        seen.under_way -= 1;
        if self.prometheus.is_none() {
            seen.charge(&Items::decode(body).unwrap(), fault);
        }
        match fault {
            None => {
                seen.accepted_since += 1;
                Some(status)
            }
            Some(Fault::Status(status)) => Some(status),
            Some(Fault::Lost | Fault::Untold) => None,
        }
    }

    /// Waits for others; what is to become of this one.
    fn begin(&self) -> Option<Fault> {
        let mut seen = self.seen.lock().unwrap();
        seen.under_way += 1;
        seen.requests += 1;
        seen.most = seen.most.max(seen.under_way);
        self.came.notify_all();
        let (mut seen, _) =
            self.came.wait_timeout_while(seen, WAIT_FOR_OTHERS, |seen| seen.under_way < LANES).unwrap();
        if seen.under_way < 2 || seen.accepted_since < ACCEPTED_BETWEEN {
            return None;
        }
        seen.accepted_since = 0;
        seen.faults.pop()
    }
}

impl Seen {
    fn charge(&mut self, items: &Items, fault: Option<Fault>) {
        match fault {
            None => {
                for item in &items.items {
                    let charged = self.charged.entry(item.dst_ip.clone()).or_default();
                    *charged = (charged.0 + item.tx_bytes, charged.1 + item.rx_bytes);
                }
            }
            Some(Fault::Status(500) | Fault::Lost | Fault::Untold) => self.doubtful_bytes += items.bytes(),
            Some(Fault::Status(_)) => {}
        }
    }
}

/// Has Prometheus answer.
fn forward(port: u16, head: &str, body: &[u8]) -> u16 {
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let answer = exchange(port, head.as_bytes(), body);
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

fn exchange(port: u16, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(head).and_then(|()| stream.write_all(body)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// The body of an answer; in HTTP/1.0 it is not cut up.
fn get(port: u16, path: &str) -> Option<String> {
    // Nobody listens yet.
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?);
    let answer = exchange(port, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes(), b"");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1)?.starts_with('2').then(|| body.to_owned())
}

fn query(port: u16, query: &str) -> Vec<serde_json::Value> {
    let answer = get(port, &format!("/api/v1/query?query={query}")).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["data"]["result"].as_array().unwrap().clone()
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it runs until it is stopped");
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waits).await.is_ok(), "{what}");
}

async fn prometheus(directory: &TempDir) -> (Running, u16) {
    let port = free_port();
    let config = directory.path().join("prometheus.yml");
    fs::write(&config, "global: { scrape_interval: 1h }\n").unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--web.enable-remote-write-receiver", "--log.level=warn"])
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is installed (Debian: prometheus)");
    let running = Running(child);
    until("prometheus", || get(port, "/-/ready").is_some()).await;
    (running, port)
}

const INVENTORY: &str = "
nodes: [{ name: node-a, addresses: [172.18.0.2] }]
pods: [{ name: web-0, namespace: shop, node: node-a, addresses: [10.244.1.2] }]
";

/// An exporter with a durable spool; its port for streams and that for metrics.
async fn exporter(directory: &TempDir, cost_api: u16, remote_write: u16) -> (Running, u16, u16) {
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let config = format!(
        "exportInterval: 1s
sinks:
  castai: {{ http: {{ url: 'http://127.0.0.1:{cost_api}/', concurrentRequests: {LANES} }} }}
  prom: {{ prom_remote_write: {{ url: 'http://127.0.0.1:{remote_write}/api/v1/write', concurrentRequests: {LANES} }} }}
"
    );
    let (grpc, http) = (free_port(), free_port());
    let child = Command::new(env!("CARGO_BIN_EXE_egressd-exporter"))
        .args(["run", "--flows-listen", "", "--log-level", "warn"])
        .arg("--config-path")
        .arg(write("config.yaml", &config))
        .arg("--inventory")
        .arg(write("inventory.yaml", INVENTORY))
        .arg("--spool-dir")
        .arg(directory.path().join("spool"))
        .args(["--grpc-listen-port", &grpc.to_string(), "--http-listen-port", &http.to_string()])
        .spawn()
        .unwrap();
    let running = Running(child);
    until("exporter", || get(http, "/readyz").is_some()).await;
    (running, grpc, http)
}

/// A collector's half, whose cuts are what is sent to it.
fn collector(port: u16) -> mpsc::Sender<Vec<Batch>> {
    let (cuts_in, cuts) = mpsc::channel(1);
    let (scopes, mut scopes_out) = mpsc::channel(8);
    let (reason, diagnosis) = (String::new(), String::new());
    let status = Status { source: Source::Netfilter, reason, diagnosis, losses: vec![] };
    let (status_in, status) = watch::channel(status);
    let window = Window::new(Epoch(1), 256 << 20, 256 << 20);
    let progress = watch::channel(window.progress()).0;
    let settings = watch::channel(Settings::default()).0;
    let config = DialConfig {
        exporter: format!("127.0.0.1:{port}").parse().unwrap(),
        security: Security::Plain,
        node: NodeName("node-a".into()),
        version: "1",
        source: Source::Netfilter,
        flags: CollectorFlags::default(),
        redial_longest: Duration::from_millis(500),
    };
    let lines = Lines { cuts, names: mpsc::channel(1).1, scopes, settings, status, progress };
    let metrics = WindowMetrics::register(&mut Registry::default());
    tokio::spawn(dial(config, window, lines, metrics, CancellationToken::new()));
    tokio::spawn(async move {
        while scopes_out.recv().await.is_some() {}
        drop(status_in);
    });
    cuts_in
}

fn remote(flow: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + flow).into()
}

/// Transmitted bytes of a flow in a round; received are one more.
fn growth(flow: u32, round: u64) -> u64 {
    u64::from(flow) + 1_000 * round
}

/// All flows, grown once more.
fn cut(round: u64) -> Vec<Batch> {
    let now = UnixNanos(unix_nanos());
    let owner = Arc::new(Owner {
        address: [10, 244, 1, 2].into(),
        pod_uid: "shop/web-0".into(),
        namespace: "shop".into(),
        name: "web-0".into(),
        labels: [].into(),
        since: UnixNanos(0),
        until: None,
        measure: true,
    });
    let record = |flow| {
        let counter = |bytes| Counter { bytes, packets: 1 };
        let bytes = growth(flow, round);
        let traffic = Traffic { tx: counter(bytes), rx: counter(bytes + 1), ..Traffic::default() };
        Record { owner: 0, remote: Some(remote(flow)), protocol: IpProtocol::TCP, traffic }
    };
    let records: Vec<Record> = (0..FLOWS).map(record).collect();
    let parts = records.chunks(BATCH_RECORDS_MAX);
    let first = (round - 1) * parts.len() as u64 + 1;
    let batch = |(records, sequence): (&[Record], u64)| Batch {
        epoch: Epoch(1),
        sequence: Sequence(sequence),
        span: Span { from: now, to: now },
        owners: vec![Arc::clone(&owner)],
        records: records.to_vec(),
    };
    parts.zip(first..).map(batch).collect()
}

/// Goal: with every kind of failure among requests that are under way at once, both destinations end with every flow's
/// bytes exactly: the totals in Prometheus, which never went back, and what the cost API accepted; what it may have taken
/// without saying so is counted as ambiguous, to the byte.
#[tokio::test(flavor = "multi_thread")]
async fn failures_among_requests_under_way_cost_no_byte() {
    let directory = TempDir::new().unwrap();
    let (_prometheus, prometheus) = prometheus(&directory).await;
    let (cost_api, remote_write) = (Destination::start(None), Destination::start(Some(prometheus)));
    let (_exporter, grpc, http) = exporter(&directory, cost_api.port, remote_write.port).await;
    let cuts = collector(grpc);

    let figure = |name: &str, sink: &str| {
        let page = get(http, "/metrics").unwrap();
        let name = format!("egressd_exporter_sink_{name}{{sink=\"{sink}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or_default()
    };
    let per_round = |round| (0..FLOWS).map(|flow| 2 * growth(flow, round) + 1).sum::<u64>();
    let (mut rounds, mut sent) = (0, 0);
    let lacks = |destination: &Destination| {
        let seen = destination.seen.lock().unwrap();
        (!seen.faults.is_empty() || seen.most < LANES).then(|| (seen.most, seen.faults.clone()))
    };
    while let Some(lacks) = lacks(&cost_api).or_else(|| lacks(&remote_write)) {
        rounds += 1;
        assert!(rounds <= ROUNDS_MAX, "most requests at once, and faults that did not strike: {lacks:?}");
        sent += per_round(rounds);
        cuts.send(cut(rounds)).await.unwrap();
        until("a round's way", || {
            ["castai", "prom"].iter().all(|sink| figure("received_bytes_total", sink) == sent)
        })
        .await;
    }
    until("all is accepted", || ["castai", "prom"].iter().all(|sink| figure("held_bytes", sink) == 0)).await;

    for (name, destination) in [("cost API", &cost_api), ("Prometheus", &remote_write)] {
        let seen = destination.seen.lock().unwrap();
        println!("{name}: {} requests, up to {} at once", seen.requests, seen.most);
        assert_eq!(seen.most, LANES, "more than are allowed");
    }
    println!("{FLOWS} flows, {rounds} rounds, {sent} B");
    let truth = |flow| (1..=rounds).map(|round| growth(flow, round)).sum::<u64>();

    let seen = cost_api.seen.lock().unwrap();
    assert_eq!(seen.charged.len(), FLOWS as usize);
    for flow in 0..FLOWS {
        let tx = i64::try_from(truth(flow)).unwrap();
        let rx = tx + i64::try_from(rounds).unwrap();
        assert_eq!(seen.charged[&remote(flow).to_string()], (tx, rx), "{}", remote(flow));
    }
    let ambiguous = figure("ambiguous_bytes_total", "castai");
    println!("cost API: difference 0 B, {ambiguous} B ambiguous");
    assert_eq!(i64::try_from(ambiguous).unwrap(), seen.doubtful_bytes);
    assert!(ambiguous > 0);

    let stored: HashMap<String, u64> = query(prometheus, SERIES)
        .iter()
        .map(|series| {
            let remote = series["metric"]["dst_ip"].as_str().unwrap().to_owned();
            (remote, series["value"][1].as_str().unwrap().parse().unwrap())
        })
        .collect();
    assert_eq!(stored.len(), FLOWS as usize);
    for flow in 0..FLOWS {
        assert_eq!(stored[&remote(flow).to_string()], truth(flow), "{}", remote(flow));
    }
    let resets = query(prometheus, &format!("max(resets({SERIES}[1h]))"));
    assert_eq!(resets[0]["value"][1], "0", "a total went back");
    println!("Prometheus: difference 0 B, no total went back");
}
