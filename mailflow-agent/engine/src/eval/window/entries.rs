//! Helpers for window entries in ascending order of time: removal, growth, size and runs.

use thin_vec::ThinVec;

use super::spec::WindowSpec;
use crate::time::Time;

/// Removes the first `expired` entries, and releases capacity that is mostly unused.
pub(super) fn remove_oldest<T>(entries: &mut ThinVec<T>, expired: usize) {
    if expired > 0 {
        entries.drain(..expired);
        if entries.len() * 4 < entries.capacity() {
            entries.shrink_to_fit();
        }
    }
}

/// Returns the bytes of the allocation, with the header of the `ThinVec`.
pub(super) fn heap<T>(entries: &ThinVec<T>) -> usize {
    match entries.capacity() {
        0 => 0,
        capacity => 2 * size_of::<usize>() + capacity * size_of::<T>(),
    }
}

/// Returns the number of entries by which to grow. Most groups have few entries: a minimum of four, or doubling,
/// would cost more than the entries.
pub(super) fn growth(entries: usize) -> usize {
    (entries / 4).clamp(1, 16)
}

/// Returns the end of the last period in which one window holds `threshold` entries, at most `limit`. The end may
/// lie in the future. `entries` must be ascending by time.
pub(super) fn last_run<T>(
    entries: &[T],
    time: impl Fn(&T) -> Time,
    window_spec: &WindowSpec,
    threshold: u64,
    limit: Time,
) -> Option<Time> {
    let end = entries.partition_point(|entry| time(entry) < limit);
    entries.get(..end)?.windows(run_length(threshold)).rev().find_map(|run| {
        let (oldest, newest) = (time(run.first()?), time(run.last()?));
        window_spec.contains_event(oldest, newest).then(|| window_spec.leaves(oldest).min(limit))
    })
}

/// Returns a threshold as the length of a run.
pub(super) fn run_length(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).max(1)
}
