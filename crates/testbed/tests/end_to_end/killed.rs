//! An exporter with a spool, killed at bad moments and on a bad disk: nothing is lost, nothing comes twice but what is
//! counted as ambiguous, and no total goes backwards.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use egressd_testbed::{Cluster, Scratch, Series, wait_for};

use crate::harness::{Harness, gentle_plans};
use crate::seconds;

/// Goal: killed twice in mid-stream, the exporter goes on where it was: every total rises on, and every byte is at every
/// destination once.
#[test]
fn an_exporter_killed_twice_loses_and_doubles_nothing() {
    let cluster = Cluster::start().unwrap();
    let spool = Some(cluster.directory().join("spool"));
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
    let spool = Some(cluster.directory().join("spool"));
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
    let spool = Some(disk.path().join("spool"));
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

/// Takes all room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
