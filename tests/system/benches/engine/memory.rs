//! System allocator with counters.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Allocator that counts allocated bytes.
pub(crate) struct Counting;

/// Returns the bytes allocated now.
pub(crate) fn allocated() -> usize {
    ALLOCATED.load(Relaxed)
}

/// Returns the maximum number of bytes that were allocated at once.
pub(crate) fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Resets the maximum to the bytes allocated now.
pub(crate) fn reset_peak() {
    PEAK.store(allocated(), Relaxed);
}

fn more(bytes: usize) {
    PEAK.fetch_max(ALLOCATED.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is passed to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks are remapped, not copied: both sizes are never allocated at once.
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        more(size);
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}
