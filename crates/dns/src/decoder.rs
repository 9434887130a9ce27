//! From the ring's parts to names: the machine of this crate.
//!
//! Invariant: the books balance: each message is an answer, nameless, or discarded for a reason.

use std::net::IpAddr;
use std::time::Duration;

use egressd_flow::{Name, UnixNanos};

use crate::message::{Nothing, answer};
use crate::part::{Part, Transport};
use crate::streams::{Leftovers, Streams};

/// What became of what came, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Messages, whole or not.
    pub messages: u64,
    /// Those that name addresses.
    pub answers: u64,
    /// The addresses that they name.
    pub names: u64,
    /// Addresses of answers that have too many.
    pub surplus: u64,
    /// Messages that name none, and should not: queries, "no such name", other kinds.
    pub nameless: u64,
    /// Messages whose sender left a part out.
    pub truncated: u64,
    /// Messages that do not hold together.
    pub malformed: u64,
    /// Messages whose name is no host's.
    pub unfit: u64,
    /// Datagrams longer than what is copied of one.
    pub cut: u64,
    /// Parts of a layout that this version does not know.
    pub unknown: u64,
    /// What was left out of TCP.
    pub tcp: Leftovers,
}

/// Takes in parts, gives names.
#[derive(Debug, Default)]
pub struct Decoder {
    streams: Streams,
    books: Books,
}

impl Decoder {
    /// What became of what came.
    #[must_use]
    pub fn books(&self) -> Books {
        Books { tcp: self.streams.leftovers(), ..self.books }
    }

    /// Takes in a part as the kernel put it, where the machine booted at `booted` by the clock of names.
    pub fn take(&mut self, bytes: &[u8], booted: UnixNanos, told: &mut dyn FnMut(Name)) {
        let Some(part) = Part::read(bytes) else {
            self.books.unknown += 1;
            return;
        };
        let (seen, asker) = (seen(booted, part.at), part.local);
        let Self { streams, books } = self;
        match part.transport {
            Transport::Udp { length } if length > part.data.len() => {
                books.messages += 1;
                books.cut += 1;
            }
            Transport::Udp { .. } => books.hear(part.data, (seen, asker), told),
            Transport::Tcp { .. } => {
                streams.hear(&part, &mut |message| books.hear(message, (seen, asker), told));
            }
        }
    }
}

fn seen(booted: UnixNanos, at: Duration) -> UnixNanos {
    booted.saturating_add(at)
}

impl Books {
    fn hear(&mut self, message: &[u8], (seen, asker): (UnixNanos, IpAddr), told: &mut dyn FnMut(Name)) {
        self.messages += 1;
        let answer = match answer(message) {
            Ok(answer) => answer,
            Err(nothing) => {
                *match nothing {
                    Nothing::Nameless => &mut self.nameless,
                    Nothing::Truncated => &mut self.truncated,
                    Nothing::Malformed => &mut self.malformed,
                    Nothing::Unfit => &mut self.unfit,
                } += 1;
                return;
            }
        };
        self.answers += 1;
        self.names += answer.addresses.len() as u64;
        self.surplus += answer.surplus as u64;
        for (address, time_to_live) in answer.addresses {
            told(Name { address, name: answer.name.clone(), time_to_live, seen, asker: Some(asker) });
        }
    }
}
