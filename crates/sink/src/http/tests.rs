//! The cost API's body, read by a decoder that knows nothing of this crate.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;

use super::*;
use crate::tests::{batch, cluster_of, seconds};

fn settings(gzip: bool) -> HttpSettings {
    HttpSettings {
        url: crate::Secret::new("http://127.0.0.1/".parse().unwrap()),
        method: reqwest::Method::POST,
        gzip,
        timeout: std::time::Duration::from_secs(1),
        headers: HeaderMap::new(),
        access: crate::config::Access::default(),
        lanes: 1,
    }
}

/// The next request, with all that is due before it kept.
fn noted_request(api: &mut CostApi, now: UnixNanos) -> Option<Bytes> {
    for _ in 0..3 {
        if api.is_due() {
            api.state();
            api.kept();
        }
        if let Some(body) = api.request(0, now) {
            return Some(body);
        }
    }
    None
}

/// `protoc --decode` with the schema of `proto/`.
fn decode(body: &[u8]) -> String {
    let schemas = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/castai/v1");
    let mut protoc = Command::new("protoc")
        .args([
            &format!("--proto_path={schemas}"),
            "--decode=PodNetworkMetricBatch",
            "pod_network_metrics.proto",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("protoc is installed (Debian: protobuf-compiler)");
    protoc.stdin.take().unwrap().write_all(body).unwrap();
    let output = protoc.wait_with_output().unwrap();
    assert!(output.status.success(), "protoc: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Goal: every field stands where the contract has it, as a second decoder reads it.
#[test]
fn body_is_what_protoc_reads() {
    let mut api = CostApi::new(&settings(false));
    api.apply(
        &batch(
            1,
            &[
                "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2",
                "web/app@n1/a 10.0.0.1 > unknown :: 58 tx=300/3",
                "web/app@n1/a 10.0.0.1 > dns:api.example.com 0.0.0.0 tcp tx=5/1",
                "web/app@n1/a 10.0.0.1 > dns:db.example.com 0.0.0.0 tcp tx=6/1",
                "web/app@n1/a 10.0.0.1 > dns:api.example.com 0.0.0.0 tcp tx=7/1",
                "web/app@n1/a 10.0.0.1 > folded - udp rx=18446744073709551615/4",
            ],
        ),
        seconds(1),
    );
    api.begin();
    let body = api.request(0, seconds(1)).unwrap();
    let local = r#"src_ip: "10.0.0.1" src_pod: "app" src_namespace: "web" src_node: "n1" src_zone: "a""#;
    let expected = [
        r#"dst_ip: "10.0.1.2" dst_pod: "db" dst_namespace: "pg" dst_node: "n2" dst_zone: "b"
           tx_bytes: 10 tx_packets: 1 rx_bytes: 20 rx_packets: 2 proto: 6"#,
        r#"dst_ip: "::" tx_bytes: 300 tx_packets: 3 proto: 58"#,
        r#"dst_ip: "0.0.0.0" tx_bytes: 12 tx_packets: 2 proto: 6 dst_dns_name: "api.example.com""#,
        r#"dst_ip: "0.0.0.0" tx_bytes: 6 tx_packets: 1 proto: 6 dst_dns_name: "db.example.com""#,
        "rx_bytes: 9223372036854775807 rx_packets: 4 proto: 17",
        "rx_bytes: 9223372036854775807 proto: 17",
        "rx_bytes: 1 proto: 17",
    ];
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let expected: Vec<_> =
        expected.iter().map(|item| format!("items {{ {local} {} }}", words(item))).collect();
    assert_eq!(words(&decode(&body)), expected.join(" "));
}

/// Goal: a request that is sent again is the same byte for byte, though more has come in; compressed too.
#[test]
fn request_is_the_same_until_accepted() {
    let batches = [1, 2].map(|position| {
        batch(position, &["web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2"])
    });
    let mut bodies = Vec::new();
    for gzip in [false, true] {
        let mut api = CostApi::new(&settings(gzip));
        api.apply(&batches[0], seconds(1));
        api.begin();
        let first = api.request(0, seconds(1)).unwrap();
        api.apply(&batches[1], seconds(2));
        api.begin();
        assert_eq!(api.settle(0, Verdict::Refused, seconds(9)), Settled::default());
        assert_eq!(api.request(0, seconds(3)), Some(first.clone()));
        bodies.push(first);
    }
    let mut plain = Vec::new();
    GzDecoder::new(bodies[1].as_ref()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, bodies[0]);
}

/// Goal: bytes that may have been taken are counted for each attempt that may have left them there: what the destination
/// may have too many is never more than that.
#[test]
fn ambiguous_bytes_are_counted_once_an_attempt() {
    let mut api = CostApi::new(&settings(false));
    let record = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2";
    let all = Counter { bytes: 30, packets: 3 };
    for position in [1, 2] {
        api.apply(&batch(position, &[record]), seconds(position));
        api.begin();
        for (verdict, expected) in [
            (Verdict::Refused, Settled::default()),
            (Verdict::Ambiguous, Settled { ambiguous: all, ..Settled::default() }),
            (Verdict::Failed, Settled { ambiguous: all, ..Settled::default() }),
            (Verdict::Accepted, Settled { emitted: all, ..Settled::default() }),
        ] {
            assert!(api.request(0, seconds(position)).is_some());
            assert_eq!(api.settle(0, verdict, seconds(9)), expected, "{verdict:?}");
        }
        assert_eq!(api.request(0, seconds(position)), None);
    }
}

/// Goal: a large cluster goes out in several requests, none over the bound of bytes and each as full as it may be; a
/// repeated request is the same byte for byte, every flow is said once, and the sum is exact.
#[test]
fn large_cluster_is_cut_by_bytes() {
    const BYTES_MAX: usize = 10_000;
    let mut api = CostApi::bounded(&settings(false), BYTES_MAX);
    let received = api.apply(&cluster_of(400), seconds(1)).received;
    api.begin();
    let (mut sizes, mut remotes, mut emitted) = (Vec::new(), Vec::new(), Counter::default());
    while let Some(body) = api.request(0, seconds(15)) {
        assert_eq!(api.request(0, seconds(16)), Some(body.clone()));
        sizes.push(body.len());
        let items = PodNetworkMetricBatch::decode(body).unwrap().items;
        remotes.extend(items.into_iter().map(|item| item.dst_ip));
        emitted += api.settle(0, Verdict::Accepted, seconds(9)).emitted;
    }
    assert!(sizes.iter().all(|size| *size <= BYTES_MAX), "{sizes:?}");
    let early = sizes.iter().filter(|size| **size < BYTES_MAX - 200).count();
    assert!(sizes.len() > 3 && early == 1, "{sizes:?}");
    remotes.sort();
    remotes.dedup();
    assert_eq!(remotes.len(), 400);
    assert_eq!((emitted, api.standing().accepted), (received, egressd_flow::Position(1)));
}

/// Goal: wherever a life ends amid a range of several requests, the next one builds the range again from the spool, says
/// what was not noted as accepted, byte for byte, and counts the first of it as ambiguous; what was accepted before is
/// let out without being said, and what has come since goes with the next range.
#[test]
fn a_range_goes_on_where_the_life_before_was() {
    const BYTES_MAX: usize = 10_000;
    let (cluster, later) = (cluster_of(400), batch(2, &["web/a@n1/a 10.0.0.1 > unknown 8.8.8.1 tcp tx=1/1"]));
    let resume = |state: &[u8]| {
        let mut api = CostApi::bounded(&settings(false), BYTES_MAX);
        let state = Some(state.to_vec());
        let resume = Resume { position: Position(0), state, caught_up: Position(2) };
        api.resume(&resume, seconds(1)).unwrap();
        api
    };
    let mut api = resume(&[]);
    let received = api.apply(&cluster, seconds(1)).received;
    let (mut notes, mut bodies, mut emitted) = (Vec::new(), Vec::new(), Vec::new());
    api.begin();
    while api.is_pushing() {
        assert_eq!(api.request(0, seconds(15)), None, "each request is noted before");
        let (position, note) = api.state();
        api.kept();
        let Some(body) = api.request(0, seconds(15)) else { break };
        assert_eq!((position, api.has_room()), (Position(0), false));
        notes.push(note);
        bodies.push(body);
        emitted.push(api.settle(0, Verdict::Accepted, seconds(9)).emitted);
    }
    assert_eq!(api.state(), (Position(1), vec![]));
    assert!(bodies.len() > 3, "{}", bodies.len());

    for (at, note) in notes.iter().enumerate() {
        let mut next = resume(note);
        assert_eq!(next.apply(&cluster, seconds(20)).received, received);
        next.apply(&later, seconds(20));
        assert!(!next.has_room());
        let mut ambiguous = Counter::default();
        let mut again = Counter::default();
        for body in &bodies[at..] {
            next.begin();
            assert_eq!(noted_request(&mut next, seconds(21)).as_ref(), Some(body));
            let settled = next.settle(0, Verdict::Accepted, seconds(9));
            again += settled.emitted;
            ambiguous += settled.ambiguous;
        }
        assert_eq!((again, ambiguous), (received, emitted[at]));
        while next.is_pushing() {
            assert_eq!(noted_request(&mut next, seconds(22)), None);
        }
        assert_eq!(next.state(), (Position(1), vec![]));
        next.kept();
        next.begin();
        let items =
            PodNetworkMetricBatch::decode(noted_request(&mut next, seconds(23)).unwrap()).unwrap().items;
        assert_eq!(items.len(), 1);
    }
}

/// Goal: of a note that is damaged, everything that the life before may have said goes again and is ambiguous; a note
/// of what is long accepted says nothing.
#[test]
fn a_damaged_note_makes_everything_ambiguous() {
    let line = "web/a@n1/a 10.0.0.1 > unknown 8.8.8.1 tcp tx=1/1";
    for (state, expected) in [(None, 2), (Some(vec![0]), 2), (Some(vec![]), 0)] {
        let mut api = CostApi::new(&settings(false));
        let is_damaged = state != Some(vec![]);
        let resume = Resume { position: Position(3), state, caught_up: Position(5) };
        assert_eq!(api.resume(&resume, seconds(1)).is_err(), is_damaged);
        api.apply(&batch(4, &[line]), seconds(1));
        if is_damaged {
            api.begin();
            assert!(!api.is_pushing(), "the range is not whole");
        }
        api.apply(&batch(5, &[line]), seconds(1));
        api.begin();
        assert!(noted_request(&mut api, seconds(2)).is_some());
        let both = Counter { bytes: 2, packets: 2 };
        let ambiguous = Counter { bytes: expected, packets: expected };
        let expected = Settled { emitted: both, ambiguous, ..Settled::default() };
        assert_eq!(api.settle(0, Verdict::Accepted, seconds(9)), expected);
    }
}

/// Goal: a flow that is larger than the bound by itself still goes, in a request of its own.
#[test]
fn oversized_flow_goes_by_itself() {
    let mut api = CostApi::bounded(&settings(false), 1);
    let lines = [
        "web/a@n1/a 10.0.0.1 > unknown 8.8.8.1 tcp tx=1/1",
        "web/a@n1/a 10.0.0.1 > unknown 8.8.8.2 tcp tx=1/1",
    ];
    api.apply(&batch(1, &lines), seconds(1));
    api.begin();
    let mut items = Vec::new();
    while let Some(body) = api.request(0, seconds(15)) {
        items.push(PodNetworkMetricBatch::decode(body).unwrap().items.len());
        api.settle(0, Verdict::Accepted, seconds(9));
    }
    assert_eq!(items, [1, 1]);
}

/// Goal: the configuration may say everything but the encoding.
#[test]
fn headers_have_defaults_that_the_configuration_may_replace() {
    let configured: HeaderMap = [("x-api-key", "secret"), ("user-agent", "mine")]
        .map(|(name, value)| pair(name, value))
        .into_iter()
        .collect();
    let both = headers(&configured, true);
    for (name, value) in [
        ("content-type", "application/protobuf"),
        ("content-encoding", "gzip"),
        ("user-agent", "mine"),
        ("x-api-key", "secret"),
    ] {
        assert_eq!(both[name], value);
    }
    let neither = headers(&HeaderMap::new(), false);
    assert_eq!(neither["user-agent"], concat!("castai-egressd/v", env!("CARGO_PKG_VERSION")));
    assert_eq!(neither.len(), 2);
}

fn pair(name: &str, value: &str) -> (reqwest::header::HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}
