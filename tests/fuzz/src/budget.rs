//! Limits of memory and time, relative to the length of the input.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::targets::Target;

/// System allocator that counts the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn took(bytes: usize) {
    let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(in_use, Ordering::Relaxed);
}

// SAFETY: every call is passed to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Limits of an input.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Bytes of memory for an empty input.
    bytes: usize,
    /// Processor time for an empty input.
    time: Duration,
}

/// Bytes of memory for each byte of input.
const BYTES_PER_BYTE: usize = 2_000;
/// Processor time for each byte of input. The parsers take under a microsecond, a target reads its input several
/// times, and the machine of CI is slow.
const TIME_PER_BYTE: Duration = Duration::from_micros(20);
/// Repetitions of an input that took too long: another process may be the reason.
const REPEATS: usize = 3;

/// One in this many inputs is repeated up to [`LONG`] bytes.
const STRETCHED: usize = 2_048;
/// Length of a repeated input, in bytes.
const LONG: usize = 256 << 10;
/// First bytes of a gzip input.
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Budget {
    fn of(target: Target, data: &[u8]) -> Self {
        match target {
            // By design, anchors and aliases may stand for up to a million values.
            Target::Config | Target::Web if data.contains(&b'&') => {
                Self { bytes: 1 << 30, time: Duration::from_secs(5) }
            }
            _ => Self { bytes: 32 << 20, time: Duration::from_millis(500) },
        }
    }
}

/// Runs a target on an input, and on some inputs many times over. Quadratic time does not show in a short
/// input.
///
/// # Panics
/// The input takes more memory or time than its limit.
pub(crate) fn within(target: Target, run: fn(&[u8]), data: &[u8]) {
    measured(target, run, data);
    let sum = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let packed = data.starts_with(&GZIP);
    if sum % STRETCHED == 0 && !data.is_empty() && !packed && target != Target::Frames {
        measured(target, run, &data.repeat((LONG / data.len()).max(1)));
    }
}

fn measured(target: Target, run: fn(&[u8]), data: &[u8]) {
    let budget = Budget::of(target, data);
    let limit = budget.time + TIME_PER_BYTE * u32::try_from(data.len()).unwrap_or(u32::MAX);
    for repeat in 0..=REPEATS {
        let before = IN_USE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let began = processor_time();
        run(data);
        let took = processor_time().saturating_sub(began);
        let bytes = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        let most = budget.bytes + data.len() * BYTES_PER_BYTE;
        // A gzip input may expand to a thousand times its length.
        let packed = data.starts_with(&GZIP);
        assert!(bytes <= most || packed, "{} bytes of input took {bytes} bytes of memory", data.len());
        if took <= limit || packed {
            return;
        }
        assert!(repeat < REPEATS, "{} bytes of input took {took:?} of processor time", data.len());
    }
}

/// Returns the processor time of this thread so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes to the structure that it is given.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the kernel has no clock of a thread");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
