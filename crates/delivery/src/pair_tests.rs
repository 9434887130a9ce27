//! Window against ledger over a network that loses whatever is on its way, with an exporter that restarts.
//!
//! No time and no sockets: a history is a list of steps, and the same list is the same history.

use std::collections::{HashMap, VecDeque};

use egressd_flow::{
    Batch, Counter, Epoch, IpProtocol, NodeName, Position, Record, Sequence, Span, Traffic, UnixNanos,
};
use egressd_protocol::{Ack, HeldEpoch, SpoolId, Welcome};
use proptest::prelude::*;

use crate::ledger::{HelloError, Known, Ledger, StreamId, Verdict};
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
    /// The collector is led to the other exporter, with a spool and a ledger of its own.
    Switch,
}

struct Pair {
    window: Window,
    ledger: Ledger,
    node: NodeName,
    spool: u64,
    /// The exporter that the collector is not talking to.
    other: (Ledger, u64, Vec<(Position, Sequence)>),
    cut: u64,
    stream: Option<StreamId>,
    up: VecDeque<Batch>,
    down: VecDeque<Ack>,
    position: u64,
    taken: Vec<(Position, Sequence)>,
    /// How often each sequence reached the sinks.
    delivered: HashMap<Sequence, u32>,
    /// The spool survives the exporter; what is delivered is safe there.
    is_durable: bool,
}

impl Pair {
    fn new() -> Self {
        Self::with_window(Window::new(EPOCH, usize::MAX, usize::MAX))
    }

    fn with_window(window: Window) -> Self {
        Self {
            window,
            ledger: Ledger::default(),
            node: NodeName("node-a".into()),
            spool: 1,
            other: (Ledger::default(), 1_000_000, Vec::new()),
            cut: 0,
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            position: 0,
            taken: Vec::new(),
            delivered: HashMap::new(),
            is_durable: false,
        }
    }

    /// With a spool that outlives the exporter, and a window that has no room for what is taken.
    fn durable() -> Self {
        let window = Window::new(EPOCH, usize::MAX, 0);
        Self { ledger: Ledger::resume([]), is_durable: true, ..Self::with_window(window) }
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
            Step::Switch => self.switch(),
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
        self.stream = Some(self.ledger.hello(&self.node, &held, UnixNanos(0)).unwrap());
        let (spool, clock) = (SpoolId(self.spool), UnixNanos(0));
        let durable = self.ledger.is_durable();
        self.window.welcomed(&Welcome { spool, durable, version: String::new(), clock });
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
        if !self.is_durable {
            self.ledger = Ledger::default();
            self.spool += 1;
            return;
        }
        let (node, heard) = (self.node.clone(), UnixNanos(0));
        let known = self.delivered.keys().max().map(|&taken| Known { node, epoch: EPOCH, taken, heard });
        self.ledger = Ledger::resume(known);
    }

    /// What the left one has taken it delivers, unheard.
    fn switch(&mut self) {
        self.deliver();
        self.hang_up();
        std::mem::swap(&mut self.ledger, &mut self.other.0);
        std::mem::swap(&mut self.spool, &mut self.other.1);
        std::mem::swap(&mut self.taken, &mut self.other.2);
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

fn steps(bad_day: Step) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Cut),
        2 => Just(Step::Dial),
        1 => Just(Step::Break),
        6 => Just(Step::Send),
        6 => Just(Step::Receive),
        6 => Just(Step::Answer),
        2 => Just(Step::Deliver),
        1 => Just(bad_day),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// Goal: lost messages and broken streams neither lose a batch nor deliver one twice.
    #[test]
    fn broken_streams_deliver_each_batch_once(history in steps(Step::Deliver)) {
        let mut pair = Pair::new();
        pair.steps(history);
        pair.settle();
        let expected: HashMap<_, _> = (1..=pair.cut).map(|sequence| (Sequence(sequence), 1)).collect();
        prop_assert_eq!(&pair.delivered, &expected);
        prop_assert_eq!(pair.window.books().held_batches, 0);
        prop_assert!(pair.window.books().maybe_twice.is_zero());
        prop_assert!(pair.ledger.books().held.is_zero());
    }

    /// Goal: an exporter that dies, or that another takes over from and back, loses nothing, and what may have come
    /// twice is counted.
    #[test]
    fn another_exporter_loses_nothing_and_doubts_are_counted(history in prop_oneof![steps(Step::Crash), steps(Step::Switch)]) {
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

    /// Goal: an exporter with a durable spool that dies loses nothing, takes nothing twice, and leaves no doubt.
    #[test]
    fn a_durable_spool_has_each_batch_once(history in steps(Step::Crash)) {
        let mut pair = Pair::durable();
        pair.steps(history);
        pair.settle();
        let expected: HashMap<_, _> = (1..=pair.cut).map(|sequence| (Sequence(sequence), 1)).collect();
        prop_assert_eq!(&pair.delivered, &expected);
        let books = pair.window.books();
        prop_assert_eq!((books.held_batches, books.maybe_twice, books.unprotected), Default::default());
    }

    /// Goal: a stop in good order, with a stream open, leaves no doubt.
    #[test]
    fn a_stop_in_good_order_delivers_each_batch_once(
        before in steps(Step::Deliver), after in steps(Step::Deliver),
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
        pair.window.acknowledged(&Ack { epoch: EPOCH, taken: Sequence(3), delivered: one }),
        Err(AckError::NeverCut { epoch: EPOCH, taken: Sequence(3), newest: two })
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
    pair.ledger.hello(&node, &[], UnixNanos(0)).unwrap();
    assert_eq!(pair.ledger.check(&node, stream, EPOCH, Sequence(2), UnixNanos(0)), Verdict::Replaced);
}

/// Goal: a sink that is away keeps nothing from the exporter: new batches go on while old ones wait for it, and what
/// has no room any more is let go only when it is taken, and counted.
#[test]
fn a_sink_that_is_away_does_not_stop_the_stream() {
    let mut probe = Pair::new();
    probe.step(Step::Cut);
    let one_batch = probe.window.bytes();
    let mut pair = Pair::with_window(Window::new(EPOCH, one_batch * 2, one_batch * 3));
    pair.steps([Step::Dial, Step::Answer]);
    for _ in 0..10 {
        assert!(pair.window.has_room());
        pair.steps([Step::Cut, Step::Send, Step::Receive, Step::Answer]);
    }
    let books = pair.window.books();
    assert_eq!((pair.taken.len(), books.held_batches), (10, 3));
    assert_eq!(books.unprotected.bytes, (1..=7).sum::<u64>());
    pair.steps([Step::Break, Step::Cut, Step::Cut]);
    assert!(!pair.window.has_room(), "what the exporter does not have stays within its own bound");
    pair.settle();
    let expected: HashMap<_, _> = (1..=12).map(|sequence| (Sequence(sequence), 1)).collect();
    assert_eq!(pair.delivered, expected);
}

/// Goal: what is delivered is told however much was pending, only less finely then.
#[test]
fn many_pending_batches_share_a_place() {
    let mut pair = Pair::new();
    pair.steps([Step::Dial, Step::Answer]);
    for _ in 0..200 {
        pair.steps([Step::Cut, Step::Send, Step::Receive]);
    }
    let delivered = |pair: &Pair| pair.ledger.acks(&pair.node)[0].delivered;
    pair.ledger.delivered(Position(10));
    assert_eq!(delivered(&pair), Sequence(10));
    pair.ledger.delivered(Position(100));
    assert_eq!(delivered(&pair), Sequence(63));
    pair.ledger.delivered(Position(200));
    assert_eq!(delivered(&pair), Sequence(200));
    assert!(pair.ledger.books().held.is_zero());
}

fn held(epoch: u64, first: u64) -> [HeldEpoch; 1] {
    [HeldEpoch { epoch: Epoch(epoch), first: Sequence(first) }]
}

fn known_epochs(ledger: &Ledger, node: &NodeName) -> Vec<u64> {
    ledger.acks(node).iter().map(|ack| ack.epoch.0).collect()
}

/// Goal: a collector that dials has an account, also when four of its earlier lives still have something pending.
#[test]
fn the_epoch_that_dials_is_never_forgotten() {
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    for epoch in 1..=4 {
        let stream = ledger.hello(&node, &held(epoch, 1), UnixNanos(epoch)).unwrap();
        let verdict = ledger.check(&node, stream, Epoch(epoch), Sequence(1), UnixNanos(epoch));
        assert_eq!(verdict, Verdict::Take);
        ledger.commit(&node, Epoch(epoch), Sequence(1), Position(epoch), Counter::default());
    }
    ledger.hello(&node, &held(5, 1), UnixNanos(5)).unwrap();
    assert_eq!(known_epochs(&ledger, &node), [1, 2, 3, 4, 5]);
}

/// Goal: a Hello that comes while a batch is being taken does not disturb it, whatever it says.
#[test]
fn a_hello_does_not_disturb_a_batch_that_is_being_taken() {
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 1), UnixNanos(0)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), UnixNanos(0)), Verdict::Take);
    ledger.hello(&node, &held(1, 9), UnixNanos(0)).unwrap();
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    assert_eq!(ledger.acks(&node)[0].taken, Sequence(1));
    ledger.hello(&node, &held(1, 9), UnixNanos(0)).unwrap();
    let books = ledger.books();
    assert_eq!(
        (ledger.acks(&node)[0].taken, books.taken_batches, books.skipped_batches),
        (Sequence(8), 1, 7)
    );
}

/// Goal: nodes are bounded; a peer that invents names is turned away and those that are known go on.
#[test]
fn nodes_are_bounded() {
    let name = |number: usize| NodeName(format!("node-{number}").into());
    let mut ledger = Ledger::default();
    for number in 0..10_000 {
        ledger.hello(&name(number), &held(1, 1), UnixNanos(0)).unwrap();
    }
    assert_eq!(
        ledger.hello(&name(10_000), &held(1, 1), UnixNanos(0)),
        Err(HelloError::TooManyNodes { nodes: 10_000 })
    );
    let stream = ledger.hello(&name(7), &held(1, 1), UnixNanos(0)).unwrap();
    let older = ledger.hello(&name(8), &held(1, 1), UnixNanos(0)).unwrap();
    ledger.hello(&name(8), &held(1, 1), UnixNanos(0)).unwrap();
    ledger.left(&name(8), older);
    assert_eq!(
        ledger.hello(&name(10_000), &held(1, 1), UnixNanos(0)),
        Err(HelloError::TooManyNodes { nodes: 10_000 })
    );
    ledger.left(&name(7), stream);
    ledger
        .hello(&name(10_000), &held(1, 1), UnixNanos(0))
        .expect("one left, and nothing of it was ever taken");
}

/// Goal: where there is no room a node takes the place of the one heard of longest ago, of those without a stream and
/// with nothing on its way.
#[test]
fn a_node_takes_the_place_of_one_long_gone() {
    let name = |number: usize| NodeName(format!("node-{number}").into());
    let mut ledger = Ledger::default();
    let mut streams = Vec::new();
    for number in 0..10_000 {
        let now = UnixNanos(10 - number.min(9) as u64);
        let stream = ledger.hello(&name(number), &held(1, 1), now).unwrap();
        assert_eq!(ledger.check(&name(number), stream, Epoch(1), Sequence(1), now), Verdict::Take);
        ledger.commit(&name(number), Epoch(1), Sequence(1), Position(number as u64 + 1), Counter::default());
        streams.push(stream);
    }
    for number in [2, 3, 5] {
        ledger.left(&name(number), streams[number]);
    }
    let newcomer = name(10_000);
    let full = Err(HelloError::TooManyNodes { nodes: 10_000 });
    assert_eq!(ledger.hello(&newcomer, &held(1, 1), UnixNanos(11)), full, "all have something on its way");
    ledger.delivered(Position(4));
    ledger.hello(&newcomer, &held(1, 1), UnixNanos(11)).expect("the third and the fourth have nothing left");
    let known = [2, 3, 5, 10_000].map(|number| known_epochs(&ledger, &name(number)).len());
    assert_eq!(known, [1, 0, 1, 1]);
}

/// Goal: an account in which something was taken outlives its stream, and the rest of a name does not.
#[test]
fn an_account_outlives_its_stream_when_something_was_taken() {
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 5), UnixNanos(0)).unwrap();
    ledger.left(&node, stream);
    assert_eq!(known_epochs(&ledger, &node), []);
    let stream = ledger.hello(&node, &held(1, 5), UnixNanos(0)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(5), UnixNanos(0)), Verdict::Take);
    ledger.left(&node, stream);
    ledger.commit(&node, Epoch(1), Sequence(5), Position(1), Counter::default());
    ledger.left(&node, stream);
    assert_eq!(known_epochs(&ledger, &node), [1]);
}

/// Goal: a node keeps four epochs for a day, and none of which something is still on its way is forgotten.
#[test]
fn old_epochs_are_forgotten() {
    let day = UnixNanos(24 * 3600 * 1_000_000_000);
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 1), UnixNanos(0)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), UnixNanos(0)), Verdict::Take);
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    for epoch in 2..=6 {
        ledger.hello(&node, &held(epoch, 1), UnixNanos(epoch)).unwrap();
    }
    assert_eq!(known_epochs(&ledger, &node), [1, 4, 5, 6]);
    ledger.delivered(Position(1));
    ledger.hello(&node, &held(6, 1), day).unwrap();
    assert_eq!(known_epochs(&ledger, &node), [4, 5, 6], "those heard of later are not a day old");
    ledger.hello(&node, &held(6, 1), UnixNanos(day.0 * 2)).unwrap();
    assert_eq!(known_epochs(&ledger, &node), [6]);
}

/// Goal: a collector that was started beside the node's own, and ended before anything of it was taken, does not keep that
/// one out.
#[test]
fn a_life_without_a_batch_has_followed_nobody() {
    let node = NodeName("node-a".into());
    let at = UnixNanos;
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 1), at(1)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), at(1)), Verdict::Take);
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    let beside = ledger.hello(&node, &held(2, 1), at(2)).unwrap();
    assert!(ledger.hello(&node, &held(1, 2), at(3)).is_err(), "the other one is there");
    ledger.left(&node, beside);
    let stream = ledger.hello(&node, &held(1, 2), at(4)).expect("nothing has followed it");
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), at(4)), Verdict::Duplicate);
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(2), at(4)), Verdict::Take);
}

/// Goal: a Hello of a life that another one has followed gets no stream and closes none, on this ledger and on the one that
/// goes on from a spool; a life that goes on in its own epoch, or replays one before its own, does.
#[test]
fn a_hello_of_an_older_epoch_is_refused() {
    let node = NodeName("node-a".into());
    let at = UnixNanos;
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 1), at(1)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), at(1)), Verdict::Take);
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    ledger.hello(&node, &held(1, 2), at(2)).expect("its own epoch, after a break");
    let both = [held(1, 2), held(2, 1)].concat();
    let stream = ledger.hello(&node, &both, at(3)).expect("it replays one before its own");
    let superseded = Err(HelloError::Superseded { epoch: Epoch(1), by: Epoch(2) });
    assert_eq!(ledger.hello(&node, &held(1, 1), at(4)), superseded);
    assert_eq!(
        ledger.check(&node, stream, Epoch(2), Sequence(1), at(5)),
        Verdict::Take,
        "its stream goes on"
    );

    let known = |epoch, heard| Known {
        node: node.clone(),
        epoch: Epoch(epoch),
        taken: Sequence(3),
        heard: at(heard),
    };
    // The clock was set back between the two, or was not.
    for order in [[known(1, 10), known(2, 20)], [known(1, 20), known(2, 10)]] {
        let mut resumed = Ledger::resume(order);
        assert_eq!(resumed.hello(&node, &held(1, 1), at(30)), superseded);
        resumed.hello(&node, &held(2, 4), at(30)).expect("the one that was appended last");
        resumed.hello(&node, &held(3, 1), at(40)).expect("a new life");
    }
}

/// Goal: a clock that is set back changes neither which life runs nor which epochs are forgotten.
#[test]
fn a_clock_that_is_set_back_changes_no_order() {
    let node = NodeName("node-a".into());
    let mut ledger = Ledger::default();
    for epoch in 1..=5 {
        let now = UnixNanos(100 - epoch);
        let stream = ledger.hello(&node, &held(epoch, 1), now).unwrap();
        assert_eq!(ledger.check(&node, stream, Epoch(epoch), Sequence(1), now), Verdict::Take);
        ledger.commit(&node, Epoch(epoch), Sequence(1), Position(epoch), Counter::default());
        ledger.delivered(Position(epoch));
    }
    assert_eq!(known_epochs(&ledger, &node), [2, 3, 4, 5]);
    let beside = ledger.hello(&node, &held(6, 1), UnixNanos(94)).unwrap();
    ledger.left(&node, beside);
    let superseded = Err(HelloError::Superseded { epoch: Epoch(3), by: Epoch(5) });
    assert_eq!(
        ledger.hello(&node, &held(3, 2), UnixNanos(93)),
        superseded,
        "the last life that said anything"
    );
}

/// Goal: a clock that is set days ahead makes no batch of a node that is here be taken again.
#[test]
fn a_clock_that_is_set_ahead_forgets_nobody_who_is_here() {
    let (node, later) = (NodeName("node-a".into()), UnixNanos(10 * 24 * 3600 * 1_000_000_000));
    let mut ledger = Ledger::default();
    let stream = ledger.hello(&node, &held(1, 1), UnixNanos(0)).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), UnixNanos(0)), Verdict::Take);
    ledger.commit(&node, Epoch(1), Sequence(1), Position(1), Counter::default());
    ledger.delivered(Position(1));
    ledger.hello(&NodeName("node-b".into()), &held(9, 1), later).unwrap();
    let stream = ledger.hello(&node, &held(1, 1), later).unwrap();
    assert_eq!(ledger.check(&node, stream, Epoch(1), Sequence(1), later), Verdict::Duplicate);
}
