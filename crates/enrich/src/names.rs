//! What addresses that the cluster does not know were asked for by: each node's DNS answers, for the time of the traffic.
//!
//! An address may stand behind many names. The rule, in this order:
//!
//! 1. What the record's own pod was answered, since it began: the name that it was answered last wins.
//! 2. Without such an answer, what anybody on the node was answered, if all that hold say one name.
//! 3. Otherwise there is no name. Answers of other nodes say nothing.
//!
//! An answer holds from when it was seen until its time to live is over, and on while traffic is named by it: connections
//! outlive answers ([`IN_USE_KEPT`]). Where a pod was answered two names of one address, its traffic goes to the one that
//! it asked for last; "last" is as of when the batch is named, a few seconds after the traffic.
//!
//! Answers are what somebody sent from port 53 to a socket on the node: they name, and decide nothing.
//!
//! Bounds: [`ANSWERS_OF_NODE_MAX`] answers of a node, and of all nodes so many bytes as it is told. At a bound who asked for
//! most gives way ([`Shares`]), counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Identity, Name, NodeName, Owner, Shares, Span, UnixNanos};

/// Answers of one node: an address, a name and who asked.
pub const ANSWERS_OF_NODE_MAX: usize = 8_192;

/// How long a name is kept beyond the last traffic that was named by it.
pub const IN_USE_KEPT: Duration = Duration::from_secs(600);

/// About what an answer takes: its place and that of its address, with what both tables have to spare.
const ANSWER_BYTES: usize = 2 * size_of::<Answer>() + 2 * size_of::<(IpAddr, Vec<Answer>)>();
/// About what a name takes beside its text: its place with what the table has to spare, itself, and the counts of shares.
const NAME_BYTES: usize = 2 * size_of::<(Arc<str>, Arc<Known>)>() + size_of::<Identity>() + 72;

/// What became of answers and of the records that they could name, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamesBooks {
    /// Answers heard.
    pub heard: u64,
    /// Answers held.
    pub held: u64,
    /// About what they take, in bytes.
    pub held_bytes: u64,
    /// Answers that made room for others.
    pub evicted: u64,
    /// Records that were named.
    pub named: u64,
    /// Records without a name since the node was answered several.
    pub ambiguous: u64,
    /// Records of grouped addresses without their name, as their pod has too many.
    pub over: u64,
}

/// A name that answers share, and nobody else: who is attributed to it shares the identity.
#[derive(Debug)]
struct Known {
    identity: Arc<Identity>,
}

/// One name of an address, as one asker was told.
#[derive(Debug)]
struct Answer {
    asker: Option<IpAddr>,
    since: UnixNanos,
    last: UnixNanos,
    until: UnixNanos,
    known: Arc<Known>,
}

impl Answer {
    fn holds_in(&self, span: Span) -> bool {
        self.since <= span.to && span.from < self.until
    }

    /// Whether the asker was `owner`, and not who had the address before or has it since.
    fn is_told_to(&self, owner: &Owner) -> bool {
        self.asker == Some(owner.address)
            && owner.since <= self.last
            && owner.until.is_none_or(|until| self.since < until)
    }

    fn says_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.known, &other.known)
    }
}

/// A node's answers by address.
#[derive(Debug, Default)]
struct OfNode {
    answers: HashMap<IpAddr, Vec<Answer>>,
    count: usize,
}

/// The names of all nodes.
#[derive(Debug)]
pub struct Names {
    nodes: HashMap<NodeName, OfNode>,
    /// Each name once, whichever node heard it.
    known: HashMap<Arc<str>, Arc<Known>>,
    bytes_max: usize,
    /// Of the texts in `known`.
    text_bytes: usize,
    books: NamesBooks,
}

impl Names {
    /// No names, and never more than about so many bytes of them.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            nodes: HashMap::new(),
            known: HashMap::new(),
            bytes_max,
            text_bytes: 0,
            books: NamesBooks::default(),
        }
    }

    /// What became of all so far.
    #[must_use]
    pub fn books(&self) -> NamesBooks {
        NamesBooks { held_bytes: self.bytes() as u64, ..self.books }
    }

    /// Takes in what a node was answered, its instants by our clock.
    pub fn hear(&mut self, node: &NodeName, names: Vec<Name>) {
        self.books.heard += names.len() as u64;
        for name in names {
            let (key, at) = ((name.address, name.asker), (name.seen, name.time_to_live));
            let known = self.known(name.name);
            let of_node = self.nodes.entry(node.clone()).or_default();
            let before = of_node.count;
            of_node.note(key, known, at);
            self.books.held += (of_node.count - before) as u64;
            if of_node.count > ANSWERS_OF_NODE_MAX {
                let evicted = of_node.shrink();
                self.books.held -= evicted;
                self.books.evicted += evicted;
            }
        }
        while self.bytes() > self.bytes_max && self.books.held > 0 {
            self.make_room();
        }
    }

    /// Forgets what holds no longer.
    pub fn expire(&mut self, now: UnixNanos) {
        let mut expired = 0;
        for of_node in self.nodes.values_mut() {
            expired += of_node.retain(|answer| answer.until > now);
        }
        self.books.held -= expired;
        self.forget_unused();
    }

    /// The names of one node.
    pub(crate) fn on(&mut self, node: &NodeName) -> OnNode<'_> {
        let answers = self.nodes.get_mut(node).map(|of_node| &mut of_node.answers);
        OnNode { answers, books: &mut self.books }
    }

    fn known(&mut self, name: Arc<str>) -> Arc<Known> {
        if let Some(known) = self.known.get(&name) {
            return Arc::clone(known);
        }
        self.text_bytes += name.len();
        let identity = Arc::new(Identity { dns_name: Some(Arc::clone(&name)), ..Identity::default() });
        let known = Arc::new(Known { identity });
        self.known.insert(name, Arc::clone(&known));
        known
    }

    fn bytes(&self) -> usize {
        let held = usize::try_from(self.books.held).unwrap_or(usize::MAX);
        held.saturating_mul(ANSWER_BYTES) + self.known.len() * NAME_BYTES + self.text_bytes
    }

    /// Nodes with as many answers as the mean or more give way.
    fn make_room(&mut self) {
        let mean = usize::try_from(self.books.held).unwrap_or(usize::MAX) / self.nodes.len().max(1);
        let full = self.nodes.values_mut().filter(|of_node| of_node.count >= mean);
        let evicted: u64 = full.map(OfNode::shrink).sum();
        self.books.held -= evicted;
        self.books.evicted += evicted;
        self.forget_unused();
    }

    fn forget_unused(&mut self) {
        self.nodes.retain(|_, of_node| of_node.count > 0);
        let text_bytes = &mut self.text_bytes;
        self.known.retain(|name, known| {
            let is_used = Arc::strong_count(known) > 1;
            *text_bytes -= if is_used { 0 } else { name.len() };
            is_used
        });
    }
}

/// The names of one node, while a batch of it is joined.
#[derive(Debug)]
pub(crate) struct OnNode<'n> {
    answers: Option<&'n mut HashMap<IpAddr, Vec<Answer>>>,
    pub(crate) books: &'n mut NamesBooks,
}

impl OnNode<'_> {
    /// Who stands behind an address that the cluster does not know, for `owner` during `span`.
    pub(crate) fn of(&mut self, owner: &Owner, address: IpAddr, span: Span) -> Option<Arc<Identity>> {
        let answers = self.answers.as_mut()?.get_mut(&address)?;
        let holding = || answers.iter().enumerate().filter(|(_, answer)| answer.holds_in(span));
        let own = holding().filter(|(_, answer)| answer.is_told_to(owner));
        let chosen = match own.max_by_key(|(_, answer)| answer.last) {
            Some((at, _)) => at,
            None => {
                let (at, first) = holding().next()?;
                if !holding().all(|(_, answer)| answer.says_as(first)) {
                    self.books.ambiguous += 1;
                    return None;
                }
                at
            }
        };
        let answer = answers.get_mut(chosen)?;
        answer.until = answer.until.max(span.to.saturating_add(IN_USE_KEPT));
        self.books.named += 1;
        Some(Arc::clone(&answer.known.identity))
    }
}

impl OfNode {
    fn note(
        &mut self,
        (address, asker): (IpAddr, Option<IpAddr>),
        known: Arc<Known>,
        (seen, time_to_live): (UnixNanos, Duration),
    ) {
        let until = seen.saturating_add(time_to_live);
        let said = Answer { asker, since: seen, last: seen, until, known };
        let answers = self.answers.entry(address).or_default();
        match answers.iter_mut().find(|answer| answer.asker == asker && answer.says_as(&said)) {
            Some(answer) if seen > answer.until => *answer = said,
            Some(answer) => {
                answer.last = answer.last.max(seen);
                answer.until = answer.until.max(until);
            }
            None => {
                answers.push(said);
                self.count += 1;
            }
        }
    }

    /// Lets an eighth go at least, and one: of who asked for most, those that would hold the shortest. How many these were.
    fn shrink(&mut self) -> u64 {
        let answers = self.answers.values().flatten().map(|answer| (answer.asker, answer.until));
        let mut shares = Shares::new(answers, (self.count - self.count / 8).saturating_sub(1));
        self.retain(|answer| shares.keeps(answer.asker, answer.until))
    }

    /// How many are let go.
    fn retain(&mut self, mut is_kept: impl FnMut(&Answer) -> bool) -> u64 {
        let before = self.count;
        self.answers.retain(|_, answers| {
            answers.retain(&mut is_kept);
            !answers.is_empty()
        });
        self.count = self.answers.values().map(Vec::len).sum();
        (before - self.count) as u64
    }
}

#[cfg(test)]
mod tests;
