//! Several requests at once, in virtual time, against receivers that take their time and check what they get.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use reqwest::StatusCode;
use tokio::time::sleep;

use super::driver::{Bench, bench, books, config};
use super::*;
use crate::client::{Answer, Endpoint};
use crate::config::Kind;
use crate::destination::Destination;
use crate::driver::Report;
use crate::http::CostApi;
use crate::http::proto::PodNetworkMetricBatch;
use crate::remote_write::RemoteWrite;
use crate::remote_write::tests::decode;
use crate::table::FLOWS_MAX;

/// Of one request from one end to the other.
const LATENCY: Duration = Duration::from_secs(1);
const FLOWS: usize = 400;

/// A receiver that answers after [`LATENCY`].
#[derive(Default)]
struct Slow {
    under_way: usize,
    most: usize,
    requests: usize,
    /// Of each series, the values and times in the order of arrival.
    series: BTreeMap<String, Vec<(String, i64)>>,
    /// Of each remote address, what the cost API was told.
    charged: BTreeMap<String, i64>,
}

impl Slow {
    fn begin(&mut self) -> usize {
        (self.under_way, self.requests) = (self.under_way + 1, self.requests + 1);
        self.most = self.most.max(self.under_way);
        self.requests
    }

    fn take_samples(&mut self, body: &[u8]) {
        self.under_way -= 1;
        for line in decode(body) {
            let (labels, sample) = line.rsplit_once(' ').unwrap();
            let (value, timestamp) = sample.split_once('@').unwrap();
            let series = self.series.entry(labels.to_owned()).or_default();
            series.push((value.to_owned(), timestamp.parse().unwrap()));
        }
    }

    fn take_items(&mut self, body: Bytes) {
        self.under_way -= 1;
        for item in PodNetworkMetricBatch::decode(body).unwrap().items {
            *self.charged.entry(item.dst_ip).or_default() += item.tx_bytes + item.rx_bytes;
        }
    }
}

fn remote_write(lanes: u64, bytes_max: usize) -> RemoteWrite {
    let yaml = format!(
        "prom_remote_write: {{ url: 'http://127.0.0.1/', sendReceivedBytesMetric: true, concurrentRequests: {lanes} }}"
    );
    let Kind::RemoteWrite(settings) = config(&yaml, LATENCY).kind else { panic!("a kind of remote write") };
    RemoteWrite::bounded(settings, FLOWS_MAX, 5_000, bytes_max)
}

fn cost_api(lanes: u64, bytes_max: usize) -> CostApi {
    let yaml = format!("http: {{ url: 'http://127.0.0.1/', concurrentRequests: {lanes} }}");
    let Kind::Http(settings) = config(&yaml, LATENCY).kind else { panic!("a kind of http") };
    CostApi::bounded(&settings, bytes_max)
}

/// One push of a cluster to its end; how long it took. `answer` is told the number of the request and its body.
async fn push<D: Destination>(
    destination: D,
    slow: &Mutex<Slow>,
    answer: impl Fn(usize, Bytes) -> Answer,
) -> Duration {
    let Bench { registry, pusher, batches, received, abandon, begun, .. } = bench(LATENCY);
    let send = |_: &Endpoint, body: Bytes| {
        let number = slow.lock().unwrap().begin();
        let answer = &answer;
        async move {
            sleep(LATENCY).await;
            answer(number, body)
        }
    };
    batches.send(Arc::new(cluster_of(FLOWS))).await.unwrap();
    drop(batches);
    let report = pusher.drive(destination, send, received, abandon).await;
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    assert_eq!(books(&registry, "bytes"), [16 * FLOWS as u64, 16 * FLOWS as u64, 0, 0]);
    begun.elapsed()
}

/// Goal: a receiver that takes a second for each request gets a push four at a time in a quarter of the time, never more
/// at once than configured; every series gets its zero, then, later and after that was answered, its total, and each once.
#[tokio::test(start_paused = true)]
async fn a_slow_receiver_gets_several_requests_at_once() {
    let mut took = Vec::new();
    for lanes in [1, 4, 16] {
        let slow = Mutex::new(Slow::default());
        let answer = |_, body: Bytes| {
            slow.lock().unwrap().take_samples(&body);
            Answer::Accepted
        };
        let time = push(remote_write(lanes, 4_000), &slow, answer).await;
        let slow = slow.into_inner().unwrap();
        assert_eq!(slow.most as u64, lanes);
        assert_eq!(slow.series.len(), 2 * FLOWS);
        for (labels, points) in &slow.series {
            let [(zero, born), (total, told)] = &points[..] else { panic!("{labels}: {points:?}") };
            assert!(
                zero == "0" && ["7", "9"].contains(&total.as_str()) && born < told,
                "{labels}: {points:?}"
            );
        }
        took.push((slow.requests, time.as_secs()));
    }
    let [(requests, alone), (_, by_four), (_, by_many)] = took[..] else { panic!("{took:?}") };
    assert_eq!(alone, requests as u64, "one a second");
    assert!(by_four <= alone / 4 + 4 && by_many <= alone / 16 + 8, "{took:?}");
}

/// Goal: the cost API gets its range in several requests at once, each flow in one of them, and not a byte more or less.
#[tokio::test(start_paused = true)]
async fn a_range_goes_in_several_requests_at_once() {
    let mut took = Vec::new();
    for lanes in [1, 4] {
        let slow = Mutex::new(Slow::default());
        let answer = |_, body: Bytes| {
            slow.lock().unwrap().take_items(body);
            Answer::Accepted
        };
        let time = push(cost_api(lanes, 4_000), &slow, answer).await;
        let slow = slow.into_inner().unwrap();
        assert_eq!((slow.most as u64, slow.charged.len()), (lanes, FLOWS));
        assert!(slow.charged.values().all(|bytes| *bytes == 16), "{:?}", slow.charged);
        took.push((slow.requests, time.as_secs()));
    }
    let [(requests, alone), (_, by_four)] = took[..] else { panic!("{took:?}") };
    assert_eq!(alone, requests as u64, "one a second");
    assert!(by_four <= alone / 4 + 4, "{took:?}");
}

/// Goal: a receiver that is busy amid a push is asked by one request at a time until it accepts one, and what the others
/// were told meanwhile counts: nothing is lost or said twice.
#[tokio::test(start_paused = true)]
async fn a_busy_receiver_is_asked_by_one_request_at_a_time() {
    let slow = Mutex::new(Slow::default());
    let most_after = Mutex::new(0);
    let answer = |number: usize, body: Bytes| {
        let mut slow = slow.lock().unwrap();
        if (12..=20).contains(&number) {
            slow.under_way -= 1;
            if number > 16 {
                let mut most = most_after.lock().unwrap();
                *most = slow.under_way.max(*most);
            }
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Answer::Refused { status, retry_after: None, excerpt: String::new() };
        }
        slow.take_items(body);
        Answer::Accepted
    };
    push(cost_api(4, 4_000), &slow, answer).await;
    assert_eq!(*most_after.lock().unwrap(), 0, "others were under way beside a try");
    let slow = slow.into_inner().unwrap();
    assert_eq!((slow.most, slow.charged.len()), (4, FLOWS));
    assert!(slow.charged.values().all(|bytes| *bytes == 16), "{:?}", slow.charged);
}

/// Goal: a receiver that stops to understand 2.0 while several requests of it are under way is told each of them again by
/// 1.0: what it answered 204 to and did not store is not taken for written.
#[tokio::test(start_paused = true)]
async fn requests_of_2_0_under_way_are_all_said_again_by_1_0() {
    let yaml = "prom_remote_write: { url: 'http://127.0.0.1/', protocol: v2, sendReceivedBytesMetric: true }";
    let Kind::RemoteWrite(settings) = config(yaml, LATENCY).kind else { panic!("a kind of remote write") };
    let sink = RemoteWrite::bounded(settings, FLOWS_MAX, 5_000, 4_000);
    let slow = Mutex::new(Slow::default());
    let is_v1 = |body: &[u8]| {
        let message = snap::raw::Decoder::new().decompress_vec(body).unwrap();
        crate::remote_write::v2::Request::decode(&*message).map_or(true, |request| request.symbols.is_empty())
    };
    // Amid the zeros.
    const UNDERSTOOD: usize = 7;
    let unstored = Mutex::new(0);
    let answer = |number: usize, body: Bytes| {
        let mut slow = slow.lock().unwrap();
        if is_v1(&body) {
            slow.take_samples(&body);
            return Answer::Accepted;
        }
        slow.under_way -= 1;
        if number <= UNDERSTOOD {
            let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
            let request = crate::remote_write::v2::Request::decode(&*message).unwrap();
            return Answer::Written(request.timeseries.len() as u64);
        }
        *unstored.lock().unwrap() += 1;
        Answer::Accepted
    };
    push(sink, &slow, answer).await;
    assert_eq!(unstored.into_inner().unwrap(), 4);
    let slow = slow.into_inner().unwrap();
    let totals = slow.series.values().filter(|points| points.last().unwrap().0 != "0").count();
    assert_eq!(totals, 2 * FLOWS, "every total was said by 1.0");
}
