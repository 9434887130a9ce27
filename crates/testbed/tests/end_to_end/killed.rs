//! Daemons that keep something for their next life, killed at bad moments and on a bad disk: nothing is lost, nothing
//! comes twice but what is counted as ambiguous, and no total goes backwards.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use egressd_testbed::{Cluster, Scratch, Series, wait_for};

use crate::harness::{Harness, Keeps, gentle_plans, lasting_plans};
use crate::seconds;

/// Of Prometheus.
const OUTAGE: Duration = seconds(120);
const NODES: [&str; 2] = ["node-a", "node-b"];

/// Goal: killed twice in mid-stream, the exporter goes on where it was: every total rises on, and every byte is at every
/// destination once.
#[test]
fn an_exporter_killed_twice_loses_and_doubles_nothing() {
    let cluster = Cluster::start().unwrap();
    let spool = Keeps::Spool(cluster.directory().join("spool"));
    let mut run = Harness::start_keeping("exporter killed twice", &cluster, &gentle_plans(), spool);
    run.pass(seconds(8));
    run.kill_exporter();
    run.pass(seconds(7));
    run.kill_exporter();
    run.pass(seconds(6));
    assert!(run.exporter_metric("egressd_exporter_spool_recovered_bytes") > 0);
    run.finish(Series::last_value);
    run.check_never_backwards();
}

/// Goal: killed while Prometheus and the cost API are away, the exporter has for each what it had not accepted.
#[test]
fn an_exporter_killed_during_an_outage_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let spool = Keeps::Spool(cluster.directory().join("spool"));
    let mut run = Harness::start_keeping("exporter killed in an outage", &cluster, &gentle_plans(), spool);
    run.pass(seconds(8));
    run.prometheus.kill().unwrap();
    run.cost_api.go_away();
    run.pass(seconds(8));
    assert!(run.pushes("prom", "not_connected") > 0 && run.pushes("castai", "not_connected") > 0);
    run.kill_exporter();
    run.pass(seconds(8));
    assert_eq!(run.collector_metric("node-a", "egressd_collector_window_unprotected_bytes_total"), 0);
    run.prometheus.start_again().unwrap();
    run.cost_api.come_back().unwrap();
    run.finish(Series::last_value);
    run.check_never_backwards();
}

/// Goal: while the spool's disk is full nothing is acknowledged and the collectors keep what they measure; there is room
/// again, and nothing is missing, also when the exporter is killed amid that.
#[test]
fn a_full_disk_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let disk = Scratch::of_mib(4).unwrap();
    let spool = Keeps::Spool(disk.path().join("spool"));
    let mut run = Harness::start_keeping("disk full", &cluster, &gentle_plans(), spool);
    run.pass(seconds(6));
    let held = |run: &Harness<'_>| run.collector_metric("node-a", "egressd_collector_window_held_bytes");
    let ballast = disk.path().join("ballast");
    fill(&ballast);
    wait_for("a word on the full disk", seconds(30), || {
        let failures = run.exporter_metric("egressd_exporter_spool_failures_total");
        Ok(if failures > 0 { Ok(()) } else { Err("the disk takes everything".to_owned()) })
    })
    .unwrap();
    let early = held(&run);
    run.pass(seconds(6));
    run.kill_exporter();
    run.pass(seconds(6));
    let late = held(&run);
    run.say(&format!("the collector held {early} B when the disk was full and {late} B after 12 s"));
    assert!(late > early, "{early} {late}");
    let log = fs::read_to_string(run.daemons.exporter.process().log()).unwrap();
    assert!(log.contains("make it larger, or lower the spool's bound in bytes"));
    fs::remove_file(&ballast).unwrap();
    run.pass(seconds(3));
    run.finish(Series::last_value);
    run.check_never_backwards();
}

/// Goal: over a kill of the exporter and two minutes without Prometheus, no total goes backwards, and `increase()` over
/// the run is the truth of every flow.
#[test]
fn increase_over_a_kill_and_a_long_outage_is_the_truth() {
    let cluster = Cluster::start().unwrap();
    let spool = Keeps::Spool(cluster.directory().join("spool"));
    let mut run = Harness::start_keeping("increase", &cluster, &gentle_plans(), spool);
    run.pass(seconds(8));
    run.kill_exporter();
    run.pass(seconds(8));
    run.prometheus.kill().unwrap();
    run.pass(OUTAGE);
    assert!(run.pushes("prom", "not_connected") > 0);
    run.prometheus.start_again().unwrap();
    run.pass(seconds(5));
    let truth = run.finish(Series::last_value);
    run.check_never_backwards();
    run.check_increase(&truth);
    let series = run.series().unwrap();
    let gap = series.iter().filter_map(longest_gap).max().unwrap();
    run.say(&format!("no sample of a series for {:.1} s", gap.as_secs_f32()));
    assert!(gap >= OUTAGE);
}

fn longest_gap(series: &Series) -> Option<Duration> {
    series.points.windows(2).map(|pair| pair[1].at - pair[0].at).max()
}

/// Goal: a collector that is killed in mid-stream goes on where it was, and an outage of both sinks for longer than its
/// window holds what they have not loses nothing either.
#[test]
fn a_collector_killed_and_an_outage_beyond_its_window_lose_nothing() {
    let cluster = Cluster::start().unwrap();
    let states = Keeps::States { window_taken_bytes_max: "32768" };
    let mut run = Harness::start_keeping("collector killed", &cluster, &lasting_plans(), states);
    run.pass(seconds(8));
    run.kill_collector();
    run.pass(seconds(8));
    assert_eq!(run.exporter_metric("egressd_exporter_ledger_skipped_batches_total"), 0);

    run.prometheus.kill().unwrap();
    run.cost_api.go_away();
    let before = NODES.map(|node| unprotected(&run, node));
    run.pass(seconds(20));
    let after = NODES.map(|node| unprotected(&run, node));
    assert!(run.pushes("prom", "not_connected") > 0 && run.pushes("castai", "not_connected") > 0);
    run.say(&format!("unprotected bytes of each node: {before:?} before the outage, {after:?} after it"));
    assert!(before[0] < after[0] && before[1] < after[1]);
    run.prometheus.start_again().unwrap();
    run.cost_api.come_back().unwrap();
    run.pass(seconds(3));
    run.finish(Series::last_value);
    run.check_never_backwards();
}

/// What the node's collector let go before the sinks had it.
fn unprotected(run: &Harness<'_>, node: &str) -> u64 {
    run.collector_metric(node, "egressd_collector_window_unprotected_bytes_total")
}

/// Takes all room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
