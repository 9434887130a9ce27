//! Ends that come late.

use super::check;

/// Goal: an entry that two short dumps did not show, and that ends before the third, counts what it grew since it was seen,
/// and not once more what it had before.
#[test]
fn an_end_amid_the_last_absence_counts_its_growth() {
    check(
        "own 10.0.0.1 web
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=100/1 rx=0/0
         complete
         cut
         begin 30
         complete
         begin 40
         complete
         begin 50
         complete
         end 50 tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=107/2 rx=0/0
         cut",
        "web 203.0.113.1 TCP tx=100/1
         web 203.0.113.1 TCP tx=7/1",
    );
}
