//! Traffic whose payload is known: a server for every pod, and a sender that follows a plan.
//!
//! Both are subcommands of `egressd-testbed` and run inside a namespace. The protocol over TCP is a header of two
//! big-endian `u32` (request bytes to follow, reply bytes wanted), the request, the reply; again until the end of the
//! stream. Over UDP a request is one datagram that begins with (sequence, reply bytes wanted), a reply one that begins
//! with the sequence.
//!
//! Invariant: a sender has always read the whole answer before it closes, so that neither end sends into a closed
//! socket and no ICMP error arises.

mod send;
mod serve;

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use send::send;
pub use serve::serve;

/// Of a TCP request and of a TCP reply, in bytes.
pub const TCP_PAYLOAD_BYTES_MAX: u32 = 16 << 20;
/// Of a datagram, in bytes, so that IPv6 with its headers fits an Ethernet frame unfragmented.
pub const UDP_PAYLOAD_BYTES_MAX: u32 = 1400;
/// Length of both headers, and so the least length of a UDP request.
pub const HEADER_BYTES: u32 = 8;

/// How a conversation is held and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One TCP connection for all exchanges, closed by FIN.
    TcpLong,
    /// A TCP connection an exchange, closed by FIN.
    TcpFin,
    /// A TCP connection an exchange, closed by RST (`SO_LINGER` 0).
    TcpRst,
    /// One UDP socket for all exchanges.
    UdpLong,
    /// A UDP socket an exchange.
    UdpShort,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TcpLong, Self::TcpFin, Self::TcpRst, Self::UdpLong, Self::UdpShort];

    /// Whether it is UDP.
    #[must_use]
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::UdpLong | Self::UdpShort)
    }

    pub(crate) const fn is_long(self) -> bool {
        matches!(self, Self::TcpLong | Self::UdpLong)
    }

    /// The IANA number.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        if self.is_udp() { 17 } else { 6 }
    }
}

/// One line of exchanges: request, reply, pause, again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// How.
    pub kind: Kind,
    /// With whom.
    pub to: SocketAddr,
    /// The local port of every connection, so that each reuses the addresses and ports of the one before it; `None`
    /// for a new one each time. For [`Kind::TcpRst`], which leaves nothing behind that holds the port.
    #[serde(default)]
    pub from_port: Option<u16>,
    /// Payload of a request, in bytes; for UDP the whole datagram's, 8 to 1400.
    pub request_bytes: u32,
    /// Payload of a reply, in bytes; for UDP the whole datagram's, 8 to 1400.
    pub reply_bytes: u32,
    /// Between two exchanges, in milliseconds.
    pub pause_ms: u64,
    /// The bound on exchanges, failed ones included.
    pub exchanges_max: u64,
}

/// What one sender does; all items at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The bound in time; `None` leaves it to whoever closes the sender's standard input.
    pub seconds: Option<u64>,
    /// What to exchange.
    pub items: Vec<Item>,
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemReport {
    /// The item.
    pub item: Item,
    /// Whole exchanges.
    pub exchanges: u64,
    /// TCP connections or UDP sockets that were opened.
    pub conversations: u64,
    /// Payload sent in whole exchanges, headers of the traffic protocol included, in bytes.
    pub sent_bytes: u64,
    /// Payload received in whole exchanges, in bytes.
    pub received_bytes: u64,
    /// Exchanges that failed.
    pub failures: u64,
    /// The first failure.
    pub first_failure: Option<String>,
}

impl ItemReport {
    pub(crate) fn of(item: Item) -> Self {
        Self {
            item,
            exchanges: 0,
            conversations: 0,
            sent_bytes: 0,
            received_bytes: 0,
            failures: 0,
            first_failure: None,
        }
    }
}

fn join_header(first: u32, second: u32) -> [u8; 8] {
    let [[a, b, c, d], [e, f, g, h]] = [first.to_be_bytes(), second.to_be_bytes()];
    [a, b, c, d, e, f, g, h]
}

fn split_header([a, b, c, d, e, f, g, h]: [u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn write_payload(stream: &mut impl Write, length: u32) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(u64::from(length)), stream).map(drop)
}

fn read_payload(stream: &mut impl Read, length: u32) -> io::Result<()> {
    match io::copy(&mut stream.take(u64::from(length)), &mut io::sink())? {
        read if read == u64::from(length) => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
