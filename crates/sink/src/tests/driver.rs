//! The loop, in virtual time, with both destinations and a function in place of the network.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use egressd_service::clock::Boot;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use reqwest::StatusCode;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failures::Log;
use super::*;
use crate::client::{Answer, Endpoint};
use crate::config::{Kind, SinkConfig};
use crate::destination::Verdict;
use crate::driver::{Clock, Prepared, Pusher, Report};
use crate::http::CostApi;
use crate::lead::{Lead, Overdue};
use crate::metrics::SinkMetrics;
use crate::{Keep, Resume, Save};

const RECORD: &str = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2 undirected=5/1";

/// Follows tokio's clock, paused or not, from one second after 1970.
fn clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || seconds(1).saturating_add(start.elapsed()))
}

pub(super) fn config(yaml: &str, interval: Duration) -> SinkConfig {
    let raw = serde_saphyr::from_str(yaml).unwrap();
    SinkConfig::new("test", raw, Some(interval), &|_| None).unwrap()
}

const COST_API: &str = "http: { url: 'http://127.0.0.1/' }";

fn cost_api() -> CostApi {
    let Kind::Http(settings) = config(COST_API, Duration::from_secs(1)).kind else {
        panic!("a kind of http")
    };
    CostApi::new(&settings)
}

fn refused(status: u16, retry_after: Option<u64>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer::Refused { status, retry_after: retry_after.map(Duration::from_secs), excerpt: String::new() }
}

/// One pusher with what it talks to.
pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) pusher: Pusher,
    pub(super) settings: watch::Sender<Prepared>,
    pub(super) position: watch::Receiver<Position>,
    pub(super) batches: mpsc::Sender<Arc<AttributedBatch>>,
    pub(super) received: mpsc::Receiver<Arc<AttributedBatch>>,
    pub(super) abandon: CancellationToken,
    pub(super) begun: Instant,
}

pub(super) fn bench(interval: Duration) -> Bench {
    bench_led_by(Lead::always(), interval)
}

fn bench_led_by(lead: Lead, interval: Duration) -> Bench {
    let mut registry = Registry::default();
    let metrics = SinkMetrics::register(&mut registry);
    let (accepted, position) = watch::channel(Position::default());
    let (batches, received) = mpsc::channel(1);
    super::push::install_provider();
    let (settings, receiver) = watch::channel(Prepared::new(config(COST_API, interval)).unwrap());
    let pusher = Pusher::new(receiver, metrics.of("test"), clock(), lead, accepted);
    let (abandon, begun) = (CancellationToken::new(), Instant::now());
    Bench { registry, pusher, settings, position, batches, received, abandon, begun }
}

/// Sums of a family's samples.
pub(crate) fn metric(registry: &Registry, name: &str) -> u64 {
    let mut page = String::new();
    text::encode(&mut page, registry).unwrap();
    let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    samples.map(|sample| sample.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// The four figures of the books: received, emitted, discarded, held.
pub(crate) fn books(registry: &Registry, unit: &str) -> [u64; 4] {
    [("received", "_total"), ("emitted", "_total"), ("discarded", "_total"), ("held", "")]
        .map(|(what, suffix)| metric(registry, &format!("egressd_exporter_sink_{what}_{unit}{suffix}")))
}

/// Goal: a refused push waits its backoff or what the answer asks for, says the same again, and is accepted once; the
/// position moves then and the books balance.
#[tokio::test(start_paused = true)]
async fn refused_pushes_are_repeated_until_accepted() {
    let Bench { registry, pusher, mut position, batches, received, abandon, begun, .. } =
        bench(Duration::from_secs(60));
    let script = Mutex::new(vec![Answer::Accepted, refused(429, Some(7)), refused(503, None)]);
    let sent: Mutex<Vec<(Duration, Bytes)>> = Mutex::new(Vec::new());
    let send = |_: &Endpoint, body: Bytes| {
        sent.lock().unwrap().push((begun.elapsed(), body));
        let answer = script.lock().unwrap().pop().unwrap();
        async move { answer }
    };
    batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
    let drive = pusher.drive(cost_api(), send, received, abandon);
    let feed = async {
        position.wait_for(|position| *position == Position(1)).await.unwrap();
        drop(batches);
    };
    let (report, ()) = tokio::join!(drive, feed);
    let done = Report { applied: Position(1), accepted: Position(1), ..Report::default() };
    assert_eq!(report, done);

    let sent = sent.into_inner().unwrap();
    let waits: Vec<Duration> = sent.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert_eq!((sent.len(), sent[0].0), (3, Duration::from_secs(60)));
    assert!(waits[0] <= Duration::from_millis(501) && waits[1].as_secs() == 7, "{waits:?}");
    assert!(sent.iter().all(|(_, body)| *body == sent[0].1));
    assert_eq!(books(&registry, "bytes"), [35, 30, 5, 0]);
    assert_eq!(books(&registry, "packets"), [4, 3, 1, 0]);
    assert_eq!(metric(&registry, "egressd_exporter_sink_pushes_total"), 3);
    assert_eq!(metric(&registry, "egressd_exporter_sink_ambiguous_bytes_total"), 0);
}

/// Goal: a push under way holds up no batch, and what came meanwhile goes with the next one.
#[tokio::test(start_paused = true)]
async fn batches_are_taken_while_a_push_is_under_way() {
    let Bench { registry, pusher, mut position, batches, received, abandon, .. } =
        bench(Duration::from_secs(60));
    let (begun, answer) = (Notify::new(), Notify::new());
    let send = |_: &Endpoint, _| async {
        begun.notify_one();
        answer.notified().await;
        Answer::Accepted
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        begun.notified().await;
        // The channel holds one: the fourth is sent only once the second was taken.
        for at in 2..=4 {
            batches.send(Arc::new(batch(at, &[RECORD]))).await.unwrap();
        }
        assert_eq!(*position.borrow(), Position(0));
        answer.notify_one();
        position.wait_for(|position| *position == Position(1)).await.unwrap();
        drop(batches);
        begun.notified().await;
        answer.notify_one();
    };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(report, Report { applied: Position(4), accepted: Position(4), ..Report::default() });
    assert_eq!(books(&registry, "bytes"), [140, 120, 20, 0]);
}

/// Goal: a sink that keeps says nothing before its note is kept; at the end it tries once, and leaves to the next life
/// what is not accepted.
#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_waits_for_its_state_and_ends_after_one_try() {
    let Bench { registry, pusher, batches, received, abandon, .. } = bench(Duration::from_secs(1));
    let (saves, mut asked) = mpsc::channel(1);
    let (resume, ending) = (Resume { state: Some(vec![]), ..Resume::default() }, CancellationToken::new());
    let pusher = pusher.keeping(Some(Keep { resume, saves, ending: ending.clone() }));
    let events: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let note = |event: String| events.lock().unwrap().push(event);
    let send = |_: &Endpoint, _| {
        note("request".to_owned());
        let is_first = events.lock().unwrap().len() < 4;
        async move { if is_first { Answer::Accepted } else { refused(503, None) } }
    };
    let keeper = async {
        while let Some(Save { sink, position, state, kept }) = asked.recv().await {
            tokio::time::sleep(Duration::from_secs(5)).await;
            note(format!("{sink} at {} with {} bytes", position.0, state.len()));
            kept.send(()).unwrap();
        }
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        batches.send(Arc::new(batch(2, &[RECORD]))).await.unwrap();
        ending.cancel();
    };
    let drive = pusher.drive(cost_api(), send, received, abandon);
    let (report, (), ()) = tokio::join!(drive, feed, keeper);
    let held = Counter { bytes: 30, packets: 3 };
    assert_eq!(report, Report { applied: Position(2), accepted: Position(1), held, held_flows: 1 });
    assert_eq!(
        events.into_inner().unwrap(),
        [
            "test at 0 with 10 bytes",
            "request",
            "test at 1 with 0 bytes",
            "test at 1 with 12 bytes",
            "request"
        ]
    );
    assert_eq!(books(&registry, "bytes"), [70, 30, 10, 30]);
}

/// Goal: a closed channel pushes what is held at once, whatever the interval, and ends.
#[tokio::test(start_paused = true)]
async fn closed_channel_is_drained_at_once() {
    let Bench { pusher, batches, received, abandon, begun, .. } = bench(Duration::from_secs(3600));
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        drop(batches);
    };
    let send = |_: &Endpoint, _| async { Answer::Accepted };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Goal: what came during the push that was under way at the close goes at once after it.
#[tokio::test(start_paused = true)]
async fn close_during_a_push_is_followed_by_another_at_once() {
    let Bench { pusher, batches, received, abandon, begun, .. } = bench(Duration::from_secs(3600));
    let (sent, answer) = (Notify::new(), Notify::new());
    let send = |_: &Endpoint, _| async {
        sent.notify_one();
        answer.notified().await;
        Answer::Accepted
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        sent.notified().await;
        batches.send(Arc::new(batch(2, &[RECORD]))).await.unwrap();
        drop(batches);
        answer.notify_one();
        sent.notified().await;
        answer.notify_one();
    };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(report, Report { applied: Position(2), accepted: Position(2), ..Report::default() });
    assert_eq!(begun.elapsed().as_secs(), 3600);
}

/// Goal: traffic of unknown direction is kept from a destination that takes only sent and received, counted by its
/// reason and warned about once.
#[tokio::test(start_paused = true)]
async fn undirected_traffic_is_kept_back_with_one_warning() {
    let (log, _guard) = Log::begin();
    let Bench { registry, pusher, batches, received, abandon, .. } = bench(Duration::from_secs(1));
    let feed = async {
        for at in 1..=3 {
            batches.send(Arc::new(batch(at, &[RECORD]))).await.unwrap();
        }
        drop(batches);
    };
    let send = |_: &Endpoint, _| async { Answer::Accepted };
    tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(books(&registry, "bytes"), [105, 90, 15, 0]);
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    let counted = "egressd_exporter_sink_discarded_bytes_total{sink=\"test\",reason=\"undirected\"} 15\n";
    assert!(page.contains(counted), "{page}");
    assert_eq!(
        log.lines("WARN"),
        [" traffic of unknown direction is kept from this sink, which takes only sent and received \
          sink=\"test\" reason=\"undirected\""]
    );
}

/// Goal: a destination that never accepts is tried until the stop runs out of time, and what is held is reported.
#[tokio::test(start_paused = true)]
async fn abandoned_sink_reports_what_it_holds() {
    let Bench { registry, pusher, batches, received, abandon, position, .. } = bench(Duration::from_secs(1));
    let attempts = Mutex::new(0_u64);
    let send = |_: &Endpoint, _| {
        *attempts.lock().unwrap() += 1;
        async { refused(403, None) }
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        drop(batches);
        tokio::time::sleep(Duration::from_secs(600)).await;
        abandon.cancel();
    };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon.clone()), feed);
    let held = Counter { bytes: 30, packets: 3 };
    assert_eq!(report, Report { applied: Position(1), accepted: Position(0), held, held_flows: 1 });
    assert_eq!((*position.borrow(), books(&registry, "bytes")), (Position(0), [35, 0, 5, 30]));
    // Ten minutes of waits of up to thirty seconds.
    let attempts = attempts.into_inner().unwrap();
    assert!((20..200).contains(&attempts), "{attempts}");
}

/// Goal: new settings end the wait that the old ones caused, and what was held goes to the new place, once.
#[tokio::test(start_paused = true)]
async fn new_settings_take_over_what_is_held() {
    let Bench { registry, pusher, settings, mut position, batches, received, abandon, .. } =
        bench(Duration::from_secs(1));
    let accepted: Mutex<Vec<(String, Bytes)>> = Mutex::new(Vec::new());
    let refused_once = Notify::new();
    let send = |endpoint: &Endpoint, body: Bytes| {
        let place = endpoint.url().to_string();
        let moved = place.contains("new");
        if moved {
            accepted.lock().unwrap().push((place, body));
        }
        refused_once.notify_one();
        async move { if moved { Answer::Accepted } else { refused(401, Some(250)) } }
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        refused_once.notified().await;
        let changed = config("http: { url: 'http://new.example/' }", Duration::from_secs(1));
        settings.send_replace(Prepared::new(changed).unwrap());
        position.wait_for(|position| *position == Position(1)).await.unwrap();
        drop(batches);
    };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    let places: Vec<_> = accepted.into_inner().unwrap().into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, ["http://new.example/"]);
    assert_eq!(books(&registry, "bytes"), [35, 30, 5, 0]);
}

/// Goal: who does not lead takes batches and pushes nothing, however long; what is held goes once it leads.
#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_by_who_does_not_lead() {
    let (grant, lead) = Lead::elected();
    let Bench { pusher, batches, received, abandon, begun, .. } = bench_led_by(lead, Duration::from_secs(1));
    let attempts = Mutex::new(Vec::new());
    let send = |_: &Endpoint, _| {
        attempts.lock().unwrap().push(begun.elapsed());
        async { Answer::Accepted }
    };
    let feed = async {
        batches.send(Arc::new(batch(1, &[RECORD]))).await.unwrap();
        drop(batches);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        grant.until(Boot::NEVER);
    };
    let (report, ()) = tokio::join!(pusher.drive(cost_api(), send, received, abandon), feed);
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    let attempts: Vec<_> = attempts.into_inner().unwrap().iter().map(Duration::as_secs).collect();
    assert_eq!(attempts, [3600]);
}

/// Goal: an attempt that the lead's end cut off may have been taken; one that it kept from beginning was not.
#[test]
fn an_attempt_cut_off_is_ambiguous_and_one_not_begun_is_not() {
    for (begun, verdict) in [(true, Verdict::Ambiguous), (false, Verdict::Refused)] {
        assert_eq!(Answer::Overdue(Overdue { begun }).verdict(), verdict, "{begun}");
    }
}
