//! Owners that a new exporter does not know.

use super::check;

/// Goal: a pod that is gone when an exporter begins anew keeps what its entries say at last; its address is its heir's from
/// when that began, and nobody's where there is none.
#[test]
fn an_owner_that_is_told_of_no_more_has_ended() {
    check(
        "own 10.0.0.1 web
         own 10.0.0.2 db
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         tcp 10.0.0.2:1>203.0.113.1:80 start=15 tx=2/1 rx=0/0
         complete
         cut
         own 10.0.0.1 heir since=30
         scope 45
         end 50 tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=11/2 rx=0/0
         end 50 tcp 10.0.0.2:1>203.0.113.1:80 start=15 tx=22/2 rx=0/0
         end 51 tcp 10.0.0.1:2>203.0.113.1:80 start=40 tx=100/1 rx=0/0
         end 52 tcp 10.0.0.2:2>203.0.113.1:80 start=48 tx=200/1 rx=0/0
         cut
         own 10.0.0.1 heir since=30
         scope 200
         cut
         books",
        "db 203.0.113.1 TCP tx=2/1
         web 203.0.113.1 TCP tx=1/1
         db 203.0.113.1 TCP tx=20/1
         heir 203.0.113.1 TCP tx=100/1
         web 203.0.113.1 TCP tx=10/1
         not_local 533/7",
    );
}

/// Goal: a whole scope of an exporter that does not know yet up to when it knows all ends nobody before the beginning: who
/// is untold has ended when that is known, or when an heir began.
#[test]
fn a_scope_of_no_time_ends_nobody_before_the_beginning() {
    check(
        "own 10.0.0.1 web since=5
         own 10.0.0.2 db since=5
         scope 9
         begin 10
         complete
         own 10.0.0.1 heir since=30
         scope 0
         end 50 tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=11/2 rx=0/0
         end 50 tcp 10.0.0.2:1>203.0.113.1:80 start=15 tx=22/2 rx=0/0
         end 51 tcp 10.0.0.1:2>203.0.113.1:80 start=40 tx=100/1 rx=0/0
         cut
         own 10.0.0.1 heir since=30
         scope 60
         end 61 tcp 10.0.0.2:2>203.0.113.1:80 start=55 tx=33/1 rx=0/0
         end 80 tcp 10.0.0.2:3>203.0.113.1:80 start=70 tx=200/1 rx=0/0
         cut
         own 10.0.0.1 heir since=30
         scope 200
         cut
         books",
        "db 203.0.113.1 TCP tx=22/2
         heir 203.0.113.1 TCP tx=100/1
         web 203.0.113.1 TCP tx=11/2
         db 203.0.113.1 TCP tx=33/1
         not_local 566/8",
    );
}
