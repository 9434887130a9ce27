//! The machine of running totals, in virtual time, against a store that checks what a receiver would.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::tests::{batch, seconds};

const INTERNET: &str = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp";

fn totals(samples_max: usize) -> Totals {
    Totals::new(64, samples_max, true)
}

/// Applies one batch of a record that sends `bytes` in one packet.
pub(super) fn send(totals: &mut Totals, bytes: u64, now: UnixNanos) {
    let position = totals.standing().applied.0 + 1;
    totals.apply(&batch(position, &[&format!("{INTERNET} tx={bytes}/1")]), now);
}

/// The next request as text: its time in milliseconds, and of each sample its metric, remote address and figure.
pub(super) fn request(totals: &mut Totals, now: UnixNanos) -> Option<String> {
    totals.advance(0, now)?;
    let samples = totals.chunk(0).iter().map(|sample| {
        let flow = totals.flow(sample).unwrap();
        let remote = flow.destination_address().map_or_else(|| "-".to_owned(), |address| address.to_string());
        let figure = match sample.figure {
            Figure::Zero => "zero".to_owned(),
            Figure::Total(sum) => sum.bytes.to_string(),
            Figure::Stale(_) => "stale".to_owned(),
            Figure::Growth(growth) => format!("+{}", growth.bytes),
        };
        format!(" {:?} {remote} {figure}", sample.metric)
    });
    Some(format!("{}{}", totals.timestamp_ms(0), samples.collect::<Vec<_>>().join(",")))
}

/// A whole push, every request accepted.
pub(super) fn push(totals: &mut Totals, now: UnixNanos) -> Vec<String> {
    totals.begin();
    let mut requests = Vec::new();
    while let Some(text) = request(totals, now) {
        requests.push(text);
        totals.settle(0);
    }
    requests
}

/// Goal: a series begins with a zero in a request of its own, and the total follows at a later time.
#[test]
fn zero_goes_before_the_first_total() {
    let mut totals = totals(100);
    send(&mut totals, 4000, seconds(1));
    assert_eq!(
        push(&mut totals, seconds(15)),
        ["15000 Transmit 8.8.8.8 zero", "15001 Transmit 8.8.8.8 4000"]
    );
    send(&mut totals, 5, seconds(16));
    assert_eq!(push(&mut totals, seconds(30)), ["30000 Transmit 8.8.8.8 4005"]);
    assert_eq!((totals.standing().accepted, totals.standing().held.0), (Position(2), Counter::default()));
}

/// Goal: each direction is a series; none is made of what did not grow; received only where it is asked for.
#[test]
fn each_direction_is_a_series() {
    let line = format!("{INTERNET} tx=1/1 rx=2/1 undirected=4/1");
    for (asked, expected) in [
        (true, "1001 Transmit 8.8.8.8 1, Received 8.8.8.8 2, Undirected 8.8.8.8 4"),
        (false, "1001 Transmit 8.8.8.8 1, Undirected 8.8.8.8 4"),
    ] {
        let mut totals = Totals::new(64, 100, asked);
        let applied = totals.apply(&batch(1, &[&line, &format!("{INTERNET} tx=0/0")]), seconds(1));
        assert_eq!(push(&mut totals, seconds(1)).last().map(String::as_str), Some(expected));
        let not_asked = if asked { Counter::default() } else { Counter { bytes: 2, packets: 1 } };
        assert_eq!(applied.discarded(Reason::not_asked), not_asked);
    }
}

/// Goal: after a failure the same part is said again, with the total of then, at a later time, also where the clock
/// went back; a zero is repeated until accepted.
#[test]
fn failed_requests_are_built_again_from_the_state_of_then() {
    let mut totals = totals(100);
    send(&mut totals, 10, seconds(1));
    totals.begin();
    assert_eq!(request(&mut totals, seconds(15)).as_deref(), Some("15000 Transmit 8.8.8.8 zero"));
    assert_eq!(request(&mut totals, seconds(16)).as_deref(), Some("16000 Transmit 8.8.8.8 zero"));
    totals.settle(0);
    assert_eq!(request(&mut totals, seconds(16)).as_deref(), Some("16001 Transmit 8.8.8.8 10"));
    send(&mut totals, 7, seconds(17));
    assert_eq!(request(&mut totals, seconds(3)).as_deref(), Some("16002 Transmit 8.8.8.8 17"));
    send(&mut totals, 2, seconds(17));
    assert_eq!(totals.settle(0).0, Counter { bytes: 17, packets: 2 });
    assert_eq!(
        (totals.standing().accepted, totals.standing().held.0),
        (Position(0), Counter { bytes: 2, packets: 1 })
    );
    assert_eq!(request(&mut totals, seconds(17)), None);
    assert_eq!((totals.standing().accepted, totals.standing().applied), (Position(1), Position(3)));
}

/// Goal: the position of the beginning is accepted when every request of the push is, and not before.
#[test]
fn position_moves_with_the_last_request_of_a_push() {
    let mut totals = totals(3);
    let lines = [1, 2].map(|host| format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx={host}/1"));
    totals.apply(&batch(1, &[&lines[0], &lines[1]]), seconds(1));
    totals.begin();
    let mut seen = Vec::new();
    while let Some(text) = request(&mut totals, seconds(15)) {
        assert_eq!(totals.standing().accepted, Position(0));
        seen.push(text);
        totals.settle(0);
        // It arrives after the beginning, on a new flow that the sweep of zeros has partly passed.
        if seen.len() == 2 {
            totals.apply(&batch(2, &["web/app@n1/a 10.0.0.1 > unknown 9.9.9.9 tcp tx=9/1"]), seconds(15));
        }
    }
    assert_eq!(
        seen,
        [
            "15000 Transmit 8.8.8.1 zero",
            "15001 Transmit 8.8.8.2 zero",
            "15002 Transmit 9.9.9.9 zero",
            "15003 Transmit 8.8.8.1 1",
            "15004 Transmit 8.8.8.2 2",
            "15005 Transmit 9.9.9.9 9",
        ]
    );
    assert_eq!((totals.standing().accepted, totals.standing().applied), (Position(1), Position(2)));
    push(&mut totals, seconds(30));
    assert_eq!(totals.standing().accepted, Position(2));
}

/// Goal: an unchanged total repeats for ten minutes, ends with one marker, is forgotten; its return begins at zero,
/// later than the marker.
#[test]
fn idle_series_ends_with_one_marker_and_returns_from_zero() {
    let mut totals = totals(100);
    send(&mut totals, 10, seconds(1));
    push(&mut totals, seconds(15));
    for (now, expected) in [
        (30, vec!["30000 Transmit 8.8.8.8 10"]),
        (600, vec!["600000 Transmit 8.8.8.8 10"]),
        (601, vec!["601000 Transmit 8.8.8.8 stale"]),
        (602, vec![]),
    ] {
        assert_eq!(push(&mut totals, seconds(now)), expected, "{now}");
    }
    assert_eq!(totals.flows(), 0);
    send(&mut totals, 3, seconds(602));
    assert_eq!(
        push(&mut totals, seconds(601)),
        ["601001 Transmit 8.8.8.8 zero", "601002 Transmit 8.8.8.8 3"]
    );
}

/// Goal: growth while the marker is under way is neither lost nor counted twice, whatever becomes of the marker.
#[test]
fn growth_during_the_marker_is_kept() {
    for (accepted, expected) in [
        (true, vec!["603000 Transmit 8.8.8.8 zero", "603001 Transmit 8.8.8.8 3"]),
        (false, vec!["603000 Transmit 8.8.8.8 13"]),
    ] {
        let mut totals = totals(100);
        send(&mut totals, 10, seconds(1));
        push(&mut totals, seconds(15));
        totals.begin();
        assert_eq!(request(&mut totals, seconds(602)).as_deref(), Some("602000 Transmit 8.8.8.8 stale"));
        send(&mut totals, 3, seconds(602));
        if accepted {
            totals.settle(0);
            assert_eq!(request(&mut totals, seconds(602)), None);
        }
        assert_eq!(totals.standing().held.0, Counter { bytes: 3, packets: 1 });
        assert_eq!(push(&mut totals, seconds(603)), expected);
        assert_eq!(totals.standing().held.0, Counter::default());
    }
}

/// Goal: a destination that is away for longer than a series may idle gets the total before the marker.
#[test]
fn series_does_not_end_before_its_total_is_accepted() {
    let mut totals = totals(100);
    send(&mut totals, 10, seconds(1));
    assert_eq!(
        push(&mut totals, seconds(3600)),
        ["3600000 Transmit 8.8.8.8 zero", "3600001 Transmit 8.8.8.8 10"]
    );
    assert_eq!(push(&mut totals, seconds(3615)), ["3615000 Transmit 8.8.8.8 stale"]);
}

/// Goal: a push of nothing accepts its position at once, and a batch that comes twice counts once.
#[test]
fn empty_and_repeated_batches_move_no_bytes() {
    let mut totals = totals(100);
    totals.apply(&batch(1, &[]), seconds(1));
    assert_eq!((push(&mut totals, seconds(15)), totals.standing().accepted), (vec![], Position(1)));
    send(&mut totals, 10, seconds(16));
    let again = totals.apply(&batch(2, &[&format!("{INTERNET} tx=10/1")]), seconds(17));
    let counted = Counter { bytes: 10, packets: 1 };
    assert_eq!(
        (again.received, again.discarded(Reason::repeated), totals.standing().held.0),
        (counted, counted, counted)
    );
}

/// Goal: growth goes without a zero, is said again as it was until it is accepted, and what came meanwhile goes next;
/// nothing is repeated, ended or kept for what is idle.
#[test]
fn growth_is_said_as_it_was_until_accepted() {
    let mut totals = totals(100);
    totals.say(Temporality::Delta);
    send(&mut totals, 10, seconds(1));
    totals.begin();
    assert_eq!(request(&mut totals, seconds(15)).as_deref(), Some("15000 Transmit 8.8.8.8 +10"));
    send(&mut totals, 7, seconds(16));
    assert_eq!(request(&mut totals, seconds(17)).as_deref(), Some("17000 Transmit 8.8.8.8 +10"));
    assert_eq!(totals.requested(), Counter { bytes: 10, packets: 1 });
    assert_eq!(totals.settle(0).0, Counter { bytes: 10, packets: 1 });
    assert_eq!(request(&mut totals, seconds(17)), None);
    assert_eq!(totals.standing().accepted, Position(1));
    assert_eq!(push(&mut totals, seconds(30)), ["30000 Transmit 8.8.8.8 +7"]);
    assert_eq!((push(&mut totals, seconds(2000)), totals.flows()), (vec![], 0));
    assert_eq!((totals.standing().accepted, totals.standing().held.0), (Position(2), Counter::default()));
}

/// Goal: from totals to growth and back, what was not accepted is said in the new way, and nothing twice.
#[test]
fn another_temporality_takes_over_what_is_held() {
    let mut totals = totals(100);
    send(&mut totals, 10, seconds(1));
    push(&mut totals, seconds(15));
    send(&mut totals, 5, seconds(16));
    totals.begin();
    assert_eq!(request(&mut totals, seconds(30)).as_deref(), Some("30000 Transmit 8.8.8.8 15"));
    totals.say(Temporality::Delta);
    assert_eq!(request(&mut totals, seconds(31)).as_deref(), Some("31000 Transmit 8.8.8.8 +5"));
    totals.say(Temporality::Cumulative);
    assert_eq!(push(&mut totals, seconds(32)), ["32000 Transmit 8.8.8.8 zero", "32001 Transmit 8.8.8.8 5"]);
    assert_eq!(totals.standing().held.0, Counter::default());
}

/// Goal: a total began with its first growth, or, once it has ended, with the growth that it returned by.
#[test]
fn total_says_when_it_began() {
    let mut totals = totals(100);
    let began = |totals: &Totals| totals.began_ms(&totals.chunk(0)[0]);
    for (grown, pushed) in [(1_732_320_000, 1_732_320_015), (1_732_330_000, 1_732_330_015)] {
        send(&mut totals, 10, seconds(grown));
        totals.begin();
        for _ in 0..2 {
            assert!(totals.advance(0, seconds(pushed)).is_some());
            assert_eq!(began(&totals), 1000 * i64::try_from(grown).unwrap());
            totals.settle(0);
        }
        assert_eq!(push(&mut totals, seconds(pushed)), Vec::<String>::new(), "the push is over");
        assert!(push(&mut totals, seconds(pushed + 700)).concat().ends_with("stale"));
    }
}

/// What a receiver keeps of a series, checked as a receiver checks it.
#[derive(Default)]
pub(super) struct Store(BTreeMap<String, Vec<(i64, Option<u64>)>>);

impl Store {
    pub(super) fn take(&mut self, totals: &Totals, lane: usize) {
        let timestamp = totals.timestamp_ms(lane);
        for sample in totals.chunk(lane) {
            let flow = totals.flow(sample).unwrap();
            let labels: Vec<_> = flow.labels().map(|(name, value)| format!("{name}={value}")).collect();
            let series = self.0.entry(format!("{:?} {labels:?}", sample.metric)).or_default();
            let value = match sample.figure {
                Figure::Zero => Some(0),
                Figure::Total(sum) => Some(sum.bytes),
                Figure::Stale(_) => None,
                Figure::Growth(_) => panic!("growth among totals"),
            };
            let last = series.last().map_or(0, |(timestamp, _)| *timestamp);
            assert!(timestamp > last, "{timestamp} after {last}");
            assert!(!series.is_empty() || value == Some(0), "a series begins with a zero");
            series.push((timestamp, value));
        }
    }

    /// `increase()` over everything, as Prometheus adds it up: stale markers left out, a lower value is a reset.
    pub(super) fn increase(&self) -> u64 {
        let growth = |series: &Vec<(i64, Option<u64>)>| {
            let values: Vec<u64> = series.iter().filter_map(|(_, value)| *value).collect();
            values.windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap_or(pair[1])).sum::<u64>()
        };
        self.0.values().map(growth).sum()
    }

    /// Unless a marker ended it, a series' value is at least the one before.
    pub(super) fn check_never_backwards(&self) {
        for (series, points) in &self.0 {
            for pair in points.windows(2) {
                if let [(_, Some(before)), (_, Some(value))] = pair {
                    assert!(value >= before, "{series}: {points:?}");
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Traffic of one of a few flows.
    Apply { host: u8, bytes: u64 },
    /// Time passes, in seconds.
    Wait(u64),
    /// A request of an idle lane, stored or not, and the traffic of one flow while it is under way.
    Request { lane: usize, stored: bool, host: u8, bytes: u64 },
    /// We learn what became of a lane's request, or do not.
    Answer { lane: usize, told: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5u8, 1..1000u64).prop_map(|(host, bytes)| Step::Apply { host, bytes }),
        prop_oneof![0..20u64, 590..700u64].prop_map(Step::Wait),
        (0..LANES, prop::bool::weighted(0.8), 0..5u8, 0..2u64)
            .prop_map(|(lane, stored, host, bytes)| Step::Request { lane, stored, host, bytes }),
        (0..LANES, prop::bool::weighted(0.8)).prop_map(|(lane, told)| Step::Answer { lane, told }),
    ]
}

/// Traffic in both directions with one of a few flows; what was received of it.
fn talk(totals: &mut Totals, host: u8, bytes: u64, now: UnixNanos) -> Counter {
    let rx = bytes / 2;
    let line = format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx={bytes}/1 rx={rx}/2");
    totals.apply(&batch(totals.standing().applied.0 + 1, &[&line]), now).received
}

/// Requests at once.
pub(super) const LANES: usize = 3;

/// What becomes of the requests under way, by lane: whether each was stored.
pub(super) type Fates = [Option<bool>; LANES];

/// An idle lane's next request, if it has one, meets the store, or does not.
pub(super) fn ask(
    totals: &mut Totals,
    store: &mut Store,
    (lane, stored): (usize, bool),
    fates: &mut Fates,
    now: UnixNanos,
) -> bool {
    let asks = fates[lane].is_none() && totals.advance(lane, now).is_some();
    if asks {
        if stored {
            store.take(totals, lane);
        }
        fates[lane] = Some(stored);
    }
    asks
}

/// The request of a lane is answered; what was let out by that.
pub(super) fn answer(totals: &mut Totals, (lane, told): (usize, bool), fates: &mut Fates) -> Counter {
    match fates[lane].take() {
        Some(true) if told => totals.settle(lane).0,
        Some(_) => {
            totals.refused(lane, Verdict::Refused, UnixNanos(0));
            Counter::default()
        }
        None => Counter::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: whatever is refused, lost on the way or answered in vain, by whichever of several requests at once, the store
    /// ends up with every byte once, and the books balance at each step.
    #[test]
    fn every_byte_arrives_once(steps in proptest::collection::vec(step(), 0..160), samples_max in 3..8usize) {
        let (mut totals, mut store, mut fates) = (totals(samples_max), Store::default(), Fates::default());
        totals.speak_at_once(LANES);
        let (mut now, mut received, mut emitted) = (seconds(1), Counter::default(), Counter::default());
        for step in steps {
            match step {
                Step::Apply { host, bytes } => received += talk(&mut totals, host, bytes, now),
                Step::Wait(more) => now = now.saturating_add(Duration::from_secs(more)),
                Step::Request { lane, stored, host, bytes } => {
                    totals.begin();
                    if ask(&mut totals, &mut store, (lane, stored), &mut fates, now) {
                        received += talk(&mut totals, host, bytes, now);
                    }
                }
                Step::Answer { lane, told } => emitted += answer(&mut totals, (lane, told), &mut fates),
            }
            let held = totals.table.iter_from(0).fold(Counter::default(), |mut held, (_, _, flow)| {
                held += flow.unaccepted();
                held
            });
            prop_assert_eq!(totals.standing().held.0, held);
            emitted += held;
            prop_assert_eq!(received, emitted);
            emitted = emitted.growth(held).unwrap();
        }
        while totals.standing().accepted < totals.standing().applied {
            totals.begin();
            for lane in 0..LANES {
                ask(&mut totals, &mut store, (lane, true), &mut fates, now);
            }
            for lane in 0..LANES {
                answer(&mut totals, (lane, true), &mut fates);
            }
        }
        prop_assert_eq!(store.increase(), received.bytes);
        prop_assert_eq!(totals.standing().held.0, Counter::default());
        store.check_never_backwards();
    }
}
