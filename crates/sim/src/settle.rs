//! Quiet, and what must be true then.
//!
//! Faults stop, everybody is there, and all goes on until nothing is held anywhere. Then every byte that was shown to a
//! watch is in each store once, or in a counted class.
//!
//! Bound: [`TURNS_MAX`] turns of [`TURN`].

use std::time::Duration;

use crate::Violation;
use crate::exporter::Exporter;
use crate::flows::Flows;
use crate::sinks::{Name, Treatment};
use crate::world::World;

/// More than the minute after which what nobody owns is let go.
const TURNS_MAX: u32 = 60;
const TURN: Duration = Duration::from_secs(5);
/// Longer than a series is repeated that does not grow.
const LULL: Duration = Duration::from_mins(11);
/// Exchanges of messages in one turn, and pushes.
const EXCHANGES: u32 = 400;

impl World {
    /// Goes on until nothing is held.
    ///
    /// # Errors
    /// Something stays, or what must not be.
    pub(crate) fn settle(&mut self) -> Result<(), Violation> {
        self.history.note(|| "quiet".to_owned());
        self.calm();
        for turn in 0..TURNS_MAX {
            self.pass(TURN);
            self.turn()?;
            self.check()?;
            if turn > 0 && self.is_drained() {
                return Ok(());
            }
        }
        Err(Violation(format!("bytes stay behind when all is quiet: {}", self.held())))
    }

    fn turn(&mut self) -> Result<(), Violation> {
        if self.exporter.is_none() {
            self.start_exporter()?;
        }
        self.watch(usize::MAX);
        self.refresh();
        for at in 0..self.nodes.len() {
            self.turn_node(at)?;
        }
        // Where streams wait for it, nothing else moves.
        self.sync();
        for _ in 0..EXCHANGES {
            let mut moves = false;
            for at in 0..self.nodes.len() {
                moves |= self.send(at)?;
                moves |= self.nodes[at].hear(&mut self.history)?;
                moves |= self.serve(at)?;
            }
            if !moves {
                if !self.exporter.as_ref().is_some_and(Exporter::has_waiting) {
                    break;
                }
                self.pass(TURN);
            }
            self.name(false)?;
            self.sync();
        }
        for sink in 0..self.stores.len() {
            for _ in 0..EXCHANGES {
                if !self.push(sink, Treatment::Accepts)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn turn_node(&mut self, at: usize) -> Result<(), Violation> {
        if self.nodes[at].process.is_none() {
            self.start_collector(at);
        }
        let node = &mut self.nodes[at];
        let now = node.clock(self.now);
        node.kernel.calm_down(&mut self.rng, now);
        if !node.is_dialled() {
            node.dial();
        }
        let Some(process) = &mut node.process else { return Ok(()) };
        process.hand_over();
        while !process.scopes.is_empty() {
            process.hear_scope();
        }
        process.stopping = false;
        process.whole_tick(node.number, (&mut node.kernel, &mut node.directory), &mut self.claims, now)?;
        process.hand_over();
        Ok(())
    }

    fn is_drained(&mut self) -> bool {
        let nodes = self.nodes.iter().all(|node| {
            let is_drained = node.process.as_ref().is_some_and(|process| process.is_drained());
            is_drained && !node.kernel.has_dying() && !node.kernel.has_told()
        });
        nodes && self.exporter.as_mut().is_some_and(|exporter| exporter.is_drained())
    }

    fn held(&mut self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let process = node.process.as_ref();
            let books =
                process.map(|process| (process.meter.books().held.bytes, process.window.books().held.bytes));
            format!("node {}: meter and window {books:?}, streams {:?}", node.number, node.links.len())
        });
        let nodes: Vec<_> = nodes.collect();
        let sinks: Vec<_> = self.exporter.iter().flat_map(|exporter| &exporter.sinks).collect();
        format!("{} sinks {sinks:?}", nodes.join("; "))
    }

    /// Nothing grows for longer than a series lives.
    ///
    /// # Errors
    /// A store would not have what it is told.
    pub(crate) fn lull(&mut self) -> Result<(), Violation> {
        self.pass(LULL);
        for sink in 0..self.stores.len() {
            for _ in 0..4 {
                self.pass(TURN);
                self.push(sink, Treatment::Accepts)?;
            }
        }
        self.check()
    }

    /// Every byte that a watch was shown is in each store once, or in a counted class.
    ///
    /// # Errors
    /// It is not: where, and by how much.
    pub(crate) fn verify(&mut self) -> Result<(), Violation> {
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let (epoch, next) = process.meter.position();
            let cut = self.claims.cut_in(node.number, epoch, next);
            let owed = process.watch.owed.clone();
            self.compare(&format!("node {} owes, and its batches say", node.number), &owed, &cut)?;
            if let Some(sequence) = self.claims.missing(node.number, epoch, next) {
                return Err(Violation(format!("batch {sequence} of node {} never arrived", node.number)));
            }
        }
        let (sure, doubtful) = (self.claims.sure(), self.claims.doubtful().sum());
        let maybe_twice: u64 = self.nodes.iter().map(|node| node.maybe_twice()).sum();
        for (at, name) in Name::ALL.into_iter().enumerate() {
            let mut slack = doubtful + maybe_twice;
            if name == Name::Cost {
                slack += self.ambiguous;
            }
            self.verify_store(at, name, &sure, slack)?;
        }
        Ok(())
    }

    fn verify_store(&mut self, at: usize, name: Name, sure: &Flows, slack: u64) -> Result<(), Violation> {
        let what = format!("what was taken for sure, and {} has", name.text());
        let lost = self.spool_losses(at);
        let has = self.stores[at].flows().clone();
        if lost > 0 {
            return self.verify_bounded(&what, sure.sum(), has.sum(), (lost, slack));
        }
        if slack == 0 {
            return self.compare(&what, sure, &has);
        }
        let (sure, has) =
            if self.config.folds() { (sure.folded(), has.folded()) } else { (sure.clone(), has) };
        for (flow, sure, has) in sure.differences(&has) {
            if has.tx < sure.tx || has.rx < sure.rx {
                return Err(Violation(format!("{what}: {flow} {sure:?}, {has:?}")));
            }
        }
        let excess = has.sum() - sure.sum();
        if excess > slack {
            return Err(Violation(format!(
                "{what}: {excess} bytes more, of which {slack} are counted as in doubt"
            )));
        }
        Ok(())
    }

    /// What the spool let go is counted, in batches for sure.
    fn verify_bounded(
        &self,
        what: &str,
        sure: u64,
        has: u64,
        (lost, slack): (u64, u64),
    ) -> Result<(), Violation> {
        if has > sure + slack {
            return Err(Violation(format!(
                "{what}: {sure}, {has}, of which {slack} are in doubt and {lost} let go"
            )));
        }
        Ok(())
    }

    /// Batches that the spool let go before a sink had read them.
    fn spool_losses(&mut self, at: usize) -> u64 {
        let Some(exporter) = &mut self.exporter else { return 0 };
        let losses = exporter.sinks[at].losses(&mut exporter.spool);
        egressd_spool::Reason::ALL.into_iter().map(|reason| losses[reason].batches).sum()
    }

    fn compare(&self, what: &str, one: &Flows, other: &Flows) -> Result<(), Violation> {
        let differences = if self.config.folds() {
            one.folded().differences(&other.folded())
        } else {
            one.differences(other)
        };
        if differences.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = differences
            .iter()
            .take(8)
            .map(|(flow, one, other)| format!("\n    {flow}: {one:?}, {other:?}"))
            .collect();
        Err(Violation(format!("{what}, in {} flows:{}", differences.len(), lines.concat())))
    }
}
