//! The driver: loads the program, attaches it, and empties its ring when it is asked to.
//!
//! Bound: [`RING_BYTES`] of the kernel's memory, which counts as the process's own where control groups account for it;
//! what does not fit until the next look is counted by the program itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egressd_flow::{Name, UnixNanos};
use libbpf_rs::{
    Link, MapCore as _, MapFlags, MapHandle, Object, ObjectBuilder, RingBuffer, RingBufferBuilder,
};

use crate::cgroup::{self, CgroupError};
use crate::decoder::{Books, Decoder};

/// Of the ring: some 15,000 usual answers between two looks.
pub const RING_BYTES: u32 = 4 << 20;

/// Of the ring of a look: the largest page that a kernel of Linux is built with.
const PROBE_BYTES: u32 = 1 << 16;

/// Parts that are taken before their names are handed on.
const PARTS_AT_ONCE: usize = 256;

/// The object file wants to begin where an ELF header may.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/trace.bpf.o")));

/// The maps and the program, named as in `trace.bpf.c`.
const RING: &str = "parts";
const COUNTS: &str = "counts";
const PROGRAM: &str = "trace_received";

/// Why answers cannot be traced. Each needs an operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing to attach to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup cannot be opened.
    #[error("cannot open the cgroup {}", path.display())]
    CgroupPath {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses the program or a map: no permission, or too old.
    #[error("the kernel does not take the program: it needs CAP_BPF and Linux 5.10")]
    Load(#[source] libbpf_rs::Error),
    /// The kernel does not attach it.
    #[error("the program cannot be attached to the cgroup {}: it needs CAP_NET_ADMIN", path.display())]
    Attach {
        /// Where.
        path: PathBuf,
        /// Why.
        source: libbpf_rs::Error,
    },
    /// The ring cannot be mapped.
    #[error("the ring buffer cannot be used")]
    Ring(#[source] libbpf_rs::Error),
}

/// The kernel no longer lets its ring or its counters be read.
#[derive(Debug, thiserror::Error)]
#[error("the tracer cannot be read")]
pub struct ReadError(#[source] libbpf_rs::Error);

/// What the program counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Parts of answers put into the ring.
    pub put: u64,
    /// Parts for which it had no room.
    pub lost: u64,
    /// Packets that could not be read.
    pub unread: u64,
}

/// A decoder, the names that it gave since they were handed on, and the boot by the clock of names.
#[derive(Default)]
struct Sink {
    decoder: Decoder,
    booted: UnixNanos,
    names: Vec<Name>,
}

/// Traces as long as it lives.
pub struct Tracer {
    ring: RingBuffer<'static>,
    sink: Arc<Mutex<Sink>>,
    counts: MapHandle,
    _link: Link,
    _object: Object,
}

/// Whether answers can be traced: they are for the moment of this look.
///
/// # Errors
/// As of [`Tracer::open`].
pub fn probe(cgroup: Option<&Path>) -> Result<(), OpenError> {
    Tracer::open(cgroup, PROBE_BYTES).map(drop)
}

fn load(ring_bytes: u32) -> libbpf_rs::Result<Object> {
    let mut open = ObjectBuilder::default().name("egressd_dns")?.open_memory(&OBJECT.0)?;
    if let Some(mut ring) = open.maps_mut().find(|map| map.name() == RING) {
        ring.set_max_entries(ring_bytes)?;
    }
    open.load()
}

fn map(object: &Object, name: &str) -> libbpf_rs::Result<MapHandle> {
    let map = object.maps().find(|map| map.name() == name);
    MapHandle::try_from(&map.ok_or_else(missing)?)
}

fn missing() -> libbpf_rs::Error {
    io::Error::from(io::ErrorKind::NotFound).into()
}

impl Tracer {
    /// Attaches to a cgroup and all below it; to the root of the hierarchy, unless told another.
    ///
    /// # Errors
    /// [`OpenError`]; nothing stays attached.
    pub fn open(cgroup: Option<&Path>, ring_bytes: u32) -> Result<Self, OpenError> {
        let path = cgroup.map_or_else(cgroup::root, |path| Ok(path.to_owned()))?;
        let directory =
            File::open(&path).map_err(|source| OpenError::CgroupPath { path: path.clone(), source })?;
        let object = load(ring_bytes).map_err(OpenError::Load)?;
        let (parts, counts) = (map(&object, RING), map(&object, COUNTS));
        let (parts, counts) = (parts.map_err(OpenError::Ring)?, counts.map_err(OpenError::Ring)?);
        let sink = Arc::new(Mutex::new(Sink::default()));
        let ring = ring(&parts, Arc::clone(&sink)).map_err(OpenError::Ring)?;
        let attached = object
            .progs_mut()
            .find(|program| program.name() == PROGRAM)
            .ok_or_else(missing)
            .and_then(|program| program.attach_cgroup(directory.as_raw_fd()));
        let link = attached.map_err(|source| OpenError::Attach { path, source })?;
        Ok(Self { ring, sink, counts, _link: link, _object: object })
    }

    /// Hands on the names of all that came since, where it is `now`, so long after the machine booted.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn drain(
        &mut self,
        now: UnixNanos,
        since_boot: Duration,
        told: &mut dyn FnMut(Name),
    ) -> Result<(), ReadError> {
        self.sink().booted = now.saturating_sub(since_boot);
        loop {
            let taken = self.ring.consume_raw_n(PARTS_AT_ONCE);
            if taken < 0 {
                return Err(ReadError(io::Error::from_raw_os_error(-taken).into()));
            }
            let names = std::mem::take(&mut self.sink().names);
            names.into_iter().for_each(&mut *told);
            if taken == 0 {
                return Ok(());
            }
        }
    }

    /// What became of what was taken from the ring.
    #[must_use]
    pub fn books(&self) -> Books {
        self.sink().decoder.books()
    }

    /// What the program counted, of all processors.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn counts(&self) -> Result<Counts, ReadError> {
        let of_all = self.counts.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(ReadError)?;
        let mut sum = Counts::default();
        for bytes in of_all.into_iter().flatten() {
            for (figure, said) in
                [&mut sum.put, &mut sum.lost, &mut sum.unread].into_iter().zip(bytes.chunks_exact(8))
            {
                *figure += said.first_chunk().map_or(0, |said| u64::from_ne_bytes(*said));
            }
        }
        Ok(sum)
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring(parts: &MapHandle, sink: Arc<Mutex<Sink>>) -> libbpf_rs::Result<RingBuffer<'static>> {
    let mut builder = RingBufferBuilder::new();
    builder.add(parts, move |part| {
        let Sink { decoder, booted, names } = &mut *sink.lock().unwrap_or_else(PoisonError::into_inner);
        decoder.take(part, *booted, &mut |name| names.push(name));
        0
    })?;
    builder.build()
}
