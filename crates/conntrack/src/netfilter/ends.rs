//! Hears of every entry that the kernel destroys, with its final counters: the driver of [`codec::ends`].
//!
//! A thread of its own receives all the time, since what waits in the kernel waits in a buffer that is soon full.
//! It hands over to a bounded [`Queue`], and when that is full it waits: the kernel then buffers, and counts what
//! its buffer cannot take. Invariant: received + [`Losses::events`] = ended since [`Ends::listen`], skipped ones
//! ([`Ends::defects`]) among the received.

use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use egressd_flow::{Defects, Ended};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};

use super::codec::{self, Defect};
use super::ct_zones::CtZones;
use super::error::{ListenError, OpenError, ReceiveError};
use super::queue::{Closed, Queue};
use super::socket::{Batch, Socket};
use super::uapi;

/// At most 15 bytes, so that `ps -L` shows it whole.
const THREAD_NAME: &str = "conntrack-ends";

/// A queued datagram costs the receive buffer at least this much: `struct sk_buff` and `struct skb_shared_info`
/// with no data (`SKB_TRUESIZE(0)`, `linux/skbuff.h`).
const QUEUED_EVENT_BYTES_MIN: u64 = 512;

/// What a DESTROY event was measured to cost the receive buffer.
const QUEUED_EVENT_BYTES: u32 = 1280;

/// No end is waited for longer than this before it is received.
const NAP_MS_MAX: u32 = 4;

/// Batches after which a receiver that never sleeps says what it spent: some tens of milliseconds.
const SPENT_EVERY: u64 = 256;

/// How much may wait, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndsConfig {
    /// As passed to `SO_RCVBUFFORCE`, which doubles it: one event for each 640 bytes fits.
    pub receive_buffer_bytes: usize,
    /// Decoded ends that may wait for [`Ends::drain`]; as many again may be in its hands.
    pub queue_entries: NonZeroUsize,
}

impl EndsConfig {
    /// What listening takes at most, kernel memory included, in bytes.
    #[must_use]
    pub fn worst_case_bytes(&self) -> usize {
        let queued = self.queue_entries.get().saturating_mul(2 * mem::size_of::<Ended>());
        self.receive_buffer_bytes.saturating_mul(2).saturating_add(queued).saturating_add(Batch::BYTES)
    }
}

/// The receive buffer is smaller than asked for: bursts of ends may be lost, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "receive buffer holds {granted_bytes} bytes instead of {asked_bytes}: it needs CAP_NET_ADMIN in the initial \
         user namespace, or a larger net.core.rmem_max"
)]
pub struct ReceiveBufferWarning {
    /// [`EndsConfig::receive_buffer_bytes`].
    pub asked_bytes: usize,
    /// What the kernel set, in the same measure.
    pub granted_bytes: usize,
}

/// What the kernel could not deliver since [`Ends::listen`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Ends that found the receive buffer full: exact. Their bytes are unknown.
    pub events: u64,
    /// How often the socket reported a stretch of loss (`ENOBUFS`). When it rises and `events` does not, the kernel
    /// had no memory to make an event, which it does not count.
    pub overruns: u64,
}

/// Keeps what the kernel said before anybody acts on it, so that another process can act on it again.
pub trait Keeper: Send {
    /// Takes the next `ends` ends, in the bytes that the kernel told them by: [`codec::ends`] decodes each datagram.
    /// None of them can be drained before this returns, and all are drained in this order.
    fn keep(&mut self, datagrams: &mut dyn Iterator<Item = &[u8]>, ends: usize);
}

/// What [`Ends::drain_all`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Handed over.
    pub ends: u64,
    /// True when all that the kernel had said before the call is among them.
    pub settled: bool,
}

/// The ends of one network namespace's entries: the namespace that the listening thread was in.
///
/// Dropping it stops and joins the receiving thread; what still waits is gone.
pub struct Ends {
    link: Arc<Link>,
    taken: Vec<Ended>,
    warning: Option<ReceiveBufferWarning>,
    queue_entries: u64,
    receive_buffer_events_max: u64,
    drops_seen: u32,
    events_lost: u64,
    thread: Option<JoinHandle<()>>,
}

/// What both threads hold.
struct Link {
    socket: Socket,
    ct_zones: CtZones,
    queue: Queue,
    /// Gets the receiver out of its poll.
    alarm: EventFd,
    nap: PollTimeout,
    /// Processor time of the receiver, in nanoseconds, as of its last sleep.
    spent_ns: AtomicU64,
}

/// Ends a [`Ends::wait`] from another thread.
#[derive(Clone)]
pub struct Waker(Arc<Link>);

impl Waker {
    /// Makes the wait under way, or the next one, return at once.
    pub fn wake(&self) {
        self.0.queue.wake();
    }
}

impl Ends {
    /// Subscribes, on the calling thread and so in its network namespace, and starts the receiving thread.
    /// Ends of entries outside of `ct_zones` are passed over, counted ([`Ends::defects`]).
    ///
    /// Where the buffer cannot be forced it is as large as `net.core.rmem_max` allows, and [`Ends::warning`] says so.
    /// `keeper` works on the receiving thread: while it does, the kernel buffers.
    ///
    /// # Errors
    /// [`ListenError`], `CAP_NET_ADMIN` missing for one.
    pub fn listen(
        config: EndsConfig,
        ct_zones: CtZones,
        keeper: Option<Box<dyn Keeper>>,
    ) -> Result<Self, ListenError> {
        let EndsConfig { receive_buffer_bytes, queue_entries } = config;
        let socket = Socket::open().map_err(|source| OpenError { source })?;
        set_receive_buffer(&socket, receive_buffer_bytes)?;
        let memory = socket.meminfo().map_err(ListenError::Losses)?;
        socket.join(uapi::NFNLGRP_CONNTRACK_DESTROY).map_err(ListenError::Subscribe)?;
        let alarm = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| ListenError::Alarm(errno.into()))?;
        let nap = nap(memory.receive_buffer_bytes);
        let link = Arc::new(Link {
            socket,
            ct_zones,
            queue: Queue::new(queue_entries),
            alarm,
            nap,
            spent_ns: AtomicU64::new(0),
        });
        let thread = thread::Builder::new().name(THREAD_NAME.to_owned()).spawn({
            let link = Arc::clone(&link);
            move || Receiver::new(&link, keeper).run()
        });
        Ok(Self {
            link,
            taken: Vec::with_capacity(queue_entries.get()),
            warning: warning(receive_buffer_bytes, memory.receive_buffer_bytes),
            queue_entries: widen(queue_entries.get()),
            receive_buffer_events_max: u64::from(memory.receive_buffer_bytes) / QUEUED_EVENT_BYTES_MIN + 1,
            drops_seen: memory.drops,
            events_lost: 0,
            thread: Some(thread.map_err(ListenError::Thread)?),
        })
    }

    /// Something to log once: the receive buffer is not as large as configured.
    #[must_use]
    pub fn warning(&self) -> Option<ReceiveBufferWarning> {
        self.warning
    }

    /// Hands over what waits in the queue, oldest first, and returns how many; never waits.
    ///
    /// # Errors
    /// [`ReceiveError`] when nothing waits and the receiving thread has stopped.
    pub fn drain(&mut self, each: &mut dyn FnMut(&Ended)) -> Result<u64, ReceiveError> {
        self.link.queue.take(&mut self.taken)?;
        let ends = widen(self.taken.len());
        for ended in self.taken.drain(..) {
            each(&ended);
        }
        Ok(ends)
    }

    /// Hands over everything that the kernel had said when this was called, and perhaps a little more.
    ///
    /// Gives up when the receiving thread makes no progress for `patience`. Ends that keep coming cannot hold it:
    /// they are delivered in order, so it is settled once as many came as can have waited.
    ///
    /// # Errors
    /// [`ReceiveError`] as for [`Ends::drain`].
    pub fn drain_all(
        &mut self,
        patience: Duration,
        each: &mut dyn FnMut(&Ended),
    ) -> Result<Drained, ReceiveError> {
        let waiting_max = self.receive_buffer_events_max + self.queue_entries + widen(Batch::DATAGRAMS);
        let question = self.link.queue.ask();
        self.link.ring();
        let mut ends = 0;
        loop {
            ends += self.drain(each)?;
            if ends >= waiting_max {
                return Ok(Drained { ends, settled: true });
            }
            match self.link.queue.wait_answer(question, patience) {
                Some(false) => {}
                answer => {
                    ends += self.drain(each)?;
                    return Ok(Drained { ends, settled: answer.is_some() });
                }
            }
        }
    }

    /// Sleeps until the queue is half full, a [`Waker`] calls, the receiving thread stops, or `timeout` has passed.
    /// True when the queue is half full: drain it.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.link.queue.wait(timeout)
    }

    /// Processor time that the receiving thread took so far, as of its last sleep, or of the last few hundred
    /// batches where it finds none.
    #[must_use]
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.link.spent_ns.load(Ordering::Relaxed))
    }

    /// Something that ends [`Ends::wait`] from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.link))
    }

    /// What was lost so far. Ask at least once in 2^32 losses.
    ///
    /// # Errors
    /// The kernel's answer to `SO_MEMINFO`, which it gave at [`Ends::listen`].
    pub fn losses(&mut self) -> io::Result<Losses> {
        let drops = self.link.socket.meminfo()?.drops;
        self.events_lost += u64::from(drops.wrapping_sub(self.drops_seen));
        self.drops_seen = drops;
        Ok(Losses { events: self.events_lost, overruns: self.link.queue.overruns() })
    }

    /// Events received and not handed over, or worth nothing, since [`Ends::listen`].
    #[must_use]
    pub fn defects(&self) -> Defects {
        self.link.queue.defects()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.link.queue.close();
        self.link.ring();
        if let Some(thread) = self.thread.take() {
            // A receiver that panicked has already said so on stderr, and there is nobody left to tell.
            drop(thread.join());
        }
    }
}

impl Link {
    /// A counter that is full (`EAGAIN`) has woken the receiver already.
    fn ring(&self) {
        let rung = self.alarm.write(1);
        debug_assert!(matches!(rung, Ok(_) | Err(Errno::EAGAIN)), "{rung:?}");
    }

    /// Lets ends gather for a nap, so that one wake-up serves many, then sleeps until the socket or the alarm has
    /// something. The alarm ends both.
    fn sleep(&self) -> io::Result<()> {
        self.tell_spent();
        poll(&mut [PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN)], self.nap)?;
        let mut sources = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut sources, PollTimeout::NONE)?;
        match self.alarm.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// On the receiving thread.
    fn tell_spent(&self) {
        // Linux has this clock.
        let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Into::into);
        self.spent_ns.store(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The receiving thread.
struct Receiver<'l> {
    link: &'l Link,
    keeper: Option<Box<dyn Keeper>>,
    batch: Batch,
    /// Of one batch, for the queue.
    ends: Vec<Ended>,
}

impl<'l> Receiver<'l> {
    fn new(link: &'l Link, keeper: Option<Box<dyn Keeper>>) -> Self {
        Self { link, keeper, batch: Batch::new(), ends: Vec::with_capacity(Batch::DATAGRAMS) }
    }

    /// Receives until the taker has gone or the socket fails.
    fn run(mut self) {
        let Link { queue, .. } = self.link;
        for batches in 1u64.. {
            if queue.is_closed() {
                return;
            }
            if batches % SPENT_EVERY == 0 {
                self.link.tell_spent();
            }
            let question = queue.asked();
            let outcome = match self.receive_once() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.answer(question);
                    self.link.sleep()
                }
                outcome => outcome,
            };
            match outcome {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => queue.overrun(),
                Err(error) => {
                    queue.fail(ReceiveError { errno: error.raw_os_error().unwrap_or_default() });
                    return;
                }
            }
        }
    }

    /// Moves one batch from the socket to the keeper and the queue. A queue that was closed shows in [`Self::run`].
    fn receive_once(&mut self) -> io::Result<()> {
        let Self { link, keeper, batch, ends } = self;
        let received = link.socket.receive_waiting(batch)?;
        let mut defects = Defects::default();
        let mut has_ends = [false; Batch::DATAGRAMS];
        for (datagram, has_ends) in received.datagrams().zip(&mut has_ends) {
            match datagram {
                Some(datagram) => codec::ends(datagram, &link.ct_zones, &mut defects, &mut |ended| {
                    *has_ends = true;
                    ends.push(ended);
                }),
                None => Defect::Malformed.count(&mut defects),
            }
        }
        if let Some(keeper) = keeper.as_mut().filter(|_| !ends.is_empty()) {
            let with_ends = received.datagrams().zip(has_ends).filter(|(_, has_ends)| *has_ends);
            keeper.keep(&mut with_ends.filter_map(|(datagram, _)| datagram), ends.len());
        }
        match link.queue.append(ends, defects) {
            Ok(()) | Err(Closed) => Ok(()),
        }
    }
}

fn set_receive_buffer(socket: &Socket, bytes: usize) -> Result<(), ListenError> {
    match socket.force_receive_buffer(bytes) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => socket.set_receive_buffer(bytes),
        outcome => outcome,
    }
    .map_err(|source| ListenError::ReceiveBuffer { bytes, source })
}

/// How long ends may gather in the kernel before they are fetched: until a quarter of the receive buffer is full at
/// an end each microsecond, which is as fast as one processor destroys entries while someone listens.
fn nap(receive_buffer_bytes: u32) -> PollTimeout {
    let quarter_microseconds = receive_buffer_bytes / QUEUED_EVENT_BYTES / 4;
    let milliseconds = (quarter_microseconds / 1000).min(NAP_MS_MAX);
    u16::try_from(milliseconds).map_or(PollTimeout::ZERO, PollTimeout::from)
}

fn warning(asked_bytes: usize, doubled_bytes: u32) -> Option<ReceiveBufferWarning> {
    let granted_bytes = usize::try_from(doubled_bytes / 2).unwrap_or(usize::MAX);
    (granted_bytes < asked_bytes).then_some(ReceiveBufferWarning { asked_bytes, granted_bytes })
}

fn widen(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
