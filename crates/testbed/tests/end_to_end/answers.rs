//! Destinations that answer every request as they should not, one way after the other.

use egressd_testbed::{Answer, Cluster, Comparison, Request, Series, flows_by, now};

use crate::harness::{Harness, gentle_plans};
use crate::seconds;

/// Each for so long; the sink's own class of it.
const ANSWERS: [(Answer, &str); 5] = [
    (Answer::Status(400), "client_error"),
    (Answer::Status(429), "throttled"),
    (Answer::Status(500), "server_error"),
    (Answer::Silence, "broken_off"),
    (Answer::Hang, "timed_out"),
];

const SINKS: [&str; 2] = ["castai", "recorder"];

fn treat(run: &Harness<'_>, answer: Answer) {
    [&run.cost_api, &run.recorder].into_iter().for_each(|sink| sink.answer(answer));
}

/// Waits until a push to either has ended so, from now on; how often it did so far. A failed one is tried again within
/// 30 s.
fn until_pushed(run: &mut Harness<'_>, outcome: &str) -> [u64; 2] {
    let before = SINKS.map(|sink| run.pushes(sink, outcome));
    let end = now() + seconds(45);
    loop {
        run.pass(seconds(1));
        let after = SINKS.map(|sink| run.pushes(sink, outcome));
        if before[0] < after[0] && before[1] < after[1] {
            return after;
        }
        assert!(now() < end, "{outcome}: {before:?}, then {after:?}");
    }
}

/// Goal: whatever two destinations answer for a while, both have every byte once in what they called accepted; and what
/// one may have taken without saying so is counted as ambiguous, to the byte.
#[test]
fn bad_answers_lose_nothing_and_every_doubt_is_counted() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("bad answers", &cluster, &gentle_plans());
    run.pass(seconds(3));
    run.change_config(&[("timeout: 30s", "timeout: 2s"), ("timeout: 31s", "timeout: 2s")]);
    for (answer, outcome) in ANSWERS {
        treat(&run, answer);
        run.pass(seconds(4));
        let pushes = until_pushed(&mut run, outcome);
        run.say(&format!("{answer:?}: {pushes:?} pushes {outcome}"));
        treat(&run, Answer::Status(200));
        until_pushed(&mut run, "accepted");
    }
    let ambiguous = |run: &Harness<'_>| {
        let metric = "egressd_exporter_sink_ambiguous_bytes_total";
        run.daemons.exporter.metric(metric, &[("sink", "castai")]).unwrap().unwrap()
    };
    // Nothing is under way whose end would be counted after this look.
    run.pass(seconds(4));
    let ambiguous = ambiguous(&run);
    let truth = run.finish(Series::last_value);

    let unsaid = |request: &&Request| matches!(request.status, 0 | 500);
    let maybe_taken: u64 = run
        .cost_api
        .requests()
        .iter()
        .filter(unsaid)
        .map(|request| {
            let said = run.ingestion.read(request).unwrap().total();
            said.tx_bytes + said.rx_bytes
        })
        .sum();
    run.say(&format!(
        "cost API: {maybe_taken} B in requests that it may have taken, {ambiguous} B ambiguous"
    ));
    assert!(maybe_taken > 0);
    assert_eq!(ambiguous, maybe_taken);
    let (_, recorded) = run.recorded();
    let is_rising = |one: &Series| one.points.is_sorted_by(|a, b| a.at < b.at && a.value <= b.value);
    assert!(recorded.iter().all(is_rising));
    let recorded = flows_by(Series::last_value, &recorded).unwrap();
    assert_eq!(Comparison::of(&truth, &recorded).difference_bytes(), 0);
}
