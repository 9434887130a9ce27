//! The queue between the receiving thread and the one that drains it.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use egressd_flow::{Defects, Ended};

use super::{Closed, Queue};
use crate::netfilter::ReceiveError;

/// Longer than any test may take: reaching it is a failure.
const FOREVER: Duration = Duration::from_secs(60);

fn queue(capacity: usize) -> Queue {
    Queue::new(NonZeroUsize::new(capacity).unwrap())
}

fn batch(ports: std::ops::Range<u16>) -> Vec<Ended> {
    ports
        .map(|port| Ended {
            entry: format!("udp 10.0.0.1:{port}>10.0.1.2:2 tx=10/1 rx=0/0").parse().unwrap(),
            stop: None,
        })
        .collect()
}

/// Goal: a batch larger than the queue goes through whole and in order, the queue never beyond its capacity.
#[test]
fn a_full_queue_holds_the_receiver_and_loses_nothing() {
    let queue = queue(4);
    let (mut taken, mut found) = (Vec::with_capacity(4), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(queue.append(&mut batch(0..1000), Defects::default()), Ok(())));
        while found.len() < 1000 {
            assert!(queue.wait(FOREVER), "half of the capacity waits");
            queue.take(&mut taken).unwrap();
            assert!(taken.len() <= 4 && taken.capacity() == 4);
            found.append(&mut taken);
        }
    });
    assert_eq!(found, batch(0..1000));
}

/// Goal: a taker that leaves ends a receiver that waits for room.
#[test]
fn closing_frees_a_receiver_that_waits() {
    let queue = queue(1);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| queue.append(&mut batch(0..2), Defects::default()));
        assert!(queue.wait(FOREVER), "the first of two fills it");
        queue.close();
        assert_eq!(receiver.join().unwrap(), Err(Closed));
    });
}

/// Goal: the wait says whether the queue is half full, and a wake-up holds for the next wait when nobody waits.
#[test]
fn waiting_ends_by_half_a_queue_or_by_a_wake_up() {
    let queue = queue(5);
    queue.append(&mut batch(0..2), Defects::default()).unwrap();
    assert!(!queue.wait(Duration::ZERO));
    queue.wake();
    assert!(!queue.wait(FOREVER));
    queue.append(&mut batch(2..3), Defects::default()).unwrap();
    assert!(queue.wait(FOREVER));
}

/// Goal: an answer counts for every question up to its number, and half a queue interrupts the wait for it.
#[test]
fn a_question_is_answered_in_order() {
    let queue = queue(2);
    let (first, second) = (queue.ask(), queue.ask());
    assert_eq!(queue.asked(), second);
    queue.answer(first);
    assert_eq!(queue.wait_answer(first, FOREVER), Some(true));
    assert_eq!(queue.wait_answer(second, Duration::ZERO), None);
    queue.append(&mut batch(0..1), Defects::default()).unwrap();
    assert_eq!(queue.wait_answer(second, FOREVER), Some(false));
    queue.answer(second);
    queue.answer(first);
    assert_eq!(queue.wait_answer(second, FOREVER), Some(true));
}

/// Goal: what was received before the receiver failed is handed over, then the failure.
#[test]
fn a_failure_is_told_after_what_waits() {
    let queue = queue(2);
    let failure = ReceiveError { errno: 9 };
    queue.append(&mut batch(0..1), Defects { malformed: 1, ..Defects::default() }).unwrap();
    queue.fail(failure);
    let mut taken = Vec::with_capacity(2);
    assert_eq!(queue.take(&mut taken), Ok(()));
    assert_eq!(taken, batch(0..1));
    taken.clear();
    assert_eq!(queue.take(&mut taken), Err(failure));
    assert_eq!(queue.defects(), Defects { malformed: 1, ..Defects::default() });
    assert_eq!(
        failure.to_string(),
        "no more conntrack events can be received: Bad file descriptor (os error 9)"
    );
}
