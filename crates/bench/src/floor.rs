//! The floor of a read: what the kernel takes to hand the table over to somebody who does not look at it.
//!
//! A request, then receives into one buffer until the message that says it is done; of each datagram only the type of
//! its first message is read, since the kernel sends that message alone (`netlink_dump`, `net/netlink/af_netlink.c`).

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// As large as the reader's.
const BUFFER_BYTES: usize = 32 * 1024;
/// The kernel answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// `linux/socket.h`: `AF_NETLINK`; `linux/netlink.h`: `NETLINK_NETFILTER`, `NLMSG_ERROR`, `NLMSG_DONE`.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// 20 bytes; `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`; `NLM_F_REQUEST | NLM_F_DUMP`; all families.
fn request() -> Vec<u8> {
    let mut request = 20u32.to_ne_bytes().to_vec();
    request.extend(0x101u16.to_ne_bytes());
    request.extend(0x301u16.to_ne_bytes());
    request.extend([0; 12]);
    request
}

/// A socket and a buffer.
pub(crate) struct Floor {
    socket: Socket,
    buffer: Box<[u8]>,
}

impl Floor {
    pub(crate) fn open() -> io::Result<Self> {
        let socket =
            Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES].into() })
    }

    /// Receives the whole table; the bytes that it came to.
    pub(crate) fn read(&mut self) -> io::Result<usize> {
        self.socket.write_all(&request())?;
        let mut bytes = 0;
        loop {
            let received = self.socket.read(&mut self.buffer)?;
            let kind = self.buffer[..received].get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
            match kind {
                Some(DONE) => return Ok(bytes),
                Some(ERROR) | None => return Err(io::Error::other("the kernel refuses the dump")),
                Some(_) => bytes += received,
            }
        }
    }
}
