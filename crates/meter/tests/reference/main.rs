//! The meter against the simplest meter that follows the same rules, over random histories.
//!
//! After every step their books must agree, and at every cut what they tell, by owner, remote address and protocol, in
//! bytes and packets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod history;
mod model;

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    Completeness, Counter, Counters, Defects, Ended, Entry, Epoch, Sequence, Snapshot, Traffic, UnixNanos,
};
use egressd_meter::{Books, Meter, MeterConfig};
use proptest::prelude::*;

use crate::history::{History, Step, entries, scope};
use crate::model::{Account, Model, Sum, Sums, Told, add};

/// Nothing is ever full.
const ROOMY: MeterConfig = MeterConfig {
    absent_snapshots_max: 3,
    entries_max: 1000,
    flows_max: 1000,
    unclaimed_max: 1000,
    tombstones_max: 1000,
    retired_max: 1000,
    batch_records_max: 3,
    batch_owners_max: 2,
    unclaimed_grace: Duration::from_secs(60),
    ended_owner_kept: Duration::from_secs(100),
};

/// The table and the unclaimed flows fill up, ends are forgotten early, and most remotes fold into the rest.
const TIGHT: MeterConfig =
    MeterConfig { entries_max: 4, flows_max: 2, unclaimed_max: 3, tombstones_max: 2, ..ROOMY };

fn sum(counter: Counter) -> Sum {
    Sum::new(counter.bytes, counter.packets)
}

fn sums(traffic: Traffic) -> Sums {
    [sum(traffic.tx), sum(traffic.rx), sum(traffic.undirected)]
}

fn account(books: &Books) -> Account {
    Account {
        received: sum(books.received),
        emitted: sum(books.emitted),
        discarded: books.discarded.map(sum),
        held: sum(books.held),
        preexisting_entries: books.preexisting_entries,
        resets: books.resets,
        vanished_entries: books.vanished_entries,
        not_admitted: books.not_admitted,
        entries: books.entries,
        entries_active: books.entries_active,
    }
}

/// Both meters, and what the kernel would show of each entry.
struct Pair {
    config: MeterConfig,
    meter: Meter,
    model: Model,
    entries: Vec<Entry>,
    now: UnixNanos,
    sequence: Sequence,
}

impl Pair {
    fn new(config: MeterConfig) -> Self {
        Self {
            config,
            meter: Meter::new(config, Epoch(1), [7; 16], UnixNanos(0)),
            model: Model::new(config),
            entries: entries(),
            now: UnixNanos(0),
            sequence: Sequence(1),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Pass(seconds) => self.now = self.now.saturating_add(Duration::from_secs((*seconds).into())),
            Step::SetBack(seconds) => {
                self.now = self.now.saturating_sub(Duration::from_secs((*seconds).into()));
            }
            Step::Grow { entry, tx, rx } => grow(&mut self.entries[*entry], *tx, *rx),
            Step::Remake { entry, tx, rx } => remake(&mut self.entries[*entry], *tx, *rx),
            Step::Look => {
                self.meter.look(self.now);
                self.model.look(self.now);
            }
            Step::Begin => {
                self.meter.begin(self.now);
                self.model.begin(self.now);
            }
            Step::Row(entry) => {
                self.meter.entry(&self.entries[*entry]);
                self.model.entry(&self.entries[*entry]);
            }
            Step::Finish { is_complete } => self.finish(*is_complete),
            Step::Abandon => {
                self.meter.abandon();
                self.model.abandon();
            }
            Step::End(entry) => {
                let ended = Ended { entry: self.entries[*entry], stop: None };
                self.meter.ended(&ended, self.now);
                self.model.ended(&ended, self.now);
            }
            Step::Scope { owners, whole, ago } => {
                let as_of = self.now.saturating_sub(Duration::from_secs((*ago).into()));
                let scope = scope(as_of, *owners, *whole);
                self.meter.scope(&scope);
                self.model.scope(&scope);
            }
            Step::Cut => self.cut(),
            Step::Restart => self.restart(),
        }
        assert!(self.meter.books().balance(), "after {step:?}: {:?}", self.meter.books());
        // Rows are looked up together, so their meter says nothing of the last few until another step.
        if !matches!(
            step,
            Step::Row(_) | Step::Pass(_) | Step::SetBack(_) | Step::Grow { .. } | Step::Remake { .. }
        ) {
            assert_eq!(account(&self.meter.books()), self.model.account(), "after {step:?}");
        }
    }

    fn finish(&mut self, is_complete: bool) {
        let completeness = if is_complete { Completeness::Complete } else { Completeness::Partial };
        self.meter.finish(&Snapshot {
            completeness,
            begun: self.now,
            entries: 0,
            offloaded: 0,
            defects: Defects::default(),
        });
        self.model.finish(is_complete);
    }

    fn cut(&mut self) {
        let mut told = Told::new();
        for batch in self.meter.cut(self.now) {
            assert_eq!((batch.epoch, batch.sequence), (Epoch(1), self.sequence));
            self.sequence = self.sequence.next();
            assert!(batch.records.len() <= self.config.batch_records_max);
            assert!(batch.owners.len() <= self.config.batch_owners_max);
            for record in &batch.records {
                let owner = Arc::clone(&batch.owners[record.owner as usize].pod_uid);
                let flow = told.entry((owner, record.remote, record.protocol)).or_default();
                add(flow, &sums(record.traffic));
            }
        }
        let owed = self.model.cut();
        for (flow @ (_, remote, _), sums) in &told {
            let most = owed.get(flow).copied().unwrap_or_default();
            let is_within =
                |(told, owed): (&Sum, &Sum)| told.bytes <= owed.bytes && told.packets <= owed.packets;
            assert!(
                remote.is_none() || sums.iter().zip(&most).all(is_within),
                "{flow:?} {sums:?} of {most:?}"
            );
        }
        assert_eq!(self.folded(told), self.folded(owed));
    }

    /// Where remotes may fold into the rest, which of them do is the meter's choice, and all of them are as good.
    fn folded(&self, told: Told) -> Told {
        if self.config.flows_max == ROOMY.flows_max {
            return told;
        }
        let mut folded = Told::new();
        for ((owner, _, protocol), sums) in told {
            add(folded.entry((owner, None, protocol)).or_default(), &sums);
        }
        folded
    }

    fn restart(&mut self) {
        let mut state = Vec::new();
        self.meter.save(&mut state).unwrap();
        self.meter = Meter::restore(self.config, &mut state.as_slice()).unwrap();
        self.model.restart();
    }
}

fn grow(entry: &mut Entry, tx: u32, rx: u32) {
    let more = |counter: &mut Counter, bytes: u32| {
        *counter += Counter { bytes: bytes.into(), packets: u64::from(bytes.div_ceil(1500)) };
    };
    match &mut entry.counters {
        Some(Counters::Directed { tx: sent, rx: received }) => {
            more(sent, tx);
            more(received, rx);
        }
        Some(Counters::Total { main, .. }) => more(main, tx),
        None => {}
    }
}

/// Whatever the source says of an entry, directions or a total, it says of the next one too.
fn remake(entry: &mut Entry, made: Counter, answered: Counter) {
    match &mut entry.counters {
        Some(Counters::Directed { tx, rx }) => (*tx, *rx) = (made, answered),
        Some(Counters::Total { main, .. }) => *main = made,
        None => {}
    }
}

fn check(config: MeterConfig, History(history): &History) {
    let mut pair = Pair::new(config);
    history.iter().for_each(|step| pair.step(step));
    // A scope that is late enough to know that nobody owns the rest.
    pair.now = UnixNanos(u64::MAX);
    for step in [Step::Scope { owners: u8::MAX, whole: true, ago: 0 }, Step::Cut] {
        pair.step(&step);
    }
    assert_eq!(pair.model.account().held, Sum::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Goal: whatever happens, in whatever order, the meter counts as its rules say, flow by flow.
    #[test]
    fn the_meter_counts_as_its_rules_say(history in history::any()) {
        check(ROOMY, &history);
    }

    /// Goal: with no room left it still loses nothing but what its rules name, and each of that by its reason.
    #[test]
    fn the_meter_counts_as_its_rules_say_with_no_room(history in history::any()) {
        check(TIGHT, &history);
    }
}
