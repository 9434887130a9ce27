//! What can go wrong at the kernel's edge, and what to do about it.

use std::io;
use std::time::Duration;

use super::dump::Interruption;

/// Why a socket for reading the table could not be opened. Needs an operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a netfilter netlink socket: {}", remedy(.source))]
pub struct OpenError {
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Why a read handed over nothing at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An earlier read broke off and a fresh socket was refused. The next read tries again.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The request did not leave. The next read tries again.
    #[error("cannot ask for the conntrack table: {}", remedy(.0))]
    Send(#[source] io::Error),
    /// The kernel said no. Needs an operator unless [`ReadError::is_transient`].
    #[error("the kernel refuses to list the conntrack table: {}", remedy(.0))]
    Refused(#[source] io::Error),
    /// Nothing came. The next read tries again, on a fresh socket.
    #[error("the kernel did not answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// The read broke off before its first row. The next read tries again.
    #[error("the conntrack table could not be read")]
    Interrupted(#[source] Interruption),
}

impl ReadError {
    /// False when another try fails as well until somebody grants a capability or loads a module.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Open(OpenError { source }) | Self::Send(source) | Self::Refused(source) => {
                !matches!(Fault::of(source), Fault::Permission | Fault::Module)
            }
            Self::TimedOut { .. } | Self::Interrupted(_) => true,
        }
    }
}

/// Why no one can listen for ends. Each needs an operator; without ends, short connections are lost.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel takes no receive buffer of this size.
    #[error("cannot set a receive buffer of {bytes} bytes")]
    ReceiveBuffer {
        /// As asked for.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The group of DESTROY events is not to be had.
    #[error("cannot subscribe to conntrack's DESTROY events: {}", remedy(.0))]
    Subscribe(#[source] io::Error),
    /// `SO_MEMINFO` (Linux 4.12) is missing, so losses could not be counted.
    #[error("cannot read how many events the kernel dropped (SO_MEMINFO)")]
    Losses(#[source] io::Error),
    /// No eventfd to wake the thread by.
    #[error("cannot make an eventfd")]
    Alarm(#[source] io::Error),
    /// No thread.
    #[error("cannot start the thread that receives conntrack's events")]
    Thread(#[source] io::Error),
}

/// The receiving thread has stopped. Fatal: ends are lost, uncounted, until [`Ends`](super::Ends) is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more conntrack events can be received: {}", io::Error::from_raw_os_error(*.errno))]
pub struct ReceiveError {
    /// What the socket said; 0 when it said nothing.
    pub errno: i32,
}

enum Fault {
    Permission,
    Module,
    Memory,
    Other,
}

impl Fault {
    /// `nfnetlink_rcv` answers `EPERM` without `CAP_NET_ADMIN`, `nfnetlink_rcv_msg` `EINVAL` without the subsystem
    /// (`net/netfilter/nfnetlink.c`); `socket` answers `EPROTONOSUPPORT` without nfnetlink itself.
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission,
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT) => Self::Module,
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::Memory,
            _ => Self::Other,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match Fault::of(error) {
        Fault::Permission => "it needs CAP_NET_ADMIN in the network namespace",
        Fault::Module => "load the kernel module nf_conntrack_netlink",
        Fault::Memory => "the kernel is short of memory",
        Fault::Other => "see the cause",
    }
}
