//! The benches in their small form, as `cargo xtask bench` starts them. Needs root, `ip` and `nft`, and the daemons of
//! the same profile, which `cargo build --workspace --bins` makes.

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_egressd-bench")).args(arguments).output().expect("cargo built it")
}

fn bench(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Goal: `collect` reads every entry that it made, an eighth of them grown by real packets, and prints each figure
/// that was asked for.
#[test]
fn collect_measures_what_it_filled() {
    let report = bench(&["collect", "--entries", "1920", "--rounds", "3", "--json"]);
    let figure = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert_eq!((report["entries"].as_u64(), report["records"].as_u64()), (Some(1920), Some(90)), "{report}");
    assert!((figure("grown_share") - 0.125).abs() < 1e-9, "{report}");
    assert!(figure("floor_ns_per_entry") > 0.0 && figure("ratio") > 0.0, "{report}");
    assert!(figure("ns_per_entry") > 0.0 && figure("rss_mib") > 0.0, "{report}");
    assert!(figure("table_bytes_per_entry") >= 48.0, "{report}");
    assert!(figure("allocations_per_cycle") < 100.0, "allocations by the entry: {report}");
    for key in ["checkpoint_ns_per_entry", "checkpoint_mib"] {
        assert!(report[key].as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    }
}

/// Goal: `collector` measures the real collector while it reads every entry, an eighth of them grown, and delivers to
/// the real exporter; its threads are told apart and the parts of its memory are all of it.
#[test]
fn collector_measures_the_real_one_at_work() {
    let options = ["--entries", "1920", "--seconds", "3", "--read-interval", "1", "--json"];
    let report = bench(&[&["collector", "--cpu-percent-max", "100"], &options[..]].concat());
    let figure = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert!(figure("entries") >= 1920.0 && figure("reads") >= 1.0, "{report}");
    assert_eq!(report["read_interval_seconds"].as_f64(), Some(1.0), "{report}");
    assert!(figure("grown_share") >= 0.1, "{report}");
    assert!(figure("core_share") > 0.0 && figure("floor_core_share") > 0.0, "{report}");
    let per_entry = figure("ns_per_entry") / figure("floor_ns_per_entry");
    assert!((figure("ratio") - per_entry).abs() < 1e-6 * per_entry, "{report}");
    let threads = report["threads"].as_object().unwrap_or_else(|| panic!("no threads in {report}"));
    assert!(threads["reader"].as_f64().is_some_and(|share| share > 0.0), "{report}");
    let parts = ["rss_anon_mib", "rss_file_mib", "rss_shmem_mib"].map(figure).iter().sum::<f64>();
    assert!((figure("rss_now_mib") - parts).abs() < 0.01 && figure("rss_mib") >= parts - 0.01, "{report}");
    assert!(figure("checkpoint_ms") > 0.0, "{report}");
    assert!(figure("state_dir_mib") > 0.0 && figure("delivered_bytes") > 0.0, "{report}");
}

/// Goal: a collector that reads less often than asked for is no measurement: the bench says what to pass. Receiving
/// the table alone takes more than the share that it is given.
#[test]
fn collector_refuses_a_stretched_interval() {
    let options = ["--entries", "30000", "--seconds", "3", "--read-interval", "1", "--cpu-percent-max", "1"];
    let output = run(&[&["collector"], &options[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("pass --cpu-percent-max 100"), "{said}");
}

/// Goal: every end that is sent is delivered or counted: alone, during reads, and by the real collector.
#[test]
fn events_add_up() {
    let report = bench(&["events", "--rate", "1000", "--entries", "3000", "--json"]);
    for run in [&report, &report["while_reading"], &report["shipped"]] {
        let figure = |key: &str| run[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report}"));
        assert_eq!((figure("sent"), figure("delivered") + figure("lost")), (2000, 2000), "{report}");
    }
    assert!(report["ns_per_event"].as_f64().unwrap() > 0.0, "{report}");
    for run in ["while_reading", "shipped"] {
        assert!(report[run]["reads"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report[run]["entries"].as_u64(), Some(3000), "{report}");
    }
    assert_eq!(report["shipped"]["unprotected"].as_u64(), Some(0), "{report}");
}
