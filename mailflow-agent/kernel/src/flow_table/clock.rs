//! Clock of the program: jiffies, and their position on the monotonic clock.

use std::time::Duration;

use crate::host::system_clock;
use mailflow_engine::time::Time;

/// Tick lengths kernels are built with (CONFIG_HZ of all architectures), per second.
const RATES: [u64; 10] = [24, 32, 48, 64, 100, 128, 250, 300, 512, 1000];
/// Shortest time of the calibration.
const WATCH: Duration = Duration::from_millis(50);
/// Longest time of the calibration. On a busy machine it takes longer until only one rate is possible.
const PATIENCE: Duration = Duration::from_secs(2);

/// First observation of a tick: it began between these two times.
#[derive(Clone, Copy, Debug)]
struct Seen {
    tick: u64,
    before: u64,
    after: u64,
}

/// Converts ticks into times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    /// Length of a tick, in nanoseconds.
    length: u64,
    /// Reference tick.
    tick: u64,
    /// Time of the reference tick.
    at: u64,
}

impl Ticks {
    /// Makes the clock of a replay: ticks of this length, from the beginning of its time. No tick is 0, which
    /// means that a flow has not begun.
    pub(crate) const fn of(length: u64) -> Self {
        Self { length, tick: 1, at: 0 }
    }

    /// Measures the length of a tick and its position on the monotonic clock, by watching ticks change.
    /// `None` if they do not change.
    pub(crate) fn watch<E>(mut ticks: impl FnMut() -> Result<u64, E>) -> Result<Option<Self>, E> {
        let mut seen: Vec<Seen> = Vec::new();
        let begin = system_clock::now().as_nanos();
        loop {
            let before = system_clock::now().as_nanos();
            let tick = ticks()?;
            let after = system_clock::now().as_nanos();
            if seen.last().is_none_or(|last| last.tick != tick) {
                seen.push(Seen { tick, before, after });
            }
            let waited = Duration::from_nanos(after - begin);
            if waited >= WATCH
                && let Some(found) = Self::fit(&seen)
            {
                return Ok(Some(found));
            }
            if waited >= PATIENCE {
                return Ok(Self::nearest(&seen));
            }
        }
    }

    /// Returns the only tick rate that explains all observations. This process may have been delayed at any
    /// moment, so each observation is only a bound.
    fn fit(seen: &[Seen]) -> Option<Self> {
        let mut possible = RATES.into_iter().filter_map(|rate| Self::placed(seen, length(rate)));
        possible.next().filter(|_| possible.next().is_none())
    }

    /// Returns the rate nearest to the whole observation.
    fn nearest(seen: &[Seen]) -> Option<Self> {
        let (first, last) = (seen.first()?, seen.last()?);
        let measured = (last.after - first.after).checked_div(last.tick.checked_sub(first.tick)?)?;
        let rate = RATES.into_iter().min_by_key(|rate| length(*rate).abs_diff(measured))?;
        Some(Self { length: length(rate), tick: first.tick, at: Self::latest(seen, length(rate))? })
    }

    /// Returns a clock of this tick length, if the observations allow it.
    fn placed(seen: &[Seen], length: u64) -> Option<Self> {
        let tick = seen.first()?.tick;
        let at = Self::latest(seen, length)?;
        // The kernel's tick may be late by one, too.
        let over = |seen: &Seen| at + (seen.tick - tick + 2) * length;
        seen.iter().all(|seen| seen.before <= over(seen)).then_some(Self { length, tick, at })
    }

    /// Latest start of the first tick: a tick is seen late, never early.
    fn latest(seen: &[Seen], length: u64) -> Option<u64> {
        let first = seen.first()?.tick;
        seen.iter().map(|seen| seen.after.saturating_sub((seen.tick - first) * length)).min()
    }

    /// Returns the clock as words, for the checkpoint.
    pub(crate) fn words(&self) -> [u64; 3] {
        [self.length, self.tick, self.at]
    }

    /// Reads the clock from its words; `None` if they are none.
    pub(crate) fn from_words([length, tick, at]: [u64; 3]) -> Option<Self> {
        (length != 0).then_some(Self { length, tick, at })
    }

    /// Returns the number of ticks of a duration, rounded up. At most the largest signed word.
    pub(crate) fn count(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(u128::from(self.length));
        u32::try_from(ticks).unwrap_or(u32::MAX).min(i32::MAX as u32)
    }

    /// Returns the time of a tick.
    pub(crate) fn time(&self, tick: u64) -> Time {
        let ticks = tick.wrapping_sub(self.tick) as i64;
        let distance = ticks.unsigned_abs().saturating_mul(self.length);
        let nanos =
            if ticks < 0 { self.at.saturating_sub(distance) } else { self.at.saturating_add(distance) };
        Time::from_nanos(nanos)
    }

    /// Returns the tick at a time.
    pub(crate) fn tick(&self, time: Time) -> u64 {
        let nanos = i128::from(time.as_nanos()) - i128::from(self.at);
        self.tick.wrapping_add(nanos.div_euclid(i128::from(self.length)) as u64)
    }

    /// Returns the time of a tick whose low word was stored: the one nearest to the tick `now`. Correct for
    /// 24 days at 1,000 ticks a second.
    pub(super) fn time_of_word(&self, word: u32, now: u64) -> Time {
        let distance = word.wrapping_sub(now as u32) as i32;
        self.time(now.wrapping_add_signed(i64::from(distance)))
    }
}

/// Length of a tick, in nanoseconds.
fn length(rate: u64) -> u64 {
    1_000_000_000_u64.div_ceil(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns observations of ticks of this length, each some microseconds after the tick began.
    fn seen(length: u64, ticks: u64) -> Vec<Seen> {
        let one = |n: u64| {
            let after = 5_000_000_000 + n * length + (n * 7919) % 90_000;
            Seen { tick: u64::from(u32::MAX) - 2 + n, before: after - 2_000, after }
        };
        (0..ticks).map(one).collect()
    }

    const LENGTHS: [(u64, u64); 4] =
        [(100, 10_000_000), (250, 4_000_000), (300, 3_333_334), (1000, 1_000_000)];

    fn begins(ticks: &Ticks, length: u64) {
        assert_eq!(ticks.length, length);
        let third = ticks.time(u64::from(u32::MAX) + 1).as_nanos();
        let distance = third.abs_diff(5_000_000_000 + 3 * length);
        assert!(distance < 100_000, "{distance} ns off");
    }

    #[test]
    fn the_rate_is_found_from_ticks_that_are_seen_late() {
        for (rate, length) in LENGTHS {
            // Twice as long as it takes on a machine at rest.
            let seen = seen(length, 100_000_000 / length + 1);
            begins(&Ticks::fit(&seen).unwrap_or_else(|| panic!("{rate}: more than one")), length);
            begins(&Ticks::nearest(&seen).unwrap(), length);
        }
        assert_eq!(Ticks::fit(&[]), None);
        assert_eq!(Ticks::fit(&seen(4_000_000, 2)), None, "too few to tell");
        assert_eq!(Ticks::nearest(&seen(4_000_000, 1)), None, "they stand still");
    }

    #[test]
    fn to_be_kept_waiting_makes_no_other_rate() {
        for (_, length) in LENGTHS {
            let whole = seen(length, 100_000_000 / length + 1);
            for late in 1..whole.len() {
                for wait in [5_000_000, 30_000_000, 400_000_000] {
                    // Between the reading of a tick and that of the clock, and between two readings.
                    let mut between = whole[..=late].to_vec();
                    between[late].after += wait;
                    let mut missed = whole.clone();
                    missed.retain(|seen| seen.tick == whole[0].tick || seen.tick > whole[late].tick);
                    for seen in [between, missed] {
                        if let Some(found) = Ticks::fit(&seen) {
                            assert_eq!(found.length, length, "{late} {wait}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ticks_and_times_go_both_ways() {
        let ticks = Ticks { length: 4_000_000, tick: 4_294_900_000, at: 1_000_000_000 };
        for tick in [4_294_900_000, 4_294_967_296, 4_294_967_300, 4_294_899_990] {
            assert_eq!(ticks.tick(ticks.time(tick)), tick);
        }
        for tick in [4_294_967_200_u64, 4_294_967_296, 4_294_967_401] {
            assert_eq!(
                ticks.time_of_word(tick as u32, 4_294_967_400),
                ticks.time(tick),
                "the word has wrapped"
            );
        }
    }
}
