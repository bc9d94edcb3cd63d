//! Atomic additions to words that several CPUs share.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

#[inline(always)]
pub(crate) unsafe fn add64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

#[inline(always)]
pub(crate) unsafe fn sub64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's. Subtraction is addition around the end.
    unsafe { add64(counter, value.wrapping_neg()) };
}

#[inline(always)]
pub(crate) unsafe fn add32(counter: *mut u32, value: u32) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, value) };
}
