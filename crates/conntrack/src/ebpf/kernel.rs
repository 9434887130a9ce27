//! The kernel's edge: the calls that libbpf-rs has no sound form for, or none.
//!
//! Its `lookup_batch` takes a short batch for the last one and loses the rest of a hash table (0.27.2: 8,191 of 50,001
//! elements), and it has none that deletes.
//! Invariant: the kernel writes no more elements than the buffers have room for, and only elements that it says it
//! wrote are looked at.
#![expect(unsafe_code, reason = "batches of a map have no wrapper that reads all of it, and run times none")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys;

use super::row::{Pair, Sums};

/// Elements of one call. From 256 on the number hardly matters (330–415 ns an element).
const ELEMENTS: usize = 1024;

/// What becomes of the elements that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// They stay.
    Look,
    /// They are taken out.
    Take,
}

/// Room for one call: 76 KiB, made once.
pub(super) struct Batch {
    pairs: Box<[Pair; ELEMENTS]>,
    sums: Box<[Sums; ELEMENTS]>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { pairs: Box::new([[0; 36]; ELEMENTS]), sums: Box::new([[0; 5]; ELEMENTS]) }
    }

    /// Hands over every element of a hash table whose keys are [`Pair`]s and whose values are [`Sums`] (Linux 5.6).
    ///
    /// # Errors
    /// The kernel's answer. Elements handed over before it are handed over.
    pub(super) fn walk(
        &mut self,
        table: BorrowedFd<'_>,
        walk: Walk,
        each: &mut dyn FnMut(&Pair, &Sums),
    ) -> io::Result<()> {
        let call = match walk {
            Walk::Look => libbpf_sys::bpf_map_lookup_batch,
            Walk::Take => libbpf_sys::bpf_map_lookup_and_delete_batch,
        };
        let (mut from, mut next) = (0u32, 0u32);
        let mut begun = false;
        loop {
            let mut count = u32::try_from(ELEMENTS).unwrap_or_default();
            let cursor: *mut u32 = if begun { &raw mut from } else { ptr::null_mut() };
            // SAFETY: the table's keys and values have the sizes of Pair and Sums, as `program` checked when it opened
            // it; both buffers have room for `count` elements, cursors of a hash table are 4 bytes, all of it is borrowed
            // until the call returns, and no options are passed.
            let answer = unsafe {
                call(
                    table.as_raw_fd(),
                    cursor.cast(),
                    (&raw mut next).cast(),
                    self.pairs.as_mut_ptr().cast(),
                    self.sums.as_mut_ptr().cast(),
                    &raw mut count,
                    ptr::null(),
                )
            };
            // The last call says ENOENT, and its count is valid.
            let is_last = answer == -libc::ENOENT;
            if answer != 0 && !is_last {
                return Err(io::Error::from_raw_os_error(-answer));
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.pairs.iter().zip(&*self.sums).take(count).for_each(|(pair, sums)| each(pair, sums));
            if is_last {
                return Ok(());
            }
            (begun, from) = (true, next);
        }
    }
}

/// Has the kernel measure each run of each program (Linux 5.8), as long as what is returned is open.
pub(super) fn measure_runs() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is handed over.
    let answer = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(-answer));
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}
