//! The meter's rules, each as a script: what is told to it, and what it cuts.
//!
//! One step a line; times in seconds. `own` adds an owner (`own address name [since=] [until=] [unmeasured]`),
//! `scope T` tells the owners so far as of T, `begin T` … rows … `complete` or `partial` is a snapshot,
//! `end T row` an end, `look T` tells the clock, `cut` prints the records of the batches, sorted, and `books` the
//! discards that are not zero.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Completeness, Defects, Ended, Entry, Epoch, Owner, Scope, Sequence, Snapshot, UnixNanos};
use proptest::prelude::*;

use crate::{Discard, Meter, MeterConfig};

mod ends;
mod layouts;
mod owners;
mod spans;
mod state;
mod watch;

const CONFIG: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 100,
    flows_max: 100,
    unclaimed_max: 100,
    tombstones_max: 100,
    retired_max: 100,
    batch_records_max: 100,
    batch_owners_max: 100,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(600),
};

fn seconds(word: &str) -> UnixNanos {
    UnixNanos(word.parse::<u64>().unwrap() * 1_000_000_000)
}

struct Script {
    meter: Meter,
    owners: Vec<Arc<Owner>>,
    node_addresses: Vec<std::net::IpAddr>,
    now: UnixNanos,
    sequence: Sequence,
    output: String,
}

impl Script {
    fn new(config: MeterConfig) -> Self {
        Self {
            meter: Meter::new(config, Epoch(1), [7; 16], UnixNanos(0)),
            owners: Vec::new(),
            node_addresses: Vec::new(),
            now: UnixNanos(0),
            sequence: Sequence(0),
            output: String::new(),
        }
    }

    fn step(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "own" => self.own(rest),
            "node" => self.node_addresses.push(rest.parse().unwrap()),
            "scope" => self.meter.scope(&Scope {
                as_of: seconds(rest),
                whole: true,
                owners: std::mem::take(&mut self.owners),
                node_addresses: self.node_addresses.clone(),
            }),
            "begin" => {
                self.now = seconds(rest);
                self.meter.begin(self.now);
            }
            "look" => {
                self.now = seconds(rest);
                self.meter.look(self.now);
            }
            "complete" => self.finish(Completeness::Complete),
            "partial" => self.finish(Completeness::Partial),
            "end" => {
                let (at, entry) = rest.split_once(' ').unwrap();
                let entry: Entry = entry.parse().unwrap();
                self.now = seconds(at);
                self.meter.ended(&Ended { entry, stop: None }, self.now);
            }
            "cut" => self.cut(),
            "books" => self.books(),
            _ => self.meter.entry(&line.parse().unwrap()),
        }
        assert!(self.meter.books().balance(), "after {line:?}: {:?}", self.meter.books());
    }

    fn own(&mut self, rest: &str) {
        let mut words = rest.split(' ');
        let (address, name) = (words.next().unwrap(), words.next().unwrap());
        let mut owner = Owner {
            address: address.parse().unwrap(),
            pod_uid: format!("uid-{name}").into(),
            namespace: "shop".into(),
            name: name.into(),
            labels: [].into(),
            since: UnixNanos(0),
            until: None,
            measure: true,
        };
        for word in words {
            match word.split_once('=') {
                Some(("since", at)) => owner.since = seconds(at),
                Some(("until", at)) => owner.until = Some(seconds(at)),
                _ => owner.measure = false,
            }
        }
        self.owners.push(Arc::new(owner));
    }

    fn finish(&mut self, completeness: Completeness) {
        self.meter.finish(&Snapshot {
            completeness,
            begun: self.now,
            entries: 0,
            offloaded: 0,
            defects: Defects::default(),
        });
    }

    fn cut(&mut self) {
        let mut lines = Vec::new();
        for batch in self.meter.cut(self.now) {
            self.sequence = self.sequence.next();
            assert_eq!(batch.sequence, self.sequence, "sequences go up by one");
            for record in &batch.records {
                let owner = &batch.owners[record.owner as usize];
                let remote = record.remote.map_or("rest".to_owned(), |address| address.to_string());
                let mut line = format!("{} {} {}", owner.name, remote, record.protocol);
                let traffic = record.traffic;
                for (name, counter) in [("tx", traffic.tx), ("rx", traffic.rx), ("total", traffic.undirected)]
                {
                    if !counter.is_zero() {
                        write!(line, " {name}={}/{}", counter.bytes, counter.packets).unwrap();
                    }
                }
                lines.push(line);
            }
        }
        lines.sort();
        for line in lines {
            writeln!(self.output, "{line}").unwrap();
        }
    }

    fn books(&mut self) {
        let books = self.meter.books();
        for reason in Discard::ALL {
            let discarded = books.discarded[reason as usize];
            if !discarded.is_zero() {
                let line = format!("{} {}/{}", reason.reason(), discarded.bytes, discarded.packets);
                writeln!(self.output, "{line}").unwrap();
            }
        }
    }
}

#[track_caller]
fn check_with(config: MeterConfig, script: &str, expected: &str) {
    let mut run = Script::new(config);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.step(line);
    }
    let expected: String = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(run.output, expected);
}

#[track_caller]
fn check(script: &str, expected: &str) {
    check_with(CONFIG, script, expected);
}

/// Goal: an entry made after the watch began counts whole at first sight, and by its growth from then on.
#[test]
fn growth_is_counters_less_baseline() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:4000>203.0.113.1:80 start=15 tx=100/2 rx=50/1
         complete
         cut
         begin 30
         tcp 10.0.0.1:4000>203.0.113.1:80 start=15 tx=130/3 rx=50/1
         complete
         cut
         begin 40
         tcp 10.0.0.1:4000>203.0.113.1:80 start=15 tx=130/3 rx=50/1
         complete
         cut",
        "web 203.0.113.1 TCP tx=100/2 rx=50/1
         web 203.0.113.1 TCP tx=30/1",
    );
}

/// Goal: what an entry counted before the watch began is not claimed.
#[test]
fn an_entry_older_than_the_watch_counts_from_first_sight() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         tcp 10.0.0.1:4000>203.0.113.1:80 start=5 tx=100/2 rx=50/1
         tcp 10.0.0.1:4001>203.0.113.1:80 tx=100/2 rx=50/1
         complete
         end 20 tcp 10.0.0.1:4000>203.0.113.1:80 start=5 tx=107/3 rx=50/1
         end 20 tcp 10.0.0.1:4001>203.0.113.1:80 tx=101/3 rx=50/1
         end 20 tcp 10.0.0.1:4002>203.0.113.1:80 start=6 tx=900/3 rx=50/1
         cut",
        "web 203.0.113.1 TCP tx=8/2",
    );
}

/// Goal: entries made after the clock was set back are new, whatever their start says.
#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 100
         complete
         begin 20
         complete
         begin 30
         tcp 10.0.0.1:4000>203.0.113.1:80 start=25 tx=100/2 rx=50/1
         complete
         cut",
        "web 203.0.113.1 TCP tx=100/2 rx=50/1",
    );
}

/// Goal: without timestamps, entries of the first complete snapshot are preexisting and later ones are whole.
#[test]
fn without_timestamps_the_first_complete_snapshot_is_preexisting() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         udp 10.0.0.1:1>203.0.113.1:53 tx=100/1 rx=0/0
         partial
         begin 20
         udp 10.0.0.1:1>203.0.113.1:53 tx=101/2 rx=0/0
         udp 10.0.0.1:2>203.0.113.1:53 tx=100/1 rx=0/0
         complete
         begin 30
         udp 10.0.0.1:3>203.0.113.1:53 tx=7/1 rx=0/0
         complete
         cut",
        "web 203.0.113.1 UDP tx=8/2",
    );
}

/// Goal: an end adds what came after the last snapshot, and an entry never seen counts whole at its end.
#[test]
fn an_end_adds_the_rest() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:4000>203.0.113.1:80 start=15 tx=100/2 rx=50/1
         complete
         end 21 tcp 10.0.0.1:4000>203.0.113.1:80 start=15 tx=150/3 rx=50/1
         end 21 tcp 10.0.0.1:4000>203.0.113.1:80 start=20 tx=7/1 rx=0/0
         cut",
        "web 203.0.113.1 TCP tx=157/4 rx=50/1",
    );
}

/// Goal: DESTROY comes before the entry leaves the table; the next dump must not count it again, and the one after
/// that may hold its successor under the same identity.
#[test]
fn an_ended_entry_that_the_dump_still_shows_is_not_counted_again() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         end 15 udp 10.0.0.1:1>203.0.113.1:53 id=7 tx=100/1 rx=0/0
         begin 20
         udp 10.0.0.1:1>203.0.113.1:53 id=7 tx=100/1 rx=0/0
         complete
         begin 30
         complete
         begin 40
         udp 10.0.0.1:1>203.0.113.1:53 id=7 tx=30/1 rx=0/0
         complete
         cut",
        "web 203.0.113.1 UDP tx=130/2",
    );
}

/// Goal: a reused identity is a new entry; its counters are growth, all of them.
#[test]
fn reset_counts_new_value_once() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 tx=100/2 rx=50/1
         complete
         begin 30
         tcp 10.0.0.1:1>203.0.113.1:80 tx=40/1 rx=60/1
         complete
         cut",
        "web 203.0.113.1 TCP tx=140/3 rx=110/2",
    );
}

/// Goal: dumps that end early cost an entry nothing, whether they say so or not, and however many there are in a row:
/// with a start it is known again after it went.
#[test]
fn dumps_that_do_not_show_an_entry_cost_it_nothing() {
    let entry = "tcp 10.0.0.1:1>203.0.113.1:80 start=15";
    let quiet = |times: usize, how: &str| format!("begin 30\n{how}\n").repeat(times);
    for (gap, grown) in [
        (quiet(2, "complete"), "web 203.0.113.1 TCP tx=110/3"),
        (quiet(9, "partial"), "web 203.0.113.1 TCP tx=110/3"),
        (quiet(3, "complete"), "web 203.0.113.1 TCP tx=110/3"),
        (quiet(40, "complete"), "web 203.0.113.1 TCP tx=110/3"),
    ] {
        check(
            &format!(
                "own 10.0.0.1 web\nscope 1\nbegin 10\ncomplete
                 begin 20\n{entry} tx=100/2 rx=0/0\ncomplete
                 {gap}
                 begin 40\n{entry} tx=110/3 rx=0/0\ncomplete\ncut"
            ),
            grown,
        );
    }
}

/// Goal: a flow between two pods of one node is reported for both, the peer behind a ClusterIP is the backend, and a
/// hairpin to oneself is counted once.
#[test]
fn every_side_has_its_own_owner() {
    check(
        "own 10.0.0.1 web
         own 10.0.0.2 db
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>10.96.0.1:80 reply=10.0.0.2:8080>10.0.0.1:1 start=15 tx=100/2 rx=50/1
         tcp 10.0.0.2:9>10.96.0.1:80 reply=10.0.0.2:8080>10.0.0.2:9 start=15 tx=7/1 rx=5/1
         tcp 10.0.0.1:1>203.0.113.1:80 reply=203.0.113.1:80>172.18.0.2:1 start=15 tx=3/1 rx=4/1
         complete
         cut",
        "db 10.0.0.1 TCP tx=50/1 rx=100/2
         db 10.0.0.2 TCP tx=7/1 rx=5/1
         web 10.0.0.2 TCP tx=100/2 rx=50/1
         web 203.0.113.1 TCP tx=3/1 rx=4/1",
    );
}

/// Goal: a node that is an owner is charged what it opens and what is opened to it, never a pod's masqueraded flow.
#[test]
fn a_masqueraded_flow_is_the_pods_and_not_the_nodes() {
    check(
        "own 10.0.0.1 web
         own 172.18.0.2 node
         node 172.18.0.2
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 reply=203.0.113.1:80>172.18.0.2:1 start=15 tx=3/1 rx=4/1
         tcp 172.18.0.2:2>203.0.113.1:80 start=15 tx=10/1 rx=20/1
         tcp 172.18.0.3:3>172.18.0.2:10250 start=15 tx=30/1 rx=40/1
         tcp 172.18.0.3:4>172.18.0.2:30080 reply=10.0.0.1:80>172.18.0.3:4 start=15 tx=50/1 rx=60/1
         complete
         cut",
        "node 172.18.0.3 TCP tx=40/1 rx=30/1
         node 203.0.113.1 TCP tx=10/1 rx=20/1
         web 172.18.0.3 TCP tx=60/1 rx=50/1
         web 203.0.113.1 TCP tx=3/1 rx=4/1",
    );
}

/// Goal: a row that speaks for one side is charged to that side only, and a total stays without direction.
#[test]
fn a_row_of_one_view_has_one_side() {
    check(
        "own 10.0.0.1 web
         own 10.0.0.2 db
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>10.0.0.2:80 view=source id=1 tx=100/2 rx=50/1
         tcp 10.0.0.1:1>10.0.0.2:80 view=destination id=2 total=150/3
         complete
         cut",
        "db 10.0.0.1 TCP total=150/3
         web 10.0.0.2 TCP tx=100/2 rx=50/1",
    );
}

/// Goal: entries belong to whoever had the address when they started, also after it changed hands.
#[test]
fn an_entry_belongs_to_the_owner_at_its_start() {
    check(
        "own 10.0.0.1 old since=10 until=20
         own 10.0.0.1 new since=18
         scope 20
         begin 10
         complete
         begin 30
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         tcp 10.0.0.1:2>203.0.113.1:80 start=19 tx=2/1 rx=0/0
         tcp 10.0.0.1:3>203.0.113.1:80 start=20 tx=4/1 rx=0/0
         complete
         cut",
        "new 203.0.113.1 TCP tx=4/1
         old 203.0.113.1 TCP tx=3/2",
    );
}

/// Goal: growth waits for an owner while none is known, and is let go only when a scope is late enough to know.
#[test]
fn unclaimed_growth_waits_for_its_owner() {
    check(
        "begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100/2 rx=50/1
         complete
         scope 79
         cut
         books
         own 10.0.0.1 web since=15
         scope 80
         cut
         books",
        "web 203.0.113.1 TCP tx=100/2 rx=50/1
         not_local 150/3",
    );
}

/// Goal: excluded pods and the node itself are let go as such, now or when a scope says so.
#[test]
fn the_unmeasured_and_the_node_are_let_go_by_name() {
    check(
        "node 172.18.0.2
         begin 10
         complete
         begin 20
         tcp 10.0.0.9:1>172.18.0.2:6443 start=15 tx=100/2 rx=50/1
         complete
         own 10.0.0.9 dns unmeasured
         scope 21
         begin 30
         tcp 10.0.0.9:1>172.18.0.2:6443 start=15 tx=101/3 rx=50/1
         complete
         cut
         books",
        "node_address 151/4
         not_measured 151/4",
    );
}

/// Goal: with no room for a remote of its own, its bytes go to the rest of their owner and protocol.
#[test]
fn too_many_remotes_fold_into_the_rest() {
    check_with(
        MeterConfig { flows_max: 1, ..CONFIG },
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         tcp 10.0.0.1:2>203.0.113.2:80 start=15 tx=2/1 rx=0/0
         tcp 10.0.0.1:3>203.0.113.3:80 start=15 tx=4/1 rx=0/0
         complete
         cut",
        "web 203.0.113.1 TCP tx=1/1
         web rest TCP tx=6/2",
    );
}

/// Goal: a full table evicts nothing; an entry without room counts whole at its end if it is the watch's.
#[test]
fn an_entry_without_room_counts_at_its_end() {
    check_with(
        MeterConfig { entries_max: 1, ..CONFIG },
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         tcp 10.0.0.1:2>203.0.113.2:80 start=15 tx=2/1 rx=0/0
         complete
         cut
         end 25 tcp 10.0.0.1:2>203.0.113.2:80 start=15 tx=6/2 rx=0/0
         cut",
        "web 203.0.113.1 TCP tx=1/1
         web 203.0.113.2 TCP tx=6/2",
    );
}

/// Goal: batches stay within their limits and lose nothing by it.
#[test]
fn a_cut_is_split_within_the_limits_of_a_batch() {
    for config in
        [MeterConfig { batch_records_max: 1, ..CONFIG }, MeterConfig { batch_owners_max: 1, ..CONFIG }]
    {
        check_with(
            config,
            "own 10.0.0.1 web
             own 10.0.0.2 db
             scope 1
             begin 10
             complete
             begin 20
             tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
             tcp 10.0.0.2:2>203.0.113.2:80 start=15 tx=2/1 rx=0/0
             complete
             cut",
            "db 203.0.113.2 TCP tx=2/1
             web 203.0.113.1 TCP tx=1/1",
        );
    }
}

/// Goal: an owner that left the scope still names the growth that it had before.
#[test]
fn a_cut_names_owners_that_left_the_scope() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         complete
         own 10.0.0.2 db
         scope 25
         cut
         begin 30
         tcp 10.0.0.2:1>203.0.113.1:80 start=15 tx=2/1 rx=0/0
         complete
         cut",
        "web 203.0.113.1 TCP tx=1/1
         db 203.0.113.1 TCP tx=2/1",
    );
}

proptest! {
    /// Goal: the books balance after every step of any history, absurd counters included.
    #[test]
    fn the_books_balance_whatever_happens(steps in prop::collection::vec((0u8..8, 1u8..4, 1u8..4, 0u64..1 << 40), 1..200)) {
        let mut run = Script::new(MeterConfig { entries_max: 5, flows_max: 4, unclaimed_max: 3, ..CONFIG });
        run.step("begin 1");
        run.step("complete");
        for (second, (what, local, remote, bytes)) in steps.into_iter().enumerate() {
            let now = second + 2;
            let row = format!("tcp 10.0.0.{local}:1>10.0.0.{remote}:2 start={local} tx={bytes}/1 rx=0/0");
            match what {
                0..=2 => run.step(&row),
                3 => run.step(&format!("end {now} {row}")),
                4 => {
                    run.step(&format!("own 10.0.0.{local} pod{remote}"));
                    run.step(&format!("scope {now}"));
                }
                5 => run.step("cut"),
                6 => run.step(&format!("begin {now}")),
                _ => run.step("complete"),
            }
        }
        run.step("scope 9999");
        run.step("cut");
        prop_assert!(run.meter.books().held.is_zero());
    }
}
