//! A meter that was written and read back goes on as if nothing had been.

use egressd_flow::{Counter, Epoch, Sequence, UnixNanos};

use super::{CONFIG, Script};
use crate::{Meter, MeterConfig};

/// Baselines, an end, unclaimed and late flows, an owner that only an open flow still names.
const BEFORE: &str = "own 10.0.0.1 web
    own 10.0.0.2 db since=1 until=500
    own fd00::3 six unmeasured
    node 172.18.0.2
    scope 1
    begin 10
    complete
    begin 20
    tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100/2 rx=50/1
    udp 10.0.0.2:1>203.0.113.1:53 start=15 tx=7/1 rx=9/1
    tcp 10.0.0.9:1>203.0.113.1:80 start=15 tx=1000/2 rx=500/1
    tcp 10.0.0.8:1>203.0.113.1:80 start=15 tx=30/2 rx=40/1
    complete
    end 25 tcp 10.0.0.1:9>203.0.113.1:80 start=21 tx=3/1 rx=4/1
    own 10.0.0.1 web
    own 10.0.0.8 late
    scope 30";

const AFTER: &str = "begin 40
    tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=130/3 rx=50/1
    tcp 10.0.0.1:2>203.0.113.1:80 start=35 tx=11/1 rx=0/0
    tcp 10.0.0.1:3>203.0.113.1:80 start=5 tx=900/1 rx=0/0
    tcp 10.0.0.9:1>203.0.113.1:80 start=15 tx=1001/3 rx=500/1
    complete
    cut
    own 10.0.0.1 web
    own 10.0.0.9 other
    scope 200
    cut
    books";

fn run(script: &mut Script, lines: &str) {
    lines.lines().for_each(|line| script.step(line.trim()));
}

fn written(meter: &mut Meter) -> Vec<u8> {
    let mut bytes = Vec::new();
    meter.save(&mut bytes).unwrap();
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() + 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// Goal: one key and one input give one state and the same batches, record for record, so that a history can be told again.
#[test]
fn one_key_gives_one_order() {
    let run_once = || {
        let mut script = Script::new(MeterConfig { batch_records_max: 7, ..CONFIG });
        run(&mut script, "own 10.0.0.1 web\nown 10.0.0.2 db\nscope 1\nbegin 10\ncomplete\nbegin 20");
        for (local, remote) in (1..4).flat_map(|local| (1..20).map(move |remote| (local, remote))) {
            script.step(&format!("tcp 10.0.0.{local}:1>203.0.113.{remote}:80 start=15 tx=100/2 rx=50/1"));
        }
        script.step("complete");
        (written(&mut script.meter), script.meter.cut(UnixNanos(30_000_000_000)))
    };
    assert_eq!(run_once(), run_once());
}

/// Goal: a counter of any size is read back as it was.
#[test]
fn every_counter_is_read_back() {
    for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX / 2, u64::MAX] {
        let mut script = Script::new(CONFIG);
        run(
            &mut script,
            &format!(
                "own 10.0.0.1 web
                 scope 1
                 begin 10
                 tcp 10.0.0.1:1>203.0.113.1:80 start=5 tx={value}/{value} rx=3/{value}
                 complete"
            ),
        );
        let bytes = written(&mut script.meter);
        let mut again = Meter::restore(CONFIG, &mut bytes.as_slice()).unwrap();
        assert_eq!(written(&mut again), bytes, "{value}");
        let packets = varint(value);
        let expected = [packets.as_slice(), &packets, &[3], &packets].concat();
        assert!(bytes.windows(expected.len()).any(|part| part == expected), "{value}");
    }
}

/// Goal: what is cut after a restart is what would have been cut without one, in the same epoch and sequence.
#[test]
fn a_meter_that_is_read_back_goes_on() {
    let mut without = Script::new(CONFIG);
    run(&mut without, BEFORE);
    let mut with = Script::new(CONFIG);
    run(&mut with, BEFORE);
    let bytes = written(&mut with.meter);
    with.meter = Meter::restore(CONFIG, &mut bytes.as_slice()).unwrap();
    assert_eq!(with.meter.position(), (Epoch(1), Sequence(1)));
    assert_eq!(with.meter.books().held, without.meter.books().held);
    assert_eq!(written(&mut with.meter).len(), bytes.len(), "nothing is lost by writing it again");
    for script in [&mut without, &mut with] {
        run(script, AFTER);
    }
    assert_eq!(with.output, without.output);
    assert!(without.output.contains("late 203.0.113.1 TCP tx=30/2 rx=40/1"), "{}", without.output);
}

/// Goal: an entry made after the watch of the first process began counts whole in the second, and one before it from
/// its first sight on.
#[test]
fn the_watch_goes_on_over_a_restart() {
    let mut script = Script::new(CONFIG);
    run(&mut script, "own 10.0.0.1 web\nscope 1\nbegin 10\ncomplete");
    let bytes = written(&mut script.meter);
    script.meter = Meter::restore(CONFIG, &mut bytes.as_slice()).unwrap();
    run(
        &mut script,
        "begin 90
         tcp 10.0.0.1:1>203.0.113.1:80 start=50 tx=100/2 rx=0/0
         tcp 10.0.0.1:2>203.0.113.1:80 start=9 tx=900/2 rx=0/0
         complete
         cut",
    );
    assert_eq!(script.output, "web 203.0.113.1 TCP tx=100/2\n");
}

/// Goal: a read that was running does not say of the second process that nothing was refused; its own next one does.
#[test]
fn a_survey_begins_again_after_a_restart() {
    let config = MeterConfig { entries_max: 1, ..CONFIG };
    for (reads, told) in [("complete", ""), ("complete\nbegin 20\ncomplete", "web 203.0.113.1 UDP tx=7/1\n")]
    {
        let mut script = Script::new(config);
        run(
            &mut script,
            "own 10.0.0.1 web
             scope 1
             begin 10
             udp 10.0.0.1:1>203.0.113.1:53 tx=1/1 rx=0/0
             udp 10.0.0.1:2>203.0.113.1:53 tx=5/1 rx=0/0",
        );
        let bytes = written(&mut script.meter);
        script.meter = Meter::restore(config, &mut bytes.as_slice()).unwrap();
        run(&mut script, reads);
        run(&mut script, "end 25 udp 10.0.0.1:2>203.0.113.1:53 tx=7/1 rx=0/0\ncut");
        assert_eq!(script.output, told, "{reads}");
    }
}

/// Goal: an entry that ended while nobody listened is counted once several whole reads lack it and the next one begins.
#[test]
fn an_end_that_nobody_heard_is_counted() {
    let mut script = Script::new(CONFIG);
    run(
        &mut script,
        "begin 10\ncomplete\nbegin 20\ntcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0\ncomplete",
    );
    let bytes = written(&mut script.meter);
    script.meter = Meter::restore(CONFIG, &mut bytes.as_slice()).unwrap();
    let vanished: Vec<u64> = (3..8)
        .map(|tick| {
            run(&mut script, &format!("begin {tick}0\ncomplete"));
            script.meter.books().vanished_entries
        })
        .collect();
    assert_eq!(vanished, [0, 0, 0, 1, 1]);
}

/// Goal: of baselines kept aside those that went first are forgotten when there is no room, and counted: an entry of these
/// that comes back counts whole. Where none is kept none is missed.
#[test]
fn baselines_kept_aside_are_bounded_and_counted() {
    let row = |tick: u64| format!("tcp 10.0.0.1:{tick}>203.0.113.1:80 start=1{tick} tx=5/1 rx=0/0\n");
    let gone = "begin 30\ncomplete\n".repeat(5);
    for (retired_max, forgotten, told) in
        [(6, 0, ""), (2, 1, "web 203.0.113.1 TCP tx=5/1\n"), (0, 0, "web 203.0.113.1 TCP tx=15/3\n")]
    {
        let mut script = Script::new(MeterConfig { retired_max, ..CONFIG });
        run(&mut script, "own 10.0.0.1 web\nscope 1\nbegin 10\ncomplete");
        for tick in 1..=3 {
            run(&mut script, &format!("begin 2{tick}\n{}complete\n{gone}", row(tick)));
        }
        assert_eq!(script.meter.books().forgotten_baselines, forgotten, "of {retired_max}");
        run(&mut script, "cut");
        script.output.clear();
        run(&mut script, &format!("begin 40\n{}{}{}complete\ncut", row(1), row(2), row(3)));
        assert_eq!(script.output, told, "of {retired_max}");
    }
}

/// Goal: a state that no meter can have been in is refused, not gone on from until it panics or tells what cannot be.
#[test]
fn a_state_that_contradicts_itself_is_refused() {
    let mut script = Script::new(CONFIG);
    run(
        &mut script,
        "own 10.0.0.1 web
         own 10.0.0.2 db until=2
         scope 1
         begin 10
         complete
         begin 700
         complete
         cut
         begin 710
         tcp 10.0.0.1:1>203.0.113.1:80 start=705 tx=100/2 rx=0/0
         complete
         own 10.0.0.1 web
         scope 9999",
    );
    let bytes = written(&mut script.meter);
    assert!(Meter::restore(CONFIG, &mut bytes.as_slice()).is_ok());
    // Behind the one open flow stand the late ones' number, 0, and their span; in it a place, an IPv4 remote, a protocol
    // and six counters, each a byte here.
    let counters = bytes.len() - 8 - 17 - 6;
    let place = counters - 1 - 6 - 8;
    let too_much = varint(Counter::GROWTH_MAX.bytes + 1);
    let mut endless = varint(u64::MAX);
    endless[9] = 3;
    for (at, replaced, wrong, why) in [
        (8, 8, u64::to_le_bytes(0).as_slice(), "no batch has sequence 0"),
        (8, 8, &u64::MAX.to_le_bytes(), "there is none after the last"),
        (place, 8, &u64::to_le_bytes(1), "nobody stands there since db was reclaimed"),
        (counters, 1, &too_much, "no node grows by that"),
        (counters + 1, 1, &varint(u64::MAX), "packets neither"),
        (counters, 1, &endless, "no counter has 65 bits"),
    ] {
        let mut bytes = bytes.clone();
        bytes.splice(at..at + replaced, wrong.iter().copied());
        assert!(Meter::restore(CONFIG, &mut bytes.as_slice()).is_err(), "{why}");
    }
}

/// Goal: a state that breaks off anywhere is an error, and so is one with more than the bounds allow.
#[test]
fn a_state_that_is_none_is_refused() {
    let mut script = Script::new(CONFIG);
    run(&mut script, BEFORE);
    let bytes = written(&mut script.meter);
    for len in 0..bytes.len() {
        assert!(Meter::restore(CONFIG, &mut &bytes[..len]).is_err(), "{len} of {}", bytes.len());
    }
    for narrow in [MeterConfig { unclaimed_max: 0, ..CONFIG }, MeterConfig { entries_max: 1, ..CONFIG }] {
        assert!(Meter::restore(narrow, &mut bytes.as_slice()).is_err());
    }
}
