//! Destinations that refuse some flows: what that costs the others, and what becomes of the refused.

use std::collections::{BTreeMap, BTreeSet};

use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use prost::Message as _;

use super::{batch, seconds};
use crate::config::{Access, HttpSettings, RemoteWriteSettings, Temporality, Version};
use crate::destination::{Destination, Verdict};
use crate::http::CostApi;
use crate::http::proto::PodNetworkMetricBatch;
use crate::keep::Resume;
use crate::remote_write::RemoteWrite;
use crate::remote_write::tests::decode;
use crate::secret::Secret;

const FLOWS: u64 = 200;
const DAY: u64 = 24 * 3600;

/// What takes a destination's requests, and refuses those that name some remote ends.
struct Store {
    read: fn(&[u8]) -> Vec<(String, u64)>,
    /// Whether a value that comes later is added to the one before.
    adds: bool,
    refused: BTreeSet<String>,
    taken: BTreeMap<String, u64>,
    requests: usize,
}

impl Store {
    fn answer(&mut self, body: &[u8]) -> Verdict {
        let said = (self.read)(body);
        self.requests += 1;
        if said.iter().any(|(remote, _)| self.refused.contains(remote)) {
            return Verdict::Rejected;
        }
        for (remote, bytes) in said {
            let taken = self.taken.entry(remote).or_default();
            assert!(self.adds || bytes >= *taken, "a total went backwards");
            *taken = if self.adds { *taken + bytes } else { bytes };
        }
        Verdict::Accepted
    }

    fn refuse(&mut self, remotes: impl IntoIterator<Item = u64>) {
        self.refused = remotes.into_iter().map(remote).collect();
    }
}

/// What is to be refused, and what was, in one push.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pushed {
    emitted: u64,
    discarded: u64,
    ambiguous: u64,
    named_aside: usize,
}

/// A whole push, without the waits.
fn push(destination: &mut dyn Destination, store: &mut Store, now: UnixNanos) -> Pushed {
    let mut pushed = Pushed::default();
    destination.begin();
    loop {
        if destination.is_due() {
            destination.state();
            destination.kept();
        }
        let Some(body) = destination.request(0, now) else {
            if destination.is_due() {
                continue;
            }
            return pushed;
        };
        let settled = destination.settle(0, store.answer(&body), now);
        pushed.emitted += settled.emitted.bytes;
        pushed.discarded += settled.discarded.bytes;
        pushed.ambiguous += settled.ambiguous.bytes;
        pushed.named_aside += usize::from(settled.aside.is_some());
    }
}

fn remote(number: u64) -> String {
    format!("8.8.{}.{}", number / 200, number % 200)
}

/// Each flow grows by its number.
fn growth(position: u64) -> AttributedBatch {
    let line = |number| format!("web/app@n1/a 10.0.0.1 > unknown {} tcp tx={number}/1", remote(number));
    let lines: Vec<String> = (1..=FLOWS).map(line).collect();
    batch(position, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What a destination should have after so many growths, but for some flows.
fn all_but(refused: &[u64], growths: u64) -> BTreeMap<String, u64> {
    let numbers = (1..=FLOWS).filter(|number| !refused.contains(number));
    numbers.map(|number| (remote(number), number * growths)).collect()
}

fn said_in_remote_write(body: &[u8]) -> Vec<(String, u64)> {
    let values = decode(body).into_iter().filter(|series| !series.contains(" stale@"));
    let said = values.map(|series| {
        let (labels, sample) = series.rsplit_once(' ').unwrap();
        let remote = labels.split(',').find_map(|label| label.strip_prefix("dst_ip=")).unwrap();
        (remote.to_owned(), sample.split_once('@').unwrap().0.parse().unwrap())
    });
    said.collect()
}

fn said_to_cost_api(body: &[u8]) -> Vec<(String, u64)> {
    let items = PodNetworkMetricBatch::decode(body).unwrap().items;
    items.into_iter().map(|item| (item.dst_ip, u64::try_from(item.tx_bytes).unwrap())).collect()
}

fn cost_api() -> CostApi {
    CostApi::new(&HttpSettings {
        url: Secret::new("http://127.0.0.1/".parse().unwrap()),
        method: reqwest::Method::POST,
        timeout: std::time::Duration::from_secs(1),
        headers: reqwest::header::HeaderMap::new(),
        access: Access::default(),
        gzip: false,
        lanes: 1,
    })
}

fn remote_write(temporality: Temporality) -> RemoteWrite {
    RemoteWrite::new(RemoteWriteSettings {
        url: Secret::new("http://127.0.0.1/".parse().unwrap()),
        timeout: std::time::Duration::from_secs(1),
        headers: reqwest::header::HeaderMap::new(),
        access: Access::default(),
        labels: BTreeMap::new(),
        send_received_bytes_metric: true,
        temporality,
        version: Version::V1,
        lanes: 1,
    })
}

fn store(read: fn(&[u8]) -> Vec<(String, u64)>, adds: bool) -> Store {
    Store { read, adds, refused: BTreeSet::new(), taken: BTreeMap::new(), requests: 0 }
}

/// Every kind, each before its store.
fn destinations() -> [(Box<dyn Destination>, Store); 3] {
    let [totals, growth] = [Temporality::Cumulative, Temporality::Delta].map(remote_write);
    [
        (Box::new(cost_api()), store(said_to_cost_api, true)),
        (Box::new(totals), store(said_in_remote_write, false)),
        (Box::new(growth), store(said_in_remote_write, true)),
    ]
}

/// Goal: flows that are refused cost the others a few requests and no byte, hold no position back, and arrive whole once
/// they are accepted.
#[test]
fn a_refused_flow_costs_nobody_else() {
    const REFUSED: [u64; 3] = [1, 77, 200];
    let held = REFUSED.iter().sum::<u64>();
    for ((mut destination, mut store), may_be_part) in destinations().into_iter().zip([false, false, true]) {
        store.refuse(REFUSED);
        for position in 1..=3 {
            let all = destination.apply(&growth(position), seconds(position)).received.bytes;
            store.requests = 0;
            let pushed = push(&mut *destination, &mut store, seconds(position));
            // Of growth, a receiver may have written the good part of what it refused.
            let pushed = Pushed { ambiguous: if may_be_part { 0 } else { pushed.ambiguous }, ..pushed };
            let named_aside = if position == 1 { REFUSED.len() } else { 0 };
            assert_eq!(pushed, Pushed { emitted: all - held, named_aside, ..Pushed::default() });
            let requests_max = if position == 1 { 60 } else { 5 };
            assert!(store.requests <= requests_max, "{} requests", store.requests);
            let standing = destination.standing();
            assert_eq!((standing.accepted, standing.held.0.bytes), (Position(position), held * position));
            assert_eq!(destination.flows_aside(), REFUSED.len());
            let taken: BTreeMap<_, _> =
                store.taken.iter().filter(|(_, bytes)| **bytes > 0).map(|(r, b)| (r.clone(), *b)).collect();
            assert_eq!(taken, all_but(&REFUSED, position));
        }
        store.refuse([]);
        destination.apply(&growth(4), seconds(4));
        // What was refused before its zero was said has that said first, and its total at the next push.
        push(&mut *destination, &mut store, seconds(4));
        push(&mut *destination, &mut store, seconds(5));
        assert_eq!(store.taken, all_but(&[], 4));
        assert_eq!((destination.flows_aside(), destination.standing().held.0), (0, Counter::default()));
    }
}

/// Goal: a destination that refuses everything for a while costs nothing but time.
#[test]
fn refusing_everything_for_a_while_loses_nothing() {
    for (mut destination, mut store) in destinations() {
        let all = destination.apply(&growth(1), seconds(1)).received.bytes;
        store.refuse(1..=FLOWS);
        assert_eq!(push(&mut *destination, &mut store, seconds(2)).emitted, 0);
        assert_eq!(destination.standing().held.0.bytes, all);
        store.refuse([]);
        let pushes: u64 = (3..6).map(|now| push(&mut *destination, &mut store, seconds(now)).emitted).sum();
        assert_eq!((pushes, store.taken), (all, all_but(&[], 1)));
    }
}

/// Goal: a flow that was refused for a day is given up, counted, and only that one.
#[test]
fn what_was_refused_for_a_day_is_discarded() {
    for (mut destination, mut store) in destinations() {
        destination.apply(&growth(1), seconds(1));
        store.refuse([9]);
        push(&mut *destination, &mut store, seconds(1));
        assert_eq!(push(&mut *destination, &mut store, seconds(DAY)).discarded, 0);
        assert_eq!(push(&mut *destination, &mut store, seconds(DAY + 1)).discarded, 9);
        assert_eq!((destination.flows_aside(), destination.standing().held.0), (0, Counter::default()));
    }
}

/// Goal: what the cost API refused is kept over a restart, goes once it is accepted, and is counted as ambiguous, since
/// the life before may have sent it.
#[test]
fn what_is_aside_outlives_the_process() {
    let resume = |(position, state): (Position, Vec<u8>)| {
        let mut api = cost_api();
        let resume = Resume { position, state: Some(state), caught_up: position };
        let held = api.resume(&resume, seconds(1)).unwrap();
        (api, held.bytes)
    };
    let (mut before, _) = resume((Position(0), Vec::new()));
    let mut store = store(said_to_cost_api, true);
    before.apply(&growth(1), seconds(1));
    store.refuse([7, 9]);
    push(&mut before, &mut store, seconds(2));
    let (mut after, held) = resume(before.state());
    assert_eq!((held, after.standing().held.0.bytes, after.flows_aside()), (16, 16, 2));
    store.refuse([]);
    let pushed = push(&mut after, &mut store, seconds(3));
    assert_eq!(pushed, Pushed { emitted: 16, ambiguous: 16, ..Pushed::default() });
    assert_eq!(store.taken, all_but(&[], 1));
    assert_eq!(after.state(), (Position(1), Vec::new()));
}
