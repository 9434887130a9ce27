//! The HTTP sink: CAST AI's cost API, deltas as protobuf.
//!
//! Invariant: a request that may have been taken in is sent again unchanged, and its bytes are counted as ambiguous.
//! Bound: [`ITEMS_MAX`] items and [`BODY_BYTES_MAX`] bytes a request, of which as many are under way at once as is
//! configured.

mod aside;
mod deltas;
pub(crate) mod proto;

use std::fmt::{Display, Write};
use std::io;

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};

use crate::books::{Applied, Standing};
use crate::client::BODY_BYTES_MAX;
use crate::config::{HttpSettings, Kind};
use crate::destination::{Destination, Settled, Verdict};
use crate::keep::{Resume, StateLost};
use crate::labels::{FlowKey, FlowView};
use crate::lanes::LANES_MAX;
use crate::portion::Step;
use crate::table::{self, FLOWS_MAX};
use aside::{Aside, Refused};
pub(crate) use deltas::set_aside;
use deltas::{Delta, Deltas};
use proto::{PodNetworkMetric, PodNetworkMetricBatch};

/// No message of protobuf: field 0 is none.
const DAMAGED: &[u8] = &[0];

/// Items of one request, encoded in some tens of milliseconds; where names are long, its bytes are the closer bound.
pub(crate) const ITEMS_MAX: usize = 20_000;

/// Bytes of what is open and what is frozen, at worst.
pub(crate) const fn table_bytes() -> usize {
    2 * table::worst_case_bytes::<Delta>()
}

/// The configuration's headers over the defaults; the encoding is ours to say.
pub(crate) fn headers(configured: &HeaderMap, gzip: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    let agent = HeaderValue::from_static(concat!("castai-egressd/v", env!("CARGO_PKG_VERSION")));
    headers.insert(USER_AGENT, agent);
    for (name, value) in configured {
        headers.insert(name, value.clone());
    }
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers
}

/// The cost API.
#[derive(Debug)]
pub(crate) struct CostApi {
    deltas: Deltas,
    gzip: bool,
    /// Of a body, before compression.
    bytes_max: usize,
    scratch: PodNetworkMetricBatch,
    /// The request of each lane, from when it is made until it is answered.
    bodies: Vec<Option<Bytes>>,
    aside: Aside,
}

impl CostApi {
    pub(crate) fn new(settings: &HttpSettings) -> Self {
        Self::bounded(settings, BODY_BYTES_MAX)
    }

    pub(crate) fn bounded(settings: &HttpSettings, bytes_max: usize) -> Self {
        Self {
            deltas: Deltas::new(FLOWS_MAX, settings.lanes),
            gzip: settings.gzip,
            bytes_max,
            scratch: PodNetworkMetricBatch { items: vec![PodNetworkMetric::default()] },
            bodies: vec![None; LANES_MAX],
            aside: Aside::new(),
        }
    }

    /// A lane's request was accepted; what was let out by it, and whether it began before another failed.
    fn accepted(&mut self, lane: usize) -> (Counter, bool) {
        if !self.aside.is_asked() {
            return self.deltas.settle(lane);
        }
        let emitted = self.aside.accepted();
        self.deltas.answered_aside(true);
        self.deltas.release(emitted);
        self.deltas.make_due();
        (emitted, false)
    }

    fn refused(&mut self, lane: usize, verdict: Verdict, now: UnixNanos, settled: &mut Settled) {
        if self.aside.is_asked() {
            self.deltas.answered_aside(false);
            let (discarded, goes_on) = self.aside.refused(verdict, now);
            if !discarded.is_zero() {
                self.deltas.release(discarded);
                self.deltas.make_due();
            }
            settled.discarded += discarded;
            settled.goes_on = goes_on;
            return;
        }
        let Some((step, waits)) = self.deltas.refused(lane, verdict) else {
            settled.is_late = true;
            return;
        };
        settled.goes_on = step != Step::Again && !waits;
        match step {
            Step::Again | Step::Fewer => {}
            Step::Aside if self.aside.has_room() => settled.aside = self.set_aside(lane, now),
            Step::Aside => settled.discarded += self.deltas.give_up(lane),
        }
    }

    /// The message of a lane's request: of what is aside first, one request at a time, then of the range.
    fn message(&mut self, lane: usize, now: UnixNanos) -> Option<Vec<u8>> {
        if self.aside.is_asked() || self.deltas.is_keeping() {
            return None;
        }
        if self.aside.is_untried() {
            return (lane == 0 && self.deltas.is_alone())
                .then(|| self.aside.request(self.bytes_max))
                .flatten();
        }
        self.of_range(lane, now)
    }

    /// A lane's next message of the range under way. Growth of what is aside goes there.
    fn of_range(&mut self, lane: usize, now: UnixNanos) -> Option<Vec<u8>> {
        loop {
            let flows = self.deltas.advance(lane, |flow| self.aside.knows(flow))?;
            if let [(flow, _)] = flows
                && self.aside.knows(flow.view())
            {
                self.set_aside(lane, now);
                continue;
            }
            let (message, fitting) = encode(&mut self.scratch, flows, self.bytes_max);
            self.deltas.cut(lane, fitting);
            return Some(message);
        }
    }

    /// Sets the one flow of a lane's request aside; its name.
    fn set_aside(&mut self, lane: usize, now: UnixNanos) -> Option<String> {
        let through = self.deltas.through();
        let [(flow, delta)] = self.deltas.current(lane) else { return None };
        let (text, mut names) = (flow.view().to_string(), PodNetworkMetric::default());
        name(&mut names, flow.view());
        self.aside.add(flow.view(), Refused::new(names, *delta, through, now));
        self.deltas.pass(lane);
        Some(text)
    }
}

impl Destination for CostApi {
    /// The current request says the same again, compressed or not.
    fn reconfigure(&mut self, kind: &Kind) {
        let Kind::Http(settings) = kind else { return };
        self.gzip = settings.gzip;
        self.bodies.fill(None);
        self.deltas.speak_at_once(settings.lanes);
        self.deltas.widen();
    }

    fn resume(&mut self, resume: &Resume, _now: UnixNanos) -> Result<Counter, StateLost> {
        // Of a damaged note nothing reads either.
        let state = resume.state.as_deref().unwrap_or(DAMAGED);
        let (aside, held) = self.deltas.resume((resume.position, state), resume.caught_up)?;
        if !aside.is_empty() {
            self.aside.restore(aside);
            self.deltas.make_due();
        }
        Ok(held)
    }

    fn has_room(&self) -> bool {
        self.deltas.has_room()
    }

    fn is_due(&self) -> bool {
        self.deltas.is_due()
    }

    fn state(&mut self) -> (Position, Vec<u8>) {
        self.deltas.state(self.aside.flows().cloned().collect())
    }

    fn kept(&mut self) {
        self.deltas.kept();
    }

    fn apply(&mut self, batch: &AttributedBatch, _now: UnixNanos) -> Applied {
        self.deltas.apply(batch)
    }

    fn begin(&mut self) {
        let was_running = self.deltas.is_running();
        self.deltas.begin();
        if self.deltas.is_running() && !was_running {
            self.aside.begin();
        }
    }

    fn is_pushing(&self) -> bool {
        self.deltas.is_running()
    }

    fn lanes(&self) -> usize {
        self.deltas.lanes()
    }

    fn request(&mut self, lane: usize, now: UnixNanos) -> Option<Bytes> {
        // It was made for another lane, and noted since.
        if let Some(other) = self.deltas.take_over(lane) {
            self.bodies.swap(lane, other);
        }
        if self.bodies.get(lane)?.is_none() {
            let message = self.message(lane, now)?;
            let body = Bytes::from(if self.gzip { compress(&message) } else { message });
            *self.bodies.get_mut(lane)? = Some(body);
        }
        let goes = if self.aside.is_asked() { self.deltas.send_aside() } else { self.deltas.send(lane) };
        self.bodies.get(lane).filter(|_| goes)?.clone()
    }

    /// The request of a range that a life before was at may be one that it made, and so may any of a flow that was set
    /// aside then.
    fn settle(&mut self, lane: usize, verdict: Verdict, now: UnixNanos) -> Settled {
        let mut settled = Settled {
            emitted: self.deltas.take_accepted_before(),
            discarded: self.deltas.take_discarded_before(),
            ..Settled::default()
        };
        let (said, doubtful) = if self.aside.is_asked() {
            self.aside.requested()
        } else {
            let said = self.deltas.requested(lane);
            (said, times(said, self.deltas.take_doubts(lane)))
        };
        settled.ambiguous = doubtful;
        if verdict.is_open() {
            settled.ambiguous += said;
        }
        if let Some(body) = self.bodies.get_mut(lane) {
            *body = None;
        }
        match verdict {
            Verdict::Accepted => {
                let (emitted, is_late) = self.accepted(lane);
                settled.emitted += emitted;
                settled.is_late = is_late;
            }
            _ => self.refused(lane, verdict, now, &mut settled),
        }
        settled
    }

    fn standing(&self) -> Standing {
        self.deltas.standing()
    }

    fn flows(&self) -> usize {
        self.deltas.flows() + self.aside.len()
    }

    /// Only what is not accepted is kept.
    fn held_flows(&self) -> u64 {
        self.flows() as u64
    }

    fn flows_aside(&self) -> usize {
        self.aside.len()
    }
}

/// So many times a figure.
fn times(counter: Counter, times: u64) -> Counter {
    let Counter { bytes, packets } = counter;
    Counter { bytes: bytes.saturating_mul(times), packets: packets.saturating_mul(times) }
}

/// The message of the first flows that fit, at least one, and how many these are.
fn encode(
    scratch: &mut PodNetworkMetricBatch,
    flows: &[(FlowKey, Delta)],
    bytes_max: usize,
) -> (Vec<u8>, usize) {
    let mut message = Vec::new();
    for (at, (key, delta)) in flows.iter().enumerate() {
        let fitting = message.len();
        append(scratch, &mut message, key.view(), *delta);
        if fitting > 0 && message.len() > bytes_max {
            message.truncate(fitting);
            return (message, at);
        }
    }
    (message, flows.len())
}

/// Appends a flow's items. Encoded messages one after another are the message with their items joined, so one
/// scratch item serves all.
fn append(scratch: &mut PodNetworkMetricBatch, message: &mut Vec<u8>, flow: FlowView<'_>, delta: Delta) {
    if let [item] = scratch.items.as_mut_slice() {
        name(item, flow);
    }
    for part in delta.parts() {
        if let [item] = scratch.items.as_mut_slice() {
            measure(item, part);
        }
        scratch.encode(message).expect("a vector grows as needed");
    }
}

fn name(item: &mut PodNetworkMetric, flow: FlowView<'_>) {
    let (source, destination) = (flow.source(), flow.destination());
    set(&mut item.src_ip, flow.source_address());
    set(&mut item.src_pod, source.pod);
    set(&mut item.src_namespace, source.namespace);
    set(&mut item.src_node, source.node);
    set(&mut item.src_zone, source.topology_zone);
    match flow.destination_address() {
        Some(address) => set(&mut item.dst_ip, address),
        None => item.dst_ip.clear(),
    }
    set(&mut item.dst_pod, destination.pod);
    set(&mut item.dst_namespace, destination.namespace);
    set(&mut item.dst_node, destination.node);
    set(&mut item.dst_zone, destination.topology_zone);
    set(&mut item.dst_dns_name, flow.dns_name());
    item.proto = i32::from(flow.protocol().0);
}

fn set(text: &mut String, value: impl Display) {
    text.clear();
    write!(text, "{value}").expect("a string grows as needed");
}

fn measure(item: &mut PodNetworkMetric, part: Delta) {
    let figure = |value: u64| i64::try_from(value).expect("a part's figures are at most 2^63-1");
    item.tx_bytes = figure(part.tx.bytes);
    item.tx_packets = figure(part.tx.packets);
    item.rx_bytes = figure(part.rx.bytes);
    item.rx_packets = figure(part.rx.packets);
}

/// The fast level: the text repeats itself so much that a better one gains little.
fn compress(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = io::Write::write_all(&mut encoder, message).and_then(|()| encoder.finish());
    written.expect("a vector grows as needed")
}

#[cfg(test)]
mod tests;
