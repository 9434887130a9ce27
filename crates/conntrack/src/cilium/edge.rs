//! The kernel's edge: five calls of libbpf that fill memory of ours.
//!
//! Invariant: a buffer that the kernel is handed is as large as it will fill, and a descriptor belongs to one [`Map`].
//! Maps are opened for reading only.
#![expect(
    unsafe_code,
    reason = "libbpf-rs has no batch look-up that fills a buffer and tells how far it got"
)]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libbpf_rs::libbpf_sys as sys;

/// What kinds of maps may hold entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `BPF_MAP_TYPE_HASH`, `_LRU_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    ArrayOfMaps,
    /// Any other.
    Other,
}

/// An open map.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    /// The kernel's name for it, which no other map has until the machine restarts.
    pub(super) id: u32,
    pub(super) kind: Kind,
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
    pub(super) entries_max: u32,
}

/// How far a batch look-up got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Entries at the beginning of both buffers.
    pub(super) entries: usize,
    /// There are no more.
    pub(super) is_last: bool,
}

impl Map {
    /// Opens a pinned map.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let options = sys::bpf_obj_get_opts {
            sz: mem::size_of::<sys::bpf_obj_get_opts>() as sys::size_t,
            file_flags: sys::BPF_F_RDONLY,
            ..Default::default()
        };
        // SAFETY: both outlive the call, and the path ends with a zero.
        let fd = answer(unsafe { sys::bpf_obj_get_opts(path.as_ptr(), &raw const options) })?;
        Self::of(fd)
    }

    /// Opens a map by the kernel's name for it; needs `CAP_SYS_ADMIN`.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        // SAFETY: no pointer is handed over.
        let fd = answer(unsafe { sys::bpf_map_get_fd_by_id(id) })?;
        Self::of(fd)
    }

    fn of(fd: RawFd) -> io::Result<Self> {
        // SAFETY: the kernel has just made it, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = sys::bpf_map_info::default();
        let mut length = u32::try_from(mem::size_of_val(&info)).expect("some hundred bytes");
        // SAFETY: info is as long as length says; a descriptor of something else is refused.
        answer(unsafe { sys::bpf_map_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut length) })?;
        Ok(Self {
            fd,
            id: info.id,
            kind: match info.type_ {
                sys::BPF_MAP_TYPE_HASH | sys::BPF_MAP_TYPE_LRU_HASH => Kind::Hash,
                sys::BPF_MAP_TYPE_ARRAY_OF_MAPS => Kind::ArrayOfMaps,
                _ => Kind::Other,
            },
            key_bytes: info.key_size as usize,
            value_bytes: info.value_size as usize,
            entries_max: info.max_entries,
        })
    }

    /// The next entries of a walk through the map, which begins with `cursor` `None`: as many as fit both buffers, fewer
    /// where the next bucket has no room, which is `ENOSPC` where it is the first.
    ///
    /// A bucket is read under its lock, so an entry is shown once and whole but for its own counters, whatever comes and
    /// goes meanwhile (`__htab_map_lookup_and_delete_batch`, `kernel/bpf/hashtab.c`, Linux 5.6).
    pub(super) fn batch(
        &self,
        cursor: &mut Option<u32>,
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<Batch> {
        let room = (keys.len() / self.key_bytes).min(values.len() / self.value_bytes);
        let mut count = u32::try_from(room).unwrap_or(u32::MAX);
        let mut at = cursor.unwrap_or_default();
        let from = if cursor.is_some() { &raw mut at } else { ptr::null_mut() };
        let mut next = 0u32;
        // SAFETY: the kernel writes at most `count` keys and values, which fit, and a place of a hash map, 4 bytes.
        let answered = answer(unsafe {
            sys::bpf_map_lookup_batch(
                self.fd.as_raw_fd(),
                from.cast(),
                (&raw mut next).cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                ptr::null(),
            )
        });
        let is_last = match answered {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        *cursor = Some(next);
        Ok(Batch { entries: (count as usize).min(room), is_last })
    }

    /// One value, into `value`; false where the key has none.
    pub(super) fn look_up(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        if key.len() != self.key_bytes || value.len() != self.value_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: both are as long as the kernel takes them to be.
        let answered = answer(unsafe {
            sys::bpf_map_lookup_elem(self.fd.as_raw_fd(), key.as_ptr().cast(), value.as_mut_ptr().cast())
        });
        match answered {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// libbpf's answer: an error number, negative, or what the call gives.
fn answer(answer: i32) -> io::Result<RawFd> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}
