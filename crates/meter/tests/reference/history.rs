//! What may happen to a meter: a few entries, a few owners, and steps that make the most of them.

use std::fmt;
use std::sync::Arc;

use egressd_flow::{Counter, Entry, Owner, Scope, UnixNanos};
use proptest::prelude::*;

/// One identity a line: alike but for one field, between pods of the node, to oneself, to the node, without a start or
/// an owner, of one side, and without counters.
pub(crate) const ENTRIES: [&str; 16] = [
    "tcp 10.0.0.1:1>203.0.113.1:80 start=15 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:1>203.0.113.1:80 start=25 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:1>203.0.113.1:80 id=7 start=15 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:1>203.0.113.1:80 ctzone=3 start=15 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:2>203.0.113.2:80 start=300 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:2>203.0.113.2:80 tx=0/0 rx=0/0",
    "udp 10.0.0.1:1>203.0.113.1:80 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:3>10.96.0.1:80 reply=10.0.0.2:8080>10.0.0.1:3 start=35 tx=0/0 rx=0/0",
    "tcp 10.0.0.2:3>10.96.0.1:80 reply=10.0.0.2:8080>10.0.0.2:3 start=35 tx=0/0 rx=0/0",
    "tcp 10.0.0.3:4>172.18.0.2:6443 start=5 tx=0/0 rx=0/0",
    "udp [fd00::9]:4>[2001:db8::1]:53 start=45 tx=0/0 rx=0/0",
    "udp 10.0.0.9:4>10.0.0.1:53 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:5>10.0.0.2:80 view=source id=1 tx=0/0 rx=0/0",
    "tcp 10.0.0.1:5>10.0.0.2:80 view=destination id=2 total=0/0",
    "50 10.0.0.2>203.0.113.3 start=100 tx=0/0 rx=0/0",
    "udp 10.0.0.2:1>203.0.113.1:53",
];

/// Address, name, since and until in seconds, measured. No two hold an address from the same second on.
const OWNERS: [(&str, &str, u64, Option<u64>, bool); 8] = [
    ("10.0.0.1", "old", 10, Some(30), true),
    ("10.0.0.1", "new", 20, None, true),
    ("10.0.0.1", "next", 200, None, true),
    ("10.0.0.2", "db", 0, None, true),
    ("10.0.0.3", "dns", 0, None, false),
    ("fd00::9", "six", 40, None, true),
    ("10.0.0.9", "late", 0, Some(400), true),
    ("10.0.0.2", "other", 90, Some(120), false),
];

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The clock goes on, by seconds.
    Pass(u16),
    /// The clock is set back, by seconds.
    SetBack(u8),
    /// The kernel counts packets of an entry.
    Grow {
        entry: usize,
        tx: u32,
        rx: u32,
    },
    /// The kernel gives the identity to another entry, which counts from here.
    Remake {
        entry: usize,
        tx: Counter,
        rx: Counter,
    },
    /// The meter is told the clock.
    Look,
    Begin,
    Row(usize),
    Finish {
        is_complete: bool,
    },
    Abandon,
    End(usize),
    /// Owners by their bits, as of so many seconds ago.
    Scope {
        owners: u8,
        whole: bool,
        ago: u8,
    },
    Cut,
    /// The meter is written, and another goes on from that.
    Restart,
}

/// Steps in order; shown one a line.
#[derive(Clone)]
pub(crate) struct History(pub(crate) Vec<Step>);

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "\n{step:?}"))
    }
}

pub(crate) fn entries() -> Vec<Entry> {
    ENTRIES.iter().map(|line| line.parse().unwrap()).collect()
}

pub(crate) fn scope(as_of: UnixNanos, owners: u8, whole: bool) -> Scope {
    let seconds = |at: u64| UnixNanos(at * 1_000_000_000);
    let owner = |&(address, name, since, until, measure): &(&str, &str, u64, Option<u64>, bool)| {
        Arc::new(Owner {
            address: address.parse().unwrap(),
            pod_uid: format!("uid-{name}").into(),
            namespace: "shop".into(),
            name: name.into(),
            labels: [].into(),
            since: seconds(since),
            until: until.map(seconds),
            measure,
        })
    };
    let told = OWNERS.iter().enumerate().filter(|(bit, _)| owners >> bit & 1 == 1);
    let node_addresses = vec!["172.18.0.2".parse().unwrap()];
    Scope { as_of, whole, owners: told.map(|(_, known)| owner(known)).collect(), node_addresses }
}

/// A few hundred steps: single ones in any order, and reads as they usually are.
pub(crate) fn any() -> impl Strategy<Value = History> {
    let steps = prop_oneof![4 => read(), 3 => one().prop_map(|step| vec![step])];
    prop::collection::vec(steps, 1..60).prop_map(|steps| History(steps.concat()))
}

/// Packets, then a read in the midst of which entries may end; some are left out, as a short dump leaves them.
fn read() -> impl Strategy<Value = Vec<Step>> {
    let ends = prop::collection::vec((0..=ENTRIES.len(), entry()), 0..4);
    let growth = prop::collection::vec(grow(), 0..6);
    let shown = prop_oneof![Just(u16::MAX), Just(0), any_mask(), any_mask()];
    (growth, shown, ends, prop_oneof![4 => Just(true), 1 => Just(false)], 1..40u16).prop_map(
        |(mut steps, shown, ends, is_complete, seconds)| {
            steps.extend([Step::Pass(seconds), Step::Begin]);
            for at in 0..=ENTRIES.len() {
                steps.extend(ends.iter().filter(|(when, _)| *when == at).map(|(_, entry)| Step::End(*entry)));
                if at < ENTRIES.len() && shown >> at & 1 == 1 {
                    steps.push(Step::Row(at));
                }
            }
            steps.push(Step::Finish { is_complete });
            steps
        },
    )
}

fn any_mask() -> impl Strategy<Value = u16> {
    prop::num::u16::ANY
}

fn entry() -> impl Strategy<Value = usize> {
    0..ENTRIES.len()
}

fn grow() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![Just(0), 1..100_000u32, Just(u32::MAX)];
    (entry(), bytes(), bytes()).prop_map(|(entry, tx, rx)| Step::Grow { entry, tx, rx })
}

fn one() -> impl Strategy<Value = Step> {
    let counter = || (0..200u64, 0..2u64).prop_map(|(bytes, packets)| Counter { bytes, packets });
    prop_oneof![
        3 => grow(),
        2 => (1..300u16).prop_map(Step::Pass),
        1 => (0..100u8).prop_map(Step::SetBack),
        1 => Just(Step::Look),
        3 => (entry(), counter(), counter()).prop_map(|(entry, tx, rx)| Step::Remake { entry, tx, rx }),
        1 => Just(Step::Begin),
        3 => entry().prop_map(Step::Row),
        1 => prop::bool::ANY.prop_map(|is_complete| Step::Finish { is_complete }),
        1 => Just(Step::Abandon),
        4 => entry().prop_map(Step::End),
        4 => (prop::num::u8::ANY, prop::bool::ANY, 0..100u8)
            .prop_map(|(owners, whole, ago)| Step::Scope { owners, whole, ago }),
        4 => Just(Step::Cut),
        2 => Just(Step::Restart),
    ]
}
