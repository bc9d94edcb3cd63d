//! Sources that begin connections and complete none, in numbers that no network has: spoofed addresses.
//!
//! A client that is not at its address gets no answer, so it completes no handshake. A flood is named where the sources
//! of one minute that are new and had no flow that was answered with payload reach `flood_sources`, and are ten times
//! as many as those that had one. Its alert has the name of no rule: `spoofed-sources`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    event::{Alert, AlertState, FlowTotals},
    incident,
    rate_limit::{MINUTE, QUIET, subjects},
};
use crate::{
    eval::group_key::GroupKey,
    rule::{RuleLimits, Severity},
    time::{Time, WallClockOffset},
};

/// How many half-open sources there must be for each other one.
const SHARE: u64 = 10;

/// Sources that are new.
#[derive(Clone, Debug, Default)]
pub(crate) struct FloodDetector {
    since: Time,
    half_open: u64,
    completed: u64,
    /// Half-open ones since the start.
    seen: u64,
    /// The alert that fires, with the last minute that was one of the flood.
    fires: Option<(Alert, Time)>,
}

/// Sources that are new, as they are saved.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedFlood {
    since: Time,
    half_open: u64,
    completed: u64,
    fires: Option<SavedFloodAlert>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SavedFloodAlert {
    starts_at: Time,
    starts_at_unix: i128,
    time: Time,
    number: u64,
    threshold: u32,
    last: Time,
}

impl FloodDetector {
    /// Returns what is to be saved.
    pub(crate) fn save(&self) -> SavedFlood {
        let Self { since, half_open, completed, .. } = *self;
        let fires = self.fires.as_ref().map(|(alert, last)| SavedFloodAlert {
            starts_at: alert.starts_at,
            starts_at_unix: alert.starts_at_unix,
            time: alert.time,
            number: alert.decided.value.number(),
            threshold: u32::try_from(alert.decided.threshold).unwrap_or(u32::MAX),
            last: *last,
        });
        SavedFlood { since, half_open, completed, fires }
    }

    /// Goes on as it was saved.
    pub(crate) fn restored(state: SavedFlood) -> Self {
        let SavedFlood { since, half_open, completed, fires } = state;
        let fires = fires.map(|fires| {
            let alert = about((fires.starts_at, fires.starts_at_unix), fires.number, fires.threshold);
            (Alert { time: fires.time, ..alert }, fires.last)
        });
        Self { since, half_open, completed, seen: 0, fires }
    }

    /// A source is new, for some rule.
    pub(crate) fn see(&mut self, clock: Time, completed: bool) {
        if self.since == Time::ZERO {
            self.since = clock;
        }
        if completed {
            self.completed += 1;
        } else {
            self.half_open += 1;
            self.seen += 1;
        }
    }

    /// Lets time pass. Returns what there is to tell.
    pub(crate) fn pass(&mut self, clock: Time, epoch: WallClockOffset, limits: &RuleLimits) -> Option<Alert> {
        let (half_open, completed) = (self.half_open, self.completed);
        let is_flood = half_open >= u64::from(limits.flood_sources) && half_open >= completed * SHARE;
        // The first alert need not wait for the end of the minute.
        if self.since + MINUTE > clock && (!is_flood || self.fires.is_some()) {
            return None;
        }
        if self.since + MINUTE <= clock {
            (self.since, self.half_open, self.completed) = (clock, 0, 0);
        }
        match &mut self.fires {
            None if is_flood => {
                let start = (clock, epoch.unix_nanos(clock));
                let alert = about(start, half_open, limits.flood_sources);
                self.fires = Some((alert.clone(), clock));
                Some(alert)
            }
            None => None,
            Some((alert, last)) if is_flood => {
                *last = clock;
                let decided = subjects(half_open, limits.flood_sources);
                alert.terms = vec![decided.clone()];
                (alert.decided, alert.time) = (decided, clock);
                Some(alert.clone())
            }
            Some((_, last)) if *last + QUIET > clock => None,
            Some((_, last)) => {
                let ends_at = Some(*last);
                let (alert, _) = self.fires.take()?;
                Some(Alert { state: AlertState::Resolved, time: clock, ends_at, ..alert })
            }
        }
    }

    /// Returns its alert, if it fires.
    pub(crate) fn fires(&self) -> Option<&Alert> {
        self.fires.as_ref().map(|(alert, _)| alert)
    }

    /// Returns true if a flood lasts.
    pub(crate) fn lasts(&self) -> bool {
        self.fires.is_some()
    }

    /// Returns how many new sources were half-open, since the start.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }
}

/// The alert about a flood that began at this moment, which is also one of the wall clock.
fn about((starts_at, starts_at_unix): (Time, i128), number: u64, threshold: u32) -> Alert {
    let decided = subjects(number, threshold);
    let rule: Arc<str> = RuleLimits::FLOOD_ALERT.into();
    Alert {
        fingerprint: incident::fingerprint(&rule, &GroupKey::Many),
        rule,
        rule_version: 1,
        state: AlertState::Firing,
        severity: Severity::High,
        time: starts_at,
        starts_at,
        starts_at_unix,
        ends_at: None,
        subject: GroupKey::Many,
        source: None,
        matched_network: None,
        group: None,
        role: None,
        suppressed: None,
        terms: vec![decided.clone()],
        decided,
        labels: BTreeMap::new(),
        // Network denial of service: direct network flood.
        attack: vec!["T1498.001".to_owned()],
        first: starts_at,
        last: starts_at,
        ports: Vec::new(),
        apps: Vec::new(),
        destinations: Vec::new(),
        sums: FlowTotals::default(),
        flows: Vec::new(),
        complete: true,
        cut: false,
        relay: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;

    fn limits() -> RuleLimits {
        RuleLimits { flood_sources: 1_000, ..RuleLimits::WIDEST }
    }

    #[test]
    fn many_that_complete_no_handshake_are_a_flood_until_ten_minutes_without() {
        let (mut flood, mut told) = (FloodDetector::default(), Vec::new());
        for second in 1_000..3_000 {
            // 100 a second for five minutes.
            let number = if second < 1_300 { 100 } else { 1 };
            (0..number).for_each(|_| flood.see(at(second), false));
            told.extend(flood.pass(at(second), WallClockOffset::default(), &limits()));
        }
        let first = &told[0];
        assert_eq!((first.state, first.time), (AlertState::Firing, at(1_009)), "at once");
        assert_eq!(
            (&*first.rule, first.subject.to_string()),
            ("spoofed-sources", "many subjects".to_owned())
        );
        assert!((4..=8).contains(&told.len()), "{}", told.len());
        let last = told.last().unwrap();
        assert_eq!(last.state, AlertState::Resolved);
        assert!(last.time >= at(1_300) + QUIET && !flood.lasts());
        assert_eq!(flood.seen(), 30_000 + 1_700);
    }

    #[test]
    fn a_restart_neither_repeats_nor_forgets_it() {
        let step = |flood: &mut FloodDetector, second: u64| {
            let number = if second < 1_300 { 100 } else { 1 };
            (0..number).for_each(|_| flood.see(at(second), false));
            flood.pass(at(second), WallClockOffset::default(), &limits())
        };
        let mut whole = FloodDetector::default();
        let told: Vec<_> = (1_000..3_000).map(|second| step(&mut whole, second)).collect();
        for kept in [1_005, 1_009, 1_010, 1_100, 1_500, 1_900, 2_500] {
            let mut flood = FloodDetector::default();
            (1_000..kept).for_each(|second| drop(step(&mut flood, second)));
            let bytes = postcard::to_allocvec(&flood.save()).unwrap();
            let mut after = FloodDetector::restored(postcard::from_bytes(&bytes).unwrap());
            assert_eq!(after.fires(), flood.fires(), "{kept}");
            let rest: Vec<_> = (kept..3_000).map(|second| step(&mut after, second)).collect();
            assert_eq!(rest, told[kept as usize - 1_000..], "{kept}");
        }
    }

    #[test]
    fn a_busy_morning_is_none() {
        let mut flood = FloodDetector::default();
        for second in 1_000..2_000 {
            (0..100).for_each(|n| flood.see(at(second), n % 5 == 0));
            assert_eq!(flood.pass(at(second), WallClockOffset::default(), &limits()), None);
        }
    }
}
