//! The delta table: counters last seen, by fingerprint, in open addressing.
//!
//! [`SEGMENTS`] arrays, chosen by a fingerprint's first byte. Within one, entries stand in the order of their
//! fingerprints, each at its home slot or as little behind it as those before it allow, with no gap between; so a
//! lookup ends at the first larger fingerprint, a removal leaves no mark, an eviction is one pass in place, and a
//! larger array is filled front to back. A segment grows by an eighth when it is full, alone: of no more than one
//! are there ever two copies.
//!
//! A slot is 48 bytes in two arrays: a word of 120 bits of the fingerprint (the segment says the other 8) and 8 bits
//! about the entry, and the four counters. The load is between 3/4 and 27/32 while the table grows, so an entry takes
//! 57 to 64 bytes; below some 20,000 entries the least size of a segment shows.
//!
//! Measured (Linux 6.18, one core, random order), with words and counters side by side in one array: an upsert took 27 ns
//! among 20,000 entries, 40 among 250,000 and 80 among 1,000,000 when 16 are touched together before
//! ([`DeltaTable::touch`]), and 34, 60 and 160 when not; in two arrays it takes some 10 ns less in a dump of 100,000.
//! Touching is a plain read, which needs no unsafe code and works on every processor. More lines and 8 or 32 at once
//! gave nothing more; prefetch instructions row by row took half as long again in a real dump of 250,000.
//!
//! Invariant: nothing is dropped but by [`DeltaTable::remove`] and [`DeltaTable::evict`]. Bound: `entries_max`
//! entries. It allocates when a segment outgrows every size it had, or gives back what it no longer needs, and
//! otherwise never.

use egressd_flow::Counter;

use crate::fingerprint::Fingerprint;

const SEGMENT_BITS: u32 = 8;
const SEGMENTS: usize = 1 << SEGMENT_BITS;
const SLOT_BYTES: usize = size_of::<Word>() + size_of::<Seen>();

/// The least that a segment holds once it holds anything.
const SLOTS_MIN: usize = 16;

/// The low byte of a slot's word: whether there is an entry, and its stamp.
const META: u128 = 0xff;
const OCCUPIED: u128 = 1;
const STAMP_SHIFT: u32 = 1;

/// Stamps are below this.
pub(crate) const STAMPS: u8 = 8;

/// What was last seen of an entry. A source without directions uses `original` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) original: Counter,
    pub(crate) reply: Counter,
}

/// What was there before an upsert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The entry, seen like this; it is replaced.
    Known(Seen),
    /// Nothing; the entry is added.
    New,
    /// Nothing, and no room: the table is as it was.
    Full,
}

/// Of a slot: the fingerprint but for its first byte, then [`META`]. 0 where it is empty.
type Word = u128;

const EMPTY: Word = 0;

fn stamped(word: Word, stamp: u8) -> Word {
    word | OCCUPIED | u128::from(stamp) << STAMP_SHIFT
}

#[expect(clippy::cast_possible_truncation, reason = "masked to the three bits of a stamp")]
fn stamp_of(word: Word) -> u8 {
    (word >> STAMP_SHIFT) as u8 & (STAMPS - 1)
}

/// Counters by fingerprint.
pub(crate) struct DeltaTable {
    segments: Box<[Segment]>,
    entries_max: usize,
    /// Entries by their stamp: where there is none, an eviction has nothing to look for.
    by_stamp: [usize; STAMPS as usize],
}

impl DeltaTable {
    pub(crate) fn new(entries_max: usize) -> Self {
        let segments = std::iter::repeat_with(Segment::default).take(SEGMENTS).collect();
        Self { segments, entries_max, by_stamp: [0; STAMPS as usize] }
    }

    /// Memory of the slots at worst, the second copy of one growing segment included.
    pub(crate) fn worst_case_bytes(entries_max: usize) -> usize {
        let slots = (entries_max / 3 + SEGMENTS * SLOTS_MIN).saturating_add(entries_max);
        (slots + slots / SEGMENTS).saturating_mul(SLOT_BYTES)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_stamp.iter().sum()
    }

    /// Memory of the slots now.
    pub(crate) fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.words.len() * SLOT_BYTES).sum()
    }

    /// Reads where `fingerprint` is at home. Doing that for a few fingerprints in a row, before they are looked up
    /// in earnest, lets the processor wait for all of their cache lines at once.
    pub(crate) fn touch(&self, fingerprint: Fingerprint) -> u64 {
        let (segment, word) = locate(fingerprint);
        self.segments[segment].touch(word)
    }

    /// Notes how an entry is seen now, under a stamp below [`STAMPS`].
    pub(crate) fn upsert(&mut self, fingerprint: Fingerprint, seen: Seen, stamp: u8) -> Before {
        let (segment, word) = locate(fingerprint);
        match self.segments[segment].find(word) {
            Ok(at) => {
                let segment = &mut self.segments[segment];
                let before = std::mem::replace(&mut segment.words[at], stamped(word, stamp));
                self.by_stamp[usize::from(stamp_of(before))] -= 1;
                self.by_stamp[usize::from(stamp)] += 1;
                Before::Known(std::mem::replace(&mut segment.seen[at], seen))
            }
            Err(_) if self.len() >= self.entries_max => Before::Full,
            Err(at) => {
                self.segments[segment].insert(at, stamped(word, stamp), seen);
                self.by_stamp[usize::from(stamp)] += 1;
                Before::New
            }
        }
    }

    /// Forgets an entry, and tells how it was last seen.
    pub(crate) fn remove(&mut self, fingerprint: Fingerprint) -> Option<Seen> {
        let (segment, word) = locate(fingerprint);
        let segment = &mut self.segments[segment];
        let (word, seen) = segment.remove(segment.find(word).ok()?);
        self.by_stamp[usize::from(stamp_of(word))] -= 1;
        Some(seen)
    }

    /// Hands over and forgets every entry of this stamp; how many there were.
    pub(crate) fn evict(&mut self, stamp: u8, mut gone: impl FnMut(Fingerprint, Seen)) -> usize {
        let evicted = std::mem::take(&mut self.by_stamp[usize::from(stamp)]);
        let mut left = evicted;
        for (segment, first_byte) in self.segments.iter_mut().zip(0u8..=u8::MAX) {
            if left == 0 {
                break;
            }
            left -= segment.evict(stamp, |word, seen| gone(fingerprint(first_byte, word), seen));
        }
        evicted
    }

    /// Gives back memory of segments that are three quarters empty.
    pub(crate) fn shrink(&mut self) {
        for segment in &mut self.segments {
            if segment.words.len() > SLOTS_MIN.max(segment.len * 4) {
                segment.resize(slots_for(segment.len));
            }
        }
    }

    /// Every entry with how it was last seen and its stamp, in the order of fingerprints.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Fingerprint, Seen, u8)> {
        self.segments.iter().zip(0u8..=u8::MAX).flat_map(|(segment, first_byte)| {
            segment.occupied().map(move |(word, seen)| (fingerprint(first_byte, word), seen, stamp_of(word)))
        })
    }
}

/// The segment of a fingerprint, and the rest of it at the top of a word.
fn locate(Fingerprint(bits): Fingerprint) -> (usize, u128) {
    ((bits >> (u128::BITS - SEGMENT_BITS)) as usize, bits << SEGMENT_BITS)
}

/// The fingerprint of an entry, by its segment's first byte and its word.
fn fingerprint(first_byte: u8, word: Word) -> Fingerprint {
    Fingerprint(u128::from(first_byte) << (u128::BITS - SEGMENT_BITS) | word >> SEGMENT_BITS)
}

/// Slots with room for `entries` and a few more.
fn slots_for(entries: usize) -> usize {
    (entries + entries / 3 + 1).max(SLOTS_MIN)
}

/// Slots in two arrays, since a lookup passes the words of a few slots and needs the counters of one.
#[derive(Default)]
struct Segment {
    words: Box<[Word]>,
    /// Of the slot at the same place; of an empty one anything.
    seen: Box<[Seen]>,
    len: usize,
}

impl Segment {
    /// Slots that are a home. The last are nobody's: entries are pushed into them.
    fn homes(&self) -> usize {
        self.words.len() - self.words.len() / 32
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "half a word's bits, and a product below the number of homes"
    )]
    fn home(&self, word: Word) -> usize {
        (((word >> 64) * self.homes() as u128) >> 64) as usize
    }

    /// The words at home, and the counters a little behind it, where most entries stand.
    #[expect(clippy::cast_possible_truncation, reason = "what is read is not looked at")]
    fn touch(&self, word: Word) -> u64 {
        let home = self.home(word);
        let word = self.words.get(home).map_or(0, |word| *word as u64);
        word ^ self.seen.get(home + 1).map_or(0, |seen| seen.original.bytes)
    }

    fn occupied(&self) -> impl Iterator<Item = (Word, Seen)> {
        let slots = self.words.iter().copied().zip(self.seen.iter().copied());
        slots.filter(|(word, _)| *word != EMPTY)
    }

    /// Where the entry is, else where it belongs.
    fn find(&self, word: Word) -> Result<usize, usize> {
        let home = self.home(word);
        for (&slot, at) in self.words[home..].iter().zip(home..) {
            let found = slot & !META;
            if found == word && slot != EMPTY {
                return Ok(at);
            }
            if found > word || slot == EMPTY {
                return Err(at);
            }
        }
        Err(self.words.len())
    }

    /// Adds an entry that belongs at `at`.
    fn insert(&mut self, at: usize, word: Word, seen: Seen) {
        let is_full = (self.len + 1) * 32 > self.words.len() * 27;
        if is_full || !self.make_room(at) {
            self.grow();
            let at = self.find(word & !META).unwrap_or_else(|at| at);
            return self.insert(at, word, seen);
        }
        self.place(at, word, seen);
        self.len += 1;
    }

    fn place(&mut self, at: usize, word: Word, seen: Seen) {
        self.words[at] = word;
        self.seen[at] = seen;
    }

    /// Pushes what stands at `at` and behind it into the next empty slot; false when there is none.
    fn make_room(&mut self, at: usize) -> bool {
        let Some(run) = self.words[at..].iter().position(|word| *word == EMPTY) else { return false };
        self.words.copy_within(at..at + run, at + 1);
        self.seen.copy_within(at..at + run, at + 1);
        true
    }

    fn remove(&mut self, at: usize) -> (Word, Seen) {
        let removed = (self.words[at], self.seen[at]);
        let is_pushed = |behind: &usize| {
            let word = self.words[*behind];
            word != EMPTY && self.home(word) < *behind
        };
        let pushed = (at + 1..self.words.len()).take_while(is_pushed).count();
        self.words.copy_within(at + 1..=at + pushed, at);
        self.seen.copy_within(at + 1..=at + pushed, at);
        self.words[at + pushed] = EMPTY;
        self.len -= 1;
        removed
    }

    fn evict(&mut self, stamp: u8, mut gone: impl FnMut(Word, Seen)) -> usize {
        let is_gone = |word: Word| word != EMPTY && stamp_of(word) == stamp;
        let Some(first) = self.words.iter().position(|word| is_gone(*word)) else { return 0 };
        let before = self.len;
        let mut next = first;
        for at in first..self.words.len() {
            let word = std::mem::replace(&mut self.words[at], EMPTY);
            if is_gone(word) {
                gone(word, self.seen[at]);
                self.len -= 1;
            } else if word != EMPTY {
                next = next.max(self.home(word));
                self.place(next, word, self.seen[at]);
                next += 1;
            }
        }
        before - self.len
    }

    fn grow(&mut self) {
        self.resize((self.words.len() + self.words.len() / 8 + 1).max(SLOTS_MIN));
    }

    /// Moves into arrays of this many slots, or of a few more when the last entries do not fit into them.
    fn resize(&mut self, slots: usize) {
        let old = std::mem::take(self);
        self.len = old.len;
        for slots in (0..).map(|more| slots + more * SLOTS_MIN) {
            self.words = vec![EMPTY; slots].into();
            self.seen = vec![Seen::default(); slots].into();
            if self.fill(&old) {
                return;
            }
        }
    }

    /// Places entries that come in order; false when the last do not fit.
    fn fill(&mut self, ordered: &Self) -> bool {
        let mut next = 0;
        for (word, seen) in ordered.occupied() {
            next = next.max(self.home(word));
            if next == self.words.len() {
                return false;
            }
            self.place(next, word, seen);
            next += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests;
