//! What the product owes for what it was shown: a meter that is a map, kept and gone back to as the real one is.
//!
//! The rules are design.md's, in their shortest form: growth over what was last shown; whole where an entry began after
//! the watch; nothing of an entry that is older, or whose end was told. Fingerprints, eviction, scopes, folding and
//! cutting are the product's own affair.
//!
//! Invariant: nothing here is shared with `egressd-meter`. Bound: the entries of one history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egressd_enrich::PodUid;
use egressd_flow::{Counter, Counters, Entry, Scope, UnixNanos};

use crate::flows::Flows;
use crate::kernel::{Kernel, Serial};

/// One watch of a node, over all the processes that go on with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    since: Option<UnixNanos>,
    /// Counters as they were last shown, original and reply.
    shown: BTreeMap<Serial, [Counter; 2]>,
    ended: BTreeSet<Serial>,
    /// Pods that it was told of, by UID.
    told: BTreeSet<Arc<str>>,
    /// All growth since the watch began.
    pub(crate) owed: Flows,
}

impl Watch {
    /// A dump begins.
    pub(crate) fn begin(&mut self, now: UnixNanos) {
        self.since.get_or_insert(now);
    }

    /// A dump shows an entry.
    pub(crate) fn shown(&mut self, kernel: &Kernel, serial: Serial, entry: &Entry) {
        if self.ended.contains(&serial) {
            return;
        }
        let Some(Counters::Directed { tx, rx }) = entry.counters else { return };
        let before = match self.shown.insert(serial, [tx, rx]) {
            Some([before_tx, before_rx]) if is_past(before_tx, tx) && is_past(before_rx, rx) => {
                (before_tx, before_rx)
            }
            None if !self.is_younger(entry) => (tx, rx),
            // Counted from zero again, or from zero on.
            _ => (Counter::default(), Counter::default()),
        };
        for side in kernel.sides(entry) {
            let (flow, bytes) = side.share(tx.bytes - before.0.bytes, rx.bytes - before.1.bytes);
            self.owed.add(flow, bytes);
        }
    }

    /// An entry's end is told, with its last counters.
    pub(crate) fn ended(&mut self, kernel: &Kernel, serial: Serial, entry: &Entry) {
        self.shown(kernel, serial, entry);
        self.shown.remove(&serial);
        self.ended.insert(serial);
    }

    /// It is told who owns what.
    pub(crate) fn hear(&mut self, scope: &Scope) {
        self.told.extend(scope.owners.iter().map(|owner| Arc::clone(&owner.pod_uid)));
    }

    /// Whether it was told of a pod.
    pub(crate) fn knows(&self, pod: &PodUid) -> bool {
        self.told.contains(&pod.0)
    }

    fn is_younger(&self, entry: &Entry) -> bool {
        self.since.is_some_and(|since| entry.id.start.is_some_and(|start| start > since))
    }
}

fn is_past(before: Counter, now: Counter) -> bool {
    before.bytes <= now.bytes && before.packets <= now.packets
}
