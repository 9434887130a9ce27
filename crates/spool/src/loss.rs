//! What a sink did not get, and why: counted in batches, bytes and packets.

use std::ops::{AddAssign, Index, IndexMut};

use egressd_flow::{Counter, Position};

/// Why batches that a sink had not passed are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The spool was over its bound in bytes.
    Bytes,
    /// They were older than the bound in age.
    Age,
    /// The disk does not give them back. Where not even their heads read, only batches are counted.
    Damaged,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Age, Self::Damaged];

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bytes => "spool_bytes",
            Self::Age => "spool_age",
            Self::Damaged => "spool_damaged",
        }
    }
}

/// Batches, and the traffic in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// How many.
    pub batches: u64,
    /// Their sum in all directions.
    pub traffic: Counter,
}

impl AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.batches = self.batches.saturating_add(other.batches);
        self.traffic += other.traffic;
    }
}

/// Losses by reason, since the sink joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses([Loss; Reason::ALL.len()]);

impl Index<Reason> for Losses {
    type Output = Loss;

    fn index(&self, reason: Reason) -> &Loss {
        &self.0[reason as usize]
    }
}

impl IndexMut<Reason> for Losses {
    fn index_mut(&mut self, reason: Reason) -> &mut Loss {
        &mut self.0[reason as usize]
    }
}

/// Something that is there no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file in which it was found out.
    pub file: String,
    /// From which byte on.
    pub offset: u64,
    /// Positions after this one …
    pub after: Position,
    /// … up to and with this one.
    pub last: Position,
    /// Its batches, at most, and as much of their traffic as could still be read.
    pub loss: Loss,
}
