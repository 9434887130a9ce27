//! The kernel's edge: a netlink socket and the two calls that neli and nix have no safe form for.
//!
//! Invariant: a file descriptor is borrowed only from the socket that owns it, and the kernel is handed pointers
//! into memory that outlives the call.
#![expect(
    unsafe_code,
    reason = "recvmmsg and SO_MEMINFO have no safe wrapper that borrows; neli lends no AsFd"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// Datagrams that one recvmmsg fetches at most.
const DATAGRAMS: usize = 64;
/// A DESTROY event takes 200–400 bytes; with helper, master tuple, labels and a security context under 1 KiB.
const DATAGRAM_BYTES: usize = 2048;
/// The kernel doubles what is set and keeps it in an int (`__sock_set_rcvbuf`, `net/core/sock.c`).
const RECEIVE_BUFFER_BYTES_MAX: usize = 0x3fff_ffff;
/// `linux/sock_diag.h`: `SK_MEMINFO_VARS`.
const MEMINFO_VARS: usize = 9;
/// `linux/sock_diag.h`: `SK_MEMINFO_RCVBUF`.
const MEMINFO_RCVBUF: usize = 1;
/// `linux/sock_diag.h`: `SK_MEMINFO_DROPS`.
const MEMINFO_DROPS: usize = 8;

/// A netfilter netlink socket in the network namespace of the thread that opened it.
pub(super) struct Socket {
    netlink: NlSocket,
    port: u32,
}

/// What the kernel says about a socket's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemInfo {
    /// Bound on what may wait to be received, in bytes of kernel memory: twice what was set.
    pub(super) receive_buffer_bytes: u32,
    /// Datagrams that found it full (`sk_drops`), since the socket was opened, modulo 2^32.
    pub(super) drops: u32,
}

impl Socket {
    /// Opens one that hears only answers to its own requests.
    pub(super) fn open() -> io::Result<Self> {
        let netlink = NlSocket::connect(NlFamily::Netfilter, None, Groups::empty())?;
        let port = netlink.pid()?;
        Ok(Self { netlink, port })
    }

    /// The netlink port that answers are addressed to.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Hears a multicast group from now on.
    pub(super) fn join(&self, group: u32) -> io::Result<()> {
        self.netlink.add_mcast_membership(Groups::new_groups(&[group]))
    }

    /// Bounds every later [`Socket::receive`].
    pub(super) fn set_receive_timeout(&self, timeout: Duration) -> io::Result<()> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let value = TimeVal::new(seconds, timeout.subsec_micros().into());
        Ok(setsockopt(self, sockopt::ReceiveTimeout, &value)?)
    }

    /// Sets the receive buffer beyond the system's limit (`SO_RCVBUFFORCE`); needs `CAP_NET_ADMIN`.
    pub(super) fn force_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(setsockopt(self, sockopt::RcvBufForce, &bytes.min(RECEIVE_BUFFER_BYTES_MAX))?)
    }

    /// Sets the receive buffer, silently cut to `net.core.rmem_max`.
    pub(super) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(setsockopt(self, sockopt::RcvBuf, &bytes.min(RECEIVE_BUFFER_BYTES_MAX))?)
    }

    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        self.netlink.send(request, Msg::empty()).map(drop)
    }

    /// Receives one datagram and returns its real size, which is more than the buffer's when it was cut.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.netlink.recv(buffer, Msg::TRUNC).map(|(bytes, _)| bytes)
    }

    /// Receives what waits, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits, `ENOBUFS` once after some were lost.
    pub(super) fn receive_waiting<'a>(&self, batch: &'a mut Batch) -> io::Result<Received<'a>> {
        let mut slices: [libc::iovec; DATAGRAMS] = std::array::from_fn(|index| libc::iovec {
            iov_base: batch.bytes[index].as_mut_ptr().cast(),
            iov_len: DATAGRAM_BYTES,
        });
        // SAFETY: all-zero is a valid mmsghdr: null pointers with lengths of 0.
        let mut headers: [libc::mmsghdr; DATAGRAMS] = unsafe { MaybeUninit::zeroed().assume_init() };
        for (header, slice) in headers.iter_mut().zip(&mut slices) {
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first DATAGRAMS headers are initialised; each points at one slice, and each slice at
        // DATAGRAM_BYTES writable bytes of its own, all borrowed until the call returns. No timeout is passed.
        let count = unsafe {
            libc::recvmmsg(
                self.netlink.as_raw_fd(),
                headers.as_mut_ptr(),
                libc::c_uint::try_from(DATAGRAMS).unwrap_or_default(),
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in batch.lengths.iter_mut().zip(&headers[..count]) {
            *length = usize::try_from(header.msg_len).unwrap_or(usize::MAX);
        }
        Ok(Received { bytes: &batch.bytes[..count], lengths: &batch.lengths[..count] })
    }

    /// Reads `SO_MEMINFO` (Linux 4.12).
    pub(super) fn meminfo(&self) -> io::Result<MemInfo> {
        let mut vars = [0u32; MEMINFO_VARS];
        let mut bytes = libc::socklen_t::try_from(mem::size_of_val(&vars)).unwrap_or_default();
        // SAFETY: `vars` has `bytes` writable bytes, both are borrowed until the call returns, and any bits are a
        // valid u32.
        let result = unsafe {
            libc::getsockopt(
                self.netlink.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                vars.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(MemInfo { receive_buffer_bytes: vars[MEMINFO_RCVBUF], drops: vars[MEMINFO_DROPS] })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: neli's socket keeps its descriptor open until it is dropped, which this borrow of self prevents.
        unsafe { BorrowedFd::borrow_raw(self.netlink.as_raw_fd()) }
    }
}

/// Room for one recvmmsg: 128 KiB, made once.
pub(super) struct Batch {
    bytes: Box<[[u8; DATAGRAM_BYTES]]>,
    lengths: [usize; DATAGRAMS],
}

impl Batch {
    /// What it occupies.
    pub(super) const BYTES: usize = DATAGRAMS * DATAGRAM_BYTES;
    /// Datagrams that it takes at most.
    pub(super) const DATAGRAMS: usize = DATAGRAMS;

    pub(super) fn new() -> Self {
        Self { bytes: vec![[0; DATAGRAM_BYTES]; DATAGRAMS].into(), lengths: [0; DATAGRAMS] }
    }
}

/// What one recvmmsg fetched.
pub(super) struct Received<'a> {
    bytes: &'a [[u8; DATAGRAM_BYTES]],
    lengths: &'a [usize],
}

impl Received<'_> {
    /// Each datagram, `None` for one that was larger than its slot.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.bytes.iter().zip(self.lengths).map(|(bytes, &length)| bytes.get(..length))
    }
}
