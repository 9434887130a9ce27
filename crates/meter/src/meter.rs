//! The machine: rows and ends in, batches out.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use egressd_flow::{
    Batch, Completeness, Counter, Ended, Entry, EntryId, Epoch, Scope, Sequence, Snapshot, Span, Traffic,
    Tuple, UnixNanos, View,
};

use crate::baseline::{Baselines, Growth};
use crate::books::{Books, Discard};
use crate::config::MeterConfig;
use crate::reduce::Reducer;
use crate::scope::{Claim, OwnerId, Owners};
use crate::state::{In, Out, malformed};
use crate::unclaimed::{Key, Unclaimed, Verdict};

/// What the next batch's number in a kept state may be: far below the last, behind which there is none.
const SEQUENCES: RangeInclusive<u64> = 1..=1 << 63;

/// Turns one node's counters into batches.
///
/// Call order: [`begin`](Self::begin), [`entry`](Self::entry) for each row, [`finish`](Self::finish); ends and
/// scopes between two snapshots; [`cut`](Self::cut) when whoever takes the batches has room; and
/// [`look`](Self::look) at least every [`LOOKS_APART_MAX`](crate::LOOKS_APART_MAX).
pub struct Meter {
    config: MeterConfig,
    epoch: Epoch,
    next: Sequence,
    /// When the last complete snapshot began: every entry's counters were read since.
    read_at: UnixNanos,
    /// The same as of the last cut: what the next one holds has grown since.
    grows_from: UnixNanos,
    began: UnixNanos,
    now: UnixNanos,
    baselines: Baselines,
    owners: Owners,
    unclaimed: Unclaimed,
    open: Reducer,
    late: Late,
    books: Books,
}

/// What waited for its owner and has it now: older than the other open flows, so its batches have a span of their own.
struct Late {
    flows: Reducer,
    span: Option<Span>,
}

impl Late {
    fn widen(&mut self, by: Span) {
        let span = self.span.get_or_insert(by);
        *span = Span { from: span.from.min(by.from), to: span.to.max(by.to) };
    }
}

impl Meter {
    /// A meter whose first batch has sequence 1 of `epoch`. `key` is secret and random: it keys the fingerprints and the
    /// tables, and nothing else decides the order of records.
    #[must_use]
    pub fn new(config: MeterConfig, epoch: Epoch, key: [u8; 16], now: UnixNanos) -> Self {
        let baselines = Baselines::new(key, &config);
        let seeded = baselines.seeded();
        Self {
            epoch,
            next: Sequence(1),
            read_at: now,
            grows_from: now,
            began: now,
            now,
            baselines,
            owners: Owners::new(seeded.clone()),
            unclaimed: Unclaimed::new(config.unclaimed_max, seeded.clone()),
            open: Reducer::new(config.flows_max, seeded.clone()),
            late: Late { flows: Reducer::new(config.unclaimed_max, seeded), span: None },
            books: Books::default(),
            config,
        }
    }

    /// The clock is at `now`, which [`begin`](Self::begin) and [`ended`](Self::ended) say too. Where it was set back
    /// behind the beginning of the watch, what starts would else be taken for older than that. Rows of the running
    /// snapshot that came before are.
    pub fn look(&mut self, now: UnixNanos) {
        self.now = now;
        self.baselines.look(now);
    }

    /// A snapshot begins.
    pub fn begin(&mut self, now: UnixNanos) {
        (self.now, self.began) = (now, now);
        self.books.entries_active = 0;
        let vanished = self.baselines.begin(now);
        self.books.vanished_entries += u64::try_from(vanished).unwrap_or(u64::MAX);
    }

    /// One row of the snapshot.
    pub fn entry(&mut self, entry: &Entry) {
        let Some(counters) = entry.counters else { return };
        let growth = self.baselines.sighted(&entry.id, counters);
        if self.account(entry, growth) {
            self.books.entries_active += 1;
        }
    }

    /// The snapshot is over.
    pub fn finish(&mut self, snapshot: &Snapshot) {
        let is_complete = snapshot.completeness == Completeness::Complete;
        if is_complete {
            self.read_at = self.began;
        }
        self.baselines.finish(is_complete);
        self.owners.expire(self.now, self.config.ended_owner_kept);
    }

    /// The snapshot that was begun gave nothing, or broke off without an end.
    pub fn abandon(&mut self) {
        self.baselines.finish(false);
    }

    /// An entry ended.
    pub fn ended(&mut self, ended: &Ended, now: UnixNanos) {
        self.look(now);
        let Some(counters) = ended.entry.counters else { return };
        let growth = self.baselines.ended(&ended.entry.id, counters);
        self.account(&ended.entry, growth);
    }

    /// The exporter told who owns what. `as_of` is by this node's clock.
    pub fn scope(&mut self, scope: &Scope) {
        self.owners.apply(scope);
        let Self { unclaimed, owners, late, books, config, .. } = self;
        unclaimed.review(scope.as_of, config.unclaimed_grace, |key, traffic, span, late_enough| {
            match owners.claim(key.local, key.start_second) {
                Claim::Owner(owner) => {
                    late.flows.add(owner, key.remote, key.protocol, traffic);
                    late.widen(span);
                }
                Claim::NotMeasured => books.discard(Discard::NotMeasured, traffic.sum()),
                Claim::Node => books.discard(Discard::NodeAddress, traffic.sum()),
                Claim::Nobody if late_enough => books.discard(Discard::NotLocal, traffic.sum()),
                Claim::Nobody => return Verdict::Keep,
            }
            Verdict::Settled
        });
    }

    /// Empties the open flows into numbered batches, those first that waited for their owners; none when nothing grew.
    /// A span begins with the read before the last cut, not with that cut: what an entry carried in between was not in
    /// it.
    pub fn cut(&mut self, now: UnixNanos) -> Vec<Batch> {
        let (records_max, owners_max) = (self.config.batch_records_max, self.config.batch_owners_max);
        let span = Span { from: self.grows_from.min(now), to: now };
        self.grows_from = self.read_at;
        let late_span = self.late.span.take().unwrap_or(span);
        let late = self.late.flows.drain(&self.owners, records_max, owners_max);
        let open = self.open.drain(&self.owners, records_max, owners_max);
        self.owners.reclaim();
        let late = late.into_iter().map(|cut| (late_span, cut));
        late.chain(open.into_iter().map(|cut| (span, cut)))
            .map(|(span, (owners, records))| {
                let sequence = self.next;
                self.next = sequence.next();
                let batch = Batch { epoch: self.epoch, sequence, span, owners, records };
                self.books.emitted += batch.sum();
                batch
            })
            .collect()
    }

    /// Writes what another process needs to go on from here: to be kept before a batch that was cut is sent.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn save(&self, out: &mut impl Write) -> io::Result<()> {
        let out = &mut Out(out);
        out.u64(self.epoch.0)?;
        out.u64(self.next.0)?;
        for at in [self.read_at, self.grows_from, self.began, self.now] {
            out.time(at)?;
        }
        self.baselines.save(out)?;
        self.owners.save(out)?;
        self.unclaimed.save(out)?;
        self.open.save(out, OwnerId::place)?;
        self.late.flows.save(out, OwnerId::place)?;
        out.u8(self.late.span.is_some().into())?;
        out.span(self.late.span.unwrap_or(Span { from: self.now, to: self.now }))
    }

    /// A meter that goes on from a state, in its epoch. What it holds counts as received anew.
    ///
    /// # Errors
    /// Those of `input`, and `InvalidData` for bytes that are no state.
    pub fn restore(config: MeterConfig, input: &mut impl Read) -> io::Result<Self> {
        let input = &mut In(input);
        let (epoch, next) = (Epoch(input.u64()?), Sequence(input.u64()?));
        let mut meter = Self::new(config, epoch, [0; 16], UnixNanos(0));
        if !SEQUENCES.contains(&next.0) {
            return Err(malformed("a sequence is none"));
        }
        meter.next = next;
        for at in [&mut meter.read_at, &mut meter.grows_from, &mut meter.began, &mut meter.now] {
            *at = input.time()?;
        }
        meter.baselines = Baselines::restore(input, &config)?;
        let seeded = meter.baselines.seeded();
        let places;
        (meter.owners, places) = Owners::restore(input, seeded.clone())?;
        meter.unclaimed = Unclaimed::restore(input, config.unclaimed_max, seeded.clone())?;
        meter.open = Reducer::restore(input, (config.flows_max, seeded.clone()), &places)?;
        meter.late.flows = Reducer::restore(input, (config.unclaimed_max, seeded), &places)?;
        let has_span = input.u8()? != 0;
        meter.late.span = Some(input.span()?).filter(|_| has_span);
        meter.books.received = meter.held();
        if !meter.books.received.can_be_growth() {
            return Err(malformed("more is held than can have grown"));
        }
        Ok(meter)
    }

    /// The epoch of its batches, and the sequence of the next one.
    #[must_use]
    pub fn position(&self) -> (Epoch, Sequence) {
        (self.epoch, self.next)
    }

    /// The account so far.
    #[must_use]
    pub fn books(&self) -> Books {
        let held = self.held();
        let widen = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (entries, table_bytes) = (widen(self.baselines.len()), widen(self.baselines.bytes()));
        let forgotten_baselines = self.baselines.forgotten();
        Books { held, entries, table_bytes, forgotten_baselines, ..self.books }
    }

    fn held(&self) -> Counter {
        let mut held = self.unclaimed.sum();
        held += self.late.flows.sum();
        held += self.open.sum();
        held
    }

    /// Whether growth of both sides, added to what no cut took yet, can be. A batch says no more than is held.
    fn can_hold(&self, traffic: Traffic) -> bool {
        let mut held = self.held();
        held += traffic.sum();
        held += traffic.sum();
        held.can_be_growth()
    }

    /// True when there was growth that can be.
    fn account(&mut self, entry: &Entry, growth: Growth) -> bool {
        let traffic = match growth {
            Growth::Grown(traffic) => traffic,
            Growth::Reset(traffic) => {
                self.books.resets += 1;
                traffic
            }
            Growth::Preexisting => {
                self.books.preexisting_entries += 1;
                return false;
            }
            Growth::NotAdmitted => {
                self.books.not_admitted += 1;
                return false;
            }
            Growth::Tombstone => return false,
        };
        if traffic.is_zero() {
            return false;
        }
        if !self.can_hold(traffic) {
            self.books.impossible += 1;
            return false;
        }
        // Who sends replies is the real peer.
        let (opener, peer) = (entry.id.original.src, entry.reply.src);
        match entry.view {
            View::Source => self.side(entry, opener, peer, traffic),
            View::Destination => self.side(entry, peer, opener, traffic),
            View::Both => {
                self.side(entry, opener, peer, traffic);
                // A hairpin to itself has one side, not two.
                if opener != peer {
                    self.side(entry, peer, opener, traffic.flipped());
                }
            }
        }
        true
    }

    /// Growth of one side of an entry, as `local` sees it.
    fn side(&mut self, entry: &Entry, local: IpAddr, remote: IpAddr, traffic: Traffic) {
        self.books.received += traffic.sum();
        let EntryId { original: Tuple { protocol, .. }, start, .. } = entry.id;
        let at = start.unwrap_or(self.now);
        match self.owners.claim(local, at) {
            Claim::Owner(owner) => self.open.add(owner, remote, protocol, traffic),
            Claim::NotMeasured => self.books.discard(Discard::NotMeasured, traffic.sum()),
            Claim::Node => self.books.discard(Discard::NodeAddress, traffic.sum()),
            Claim::Nobody => {
                let key = Key { local, remote, protocol, start_second: at.floor_second() };
                let since = start.unwrap_or_default().max(self.read_at);
                let span = Span { from: since.min(self.now), to: self.now };
                if !self.unclaimed.hold(key, traffic, span) {
                    self.books.discard(Discard::UnclaimedFull, traffic.sum());
                }
            }
        }
    }
}
