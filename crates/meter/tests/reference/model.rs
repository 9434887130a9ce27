//! The meter's rules at their plainest: maps by whole identity, nothing compact, nothing batched, sums in 128 bits.
//!
//! Written from the rules of accounting, not from the meter: it has no fingerprints, leaves, stamps or numbers of
//! owners. What it owes is kept by name until a cut.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Counters, Ended, Entry, EntryId, IpProtocol, Owner, Scope, UnixNanos, View};
use egressd_meter::{Discard, MeterConfig};

/// Complete snapshots in a row without an entry, after which it is taken for gone.
const ABSENCES_MAX: u32 = 3;

/// How long before a look a clock that was set back may have stamped an entry that is new.
const LOOKS_APART_MAX: Duration = Duration::from_secs(10);

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) bytes: u128,
    pub(crate) packets: u128,
}

/// Sent, received, and of no known direction; as their local end sees them.
pub(crate) type Sums = [Sum; 3];

/// (pod UID, remote address or the rest, protocol).
pub(crate) type Flow = (Arc<str>, Option<IpAddr>, IpProtocol);

/// What a cut tells.
pub(crate) type Told = BTreeMap<Flow, Sums>;

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
    }
}

impl Sum {
    pub(crate) fn new(bytes: u64, packets: u64) -> Self {
        Self { bytes: bytes.into(), packets: packets.into() }
    }
}

/// The three together.
pub(crate) fn total(sums: &Sums) -> Sum {
    let mut total = Sum::default();
    sums.iter().for_each(|sum| total += *sum);
    total
}

/// The account, as the meter's `Books` but for memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) received: Sum,
    pub(crate) emitted: Sum,
    pub(crate) discarded: [Sum; Discard::ALL.len()],
    pub(crate) held: Sum,
    pub(crate) preexisting_entries: u64,
    pub(crate) resets: u64,
    pub(crate) vanished_entries: u64,
    pub(crate) not_admitted: u64,
    pub(crate) entries: u64,
    pub(crate) entries_active: u64,
}

struct Baseline {
    seen: Sums,
    /// Complete snapshots in a row that did not show it.
    absences: u32,
    /// Since the last complete snapshot was over.
    shown: bool,
}

struct Waiting {
    sums: Sums,
    last: UnixNanos,
}

/// (local address, remote address, protocol, start to the second).
type Side = (IpAddr, IpAddr, IpProtocol, UnixNanos);

enum Claim {
    Owner(Arc<str>),
    Discard(Discard),
    Nobody,
}

/// A meter without cleverness.
pub(crate) struct Model {
    config: MeterConfig,
    now: UnixNanos,
    looked: UnixNanos,
    watched_since: Option<UnixNanos>,
    /// A whole read had room for all that it showed.
    has_survey: bool,
    /// The running read had room for all so far.
    is_survey: bool,
    baselines: HashMap<EntryId, Baseline>,
    /// How those that went were last seen.
    gone: HashMap<EntryId, Sums>,
    /// Identities whose end was told since the running snapshot began, and between its beginning and the last one's.
    ended: [HashSet<EntryId>; 2],
    owners: Vec<Arc<Owner>>,
    /// Not in the last whole scope.
    untold: Vec<Arc<Owner>>,
    node_addresses: Vec<IpAddr>,
    waiting: HashMap<Side, Waiting>,
    open: Told,
    account: Account,
}

impl Model {
    pub(crate) fn new(config: MeterConfig) -> Self {
        Self {
            config,
            now: UnixNanos(0),
            looked: UnixNanos(0),
            watched_since: None,
            has_survey: false,
            is_survey: false,
            baselines: HashMap::new(),
            gone: HashMap::new(),
            ended: [HashSet::new(), HashSet::new()],
            owners: Vec::new(),
            untold: Vec::new(),
            node_addresses: Vec::new(),
            waiting: HashMap::new(),
            open: Told::new(),
            account: Account::default(),
        }
    }

    pub(crate) fn look(&mut self, now: UnixNanos) {
        let was_set_back = now < self.looked;
        match &mut self.watched_since {
            Some(since) if was_set_back => *since = now.saturating_sub(LOOKS_APART_MAX).min(*since),
            _ => {}
        }
        (self.now, self.looked) = (now, now);
    }

    pub(crate) fn begin(&mut self, now: UnixNanos) {
        self.look(now);
        self.watched_since = self.watched_since.or(Some(now));
        self.is_survey = true;
        self.age_ended();
        self.account.entries_active = 0;
        // Not before: the end of one that was absent may be told as late as this.
        let before = self.baselines.len();
        let gone = self.baselines.extract_if(|_, baseline| baseline.absences >= ABSENCES_MAX);
        self.gone.extend(gone.map(|(id, baseline)| (id, baseline.seen)).filter(|(id, _)| id.start.is_some()));
        self.account.vanished_entries += (before - self.baselines.len()) as u64;
    }

    pub(crate) fn entry(&mut self, entry: &Entry) {
        let Some(counters) = entry.counters else { return };
        if self.ended.iter().any(|ended| ended.contains(&entry.id)) {
            return;
        }
        let before = match self.baselines.get(&entry.id) {
            Some(baseline) => Some(baseline.seen),
            None if self.baselines.len() >= self.config.entries_max => {
                self.account.not_admitted += 1;
                self.is_survey = false;
                return;
            }
            None => self.gone.remove(&entry.id),
        };
        let seen = sums(counters);
        self.baselines.insert(entry.id, Baseline { seen, absences: 0, shown: true });
        if self.settle(entry, before, seen) {
            self.account.entries_active += 1;
        }
    }

    pub(crate) fn finish(&mut self, is_complete: bool) {
        if is_complete {
            self.has_survey |= self.is_survey;
            for baseline in self.baselines.values_mut() {
                baseline.absences = if baseline.shown { 0 } else { baseline.absences + 1 };
                baseline.shown = false;
            }
        }
        self.is_survey = false;
        let (now, kept) = (self.now, self.config.ended_owner_kept);
        self.owners.retain(|owner| owner.until.is_none_or(|until| until.saturating_add(kept) >= now));
    }

    pub(crate) fn abandon(&mut self) {
        self.is_survey = false;
    }

    pub(crate) fn ended(&mut self, ended: &Ended, now: UnixNanos) {
        self.look(now);
        let Some(counters) = ended.entry.counters else { return };
        if self.ended[0].len() >= self.config.tombstones_max {
            self.age_ended();
        }
        self.ended[0].insert(ended.entry.id);
        let before = self.baselines.remove(&ended.entry.id).map(|baseline| baseline.seen);
        let before = before.or_else(|| self.gone.remove(&ended.entry.id));
        self.settle(&ended.entry, before, sums(counters));
    }

    /// Whoever was untold has ended: when another of its address began, or by this time, if either is after its beginning.
    fn end_untold(&mut self, as_of: UnixNanos) {
        let known = self.owners.clone();
        for owner in &mut self.owners {
            let is_untold =
                self.untold.iter().any(|one| (one.address, &one.pod_uid) == (owner.address, &owner.pod_uid));
            let others = known.iter().filter(|other| other.address == owner.address).map(|other| other.since);
            let until = others.chain([as_of]).filter(|at| *at > owner.since).min();
            if is_untold && owner.until.is_none() && until.is_some() {
                *owner = Arc::new(Owner { until, ..Owner::clone(owner) });
            }
        }
    }

    pub(crate) fn scope(&mut self, scope: &Scope) {
        let same =
            |one: &Owner, other: &Owner| (one.address, &one.pod_uid) == (other.address, &other.pod_uid);
        if scope.whole {
            self.node_addresses.clone_from(&scope.node_addresses);
            self.untold.clone_from(&self.owners);
        }
        self.untold.retain(|known| !scope.owners.iter().any(|told| same(known, told)));
        for told in &scope.owners {
            match self.owners.iter_mut().find(|known| same(known, told)) {
                Some(known) => *known = Arc::clone(told),
                None => self.owners.push(Arc::clone(told)),
            }
        }
        self.end_untold(scope.as_of);
        for (side, waiting) in std::mem::take(&mut self.waiting) {
            let (local, remote, protocol, start_second) = side;
            let is_late = scope.as_of >= waiting.last.saturating_add(self.config.unclaimed_grace);
            match self.claim(local, start_second) {
                Claim::Nobody if !is_late => {
                    self.waiting.insert(side, waiting);
                }
                Claim::Nobody => self.discard(Discard::NotLocal, &waiting.sums),
                Claim::Discard(reason) => self.discard(reason, &waiting.sums),
                Claim::Owner(owner) => self.owe(owner, remote, protocol, waiting.sums),
            }
        }
    }

    /// What is owed by now.
    pub(crate) fn cut(&mut self) -> Told {
        let told = std::mem::take(&mut self.open);
        told.values().for_each(|sums| self.account.emitted += total(sums));
        told
    }

    /// Another process goes on: it does not know what had ended or what a running read refused, and its account begins
    /// with what is held.
    pub(crate) fn restart(&mut self) {
        // The next process dials, and is told whole.
        self.untold.clear();
        self.is_survey = false;
        self.ended = [HashSet::new(), HashSet::new()];
        self.account = Account { received: self.account().held, ..Account::default() };
    }

    pub(crate) fn account(&self) -> Account {
        let mut held = Sum::default();
        self.open.values().for_each(|sums| held += total(sums));
        self.waiting.values().for_each(|waiting| held += total(&waiting.sums));
        Account { held, entries: self.baselines.len() as u64, ..self.account.clone() }
    }

    /// A snapshot begins, or no more ends can be remembered.
    fn age_ended(&mut self) {
        self.ended = [HashSet::new(), std::mem::take(&mut self.ended[0])];
    }

    /// Charges both sides with what grew; false when nothing did.
    fn settle(&mut self, entry: &Entry, before: Option<Sums>, seen: Sums) -> bool {
        let Some(grown) = self.growth(entry, before, seen) else { return false };
        if total(&grown) == Sum::default() {
            return false;
        }
        let [tx, rx, undirected] = grown;
        let (opener, peer) = (entry.id.original.src, entry.reply.src);
        match entry.view {
            View::Source => self.charge(entry, opener, peer, grown),
            View::Destination => self.charge(entry, peer, opener, grown),
            View::Both => {
                self.charge(entry, opener, peer, grown);
                if opener != peer {
                    self.charge(entry, peer, opener, [rx, tx, undirected]);
                }
            }
        }
        true
    }

    /// `None` for an entry that is older than the watch.
    fn growth(&mut self, entry: &Entry, before: Option<Sums>, seen: Sums) -> Option<Sums> {
        let Some(before) = before else {
            let is_ours = match (entry.id.start, self.watched_since) {
                (Some(start), since) => since.is_some_and(|since| start > since),
                (None, _) => self.has_survey,
            };
            self.account.preexisting_entries += u64::from(!is_ours);
            return is_ours.then_some(seen);
        };
        let is_lower =
            |(seen, before): (&Sum, &Sum)| seen.bytes < before.bytes || seen.packets < before.packets;
        if seen.iter().zip(&before).any(is_lower) {
            self.account.resets += 1;
            return Some(seen);
        }
        let less = |seen: Sum, before: Sum| Sum {
            bytes: seen.bytes - before.bytes,
            packets: seen.packets - before.packets,
        };
        Some([0, 1, 2].map(|part| less(seen[part], before[part])))
    }

    fn charge(&mut self, entry: &Entry, local: IpAddr, remote: IpAddr, sums: Sums) {
        self.account.received += total(&sums);
        let protocol = entry.id.original.protocol;
        let at = entry.id.start.unwrap_or(self.now);
        match self.claim(local, at) {
            Claim::Owner(owner) => self.owe(owner, remote, protocol, sums),
            Claim::Discard(reason) => self.discard(reason, &sums),
            Claim::Nobody => {
                let side = (local, remote, protocol, at.floor_second());
                let is_full = self.waiting.len() >= self.config.unclaimed_max;
                if is_full && !self.waiting.contains_key(&side) {
                    return self.discard(Discard::UnclaimedFull, &sums);
                }
                let none = Waiting { sums: Sums::default(), last: self.now };
                let waiting = self.waiting.entry(side).or_insert(none);
                waiting.last = self.now;
                add(&mut waiting.sums, &sums);
            }
        }
    }

    fn claim(&self, address: IpAddr, at: UnixNanos) -> Claim {
        let holders = self.owners.iter().filter(|owner| owner.address == address && owner.holds(at));
        match holders.min_by_key(|owner| owner.since) {
            Some(owner) if owner.measure => Claim::Owner(Arc::clone(&owner.pod_uid)),
            Some(_) => Claim::Discard(Discard::NotMeasured),
            None if self.node_addresses.contains(&address) => Claim::Discard(Discard::NodeAddress),
            None => Claim::Nobody,
        }
    }

    fn owe(&mut self, owner: Arc<str>, remote: IpAddr, protocol: IpProtocol, sums: Sums) {
        add(self.open.entry((owner, Some(remote), protocol)).or_default(), &sums);
    }

    fn discard(&mut self, reason: Discard, sums: &Sums) {
        self.account.discarded[reason as usize] += total(sums);
    }
}

/// Adds each to its like.
pub(crate) fn add(to: &mut Sums, more: &Sums) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += *more);
}

fn sums(counters: Counters) -> Sums {
    let sum = |counter: egressd_flow::Counter| Sum::new(counter.bytes, counter.packets);
    match counters {
        Counters::Directed { tx, rx } => [sum(tx), sum(rx), Sum::default()],
        Counters::Total { .. } => [Sum::default(), Sum::default(), sum(counters.sum())],
    }
}
