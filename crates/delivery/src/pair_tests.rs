//! Window against ledger over a network that loses whatever is on its way, with an exporter that restarts.
//!
//! No time and no sockets: a history is a list of steps, and the same list is the same history.

use std::collections::{HashMap, VecDeque};

use egressd_flow::{
    Batch, Counter, Epoch, IpProtocol, NodeName, Position, Record, Sequence, Span, Traffic, UnixNanos,
};
use egressd_protocol::{Ack, SpoolId, Welcome};
use proptest::prelude::*;

use crate::ledger::{Ledger, StreamId, Verdict};
use crate::window::{AckError, Window};

const EPOCH: Epoch = Epoch(7);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The meter cuts a batch.
    Cut,
    /// The collector dials, a stream that was open is lost with all that is on its way.
    Dial,
    /// The stream breaks.
    Break,
    /// One message goes up.
    Send,
    /// One message comes up.
    Receive,
    /// One message comes down.
    Answer,
    /// Every sink accepts what was taken so far.
    Deliver,
    /// The exporter stops in good order and starts anew.
    Restart,
    /// The exporter dies and starts anew.
    Crash,
}

struct Pair {
    window: Window,
    ledger: Ledger,
    node: NodeName,
    spool: u64,
    cut: u64,
    stream: Option<StreamId>,
    up: VecDeque<Batch>,
    down: VecDeque<Ack>,
    position: u64,
    taken: Vec<(Position, Sequence)>,
    /// How often each sequence reached the sinks.
    delivered: HashMap<Sequence, u32>,
}

impl Pair {
    fn new() -> Self {
        Self {
            window: Window::new(EPOCH, usize::MAX),
            ledger: Ledger::default(),
            node: NodeName("node-a".into()),
            spool: 1,
            cut: 0,
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            position: 0,
            taken: Vec::new(),
            delivered: HashMap::new(),
        }
    }

    fn steps(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Cut => self.cut(),
            Step::Dial => self.dial(),
            Step::Break => self.hang_up(),
            Step::Send => {
                if self.stream.is_some() {
                    self.up.extend(self.window.next_unsent().map(|batch| Batch::clone(&batch)));
                }
            }
            Step::Receive => self.receive(),
            Step::Answer => {
                if let Some(ack) = self.down.pop_front() {
                    self.window.acknowledged(&ack).unwrap();
                }
            }
            Step::Deliver => self.deliver(),
            Step::Restart => self.restart(),
            Step::Crash => self.die(),
        }
        let books = self.window.books();
        let mut accounted = books.emitted;
        accounted += books.held;
        assert_eq!(books.received, accounted, "the window's books balance");
    }

    fn cut(&mut self) {
        self.cut += 1;
        let traffic = Traffic { tx: Counter { bytes: self.cut, packets: 1 }, ..Traffic::default() };
        self.window.push(Batch {
            epoch: EPOCH,
            sequence: Sequence(self.cut),
            span: Span { from: UnixNanos(0), to: UnixNanos(0) },
            owners: vec![],
            records: vec![Record { owner: 0, remote: None, protocol: IpProtocol::TCP, traffic }],
        });
    }

    fn dial(&mut self) {
        self.hang_up();
        let held = self.window.held_epochs();
        self.stream = Some(self.ledger.hello(&self.node, &held, UnixNanos(0)));
        let (spool, clock) = (SpoolId(self.spool), UnixNanos(0));
        self.window.welcomed(&Welcome { spool, durable: false, version: String::new(), clock });
        self.down.extend(self.ledger.acks(&self.node));
    }

    fn hang_up(&mut self) {
        self.stream = None;
        self.up.clear();
        self.down.clear();
    }

    fn receive(&mut self) {
        let (Some(stream), Some(batch)) = (self.stream, self.up.pop_front()) else { return };
        match self.ledger.check(&self.node, stream, batch.epoch, batch.sequence, UnixNanos(0)) {
            Verdict::Take => {
                self.position += 1;
                let position = Position(self.position);
                self.ledger.commit(&self.node, batch.epoch, batch.sequence, position, batch.sum());
                self.taken.push((position, batch.sequence));
            }
            Verdict::Duplicate => {}
            verdict => panic!("{verdict:?} for {}", batch.sequence),
        }
        self.down.extend(self.ledger.acks(&self.node));
    }

    fn deliver(&mut self) {
        for (_, sequence) in self.taken.drain(..) {
            *self.delivered.entry(sequence).or_default() += 1;
        }
        self.ledger.delivered(Position(self.position));
        if self.stream.is_some() {
            self.down.extend(self.ledger.acks(&self.node));
        }
    }

    /// Everything taken is let out, and the last words are heard.
    fn restart(&mut self) {
        self.deliver();
        let in_good_order = self.stream.is_some();
        for ack in std::mem::take(&mut self.down) {
            self.window.acknowledged(&ack).unwrap();
        }
        if in_good_order {
            self.window.redirected();
        }
        self.die();
    }

    fn die(&mut self) {
        self.hang_up();
        self.taken.clear();
        self.ledger = Ledger::default();
        self.spool += 1;
    }

    /// The bad days are over.
    fn settle(&mut self) {
        self.step(Step::Dial);
        for _ in 0..self.cut + 1 {
            while !self.down.is_empty() {
                self.step(Step::Answer);
            }
            self.step(Step::Send);
            self.step(Step::Receive);
        }
        self.step(Step::Deliver);
        while !self.down.is_empty() {
            self.step(Step::Answer);
        }
    }
}

fn steps(crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Cut),
        2 => Just(Step::Dial),
        1 => Just(Step::Break),
        6 => Just(Step::Send),
        6 => Just(Step::Receive),
        6 => Just(Step::Answer),
        2 => Just(Step::Deliver),
        1 => Just(if crashes { Step::Crash } else { Step::Deliver }),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// Goal: lost messages and broken streams neither lose a batch nor deliver one twice.
    #[test]
    fn broken_streams_deliver_each_batch_once(history in steps(false)) {
        let mut pair = Pair::new();
        pair.steps(history);
        pair.settle();
        let expected: HashMap<_, _> = (1..=pair.cut).map(|sequence| (Sequence(sequence), 1)).collect();
        prop_assert_eq!(&pair.delivered, &expected);
        prop_assert_eq!(pair.window.books().held_batches, 0);
        prop_assert!(pair.window.books().maybe_twice.is_zero());
        prop_assert!(pair.ledger.books().held.is_zero());
    }

    /// Goal: an exporter that dies loses nothing, and what may have come twice is counted.
    #[test]
    fn a_dead_exporter_loses_nothing_and_doubts_are_counted(history in steps(true)) {
        let mut pair = Pair::new();
        pair.steps(history);
        pair.settle();
        let mut twice = 0;
        for sequence in 1..=pair.cut {
            let times = pair.delivered.get(&Sequence(sequence)).copied().unwrap_or(0);
            prop_assert!(times >= 1, "batch {} is lost", sequence);
            twice += u64::from(times - 1) * sequence;
        }
        prop_assert!(twice <= pair.window.books().maybe_twice.bytes);
    }

    /// Goal: a stop in good order, with a stream open, leaves no doubt.
    #[test]
    fn a_stop_in_good_order_delivers_each_batch_once(
        before in steps(false), after in steps(false),
    ) {
        let mut pair = Pair::new();
        pair.steps(before);
        pair.step(Step::Dial);
        pair.step(Step::Restart);
        pair.steps(after);
        pair.settle();
        let expected: HashMap<_, _> = (1..=pair.cut).map(|sequence| (Sequence(sequence), 1)).collect();
        prop_assert_eq!(&pair.delivered, &expected);
        prop_assert!(pair.window.books().maybe_twice.is_zero());
    }
}

/// Goal: a peer that acknowledges what it cannot have is found out, and nothing is let go for it.
#[test]
fn an_impossible_acknowledgement_is_refused() {
    let mut pair = Pair::new();
    pair.steps([Step::Cut, Step::Cut, Step::Dial, Step::Answer, Step::Send]);
    let (one, two) = (Sequence(1), Sequence(2));
    assert_eq!(
        pair.window.acknowledged(&Ack { epoch: EPOCH, taken: two, delivered: one }),
        Err(AckError::NeverSent { epoch: EPOCH, taken: two, sent: one })
    );
    assert_eq!(
        pair.window.acknowledged(&Ack { epoch: EPOCH, taken: Sequence(0), delivered: one }),
        Err(AckError::DeliveredBeforeTaken { epoch: EPOCH, taken: Sequence(0), delivered: one })
    );
    assert_eq!(pair.window.books().held_batches, 2);
}

/// Goal: what the ledger says to batches that should not come.
#[test]
fn the_ledger_answers_what_should_not_come() {
    let mut pair = Pair::new();
    pair.steps([Step::Cut, Step::Dial, Step::Answer, Step::Send, Step::Receive]);
    let stream = pair.stream.unwrap();
    let node = pair.node.clone();
    let mut check =
        |stream, epoch, sequence| pair.ledger.check(&node, stream, epoch, Sequence(sequence), UnixNanos(0));
    assert_eq!(check(stream, EPOCH, 1), Verdict::Duplicate);
    assert_eq!(check(stream, EPOCH, 3), Verdict::Gap { expected: Sequence(2) });
    assert_eq!(check(stream, Epoch(8), 1), Verdict::UnknownEpoch);
    assert_eq!(check(stream, EPOCH, 2), Verdict::Take);
    assert_eq!(check(stream, EPOCH, 2), Verdict::Reserved);
    pair.ledger.hello(&node, &[], UnixNanos(0));
    assert_eq!(pair.ledger.check(&node, stream, EPOCH, Sequence(2), UnixNanos(0)), Verdict::Replaced);
}

/// Goal: a node keeps four epochs for a day, and none of which something is still on its way is forgotten.
#[test]
fn old_epochs_are_forgotten() {
    let held = |epoch| [egressd_protocol::HeldEpoch { epoch: Epoch(epoch), first: Sequence(1) }];
    let day = UnixNanos(24 * 3600 * 1_000_000_000);
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1), UnixNanos(0));
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), UnixNanos(0)), Verdict::Take);
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    for epoch in 2..=6 {
        ledger.hello(&node, &held(epoch), UnixNanos(epoch));
    }
    let epochs = |ledger: &Ledger| ledger.acks(&node).iter().map(|ack| ack.epoch.0).collect::<Vec<_>>();
    assert_eq!(epochs(&ledger), [1, 4, 5, 6]);
    ledger.delivered(Position(1));
    ledger.hello(&node, &held(6), day);
    assert_eq!(epochs(&ledger), [4, 5, 6], "exactly a day is not longer than a day for those heard later");
    ledger.hello(&node, &held(6), UnixNanos(day.0 * 2));
    assert_eq!(epochs(&ledger), [6]);
}
