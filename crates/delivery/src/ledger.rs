//! The exporter's half: its account per node of what was taken, and what of that was delivered.
//!
//! Where the spool survives the process, taken is what is safe there, and the next ledger begins with what the spool has
//! of each epoch ([`Known`]). Else the account ends with the process: a restarted exporter has another spool id and starts
//! from what the collectors still hold.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use egressd_flow::{Counter, Epoch, NodeName, Position, Sequence, UnixNanos};
use egressd_protocol::limits::EPOCHS_MAX;
use egressd_protocol::{Ack, HeldEpoch};

/// Nodes that may have an account: twice what one exporter is made for.
pub const NODES_MAX: usize = 10_000;

/// Places in an epoch that are acknowledged one by one. Beyond it the newest ones share a place: what is delivered
/// is told later then, and not less.
const PENDING_MAX: usize = 64;

/// How often what is no longer known is looked for: it takes a walk over every account.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// How long an epoch that is not heard of stays known.
const EPOCH_KEPT: Duration = Duration::from_hours(24);

/// One stream of one node; a newer one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it, then [`commit`](Ledger::commit) or [`release`](Ledger::release).
    Take,
    /// It was taken before: acknowledge again.
    Duplicate,
    /// It is being taken right now: do nothing.
    Reserved,
    /// One before it is missing: the peer is broken, close the stream.
    Gap {
        /// The one that is expected.
        expected: Sequence,
    },
    /// The Hello did not name this epoch: the peer is broken, close the stream.
    UnknownEpoch,
    /// The node has a newer stream: close this one.
    Replaced,
}

/// How far an epoch of a node is in a spool that outlived its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whose.
    pub node: NodeName,
    /// The life of its collector.
    pub epoch: Epoch,
    /// The highest that is there; all before it came before it.
    pub taken: Sequence,
    /// When that was.
    pub heard: UnixNanos,
}

/// A Hello that gets no stream. The peer is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// No more nodes have room. An operator must find out who says Hello under so many names.
    #[error("{nodes} nodes are known already")]
    TooManyNodes {
        /// How many.
        nodes: usize,
    },
    /// A life of the node's collector that another one has followed: what it still says is known, or was counted by that
    /// one. A Hello that was recorded and is said again is turned away so, and an operator who runs two collectors on a
    /// node, or goes on from a state of before, must stop that.
    #[error("its epoch {epoch} is over: epoch {by} of this node has followed it")]
    Superseded {
        /// The one that speaks.
        epoch: Epoch,
        /// The one that runs.
        by: Epoch,
    },
}

/// The ledger's account since it began. received = discarded + emitted + held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerBooks {
    /// Batches offered.
    pub received: Counter,
    /// Offered again after they were taken.
    pub duplicate: Counter,
    /// Delivered by every sink; where the spool is durable, safe there.
    pub emitted: Counter,
    /// Taken, and not that far yet.
    pub held: Counter,
    /// Batches among those received that were taken: each sequence of an epoch once.
    pub taken_batches: u64,
    /// Sequences that a collector lost before it could send them.
    pub skipped_batches: u64,
}

/// Batches that are delivered when `position` is: `first` and those after it, up to the next place's.
#[derive(Debug)]
struct Pending {
    first: Sequence,
    position: Position,
    traffic: Counter,
}

#[derive(Debug)]
struct EpochAccount {
    epoch: Epoch,
    /// What was taken when it was first heard of.
    began: Sequence,
    taken: Sequence,
    reserved: bool,
    /// Taken and not delivered, in order.
    pending: VecDeque<Pending>,
    heard: UnixNanos,
}

impl EpochAccount {
    /// Lets go of what is delivered by now.
    fn settle(&mut self, through: Position, books: &mut LedgerBooks) {
        while let Some(place) = self.pending.pop_front_if(|place| place.position <= through) {
            books.emitted += place.traffic;
            // Sums saturate, so absurd counters may leave less here than is let go.
            books.held = books.held.growth(place.traffic).unwrap_or_default();
        }
    }

    /// Taken is what is in the spool; in one that survives a restart, what will be there after one. Nobody waits for sinks
    /// then, so delivered says the same.
    fn ack(&self, is_durable: bool) -> Ack {
        let settled = self.pending.front().map_or(self.taken, |place| place.first.previous());
        let taken = if is_durable { settled } else { self.taken };
        Ack { epoch: self.epoch, taken, delivered: settled }
    }
}

#[derive(Debug)]
struct NodeAccount {
    stream: StreamId,
    /// Whether that stream has not ended.
    is_open: bool,
    /// The epoch of the life that said Hello last; `None` where no Hello named one.
    running: Option<Epoch>,
    /// In the order in which they were last heard of: a clock that is set back does not change it.
    epochs: Vec<EpochAccount>,
}

impl NodeAccount {
    /// The epoch that has followed `epoch`, where one has.
    fn successor(&self, epoch: Epoch) -> Option<Epoch> {
        let is_known = self.epochs.iter().any(|known| known.epoch == epoch);
        self.running.filter(|running| is_known && *running != epoch)
    }

    fn epoch_mut(&mut self, epoch: Epoch) -> Option<&mut EpochAccount> {
        self.epochs.iter_mut().find(|known| known.epoch == epoch)
    }

    /// An epoch that is heard of now, which makes it the last; `None` when it is not known.
    fn hear(&mut self, epoch: Epoch, now: UnixNanos) -> Option<&mut EpochAccount> {
        let at = self.epochs.iter().position(|known| known.epoch == epoch)?;
        self.epochs[at..].rotate_left(1);
        let known = self.epochs.last_mut()?;
        known.heard = now;
        Some(known)
    }
}

/// What every node's collector was told that we have.
#[derive(Debug, Default)]
pub struct Ledger {
    nodes: HashMap<NodeName, NodeAccount>,
    streams: u64,
    expired: UnixNanos,
    /// As far as every account is settled.
    through: Position,
    books: LedgerBooks,
    is_durable: bool,
}

impl Ledger {
    /// The ledger of a durable spool, which has `known` already, a node's epochs in the order in which they were last
    /// appended to; of a node with too many the last ones stay.
    pub fn resume(known: impl IntoIterator<Item = Known>) -> Self {
        let mut ledger = Self { is_durable: true, ..Self::default() };
        for Known { node, epoch, taken, heard } in known {
            let account = ledger.nodes.entry(node).or_insert_with(|| NodeAccount {
                stream: StreamId(0),
                is_open: false,
                running: None,
                epochs: Vec::new(),
            });
            // The life that was appended last is the one that runs, whatever the clock said then.
            account.running = Some(epoch);
            account.epochs.push(EpochAccount {
                epoch,
                began: Sequence(0),
                taken,
                reserved: false,
                pending: VecDeque::new(),
                heard,
            });
            forget_old_epochs(account, &[]);
        }
        ledger
    }

    /// A collector dials: its older stream is no longer heard, and each epoch that it holds has an account. The last of
    /// `held` is its own.
    ///
    /// # Errors
    /// There is no room for another node, or a later life of this node's collector was here.
    pub fn hello(
        &mut self,
        node: &NodeName,
        held: &[HeldEpoch],
        now: UnixNanos,
    ) -> Result<StreamId, HelloError> {
        self.expire(now);
        let running = held.last().map(|held| held.epoch);
        if let (Some(epoch), Some(account)) = (running, self.nodes.get(node))
            && let Some(by) = account.successor(epoch)
        {
            return Err(HelloError::Superseded { epoch, by });
        }
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(node) {
            self.forget_oldest()?;
        }
        self.streams += 1;
        let stream = StreamId(self.streams);
        let account = self.nodes.entry(node.clone()).or_insert_with(|| NodeAccount {
            stream,
            is_open: true,
            running,
            epochs: Vec::new(),
        });
        (account.stream, account.is_open) = (stream, true);
        account.running = running.or(account.running);
        for held in held {
            let before_first = held.first.previous();
            if let Some(known) = account.hear(held.epoch, now) {
                // What is being taken right now is the next one: nothing before it was lost.
                if before_first > known.taken && !known.reserved {
                    let skipped = before_first.0 - known.taken.0;
                    self.books.skipped_batches = self.books.skipped_batches.saturating_add(skipped);
                    known.taken = before_first;
                }
            } else {
                account.epochs.push(EpochAccount {
                    epoch: held.epoch,
                    began: before_first,
                    taken: before_first,
                    reserved: false,
                    pending: VecDeque::new(),
                    heard: now,
                });
            }
        }
        forget_old_epochs(account, held);
        Ok(stream)
    }

    /// The node's stream has ended. Who never said more than names and epochs leaves nothing behind: a later Hello
    /// says the same again.
    pub fn left(&mut self, node: &NodeName, stream: StreamId) {
        let is_empty = |known: &EpochAccount| !known.reserved && known.taken == known.began;
        let Some(account) = self.nodes.get_mut(node).filter(|account| account.stream == stream) else {
            return;
        };
        account.is_open = false;
        // A life that ended before anything of it was taken has followed nobody: the one before may go on.
        if let Some(running) = account.running
            && account.epochs.iter().any(|known| known.epoch == running && is_empty(known))
        {
            account.epochs.retain(|known| known.epoch != running);
            account.running = account.epochs.last().map(|known| known.epoch);
        }
        if account.epochs.iter().all(is_empty) {
            self.nodes.remove(node);
        }
    }

    /// Makes room for a node: the one heard of longest ago, of those without a stream and with nothing on its way. As
    /// after [`EPOCH_KEPT`], what was delivered and its collector never heard of would be taken again.
    fn forget_oldest(&mut self) -> Result<(), HelloError> {
        let idle =
            self.nodes.iter().filter(|(_, account)| !account.is_open && !account.epochs.iter().any(is_busy));
        let oldest = idle.min_by_key(|(_, account)| account.epochs.iter().map(|known| known.heard).max());
        let oldest = oldest
            .map(|(node, _)| node.clone())
            .ok_or(HelloError::TooManyNodes { nodes: self.nodes.len() })?;
        self.nodes.remove(&oldest);
        Ok(())
    }

    /// What to do with a batch that came on `stream`. `Take` reserves it.
    pub fn check(
        &mut self,
        node: &NodeName,
        stream: StreamId,
        epoch: Epoch,
        sequence: Sequence,
        now: UnixNanos,
    ) -> Verdict {
        let Some(account) = self.nodes.get_mut(node).filter(|account| account.stream == stream) else {
            return Verdict::Replaced;
        };
        let Some(account) = account.hear(epoch, now) else {
            return Verdict::UnknownEpoch;
        };
        let expected = account.taken.next();
        if sequence < expected {
            Verdict::Duplicate
        } else if sequence > expected {
            Verdict::Gap { expected }
        } else if account.reserved {
            Verdict::Reserved
        } else {
            account.reserved = true;
            Verdict::Take
        }
    }

    /// A reserved batch is now at `position`, which is higher than every one before.
    ///
    /// # Panics
    /// When the batch was not reserved or the position is not higher: the caller is wrong.
    pub fn commit(
        &mut self,
        node: &NodeName,
        epoch: Epoch,
        sequence: Sequence,
        position: Position,
        traffic: Counter,
    ) {
        let Self { nodes, through, books, .. } = self;
        let account = nodes.get_mut(node).and_then(|account| account.epoch_mut(epoch));
        let account = account.expect("a reserved batch's epoch is not forgotten");
        assert!(account.reserved && sequence == account.taken.next(), "only what is reserved is committed");
        account.reserved = false;
        account.taken = sequence;
        let full = account.pending.len() >= PENDING_MAX;
        match account.pending.back_mut() {
            Some(newest) if full => {
                newest.position = position;
                newest.traffic += traffic;
            }
            _ => account.pending.push_back(Pending { first: sequence, position, traffic }),
        }
        books.taken_batches = books.taken_batches.saturating_add(1);
        books.received += traffic;
        books.held += traffic;
        // The sinks may have been quicker than the caller.
        account.settle(*through, books);
    }

    /// A reserved batch was not taken after all.
    pub fn release(&mut self, node: &NodeName, epoch: Epoch) {
        if let Some(account) = self.nodes.get_mut(node).and_then(|account| account.epoch_mut(epoch)) {
            account.reserved = false;
        }
    }

    /// A batch came again.
    pub fn duplicate(&mut self, traffic: Counter) {
        self.books.received += traffic;
        self.books.duplicate += traffic;
    }

    /// Every sink has accepted all up to and with `through`, or a durable spool has it safe. Every stream says so, and only the first walks the
    /// accounts.
    pub fn delivered(&mut self, through: Position) {
        if through <= self.through {
            return;
        }
        self.through = through;
        for account in self.nodes.values_mut().flat_map(|node| &mut node.epochs) {
            account.settle(through, &mut self.books);
        }
    }

    /// Whether what is taken survives a restart.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// How far each of the node's epochs got.
    #[must_use]
    pub fn acks(&self, node: &NodeName) -> Vec<Ack> {
        let epochs = self.nodes.get(node).into_iter().flat_map(|account| &account.epochs);
        epochs.map(|known| known.ack(self.is_durable)).collect()
    }

    /// The account so far.
    #[must_use]
    pub fn books(&self) -> LedgerBooks {
        self.books
    }

    fn expire(&mut self, now: UnixNanos) {
        // A clock that was set back does not stop it, and one that was set a day ahead forgets nobody who is here.
        if now >= self.expired && now.since(self.expired) < EXPIRE_EVERY {
            return;
        }
        self.expired = now;
        self.nodes.retain(|_, account| {
            let here = account.running.filter(|_| account.is_open);
            let is_needed = |known: &EpochAccount| is_busy(known) || here == Some(known.epoch);
            account.epochs.retain(|known| is_needed(known) || now.since(known.heard) < EPOCH_KEPT);
            !account.epochs.is_empty()
        });
    }
}

/// Keeps the epochs heard of last, those that the collector holds, and those with something on its way.
fn forget_old_epochs(account: &mut NodeAccount, held: &[HeldEpoch]) {
    let is_held = |known: &EpochAccount| held.iter().any(|held| held.epoch == known.epoch);
    while account.epochs.len() > EPOCHS_MAX {
        let Some(oldest) = account.epochs.iter().position(|known| !is_busy(known) && !is_held(known)) else {
            return;
        };
        account.epochs.remove(oldest);
    }
}

fn is_busy(known: &EpochAccount) -> bool {
    known.reserved || !known.pending.is_empty()
}
