//! One history: nodes, streams, an exporter, stores, and chance that decides who does what next.
//!
//! Each step one of them goes on by one step, and the clock moves on. Each history has its own kinds of faults, so that some
//! have many of one and none of another.
//!
//! Invariant: nothing is drawn but from the seed, and nothing is iterated in an order that is not the seed's. Bound:
//! [`STEPS_MAX`] steps a round, [`ROUNDS`] rounds.

use std::time::Duration;

use egressd_flow::UnixNanos;
use egressd_spool::SpoolConfig;

use crate::Violation;
use crate::claims::Claims;
use crate::cluster::{Cluster, node_name};
use crate::collector::{Bounds, bounds};
use crate::disk::SimDisk;
use crate::exporter::Exporter;
use crate::history::{Fault, History};
use crate::link::{Down, Link};
use crate::node::Node;
use crate::rng::Rng;
use crate::sinks::Treatment;
use crate::stores::{Cost, Prometheus, Store};

/// Faults, then quiet in which everything must arrive, then again on what the first left.
pub(crate) const ROUNDS: u32 = 2;
const STEPS_MIN: u64 = 300;
const STEPS_MAX: u64 = 1_200;
/// When histories begin: some instant with room before it.
const BEGINNING: u64 = 1_700_000_000_000_000_000;

/// What one history is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    nodes: u8,
    pub(crate) bounds: Bounds,
    /// The spool is on the disk.
    pub(crate) durable: bool,
    pub(crate) spool: SpoolConfig,
    /// Of a request of a sink.
    pub(crate) request_bytes_max: usize,
    /// Which kinds of faults there are, a bit each.
    faults: u64,
}

impl Config {
    fn new(rng: &mut Rng) -> Self {
        let bytes_max = if rng.once_in(8) { 16 << 10 } else { 1 << 30 };
        Self {
            nodes: u8::try_from(rng.between(1, 3)).unwrap_or(1),
            bounds: bounds(rng),
            durable: !rng.once_in(4),
            spool: SpoolConfig { bytes_max, age_max: Duration::from_hours(24) },
            // A few flows, or all of them.
            request_bytes_max: if rng.once_in(2) { 1_000 } else { 1 << 20 },
            // Half of them, or a quarter.
            faults: rng.next() & if rng.once_in(2) { rng.next() } else { u64::MAX },
        }
    }

    /// Whether remotes fold into a rest: then they are compared so.
    pub(crate) fn folds(&self) -> bool {
        self.bounds.meter.flows_max < 100
    }
}

/// How an exporter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    PowerLost,
    /// Its last words are heard.
    Farewell,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) config: Config,
    pub(crate) now: UnixNanos,
    pub(crate) nodes: Vec<Node>,
    pub(crate) cluster: Cluster,
    pub(crate) exporter: Option<Exporter>,
    disk: SimDisk,
    torn: u64,
    /// In the order of the sinks.
    pub(crate) stores: [Store; 2],
    /// Stores that answer nothing good for now.
    pub(crate) away: [bool; 2],
    pub(crate) claims: Claims,
    /// Bytes that the cost API may have twice, as counted.
    pub(crate) ambiguous: u64,
    pub(crate) history: History,
}

impl World {
    pub(crate) fn new(seed: u64, history: History) -> Self {
        let mut rng = Rng::new(seed);
        let config = Config::new(&mut rng);
        let nodes = (1..=config.nodes).map(|number| Node::new(number, &mut rng)).collect();
        Self {
            cluster: Cluster::new(config.nodes),
            config,
            now: UnixNanos(BEGINNING),
            nodes,
            exporter: None,
            disk: SimDisk::default(),
            torn: 0,
            stores: [Store::Prometheus(Prometheus::default()), Store::Cost(Cost::default())],
            away: [false; 2],
            claims: Claims::default(),
            ambiguous: 0,
            history,
            rng,
        }
    }

    /// The whole history.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..ROUNDS {
            for _ in 0..self.rng.between(STEPS_MIN, STEPS_MAX) {
                self.step()?;
            }
            self.settle()?;
            self.verify()?;
            self.lull()?;
        }
        let untold = self.nodes.iter().map(|node| node.kernel.untold).sum();
        self.history.faults.count(Fault::EndsUntold, untold);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.history.step += 1;
        let time = Duration::from_millis(self.rng.between(1, 300));
        self.pass(time);
        let at = self.rng.index(self.nodes.len());
        match self.rng.below(100) {
            0..=27 => self.traffic(at),
            28..=31 => self.churn(at),
            32..=55 => self.collect(at)?,
            56..=61 => drop(self.send(at)?),
            62..=71 => drop(self.nodes[at].hear(&mut self.history)?),
            72..=73 => self.dial(at),
            74..=94 => self.export(at)?,
            _ => self.go_wrong(at)?,
        }
        self.check()
    }

    /// The clock moves on.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }

    fn traffic(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let pods = self.cluster.addresses(node.number);
        let now = node.clock(self.now);
        node.kernel.step(&mut self.rng, now, &pods);
    }

    fn churn(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let now = node.clock(self.now);
        let gone = self.cluster.churn(&mut self.rng, node.number, now);
        if !gone.is_empty() {
            self.history.fault(Fault::PodsGone, Some(node.number));
        }
        node.kernel.pods_gone(&gone);
    }

    fn collect(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if node.process.is_some() {
            return node.step(&mut self.rng, &mut self.claims, &mut self.history, self.now);
        }
        if self.rng.once_in(10) {
            self.start_collector(at);
        }
        Ok(())
    }

    pub(crate) fn start_collector(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.start(&mut self.rng, self.config.bounds, &mut self.claims, self.now);
        let position = node.process.as_ref().map(|process| process.meter.position());
        self.history.note(|| format!("node {}: a collector starts at {position:?}", node.number));
    }

    /// A collector sends a batch; whether there was one.
    ///
    /// # Errors
    /// It is not the batch that was cut.
    pub(crate) fn send(&mut self, at: usize) -> Result<bool, Violation> {
        let node = &mut self.nodes[at];
        let sent = node.send(&mut self.claims)?;
        if let Some(batch) = &sent {
            self.history.note(|| format!("node {}: sends {}", node.number, batch.sequence));
        }
        Ok(sent.is_some())
    }

    fn dial(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let is_second = !node.is_dialled() && node.dial();
        if is_second {
            self.history.fault(Fault::StreamDoubled, Some(node.number));
        }
    }

    /// The exporter goes on by one step.
    fn export(&mut self, at: usize) -> Result<(), Violation> {
        if self.exporter.is_none() {
            return if self.rng.once_in(10) { self.start_exporter() } else { Ok(()) };
        }
        match self.rng.below(12) {
            0..=3 => drop(self.serve(at)?),
            4 => self.watch(1),
            5 => self.refresh(),
            6 => self.name(false)?,
            7 => self.sync(),
            _ => {
                let sink = self.rng.index(2);
                let treatment = self.treatment(sink);
                self.push(sink, treatment)?;
            }
        }
        self.see_killed()
    }

    /// Pods that ended are deleted, where that is no loss by design: their collectors know them, and keep what they know.
    fn delete_pods(&mut self) {
        if self.has(Fault::StateDamaged) || self.has(Fault::StateDirFull) {
            return;
        }
        let nodes = &self.nodes;
        self.cluster.delete(|pod| nodes.iter().any(|node| node.knows(pod)));
    }

    /// One message of one of a node's streams is heard; false when none could be.
    ///
    /// # Errors
    /// An honest collector would not say it.
    pub(crate) fn serve(&mut self, at: usize) -> Result<bool, Violation> {
        let Some(exporter) = &mut self.exporter else { return Ok(false) };
        let node = &mut self.nodes[at];
        let served: Vec<usize> = (0..node.links.len()).filter(|link| node.links[*link].served).collect();
        let Some(&which) = self.rng.pick(&served) else { return Ok(false) };
        let newest =
            node.links.iter().filter(|link| link.served && link.seat.is_some()).map(|link| link.number).max();
        let is_haunted = node.links.iter().any(|link| link.served && link.seat.is_some() && !link.dialled);
        let link = &mut node.links[which];
        let heard = exporter.hear(node.number, (&mut *link, is_haunted), &mut self.history, self.now)?;
        let is_replaced = link.seat.is_some() && newest.is_some_and(|newest| link.number < newest);
        let is_at_end = !link.dialled && link.up.is_empty();
        if (is_replaced || is_at_end) && !link.taking && !heard {
            link.close();
            if let Some(stream) = link.seat {
                exporter.ledger.left(&node_name(node.number), stream);
            }
        }
        node.links.retain(|link| !link.is_over());
        Ok(heard)
    }

    /// The API tells so many changes, or everything.
    pub(crate) fn watch(&mut self, at_most: usize) {
        let Some(exporter) = &mut self.exporter else { return };
        for (name, scope) in exporter.watch(&self.cluster, at_most, self.now) {
            let node = self.nodes.iter_mut().find(|node| node_name(node.number) == name);
            let links = node.into_iter().flat_map(|node| &mut node.links);
            links.filter(|link| link.served && link.seat.is_some()).for_each(|link| {
                link.down.push_back(Down::Scope(scope.clone()));
            });
        }
    }

    /// Everybody is told how old the scopes are.
    pub(crate) fn refresh(&mut self) {
        let Some(exporter) = self.exporter.as_ref().filter(|exporter| exporter.is_synced()) else { return };
        let links = self.nodes.iter_mut().flat_map(|node| &mut node.links);
        for link in links.filter(|link| link.served && link.seat.is_some()) {
            link.down.push_back(Down::Scope(exporter.age()));
        }
    }

    /// A batch that is due is named, or whatever waits.
    ///
    /// # Errors
    /// It is in the spool already, or changed by that.
    pub(crate) fn name(&mut self, at_once: bool) -> Result<(), Violation> {
        match &mut self.exporter {
            Some(exporter) if at_once || exporter.is_due(self.now) => {
                exporter.name_next(&mut self.claims, self.now)
            }
            _ => Ok(()),
        }
    }

    /// What was appended becomes durable, and its collectors hear of it.
    pub(crate) fn sync(&mut self) {
        let Some(exporter) = &mut self.exporter else { return };
        for (number, link) in exporter.sync(&mut self.claims) {
            let Some(node) = self.nodes.iter_mut().find(|node| node.number == number) else { continue };
            for open in node.links.iter_mut().filter(|open| open.served) {
                open.taking &= open.number != link;
                if open.seat.is_some() {
                    exporter.acknowledge(number, open);
                }
            }
        }
    }

    /// A sink goes on; whether it has more to do.
    ///
    /// # Errors
    /// Its store would not have it.
    pub(crate) fn push(&mut self, sink: usize, treatment: Treatment) -> Result<bool, Violation> {
        let Self { exporter: Some(exporter), stores, claims, rng, .. } = self else { return Ok(false) };
        let Exporter { sinks, spool, synced, .. } = exporter;
        let one = &mut sinks[sink];
        one.feed(spool, *synced, self.now);
        if one.keep(spool) {
            one.request(self.now);
        }
        let is_under_way = one.is_under_way();
        self.ambiguous += one.answer(rng, &mut stores[sink], treatment, self.now)?;
        let goes_on = is_under_way || one.is_due();
        if exporter.settle(claims) {
            for node in &mut self.nodes {
                let open = node.links.iter_mut().filter(|link| link.served && link.seat.is_some());
                open.for_each(|link| exporter.acknowledge(node.number, link));
            }
        }
        Ok(goes_on)
    }

    fn treatment(&mut self, sink: usize) -> Treatment {
        let draw = self.rng.below(if self.away[sink] { 6 } else { 40 });
        let (treatment, fault) = match draw {
            0..=1 if self.has(Fault::PushRefused) => (Treatment::Refuses, Fault::PushRefused),
            2 if self.has(Fault::PushDropped) => (Treatment::Drops, Fault::PushDropped),
            3 if self.has(Fault::PushTakenSilently) => (Treatment::TakesSilently, Fault::PushTakenSilently),
            4..=5 if self.config.durable && self.has(Fault::PushRejected) => {
                (Treatment::Rejects, Fault::PushRejected)
            }
            4..=9 => return Treatment::Waits,
            _ if self.away[sink] => return Treatment::Waits,
            _ => return Treatment::Accepts,
        };
        self.history.fault(fault, None);
        treatment
    }

    fn has(&self, fault: Fault) -> bool {
        self.config.faults & 1 << (fault as u64) != 0
    }

    /// One kind of fault, if this history has it.
    fn go_wrong(&mut self, at: usize) -> Result<(), Violation> {
        let fault = match self.rng.below(40) {
            0..=3 => Fault::CollectorKilled,
            4..=7 => Fault::CollectorKilledKeeping,
            8..=9 => Fault::CollectorStopped,
            10 => Fault::NodeBooted,
            11 => Fault::StateDamaged,
            12 => Fault::BatchDamaged,
            13..=14 => Fault::StateDirFull,
            15..=16 => Fault::CountersZeroed,
            17..=24 => Fault::StreamCut,
            25..=26 => Fault::StreamDoubled,
            27..=28 => Fault::ExporterKilled,
            29..=30 => Fault::ExporterKilledWriting,
            31 => Fault::ExporterStopped,
            32 => Fault::PowerLost,
            33..=34 => Fault::DiskFull,
            35..=36 => Fault::SyncFailed,
            _ => {
                let sink = self.rng.index(2);
                self.away[sink] = !self.away[sink];
                return Ok(());
            }
        };
        if !self.has(fault) {
            return Ok(());
        }
        let node = &mut self.nodes[at];
        let number = Some(node.number);
        match fault {
            Fault::CollectorKilled if node.process.is_some() => node.kill(),
            Fault::CollectorKilledKeeping if node.process.is_some() => {
                // Counted when it happens.
                node.directory.life = Some(self.rng.below(8));
                return Ok(());
            }
            Fault::CollectorStopped if node.process.is_some() => node.stop(&mut self.claims, self.now)?,
            Fault::NodeBooted => node.boot(),
            Fault::StateDamaged if node.directory.damage_state() => {}
            Fault::BatchDamaged if node.directory.damage_batch(self.rng.next()) => {}
            Fault::StateDirFull => node.directory.full = !node.directory.full,
            Fault::CountersZeroed if node.kernel.zero_one(&mut self.rng) => {}
            Fault::StreamCut if node.is_dialled() => cut(&mut self.rng, &mut node.links),
            Fault::StreamDoubled if node.is_dialled() && node.dial() => {}
            Fault::ExporterKilled | Fault::PowerLost if self.exporter.is_some() => {
                let power = fault == Fault::PowerLost;
                self.kill_exporter(if power { Death::PowerLost } else { Death::Killed })?;
            }
            Fault::ExporterKilledWriting if self.exporter.is_some() => {
                self.disk.kill_after(self.rng.between(1, 40));
                return Ok(());
            }
            Fault::ExporterStopped if self.exporter.is_some() => self.stop_exporter()?,
            Fault::DiskFull => self.disk.set_full(self.rng.once_in(2)),
            Fault::SyncFailed => self.disk.set_failing(self.rng.once_in(2)),
            _ => return Ok(()),
        }
        self.history.fault(fault, number);
        Ok(())
    }

    /// An exporter begins, on the disk if its spool is there.
    ///
    /// # Errors
    /// What was safe is not there.
    pub(crate) fn start_exporter(&mut self) -> Result<(), Violation> {
        self.delete_pods();
        let torn = self.disk.restart();
        self.history.faults.count(Fault::WriteTorn, torn - std::mem::replace(&mut self.torn, torn));
        let (disk, id) = (self.config.durable.then_some(&self.disk), self.rng.next() | 1);
        let exporter =
            Exporter::start(disk, self.config.spool, self.config.request_bytes_max, (id, self.now))?;
        if self.config.durable {
            self.claims.recovered(|node, epoch| exporter.watermark(node, epoch))?;
        }
        let last = exporter.spool.last();
        self.history.note(|| format!("an exporter starts behind {}", last.0));
        self.exporter = Some(exporter);
        Ok(())
    }

    /// The process is gone: what it had not made safe, and its ends of all streams.
    fn kill_exporter(&mut self, death: Death) -> Result<(), Violation> {
        let Some(exporter) = self.exporter.take() else { return Ok(()) };
        for (sink, store) in exporter.sinks.into_iter().zip(&mut self.stores) {
            sink.killed(&mut self.rng, store)?;
        }
        if death == Death::PowerLost {
            self.disk.lose_power(&mut self.rng);
        }
        if !self.config.durable {
            self.claims.forgotten();
            self.stores.iter_mut().for_each(Store::totals_restart);
        }
        for link in self.nodes.iter_mut().flat_map(|node| &mut node.links) {
            link.close();
            if death != Death::Farewell {
                let heard = self.rng.index(link.down.len() + 1);
                link.down.truncate(heard);
            }
        }
        self.nodes.iter_mut().for_each(|node| node.links.retain(|link| !link.is_over()));
        Ok(())
    }

    /// It ends in good order: what it took goes out as far as the stores take it, then each collector has its last word.
    fn stop_exporter(&mut self) -> Result<(), Violation> {
        for _ in 0..20 {
            self.name(true)?;
        }
        self.sync();
        for sink in 0..2 {
            for _ in 0..if self.away[sink] { 0 } else { 200 } {
                self.push(sink, Treatment::Accepts)?;
            }
        }
        let links = self.nodes.iter_mut().flat_map(|node| &mut node.links);
        for link in links.filter(|link| link.served && link.seat.is_some()) {
            link.down.push_back(Down::Redirect);
        }
        self.kill_exporter(Death::Farewell)
    }

    /// A write that was the last one of its process.
    pub(crate) fn see_killed(&mut self) -> Result<(), Violation> {
        if self.config.durable && self.disk.has_killed() && self.exporter.is_some() {
            self.history.fault(Fault::ExporterKilledWriting, None);
            self.kill_exporter(Death::Killed)?;
        }
        Ok(())
    }

    /// What goes wrong goes wrong no more.
    pub(crate) fn calm(&mut self) {
        self.away = [false; 2];
        let torn = self.disk.restart();
        self.history.faults.count(Fault::WriteTorn, torn - std::mem::replace(&mut self.torn, torn));
        for node in &mut self.nodes {
            (node.directory.full, node.directory.life) = (false, None);
        }
    }

    /// Everybody's books.
    ///
    /// # Errors
    /// Some do not balance.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        for node in &self.nodes {
            node.process.as_ref().map_or(Ok(()), |process| process.check(node.number))?;
        }
        self.exporter.as_ref().map_or(Ok(()), Exporter::check)
    }
}

/// One end finds out before the other, and some of what was on its way is lost.
fn cut(rng: &mut Rng, links: &mut Vec<Link>) {
    for link in links.iter_mut().filter(|link| link.dialled) {
        link.hang_up();
        let heard = rng.index(link.up.len() + 1);
        link.up.truncate(heard);
    }
    links.retain(|link| !link.is_over());
}
