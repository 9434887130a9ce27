//! Messages out of TCP's segments: each stands behind its length, wherever the segments are cut.
//!
//! A connection is followed from its beginning on, which is when its sender's first number is known. One that was there
//! before, or of which a segment is missing or comes out of order, is left out, counted: nothing is guessed.
//! Bound: [`STREAMS_MAX`] connections and [`BYTES_MAX`] bytes that wait for the rest of their message. Beyond it the
//! connection goes that was heard of longest ago.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::part::{Part, Transport};

/// Connections that are followed.
pub const STREAMS_MAX: usize = 256;
/// Bytes of messages that are not whole, of all connections.
pub const BYTES_MAX: usize = 1 << 20;

/// A connection of a local socket with a server's port 53.
type Ends = (IpAddr, u16, IpAddr);

/// What of TCP was left out, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Parts of connections that were there before, or were given up.
    pub unfollowed: u64,
    /// Connections given up as a part was missing or out of order.
    pub gaps: u64,
    /// Connections given up for want of room.
    pub crowded: u64,
}

#[derive(Debug)]
struct Stream {
    /// Number of the byte that comes next.
    next: u32,
    /// A message that is not whole.
    bytes: Vec<u8>,
    heard: u64,
}

/// The connections under way.
#[derive(Debug, Default)]
pub struct Streams {
    streams: HashMap<Ends, Stream>,
    bytes: usize,
    turn: u64,
    leftovers: Leftovers,
}

impl Streams {
    /// What was left out.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        self.leftovers
    }

    /// Takes in a part, and gives each message that is whole with it.
    pub fn hear(&mut self, part: &Part<'_>, message: &mut dyn FnMut(&[u8])) {
        let Transport::Tcp { sequence, syn, end } = part.transport else { return };
        let ends = (part.local, part.local_port, part.remote);
        self.turn += 1;
        if syn {
            self.forget(&ends);
            let stream = Stream { next: sequence.wrapping_add(1), bytes: Vec::new(), heard: self.turn };
            self.streams.insert(ends, stream);
        }
        if !part.data.is_empty() {
            // The byte after SYN's number is the first.
            let sequence = if syn { sequence.wrapping_add(1) } else { sequence };
            self.take(ends, sequence, part.data, message);
        }
        if end {
            self.forget(&ends);
        }
        self.make_room();
    }

    fn take(&mut self, ends: Ends, sequence: u32, data: &[u8], message: &mut dyn FnMut(&[u8])) {
        let Some(stream) = self.streams.get_mut(&ends) else {
            self.leftovers.unfollowed += 1;
            return;
        };
        stream.heard = self.turn;
        // What was sent again is behind what comes next by less than half of all numbers.
        let known = stream.next.wrapping_sub(sequence);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if known > 1 << 31 {
            self.leftovers.gaps += 1;
            self.forget(&ends);
            return;
        }
        let Some(news) = data.get(known..) else { return };
        let before = stream.bytes.len();
        stream.next = stream.next.wrapping_add(u32::try_from(news.len()).unwrap_or(u32::MAX));
        stream.bytes.extend_from_slice(news);
        let mut rest = &stream.bytes[..];
        while let Some((length, behind)) = rest.split_first_chunk()
            && let Some((whole, behind)) = behind.split_at_checked(u16::from_be_bytes(*length).into())
        {
            message(whole);
            rest = behind;
        }
        let done = stream.bytes.len() - rest.len();
        stream.bytes.drain(..done);
        if stream.bytes.is_empty() {
            stream.bytes = Vec::new();
        }
        self.bytes = self.bytes - before + stream.bytes.len();
    }

    fn forget(&mut self, ends: &Ends) {
        if let Some(stream) = self.streams.remove(ends) {
            self.bytes -= stream.bytes.len();
        }
    }

    fn make_room(&mut self) {
        while self.streams.len() > STREAMS_MAX || self.bytes > BYTES_MAX {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.heard);
            let Some((ends, _)) = oldest else { return };
            let ends = *ends;
            self.forget(&ends);
            self.leftovers.crowded += 1;
        }
    }
}

#[cfg(test)]
mod tests;
