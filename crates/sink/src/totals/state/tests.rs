//! Lives that end at any point, against a store that outlives them.

use egressd_flow::AttributedBatch;
use proptest::prelude::*;

use super::super::tests::{Fates, LANES, Store, answer, ask, push, request, send};
use super::*;
use crate::Reason;
use crate::config::Temporality;
use crate::destination::Verdict;
use crate::tests::{batch, seconds};

const PLACE: u64 = 7;

fn keeping() -> Totals {
    let mut totals = Totals::new(64, 100, true);
    totals.resume((Position(0), &[]), PLACE, Position(0), seconds(0)).unwrap();
    totals
}

/// What is due is kept.
fn keep(totals: &mut Totals) {
    totals.state(PLACE);
    totals.kept();
}

/// The next life, by what this one keeps, which has to take in all through `through` again.
fn reborn(totals: &mut Totals, place: u64, through: u64, now: UnixNanos) -> Totals {
    let (position, state) = totals.state(place);
    let mut next = Totals::new(64, 100, true);
    next.resume((position, &state), PLACE, Position(through), now).unwrap();
    next
}

/// Goal: between the zeros and the totals, and after a push that brought something, a state is kept; what a state knows
/// is not said again: the next life says no second zero, goes on with the total, at later times.
#[test]
fn a_birth_is_kept_before_the_first_value() {
    let mut totals = keeping();
    send(&mut totals, 4000, seconds(1));
    totals.begin();
    assert_eq!(request(&mut totals, seconds(15)).as_deref(), Some("15000 Transmit 8.8.8.8 zero"));
    totals.settle(0);
    assert_eq!((request(&mut totals, seconds(15)), totals.is_due(), totals.is_running()), (None, true, true));

    let mut next = reborn(&mut totals, PLACE, 1, seconds(16));
    assert_eq!(next.standing().held.0, Counter { bytes: 4000, packets: 1 });
    assert_eq!(push(&mut next, seconds(16)), ["16000 Transmit 8.8.8.8 4000"]);
    assert_eq!(next.standing().accepted, Position(1));
    assert!(!next.is_due(), "nothing has come since the state");

    keep(&mut totals);
    assert_eq!(push(&mut totals, seconds(15)), ["15001 Transmit 8.8.8.8 4000"]);
    send(&mut totals, 5, seconds(16));
    assert_eq!(push(&mut totals, seconds(30)), ["30000 Transmit 8.8.8.8 4005"]);
    assert!(totals.is_due());
}

/// Goal: growth is said only once a state knows that it is; the next life says it again and doubts it once, and what was
/// accepted and kept is neither said nor doubted.
#[test]
fn growth_is_noted_before_it_is_said() {
    let growing = |kept: Option<(Position, Vec<u8>)>| {
        let (position, state) = kept.unwrap_or_default();
        let mut totals = Totals::new(64, 100, true);
        totals.say(Temporality::Delta);
        totals.resume((position, &state), PLACE, position, seconds(20)).unwrap();
        totals
    };
    let growth = |bytes| Counter { bytes, packets: 1 };
    let mut totals = growing(None);
    send(&mut totals, 10, seconds(1));
    totals.begin();
    assert_eq!((request(&mut totals, seconds(15)), totals.is_due(), totals.is_running()), (None, true, true));
    let noted = totals.state(PLACE);
    keep(&mut totals);
    assert_eq!(request(&mut totals, seconds(15)).as_deref(), Some("15000 Transmit 8.8.8.8 +10"));
    send(&mut totals, 7, seconds(16));
    totals.settle(0);
    assert_eq!((request(&mut totals, seconds(16)), totals.is_due()), (None, true));
    let accepted = totals.state(PLACE);

    for (state, said, doubt) in [(noted, 10, growth(10)), (accepted, 7, Counter::default())] {
        let mut next = growing(Some(state));
        assert_eq!((next.take_doubt(), next.take_doubt()), (doubt, Counter::default()));
        assert_eq!(push(&mut next, seconds(20)), [""; 0]);
        keep(&mut next);
        assert_eq!(push(&mut next, seconds(20)), [format!("20000 Transmit 8.8.8.8 +{said}")]);
    }
}

/// Goal: a total of 2.0 goes on saying when it began.
#[test]
fn totals_know_when_they_began_over_many_lives() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1_732_320_000));
    let mut next = reborn(&mut totals, PLACE, 1, seconds(1_732_330_000));
    next.begin();
    assert!(next.advance(0, seconds(1_732_330_000)).is_none(), "a state knows of no such time yet");
    keep(&mut next);
    assert!(next.advance(0, seconds(1_732_330_000)).is_some());
    assert_eq!(next.began_ms(&next.chunk(0)[0]), 1_732_320_000_000);
}

/// Goal: nothing is said before all that the life before may have said was taken in again.
#[test]
fn nothing_is_said_before_it_is_caught_up() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    let mut next = reborn(&mut totals, PLACE, 3, seconds(2));
    assert_eq!((push(&mut next, seconds(2)), next.is_running()), (vec![], false));
    send(&mut next, 1, seconds(2));
    assert_eq!(push(&mut next, seconds(3)), [""; 0]);
    send(&mut next, 1, seconds(3));
    assert_eq!(push(&mut next, seconds(3)), ["3000 Transmit 8.8.8.8 zero"]);
    keep(&mut next);
    assert_eq!(push(&mut next, seconds(4)), ["4000 Transmit 8.8.8.8 12"]);
}

/// Goal: the end of a series that was set aside is kept before its return says a zero, also within one cycle: a life that
/// begins from a state before the end goes on with the total, which must come after no zero.
#[test]
fn an_end_set_aside_is_kept_before_a_return() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    for now in [2, 2] {
        push(&mut totals, seconds(now));
        keep(&mut totals);
    }
    totals.begin();
    assert_eq!(request(&mut totals, seconds(700)), None, "a state knows of no such time yet");
    keep(&mut totals);
    assert_eq!(request(&mut totals, seconds(700)).as_deref(), Some("700000 Transmit 8.8.8.8 stale"));
    assert!(totals.refused(0, Verdict::Rejected, seconds(700)).aside.is_some());
    while totals.is_running() {
        assert_eq!(request(&mut totals, seconds(700)), None);
        keep(&mut totals);
    }
    totals.begin();
    assert_eq!(request(&mut totals, seconds(701)).as_deref(), Some("701000 Transmit 8.8.8.8 stale"));
    send(&mut totals, 3, seconds(701));
    totals.settle(0);
    assert_eq!((request(&mut totals, seconds(701)), totals.is_due()), (None, true));
    keep(&mut totals);
    assert_eq!(request(&mut totals, seconds(701)).as_deref(), Some("701001 Transmit 8.8.8.8 zero"));
}

/// Goal: however long a life says the same totals again without anything new, a life after it, whose clock was set back,
/// says nothing at a time that was used.
#[test]
fn times_rise_over_a_clock_that_was_set_back_by_minutes() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    let mut last = 0;
    let mut kept = totals.state(PLACE);
    totals.kept();
    for now in (15..500).step_by(15) {
        totals.begin();
        while totals.is_running() {
            if totals.is_due() {
                kept = totals.state(PLACE);
                totals.kept();
            }
            if request(&mut totals, seconds(now)).is_some() {
                last = totals.timestamp_ms(0);
                totals.settle(0);
            }
        }
    }
    assert_eq!(last, 495_000);
    let mut next = Totals::new(64, 100, true);
    next.resume((kept.0, &kept.1), PLACE, Position(1), seconds(200)).unwrap();
    let mut after = Vec::new();
    next.begin();
    while next.is_running() && after.is_empty() {
        if next.is_due() {
            keep(&mut next);
        }
        if next.advance(0, seconds(200)).is_some() {
            after.push(next.timestamp_ms(0));
        }
    }
    assert!(after[0] > last, "{after:?} after {last}");
}

/// Goal: totals that become growth over a restart, and growth that becomes totals, begin anew with what was not accepted,
/// and leave no series behind that nobody ends.
#[test]
fn another_temporality_over_a_restart_begins_anew() {
    for (before, after, expected) in [
        (Temporality::Cumulative, Temporality::Delta, "+3"),
        (Temporality::Delta, Temporality::Cumulative, "zero"),
    ] {
        let mut totals = keeping();
        totals.say(before);
        send(&mut totals, 10, seconds(1));
        totals.begin();
        while totals.is_running() {
            if totals.is_due() {
                keep(&mut totals);
            }
            if request(&mut totals, seconds(2)).is_some() {
                totals.settle(0);
            }
        }
        send(&mut totals, 3, seconds(3));
        let (position, state) = totals.state(PLACE);
        let mut next = Totals::new(64, 100, true);
        next.say(after);
        next.resume((position, &state), PLACE, position, seconds(4)).unwrap();
        next.begin();
        let mut said = None;
        while next.is_running() && said.is_none() {
            if next.is_due() {
                keep(&mut next);
            }
            said = request(&mut next, seconds(5));
        }
        assert!(said.as_ref().is_some_and(|said| said.ends_with(expected)), "{said:?}");
        assert_eq!((next.flows(), next.standing().held.0), (1, Counter { bytes: 3, packets: 1 }));
    }
}

/// Goal: growth counts in doubt once for each life that may have said it, also where lives end before they say it again.
#[test]
fn growth_is_in_doubt_for_each_life_that_may_have_said_it() {
    let growing = || {
        let mut totals = Totals::new(64, 100, true);
        totals.say(Temporality::Delta);
        totals
    };
    let mut totals = growing();
    totals.resume((Position(0), &[]), PLACE, Position(0), seconds(0)).unwrap();
    send(&mut totals, 10, seconds(1));
    for life in 1..=3 {
        totals.begin();
        assert_eq!(request(&mut totals, seconds(life)), None);
        let (position, state) = totals.state(PLACE);
        // It may say it now, and ends.
        totals = growing();
        totals.resume((position, &state), PLACE, position, seconds(life)).unwrap();
        let lives = Counter { bytes: 10 * life, packets: life };
        assert_eq!(unaccepted(&state), Some(Counter { bytes: 10, packets: 1 }));
        if life == 3 {
            assert_eq!(totals.take_doubt(), lives);
        }
    }
}

/// Goal: what changed in the configuration while nobody ran is taken up once caught up: another place begins anew with
/// what was not accepted, and received bytes are as they were until then.
#[test]
fn another_place_begins_anew_when_caught_up() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    push(&mut totals, seconds(2));
    keep(&mut totals);
    push(&mut totals, seconds(2));
    send(&mut totals, 3, seconds(3));
    let mut next = reborn(&mut totals, PLACE + 1, 3, seconds(4));
    next.ask_received(false);
    let line = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp rx=6/1";
    next.apply(&batch(3, &[line]), seconds(4));
    next.begin();
    let after = next.apply(&batch(4, &[line]), seconds(4));
    assert_eq!(after.discarded(Reason::not_asked), Counter { bytes: 6, packets: 1 });
    keep(&mut next);
    assert_eq!(push(&mut next, seconds(5)), ["5000 Transmit 8.8.8.8 zero, Received 8.8.8.8 zero"]);
    keep(&mut next);
    assert_eq!(push(&mut next, seconds(5)), ["5001 Transmit 8.8.8.8 3, Received 8.8.8.8 6"]);
}

/// Goal: every kind of flow comes back as it was, rests and unnamed ends with it.
#[test]
fn every_kind_of_flow_comes_back() {
    let lines = [
        "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2 undirected=5/1",
        "web/app@n1/a fd00::1 > @n2/b 10.0.1.3 udp tx=1/1",
        "web/app@n1 10.0.0.1 > unknown 8.8.8.8 58 rx=18446744073709551615/4",
        "web/app@n1/a 10.0.0.1 > unknown 10.9.9.9 tcp tx=2/1",
        "web/app@n1/a 10.0.0.1 > folded - tcp tx=3/1",
    ];
    let mut totals = keeping();
    totals.apply(&batch(1, &lines), seconds(1));
    let said = |totals: &Totals| {
        let flow = |(_, flow, of): (_, FlowView<'_>, &FlowTotals)| {
            let labels: Vec<_> = flow.labels().map(|(name, value)| format!("{name}={value}")).collect();
            (labels, of.0.map(|total| (total.sum, total.accepted, total.grown, total.stage)))
        };
        totals.table.iter_from(0).map(flow).collect::<Vec<_>>()
    };
    let mut next = reborn(&mut totals, PLACE, 1, seconds(2));
    assert_eq!(said(&next), said(&totals));
    next.apply(&batch(2, &lines), seconds(3));
    assert_eq!(next.flows(), lines.len());
}

/// Goal: a state takes at most the stated bytes a flow beside its names, with all three series and IPv6 at both ends.
#[test]
fn a_state_is_compact() {
    let line = |flow: usize| {
        format!("web/app@n1/a fd00::1 > pg/db@n2/b fd00::1:{flow:x} tcp tx=7000/1 rx=900000/2 undirected=1/1")
    };
    let lines: Vec<String> = (1..=10_000).map(line).collect();
    let mut totals = Totals::new(20_000, 100, true);
    totals.resume((Position(0), &[]), PLACE, Position(0), seconds(0)).unwrap();
    totals.apply(&batch(1, &lines.iter().map(String::as_str).collect::<Vec<_>>()), seconds(1_800_000_000));
    let (_, state) = totals.state(PLACE);
    let bytes_a_flow = state.len() / lines.len();
    assert!((50..=130).contains(&bytes_a_flow), "{bytes_a_flow}");
}

/// Goal: a clock that was set back between two lives does not have times said twice.
#[test]
fn times_rise_over_a_clock_that_was_set_back() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    assert_eq!(push(&mut totals, seconds(3600)), [""; 0], "a state knows of no such time yet");
    keep(&mut totals);
    assert_eq!(push(&mut totals, seconds(3600)), ["3600000 Transmit 8.8.8.8 zero"]);
    let mut next = reborn(&mut totals, PLACE, 1, seconds(60));
    assert_eq!(push(&mut next, seconds(61)), [""; 0]);
    keep(&mut next);
    assert_eq!(push(&mut next, seconds(61)), ["3660001 Transmit 8.8.8.8 10"]);
}

/// Goal: what does not hold together is refused, leaves nothing behind, and never panics.
#[test]
fn damaged_states_are_refused() {
    let mut totals = keeping();
    send(&mut totals, 10, seconds(1));
    let (_, state) = totals.state(PLACE);
    let other_format = State { format: FORMAT + 1, ..State::decode(state.as_slice()).unwrap() };
    let mut no_end = State::decode(state.as_slice()).unwrap();
    no_end.flows[0].local = 9;
    let mut impossible = State::decode(state.as_slice()).unwrap();
    impossible.flows[0].series[0].unaccepted_bytes = 11;
    let damaged = [other_format, no_end, impossible].map(|state| state.encode_to_vec());
    for bytes in damaged.iter().map(Vec::as_slice).chain([&state[..state.len() - 1], &[0]]) {
        let mut next = Totals::new(64, 100, true);
        assert_eq!(next.resume((Position(1), bytes), PLACE, Position(1), seconds(2)), Err(StateLost));
        assert_eq!((next.flows(), next.standing().held.0), (0, Counter::default()));
        send(&mut next, 3, seconds(3));
        assert_eq!(push(&mut next, seconds(4)), ["4000 Transmit 8.8.8.8 zero"]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Traffic of one of a few flows, which the spool has from then on.
    Come { host: u8, bytes: u64 },
    /// The sink takes in what the spool has.
    Read,
    /// Time passes, in seconds.
    Wait(u64),
    /// A state, or one request of a lane, stored or not.
    Say { lane: usize, stored: bool },
    /// We learn what became of a lane's request, or do not.
    Hear { lane: usize, told: bool },
    /// The process ends, and another begins.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8, 1..1000u64).prop_map(|(host, bytes)| Step::Come { host, bytes }),
        4 => Just(Step::Read),
        2 => prop_oneof![0..20u64, 590..700u64].prop_map(Step::Wait),
        8 => (0..LANES, prop::bool::weighted(0.8)).prop_map(|(lane, stored)| Step::Say { lane, stored }),
        8 => (0..LANES, prop::bool::weighted(0.8)).prop_map(|(lane, told)| Step::Hear { lane, told }),
        1 => Just(Step::Die),
    ]
}

/// A sink of running totals, what is kept for it, and the spool it reads.
struct World {
    totals: Totals,
    fates: Fates,
    kept: (Position, Vec<u8>),
    spool: Vec<AttributedBatch>,
    store: Store,
    samples_max: usize,
    now: UnixNanos,
}

impl World {
    fn read(&mut self) {
        for batch in &self.spool {
            if batch.position > self.totals.standing().applied {
                self.totals.apply(batch, self.now);
            }
        }
    }

    fn die(&mut self) {
        let through = Position(self.spool.len() as u64);
        (self.totals, self.fates) = (Totals::new(64, self.samples_max, true), Fates::default());
        self.totals.speak_at_once(LANES);
        let (position, state) = &self.kept;
        self.totals.resume((*position, state), PLACE, through, self.now).unwrap();
    }

    /// One step of a push.
    fn say(&mut self, lane: usize, stored: bool) {
        self.totals.begin();
        if self.totals.is_due() {
            self.kept = self.totals.state(PLACE);
            self.totals.kept();
            return;
        }
        ask(&mut self.totals, &mut self.store, (lane, stored), &mut self.fates, self.now);
    }

    fn hear(&mut self, lane: usize, told: bool) {
        answer(&mut self.totals, (lane, told), &mut self.fates);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: wherever lives end, the store gets every byte once, a total never goes backwards, times rise, and each
    /// life's books begin with what the one before held.
    #[test]
    fn every_byte_arrives_once_over_many_lives(
        steps in proptest::collection::vec(step(), 0..200),
        samples_max in 3..8usize,
    ) {
        let (totals, fates) = (Totals::new(64, samples_max, true), Fates::default());
        let (kept, spool, store) = ((Position(0), Vec::new()), Vec::new(), Store::default());
        let mut world = World { totals, fates, kept, spool, store, samples_max, now: seconds(1) };
        world.die();
        for step in steps {
            match step {
                Step::Come { host, bytes } => {
                    let line = format!(
                        "web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx={bytes}/1 rx={}/2",
                        bytes / 2
                    );
                    world.spool.push(batch(world.spool.len() as u64 + 1, &[&line]));
                }
                Step::Read => world.read(),
                Step::Wait(more) => world.now = world.now.saturating_add(Duration::from_secs(more)),
                Step::Say { lane, stored } => world.say(lane, stored),
                Step::Hear { lane, told } => world.hear(lane, told),
                Step::Die => {
                    world.now = world.now.saturating_add(Duration::from_secs(1));
                    world.die();
                }
            }
        }
        world.read();
        while !world.totals.standing().is_all_accepted() {
            (0..LANES).for_each(|lane| world.say(lane, true));
            (0..LANES).for_each(|lane| world.hear(lane, true));
        }
        let received: u64 = world.spool.iter().map(|batch| batch.sum().bytes).sum();
        prop_assert_eq!(world.store.increase(), received);
        prop_assert_eq!(world.totals.standing().held.0, Counter::default());
        world.store.check_never_backwards();
    }
}
