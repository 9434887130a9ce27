//! How much memory a piece of work holds at its peak.
//!
//! Invariant: every request goes to the system's allocator unchanged. Bound: two counters a thread.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static MEASURING: Measuring = Measuring;

thread_local! {
    /// Bytes that this thread asked for less those that it gave back, which another may have asked for.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most since the last measurement began.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Measuring;

/// Does `work`, and says how many bytes it held at its peak beyond what was held before.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().saturating_sub(before).unsigned_abs())
}

fn take(bytes: usize) {
    HELD.set(HELD.get().wrapping_add_unsigned(bytes));
    PEAK.set(PEAK.get().max(HELD.get()));
}

fn give(bytes: usize) {
    HELD.set(HELD.get().wrapping_sub_unsigned(bytes));
}

// SAFETY: each method passes its arguments on to the system's allocator, which keeps the contract; the counters are
// constants at first and have nothing to drop, so they neither allocate nor go before the thread does.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // While it moves, the old block and the new one are both there.
        take(bytes);
        give(layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// Goal: a peak is the most that was held at once, what moved meanwhile included, and not what was there before.
    #[test]
    fn a_peak_is_what_was_held_at_once() {
        let before = black_box(vec![0u8; 5000]);
        let one_after_the_other = || [1000, 3000, 2000].map(|bytes| drop(black_box(vec![0u8; bytes])));
        let grown = || black_box(Vec::<u8>::with_capacity(1000)).reserve_exact(3000);
        assert_eq!(peak_of(one_after_the_other).1, 3000);
        assert_eq!(peak_of(grown).1, 1000 + 3000);
        assert_eq!(peak_of(|| drop(before)).1, 0);
    }
}
