//! Every batch that was ever cut, what it says, and what became of it.
//!
//! Invariant: a number that was sent once never says anything else. Bound: the batches of one history.

use std::collections::{BTreeMap, BTreeSet};

use egressd_flow::{Batch, Epoch, Position, Sequence};

use crate::Violation;
use crate::flows::Flows;

/// A batch: its node's number, epoch, sequence.
pub(crate) type Key = (u8, Epoch, Sequence);

/// What became of a batch in the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// In the spool, and it need not survive.
    Appended(Position),
    /// In the spool, as was said.
    Synced(Position),
    /// Every sink has accepted it.
    Delivered,
    /// It was in a spool that is gone.
    Doubtful,
}

#[derive(Clone, Debug)]
struct Content {
    flows: Flows,
    sent: bool,
}

/// The batches of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    content: BTreeMap<Key, Content>,
    fates: BTreeMap<Key, Fate>,
    /// In the spool that there is.
    spooled: BTreeSet<Key>,
    /// Held by a collector, and not to be read by the next.
    lost: BTreeSet<Key>,
}

impl Claims {
    /// A batch is cut. One that nobody has heard of may be cut anew.
    pub(crate) fn cut(&mut self, node: u8, batch: &Batch) -> Result<(), Violation> {
        let (key, flows) = (key(node, batch), Flows::of(batch));
        match self.content.get(&key) {
            Some(known) if known.sent && known.flows != flows => Err(Violation(format!(
                "batch {} of node {node} was sent, and is cut again with other bytes: {} before, {} now",
                batch.sequence,
                known.flows.sum(),
                flows.sum()
            ))),
            Some(known) if known.sent => Ok(()),
            _ => {
                self.content.insert(key, Content { flows, sent: false });
                Ok(())
            }
        }
    }

    /// A batch leaves its node.
    pub(crate) fn sent(&mut self, node: u8, batch: &Batch) -> Result<(), Violation> {
        let flows = Flows::of(batch);
        match self.content.get_mut(&key(node, batch)) {
            Some(known) if known.flows == flows => {
                known.sent = true;
                Ok(())
            }
            _ => Err(Violation(format!("batch {} of node {node} is sent as it was not cut", batch.sequence))),
        }
    }

    /// A batch was held and cannot be read any more.
    pub(crate) fn lost(&mut self, key: Key) {
        self.lost.insert(key);
    }

    /// A batch is in the spool. Twice in one spool is once too often.
    pub(crate) fn appended(&mut self, key: Key, position: Position) -> Result<(), Violation> {
        if !self.spooled.insert(key) {
            return Err(Violation(format!("batch {} of node {} is in the spool twice", key.2, key.0)));
        }
        let fate = self.fates.entry(key).or_insert(Fate::Appended(position));
        if *fate != Fate::Delivered {
            *fate = Fate::Appended(position);
        }
        Ok(())
    }

    /// All in the spool is said to survive.
    pub(crate) fn synced(&mut self) {
        for fate in self.fates.values_mut() {
            if let Fate::Appended(position) = *fate {
                *fate = Fate::Synced(position);
            }
        }
    }

    /// Every sink has accepted all through `through`.
    pub(crate) fn delivered(&mut self, through: Position) {
        for fate in self.fates.values_mut() {
            if let Fate::Synced(position) = *fate
                && position <= through
            {
                *fate = Fate::Delivered;
            }
        }
    }

    /// A spool was opened again; `watermark` says how far an epoch of a node is in it, `None` where it does not know.
    pub(crate) fn recovered(
        &mut self,
        watermark: impl Fn(u8, Epoch) -> Option<Sequence>,
    ) -> Result<(), Violation> {
        let mut missing = None;
        self.fates.retain(|(node, epoch, sequence), fate| {
            let is_safe = !matches!(fate, Fate::Appended(_));
            // The oldest epochs of a node are forgotten, with their collectors.
            let is_there = watermark(*node, *epoch).map_or(is_safe, |reached| *sequence <= reached);
            if !is_there && is_safe {
                missing = Some(Violation(format!(
                    "batch {sequence} of node {node} was safe in the spool, and is gone"
                )));
            }
            is_there
        });
        self.spooled = self.fates.keys().copied().collect();
        missing.map_or(Ok(()), Err)
    }

    /// The spool is gone.
    pub(crate) fn forgotten(&mut self) {
        self.spooled.clear();
        for fate in self.fates.values_mut().filter(|fate| **fate != Fate::Delivered) {
            *fate = Fate::Doubtful;
        }
    }

    /// What all batches of an epoch before `next` say.
    pub(crate) fn cut_in(&self, node: u8, epoch: Epoch, next: Sequence) -> Flows {
        let mut flows = Flows::default();
        let of_epoch = self.content.range((node, epoch, Sequence(1))..(node, epoch, next));
        of_epoch.for_each(|(_, content)| flows.add_all(&content.flows));
        flows
    }

    /// The first batch of an epoch before `next` that neither arrived nor is known to be lost.
    pub(crate) fn missing(&self, node: u8, epoch: Epoch, next: Sequence) -> Option<Sequence> {
        let of_epoch = self.content.range((node, epoch, Sequence(1))..(node, epoch, next));
        let mut keys = of_epoch.map(|(key, _)| key);
        keys.find(|key| !self.is_in(key) && !self.lost.contains(key)).map(|(_, _, sequence)| *sequence)
    }

    /// What is in the sinks for sure once they are at the end.
    pub(crate) fn sure(&self) -> Flows {
        self.sum(|key| self.is_in(key))
    }

    /// What may be in them: a spool that is gone had it, and so had a collector that is.
    pub(crate) fn doubtful(&self) -> Flows {
        self.sum(|key| self.fates.get(key) == Some(&Fate::Doubtful))
    }

    /// Bytes of batches that a collector lost.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.sum(|key| self.lost.contains(key) && !self.is_in(key)).sum()
    }

    fn is_in(&self, key: &Key) -> bool {
        self.fates.get(key).is_some_and(|fate| *fate != Fate::Doubtful)
    }

    fn sum(&self, of: impl Fn(&Key) -> bool) -> Flows {
        let mut flows = Flows::default();
        self.content.iter().filter(|(key, _)| of(key)).for_each(|(_, content)| flows.add_all(&content.flows));
        flows
    }
}

/// What a batch is known by.
pub(crate) fn key(node: u8, batch: &Batch) -> Key {
    (node, batch.epoch, batch.sequence)
}
