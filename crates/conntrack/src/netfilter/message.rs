//! Frames: netlink messages in a datagram, attributes in a message.
//!
//! Both walkers borrow from the receive buffer and copy nothing. They end at the first length that cannot be true,
//! since nothing behind it can be found; whatever comes, each step consumes at least a header.

use std::ops::Range;

use super::uapi::NLA_TYPE_MASK;

/// `linux/netlink.h`: `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;
/// `linux/netlink.h`: `struct nlmsghdr`.
const MESSAGE_HEADER_BYTES: usize = 16;
/// `linux/netlink.h`: `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// A length that reaches outside its frame, or not even over its own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unframed;

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `nlmsg_type`: below 16 one of netlink's own, else the subsystem in the upper byte.
    pub(super) kind: u16,
    /// `NLM_F_*` bits.
    pub(super) flags: u16,
    /// That of the request it answers; 0 for an event.
    pub(super) sequence: u32,
    /// Port of the socket whose request it answers; 0 for an event that the kernel had by itself.
    pub(super) port: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

/// The messages of one datagram.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Unframed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let framed = split_message(self.rest);
        self.rest = framed.map_or(&[], |(_, rest)| rest);
        Some(framed.map(|(message, _)| message).ok_or(Unframed))
    }
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header: &[u8; MESSAGE_HEADER_BYTES] = bytes.first_chunk()?;
    let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = header;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    let body = bytes.get(MESSAGE_HEADER_BYTES..length)?;
    let message = Message {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        port: u32::from_ne_bytes([p0, p1, p2, p3]),
        body,
    };
    Some((message, behind(bytes, length)))
}

/// One attribute of a message's body.
pub(super) struct Attribute {
    /// `nla_type` without its two flag bits.
    pub(super) kind: u16,
    /// Where its header stands in the body.
    pub(super) header: usize,
    /// Where its value does.
    pub(super) value: Range<usize>,
}

/// The attributes in a part of a body: all of it behind its head, or a nest.
pub(super) struct Attributes<'a> {
    body: &'a [u8],
    rest: Range<usize>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(body: &'a [u8], part: Range<usize>) -> Self {
        Self { body, rest: part }
    }

    fn split(&self) -> Option<Attribute> {
        let Range { start, end } = self.rest;
        let &[l0, l1, k0, k1] = self.body.get(start..end)?.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK;
        let value = start + ATTRIBUTE_HEADER_BYTES..start + length;
        (value.start <= value.end && value.end <= end).then_some(Attribute { kind, header: start, value })
    }
}

impl Iterator for Attributes<'_> {
    type Item = Result<Attribute, Unframed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let framed = self.split();
        // The last one need not have the padding.
        let behind = framed.as_ref().map(|attribute| attribute.value.end.next_multiple_of(ALIGNMENT));
        self.rest.start = behind.unwrap_or(self.rest.end);
        Some(framed.ok_or(Unframed))
    }
}

/// What follows a message of `length` and its padding, which the last one need not have.
fn behind(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default()
}
