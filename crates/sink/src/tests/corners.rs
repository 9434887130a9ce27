//! Answers, states and kills that meet where each alone does no harm.

use egressd_flow::{Counter, Position};

use super::{batch, cluster_of, seconds};
use crate::config::{Access, HttpSettings, RemoteWriteSettings, Temporality, Version};
use crate::destination::{Destination, Verdict};
use crate::http::CostApi;
use crate::keep::Resume;
use crate::remote_write::RemoteWrite;
use crate::remote_write::tests::decode;
use crate::secret::Secret;
use crate::totals::Totals;

fn remote_write(temporality: Temporality) -> RemoteWriteSettings {
    RemoteWriteSettings {
        url: Secret::new("http://127.0.0.1/".parse().unwrap()),
        timeout: std::time::Duration::from_secs(1),
        headers: reqwest::header::HeaderMap::new(),
        access: Access::default(),
        labels: Default::default(),
        send_received_bytes_metric: true,
        version: Version::V1,
        temporality,
        lanes: 1,
    }
}

fn cost_api() -> CostApi {
    CostApi::new(&HttpSettings {
        url: Secret::new("http://127.0.0.1/".parse().unwrap()),
        method: reqwest::Method::POST,
        gzip: false,
        timeout: std::time::Duration::from_secs(1),
        headers: reqwest::header::HeaderMap::new(),
        access: Access::default(),
        lanes: 1,
    })
}

/// Goal: growth that a receiver fails at again and again goes in smaller requests, none of them empty.
#[test]
fn growth_that_fails_for_ever_is_never_said_as_nothing() {
    let mut sink = RemoteWrite::new(remote_write(Temporality::Delta));
    sink.apply(&cluster_of(8), seconds(1));
    sink.begin();
    for n in 0..5 {
        let body = sink.request(0, seconds(2 + n)).unwrap();
        assert_eq!(decode(&body).len(), 16, "request {n}");
        sink.settle(0, Verdict::Failed, seconds(2 + n));
    }
    let body = sink.request(0, seconds(9)).unwrap();
    assert_eq!(decode(&body).len(), 8);
}

/// Goal: a state of a table that is full and whose slots changed hands is read whole.
#[test]
fn a_full_table_with_reused_slots_reads() {
    let mut totals = Totals::new(16, 100, true);
    totals.resume((Position(0), &[]), 7, Position(0), seconds(0)).unwrap();
    let mut position = 0;
    let mut go = |totals: &mut Totals, lines: Vec<String>, now: u64| {
        position += 1;
        totals.apply(&batch(position, &lines.iter().map(String::as_str).collect::<Vec<_>>()), seconds(now));
        totals.begin();
        for _ in 0..20 {
            if totals.is_due() {
                totals.state(7);
                totals.kept();
            }
            if totals.advance(0, seconds(now)).is_none() {
                if totals.is_running() {
                    continue;
                }
                break;
            }
            totals.settle(0);
        }
    };
    let own = |h: u64| format!("web/app@n1/a 10.0.0.1 > unknown 8.8.8.{h} tcp tx=1/1");
    let rest = |p: u64| format!("web/app@n1/a 10.0.0.1 > folded - {p} tx=1/1");
    // 14 flows and two rests fill the table.
    go(&mut totals, (0..14).map(own).chain([rest(100), rest(101)]).collect(), 1);
    // 0 and 1 and the first rest idle out, the others grow.
    go(&mut totals, (2..14).map(own).chain([rest(101)]).collect(), 500);
    go(&mut totals, vec![], 700);
    go(&mut totals, vec![own(20)], 701);
    go(&mut totals, vec![rest(102), rest(103), rest(104)], 702);
    let (at, state) = totals.state(7);
    let mut next = Totals::new(16, 100, true);
    let read = next.resume((at, &state), 7, at, seconds(703));
    assert!(read.is_ok());
}

/// Goal: without its note a life says all again, and counts every request of it that the life before may have made.
#[test]
fn after_a_lost_note_every_request_is_in_doubt() {
    let one_life = |state: Option<Vec<u8>>, accept: usize| {
        let mut api = cost_api();
        let resume = Resume { position: Position(0), state, caught_up: Position(1) };
        let is_known = resume.state.is_some();
        assert_eq!(api.resume(&resume, seconds(0)).is_ok(), is_known);
        api.apply(&cluster_of(50_000), seconds(1));
        let (mut emitted, mut ambiguous, mut n) = (Counter::default(), Counter::default(), 0);
        for _ in 0..40 {
            if api.is_due() {
                api.state();
                api.kept();
            }
            api.begin();
            if n == accept {
                break;
            }
            let Some(_) = api.request(0, seconds(2)) else {
                if api.is_due() {
                    continue;
                }
                break;
            };
            let settled = api.settle(0, Verdict::Accepted, seconds(2));
            emitted += settled.emitted;
            ambiguous += settled.ambiguous;
            n += 1;
        }
        (emitted.bytes, ambiguous.bytes)
    };
    let (before, _) = one_life(Some(vec![]), 2);
    let (_, ambiguous) = one_life(None, 100);
    assert!(ambiguous >= before, "doubled {before}, counted {ambiguous}");
}

/// Goal: where the spool let go of the beginning of a noted range, what is left is said, and counted as in doubt.
#[test]
fn a_range_of_which_the_spool_let_go_is_said_as_it_is() {
    let one = cluster_of(20_000);
    let mut two = batch(2, &[]);
    let all = cluster_of(40_000);
    two.records = all.records[20_000..].to_vec();
    let mut api = cost_api();
    api.resume(&Resume { position: Position(0), state: Some(vec![]), caught_up: Position(0) }, seconds(0))
        .unwrap();
    api.apply(&one, seconds(1));
    api.apply(&two, seconds(1));
    api.begin();
    let mut emitted = 0;
    while emitted < 20_000 * 16 {
        if api.is_due() {
            api.state();
            api.kept();
        }
        if api.request(0, seconds(2)).is_none() {
            continue;
        }
        emitted += api.settle(0, Verdict::Accepted, seconds(2)).emitted.bytes;
    }
    let (_, state) = api.state();
    // The spool lets batch 1 go, then the process dies.
    let mut next = cost_api();
    next.resume(&Resume { position: Position(1), state: Some(state), caught_up: Position(2) }, seconds(3))
        .unwrap();
    next.apply(&two, seconds(3));
    next.begin();
    let (mut requests, mut total, mut ambiguous) = (0, 0, 0);
    for _ in 0..10 {
        if next.is_due() {
            next.state();
            next.kept();
        }
        if next.request(0, seconds(4)).is_none() {
            continue;
        }
        let settled = next.settle(0, Verdict::Accepted, seconds(4));
        requests += 1;
        total += settled.emitted.bytes;
        ambiguous += settled.ambiguous.bytes;
    }
    assert_eq!((requests, total, ambiguous), (1, 320_000, 320_000));
    assert_eq!(next.standing().held.0, Counter::default());
}

/// Goal: a destination that took only small requests for a while gets large ones again, twice as large a push.
#[test]
fn a_limit_that_is_gone_is_forgotten() {
    let mut sink = RemoteWrite::new(remote_write(Temporality::Cumulative));
    sink.apply(&cluster_of(1000), seconds(1));
    sink.begin();
    let mut small = 0;
    while small < 12 && sink.request(0, seconds(2)).is_some() {
        sink.settle(0, Verdict::TooLarge, seconds(2));
        small += 1;
    }
    let mut pushes = Vec::new();
    for push in 0..12 {
        sink.begin();
        let mut requests = 0;
        while sink.request(0, seconds(20 + push * 15)).is_some() {
            sink.settle(0, Verdict::Accepted, seconds(20 + push * 15));
            requests += 1;
        }
        pushes.push(requests);
    }
    assert!(pushes[0] > 1_000 && pushes[11] < 5, "{pushes:?}");
}
