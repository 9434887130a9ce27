//! Datagrams from a recipe: rows, netlink's own messages and wild trees of attributes, damaged at a few places or not.

use arbitrary::{Arbitrary, Unstructured};
use egressd_conntrack::netfilter::Progress;
use egressd_conntrack::netfilter::codec::Defect;
use egressd_flow::{Completeness, Defects, Ended, Entry, Snapshot, UnixNanos};

use crate::datagram::{self, INTERRUPTED, PORT, Read, SEQUENCE, kind};
use crate::row::Row;
use crate::wire::{Header, attribute, message, padded};

/// A recipe's messages that are cooked; more would only be slower.
const MESSAGES_MAX: usize = 16;

/// Recipes longer than this could make an attribute longer than one can be.
const RECIPE_BYTES_MAX: usize = 16 * 1024;

/// One recipe.
#[derive(Arbitrary, Debug)]
struct Recipe {
    messages: Vec<Message>,
    damages: Vec<Damage>,
}

#[derive(Arbitrary, Debug)]
struct Message {
    flags: u16,
    /// Somebody else's request and port, in a dump.
    foreign: Option<(u32, u32)>,
    content: Content,
}

#[derive(Arbitrary, Debug)]
enum Content {
    Row(Box<Row>),
    Noop,
    Overrun,
    Error(i32),
    Done(i32),
    /// An error or an end of the dump that is too short to say a number.
    Mute {
        done: bool,
        bytes: u8,
    },
    /// Anything about anything, of which only the frame is known.
    Wild {
        kind: u16,
        body: [u8; 4],
        nodes: Vec<Node>,
    },
}

/// An attribute of a wild message.
#[derive(Arbitrary, Debug)]
enum Node {
    Value { kind: u8, value: Vec<u8> },
    Nest { kind: u8, nodes: Vec<Self> },
    Lie { kind: u8, length: u16, value: Vec<u8> },
}

/// One thing done to a datagram. Positions are taken modulo its length.
#[derive(Arbitrary, Clone, Debug)]
enum Damage {
    Cut { at: u16 },
    Flip { at: u16, bit: u8 },
    Write { at: u16, value: u16 },
    Length { message: u8, length: u32 },
    Insert { at: u16, bytes: Vec<u8> },
    Remove { at: u16, bytes: u8 },
}

/// The path that a datagram is for: it decides a row's kind and whom the message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Dump,
    Ends,
}

/// Cooks a recipe for both paths; then what of it is neither wild nor damaged, which must be read as what went in.
pub(crate) fn check(input: &[u8]) {
    let input = &input[..input.len().min(RECIPE_BYTES_MAX)];
    let Ok(mut recipe) = Recipe::arbitrary_take_rest(Unstructured::new(input)) else { return };
    recipe.messages.truncate(MESSAGES_MAX);
    for path in [Path::Dump, Path::Ends] {
        datagram::check(&recipe.cook(path));
    }
    recipe.damages.clear();
    recipe.messages.retain(|message| !matches!(message.content, Content::Wild { .. }));
    assert_eq!(datagram::read(&recipe.cook(Path::Dump)), recipe.dump());
    assert_eq!(datagram::ends(&recipe.cook(Path::Ends)), recipe.ends());
}

impl Recipe {
    fn cook(&self, path: Path) -> Vec<u8> {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for message in &self.messages {
            starts.push(bytes.len());
            bytes.extend(padded(message.encode(path)));
        }
        for damage in &self.damages {
            damage.apply(&mut bytes, &starts);
        }
        bytes
    }

    fn dump(&self) -> Read {
        let mut due = Dish::default();
        let mut messages = self.messages.iter();
        let is_done = messages.any(|message| due.answer(message));
        Read {
            snapshot: Snapshot {
                completeness: if due.is_partial { Completeness::Partial } else { Completeness::Complete },
                begun: UnixNanos(0),
                entries: due.entries.len() as u64,
                offloaded: datagram::offloaded(&due.entries),
                defects: due.defects,
            },
            entries: due.entries,
            progress: if is_done { Progress::Done } else { Progress::More },
        }
    }

    fn ends(&self) -> (Vec<Ended>, Defects) {
        let (mut ends, mut defects) = (Vec::new(), Defects::default());
        for message in &self.messages {
            match &message.content {
                Content::Row(row) => match row.expected() {
                    Ok(ended) => ends.push(ended),
                    Err(defect) => count(defect, &mut defects),
                },
                Content::Noop => {}
                _ => defects.unsupported += 1,
            }
        }
        defects.without_counters += ends.iter().filter(|ended| ended.entry.counters.is_none()).count() as u64;
        (ends, defects)
    }
}

/// What a dump must have come to.
#[derive(Default)]
struct Dish {
    entries: Vec<Entry>,
    defects: Defects,
    is_partial: bool,
}

impl Dish {
    /// Adds a message; true when it is the dump's last.
    fn answer(&mut self, message: &Message) -> bool {
        if message.header(Path::Dump).is_foreign() {
            self.is_partial = true;
            return false;
        }
        self.is_partial |= message.flags & INTERRUPTED != 0;
        match &message.content {
            Content::Row(row) => {
                match row.expected() {
                    Ok(Ended { entry, .. }) => {
                        self.defects.without_counters += u64::from(entry.counters.is_none());
                        self.entries.push(entry);
                    }
                    Err(defect) => count(defect, &mut self.defects),
                }
                false
            }
            Content::Overrun => {
                self.is_partial = true;
                false
            }
            Content::Error(0) | Content::Noop | Content::Wild { .. } => false,
            Content::Done(0) => true,
            Content::Error(_) | Content::Done(_) | Content::Mute { .. } => {
                self.is_partial = true;
                true
            }
        }
    }
}

fn count(defect: Defect, defects: &mut Defects) {
    match defect {
        Defect::Malformed => defects.malformed += 1,
        Defect::Unsupported => defects.unsupported += 1,
        Defect::OtherCtZone => defects.other_ct_zones += 1,
    }
}

impl Header {
    fn is_foreign(&self) -> bool {
        (self.sequence, self.port) != (SEQUENCE, PORT)
    }
}

impl Message {
    fn header(&self, path: Path) -> Header {
        let (sequence, port) = match path {
            Path::Dump => self.foreign.unwrap_or((SEQUENCE, PORT)),
            Path::Ends => (0, 0),
        };
        let kind = match self.content {
            Content::Row(_) if path == Path::Dump => kind::NEW,
            Content::Row(_) => kind::DELETE,
            Content::Noop => kind::NOOP,
            Content::Overrun => kind::OVERRUN,
            Content::Error(_) | Content::Mute { done: false, .. } => kind::ERROR,
            Content::Done(_) | Content::Mute { done: true, .. } => kind::DONE,
            Content::Wild { kind, .. } => kind,
        };
        Header { kind, flags: self.flags, sequence, port }
    }

    fn encode(&self, path: Path) -> Vec<u8> {
        let body = match &self.content {
            Content::Row(row) => row.encode(),
            Content::Noop | Content::Overrun => Vec::new(),
            Content::Error(number) | Content::Done(number) => number.to_ne_bytes().to_vec(),
            Content::Mute { bytes, .. } => vec![0; usize::from(bytes % 4)],
            Content::Wild { body, nodes, .. } => {
                [body.to_vec(), nodes.iter().flat_map(Node::encode).collect()].concat()
            }
        };
        message(self.header(path), &body)
    }
}

impl Node {
    fn encode(&self) -> Vec<u8> {
        // Two flag bits, and the kinds that conntrack has on any level.
        let kind = |kind: u8| u16::from(kind & 0xc0) << 8 | u16::from(kind % 0x20);
        match self {
            Self::Value { kind: of, value } => attribute(kind(*of), value),
            Self::Nest { kind: of, nodes } => {
                attribute(kind(*of), &nodes.iter().flat_map(Self::encode).collect::<Vec<u8>>())
            }
            Self::Lie { kind: of, length, value } => {
                let mut lie = attribute(kind(*of), value);
                lie[..2].copy_from_slice(&length.to_ne_bytes());
                lie
            }
        }
    }
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>, starts: &[usize]) {
        let size = bytes.len();
        if size == 0 {
            return;
        }
        let place = |at: u16| usize::from(at) % size;
        match self {
            Self::Cut { at } => bytes.truncate(place(*at)),
            Self::Flip { at, bit } => bytes[place(*at)] ^= 1 << (bit % 8),
            Self::Write { at, value } => overwrite(bytes, place(*at), &value.to_ne_bytes()),
            Self::Length { message, length } => {
                let start = starts[usize::from(*message) % starts.len()];
                overwrite(bytes, start, &length.to_ne_bytes());
            }
            Self::Insert { at, bytes: more } => {
                bytes.splice(place(*at)..place(*at), more.iter().copied());
            }
            Self::Remove { at, bytes: count } => {
                bytes.drain(place(*at)..size.min(place(*at) + usize::from(*count)));
            }
        }
    }
}

/// As far as there is room.
fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}

/// Recipes are found faster than written: a few lengths of the same bytes give one of each kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let sweep = |step: u8| (0..=u8::MAX).map(move |byte| byte.wrapping_mul(step)).cycle();
    [1, 7, 31, 101]
        .into_iter()
        .flat_map(|step| [96, 512].map(|length| sweep(step).take(length).collect()))
        .collect()
}
