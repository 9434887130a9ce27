//! One dump, as a machine: datagrams in, entries out, until the kernel says it is done.
//!
//! Invariant: what is handed over answers this dump's own request, and the snapshot is complete only when the
//! kernel said that the table's end was reached and nothing on the way said otherwise. Holds a few counters.

use std::io;

use egressd_flow::{Completeness, Defects, Entry, Snapshot, UnixNanos};

use super::codec::{Decoder, Defect};
use super::message::{Message, Messages};
use super::uapi::{self, control};

/// Whether more datagrams are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The kernel has not said that it is done.
    More,
    /// It has; nothing follows.
    Done,
}

/// What kept a read from being complete. The rows that were read are sound all the same.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// `NLM_F_DUMP_INTR`: the table changed under the dump. The next read may do better.
    #[error("the kernel marked the dump as inconsistent")]
    Inconsistent,
    /// `NLMSG_OVERRUN`, which no kernel of today sends.
    #[error("the kernel reported data lost in the dump")]
    Overrun,
    /// A message whose length cannot be true: the rest of its datagram was given up.
    #[error("a message of the dump has an impossible length")]
    Unframed,
    /// A datagram larger than the receive buffer; its tail is gone.
    #[error("a datagram of {bytes} bytes did not fit the receive buffer")]
    Truncated {
        /// Its real size.
        bytes: usize,
    },
    /// An answer to somebody else's request; skipped.
    #[error("an answer to request {sequence} of port {port} among those to the dump")]
    Foreign {
        /// The request that it answers.
        sequence: u32,
        /// The netlink port that it is for.
        port: u32,
    },
    /// `NLMSG_ERROR`, or `NLMSG_DONE` with an error: the kernel gave up.
    #[error("the kernel ended the dump with an error")]
    Refused(#[source] io::Error),
    /// The socket failed, by `ENOBUFS` for one: the kernel had no memory for the next piece.
    #[error("receiving the dump failed")]
    Receive(#[source] io::Error),
    /// The kernel fell silent.
    #[error("the kernel stopped answering")]
    TimedOut,
}

/// A dump under way.
#[derive(Debug)]
pub struct Dump<'d> {
    sequence: u32,
    port: u32,
    decoder: &'d mut Decoder,
    snapshot: Snapshot,
    interruption: Option<Interruption>,
}

impl<'d> Dump<'d> {
    /// Begins at `now` the dump that was asked for with `sequence` from netlink port `port`. Entries of conntrack zones
    /// that `decoder` does not read are passed over, counted.
    #[must_use]
    pub fn new(sequence: u32, port: u32, now: UnixNanos, decoder: &'d mut Decoder) -> Self {
        let snapshot = Snapshot {
            completeness: Completeness::Complete,
            begun: now,
            entries: 0,
            offloaded: 0,
            defects: Defects::default(),
        };
        Self { sequence, port, decoder, snapshot, interruption: None }
    }

    /// Hands over the entries of one datagram.
    pub fn feed(&mut self, datagram: &[u8], each: &mut dyn FnMut(&Entry)) -> Progress {
        for message in Messages::new(datagram) {
            let Ok(message) = message else {
                self.skip(Defect::Malformed);
                self.interrupt(Interruption::Unframed);
                break;
            };
            if self.apply(&message, each) == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::More
    }

    /// Notes why the read is not complete. The first reason stands.
    pub fn interrupt(&mut self, interruption: Interruption) {
        self.snapshot.completeness = Completeness::Partial;
        self.interruption.get_or_insert(interruption);
    }

    /// What was read so far, and why it is partial if it is.
    #[must_use]
    pub fn finish(self) -> (Snapshot, Option<Interruption>) {
        (self.snapshot, self.interruption)
    }

    fn apply(&mut self, message: &Message<'_>, each: &mut dyn FnMut(&Entry)) -> Progress {
        let &Message { kind, flags, sequence, port, body } = message;
        if (sequence, port) != (self.sequence, self.port) {
            self.interrupt(Interruption::Foreign { sequence, port });
            return Progress::More;
        }
        if flags & uapi::NLM_F_DUMP_INTR != 0 {
            self.interrupt(Interruption::Inconsistent);
        }
        match kind {
            uapi::CT_NEW => self.row(body, each),
            control::DONE | control::ERROR => return self.end(kind, body),
            control::OVERRUN => self.interrupt(Interruption::Overrun),
            control::NOOP => {}
            _ => self.skip(Defect::Unsupported),
        }
        Progress::More
    }

    fn row(&mut self, body: &[u8], each: &mut dyn FnMut(&Entry)) {
        match self.decoder.entry(body) {
            Ok(entry) => {
                self.snapshot.entries += 1;
                self.snapshot.offloaded += u64::from(is_offloaded(entry));
                self.snapshot.defects.without_counters += u64::from(entry.counters.is_none());
                each(entry);
            }
            Err(defect) => self.skip(defect),
        }
    }

    /// Both messages begin with an error number, negative or 0 (`netlink_dump_done`, `struct nlmsgerr`). An error
    /// of 0 is an acknowledgement, after which the dump goes on.
    fn end(&mut self, kind: u16, body: &[u8]) -> Progress {
        match (body.first_chunk().map(|code| i32::from_ne_bytes(*code)), kind) {
            (Some(0), control::ERROR) => return Progress::More,
            (Some(0), _) => {}
            (Some(code), _) => {
                let errno = code.checked_neg().unwrap_or(i32::MAX);
                self.interrupt(Interruption::Refused(io::Error::from_raw_os_error(errno)));
            }
            (None, _) => self.interrupt(Interruption::Unframed),
        }
        Progress::Done
    }

    fn skip(&mut self, defect: Defect) {
        defect.count(&mut self.snapshot.defects);
    }
}

/// Whether a flowtable forwards it, in software or in hardware.
fn is_offloaded(entry: &Entry) -> bool {
    entry.status.is_some_and(|status| status & (uapi::IPS_OFFLOAD | uapi::IPS_HW_OFFLOAD) != 0)
}

#[cfg(test)]
mod tests;
