//! The program's clock: jiffies, and where they lie on the monotonic clock.

use std::time::Duration;

use crate::{clock, engine::time::Time};

/// Tick lengths kernels are built with (CONFIG_HZ of all architectures), per second.
const RATES: [u64; 10] = [24, 32, 48, 64, 100, 128, 250, 300, 512, 1000];
/// How long the ticks are watched.
const WATCH: Duration = Duration::from_millis(50);
/// How long to wait for them at most: a tick may be late, not absent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Turns the program's ticks into times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Length of a tick in nanoseconds.
    length: u64,
    /// The tick at ...
    tick: u64,
    /// ... this time.
    at: u64,
}

impl Ticks {
    /// A clock whose ticks are `length` long and begin with the clock: replay's.
    pub(super) const fn of(length: u64) -> Self {
        Self { length, tick: 0, at: 0 }
    }

    /// Finds out how long a tick is and where ticks lie on the monotonic clock, by watching them
    /// change. `None` when they do not.
    pub(super) fn watch<E>(mut ticks: impl FnMut() -> Result<u64, E>) -> Result<Option<Self>, E> {
        let mut edges: Vec<(u64, u64)> = Vec::new();
        let begin = clock::now().as_nanos();
        let mut before = ticks()?;
        loop {
            let tick = ticks()?;
            let time = clock::now().as_nanos();
            if tick != before {
                edges.push((tick, time));
                before = tick;
            }
            let waited = Duration::from_nanos(time - begin);
            if (waited >= WATCH && edges.len() >= 3) || waited >= PATIENCE {
                return Ok(Self::fit(&edges));
            }
        }
    }

    fn fit(edges: &[(u64, u64)]) -> Option<Self> {
        let (first, last) = (edges.first()?, edges.last()?);
        let measured = (last.1 - first.1).checked_div(last.0.checked_sub(first.0)?)?;
        let rate = RATES.into_iter().min_by_key(|rate| (1_000_000_000 / rate).abs_diff(measured))?;
        let length = 1_000_000_000_u64.div_ceil(rate);
        // An edge is seen late, never early: the earliest is the truest.
        let (tick, at) = edges.iter().min_by_key(|(tick, at)| at - (tick - first.0) * length)?;
        Some(Self { length, tick: *tick, at: *at })
    }

    /// The ticks that a time of this length takes, the last one whole. At most what the sign of a
    /// word of ticks can tell.
    pub(super) fn count(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(u128::from(self.length));
        u32::try_from(ticks).unwrap_or(u32::MAX).min(i32::MAX as u32)
    }

    /// The time of a tick.
    pub(super) fn time(&self, tick: u64) -> Time {
        let ticks = tick.wrapping_sub(self.tick) as i64;
        let distance = ticks.unsigned_abs().saturating_mul(self.length);
        let nanos =
            if ticks < 0 { self.at.saturating_sub(distance) } else { self.at.saturating_add(distance) };
        Time::from_nanos(nanos)
    }

    /// The tick at a time.
    pub(super) fn tick(&self, time: Time) -> u64 {
        let nanos = i128::from(time.as_nanos()) - i128::from(self.at);
        self.tick.wrapping_add(nanos.div_euclid(i128::from(self.length)) as u64)
    }

    /// The time of a tick of which only the low word was kept: the one nearest to the tick `now`, which is
    /// right for 24 days at 1,000 ticks a second.
    pub(super) fn time_of_word(&self, word: u32, now: u64) -> Time {
        let distance = word.wrapping_sub(now as u32) as i32;
        self.time(now.wrapping_add_signed(i64::from(distance)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_from_late_edges() {
        for (rate, length) in [(100, 10_000_000), (250, 4_000_000), (300, 3_333_334), (1000, 1_000_000)] {
            let edge =
                |n: u64| (u64::from(u32::MAX) - 2 + n, 5_000_000_000 + n * length + (n * 7919) % 90_000);
            let edges: Vec<_> = (0..50_000_000 / length + 1).map(edge).collect();
            let ticks = Ticks::fit(&edges).unwrap();
            assert_eq!(ticks.length, length, "{rate} a second");
            let distance = ticks.time(edges[3].0).as_nanos().abs_diff(5_000_000_000 + 3 * length);
            assert!(distance < 100_000, "{distance} ns off");
        }
        assert_eq!(Ticks::fit(&[(1, 1)]), None);
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
