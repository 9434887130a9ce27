//! The machine of deltas.

use super::*;
use crate::tests::batch;

fn apply(deltas: &mut Deltas, lines: &[&str]) -> Applied {
    let position = deltas.standing().applied.0 + 1;
    deltas.apply(&batch(position, lines))
}

/// The current request as text: of each flow the remote address and bytes/packets sent and received.
fn request(deltas: &mut Deltas) -> Option<Vec<String>> {
    let flows = deltas.advance(0, |_| false)?;
    let text = flows.iter().map(|(key, delta)| {
        let remote = key.view().destination_address().unwrap();
        let Delta { tx, rx } = delta;
        format!("{remote} {}/{} {}/{}", tx.bytes, tx.packets, rx.bytes, rx.packets)
    });
    Some(text.collect())
}

/// Goal: a frozen range stays as it is until accepted, growth folds into the next one, and each byte leaves once.
#[test]
fn frozen_range_is_repeated_until_accepted() {
    let mut deltas = Deltas::new(64, 1);
    let line = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp tx=10/1 rx=20/2";
    apply(&mut deltas, &[line]);
    apply(&mut deltas, &[line]);
    deltas.begin();
    assert_eq!(request(&mut deltas).unwrap(), ["8.8.8.8 20/2 40/4"]);
    apply(&mut deltas, &[line]);
    deltas.begin();
    assert_eq!(request(&mut deltas).unwrap(), ["8.8.8.8 20/2 40/4"]);
    assert_eq!((deltas.standing().held.0, deltas.flows()), (Counter { bytes: 90, packets: 9 }, 2));
    assert_eq!(deltas.settle(0).0, Counter { bytes: 60, packets: 6 });
    assert_eq!((request(&mut deltas), deltas.standing().accepted), (None, Position(2)));
    deltas.begin();
    assert_eq!(request(&mut deltas).unwrap(), ["8.8.8.8 10/1 20/2"]);
    assert_eq!(deltas.settle(0).0, Counter { bytes: 30, packets: 3 });
    assert_eq!((request(&mut deltas), deltas.standing().accepted), (None, Position(3)));
    assert_eq!((deltas.standing().held.0, deltas.flows()), (Counter::default(), 0));
}

/// Goal: what a life gave up of a range is discarded in the account of the next one too, which takes the range in again,
/// and is not let out as accepted.
#[test]
fn what_was_given_up_is_not_taken_for_accepted_by_the_next_life() {
    let flow = |host: u8| format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{host} tcp tx={host}0/1");
    let (one, two, three) = (flow(1), flow(2), flow(3));
    let lines = [one.as_str(), two.as_str(), three.as_str()];
    let resumed = |state: &[u8]| {
        let mut deltas = Deltas::new(64, 1);
        deltas.resume((Position(0), state), Position(1)).unwrap();
        apply(&mut deltas, &lines);
        deltas.begin();
        deltas
    };
    let mut deltas = resumed(&[]);
    let next = |deltas: &mut Deltas| {
        for _ in 0..2 {
            assert!(deltas.advance(0, |_| false).is_some());
            if deltas.send(0) {
                return;
            }
            deltas.state(Vec::new());
            deltas.kept();
        }
        panic!("it is noted");
    };
    for _ in 0..2 {
        next(&mut deltas);
        deltas.refused(0, Verdict::Rejected);
    }
    next(&mut deltas);
    assert_eq!(deltas.refused(0, Verdict::Rejected).map(|(step, _)| step), Some(Step::Aside));
    assert_eq!(deltas.give_up(0), Counter { bytes: 10, packets: 1 });
    let (_, state) = deltas.state(Vec::new());

    let mut deltas = resumed(&state);
    assert_eq!(deltas.standing().held.0, Counter { bytes: 60, packets: 3 });
    assert_eq!(deltas.take_accepted_before(), Counter::default());
    assert_eq!(deltas.take_discarded_before(), Counter { bytes: 10, packets: 1 });
    assert_eq!(deltas.standing().held.0, Counter { bytes: 50, packets: 2 });
}

/// Goal: what has no direction stays out with its reason, and neither it nor an empty record makes an item.
#[test]
fn undirected_and_empty_records_make_no_item() {
    let mut deltas = Deltas::new(64, 1);
    let flow = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp";
    let applied = apply(&mut deltas, &[&format!("{flow} undirected=7/3"), &format!("{flow} tx=0/0")]);
    let counted = Counter { bytes: 7, packets: 3 };
    assert_eq!((applied.received, applied.discarded(Reason::undirected)), (counted, counted));
    deltas.begin();
    assert_eq!(
        (request(&mut deltas), deltas.standing().accepted, deltas.standing().held.0),
        (None, Position(1), Counter::default())
    );
}

/// Goal: a range of many flows is cut into requests of the bound, and the position moves with the last.
#[test]
fn large_range_is_cut_and_accepted_at_its_end() {
    let mut deltas = Deltas::new(FLOWS, 1);
    const FLOWS: usize = 60_000;
    let lines: Vec<String> = (0..45_000)
        .map(|host| format!("web/app@n1/a 10.0.0.1 > unknown 8.8.{}.{} tcp tx=1/1", host / 250, host % 250))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    apply(&mut deltas, &lines);
    deltas.begin();
    let mut sizes = Vec::new();
    while let Some(flows) = request(&mut deltas) {
        assert_eq!(deltas.standing().accepted, Position(0));
        sizes.push(flows.len());
        deltas.settle(0);
    }
    assert_eq!((sizes, deltas.standing().accepted), (vec![20_000, 20_000, 5_000], Position(1)));
}

/// Goal: a figure that the body's signed fields do not hold is said in parts that add up to it.
#[test]
fn overflow_is_split() {
    let counter = |bytes, packets| Counter { bytes, packets };
    let max = i64::MAX.unsigned_abs();
    for (tx, rx, expected) in [
        (counter(0, 0), counter(0, 0), vec![]),
        (counter(max, 1), counter(0, 0), vec![(counter(max, 1), counter(0, 0))]),
        (
            counter(u64::MAX, 1),
            counter(max + 1, 2),
            vec![
                (counter(max, 1), counter(max, 2)),
                (counter(max, 0), counter(1, 0)),
                (counter(1, 0), counter(0, 0)),
            ],
        ),
    ] {
        let parts: Vec<_> = Delta { tx, rx }.parts().map(|part| (part.tx, part.rx)).collect();
        assert_eq!(parts, expected);
    }
}
