//! Which leaf an entry is in, by its fingerprint.
//!
//! Open addressing by buckets of a cache line each: [`BUCKET_CODES`] codes, and how many codes were at home here or
//! before and found no room until behind. A code is a leaf's number and a few bits of the fingerprint, so that hardly any
//! leaf is looked into in vain. Where two entries have the same code in the same bucket, either code stands for either.
//!
//! Bound: 64 bytes for every [`BUCKET_LOAD_NEW`] entries of as many as there ever were since leaves were filled up last.

use crate::fingerprint::Fingerprint;

const BUCKET_CODES: usize = 15;
/// Entries a bucket, on average, above which there must be more buckets; half of them are full then, and one look-up in
/// seven goes on to the next.
const BUCKET_LOAD: usize = 13;
/// The same of an index that was just made.
const BUCKET_LOAD_NEW: usize = 11;

const TAG_BITS: u32 = 12;
const LEAF_BITS: u32 = u32::BITS - TAG_BITS;
/// Leaves that can be told apart.
pub(super) const LEAVES_MAX: usize = (1 << LEAF_BITS) - 1;

/// A leaf's number, below [`LEAVES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafId(u32);

impl LeafId {
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn new(number: usize) -> Self {
        assert!(number < LEAVES_MAX, "a table has no more leaves than can be told apart");
        Self(u32::try_from(number).expect("below 2^20"))
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }

    pub(super) fn number(self) -> usize {
        self.0 as usize
    }
}

/// 0, or the tag over the leaf's number and one.
type Code = u32;

const NONE: Code = 0;

#[expect(clippy::cast_possible_truncation, reason = "a few bits of a fingerprint are wanted")]
fn tag(Fingerprint(bits): Fingerprint) -> Code {
    (bits as u32) << LEAF_BITS
}

fn code(fingerprint: Fingerprint, leaf: LeafId) -> Code {
    tag(fingerprint) | (leaf.0 + 1)
}

#[derive(Clone, Default)]
#[repr(align(64))]
struct Bucket {
    codes: [Code; BUCKET_CODES],
    passed: u32,
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
    len: usize,
}

impl Index {
    /// With room for this many entries and some more.
    pub(super) fn new(entries: usize) -> Self {
        Self { buckets: vec![Bucket::default(); buckets_for(entries)].into(), len: 0 }
    }

    pub(super) fn worst_case_bytes(entries: usize) -> usize {
        buckets_for(entries + 1).saturating_mul(size_of::<Bucket>())
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// One more would make it slow.
    pub(super) fn is_full(&self) -> bool {
        self.len >= self.buckets.len() * BUCKET_LOAD
    }

    /// The leaves that the entry may be in; hardly ever more than the one that it is in.
    pub(super) fn leaves_of(&self, fingerprint: Fingerprint) -> impl Iterator<Item = LeafId> {
        let tag = tag(fingerprint);
        let codes = self.chain(fingerprint).flat_map(|bucket| &self.buckets[bucket].codes);
        let tagged = codes.filter(move |code| *code >> LEAF_BITS << LEAF_BITS == tag && **code != NONE);
        tagged.map(move |code| LeafId((code ^ tag) - 1))
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint, leaf: LeafId) {
        self.len += 1;
        let mut at = self.home(fingerprint);
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(free) = bucket.codes.iter_mut().find(|code| **code == NONE) {
                *free = code(fingerprint, leaf);
                return;
            }
            bucket.passed += 1;
            at = self.behind(at);
        }
    }

    /// The entry is in no leaf any more.
    pub(super) fn remove(&mut self, fingerprint: Fingerprint, leaf: LeafId) {
        let (found, place) = self.find(fingerprint, leaf);
        self.buckets[found].codes[place] = NONE;
        self.len -= 1;
        let mut at = self.home(fingerprint);
        while at != found {
            self.buckets[at].passed -= 1;
            at = self.behind(at);
        }
    }

    /// The entry has moved from one leaf to another.
    pub(super) fn replace(&mut self, fingerprint: Fingerprint, from: LeafId, to: LeafId) {
        let (bucket, place) = self.find(fingerprint, from);
        self.buckets[bucket].codes[place] = code(fingerprint, to);
    }

    /// The bucket and the place in it of the code of an entry that is in this leaf.
    fn find(&self, fingerprint: Fingerprint, leaf: LeafId) -> (usize, usize) {
        let code = code(fingerprint, leaf);
        let mut places = self.chain(fingerprint).map(|bucket| (bucket, &self.buckets[bucket].codes));
        let found =
            places.find_map(|(bucket, codes)| Some((bucket, codes.iter().position(|found| *found == code)?)));
        found.expect("every entry of a leaf has its code here")
    }

    /// The buckets that an entry's code may be in.
    fn chain(&self, fingerprint: Fingerprint) -> impl Iterator<Item = usize> {
        let home = (!self.buckets.is_empty()).then(|| self.home(fingerprint));
        let chain = std::iter::successors(home, |&at| (self.buckets[at].passed > 0).then(|| self.behind(at)));
        // Removals may leave every bucket of a few passed.
        chain.take(self.buckets.len())
    }

    #[expect(clippy::cast_possible_truncation, reason = "a product below the number of buckets")]
    fn home(&self, Fingerprint(bits): Fingerprint) -> usize {
        (((bits >> 64) * self.buckets.len() as u128) >> 64) as usize
    }

    fn behind(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }
}

fn buckets_for(entries: usize) -> usize {
    entries.div_ceil(BUCKET_LOAD_NEW)
}
