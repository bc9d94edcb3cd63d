//! Clock of the program: jiffies, and their position on the monotonic clock.

use std::time::Duration;

use crate::host::clock;
use mailflow_engine::time::Time;

/// Tick lengths kernels are built with (CONFIG_HZ of all architectures), per second.
const TICK_RATES: [u64; 10] = [24, 32, 48, 64, 100, 128, 250, 300, 512, 1000];
/// Shortest time of the calibration.
const MIN_CALIBRATION: Duration = Duration::from_millis(50);
/// Longest time of the calibration. On a busy machine it takes longer until only one rate is possible.
const MAX_CALIBRATION: Duration = Duration::from_secs(2);

/// First observation of a tick: it began between these two times.
#[derive(Clone, Copy, Debug)]
struct TickSample {
    tick: u64,
    before: u64,
    after: u64,
}

/// Converts ticks into times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TickClock {
    /// Length of a tick, in nanoseconds.
    length: u64,
    /// Reference tick.
    tick: u64,
    /// Time of the reference tick.
    at: u64,
}

impl TickClock {
    /// Makes the clock of a replay: ticks of this length, from the beginning of its time. No tick is 0, which
    /// means that a flow has not begun.
    pub(crate) const fn new(length: u64) -> Self {
        Self { length, tick: 1, at: 0 }
    }

    /// Measures the length of a tick and its position on the monotonic clock, by watching ticks change.
    /// `None` if they do not change.
    pub(crate) fn calibrate<E>(mut read_tick: impl FnMut() -> Result<u64, E>) -> Result<Option<Self>, E> {
        let mut samples: Vec<TickSample> = Vec::new();
        let begin = clock::now().as_nanos();
        loop {
            let before = clock::now().as_nanos();
            let tick = read_tick()?;
            let after = clock::now().as_nanos();
            if samples.last().is_none_or(|last| last.tick != tick) {
                samples.push(TickSample { tick, before, after });
            }
            let waited = Duration::from_nanos(after - begin);
            if waited >= MIN_CALIBRATION
                && let Some(found) = Self::unique_rate(&samples)
            {
                return Ok(Some(found));
            }
            if waited >= MAX_CALIBRATION {
                return Ok(Self::nearest_rate(&samples));
            }
        }
    }

    /// Returns the only tick rate that explains all observations. This process may have been delayed at any
    /// moment, so each observation is only a bound.
    fn unique_rate(samples: &[TickSample]) -> Option<Self> {
        let mut possible = TICK_RATES.into_iter().filter_map(|rate| Self::with_length(samples, length(rate)));
        possible.next().filter(|_| possible.next().is_none())
    }

    /// Returns the rate nearest to the whole observation.
    fn nearest_rate(samples: &[TickSample]) -> Option<Self> {
        let (first, last) = (samples.first()?, samples.last()?);
        let measured = (last.after - first.after).checked_div(last.tick.checked_sub(first.tick)?)?;
        let rate = TICK_RATES.into_iter().min_by_key(|rate| length(*rate).abs_diff(measured))?;
        Some(Self { length: length(rate), tick: first.tick, at: Self::latest_start(samples, length(rate))? })
    }

    /// Returns a clock of this tick length, if the observations allow it.
    fn with_length(samples: &[TickSample], length: u64) -> Option<Self> {
        let tick = samples.first()?.tick;
        let at = Self::latest_start(samples, length)?;
        // The kernel's tick may be late by one, too.
        let end = |sample: &TickSample| at + (sample.tick - tick + 2) * length;
        samples.iter().all(|sample| sample.before <= end(sample)).then_some(Self { length, tick, at })
    }

    /// Latest start of the first tick: a tick is seen late, never early.
    fn latest_start(samples: &[TickSample], length: u64) -> Option<u64> {
        let first = samples.first()?.tick;
        samples.iter().map(|sample| sample.after.saturating_sub((sample.tick - first) * length)).min()
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
    pub(crate) fn ticks_in(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(u128::from(self.length));
        u32::try_from(ticks).unwrap_or(u32::MAX).min(i32::MAX as u32)
    }

    /// Returns the time of a tick.
    pub(crate) fn time_of(&self, tick: u64) -> Time {
        let ticks = tick.wrapping_sub(self.tick) as i64;
        let distance = ticks.unsigned_abs().saturating_mul(self.length);
        let nanos =
            if ticks < 0 { self.at.saturating_sub(distance) } else { self.at.saturating_add(distance) };
        Time::from_nanos(nanos)
    }

    /// Returns the tick at a time.
    pub(crate) fn tick_at(&self, time: Time) -> u64 {
        let nanos = i128::from(time.as_nanos()) - i128::from(self.at);
        self.tick.wrapping_add(nanos.div_euclid(i128::from(self.length)) as u64)
    }

    /// Returns the time of a tick whose low word was stored: the one nearest to the tick `now`. Correct for
    /// 24 days at 1,000 ticks a second.
    pub(super) fn time_of_word(&self, word: u32, now: u64) -> Time {
        let distance = word.wrapping_sub(now as u32) as i32;
        self.time_of(now.wrapping_add_signed(i64::from(distance)))
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
    fn samples_of(length: u64, ticks: u64) -> Vec<TickSample> {
        let one = |n: u64| {
            let after = 5_000_000_000 + n * length + (n * 7919) % 90_000;
            TickSample { tick: u64::from(u32::MAX) - 2 + n, before: after - 2_000, after }
        };
        (0..ticks).map(one).collect()
    }

    const TICK_LENGTHS: [(u64, u64); 4] =
        [(100, 10_000_000), (250, 4_000_000), (300, 3_333_334), (1000, 1_000_000)];

    fn assert_position(ticks: &TickClock, length: u64) {
        assert_eq!(ticks.length, length);
        let third = ticks.time_of(u64::from(u32::MAX) + 1).as_nanos();
        let distance = third.abs_diff(5_000_000_000 + 3 * length);
        assert!(distance < 100_000, "{distance} ns off");
    }

    #[test]
    fn the_rate_is_found_from_late_samples() {
        for (rate, length) in TICK_LENGTHS {
            // Twice as long as it takes on a machine at rest.
            let samples = samples_of(length, 100_000_000 / length + 1);
            assert_position(
                &TickClock::unique_rate(&samples).unwrap_or_else(|| panic!("{rate}: more than one")),
                length,
            );
            assert_position(&TickClock::nearest_rate(&samples).unwrap(), length);
        }
        assert_eq!(TickClock::unique_rate(&[]), None);
        assert_eq!(TickClock::unique_rate(&samples_of(4_000_000, 2)), None, "too few to tell");
        assert_eq!(TickClock::nearest_rate(&samples_of(4_000_000, 1)), None, "they stand still");
    }

    #[test]
    fn delays_do_not_change_the_rate() {
        for (_, length) in TICK_LENGTHS {
            let whole = samples_of(length, 100_000_000 / length + 1);
            for late in 1..whole.len() {
                for wait in [5_000_000, 30_000_000, 400_000_000] {
                    // Between the reading of a tick and that of the clock, and between two readings.
                    let mut between = whole[..=late].to_vec();
                    between[late].after += wait;
                    let mut missed = whole.clone();
                    missed.retain(|sample| sample.tick == whole[0].tick || sample.tick > whole[late].tick);
                    for samples in [between, missed] {
                        if let Some(found) = TickClock::unique_rate(&samples) {
                            assert_eq!(found.length, length, "{late} {wait}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ticks_and_times_convert_both_ways() {
        let ticks = TickClock { length: 4_000_000, tick: 4_294_900_000, at: 1_000_000_000 };
        for tick in [4_294_900_000, 4_294_967_296, 4_294_967_300, 4_294_899_990] {
            assert_eq!(ticks.tick_at(ticks.time_of(tick)), tick);
        }
        for tick in [4_294_967_200_u64, 4_294_967_296, 4_294_967_401] {
            assert_eq!(
                ticks.time_of_word(tick as u32, 4_294_967_400),
                ticks.time_of(tick),
                "the word has wrapped"
            );
        }
    }
}
