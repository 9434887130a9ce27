//! Fills a namespace's conntrack with entries that nobody had to send a packet for, and sends packets that they count.
//!
//! [`planned`] says what entry has which number, so nothing is kept: a range of numbers is created, grown or deleted.
//! The entries go to the kernel in batches over netlink; packets leave through raw sockets, so the namespace needs a
//! route for each address and a rule that switches tracking on.
//!
//! Bound: one batch of [`BATCH`] messages at a time, each batch answered before the next is sent.

mod message;
mod plan;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;

use socket2::{Domain, Protocol, Socket, Type};

pub use plan::{Planned, TCP, UDP, Way, local_pods, node_addresses, planned};

/// Entries of one batch: at most 64 KiB of messages, which any socket may send at once.
pub const BATCH: u32 = 200;

/// `linux/socket.h`: `AF_NETLINK`; `linux/netlink.h`: `NETLINK_NETFILTER`.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
/// `linux/in.h`: `IPPROTO_RAW`, whose sender writes the IP header.
const IPPROTO_RAW: i32 = 255;

/// The conntrack table of the namespace that the opening thread was in, for writing.
pub struct Filler {
    netlink: Socket,
    raw_v4: Socket,
    raw_v6: Socket,
    batch: Vec<u8>,
    answer: Vec<u8>,
}

impl Filler {
    /// Opens its sockets; needs root in the namespace.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open() -> io::Result<Self> {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
        let netlink =
            Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
        Ok(Self {
            netlink,
            raw_v4: raw(Domain::IPV4)?,
            raw_v6: raw(Domain::IPV6)?,
            batch: Vec::new(),
            answer: vec![0; 64 * 1024],
        })
    }

    /// Makes the entries of these numbers.
    ///
    /// # Errors
    /// The kernel's answer to the first that it refused, `EEXIST` or `ENOMEM` (table full) for one.
    pub fn create(&mut self, numbers: Range<u32>) -> io::Result<()> {
        self.each(numbers, message::create)
    }

    /// Deletes the entries of these numbers; a listener hears of each.
    ///
    /// # Errors
    /// The kernel's answer to the first that it refused, `ENOENT` for one.
    pub fn delete(&mut self, numbers: Range<u32>) -> io::Result<()> {
        self.each(numbers, message::delete)
    }

    /// Sends a packet of `payload_bytes` along the original direction of each of these entries that are UDP, and
    /// returns how many.
    ///
    /// # Errors
    /// The kernel's answer, `ENETUNREACH` without a route for one.
    pub fn grow(&self, numbers: impl Iterator<Item = u32>, payload_bytes: u16) -> io::Result<u32> {
        let mut packet = Vec::new();
        let mut sent = 0;
        for Planned { original, .. } in numbers.map(planned).filter(|planned| planned.protocol == UDP) {
            message::datagram(&mut packet, original, payload_bytes);
            let socket = if original.dst.is_ipv4() { &self.raw_v4 } else { &self.raw_v6 };
            // A raw socket's port is a protocol number, and has been said already.
            socket.send_to(&packet, &SocketAddr::new(original.dst.ip(), 0).into())?;
            sent += 1;
        }
        Ok(sent)
    }

    fn each(&mut self, numbers: Range<u32>, write: fn(&mut Vec<u8>, &Planned, bool)) -> io::Result<()> {
        let mut from = numbers.start;
        while from < numbers.end {
            let to = numbers.end.min(from.saturating_add(BATCH));
            self.batch.clear();
            for number in from..to {
                write(&mut self.batch, &planned(number), number + 1 == to);
            }
            self.netlink.write_all(&self.batch)?;
            self.acknowledged()?;
            from = to;
        }
        Ok(())
    }

    /// Only refusals and the batch's last message are answered.
    fn acknowledged(&mut self) -> io::Result<()> {
        let bytes = self.netlink.read(&mut self.answer)?;
        match message::error_of(&self.answer[..bytes]) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(io::Error::other("netlink's answer is not understood")),
        }
    }
}
