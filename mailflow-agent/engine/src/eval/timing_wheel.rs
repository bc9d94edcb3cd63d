//! Timing wheel: schedules the visits of groups, to remove expired state.
//!
//! This is a hashed timing wheel (Varghese and Lauck, 1987). A group waits in the slot of its next visit. So the
//! cost of expiry grows with the number of records, not with the number of groups times seconds. A group that gets
//! records meanwhile does not move: its visit computes a later time and links it there. The shards take turns
//! within a slot, so that groups with equal expiry are not all visited at once.

use std::time::Duration;

use crate::time::Time;

/// Shards of a rule's groups.
pub(crate) const SHARD_COUNT: usize = 64;

/// Wheel slots of a shard. The retention of a rule spans half of them.
pub(crate) const WHEEL_SLOTS: usize = 128;

/// Turns in which each slot of each shard is visited once.
const ROUND_TURNS: u64 = (WHEEL_SLOTS * SHARD_COUNT) as u64;

/// Timing wheel of a rule. Turn n takes place n units after the start of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimingWheel {
    /// Nanoseconds between turns.
    unit: u64,
    /// Last turn that took place.
    last_turn: u64,
}

impl Default for TimingWheel {
    fn default() -> Self {
        Self { unit: 1, last_turn: 0 }
    }
}

impl TimingWheel {
    /// Returns the wheel of a rule with this retention, at `clock`.
    pub(crate) fn new(retention: Duration, clock: Time) -> Self {
        let retention = u64::try_from(retention.as_nanos()).unwrap_or(u64::MAX);
        let unit = (retention / (ROUND_TURNS / 2)).max(1);
        Self { unit, last_turn: clock.as_nanos() / unit }
    }

    /// Advances the wheel to `clock`. Returns the shard and the slot of each turn, each slot at most once.
    pub(crate) fn advance(&mut self, clock: Time) -> impl Iterator<Item = (usize, usize)> + use<> {
        let now = (clock.as_nanos() / self.unit).max(self.last_turn);
        let first = (self.last_turn + 1).max((now + 1).saturating_sub(ROUND_TURNS));
        self.last_turn = now;
        (first..=now).map(|turn| (shard(turn), slot(turn)))
    }

    /// Returns the slot of a shard with the first turn at `time` or later.
    pub(crate) fn next_slot(&self, of: usize, time: Time) -> usize {
        let min_retention = time.as_nanos().div_ceil(self.unit).max(self.last_turn + 1);
        let wait = (of as u64 + SHARD_COUNT as u64 - min_retention % SHARD_COUNT as u64) % SHARD_COUNT as u64;
        // A time beyond the last turn of this round is visited too early, and scheduled again.
        let last =
            self.last_turn + ROUND_TURNS - (self.last_turn + ROUND_TURNS - of as u64) % SHARD_COUNT as u64;
        slot((min_retention + wait).min(last))
    }
}

fn shard(turn: u64) -> usize {
    (turn % SHARD_COUNT as u64) as usize
}

fn slot(turn: u64) -> usize {
    (turn / SHARD_COUNT as u64) as usize % WHEEL_SLOTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// A visit comes at most the width of a slot after its time, and never before it.
        #[test]
        fn visits_are_never_early_and_at_most_a_slot_late(
            hours in 1..24u64, start in 0..1_000_000u64, ahead in 0..3_600u64, of in 0..SHARD_COUNT, steps in prop::collection::vec(1..600u64, 1..40),
        ) {
            let retention = Duration::from_secs(hours * 3_600);
            let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
            let mut wheel = TimingWheel::new(retention, at(start));
            let due = at(start + ahead);
            let slot = wheel.next_slot(of, due);
            let (mut clock, width) = (start, retention.as_secs() / 64 + 1);
            for step in steps.into_iter().chain([2 * 3_600 * 24]) {
                clock += step;
                if wheel.advance(at(clock)).any(|visit| visit == (of, slot)) {
                    prop_assert!(at(clock) >= due, "early");
                    prop_assert!(clock - step <= start + ahead + width, "late");
                    return Ok(());
                }
            }
            prop_assert!(false, "never");
        }
    }

    #[test]
    fn every_slot_has_a_turn_after_a_clock_jump() {
        let mut wheel = TimingWheel::new(Duration::from_secs(3_900), Time::ZERO);
        let far = Time::from_nanos(1_800_000_000_000_000_000);
        let mut visits: Vec<_> = wheel.advance(far).collect();
        visits.sort_unstable();
        visits.dedup();
        assert_eq!(visits.len(), SHARD_COUNT * WHEEL_SLOTS);
        assert_eq!(wheel.advance(far).count(), 0, "not twice");
        assert_eq!(wheel.advance(Time::ZERO).count(), 0, "a clock that is behind changes nothing");
    }
}
