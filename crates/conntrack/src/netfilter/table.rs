//! Reads the whole table: the driver of [`Dump`].
//!
//! Invariant: whatever breaks a read off, the next one begins on a socket that owes it nothing.
//! Bound: one 32 KiB buffer, made at [`Table::open`]; no allocation while reading. The number of datagrams is the
//! kernel's: it visits each hash bucket once, and each wait for the next has a timeout.

use std::io::{self, Cursor};
use std::time::Duration;

use egressd_flow::{Entry, Snapshot, UnixNanos};
use neli::ToBytes;
use neli::consts::nl::NlmF;
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};

use super::codec::Decoder;
use super::ct_zones::CtZones;
use super::dump::{Dump, Interruption, Progress};
use super::error::{OpenError, ReadError};
use super::socket::Socket;
use super::uapi;

/// The kernel sizes a dump's datagrams by the reader's buffer, and never beyond 32 KiB less its own overhead
/// (`netlink_recvmsg` and `netlink_dump`, `net/netlink/af_netlink.c`): no more than 32,448 bytes were ever measured.
const BUFFER_BYTES: usize = 32 * 1024;

/// A dump's datagram is filled within the call that fetches it, in microseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The conntrack table of one network namespace: the one that the opening thread was in.
pub struct Table {
    socket: Socket,
    decoder: Decoder,
    buffer: Box<[u8]>,
    request: Cursor<Vec<u8>>,
    sequence: u32,
    broken: bool,
    interruption: Option<Interruption>,
}

impl Table {
    /// Opens a socket on it, of which the entries of `ct_zones` will be read. No permission is needed yet.
    ///
    /// # Errors
    /// [`OpenError`] where the kernel has no netfilter netlink, or the process no descriptor left.
    pub fn open(ct_zones: CtZones) -> Result<Self, OpenError> {
        Ok(Self {
            socket: open_socket()?,
            decoder: Decoder::new(ct_zones),
            buffer: vec![0; BUFFER_BYTES].into(),
            request: Cursor::new(Vec::new()),
            sequence: 0,
            broken: false,
            interruption: None,
        })
    }

    /// Hands over every entry of its conntrack zones, IPv4 and IPv6 in one walk, in no order. No counter is changed by it.
    ///
    /// `now` is when the read begins, by the real-time clock. A read that breaks off after its first row is a
    /// partial snapshot, with [`Table::interruption`] saying why; the next one opens a fresh socket, in the
    /// namespace of the thread that reads then.
    ///
    /// # Errors
    /// [`ReadError`] when not one row was read because something failed. An empty table is no error.
    pub fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, ReadError> {
        if self.broken {
            self.socket = open_socket()?;
        }
        self.broken = true;
        self.interruption = None;
        self.sequence = self.sequence.wrapping_add(1);
        self.ask().map_err(ReadError::Send)?;

        let mut dump = Dump::new(self.sequence, self.socket.port(), now, &mut self.decoder);
        self.broken = !receive(&self.socket, &mut self.buffer, &mut dump, each);
        let (snapshot, interruption) = dump.finish();
        match interruption {
            Some(interruption) if snapshot.entries + snapshot.defects.other_ct_zones == 0 => {
                Err(failure(interruption))
            }
            interruption => {
                self.interruption = interruption;
                Ok(snapshot)
            }
        }
    }

    /// Why the last read was partial; `None` when it was complete.
    #[must_use]
    pub fn interruption(&self) -> Option<&Interruption> {
        self.interruption.as_ref()
    }

    /// Sends the request; of the address families none is named, which means all.
    fn ask(&mut self) -> io::Result<()> {
        let request: Nlmsghdr<u16, [u8; 4]> = NlmsghdrBuilder::default()
            .nl_type(uapi::CT_GET)
            .nl_flags(NlmF::REQUEST | NlmF::DUMP)
            .nl_seq(self.sequence)
            .nl_payload(NlPayload::Payload([uapi::AF_UNSPEC, uapi::NFNETLINK_V0, 0, 0]))
            .build()
            .map_err(io::Error::other)?;
        self.request.set_position(0);
        request.to_bytes(&mut self.request).map_err(io::Error::other)?;
        self.socket.send(self.request.get_ref())
    }
}

fn open_socket() -> Result<Socket, OpenError> {
    let open = || {
        let socket = Socket::open()?;
        socket.set_receive_timeout(ANSWER_TIMEOUT)?;
        Ok(socket)
    };
    open().map_err(|source| OpenError { source })
}

/// Feeds the dump until it is done; false when it broke off, so that the socket may still owe datagrams.
fn receive(socket: &Socket, buffer: &mut [u8], dump: &mut Dump<'_>, each: &mut dyn FnMut(&Entry)) -> bool {
    loop {
        let bytes = match socket.receive(buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                dump.interrupt(Interruption::TimedOut);
                return false;
            }
            Err(error) => {
                dump.interrupt(Interruption::Receive(error));
                return false;
            }
        };
        let datagram = buffer.get(..bytes).unwrap_or_else(|| {
            dump.interrupt(Interruption::Truncated { bytes });
            buffer
        });
        if dump.feed(datagram, each) == Progress::Done {
            return true;
        }
    }
}

fn failure(interruption: Interruption) -> ReadError {
    match interruption {
        Interruption::Refused(source) => ReadError::Refused(source),
        Interruption::TimedOut => ReadError::TimedOut { after: ANSWER_TIMEOUT },
        other => ReadError::Interrupted(other),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::process::Command;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// What a log shows: the error and its causes.
    fn chain(error: &ReadError) -> String {
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes.join(": ")
    }

    /// Goal: whatever keeps a read from its first row is named, with the remedy where there is one.
    #[test]
    fn a_read_that_fails_says_why() {
        let os = io::Error::from_raw_os_error;
        for (interruption, words, is_transient) in [
            (
                Interruption::Truncated { bytes: 70_000 },
                "the conntrack table could not be read: a datagram of 70000 bytes did not fit the receive buffer",
                true,
            ),
            (
                Interruption::Unframed,
                "the conntrack table could not be read: a message of the dump has an impossible length",
                true,
            ),
            (
                Interruption::Receive(os(libc::ENOBUFS)),
                "the conntrack table could not be read: receiving the dump failed: \
                 No buffer space available (os error 105)",
                true,
            ),
            (Interruption::TimedOut, "the kernel did not answer within 5 s", true),
            (
                Interruption::Refused(os(libc::EPERM)),
                "the kernel refuses to list the conntrack table: it needs CAP_NET_ADMIN in the network namespace: \
                 Operation not permitted (os error 1)",
                false,
            ),
            (
                Interruption::Refused(os(libc::EINVAL)),
                "the kernel refuses to list the conntrack table: load the kernel module nf_conntrack_netlink: \
                 Invalid argument (os error 22)",
                false,
            ),
            (
                Interruption::Refused(os(libc::ENOMEM)),
                "the kernel refuses to list the conntrack table: the kernel is short of memory: \
                 Cannot allocate memory (os error 12)",
                true,
            ),
        ] {
            let error = failure(interruption);
            assert_eq!((chain(&error).as_str(), error.is_transient()), (words, is_transient));
        }
    }

    /// Goal: a datagram of a real kernel that is larger than the buffer is named with its size, and the next read
    /// is whole. Needs root and `conntrack`.
    #[test]
    fn a_datagram_beyond_the_buffer_is_named() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
            let entry = ["-s", "10.0.0.1", "-d", "10.0.0.2", "-t", "9", "--srckey", "1", "--dstkey", "2"];
            let made = Command::new("conntrack").args(["-I", "-p", "gre"]).args(entry).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            let mut table = Table::open(CtZones::ALL).unwrap();
            table.buffer = vec![0; 100].into();
            let error = table.read(UnixNanos(1), &mut |entry| panic!("{entry}")).unwrap_err();
            let ReadError::Interrupted(Interruption::Truncated { bytes }) = error else { panic!("{error}") };
            assert!(bytes > 100, "{bytes}");
            table.buffer = vec![0; BUFFER_BYTES].into();
            let mut rows = 0;
            table.read(UnixNanos(2), &mut |_| rows += 1).unwrap();
            assert_eq!((rows, table.interruption().is_none()), (1, true));
        };
        thread::scope(|scope| scope.spawn(test).join().unwrap());
    }
}
