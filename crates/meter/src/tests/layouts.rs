//! Entries whose counters are read by one layout in one snapshot and by another in the next.

use super::{CONFIG, Script, check_with};
use crate::MeterConfig;

const ENTRY: &str = "tcp 10.0.0.1:1>203.0.113.1:80 view=source";

/// What the web pod's entry grows by from one sighting to the next, the first being older than the watch.
fn grown(before: &str, after: &[&str]) -> String {
    let mut script = Script::new(CONFIG);
    for line in ["own 10.0.0.1 web", "scope 1"] {
        script.step(line);
    }
    for (at, sighting) in std::iter::once(&before).chain(after).enumerate() {
        for line in [format!("begin {}", at * 5 + 10), format!("{ENTRY} {sighting}"), "complete".to_owned()] {
            script.step(&line);
        }
    }
    script.step("cut");
    script.output.trim_end().replace("web 203.0.113.1 TCP ", "")
}

/// Goal: a change of layout counts nothing twice and loses nothing: what grew meanwhile is a total unless it was read with
/// directions, and only a lower counter is a new entry.
#[test]
fn a_layout_that_changes_counts_nothing_twice() {
    for (why, before, after, told) in [
        ("an upgrade", "tx=100/2 rx=50/1", &["total=130/4 beside=50/1"][..], "total=30/2"),
        (
            "it goes on",
            "tx=100/2 rx=50/1",
            &["total=130/4 beside=50/1", "total=140/5 beside=50/1"],
            "total=40/3",
        ),
        ("made anew by the upgrade", "tx=100/2 rx=50/1", &["total=130/4"], "total=130/4"),
        ("and lower", "tx=100/2 rx=50/1", &["total=30/1"], "total=30/1"),
        ("a part that is something else by now", "tx=100/2 rx=50/1", &["total=130/4 beside=?"], "total=30/2"),
        (
            "and is read again",
            "tx=100/2 rx=50/1",
            &["total=130/4 beside=?", "total=131/5 beside=50/1"],
            "total=31/3",
        ),
        ("made anew, unreadable", "total=100/2 beside=50/1", &["total=30/1 beside=?"], "total=30/1"),
        ("found out to have directions", "total=100/2 beside=50/1", &["tx=103/3 rx=57/2"], "tx=3/1 rx=7/1"),
        ("not known for a while", "tx=100/2 rx=50/1", &["total=103/3 beside=57/2"], "total=10/2"),
    ] {
        assert_eq!(grown(before, after), told, "{why}");
    }
}

/// Goal: where a complete snapshot shows all there is, an entry that one lacks is gone, and what comes back under its
/// identity is another one that counts whole.
#[test]
fn absence_is_an_end_where_snapshots_are_whole() {
    let history = format!(
        "own 10.0.0.1 web\nscope 1
         begin 10\n{ENTRY} total=100/2\ncomplete
         begin 15\ncomplete
         begin 20\n{ENTRY} total=150/3\ncomplete\ncut"
    );
    for (absent_snapshots_max, told) in [(1, "total=150/3"), (3, "total=50/1")] {
        let told = format!("web 203.0.113.1 TCP {told}");
        check_with(MeterConfig { absent_snapshots_max, ..CONFIG }, &history, &told);
    }
}
