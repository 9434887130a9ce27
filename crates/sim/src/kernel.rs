//! One node's connection tracking, with the truth of what it counted.
//!
//! Entries are born, grow, are counted from zero by somebody else's read, and end: DESTROY is told while the entry still
//! stands in the table, to whoever listens and has room. A walk goes by buckets, so what is born behind it is not seen.
//!
//! Invariant: `truth` has every byte that was ever counted at a side that is a pod's. Bound: [`ENTRIES_MAX`] entries and
//! [`BUFFER_MAX`] ends that nobody has received.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use egressd_flow::{
    Counter, Counters, CtZone, Ended, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos, View,
};

use crate::flows::{Bytes, Flow, Flows};
use crate::rng::{Rng, mix};

/// Few enough that tuples come again.
pub(crate) const ENTRIES_MAX: usize = 24;
/// Ends in the socket's receive buffer.
const BUFFER_MAX: usize = 8;
/// An entry that has ended is unlinked at once, or before so many dumps more have begun.
const UNLINKED_AFTER: u64 = 2;

/// Tells two lives of one tuple apart, which nothing in the product sees.
pub(crate) type Serial = u64;

/// An end on its way to the collector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) serial: Serial,
    pub(crate) ended: Ended,
}

/// A side of an entry that is a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    flow: Flow,
    /// It is the reply's source: what the original direction counts it has received.
    flipped: bool,
}

impl Side {
    /// This side's flow, and what growth by `tx` in the original and `rx` in the reply direction is to it.
    pub(crate) fn share(self, tx: u64, rx: u64) -> (Flow, Bytes) {
        let (tx, rx) = if self.flipped { (rx, tx) } else { (tx, rx) };
        (self.flow, Bytes { tx, rx })
    }
}

#[derive(Clone, Debug)]
struct Live {
    serial: Serial,
    entry: Entry,
    /// Its pod has ended, so it will soon.
    dying: bool,
    /// It has ended, after so many dumps had begun.
    ended: Option<u64>,
}

/// One node's table.
#[derive(Debug)]
pub(crate) struct Kernel {
    node: u8,
    /// By bucket, which is unique.
    table: BTreeMap<u64, Live>,
    serials: Serial,
    /// Begun so far, and those before.
    dumps: u64,
    listening: bool,
    buffer: VecDeque<Heard>,
    pub(crate) truth: Flows,
    /// Ends that nobody was told of.
    pub(crate) untold: u64,
}

/// Which side of an entry the pod is on.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Outbound,
    Inbound,
    Service,
    OfNode,
}

impl Kernel {
    pub(crate) fn new(node: u8) -> Self {
        Self {
            node,
            table: BTreeMap::new(),
            serials: 0,
            dumps: UNLINKED_AFTER,
            listening: false,
            buffer: VecDeque::new(),
            truth: Flows::default(),
            untold: 0,
        }
    }

    /// Something happens. `pods` have their addresses on this node now.
    pub(crate) fn step(&mut self, rng: &mut Rng, now: UnixNanos, pods: &[IpAddr]) {
        match rng.below(10) {
            0..=2 => self.open(rng, now, pods),
            3..=7 => self.grow(rng),
            _ => self.end_one(rng, now),
        }
    }

    /// What nothing grows in any more ends.
    pub(crate) fn calm_down(&mut self, rng: &mut Rng, now: UnixNanos) {
        if self.table.values().any(|live| live.dying && live.ended.is_none()) {
            self.end_one(rng, now);
        }
    }

    /// The pods of these addresses are gone: their entries stop growing before long, and end.
    pub(crate) fn pods_gone(&mut self, gone: &[IpAddr]) {
        for live in self.table.values_mut() {
            live.dying |= gone.contains(&live.entry.id.original.src) || gone.contains(&live.entry.reply.src);
        }
    }

    /// Whether an entry of a pod that is gone still stands.
    pub(crate) fn has_dying(&self) -> bool {
        self.table.values().any(|live| live.dying)
    }

    /// Somebody opens the socket of ends.
    pub(crate) fn listen(&mut self) {
        self.listening = true;
        // A new process takes longer to its first dump than an entry from its end to its unlinking.
        self.table.retain(|_, live| live.ended.is_none());
    }

    /// The socket is gone, with what was in it.
    pub(crate) fn close(&mut self) {
        self.listening = false;
        self.untold += self.buffer.drain(..).count() as u64;
    }

    /// The machine boots: nothing is left but what was true.
    pub(crate) fn reboot(&mut self) {
        self.close();
        self.table.clear();
    }

    /// Whether an end waits in the socket.
    pub(crate) fn has_told(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes one end out of the socket.
    pub(crate) fn receive(&mut self) -> Option<Heard> {
        self.buffer.pop_front()
    }

    /// A walk begins.
    pub(crate) fn begin_dump(&mut self) {
        self.dumps += 1;
        self.unlink();
    }

    fn unlink(&mut self) {
        let dumps = self.dumps;
        self.table.retain(|_, live| live.ended.is_none_or(|ended| dumps < ended + UNLINKED_AFTER));
    }

    /// The next row of a walk behind `bucket`.
    pub(crate) fn row(&self, behind: Option<u64>) -> Option<(u64, Serial, Entry)> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let (bucket, live) = self.table.range((from, Bound::Unbounded)).next()?;
        Some((*bucket, live.serial, live.entry))
    }

    /// Somebody reads the counters of an entry and sets them to zero.
    pub(crate) fn zero_one(&mut self, rng: &mut Rng) -> bool {
        let Some(live) = self.living(rng) else { return false };
        live.entry.counters = Some(Counters::Directed { tx: Counter::default(), rx: Counter::default() });
        true
    }

    /// The sides of an entry that are pods' of this node.
    pub(crate) fn sides(&self, entry: &Entry) -> impl Iterator<Item = Side> + use<> {
        let (opener, peer) = (entry.id.original.src, entry.reply.src);
        let protocol = entry.id.original.protocol;
        let side =
            |local, remote, flipped| Side { flow: Flow { local, remote: Some(remote), protocol }, flipped };
        let opener_side = is_pod(self.node, opener).then(|| side(opener, peer, false));
        let peer_side = (opener != peer && is_pod(self.node, peer)).then(|| side(peer, opener, true));
        opener_side.into_iter().chain(peer_side)
    }

    fn open(&mut self, rng: &mut Rng, now: UnixNanos, pods: &[IpAddr]) {
        let (false, Some(pod)) = (self.table.len() >= ENTRIES_MAX, rng.pick(pods)) else { return };
        let remote = match rng.below(3) {
            0 => *rng.pick(pods).unwrap_or(pod),
            1 => address(if self.node == 1 { 2 } else { 1 }, rng.between(1, 4)),
            _ => IpAddr::from(Ipv4Addr::new(203, 0, 113, octet(rng.between(1, 4)))),
        };
        let shape = match rng.below(8) {
            0..=3 => Shape::Outbound,
            4..=5 => Shape::Inbound,
            6 => Shape::Service,
            _ => Shape::OfNode,
        };
        let (src, dst, backend) = match shape {
            Shape::Outbound => (*pod, remote, remote),
            Shape::Inbound => (remote, *pod, *pod),
            Shape::Service => (*pod, IpAddr::from(Ipv4Addr::new(10, 96, 0, 1)), remote),
            Shape::OfNode => (node_address(self.node), remote, remote),
        };
        let (protocol, port) = if rng.once_in(3) { (IpProtocol::UDP, 53) } else { (IpProtocol::TCP, 80) };
        let l4 = L4::Ports { src: 40_000 + u16::from(octet(rng.below(2))), dst: port };
        let original = Tuple { protocol, src, dst, l4, ct_zone: CtZone::default() };
        if self.table.values().any(|live| live.entry.id.original == original && live.ended.is_none()) {
            return;
        }
        self.serials += 1;
        let serial = self.serials;
        let mut reply = original.inverted();
        reply.src = backend;
        // The slab gives a tuple that comes again the object it had, so the id repeats; the start does not.
        let start = Some(UnixNanos(now.0 - 1_000 + serial % 1_000));
        let id = EntryId { original, kernel_id: Some(mix(u64::from(port))), start };
        let counters = Some(Counters::Directed { tx: Counter::default(), rx: Counter::default() });
        let entry = Entry { id, reply, view: View::Both, counters, status: None, timeout_seconds: None };
        let bucket = mix(serial ^ u64::from(self.node) << 56);
        self.table.insert(bucket, Live { serial, entry, dying: false, ended: None });
    }

    fn living(&mut self, rng: &mut Rng) -> Option<&mut Live> {
        let living: Vec<u64> =
            self.table.iter().filter(|(_, live)| live.ended.is_none()).map(|(bucket, _)| *bucket).collect();
        self.table.get_mut(rng.pick(&living)?)
    }

    fn grow(&mut self, rng: &mut Rng) {
        let (tx, rx) = (rng.between(40, 100_000), if rng.once_in(4) { 0 } else { rng.between(40, 100_000) });
        let Some(live) = self.living(rng) else { return };
        if let Some(Counters::Directed { tx: original, rx: reply }) = &mut live.entry.counters {
            *original += Counter { bytes: tx, packets: tx.div_ceil(1_500) };
            *reply += Counter { bytes: rx, packets: rx.div_ceil(1_500) };
        }
        let entry = live.entry;
        let shares: Vec<_> = self.sides(&entry).map(|side| side.share(tx, rx)).collect();
        shares.into_iter().for_each(|(flow, bytes)| self.truth.add(flow, bytes));
    }

    /// Those of pods that are gone go first.
    fn end_one(&mut self, rng: &mut Rng, now: UnixNanos) {
        let living = self.table.iter().filter(|(_, live)| live.ended.is_none());
        let (dying, others): (Vec<_>, Vec<_>) = living.partition(|(_, live)| live.dying);
        let of = if dying.is_empty() { others } else { dying };
        let Some(bucket) = rng.pick(&of).map(|(bucket, _)| **bucket) else { return };
        let Some(live) = self.table.get_mut(&bucket) else { return };
        // It is told before it is unlinked, and a dump may run between.
        live.ended = Some(if rng.once_in(2) { self.dumps } else { 0 });
        let heard = Heard { serial: live.serial, ended: Ended { entry: live.entry, stop: Some(now) } };
        if self.listening && self.buffer.len() < BUFFER_MAX {
            self.buffer.push_back(heard);
        } else {
            self.untold += 1;
        }
        self.unlink();
    }
}

/// The address of a pod of a node, and of nobody else.
pub(crate) fn address(node: u8, pod: u64) -> IpAddr {
    Ipv4Addr::new(10, node, 0, octet(pod)).into()
}

/// A node's own address.
pub(crate) fn node_address(node: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, 0, node).into()
}

fn is_pod(node: u8, address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == [10, node])
}

fn octet(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
