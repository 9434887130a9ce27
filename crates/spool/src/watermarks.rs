//! How far each node's epochs are in the spool, so that a replay is known for one.
//!
//! Kept as the ledger keeps its accounts: a node's last four epochs, for a day since their last batch.
//! Invariant: a watermark never falls, it is forgotten only. Bound: [`NODES_MAX`] nodes; beyond it the one heard of
//! longest ago is forgotten.

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Epoch, NodeName, Sequence, UnixNanos};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::Taken;
use crate::code::{In, Out};

/// Nodes that are known at a time: twice what one exporter is made for.
pub const NODES_MAX: usize = 10_000;
/// Epochs of a node that are known.
const EPOCHS_MAX: usize = 4;
/// How long an epoch without a batch stays known.
const EPOCH_KEPT: Duration = Duration::from_hours(24);
/// How often old ones are looked for: it takes a walk over all.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// How far one epoch of a node is in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The life of the collector.
    pub epoch: Epoch,
    /// Its highest sequence here.
    pub sequence: Sequence,
    /// When that was appended.
    pub at: UnixNanos,
}

#[derive(Default)]
pub(crate) struct Watermarks {
    /// Each node's in the order in which they were last raised.
    nodes: HashMap<Arc<str>, Vec<Watermark>, FixedState>,
    expired: UnixNanos,
}

impl Watermarks {
    /// The highest sequence of an epoch; `None` when it is not known.
    pub(crate) fn get(&self, node: &str, epoch: Epoch) -> Option<Sequence> {
        self.nodes.get(node)?.iter().find(|mark| mark.epoch == epoch).map(|mark| mark.sequence)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeName, Watermark)> {
        self.nodes.iter().flat_map(|(node, marks)| marks.iter().map(|mark| (NodeName(node.clone()), *mark)))
    }

    /// Parts what is new from what is known, also within `taken`.
    pub(crate) fn part<'t>(&self, taken: &'t [Taken]) -> (Vec<&'t Taken>, Vec<&'t Taken>) {
        let mut reached: HashMap<(&str, Epoch), Sequence, FixedState> = HashMap::default();
        taken.iter().partition(|taken| {
            let node = &*taken.batch.node.0;
            let known = || self.get(node, taken.epoch).unwrap_or_default();
            let reached = reached.entry((node, taken.epoch)).or_insert_with(known);
            let is_new = taken.sequence > *reached;
            *reached = taken.sequence.max(*reached);
            is_new
        })
    }

    /// A batch is in the spool: its epoch's mark becomes the last of its node's, wherever the clock has gone meanwhile.
    pub(crate) fn raise(&mut self, node: &str, epoch: Epoch, sequence: Sequence, at: UnixNanos) {
        if !self.nodes.contains_key(node) {
            self.make_room();
            self.nodes.insert(node.into(), Vec::new());
        }
        let Some(marks) = self.nodes.get_mut(node) else { return };
        let known = marks.iter().position(|mark| mark.epoch == epoch).map(|place| marks.remove(place));
        let mark = known.unwrap_or(Watermark { epoch, sequence, at });
        marks.push(Watermark { epoch, sequence: mark.sequence.max(sequence), at: mark.at.max(at) });
        if marks.len() > EPOCHS_MAX {
            marks.remove(0);
        }
    }

    fn make_room(&mut self) {
        let heard = |marks: &[Watermark]| marks.iter().map(|mark| mark.at).max();
        if self.nodes.len() >= NODES_MAX
            && let Some((oldest, _)) = self.nodes.iter().min_by_key(|(_, marks)| heard(marks))
        {
            let oldest = oldest.clone();
            self.nodes.remove(&oldest);
        }
    }

    /// Forgets epochs without a batch for a day. A clock that was set back does not stop it.
    pub(crate) fn expire(&mut self, now: UnixNanos) {
        if now >= self.expired && now.since(self.expired) < EXPIRE_EVERY {
            return;
        }
        self.expired = now;
        self.nodes.retain(|_, marks| {
            marks.retain(|mark| now.since(mark.at) < EPOCH_KEPT);
            !marks.is_empty()
        });
    }

    pub(crate) fn write(&self, out: &mut Out<'_>) {
        out.len(self.nodes.len());
        for (node, marks) in &self.nodes {
            out.text(node);
            out.len(marks.len());
            for Watermark { epoch, sequence, at } in marks {
                [epoch.0, sequence.0, at.0].into_iter().for_each(|part| out.u64(part));
            }
        }
    }

    pub(crate) fn read(input: &mut In<'_>) -> Option<Self> {
        let mut found = Self::default();
        for _ in 0..input.len()? {
            let node = input.text()?;
            for _ in 0..input.len()? {
                let (epoch, sequence) = (Epoch(input.u64()?), Sequence(input.u64()?));
                found.raise(node, epoch, sequence, UnixNanos(input.u64()?));
            }
        }
        Some(found)
    }
}
