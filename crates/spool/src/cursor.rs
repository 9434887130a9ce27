//! Sinks: how far each is, what it lost, and the state it keeps with that, in one file each.
//!
//! ```text
//! length of the head (u32)
//! head: name · position, damaged through, losses (u64 each) · length and sum of the state
//! sum of the head (u32)
//! state
//! ```
//!
//! A file is written whole beside the old one and takes its name in one step, so position and state are never of two
//! times. The head has a sum of its own: a damaged state does not cost the cursor.
//!
//! Bound: [`SINKS_MAX`] sinks, [`STATE_BYTES_MAX`] each; states are not held in memory.

use std::io;

use egressd_flow::{Counter, Position};

use crate::code::{In, Out};
use crate::disk::Disk;
use crate::error::SpoolError;
use crate::log::length;
use crate::loss::{Damage, Losses, Reason};

/// Sinks at a time.
pub const SINKS_MAX: usize = 64;
/// Bytes of a sink's name: with every byte escaped, it is still a file's name.
pub const SINK_NAME_BYTES_MAX: usize = 80;
/// Bytes of a sink's state.
pub const STATE_BYTES_MAX: usize = 256 << 20;

const PREFIX: &str = "sink-";
/// Ends the names of files that are not in their place yet.
pub(crate) const NEW: &str = ".new";

/// Where a sink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// What it has passed: advanced past, or lost.
    pub position: Position,
    /// What it did not get, since it joined. A batch is lost when it is let go and was not advanced past, also when the
    /// sink was just handing it on.
    pub losses: Losses,
    /// Damage up to here is in the losses.
    damaged_through: Position,
    state: StateLabel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StateLabel {
    bytes: u64,
    sum: u32,
}

impl Cursor {
    /// A sink that begins behind `position`.
    pub(crate) fn at(position: Position) -> Self {
        Self { position, damaged_through: position, ..Self::default() }
    }

    /// Past `position`, with `state`. A cursor never goes back.
    pub(crate) fn advanced(mut self, position: Position, state: &[u8]) -> Self {
        self.position = self.position.max(position);
        self.state = StateLabel { bytes: state.len() as u64, sum: crc32fast::hash(state) };
        self
    }

    /// Counts what the disk does not give back, once.
    pub(crate) fn damaged(&mut self, damage: &Damage) {
        let counted = self.position.max(self.damaged_through);
        let Some(batches) = damage.last.0.checked_sub(damage.after.max(counted).0).filter(|some| *some > 0)
        else {
            return;
        };
        let mut loss = damage.loss;
        loss.batches = loss.batches.min(batches);
        self.losses[Reason::Damaged] += loss;
        self.damaged_through = damage.last;
    }

    fn head(&self, name: &str) -> Vec<u8> {
        let mut head = Vec::new();
        let mut out = Out(&mut head);
        out.text(name);
        out.u64(self.position.0);
        out.u64(self.damaged_through.0);
        for reason in Reason::ALL {
            let loss = self.losses[reason];
            [loss.batches, loss.traffic.bytes, loss.traffic.packets]
                .into_iter()
                .for_each(|part| out.u64(part));
        }
        out.u64(self.state.bytes);
        out.u32(self.state.sum);
        head
    }

    fn parse(head: &[u8]) -> Option<(String, Self)> {
        let mut input = In(head);
        let name = input.text()?.to_owned();
        let (position, damaged_through) = (Position(input.u64()?), Position(input.u64()?));
        let mut losses = Losses::default();
        for reason in Reason::ALL {
            losses[reason].batches = input.u64()?;
            losses[reason].traffic = Counter { bytes: input.u64()?, packets: input.u64()? };
        }
        let state = StateLabel { bytes: input.u64()?, sum: input.u32()? };
        Some((name, Self { position, losses, damaged_through, state }))
    }

    /// Puts the cursor and its state in the place of what the sink had.
    pub(crate) fn save(&self, disk: &mut dyn Disk, sink: &str, state: &[u8]) -> Result<(), SpoolError> {
        let name = file_name(sink);
        let head = self.head(sink);
        let mut bytes = Vec::with_capacity(head.len() + 8);
        let mut out = Out(&mut bytes);
        out.u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        out.0.extend_from_slice(&head);
        out.u32(crc32fast::hash(&head));
        replace(disk, &name, &[&bytes, state]).map_err(|source| SpoolError::disk(&name, source))
    }

    /// The state as it is on disk; `None` when it is damaged.
    pub(crate) fn state(&self, disk: &dyn Disk, sink: &str) -> Result<Option<Vec<u8>>, SpoolError> {
        match self.raw_state(disk, sink) {
            Ok(bytes) => Ok((crc32fast::hash(&bytes) == self.state.sum).then_some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(SpoolError::disk(&file_name(sink), error)),
        }
    }

    /// The state whether or not it is damaged.
    pub(crate) fn raw_state(&self, disk: &dyn Disk, sink: &str) -> io::Result<Vec<u8>> {
        let before = self.head(sink).len() as u64 + 8;
        let mut bytes = Vec::new();
        disk.read(&file_name(sink), before, length(self.state.bytes), &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a sink's file, its state not; `None` when its head is damaged.
    pub(crate) fn load(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<Option<(String, Self)>> {
        let mut head = Vec::new();
        let head_max = (SINK_NAME_BYTES_MAX + 256) as u64;
        disk.read(name, 0, length(bytes.min(head_max)), &mut head)?;
        let mut input = In(&head);
        let parsed = (|| {
            let length = usize::try_from(input.u32()?).ok()?;
            let head = input.bytes(length)?;
            let is_whole = crc32fast::hash(head) == input.u32()?;
            Self::parse(head).filter(|_| is_whole)
        })();
        Ok(parsed.filter(|(sink, _)| file_name(sink) == name))
    }
}

/// Writes a file whole, in the place of the one that has the name.
pub(crate) fn replace(disk: &mut dyn Disk, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let new = format!("{name}{NEW}");
    let written = (|| {
        disk.create(&new)?;
        parts.iter().try_for_each(|part| disk.append(&new, part))?;
        disk.sync(&new)?;
        disk.rename(&new, name)?;
        disk.sync_names()
    })();
    if written.is_err() {
        // Gives its room back; what stays is removed at the next start.
        let _gone = disk.remove(&new);
    }
    written
}

/// Letters, digits, `-` and `_` stand for themselves, every other byte for `%` and two hex digits.
pub(crate) fn file_name(sink: &str) -> String {
    let mut name = String::from(PREFIX);
    for byte in sink.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

/// Whether a file is a sink's.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.ends_with(NEW)
}
