//! Detector of spoofed sources: floods of sources that complete no handshake.
//!
//! A client with a spoofed address gets no answer, so it completes no handshake. The detector counts the new
//! sources of a minute without payload from a server (half-open). A flood is reported if there are at least
//! `flood_sources` of them, and ten times as many as other new sources. Its alert is not of a rule, and has the
//! name `spoofed-sources`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    event::{Alert, AlertState, FlowTotals},
    incident,
    rate_limit::{QUIET_PERIOD, RATE_INTERVAL, group_count},
};
use crate::{
    eval::group_key::GroupKey,
    rule::{RuleLimits, Severity},
    time::{Time, WallClockOffset},
};

/// Ratio of half-open sources to other sources from which on they are a flood.
const HALF_OPEN_RATIO: u64 = 10;

/// Counts of new sources, and the alert.
#[derive(Clone, Debug, Default)]
pub(crate) struct FloodDetector {
    interval_start: Time,
    half_open: u64,
    completed: u64,
    /// Half-open sources since the start.
    half_open_total: u64,
    /// Firing alert, with the last time at which the flood was detected.
    active: Option<(Alert, Time)>,
}

/// Saved detector.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedFlood {
    interval_start: Time,
    half_open: u64,
    completed: u64,
    active: Option<SavedFloodAlert>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SavedFloodAlert {
    starts_at: Time,
    starts_at_unix: i128,
    time: Time,
    sources: u64,
    threshold: u32,
    last: Time,
}

impl FloodDetector {
    /// Returns the state to save in a checkpoint.
    pub(crate) fn save(&self) -> SavedFlood {
        let Self { interval_start, half_open, completed, .. } = *self;
        let active = self.active.as_ref().map(|(alert, last)| SavedFloodAlert {
            starts_at: alert.starts_at,
            starts_at_unix: alert.starts_at_unix,
            time: alert.time,
            sources: alert.deciding_term.value.number(),
            threshold: u32::try_from(alert.deciding_term.threshold).unwrap_or(u32::MAX),
            last: *last,
        });
        SavedFlood { interval_start, half_open, completed, active }
    }

    /// Returns the detector of a checkpoint.
    pub(crate) fn restored(state: SavedFlood) -> Self {
        let SavedFlood { interval_start, half_open, completed, active } = state;
        let active = active.map(|active| {
            let alert =
                flood_alert((active.starts_at, active.starts_at_unix), active.sources, active.threshold);
            (Alert { time: active.time, ..alert }, active.last)
        });
        Self { interval_start, half_open, completed, half_open_total: 0, active }
    }

    /// Counts a source that is new for some rule.
    pub(crate) fn count_source(&mut self, clock: Time, completed: bool) {
        if self.interval_start == Time::ZERO {
            self.interval_start = clock;
        }
        if completed {
            self.completed += 1;
        } else {
            self.half_open += 1;
            self.half_open_total += 1;
        }
    }

    /// Advances the time. Returns the alert if it fires, repeats or resolves.
    pub(crate) fn advance(
        &mut self,
        clock: Time,
        clock_offset: WallClockOffset,
        limits: &RuleLimits,
    ) -> Option<Alert> {
        let (half_open, completed) = (self.half_open, self.completed);
        let is_flood =
            half_open >= u64::from(limits.flood_sources) && half_open >= completed * HALF_OPEN_RATIO;
        // The first alert does not wait for the end of the minute.
        if self.interval_start + RATE_INTERVAL > clock && (!is_flood || self.active.is_some()) {
            return None;
        }
        if self.interval_start + RATE_INTERVAL <= clock {
            (self.interval_start, self.half_open, self.completed) = (clock, 0, 0);
        }
        match &mut self.active {
            None if is_flood => {
                let start = (clock, clock_offset.unix_nanos(clock));
                let alert = flood_alert(start, half_open, limits.flood_sources);
                self.active = Some((alert.clone(), clock));
                Some(alert)
            }
            None => None,
            Some((alert, last)) if is_flood => {
                *last = clock;
                let deciding_term = group_count(half_open, limits.flood_sources);
                alert.terms = vec![deciding_term.clone()];
                (alert.deciding_term, alert.time) = (deciding_term, clock);
                Some(alert.clone())
            }
            Some((_, last)) if *last + QUIET_PERIOD > clock => None,
            Some((_, last)) => {
                let ends_at = Some(*last);
                let (alert, _) = self.active.take()?;
                Some(Alert { state: AlertState::Resolved, time: clock, ends_at, ..alert })
            }
        }
    }

    /// Returns the alert if it is firing.
    pub(crate) fn active_alert(&self) -> Option<&Alert> {
        self.active.as_ref().map(|(alert, _)| alert)
    }

    /// Returns true while a flood is reported.
    pub(crate) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Returns the number of new half-open sources, since the start.
    pub(crate) fn half_open_sources(&self) -> u64 {
        self.half_open_total
    }
}

/// Returns the alert of a flood that starts at this time, which is also given in wall-clock time.
fn flood_alert((starts_at, starts_at_unix): (Time, i128), sources: u64, threshold: u32) -> Alert {
    let deciding_term = group_count(sources, threshold);
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
        group_key: GroupKey::Many,
        source: None,
        matched_network: None,
        group: None,
        role: None,
        suppressed: None,
        terms: vec![deciding_term.clone()],
        deciding_term,
        labels: BTreeMap::new(),
        // MITRE ATT&CK: network denial of service, direct network flood.
        attack: vec!["T1498.001".to_owned()],
        first: starts_at,
        last: starts_at,
        ports: Vec::new(),
        apps: Vec::new(),
        destinations: Vec::new(),
        sums: FlowTotals::default(),
        flows: Vec::new(),
        complete: true,
        is_truncated: false,
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
    fn many_half_open_sources_are_a_flood_until_ten_quiet_minutes() {
        let (mut detector, mut alerts) = (FloodDetector::default(), Vec::new());
        for second in 1_000..3_000 {
            // 100 a second for five minutes.
            let sources = if second < 1_300 { 100 } else { 1 };
            (0..sources).for_each(|_| detector.count_source(at(second), false));
            alerts.extend(detector.advance(at(second), WallClockOffset::default(), &limits()));
        }
        let first = &alerts[0];
        assert_eq!((first.state, first.time), (AlertState::Firing, at(1_009)), "at once");
        assert_eq!(
            (&*first.rule, first.group_key.to_string()),
            ("spoofed-sources", "many subjects".to_owned())
        );
        assert!((4..=8).contains(&alerts.len()), "{}", alerts.len());
        let last = alerts.last().unwrap();
        assert_eq!(last.state, AlertState::Resolved);
        assert!(last.time >= at(1_300) + QUIET_PERIOD && !detector.is_active());
        assert_eq!(detector.half_open_sources(), 30_000 + 1_700);
    }

    #[test]
    fn a_restart_keeps_the_alert_of_a_flood() {
        let step = |detector: &mut FloodDetector, second: u64| {
            let sources = if second < 1_300 { 100 } else { 1 };
            (0..sources).for_each(|_| detector.count_source(at(second), false));
            detector.advance(at(second), WallClockOffset::default(), &limits())
        };
        let mut whole = FloodDetector::default();
        let alerts: Vec<_> = (1_000..3_000).map(|second| step(&mut whole, second)).collect();
        for kept in [1_005, 1_009, 1_010, 1_100, 1_500, 1_900, 2_500] {
            let mut detector = FloodDetector::default();
            (1_000..kept).for_each(|second| drop(step(&mut detector, second)));
            let bytes = postcard::to_allocvec(&detector.save()).unwrap();
            let mut after = FloodDetector::restored(postcard::from_bytes(&bytes).unwrap());
            assert_eq!(after.active_alert(), detector.active_alert(), "{kept}");
            let rest: Vec<_> = (kept..3_000).map(|second| step(&mut after, second)).collect();
            assert_eq!(rest, alerts[kept as usize - 1_000..], "{kept}");
        }
    }

    #[test]
    fn many_completed_sources_are_no_flood() {
        let mut detector = FloodDetector::default();
        for second in 1_000..2_000 {
            (0..100).for_each(|n| detector.count_source(at(second), n % 5 == 0));
            assert_eq!(detector.advance(at(second), WallClockOffset::default(), &limits()), None);
        }
    }
}
