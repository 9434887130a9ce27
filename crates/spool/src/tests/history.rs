//! Random histories against a model that is a list.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AttributedBatch, Epoch, Position, Sequence, UnixNanos};
use proptest::prelude::*;

use super::disk::FaultyDisk;
use super::{ID, taken};
use crate::{Loss, Reason, Spool, SpoolConfig, SpoolError, Taken};

const SINKS: [&str; 2] = ["remote write", "cost"];
const NODES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// Batches of a node, each with records; so many of the first were sent before.
    Append {
        node: usize,
        records: Vec<usize>,
        again: u64,
    },
    Sync,
    /// A sink reads up to so many bytes, and advances past so many of the batches.
    Advance {
        sink: usize,
        bytes: usize,
        batches: usize,
    },
    LetGo,
    /// The process is killed after so many more bytes or steps of the disk.
    KillAfter(usize),
    Restart,
    LosePower(u64),
    Room(Option<usize>),
    FailSyncs(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let records = prop::collection::vec(0..20_usize, 1..4);
    prop_oneof![
        8 => (0..NODES.len(), records, 0..3_u64)
            .prop_map(|(node, records, again)| Step::Append { node, records, again }),
        4 => Just(Step::Sync),
        4 => (0..SINKS.len(), 1..4_000_usize, 0..8_usize)
            .prop_map(|(sink, bytes, batches)| Step::Advance { sink, bytes, batches }),
        1 => Just(Step::LetGo),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(Step::LosePower),
    ]
}

fn faults() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => steps(),
        1 => (0..2_000_usize).prop_map(Step::KillAfter),
        1 => prop::option::of(0..2_000_usize).prop_map(Step::Room),
        1 => any::<bool>().prop_map(Step::FailSyncs),
    ]
}

/// What a sink must get, by the model.
#[derive(Clone, Debug, Default)]
struct Passed {
    position: Position,
    /// Where it may be instead after a restart, since advances failed.
    tried: Vec<Position>,
    given: Loss,
}

struct World {
    disk: FaultyDisk,
    config: SpoolConfig,
    spool: Spool,
    now: UnixNanos,
    /// All that was taken, in order.
    accepted: Vec<Taken>,
    synced: Position,
    sinks: [Passed; 2],
}

impl World {
    fn new(bytes_max: u64) -> Self {
        let (disk, config) =
            (FaultyDisk::default(), SpoolConfig { bytes_max, age_max: Duration::from_hours(1) });
        let (mut spool, _) = Spool::on(Box::new(disk.clone()), config, ID).unwrap();
        for sink in SINKS {
            assert_eq!(spool.join(sink).unwrap(), Position(0));
        }
        let (accepted, synced, sinks) = (Vec::new(), Position(0), <[Passed; 2]>::default());
        Self { disk, config, spool, now: UnixNanos(1_000_000_000), accepted, synced, sinks }
    }

    fn take(&mut self, step: &Step) {
        self.now = self.now.saturating_add(Duration::from_secs(1));
        match step {
            Step::Append { node, records, again } => self.append(NODES[*node], records, *again),
            Step::Sync => {
                if let Ok(through) = self.spool.sync() {
                    assert_eq!(through, self.accepted.last().map_or(Position(0), |last| last.batch.position));
                    self.synced = through;
                }
            }
            Step::Advance { sink, bytes, batches } => self.advance(*sink, *bytes, *batches),
            Step::LetGo => drop(self.spool.let_go(self.now)),
            Step::KillAfter(bytes) => self.disk.kill_after(*bytes),
            Step::Room(bytes) => self.disk.room(*bytes),
            Step::FailSyncs(fails) => self.disk.fail_syncs(*fails),
            Step::Restart => {
                self.disk.restart();
                self.reopen();
            }
            Step::LosePower(chance) => {
                self.disk.lose_power(*chance);
                self.reopen();
            }
        }
    }

    fn append(&mut self, node: &str, records: &[usize], again: u64) {
        let reached = self.watermarks().get(&(node.to_owned(), Epoch(1))).map_or(0, |sequence| sequence.0);
        let first = (reached + 1).saturating_sub(again).max(1);
        let position = self.spool.last().0 + 1;
        let batches: Vec<Taken> = (0..)
            .zip(records)
            .map(|(index, records)| taken(position + index, node, 1, first + index, *records))
            .collect();
        let known = |taken: &&Taken| taken.sequence.0 <= reached;
        let expected: Vec<Position> =
            batches.iter().filter(known).map(|taken| taken.batch.position).collect();
        if let Ok(refused) = self.spool.append(&batches, self.now) {
            assert_eq!(refused, expected, "what is at or below the watermark, and nothing else");
            self.accepted.extend(batches.into_iter().filter(|taken| !known(&taken)));
        }
    }

    fn advance(&mut self, sink: usize, bytes: usize, batches: usize) {
        let Ok(read) = self.spool.read(SINKS[sink], Position(0), bytes) else { return };
        self.check_order(sink, &read.batches);
        let through = read.batches.iter().take(batches).next_back().map(|batch| batch.position);
        let Some(through) = through else { return };
        let state = through.0.to_le_bytes().repeat(20);
        let passed = &mut self.sinks[sink];
        match self.spool.advance(SINKS[sink], through, &state) {
            Ok(at) => {
                assert_eq!(at, through);
                for batch in read.batches.iter().take(batches) {
                    passed.given += Loss { batches: 1, traffic: batch.sum() };
                }
                (passed.position, passed.tried) = (through, Vec::new());
                self.synced = self.accepted.last().map_or(Position(0), |last| last.batch.position);
            }
            Err(SpoolError::Full { .. } | SpoolError::Disk { .. }) => passed.tried.push(through),
            Err(error) => panic!("{error}"),
        }
    }

    /// What a sink reads is what was taken behind its cursor, in order and nothing left out.
    fn check_order(&self, sink: usize, batches: &[Arc<AttributedBatch>]) {
        let cursor = self.cursor(sink);
        let behind = self.accepted.iter().filter(|taken| taken.batch.position > cursor);
        let expected: Vec<_> = behind.take(batches.len()).map(|taken| taken.batch.clone()).collect();
        assert_eq!(batches, expected);
    }

    fn cursor(&self, sink: usize) -> Position {
        self.spool.sinks().find(|(name, _)| *name == SINKS[sink]).unwrap().1.position
    }

    fn watermarks(&self) -> BTreeMap<(String, Epoch), Sequence> {
        let marks = self.spool.watermarks();
        marks.map(|(node, mark)| ((node.0.to_string(), mark.epoch), mark.sequence)).collect()
    }

    fn reopen(&mut self) {
        let (spool, recovery) = Spool::on(Box::new(self.disk.clone()), self.config, 99).unwrap();
        assert_eq!(spool.id(), ID);
        assert_eq!((recovery.damages, recovery.damaged_sinks), (vec![], vec![]));
        self.spool = spool;
        let last = self.spool.last();
        assert!(last >= self.synced, "{last:?} is left of what was synced through {:?}", self.synced);
        self.accepted.retain(|taken| taken.batch.position <= last);
        let mut expected: HashMap<String, Sequence> = HashMap::new();
        for Taken { sequence, batch, .. } in &self.accepted {
            expected.insert(batch.node.0.to_string(), *sequence);
        }
        let found = self.watermarks().into_iter().map(|((node, _), sequence)| (node, sequence));
        assert_eq!(found.collect::<HashMap<_, _>>(), expected, "watermarks are those of the records");
        self.settle();
    }

    /// After an advance that failed, the sink may be at either place; its state is of the same one.
    fn settle(&mut self) {
        for (sink, name) in SINKS.iter().enumerate() {
            let cursor = self.cursor(sink);
            let state = self.spool.state(name).unwrap().expect("it is whole");
            let said =
                state.first_chunk::<8>().map_or(Position(0), |bytes| Position(u64::from_le_bytes(*bytes)));
            let passed = &mut self.sinks[sink];
            if passed.tried.contains(&said) && said > passed.position {
                for Taken { batch, .. } in &self.accepted {
                    if batch.position > passed.position && batch.position <= said {
                        passed.given += Loss { batches: 1, traffic: batch.sum() };
                    }
                }
                passed.position = said;
            }
            assert_eq!(passed.position, said, "state and cursor move together");
            passed.tried.clear();
            assert!(cursor >= said);
        }
    }

    /// Reads everything, and balances the books of each sink.
    fn balance(&mut self) -> Vec<[Loss; 3]> {
        let mut lost = Vec::new();
        for (sink, passed) in SINKS.iter().zip(self.sinks.clone()) {
            let read = self.spool.read(sink, Position(0), usize::MAX).unwrap();
            let mut sum = passed.given;
            for batch in &read.batches {
                sum += Loss { batches: 1, traffic: batch.sum() };
            }
            let losses = Reason::ALL.map(|reason| read.losses[reason]);
            losses.iter().for_each(|loss| sum += *loss);
            let mut all = Loss::default();
            self.accepted.iter().for_each(|taken| all += Loss { batches: 1, traffic: taken.batch.sum() });
            assert_eq!(sum, all, "given + lost + held = taken, for {sink}");
            lost.push(losses);
        }
        lost
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Goal: whatever the disk does, what was synced is given to each sink once, and watermarks are those of the records.
    #[test]
    fn nothing_synced_is_lost_and_nothing_passed_comes_again(
        history in prop::collection::vec(faults(), 1..120),
        chance: u64,
    ) {
        let mut world = World::new(512 << 10);
        for step in &history {
            world.take(step);
        }
        for end in [Step::Restart, Step::LosePower(chance)] {
            world.take(&end);
            let lost = world.balance();
            prop_assert_eq!(lost, vec![[Loss::default(); 3]; 2]);
        }
    }

    /// Goal: what a bound costs a sink is counted to the byte, across crashes as well.
    #[test]
    fn what_a_bound_costs_is_counted_to_the_byte(
        history in prop::collection::vec(steps(), 1..150),
        chance: u64,
    ) {
        let mut world = World::new(16 << 10);
        for step in &history {
            world.take(step);
        }
        world.take(&Step::LosePower(chance));
        world.balance();
    }
}
