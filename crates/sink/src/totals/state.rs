//! Running totals as bytes, for the life after this one.
//!
//! A message of protobuf, since its parts are small numbers and it tells a field that is not there from one that does
//! not read: names once, then the flows, each with its series. Whoever keeps it holds it against a sum of its own.
//!
//! Invariant: what does not hold together is refused as a whole. Bound: the table's flows, about 100 bytes each
//! beside the names.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{AddressClass, Counter, Identity, IpProtocol, Position, UnixNanos};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use prost::Message;

use super::series::Began;
use super::{CatchingUp, FlowTotals, Keeping, Metric, Stage, Total, Totals};
use crate::books::Held;
use crate::config::Temporality;
use crate::keep::StateLost;
use crate::labels::{FlowView, Names};
use crate::table::Fold;

/// Raised when a state means something else than before. No note of [deltas](crate::http) has the same.
pub(crate) const FORMAT: u32 = 1;

/// How far a life goes on beyond the last time of its state before it keeps another: only that counts where the clock
/// was set back.
const UNKEPT: Duration = Duration::from_mins(1);

/// All of it.
#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Whose series these are.
    #[prost(fixed64, tag = "2")]
    place: u64,
    #[prost(bool, tag = "3")]
    received_asked: bool,
    #[prost(int64, tag = "4")]
    timestamp_ms: i64,
    #[prost(string, repeated, tag = "5")]
    texts: Vec<String>,
    /// Four texts an end: namespace, pod, node, failure domain.
    #[prost(uint32, repeated, tag = "6")]
    ends: Vec<u32>,
    #[prost(message, repeated, tag = "7")]
    flows: Vec<Flow>,
    /// Growth that is not accepted and may be taken, once for each life that may have said it.
    #[prost(uint64, tag = "8")]
    said_bytes: u64,
    #[prost(uint64, tag = "9")]
    said_packets: u64,
    /// Whether growth was said in place of totals.
    #[prost(bool, tag = "10")]
    is_growth: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Flow {
    #[prost(bytes = "vec", tag = "1")]
    local_address: Vec<u8>,
    /// Its place among the ends.
    #[prost(uint32, tag = "2")]
    local: u32,
    /// Empty for the rest of a fold.
    #[prost(bytes = "vec", tag = "3")]
    remote_address: Vec<u8>,
    #[prost(uint32, optional, tag = "4")]
    remote: Option<u32>,
    /// 0 none, 1 private, 2 public.
    #[prost(uint32, tag = "5")]
    class: u32,
    #[prost(uint32, tag = "6")]
    protocol: u32,
    #[prost(message, repeated, tag = "7")]
    series: Vec<Series>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Series {
    /// Its place in [`Metric::ALL`].
    #[prost(uint32, tag = "1")]
    metric: u32,
    /// Whether its zero was accepted.
    #[prost(bool, tag = "2")]
    is_open: bool,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(uint64, tag = "4")]
    packets: u64,
    #[prost(uint64, tag = "5")]
    unaccepted_bytes: u64,
    #[prost(uint64, tag = "6")]
    unaccepted_packets: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "7")]
    grown_ms: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    began_ms: u64,
}

/// What a state holds that was not accepted; `None` when it is none of these.
pub(crate) fn unaccepted(state: &[u8]) -> Option<Counter> {
    let state = State::decode(state).ok().filter(|state| state.format == FORMAT)?;
    let series = state.flows.iter().flat_map(|flow| &flow.series);
    Some(series.fold(Counter::default(), |mut sum, series| {
        sum += Counter { bytes: series.unaccepted_bytes, packets: series.unaccepted_packets };
        sum
    }))
}

impl Totals {
    /// Keeps states from now on, for the series of `place`. Goes on behind `position` from a `state`, which is empty where
    /// there is none, once all through `through` was taken in. Gives what the state holds unaccepted.
    ///
    /// # Errors
    /// The state is not understood: what it held is lost, and series begin anew.
    pub(crate) fn resume(
        &mut self,
        (position, state): (Position, &[u8]),
        place: u64,
        through: Position,
        now: UnixNanos,
    ) -> Result<Counter, StateLost> {
        let kept_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        self.keeping = Some(Keeping { kept: position, kept_ms, ..Keeping::default() });
        (self.standing.applied, self.standing.accepted) = (position, position);
        if state.is_empty() {
            return Ok(Counter::default());
        }
        let Some(state) = self.read(state) else {
            self.table.take();
            self.standing.held = Held::default();
            return Err(StateLost);
        };
        let received_asked = std::mem::replace(&mut self.received_asked, state.received_asked);
        let is_growth = self.temporality == Temporality::Delta;
        if let Some(keeping) = &mut self.keeping {
            let is_moved = state.place != place;
            let anew = is_moved || state.is_growth != is_growth;
            keeping.catching_up = Some(CatchingUp { through, anew, received_asked });
            if !is_moved {
                keeping.doubt = Counter { bytes: state.said_bytes, packets: state.said_packets };
            }
        }
        self.last_timestamp_ms = state.timestamp_ms;
        if let Some(keeping) = &mut self.keeping {
            keeping.kept_ms = state.timestamp_ms;
        }
        if i64::try_from(now.as_millis()).is_ok_and(|now_ms| now_ms < state.timestamp_ms) {
            // The clock was set back: times go on beyond all that the life before may have used.
            self.last_timestamp_ms = unkept_until(state.timestamp_ms);
        }
        if !self.standing.held.0.is_zero() {
            self.standing.accepted = Position(0);
        }
        Ok(self.standing.held.0)
    }

    /// The state behind the position that is given with it, of the series of `place`.
    pub(crate) fn state(&mut self, place: u64) -> (Position, Vec<u8>) {
        let last = (self.standing.applied, self.last_timestamp_ms);
        if let Some(keeping) = &mut self.keeping {
            keeping.under_way = Some(last);
            (keeping.is_due, keeping.has_news) = (false, false);
        }
        (self.standing.applied, self.write(place))
    }

    /// Whether a state has to be kept before anything is said at `now_ms`: one that knows of that time.
    pub(super) fn outlives(&mut self, now_ms: i64) -> bool {
        let Some(keeping) = &mut self.keeping else { return false };
        let is_due = now_ms > unkept_until(keeping.kept_ms);
        if is_due {
            self.last_timestamp_ms = self.last_timestamp_ms.max(now_ms - 1);
            keeping.is_due = true;
        }
        is_due
    }

    /// The state that was given last is kept.
    pub(crate) fn kept(&mut self) {
        if let Some(keeping) = &mut self.keeping
            && let Some(kept) = keeping.under_way.take()
        {
            (keeping.kept, keeping.kept_ms) = kept;
        }
    }

    /// Messages one after another are the message with their lists joined, so one scratch flow serves all.
    fn write(&self, place: u64) -> Vec<u8> {
        let (mut bytes, mut names) = (Vec::new(), Dictionary::default());
        let mut scratch = State { flows: vec![Flow::default()], ..State::default() };
        for (_, flow, totals) in self.table.iter_from(0) {
            if let [only] = scratch.flows.as_mut_slice() {
                only.say(flow, totals, &mut names);
            }
            scratch.encode(&mut bytes).expect("a vector grows as needed");
        }
        let mut said = self.requested();
        said += self.keeping.as_ref().map(|keeping| keeping.doubt).unwrap_or_default();
        let head = State {
            format: FORMAT,
            place,
            received_asked: self.received_asked,
            timestamp_ms: self.last_timestamp_ms,
            texts: names.texts.into_iter().map(str::to_owned).collect(),
            ends: names.ends,
            flows: Vec::new(),
            said_bytes: said.bytes,
            said_packets: said.packets,
            is_growth: self.temporality == Temporality::Delta,
        };
        head.encode(&mut bytes).expect("a vector grows as needed");
        bytes
    }

    fn read(&mut self, bytes: &[u8]) -> Option<State> {
        let state = State::decode(bytes).ok().filter(|state| state.format == FORMAT)?;
        self.take_in(&state)?;
        Some(state)
    }

    fn take_in(&mut self, state: &State) -> Option<()> {
        let text = |at: &u32| state.texts.get(usize::try_from(*at).ok()?).map(String::as_str);
        let end = |end: &[u32]| {
            let [namespace, pod, node, topology_zone] = end else { return None };
            let names = Names {
                namespace: text(namespace)?,
                pod: text(pod)?,
                node: text(node)?,
                topology_zone: text(topology_zone)?,
            };
            Some(Arc::new(Identity::from(names)))
        };
        let ends: Vec<Arc<Identity>> = state.ends.chunks(4).map(end).collect::<Option<_>>()?;
        // Rests last: a part of the table is only theirs.
        let (rests, own): (Vec<_>, Vec<_>) =
            state.flows.iter().partition(|flow| flow.remote_address.is_empty());
        for flow in own.into_iter().chain(rests) {
            let totals = flow.totals()?;
            let (Fold::Own, place) = self.table.admit(flow.view(&ends)?)? else { return None };
            self.standing.held += totals.unaccepted();
            *place = totals;
        }
        Some(())
    }
}

impl Flow {
    fn say<'t>(&mut self, flow: FlowView<'t>, FlowTotals(totals): &FlowTotals, names: &mut Dictionary<'t>) {
        say_address(&mut self.local_address, Some(flow.source_address()));
        self.local = names.end(flow.source());
        say_address(&mut self.remote_address, flow.destination_address());
        self.remote = flow.has_destination().then(|| names.end(flow.destination()));
        self.class = match flow.class() {
            None => 0,
            Some(AddressClass::Private) => 1,
            Some(AddressClass::Public) => 2,
        };
        self.protocol = u32::from(flow.protocol().0);
        self.series.clear();
        let series = Metric::ALL.into_iter().zip(totals);
        self.series.extend(series.filter_map(|(metric, total)| Series::of(metric, total)));
    }

    fn view<'e>(&self, ends: &'e [Arc<Identity>]) -> Option<FlowView<'e>> {
        let end = |at: u32| ends.get(usize::try_from(at).ok()?);
        let remote = match self.remote {
            Some(at) => Some(end(at)?),
            None => None,
        };
        let remote_address = match self.remote_address.as_slice() {
            [] => None,
            bytes => Some(address(bytes)?),
        };
        let class = match self.class {
            0 => None,
            1 => Some(AddressClass::Private),
            2 => Some(AddressClass::Public),
            _ => return None,
        };
        let protocol = IpProtocol(u8::try_from(self.protocol).ok()?);
        let local = (address(&self.local_address)?, end(self.local)?);
        Some(FlowView::between(local, (remote_address, remote), class, protocol))
    }

    fn totals(&self) -> Option<FlowTotals> {
        let mut totals = FlowTotals::default();
        for series in &self.series {
            *totals.0.get_mut(usize::try_from(series.metric).ok()?)? = series.total()?;
        }
        Some(totals)
    }
}

impl Series {
    fn of(metric: Metric, total: &Total) -> Option<Self> {
        let Counter { bytes, packets } = total.sum;
        let unaccepted = total.unaccepted();
        (total.stage != Stage::Absent).then_some(Self {
            metric: metric as u32,
            is_open: total.stage == Stage::Open,
            bytes,
            packets,
            unaccepted_bytes: unaccepted.bytes,
            unaccepted_packets: unaccepted.packets,
            grown_ms: total.grown.0 / 1_000_000,
            began_ms: total.began.as_millis().unsigned_abs(),
        })
    }

    fn total(&self) -> Option<Total> {
        let sum = Counter { bytes: self.bytes, packets: self.packets };
        let unaccepted = Counter { bytes: self.unaccepted_bytes, packets: self.unaccepted_packets };
        Some(Total {
            sum,
            accepted: sum.growth(unaccepted)?,
            grown: UnixNanos(self.grown_ms.saturating_mul(1_000_000)),
            stage: if self.is_open { Stage::Open } else { Stage::New },
            began: Began::at(UnixNanos(self.began_ms.saturating_mul(1_000_000))),
        })
    }
}

/// Until when a life whose state knows of this time says something without another.
fn unkept_until(kept_ms: i64) -> i64 {
    kept_ms.saturating_add(i64::try_from(UNKEPT.as_millis()).unwrap_or(i64::MAX))
}

/// Names that flows share, each once.
#[derive(Default)]
struct Dictionary<'t> {
    texts: Vec<&'t str>,
    ends: Vec<u32>,
    known_texts: HashMap<&'t str, u32, FixedState>,
    known_ends: HashMap<Names<'t>, u32, FixedState>,
}

impl<'t> Dictionary<'t> {
    fn end(&mut self, names: Names<'t>) -> u32 {
        if let Some(known) = self.known_ends.get(&names) {
            return *known;
        }
        let Names { namespace, pod, node, topology_zone } = names;
        let texts = [namespace, pod, node, topology_zone].map(|text| self.text(text));
        self.ends.extend(texts);
        place(&mut self.known_ends, names)
    }

    fn text(&mut self, text: &'t str) -> u32 {
        if let Some(known) = self.known_texts.get(text) {
            return *known;
        }
        self.texts.push(text);
        place(&mut self.known_texts, text)
    }
}

/// The next place of a new key.
fn place<K: Eq + std::hash::Hash, S: BuildHasher>(known: &mut HashMap<K, u32, S>, key: K) -> u32 {
    let next = u32::try_from(known.len()).expect("a table has fewer flows than u32 numbers them");
    known.insert(key, next);
    next
}

fn say_address(into: &mut Vec<u8>, address: Option<IpAddr>) {
    into.clear();
    match address {
        None => {}
        Some(IpAddr::V4(v4)) => into.extend(v4.octets()),
        Some(IpAddr::V6(v6)) => into.extend(v6.octets()),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests;
