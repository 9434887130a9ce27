//! What the program of the kernel puts into the ring: a datagram or a part of a TCP segment, behind a head.
//!
//! The layout is that of `struct head` in `trace.bpf.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Bytes of a head.
pub const HEAD_BYTES: usize = 56;

/// How it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp {
        /// Its length, of which what is here may be the beginning.
        length: usize,
    },
    /// A part of a segment, whole.
    Tcp {
        /// Number of the first byte.
        sequence: u32,
        /// A connection begins: the byte after this number is its first.
        syn: bool,
        /// It ends, in order or not.
        end: bool,
    },
}

/// A part of what a socket received from port 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'b> {
    /// When, by the clock since boot.
    pub at: Duration,
    /// Who received it.
    pub local: IpAddr,
    /// Its port.
    pub local_port: u16,
    /// Who sent it.
    pub remote: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// The bytes.
    pub data: &'b [u8],
}

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;

impl<'b> Part<'b> {
    /// Reads a part; `None` for bytes that the program does not write.
    #[must_use]
    pub fn read(bytes: &'b [u8]) -> Option<Self> {
        let (head, data) = bytes.split_at_checked(HEAD_BYTES)?;
        let (at, head) = head.split_first_chunk()?;
        let (sequence, head) = head.split_first_chunk()?;
        let (length, head) = head.split_first_chunk()?;
        let (local_port, head) = head.split_first_chunk()?;
        let ([family, protocol, flags, _, _, _], head) = head.split_first_chunk()?;
        let (local, head) = head.split_first_chunk()?;
        let (remote, _) = head.split_first_chunk()?;
        let address = |bytes: [u8; 16]| match family {
            4 => bytes.first_chunk::<4>().map(|v4| IpAddr::from(Ipv4Addr::from(*v4))),
            6 => Some(Ipv6Addr::from(bytes).to_canonical()),
            _ => None,
        };
        let transport = match protocol {
            17 => Transport::Udp { length: usize::try_from(u32::from_ne_bytes(*length)).ok()? },
            6 => Transport::Tcp {
                sequence: u32::from_ne_bytes(*sequence),
                syn: flags & TCP_SYN != 0,
                end: flags & (TCP_FIN | TCP_RST) != 0,
            },
            _ => return None,
        };
        Some(Self {
            at: Duration::from_nanos(u64::from_ne_bytes(*at)),
            local: address(*local)?,
            local_port: u16::from_ne_bytes(*local_port),
            remote: address(*remote)?,
            transport,
            data,
        })
    }
}
