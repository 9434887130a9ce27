//! The walker: where the messages of a datagram stand, as `linux/netlink.h` has it (`NLMSG_OK`, `NLMSG_NEXT`).
//!
//! Invariant: independent of the decoder. It counts what must be accounted for and understands no message.

use std::ops::Range;

/// One message's header, and where all of it stands, padding included.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
    /// Of the message without its header and padding.
    pub(crate) body: Range<usize>,
    pub(crate) whole: Range<usize>,
}

/// The messages of a datagram, and whether something behind the last of them is none.
pub(crate) fn walk(datagram: &[u8]) -> (Vec<Frame>, bool) {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < datagram.len() {
        let Some(frame) = frame(datagram, at) else { return (frames, true) };
        at = frame.whole.end;
        frames.push(frame);
    }
    (frames, false)
}

fn frame(datagram: &[u8], at: usize) -> Option<Frame> {
    let half = |offset: usize| Some(u16::from_ne_bytes(*datagram.get(at + offset..)?.first_chunk()?));
    let word = |offset: usize| Some(u32::from_ne_bytes(*datagram.get(at + offset..)?.first_chunk()?));
    let (length, kind, flags) = (word(0)? as usize, half(4)?, half(6)?);
    let (sequence, port) = (word(8)?, word(12)?);
    if length < 16 || length > datagram.len() - at {
        return None;
    }
    let end = datagram.len().min(at + length.div_ceil(4) * 4);
    Some(Frame { kind, flags, sequence, port, body: at + 16..at + length, whole: at..end })
}
