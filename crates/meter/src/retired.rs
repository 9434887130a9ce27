//! Baselines of entries that went for being absent. One that comes back goes on from its own.
//!
//! Absence proves nothing: a dump may be short without a word, and so may the next. What no number of dumps can tell is
//! told by the entry itself, if it shows again: its fingerprint holds its start, so it is the one that went, and counts
//! from where it was. Without a start it may be another one of the same tuple, and is not looked for here.
//!
//! Invariant: an entry has a baseline in the table or here, never in both. Bound: `retired_max` of them; of more, those
//! that went first are forgotten, half of the bound at a time, counted, and one of these that came back would count whole.
//! Where ends are told hardly anything comes here, and nothing here is allocated. Where absence from one complete snapshot
//! is an end nothing ever comes back, and the bound is 0.

use std::io::{self, Read, Write};

use hashbrown::HashMap;

use crate::fingerprint::{Fingerprint, Keyed};
use crate::state::{In, Out, malformed};
use crate::table::Seen;

type Generation = HashMap<Fingerprint, Seen, Keyed>;

/// Two generations: the older is forgotten when the younger is full.
pub(crate) struct Retired {
    generation_max: usize,
    younger: Generation,
    older: Generation,
    forgotten: u64,
}

impl Retired {
    /// Bytes of one at rest.
    pub(crate) const SLOT_BYTES: usize = size_of::<(Fingerprint, Seen)>();

    pub(crate) fn new(retired_max: usize) -> Self {
        Self {
            generation_max: retired_max / 2,
            younger: HashMap::default(),
            older: HashMap::default(),
            forgotten: 0,
        }
    }

    /// Baselines that were forgotten for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// An entry went.
    pub(crate) fn add(&mut self, fingerprint: Fingerprint, seen: Seen) {
        if self.younger.len() >= self.generation_max {
            let oldest = std::mem::replace(&mut self.older, std::mem::take(&mut self.younger));
            self.forgotten += oldest.len() as u64;
        }
        if self.generation_max > 0 {
            self.younger.insert(fingerprint, seen);
        }
    }

    /// How an entry was last seen that is back, or has ended after all.
    pub(crate) fn take(&mut self, fingerprint: Fingerprint) -> Option<Seen> {
        if self.younger.is_empty() && self.older.is_empty() {
            return None;
        }
        self.younger.remove(&fingerprint).or_else(|| self.older.remove(&fingerprint))
    }

    pub(crate) fn save<W: Write>(&self, out: &mut Out<'_, W>) -> io::Result<()> {
        for generation in [&self.older, &self.younger] {
            out.len(generation.len())?;
            for (Fingerprint(bits), seen) in generation {
                out.bytes(&bits.to_le_bytes())?;
                out.counter(seen.original)?;
                out.counter(seen.reply)?;
            }
        }
        Ok(())
    }

    /// Reads back what was written, which must not be more than `retired_max`.
    pub(crate) fn restore<R: Read>(input: &mut In<'_, R>, retired_max: usize) -> io::Result<Self> {
        let mut retired = Self::new(retired_max);
        for generation in [&mut retired.older, &mut retired.younger] {
            let len = input.u64()?;
            if len > retired.generation_max as u64 {
                return Err(malformed("there are more baselines aside than may be held"));
            }
            for _ in 0..len {
                let fingerprint = Fingerprint(input.u128()?);
                generation.insert(fingerprint, Seen { original: input.counter()?, reply: input.counter()? });
            }
        }
        Ok(retired)
    }
}
