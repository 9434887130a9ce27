//! What is older than the watch, where timestamps do not say it by themselves.

use super::{CONFIG, check_with};
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
