//! Which time a batch is of: whoever names its remote ends looks them up for that time.

use egressd_flow::{Batch, Span, UnixNanos};

use super::{CONFIG, Script, seconds};

/// Goal: a batch's span reaches back to the last complete read before the cut before it, which its growth may follow.
#[test]
fn a_span_reaches_back_to_the_last_complete_read() {
    let mut run = Script::new(CONFIG);
    run.step("own 10.0.0.1 web");
    run.step("scope 1");
    let mut spans = Vec::new();
    for (begin, end, cut) in [
        ("begin 10", "complete", 12),
        ("begin 20", "partial", 22),
        ("begin 30", "complete", 33),
        ("begin 40", "complete", 41),
    ] {
        run.step(begin);
        run.step(&format!("tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx={cut}/1 rx=0/0"));
        run.step(end);
        let span = run.meter.cut(UnixNanos(cut * 1_000_000_000))[0].span;
        spans.push((span.from.as_millis() / 1000, span.to.as_millis() / 1000));
    }
    assert_eq!(spans, [(0, 12), (10, 22), (10, 33), (30, 41)]);
}

/// Goal: growth that waited for its owner leaves apart from what grew since, in a span of its own time.
#[test]
fn what_was_claimed_late_keeps_its_time() {
    let mut run = Script::new(CONFIG);
    for line in "own 10.0.0.2 db
         scope 1
         begin 10
         complete
         begin 20
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=1/1 rx=0/0
         complete
         begin 30
         tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=2/1 rx=0/0
         complete
         begin 40
         tcp 10.0.0.2:1>203.0.113.1:80 start=35 tx=4/1 rx=0/0
         complete
         own 10.0.0.1 web
         own 10.0.0.2 db
         scope 41"
        .lines()
    {
        run.step(line.trim());
    }
    let told = |batch: Batch| {
        let Span { from, to } = batch.span;
        (batch.sequence.0, from.as_millis() / 1000, to.as_millis() / 1000, batch.sum().bytes)
    };
    let batches: Vec<_> = run.meter.cut(seconds("42")).into_iter().map(told).collect();
    assert_eq!(batches, [(1, 15, 30, 2), (2, 0, 42, 4)]);
}

/// Goal: a clock that is set back between two growths of a flow that waits leaves a span that a peer takes.
#[test]
fn a_clock_set_back_turns_no_span_around() {
    let mut run = Script::new(CONFIG);
    for line in "begin 100
         complete
         begin 200
         tcp 10.0.0.1:1>203.0.113.1:80 start=150 tx=1/1 rx=0/0
         complete
         begin 50
         tcp 10.0.0.1:1>203.0.113.1:80 start=150 tx=3/1 rx=0/0
         complete
         own 10.0.0.1 web
         scope 60"
        .lines()
    {
        run.step(line.trim());
    }
    for batch in run.meter.cut(seconds("61")) {
        assert!(batch.span.from <= batch.span.to, "{:?}", batch.span);
    }
}
