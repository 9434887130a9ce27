//! Sinks that cannot be pushed to, each for a reason of its own, beside one that can.

use std::collections::BTreeMap;
use std::fs;

use egressd_testbed::{
    Authority, Cluster, Comparison, Daemon, Daemons, HttpSink, Ingestion, Load, Programs, RECEIVED, Series,
    Store, TRANSMITTED, flows_by, wait_for,
};

use crate::harness::gentle_plans;
use crate::seconds;

/// The configuration's names, in the order of the ports from the first on.
const SINKS: [&str; 4] = ["expired", "misnamed", "refused", "untrusted"];
const FIRST_PORT: u16 = 8443;

const GOOD: &str = "good";

fn config(good: &Store<'_>) -> String {
    let mut text = format!(
        "exportInterval: 1s\nsinks:\n  {GOOD}: {{ prom_remote_write: {{ url: '{}', sendReceivedBytesMetric: true }} }}\n",
        good.write_url()
    );
    for (name, port) in SINKS.iter().zip(FIRST_PORT..) {
        text.push_str(&format!("  {name}: {{ http: {{ url: 'https://127.0.0.1:{port}/' }} }}\n"));
    }
    text
}

/// What the exporter must say of each.
fn expected() -> BTreeMap<&'static str, String> {
    let reasons = [
        (
            "the server's certificate has expired, at 2001-01-01T00:00:00Z",
            "renew the server's certificate; if it is new, check the clocks",
        ),
        (
            "the server's certificate is for another name: 127.0.0.1 was asked for, it is for other.example",
            "write one of the certificate's names as the host of the sink's url, or have the server's certificate \
             issued for that host",
        ),
        (
            "connection refused: the host is there and nothing listens on the port",
            "check host and port of the sink's url, and that its server runs",
        ),
        (
            "the server's certificate is not trusted: no authority that this process knows has signed it",
            "if the authority is your own, name its certificate in the sink's tls.caFile; if there is none, the \
             answer may not be the sink's",
        ),
    ];
    let line = |((name, port), (cause, advice)): ((&&'static str, u16), (&str, &str))| {
        let text = format!(
            "WARN push failed, data kept, trying again sink=\"{name}\" origin=\"https://127.0.0.1:{port}\" \
             error={cause} advice=\"{advice}\" outcome=not_connected withheld=0"
        );
        (*name, text)
    };
    SINKS.iter().zip(FIRST_PORT..).zip(reasons).map(line).collect()
}

/// The failures in a log by sink, without their times.
fn failures(daemon: &mut Daemon<'_>) -> BTreeMap<&'static str, String> {
    let log = fs::read_to_string(daemon.process().log()).unwrap();
    let of_sink = |name: &&'static str| {
        let is_it = |line: &&str| line.contains("push ") && line.contains(&format!("sink=\"{name}\""));
        let (_, text) = log.lines().find(is_it)?.split_once(" ")?;
        Some((*name, text.trim_start().to_owned()))
    };
    SINKS.iter().chain([&GOOD]).filter_map(of_sink).collect()
}

/// Goal: sinks that are not there, or whose certificate is not trusted, for another name or expired, are each named
/// with the cause and what to do; the sink beside them is not disturbed; once mended, each gets every byte once.
#[test]
fn failing_sinks_are_named_and_harm_nothing() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let [trusted, unknown] = ["trusted", "unknown"].map(|name| Authority::generate(name).unwrap());
    let store = cluster.write_file("trusted.pem", &trusted.pem()).unwrap();
    let good = Store::prometheus(&cluster).unwrap();
    let host = "127.0.0.1";
    let certificates = [
        trusted.expired_certificate(host).unwrap(),
        trusted.certificate("other.example").unwrap(),
        trusted.certificate(host).unwrap(),
        unknown.certificate(host).unwrap(),
    ];
    let mut sinks = Vec::new();
    for (certificate, port) in certificates.iter().zip(FIRST_PORT..) {
        sinks.push(HttpSink::start_tls(&cluster, port, certificate).unwrap());
    }
    sinks[2].go_away();
    let environment = [("SSL_CERT_FILE", store.to_str().unwrap())];
    let mut daemons = Daemons::start(&cluster, &programs, &config(&good), &environment).unwrap();
    let load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();

    wait_for("a word on every failing sink", seconds(30), || {
        let failures = failures(&mut daemons.exporter);
        Ok(if failures.len() == SINKS.len() { Ok(()) } else { Err(format!("{failures:?}")) })
    })
    .unwrap();
    let said = failures(&mut daemons.exporter);
    assert_eq!(said, expected());
    said.values().for_each(|line| println!("{line}"));
    let accepted = |daemons: &Daemons<'_>, sink| {
        let labels = [("sink", sink), ("outcome", "accepted")];
        let metric = "egressd_exporter_sink_pushes_total";
        daemons.exporter.metric(metric, &labels).unwrap().unwrap_or(0)
    };
    wait_for("the good sink to go on", seconds(30), || {
        let pushes = accepted(&daemons, GOOD);
        Ok(if pushes >= 6 { Ok(()) } else { Err(pushes.to_string()) })
    })
    .unwrap();
    assert_eq!(SINKS.map(|sink| accepted(&daemons, sink)), [0; 4]);
    assert!(sinks.iter().all(|sink| sink.requests().is_empty()));

    let valid = trusted.certificate(host).unwrap();
    sinks.iter().for_each(|sink| sink.present(&valid));
    sinks[2].come_back().unwrap();
    load.finish().unwrap();
    let truth = cluster.truth().unwrap();
    let mut ingestions = sinks.iter().map(|_| Ingestion::new(&cluster).unwrap()).collect::<Vec<_>>();
    let settled = wait_for("every byte at every sink", seconds(60), || {
        let series = good.series(&format!("{{__name__=~\"{TRANSMITTED}|{RECEIVED}\"}}[1h]"), None)?;
        let stored = Comparison::of(&truth, &flows_by(Series::last_value, &series)?);
        let mut differences = vec![stored.difference_bytes()];
        for (ingestion, sink) in ingestions.iter_mut().zip(&sinks) {
            let comparison = Comparison::of(&truth, ingestion.flows(sink)?);
            differences.push(comparison.difference_bytes() + comparison.difference_packets());
        }
        Ok(if differences == [0; 5] { Ok(()) } else { Err(format!("{differences:?}")) })
    });
    settled.unwrap_or_else(|error| panic!("{error:?}\n{}", daemons.log_tails()));
    println!("failing sinks: tx {} B, difference 0 at each of 5 sinks", truth.total().tx_bytes);
    daemons.end().unwrap();
}
