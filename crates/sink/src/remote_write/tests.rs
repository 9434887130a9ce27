//! The body of remote write, decoded again.

use prost::Message;

use super::encode::STALE_NAN;
use super::proto::WriteRequest;
use super::*;
use crate::config::{Access, Authentication, Credential};
use crate::tests::{batch, cluster_of, seconds};

fn settings(labels: &[(&str, &str)]) -> RemoteWriteSettings {
    RemoteWriteSettings {
        url: crate::Secret::new("http://127.0.0.1/".parse().unwrap()),
        timeout: std::time::Duration::from_secs(1),
        headers: HeaderMap::new(),
        access: Access::default(),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        send_received_bytes_metric: true,
    }
}

fn header(name: &'static str) -> HeaderMap {
    [(HeaderName::from_static(name), HeaderValue::from_static("another"))].into_iter().collect()
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
    while let Some(body) = sink.request(seconds(now)) {
        series.extend(decode(&body));
        sink.settle(Verdict::Accepted, seconds(9));
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
    let zeros = decode(&sink.request(seconds(15)).unwrap());
    sink.settle(Verdict::Accepted, seconds(9));
    let totals = decode(&sink.request(seconds(15)).unwrap());
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
    for (changed, expected) in [
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
        assert!(sink.request(seconds(17)).is_some(), "a request that is refused");
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
/// every series gets its zero and its total once, a repeated request says the same series, and the sum is exact.
#[test]
fn large_cluster_is_cut_by_bytes() {
    const BYTES_MAX: usize = 20_000;
    let mut sink = RemoteWrite::bounded(settings(&[("team", "core")]), 1_024, SAMPLES_MAX, BYTES_MAX);
    let received = sink.apply(&cluster_of(400), seconds(1)).received;
    sink.begin();
    let (mut sizes, mut series, mut emitted) = (Vec::new(), Vec::new(), Counter::default());
    while let Some(body) = sink.request(seconds(15)) {
        let again = sink.request(seconds(15)).unwrap();
        let without_time = |body: &[u8]| -> Vec<String> {
            decode(body).iter().map(|series| series.split_once('@').unwrap().0.to_owned()).collect()
        };
        let said = without_time(&body);
        assert_eq!(said, without_time(&again));
        sizes.push(snap::raw::decompress_len(&body).unwrap());
        series.extend(said);
        emitted += sink.settle(Verdict::Accepted, seconds(9)).emitted;
    }
    assert!(sizes.iter().all(|size| *size <= BYTES_MAX), "{sizes:?}");
    // A flow's two series are less than a kilobyte. The sweep of zeros and that of totals each end early.
    let early = sizes.iter().filter(|size| **size < BYTES_MAX - 1_000).count();
    assert!(sizes.len() > 10 && early <= 2, "{sizes:?}");
    assert_eq!(series.len(), 2 * 2 * 400, "zero and total of what was sent and received");
    series.sort();
    series.dedup();
    assert_eq!(series.len(), 2 * 2 * 400, "none twice");
    assert_eq!((emitted, sink.standing().accepted), (received, egressd_flow::Position(1)));
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
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "snappy"),
        ("x-prometheus-remote-write-version", "0.1.0"),
        ("user-agent", concat!("egressd/v", env!("CARGO_PKG_VERSION"))),
        ("x-scope-orgid", "tenant"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(headers.len(), 5);
}
