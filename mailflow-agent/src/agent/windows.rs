//! What the rules' windows hold, for who looks: not more often than it is worth.

use std::time::Duration;

use crate::{
    clock,
    engine::{Engine, event::WindowValue, time::Time},
};

/// To go over a million sources takes a while: at most one part in this many of the time.
const SHARE: u32 = 20;
/// What is shown is at most this old.
const OLDEST: Duration = Duration::from_secs(30);

/// When the windows are gone over again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    next: Time,
}

impl Windows {
    /// What the windows hold at `now`, if it is time.
    pub(super) fn show(&mut self, engine: &Engine, now: Time) -> Option<Vec<WindowValue>> {
        if now < self.next {
            return None;
        }
        let begin = clock::now();
        let values = engine.windows(now);
        self.next = now + rest(clock::now().since(begin));
        Some(values)
    }
}

fn rest(took: Duration) -> Duration {
    (took * SHARE).min(OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_less_often() {
        assert_eq!(rest(Duration::from_micros(50)), Duration::from_millis(1));
        assert_eq!(rest(Duration::from_millis(500)), Duration::from_secs(10));
        assert_eq!(rest(Duration::from_secs(60)), OLDEST);
    }
}
