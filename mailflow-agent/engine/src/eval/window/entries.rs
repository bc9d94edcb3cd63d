//! Entries of a window, ascending in time: removal, growth, memory and runs.

use thin_vec::ThinVec;

use super::spec::WindowSpec;
use crate::time::Time;

/// Forgets the `expired` first entries, and gives back room that is mostly unused.
pub(super) fn remove_oldest<T>(entries: &mut ThinVec<T>, expired: usize) {
    if expired > 0 {
        entries.drain(..expired);
        if entries.len() * 4 < entries.capacity() {
            entries.shrink_to_fit();
        }
    }
}

/// The bytes that entries take, with the length and the capacity before them.
pub(super) fn heap<T>(entries: &ThinVec<T>) -> usize {
    match entries.capacity() {
        0 => 0,
        room => 2 * size_of::<usize>() + room * size_of::<T>(),
    }
}

/// How much more room is found for so many entries: most subjects have few, and a vector's own four, or twice as
/// many each time, would be more than all the rest.
pub(super) fn growth(entries: usize) -> usize {
    (entries / 4).clamp(1, 16)
}

/// Until when, `before` at the latest, there last were, or will have been, `threshold` entries in one window; they are
/// ascending in time.
pub(super) fn last_run<T>(
    entries: &[T],
    time: impl Fn(&T) -> Time,
    window_spec: &WindowSpec,
    threshold: u64,
    before: Time,
) -> Option<Time> {
    let end = entries.partition_point(|entry| time(entry) < before);
    entries.get(..end)?.windows(run_length(threshold)).rev().find_map(|run| {
        let (oldest, newest) = (time(run.first()?), time(run.last()?));
        window_spec.contains_event(oldest, newest).then(|| window_spec.leaves(oldest).min(before))
    })
}

/// A threshold as the length of a run.
pub(super) fn run_length(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).max(1)
}
