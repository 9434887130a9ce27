//! Whose an address was, by what the exporter told.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Owner, Scope, UnixNanos};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::state::{In, Out};

/// An owner's number in this process; given to another only after a cut that emptied the open flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerId(pub(crate) u32);

impl OwnerId {
    /// Where the owner stands among those that are written.
    pub(crate) fn place(self) -> usize {
        self.0 as usize
    }
}

/// Who one side of an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A pod that is measured.
    Owner(OwnerId),
    /// A pod that is not.
    NotMeasured,
    /// The node itself.
    Node,
    /// No owner is known, so far.
    Nobody,
}

/// The owners of this node by address.
pub(crate) struct Owners {
    slots: Vec<Option<Arc<Owner>>>,
    free: Vec<u32>,
    /// No longer told of; their numbers may still stand in open flows.
    retired: Vec<u32>,
    by_address: HashMap<IpAddr, Vec<u32>, FixedState>,
    node_addresses: HashSet<IpAddr, foldhash::fast::RandomState>,
    /// Not in the last whole scope, which did not say by when they had ended. Not kept over a restart: the next process
    /// dials, and is told whole.
    untold: Vec<OwnerId>,
}

impl Owners {
    pub(crate) fn new(seeded: FixedState) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            by_address: HashMap::with_hasher(seeded),
            node_addresses: HashSet::default(),
            untold: Vec::new(),
        }
    }

    pub(crate) fn get(&self, id: OwnerId) -> Option<&Arc<Owner>> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn apply(&mut self, scope: &Scope) {
        if scope.whole {
            self.node_addresses = scope.node_addresses.iter().copied().collect();
            self.untold = self.not_told_of(scope);
        }
        for owner in &scope.owners {
            self.upsert(owner);
        }
        self.end_untold(scope.as_of);
    }

    /// Whoever is here as not ended, and not in the scope.
    fn not_told_of(&self, scope: &Scope) -> Vec<OwnerId> {
        let told: HashSet<_, foldhash::fast::RandomState> =
            scope.owners.iter().map(|owner| (owner.address, &*owner.pod_uid)).collect();
        let here = (0..).map(OwnerId).zip(&self.slots);
        let untold = here.filter(|(_, owner)| {
            owner.as_ref().is_some_and(|owner| {
                owner.until.is_none() && !told.contains(&(owner.address, &*owner.pod_uid))
            })
        });
        untold.map(|(id, _)| id).collect()
    }

    /// Whoever a whole scope does not tell of has ended: an exporter that began anew has never heard of a pod that is gone.
    /// That was when an heir of its address began, or by the time of the first scope that reaches beyond its own beginning.
    /// What its entries say at last is still its own, so it stays as long as others that ended.
    fn end_untold(&mut self, as_of: UnixNanos) {
        let mut untold = std::mem::take(&mut self.untold);
        untold.retain(|&id| {
            let Some(owner) = self.get(id).filter(|owner| owner.until.is_none()) else { return false };
            let others = self.by_address.get(&owner.address).into_iter().flatten();
            let begun = others.filter_map(|&slot| Some(self.get(OwnerId(slot))?.since)).chain([as_of]);
            let Some(until) = begun.filter(|at| *at > owner.since).min() else { return true };
            let ended = Arc::new(Owner { until: Some(until), ..Owner::clone(owner) });
            self.slots[id.0 as usize] = Some(ended);
            false
        });
        self.untold = untold;
    }

    /// Writes every owner, those too that only open flows still name, and the node's addresses.
    pub(crate) fn save<W: Write>(&self, out: &mut Out<'_, W>) -> io::Result<()> {
        out.len(self.slots.len())?;
        for (slot, owner) in (0..).zip(&self.slots) {
            out.u8(owner.is_some().into())?;
            if let Some(owner) = owner {
                out.u8(self.retired.contains(&slot).into())?;
                out.owner(owner)?;
            }
        }
        out.len(self.node_addresses.len())?;
        self.node_addresses.iter().try_for_each(|address| out.address(*address))
    }

    /// Reads owners back, with the number that each place has now; none where nobody stands.
    pub(crate) fn restore<R: Read>(
        input: &mut In<'_, R>,
        seeded: FixedState,
    ) -> io::Result<(Self, Vec<Option<OwnerId>>)> {
        let mut owners = Self::new(seeded);
        let mut places = Vec::new();
        for slot in (0u32..).take(usize::try_from(input.owners_len()?).unwrap_or(usize::MAX)) {
            if input.u8()? == 0 {
                places.push(None);
                owners.slots.push(None);
                owners.free.push(slot);
                continue;
            }
            places.push(Some(OwnerId(slot)));
            let is_retired = input.u8()? != 0;
            let owner = input.owner()?;
            if is_retired {
                owners.retired.push(slot);
            } else {
                owners.by_address.entry(owner.address).or_default().push(slot);
            }
            owners.slots.push(Some(owner));
        }
        for _ in 0..input.owners_len()? {
            owners.node_addresses.insert(input.address()?);
        }
        Ok((owners, places))
    }

    /// Who held `address` at `at`. Where two did, the one that began earlier.
    pub(crate) fn claim(&self, address: IpAddr, at: UnixNanos) -> Claim {
        let holder = self
            .by_address
            .get(&address)
            .into_iter()
            .flatten()
            .filter_map(|&slot| Some((slot, self.get(OwnerId(slot))?)))
            .filter(|(_, owner)| owner.holds(at))
            .min_by_key(|(_, owner)| owner.since);
        match holder {
            Some((slot, owner)) if owner.measure => Claim::Owner(OwnerId(slot)),
            Some(_) => Claim::NotMeasured,
            None if self.node_addresses.contains(&address) => Claim::Node,
            None => Claim::Nobody,
        }
    }

    /// Forgets owners that ended more than `kept` ago.
    pub(crate) fn expire(&mut self, now: UnixNanos, kept: Duration) {
        self.retire(|owner| owner.until.is_some_and(|until| until.saturating_add(kept) < now));
    }

    /// The open flows are empty, so the numbers of retired owners stand nowhere any more.
    pub(crate) fn reclaim(&mut self) {
        for slot in self.retired.drain(..) {
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    fn upsert(&mut self, owner: &Arc<Owner>) {
        let slots = self.by_address.entry(owner.address).or_default();
        let known = slots.iter().copied().find(|&slot| {
            self.slots[slot as usize].as_ref().is_some_and(|known| known.pod_uid == owner.pod_uid)
        });
        if let Some(slot) = known {
            self.untold.retain(|untold| untold.0 != slot);
            self.slots[slot as usize] = Some(Arc::clone(owner));
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a node has fewer than 2^32 owners")
        });
        self.slots[slot as usize] = Some(Arc::clone(owner));
        slots.push(slot);
    }

    fn retire(&mut self, gone: impl Fn(&Owner) -> bool) {
        let (slots, retired) = (&self.slots, &mut self.retired);
        self.by_address.retain(|_, of_address| {
            of_address.retain(|&slot| {
                let keep = slots[slot as usize].as_ref().is_some_and(|owner| !gone(owner));
                if !keep {
                    retired.push(slot);
                }
                keep
            });
            !of_address.is_empty()
        });
    }
}
