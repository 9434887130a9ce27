//! The whole way, end to end: the kernel's conntrack, both daemons, a real Prometheus, a real VictoriaMetrics and a
//! fake cost API, against nft's counters; undisturbed, over outages and kills, and while one exporter takes over from another.
//!
//! These tests need root, `ip`, `nft`, `prometheus`, `victoria-metrics`, `protoc` and `gzip`, and the daemons beside the
//! test executable (`cargo build --workspace --bins`); followers of flows need the Python environment that
//! `cargo xtask test` makes below the target folder. Each runs on a cluster of its own and mostly waits, so they are
//! best run all at once: `--test-threads=4`. `--nocapture` shows the figures of each run.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail and speak like tests")]

mod answers;
mod cilium;
mod contract;
mod failing_sinks;
mod followers;
mod found_later;
mod from_kubernetes;
mod harness;
mod killed;
mod least_privilege;
mod lives;
mod names;
mod published;
mod requests;
mod secured;
mod takeover;
mod versions;

use std::thread;
use std::time::Duration;

use egressd_testbed::{Answer, Cluster, Comparison, Flows, GRPC_PORT, Series, TRANSMITTED, standard_plans};

use crate::harness::{Harness, gentle_plans};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Goal: undisturbed, every byte of every flow arrives under its name, once, at four destinations at the same time: two
/// stores, a receiver that records, and the cost API; each in the form that it expects, with its own labels and headers.
#[test]
fn every_byte_reaches_every_destination() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("undisturbed", &cluster, &standard_plans(None));
    run.pass(seconds(15));
    let truth = run.finish(Series::last_value);

    let series = run.series().unwrap();
    contract::check_labels(&series, &truth);
    contract::check_requests(&run.cost_api);
    contract::check_own_labels(&run.victoria_metrics.series(harness::ALL_SAMPLES, None).unwrap());
    let (requests, recorded) = run.recorded();
    contract::check_recorded(&requests, &recorded, &truth);
    run.say(&format!("recorder: {} requests, {} series, difference 0 B", requests.len(), recorded.len()));
    run.check_increase(&truth);
    check_that_checks_fail(&mut run, truth);
}

/// One byte of one flow is one byte of difference at either destination.
fn check_that_checks_fail(run: &mut Harness<'_>, mut truth: Flows) {
    let in_prometheus = run.in_prometheus(Series::last_value);
    let in_cost_api = run.in_cost_api();
    truth.0.values_mut().next().unwrap().tx_bytes += 1;
    for exported in [&in_prometheus, in_cost_api] {
        assert_eq!(Comparison::of(&truth, exported).difference_bytes(), 1);
    }
}

/// Goal: a configuration that changes amid traffic loses nothing: what a sink held while its key was refused goes with
/// the new key, and series under another label go on with what those before did not have.
#[test]
fn a_configuration_that_changes_amid_traffic_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("configuration changed", &cluster, &gentle_plans());
    run.pass(seconds(5));
    run.cost_api.answer(Answer::Status(401));
    run.pass(seconds(5));
    assert!(run.pushes("castai", "client_error") > 0);
    run.change_config(&[("X-API-Key: \"${API_KEY}\"", "X-API-Key: rotated"), ("team: core", "team: moved")]);
    run.cost_api.answer(Answer::Status(200));
    run.pass(seconds(5));
    run.finish(Series::last_value);

    let of_team = |team: &str| -> u64 {
        let series = run.series().unwrap().into_iter();
        let of_team = series.filter(|one| one.labels.get("team").map(String::as_str) == Some(team));
        of_team.map(|one| one.last_value()).sum()
    };
    let keys: Vec<_> = run
        .cost_api
        .accepted()
        .iter()
        .map(|request| request.header("x-api-key").unwrap().to_owned())
        .collect();
    let rotated = keys.iter().filter(|key| *key == "rotated").count();
    run.say(&format!(
        "{} B under the old label, {} B under the new one; {rotated} of {} pushes with the new key",
        of_team("core"),
        of_team("moved"),
        keys.len()
    ));
    assert!(of_team("core") > 0 && of_team("moved") > 0 && keys[0] == harness::API_KEY && rotated > 0);
}

/// Goal: while a node's stream is cut its collector keeps what it measures, and afterwards nothing is missing or twice.
#[test]
fn a_stream_cut_for_a_minute_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("stream cut", &cluster, &gentle_plans());
    run.pass(seconds(8));
    cluster.cut_stream("node-a", GRPC_PORT).unwrap();
    // What was on its way has arrived by then.
    run.pass(seconds(10));
    let held_early = run.collector_metric("node-a", "egressd_collector_window_held_bytes");
    let exported_early = run.in_prometheus(Series::last_value);
    run.pass(seconds(50));
    let held_late = run.collector_metric("node-a", "egressd_collector_window_held_bytes");
    let exported_late = run.in_prometheus(Series::last_value);
    run.say(&format!("the window held {held_early} B after 10 s of the cut and {held_late} B after 60 s"));

    assert!(0 < held_early && held_early < held_late, "{held_early} {held_late}");
    assert_eq!(run.collector_metric("node-a", "egressd_collector_window_connected"), 0);
    assert_eq!(exported_early.of_node("node-a"), exported_late.of_node("node-a"));
    let of_other = |flows: &Flows| flows.of_node("node-b").total().tx_bytes;
    assert!(of_other(&exported_early) < of_other(&exported_late));
    assert_eq!(run.collector_metric("node-b", "egressd_collector_window_connected"), 1);

    cluster.restore_stream("node-a").unwrap();
    run.pass(seconds(5));
    run.finish(Series::last_value);
}

/// Goal: an exporter that is told to stop lets out what it has taken and the next one goes on from there, so that the
/// sum over the counters' reset and the sum of deltas are the truth.
#[test]
fn an_exporter_stopped_and_started_a_minute_later_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("exporter stopped", &cluster, &gentle_plans());
    run.pass(seconds(8));
    run.stop_exporter();
    let (truth, _) = run.compare(Series::increments).unwrap();
    let left = run.in_prometheus(Series::increments);
    let difference = Comparison::of(&left, run.in_cost_api()).difference_bytes();
    assert_eq!(difference, 0, "both destinations were told the same: {left:#?} {:#?}", run.in_cost_api());

    run.pass(seconds(60));
    let (later, _) = run.compare(Series::increments).unwrap();
    assert_eq!(run.in_prometheus(Series::increments), left, "nobody pushes");
    assert!(truth.total().tx_bytes < later.total().tx_bytes, "traffic goes on");
    run.start_exporter();
    run.pass(seconds(5));
    run.finish(Series::increments);
    let resets = run.series().unwrap().iter().filter(|one| one.increments() > one.last_value()).count();
    assert!(resets > 0, "no series was reset: this run has not shown what it should");
}

/// Goal: a destination that is away for a minute gets everything afterwards, once, and the other one does not notice.
#[test]
fn a_sink_away_for_a_minute_loses_nothing() {
    thread::scope(|scope| {
        let runs = [scope.spawn(cost_api_away), scope.spawn(prometheus_away)];
        for run in runs {
            run.join().unwrap();
        }
    });
}

/// Gone for half a minute, then overloaded for another.
fn cost_api_away() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("cost API away", &cluster, &gentle_plans());
    run.pass(seconds(8));
    run.cost_api.go_away();
    let (accepted, pushed) = (run.cost_api.accepted().len(), run.pushes("prom", "accepted"));
    run.pass(seconds(30));
    run.cost_api.answer(Answer::Status(503));
    run.cost_api.come_back().unwrap();
    run.pass(seconds(30));

    assert_eq!(run.cost_api.accepted().len(), accepted);
    assert!(run.pushes("castai", "not_connected") > 0 && run.pushes("castai", "server_error") > 0);
    let pushed = run.pushes("prom", "accepted") - pushed;
    let samples = run.prometheus.series(&format!("max(count_over_time({TRANSMITTED}[50s]))"), None).unwrap();
    let samples = samples[0].last_value();
    run.say(&format!("meanwhile {pushed} pushes to Prometheus, {samples} samples a series in the last 50 s"));
    assert!(pushed >= 20 && samples >= 20, "{pushed} {samples}");

    run.cost_api.answer(Answer::Status(200));
    run.pass(seconds(5));
    run.finish(Series::last_value);
}

/// Killed, and started again on the same data.
fn prometheus_away() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("Prometheus away", &cluster, &gentle_plans());
    run.pass(seconds(8));
    run.prometheus.kill().unwrap();
    let (requests, bytes) = (run.cost_api.accepted().len(), run.in_cost_api().total().tx_bytes);
    run.pass(seconds(60));

    assert!(run.pushes("prom", "not_connected") > 0);
    let requests = run.cost_api.accepted().len() - requests;
    let bytes = run.in_cost_api().total().tx_bytes - bytes;
    run.say(&format!("meanwhile {requests} pushes to the cost API with {bytes} B transmitted"));
    assert!(requests >= 20 && bytes > 0, "{requests} {bytes}");

    run.prometheus.start_again().unwrap();
    run.pass(seconds(5));
    run.finish(Series::last_value);
}
