//! What is older than the watch, where timestamps do not say it by themselves.

use super::{CONFIG, Script, check_with};
use crate::MeterConfig;

/// Goal: without timestamps, an entry that was refused so far may be older than the watch, whatever becomes of it; one
/// that came after a whole read had room for all counts whole again.
#[test]
fn without_timestamps_what_a_full_table_refused_is_preexisting() {
    let (first, second) = ("tcp 10.0.0.1:1>203.0.113.1:80", "tcp 10.0.0.1:2>203.0.113.2:80");
    let full = format!(
        "own 10.0.0.1 web\nscope 1
         begin 10\n{first} tx=1000/1 rx=0/0\n{second} tx=5000/2 rx=0/0\ncomplete"
    );
    for (then, grown) in [
        (
            format!(
                "end 15 {first} tx=1000/1 rx=0/0
                 begin 20\n{second} tx=5001/3 rx=0/0\ncomplete
                 begin 30\n{second} tx=5003/4 rx=0/0\ncomplete"
            ),
            "web 203.0.113.2 TCP tx=2/1",
        ),
        (format!("end 15 {second} tx=5001/3 rx=0/0"), ""),
        (
            format!("begin 20\n{first} tx=1000/1 rx=0/0\ncomplete\nend 25 {second} tx=7/1 rx=0/0"),
            "web 203.0.113.2 TCP tx=7/1",
        ),
    ] {
        check_with(MeterConfig { entries_max: 1, ..CONFIG }, &format!("{full}\n{then}\ncut"), grown);
    }
}

/// Goal: a clock set back to before the watch began loses nothing that starts before the next read, seen by that read or
/// ended before it, and claims what is older than the watch by no more than looks may be apart.
#[test]
fn a_clock_set_back_between_two_reads_hides_nothing() {
    let row = |start: u32| format!("tcp 10.0.0.1:1>203.0.113.1:80 start={start} tx=7/1 rx=0/0");
    let end = |at: u32, start: u32| format!("end {at} {}", row(start));
    let read = |at: u32, start: u32| format!("begin {at}\n{}\ncomplete", row(start));
    let counted = "web 203.0.113.1 TCP tx=7/1";
    for (why, then, told) in [
        ("its end is the first to tell the clock", end(510, 501), counted),
        ("a read is", read(510, 501), counted),
        ("a look was, and its end comes later", format!("look 505\n{}", end(600, 501)), counted),
        ("a look was, and a read comes later", format!("look 505\n{}", read(600, 501)), counted),
        ("the clock passed the watch's beginning", format!("look 505\n{}", end(2000, 501)), counted),
        ("it is set back again", format!("look 505\nlook 300\n{}", end(310, 295)), counted),
        ("what ends is older than it can be", format!("look 510\n{}", end(520, 500)), ""),
        ("it was set back within the watch", format!("look 1500\nlook 1200\n{}", end(1201, 1001)), counted),
        ("that takes in nothing older", format!("look 1500\nlook 1200\n{}", end(1201, 999)), ""),
        ("it just went on", format!("look 1005\n{}", end(1006, 1000)), ""),
    ] {
        let mut run = Script::new(CONFIG);
        let script = format!("own 10.0.0.1 web\nscope 1\nbegin 1000\ncomplete\n{then}\ncut");
        script.lines().for_each(|line| run.step(line));
        assert_eq!(run.output.trim_end(), told, "{why}");
    }
}
