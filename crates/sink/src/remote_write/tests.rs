//! The body of remote write, decoded again.

use egressd_flow::Counter;
use proptest::prelude::*;
use prost::Message;

use super::encode::STALE_NAN;
use super::proto::WriteRequest;
use super::*;
use crate::config::{Access, Authentication, Credential, Temporality};
use crate::tests::{batch, cluster_of, seconds};

fn settings(labels: &[(&str, &str)]) -> RemoteWriteSettings {
    RemoteWriteSettings {
        url: crate::Secret::new("http://127.0.0.1/".parse().unwrap()),
        timeout: std::time::Duration::from_secs(1),
        headers: HeaderMap::new(),
        access: Access::default(),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        send_received_bytes_metric: true,
        version: Version::V1,
        temporality: Temporality::Cumulative,
        lanes: 1,
    }
}

fn header(name: &'static str) -> HeaderMap {
    [(HeaderName::from_static(name), HeaderValue::from_static("another"))].into_iter().collect()
}

/// As [`decode`], of 2.0: with when each series began, and what it is.
pub(crate) fn decode_v2(body: &[u8]) -> Vec<String> {
    let message = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let v2::Request { symbols, timeseries } = v2::Request::decode(message.as_slice()).unwrap();
    let unique: std::collections::BTreeSet<_> = symbols.iter().collect();
    assert_eq!((symbols[0].as_str(), unique.len()), ("", symbols.len()));
    let symbol = |at: u32| symbols[usize::try_from(at).unwrap()].as_str();
    let series = timeseries.into_iter().map(|series| {
        let pairs = series.labels_refs.chunks(2);
        let labels = pairs.map(|pair| format!("{}={}", symbol(pair[0]), symbol(pair[1])));
        let v2::Metadata { kind, help_ref, unit_ref } = series.metadata.unwrap();
        assert_eq!((kind, symbol(unit_ref)), (1, "bytes"));
        assert!(symbol(help_ref).starts_with("Bytes "), "{}", symbol(help_ref));
        let samples = series.samples.iter().map(|sample| {
            let v2::Sample { value, timestamp, start_timestamp } = sample;
            match value.to_bits() {
                STALE_NAN => format!("stale@{start_timestamp}..{timestamp}"),
                _ => format!("{value}@{start_timestamp}..{timestamp}"),
            }
        });
        format!("{} {}", labels.collect::<Vec<_>>().join(","), samples.collect::<Vec<_>>().join(" "))
    });
    series.collect()
}

/// Each series of a body as text, in the order of the wire.
pub(crate) fn decode(body: &[u8]) -> Vec<String> {
    let message = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let request = WriteRequest::decode(message.as_slice()).unwrap();
    let series = request.timeseries.into_iter().map(|series| {
        let labels = series.labels.iter().map(|label| format!("{}={}", label.name, label.value));
        let samples = series.samples.iter().map(|sample| match sample.value.to_bits() {
            STALE_NAN => format!("stale@{}", sample.timestamp),
            _ => format!("{}@{}", sample.value, sample.timestamp),
        });
        format!("{} {}", labels.collect::<Vec<_>>().join(","), samples.collect::<Vec<_>>().join(" "))
    });
    series.collect()
}

/// The samples of a whole push at a time in seconds, every request accepted.
fn push(sink: &mut RemoteWrite, now: u64) -> Vec<String> {
    let mut series = Vec::new();
    sink.begin();
    while let Some(body) = sink.request(0, seconds(now)) {
        series.extend(decode(&body));
        sink.settle(0, Verdict::Accepted, seconds(9));
    }
    series.iter().map(|series| series.rsplit_once(' ').unwrap().1.to_owned()).collect()
}

/// Goal: names are sorted with the custom labels among them, empty values are left out, and the scratch message
/// leaks nothing of one series into the next.
#[test]
fn series_are_sorted_and_complete() {
    let mut sink =
        RemoteWrite::bounded(settings(&[("Team", "a"), ("env", "prod"), ("none", "")]), 64, 100, usize::MAX);
    let lines = [
        "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1",
        "web/app@n1/a 10.0.0.1 > folded - udp rx=20/2 undirected=30/3",
        "web/app@n1/a 10.0.0.1 > @n2/a 10.0.1.3 tcp tx=1/1",
    ];
    sink.apply(&batch(1, &lines), seconds(1));
    sink.begin();
    let zeros = decode(&sink.request(0, seconds(15)).unwrap());
    sink.settle(0, Verdict::Accepted, seconds(9));
    let totals = decode(&sink.request(0, seconds(15)).unwrap());
    let (name, local) =
        ("Team=a,__name__=egressd", "src_ip=10.0.0.1,src_namespace=web,src_node=n1,src_pod=app,src_zone=a");
    let expected = [
        format!(
            "{name}_transmit_bytes_total,cross_zone=true,dst_ip=10.0.1.2,dst_ip_type=private,dst_namespace=pg,\
             dst_node=n2,dst_pod=db,dst_zone=b,env=prod,proto=TCP,{local} 10@15001"
        ),
        format!("{name}_received_bytes_total,env=prod,proto=UDP,{local} 20@15001"),
        format!("{name}_undirected_bytes_total,env=prod,proto=UDP,{local} 30@15001"),
        format!(
            "{name}_transmit_bytes_total,cross_zone=false,dst_ip=10.0.1.3,dst_ip_type=private,dst_node=n2,\
             dst_zone=a,env=prod,proto=TCP,{local} 1@15001"
        ),
    ];
    assert_eq!(totals, expected);
    let without_value = |series: &String| series.rsplit_once(' ').unwrap().0.to_owned();
    assert_eq!(
        zeros,
        expected.iter().map(|series| format!("{} 0@15000", without_value(series))).collect::<Vec<_>>()
    );
}

/// Goal: another place or other labels begin every series from zero with what was not accepted; other headers and
/// what is asked for do not.
#[test]
fn another_place_gets_what_the_old_one_did_not_accept() {
    let (anew, goes_on) = (vec!["0@30000", "5@30001"], vec!["25@30000"]);
    let secret = || Credential::Value(crate::Secret::new("k3y".to_owned()));
    let of = |authentication| Access { authentication: Some(authentication), ..Access::default() };
    let user = of(Authentication::Basic { username: "tenant".to_owned(), password: secret() });
    let bearer = of(Authentication::Bearer(secret()));
    let other_url = crate::Secret::new("http://other.example/".parse().unwrap());
    let mut with_password = settings(&[]).url.expose().clone();
    with_password.set_password(Some("k3y")).unwrap();
    let with_password = crate::Secret::new(with_password);
    for (changed, expected) in [
        (RemoteWriteSettings { url: with_password, ..settings(&[]) }, &goes_on),
        (RemoteWriteSettings { url: other_url, ..settings(&[]) }, &anew),
        (settings(&[("team", "b")]), &anew),
        (RemoteWriteSettings { headers: header("x-scope-orgid"), ..settings(&[]) }, &anew),
        (RemoteWriteSettings { access: user, ..settings(&[]) }, &anew),
        (RemoteWriteSettings { access: bearer, ..settings(&[]) }, &goes_on),
        (RemoteWriteSettings { headers: header("authorization"), ..settings(&[]) }, &goes_on),
        (RemoteWriteSettings { timeout: std::time::Duration::from_secs(9), ..settings(&[]) }, &goes_on),
        (RemoteWriteSettings { send_received_bytes_metric: false, ..settings(&[]) }, &goes_on),
    ] {
        let mut sink = RemoteWrite::bounded(settings(&[]), 64, 100, usize::MAX);
        let flow = "web/app@n1/a 10.0.0.1 > folded - udp";
        sink.apply(&batch(1, &[&format!("{flow} tx=20/2")]), seconds(1));
        assert_eq!(push(&mut sink, 15), ["0@15000", "20@15001"]);
        sink.apply(&batch(2, &[&format!("{flow} tx=5/1")]), seconds(16));
        sink.begin();
        assert!(sink.request(0, seconds(17)).is_some(), "a request that is refused");
        sink.reconfigure(&Kind::RemoteWrite(changed));
        assert_eq!(&push(&mut sink, 30), expected);
        let Standing { held, accepted, .. } = sink.standing();
        assert_eq!((held.0, accepted), (Counter::default(), egressd_flow::Position(2)));
    }
}

/// Goal: the end of a series is the one NaN that means it, bit by bit.
#[test]
fn stale_marker_keeps_its_bits() {
    let mut sink = RemoteWrite::bounded(settings(&[]), 64, 100, usize::MAX);
    sink.apply(&batch(1, &["web/app@n1/a 10.0.0.1 > folded - udp tx=20/2"]), seconds(1));
    let samples = [15, 700].map(|now| push(&mut sink, now)).concat();
    assert_eq!(samples, ["0@15000", "20@15001", "stale@700000"]);
}

/// Goal: a large cluster goes out in several requests, none over the bound of bytes and each as full as it may be;
/// every series gets its zero and its total once, a repeated request says the same series, and the sum is exact; by
/// either version.
#[test]
fn large_cluster_is_cut_by_bytes() {
    for (version, decode) in [(Version::V1, decode as fn(&[u8]) -> Vec<String>), (Version::V2, decode_v2)] {
        const BYTES_MAX: usize = 20_000;
        let settings = RemoteWriteSettings { version, ..settings(&[("team", "core")]) };
        let mut sink = RemoteWrite::bounded(settings, 1_024, SAMPLES_MAX, BYTES_MAX);
        let received = sink.apply(&cluster_of(400), seconds(1)).received;
        sink.begin();
        let (mut sizes, mut series, mut emitted) = (Vec::new(), Vec::new(), Counter::default());
        while let Some(body) = sink.request(0, seconds(15)) {
            let again = sink.request(0, seconds(15)).unwrap();
            let without_time = |body: &[u8]| -> Vec<String> {
                decode(body).iter().map(|series| series.split_once('@').unwrap().0.to_owned()).collect()
            };
            let said = without_time(&body);
            assert_eq!(said, without_time(&again));
            sizes.push(snap::raw::decompress_len(&body).unwrap());
            series.extend(said);
            emitted += sink.settle(0, Verdict::Accepted, seconds(9)).emitted;
        }
        assert!(sizes.iter().all(|size| *size <= BYTES_MAX), "{sizes:?}");
        // A flow's two series are less than a kilobyte. The sweep of zeros and that of totals each end early.
        let early = sizes.iter().filter(|size| **size < BYTES_MAX - 1_000).count();
        assert!(sizes.len() > 4 && early <= 2, "{sizes:?}");
        assert_eq!(series.len(), 2 * 2 * 400, "zero and total of what was sent and received");
        series.sort();
        series.dedup();
        assert_eq!(series.len(), 2 * 2 * 400, "none twice");
        assert_eq!((emitted, sink.standing().accepted), (received, egressd_flow::Position(1)));
    }
}

fn sink_of(settings: RemoteWriteSettings, line: &str) -> RemoteWrite {
    let mut sink = RemoteWrite::bounded(settings, 64, 100, usize::MAX);
    sink.apply(&batch(1, &[line]), seconds(1));
    sink.begin();
    sink
}

const FLOW: &str = "web/app@n1/a 10.0.0.1 > folded - udp tx=20/2";

/// Goal: a request of 2.0 says when each total began, always before the sample, its end included.
#[test]
fn counters_of_2_0_say_when_they_began() {
    let mut sink = sink_of(RemoteWriteSettings { version: Version::V2, ..settings(&[("Team", "a")]) }, FLOW);
    let labels = "Team=a,__name__=egressd_transmit_bytes_total,proto=UDP,src_ip=10.0.0.1,src_namespace=web,\
                  src_node=n1,src_pod=app,src_zone=a";
    for (now, expected) in [(1, "0@999..1000"), (15, "20@1000..15000"), (700, "stale@1000..700000")] {
        sink.begin();
        assert_eq!(decode_v2(&sink.request(0, seconds(now)).unwrap()), [format!("{labels} {expected}")]);
        sink.settle(0, Verdict::Accepted, seconds(9));
        while now > 1 && sink.request(0, seconds(now)).is_some() {
            sink.settle(0, Verdict::Accepted, seconds(9));
        }
    }
}

/// Goal: after each answer that means that 2.0 is not understood the same content goes by 1.0 and stays there; after
/// every other one 2.0 goes on, and what was accepted and not written is told.
#[test]
fn answers_decide_whether_2_0_goes_on() {
    let refused = |status| Answer::Refused { status, retry_after: None, excerpt: String::new() };
    let [media, bad, busy] =
        [StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE];
    let short = Heard::Unwritten { samples: 1, sent: 1 };
    for (answers, expected, version) in [
        (vec![Answer::Accepted], vec![Heard::NotUnderstood], Version::V1),
        (vec![refused(media)], vec![Heard::NotUnderstood], Version::V1),
        (vec![refused(bad)], vec![Heard::NotUnderstood], Version::V1),
        (vec![refused(busy), Answer::Accepted], vec![Heard::AsItSays, Heard::NotUnderstood], Version::V1),
        (vec![Answer::Written(1), refused(bad)], vec![Heard::AsItSays; 2], Version::V2),
        (vec![Answer::Written(0)], vec![short], Version::V2),
        (vec![Answer::Accepted, refused(bad)], vec![Heard::NotUnderstood, Heard::AsItSays], Version::V1),
    ] {
        let mut sink = sink_of(RemoteWriteSettings { version: Version::V2, ..settings(&[]) }, FLOW);
        let before = decode_v2(&sink.request(0, seconds(15)).unwrap());
        let heard: Vec<_> = answers.iter().map(|answer| sink.hear(0, answer)).collect();
        assert_eq!(heard, expected, "{answers:?}");
        let body = sink.request(0, seconds(16)).unwrap();
        let after = match version {
            Version::V1 => decode(&body),
            Version::V2 => decode_v2(&body),
        };
        let content = |series: &[String]| series[0].split_once('@').unwrap().0.to_owned();
        assert_eq!(content(&before), content(&after), "{answers:?}");
        let header = HeaderValue::from_static(if version == Version::V1 { "0.1.0" } else { "2.0.0" });
        assert_eq!(sink.headers()[1], (VERSION_HEADER, header));
    }
}

/// Goal: growth is emitted once; one that may have been taken is said again bit by bit and counted once, and one that
/// was then refused at a later time, which counts of its own.
#[test]
fn growth_that_may_have_been_taken_is_said_again_unchanged() {
    let settings = RemoteWriteSettings { temporality: Temporality::Delta, ..settings(&[]) };
    let mut sink = sink_of(settings, FLOW);
    let growth = Counter { bytes: 20, packets: 2 };
    let mut sample = |now: u64, verdict| {
        let body = sink.request(0, seconds(now)).map(|body| decode(&body));
        let sample = body.map(|series| series[0].rsplit_once(' ').unwrap().1.to_owned());
        sink.apply(&batch(now, &["web/app@n1/a 10.0.0.1 > folded - udp tx=1/1"]), seconds(now));
        (sample.unwrap(), sink.settle(0, verdict, seconds(9)))
    };
    let nothing = Settled::default;
    for (now, verdict, said, settled) in [
        (15, Verdict::Ambiguous, "20@15000", Settled { ambiguous: growth, ..nothing() }),
        (16, Verdict::Ambiguous, "20@15000", nothing()),
        (17, Verdict::Refused, "20@15000", nothing()),
        (18, Verdict::Ambiguous, "20@18000", Settled { ambiguous: growth, ..nothing() }),
        (19, Verdict::Accepted, "20@18000", Settled { emitted: growth, ..nothing() }),
    ] {
        assert_eq!(sample(now, verdict), (said.to_owned(), settled), "{now}");
    }
    assert_eq!(sink.request(0, seconds(20)), None);
    assert_eq!(push(&mut sink, 20), ["5@20000"]);
    assert_eq!(sink.standing().held.0, Counter::default());
}

/// Goal: the protocol's headers are there, whatever the configuration says beside them.
#[test]
fn headers_are_the_protocols() {
    let configured: HeaderMap =
        [(HeaderName::from_static("x-scope-orgid"), HeaderValue::from_static("tenant"))]
            .into_iter()
            .collect();
    let headers = headers(&configured);
    for (name, value) in [
        ("content-encoding", "snappy"),
        ("user-agent", concat!("egressd/v", env!("CARGO_PKG_VERSION"))),
        ("x-scope-orgid", "tenant"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(headers.len(), 3);
}

/// What becomes of one request of growth, and the traffic of one flow while it is under way.
#[derive(Clone, Copy, Debug)]
struct Fate {
    stored: bool,
    verdict: Verdict,
    host: u8,
    bytes: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let outcome = prop_oneof![
        Just((true, Verdict::Accepted)),
        Just((true, Verdict::Ambiguous)),
        Just((false, Verdict::Ambiguous)),
        Just((false, Verdict::Refused)),
    ];
    (outcome, 0..5_u8, 1..1000_u64).prop_map(|((stored, verdict), host, bytes)| Fate {
        stored,
        verdict,
        host,
        bytes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: whatever becomes of requests of growth, a store that keeps a sample once has every byte, and beyond that at
    /// most what was counted as ambiguous; every byte is emitted once; a sample is never said with another value.
    #[test]
    fn growth_arrives_and_what_may_be_twice_is_counted(fates in proptest::collection::vec(fate(), 0..80)) {
        let settings = RemoteWriteSettings { temporality: Temporality::Delta, ..settings(&[]) };
        let mut sink = RemoteWrite::bounded(settings, 64, 6, usize::MAX);
        let (mut store, mut sums) = (BTreeMap::new(), [Counter::default(); 3]);
        let [received, emitted, ambiguous] = &mut sums;
        let last = Fate { stored: true, verdict: Verdict::Accepted, host: 0, bytes: 0 };
        for (at, fate) in (1..).zip(fates.into_iter().chain(std::iter::repeat_n(last, 20))) {
            let line = format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{} tcp tx={}/1", fate.host, fate.bytes);
            sink.begin();
            let body = sink.request(0, seconds(at));
            if fate.bytes > 0 {
                *received += sink.apply(&batch(at, &[&line]), seconds(at)).received;
            }
            let Some(body) = body else { continue };
            for sample in decode(&body).iter().filter(|_| fate.stored) {
                let (labels, sample) = sample.rsplit_once(' ').unwrap();
                let (value, timestamp) = sample.split_once('@').unwrap();
                let known = store.insert((labels.to_owned(), timestamp.to_owned()), value.to_owned());
                prop_assert!(known.is_none_or(|known| known == value));
            }
            let settled = sink.settle(0, fate.verdict, seconds(9));
            *emitted += settled.emitted;
            *ambiguous += settled.ambiguous;
        }
        let stored: u64 = store.values().map(|value| value.parse::<u64>().unwrap()).sum();
        prop_assert_eq!(*emitted, *received);
        prop_assert_eq!(sink.standing().held.0, Counter::default());
        prop_assert!((received.bytes..=received.bytes + ambiguous.bytes).contains(&stored));
    }
}
