//! Alerts of one rule that come faster than anybody reads them: one alert tells of all beyond a number a minute.
//!
//! ```text
//!          more than `alerts_per_minute` in a minute      ten minutes without a further one
//!  quiet ---------------------------------------> firing ----------------------------------> quiet
//!                                                  |  ^
//!                                                  +--+ once a minute, while there are more
//! ```

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    event::{Alert, AlertState},
    evidence::SHOWN,
    incident::{self, AlertPayload},
};
use crate::{
    eval::{
        group_key::GroupKey,
        window::value::{TermValue, Value},
    },
    flow::FlowRecord,
    network::Networks,
    rule::{Rule, RuleLimits},
    time::Time,
};

/// Over which time alerts are counted, and how often the one about many is told at most.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The alert about many ends when there was no further one for this long.
pub(crate) const QUIET: Duration = Duration::from_secs(600);

/// New alerts of one rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertRateLimit {
    /// When the minute began, and the alerts that were told in it.
    since: Time,
    /// Those about subjects that completed no handshake, and those about others.
    told: [u32; 2],
    /// Alerts that were not told by themselves, since the start.
    joined: u64,
    group: Option<AggregateAlert>,
}

/// Alerts that are told together.
#[derive(Clone, Debug)]
struct AggregateAlert {
    alert: Alert,
    subjects: u64,
    last: Time,
    /// When it was told, and of how many.
    told: (Time, u64),
}

/// New alerts of one rule, as they are saved: all but the examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedRateLimit {
    since: Time,
    told: [u32; 2],
    group: Option<SavedAggregate>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedAggregate {
    starts_at: Time,
    starts_at_unix: i128,
    attack: Vec<String>,
    complete: bool,
    threshold: u64,
    subjects: u64,
    last: Time,
    told: (Time, u64),
}

impl AlertRateLimit {
    /// Returns what is to be saved.
    pub(crate) fn save(&self) -> SavedRateLimit {
        let group = self.group.as_ref().map(|group| SavedAggregate {
            starts_at: group.alert.starts_at,
            starts_at_unix: group.alert.starts_at_unix,
            attack: group.alert.attack.clone(),
            complete: group.alert.complete,
            threshold: group.alert.decided.threshold,
            subjects: group.subjects,
            last: group.last,
            told: group.told,
        });
        SavedRateLimit { since: self.since, told: self.told, group }
    }

    /// Returns the examples of the alert about many subjects.
    pub(crate) fn examples(&self) -> &[Arc<FlowRecord>] {
        self.group.as_ref().map_or(&[], |group| &group.alert.flows)
    }

    /// Goes on as it was saved.
    pub(crate) fn restored(
        (rule, internal): (&Rule, &Networks),
        state: SavedRateLimit,
        examples: Vec<Arc<FlowRecord>>,
    ) -> Self {
        let SavedRateLimit { since, told, group } = state;
        let group = group.map(|group| {
            let (at, of) = group.told;
            let start = (group.starts_at, group.starts_at_unix);
            let terms = vec![subjects(of, u32::try_from(group.threshold).unwrap_or(u32::MAX))];
            let shown = AlertPayload { terms, flows: examples, cut: true, overflow: false };
            let alert = Alert {
                time: at,
                source: None,
                matched_network: None,
                group: None,
                role: None,
                attack: group.attack,
                complete: group.complete,
                ..incident::firing(rule, &GroupKey::Many, internal, start, 0, shown)
            };
            AggregateAlert { alert, subjects: group.subjects, last: group.last, told: group.told }
        });
        Self { since, told, joined: 0, group }
    }

    /// Returns true if a new alert is told by itself. Those that an allow-list suppresses are told to nobody. Spoofed
    /// sources complete no handshake, and do not use up what is for those that do.
    pub(crate) fn admits(
        &mut self,
        clock: Time,
        suppressed: bool,
        completed: bool,
        limits: &RuleLimits,
    ) -> bool {
        if suppressed {
            return true;
        }
        if self.since + MINUTE <= clock {
            (self.since, self.told) = (clock, [0; 2]);
        }
        let [half_open, others] = &mut self.told;
        let told = if completed { others } else { half_open };
        *told = told.saturating_add(1);
        *told <= limits.alerts_per_minute
    }

    /// Takes an alert that is not told by itself. Returns the alert about all of them, if this is the first.
    pub(crate) fn join(&mut self, clock: Time, alert: Alert, limits: &RuleLimits) -> Option<Alert> {
        self.joined += 1;
        let newest = alert.flows.last().cloned();
        match &mut self.group {
            Some(group) => {
                (group.subjects, group.last) = (group.subjects + 1, clock);
                // One flow of each of the newest is an example.
                if group.alert.flows.len() >= SHOWN {
                    group.alert.flows.remove(0);
                }
                group.alert.flows.extend(newest);
                None
            }
            None => {
                let alert = about_many(alert, newest, limits.alerts_per_minute);
                self.group =
                    Some(AggregateAlert { alert: alert.clone(), subjects: 1, last: clock, told: (clock, 1) });
                Some(alert)
            }
        }
    }

    /// Lets time pass. Returns what there is to tell of many subjects.
    pub(crate) fn pass(&mut self, clock: Time, limits: &RuleLimits) -> Option<Alert> {
        let group = self.group.as_mut()?;
        let ended = group.last + QUIET <= clock;
        let (at, of) = group.told;
        if !ended && (at + MINUTE > clock || of == group.subjects) {
            return None;
        }
        group.told = (clock, group.subjects);
        let decided = subjects(group.subjects, limits.alerts_per_minute);
        group.alert.terms = vec![decided.clone()];
        (group.alert.decided, group.alert.time) = (decided, clock);
        incident::show_flows(&mut group.alert);
        let mut alert = group.alert.clone();
        if ended {
            (alert.state, alert.ends_at) = (AlertState::Resolved, Some(group.last));
            self.group = None;
        }
        Some(alert)
    }

    /// The rule is gone. Returns the end of the alert about many subjects, if it fires.
    pub(crate) fn end(&mut self, clock: Time) -> Option<Alert> {
        let alert = self.group.take()?.alert;
        Some(Alert { state: AlertState::Resolved, time: clock, ends_at: Some(clock), ..alert })
    }

    /// Returns the alert about many subjects, if it fires.
    pub(crate) fn fires(&self) -> Option<&Alert> {
        self.group.as_ref().map(|group| &group.alert)
    }

    /// Returns how many alerts were not told by themselves, since the start.
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }
}

/// The alert about many subjects of a rule, of which `first` is one.
fn about_many(first: Alert, example: Option<Arc<FlowRecord>>, most: u32) -> Alert {
    let decided = subjects(1, most);
    let mut alert = Alert {
        fingerprint: incident::fingerprint(&first.rule, &GroupKey::Many),
        subject: GroupKey::Many,
        source: None,
        matched_network: None,
        group: None,
        role: None,
        terms: vec![decided.clone()],
        decided,
        flows: example.into_iter().collect(),
        cut: true,
        relay: None,
        ..first
    };
    incident::show_flows(&mut alert);
    alert
}

/// How many subjects there are, and from which number on they are told together.
pub(crate) fn subjects(number: u64, most: u32) -> TermValue {
    TermValue {
        name: "subjects".into(),
        window: MINUTE,
        value: Value::Exactly(number),
        threshold: u64::from(most),
        scale: 1,
        holds: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Engine,
        effects::Effects,
        fixture::{self, at},
        flow::{RecordReason, timeout},
        rule::Thresholds,
        settings::Settings,
    };

    /// An engine for which one flow of a source is too much.
    fn engine(limits: RuleLimits) -> Engine {
        let mut settings = Settings { limits, ..fixture::settings() };
        settings.rules[0].terms[0].level = Thresholds { at_least: 1, resolve_below: 1 };
        Engine::new(settings)
    }

    /// The flow of source `n`, a tenth of a second after the one before.
    fn see(engine: &mut Engine, n: u32) -> Effects {
        let now = at(1_000 + u64::from(n) / 10);
        let client = format!("10.0.{}.{}:4000", n / 200, n % 200 + 1);
        let flow = fixture::ending(fixture::flow(&client, "9.9.9.9:25"), now);
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.record(now, &record)
    }

    /// Sources of which each has one flow, which is too much, ten a second.
    fn alerts(sources: u32, limits: RuleLimits) -> (Engine, Vec<Alert>, usize) {
        let (mut engine, mut alerts, mut grouped) = (engine(limits), Vec::new(), 0);
        for n in 0..sources {
            let effects = see(&mut engine, n);
            alerts.extend(effects.alerts);
            grouped += effects.grouped.len();
        }
        (engine, alerts, grouped)
    }

    #[test]
    fn a_restart_neither_repeats_nor_forgets_what_is_told_of_many() {
        let limits =
            RuleLimits { alerts_per_minute: 10, flood_sources: 500, subjects: 2_000, ..RuleLimits::WIDEST };
        // 3,000 flows, and an hour and a half after them.
        let steps = |engine: &mut Engine, steps: std::ops::Range<u32>| -> Vec<Vec<Alert>> {
            let step = |n| match n {
                0..3_000 => see(engine, n).alerts,
                _ => engine.tick(at(1_300 + u64::from(n - 3_000) * 17)).alerts,
            };
            steps.map(step).collect()
        };
        let all = 3_000..3_400;
        let mut whole = engine(limits);
        let told = steps(&mut whole, 0..all.end);
        let of_many: Vec<_> = told.iter().flatten().filter(|alert| alert.subject == GroupKey::Many).collect();
        assert!(of_many.len() > 5 && of_many.last().unwrap().state == AlertState::Resolved);
        for kept in [5, 10, 11, 12, 105, 600, 1_777, 2_999, 3_010, 3_040] {
            let mut before = engine(limits);
            assert_eq!(steps(&mut before, 0..kept), told[..kept as usize]);
            let bytes = postcard::to_allocvec(&before.save()).unwrap();
            let mut after = engine(limits);
            after.restore(postcard::from_bytes(&bytes).unwrap());
            let fires = |engine: &Engine| -> Vec<_> {
                let alerts = engine.firing().into_iter().filter(|alert| alert.subject == GroupKey::Many);
                let which =
                    |alert: Alert| (alert.fingerprint, alert.starts_at_unix, alert.time, alert.decided);
                alerts.map(which).collect()
            };
            assert_eq!(fires(&after), fires(&before));
            assert_eq!(fires(&after).len(), usize::from(kept > 10 && kept < 3_040), "{kept}");
            // What was judged since the state was kept is judged again after a crash: the same alerts, not told again.
            assert_eq!(steps(&mut after, kept..all.end), told[kept as usize..], "kept after {kept}");
        }
    }

    #[test]
    fn beyond_the_rate_one_alert_tells_of_all() {
        let limits = RuleLimits { alerts_per_minute: 10, ..RuleLimits::WIDEST };
        // 3,000 sources in 300 seconds.
        let (mut engine, told, grouped) = alerts(3_000, limits);
        let many: Vec<_> = told.iter().filter(|alert| alert.subject == GroupKey::Many).collect();
        let single = told.len() - many.len();
        assert_eq!((single, grouped), (50, 2_950), "ten in each of five minutes");
        assert!((4..=6).contains(&many.len()), "{} about many", many.len());
        assert!(many.iter().all(|alert| alert.fingerprint == many[0].fingerprint));
        let last = many.last().unwrap();
        assert!(last.decided.value.number() > 2_000, "{:?}", last.decided);
        assert_eq!((last.flows.len(), &*last.decided.name), (20, "subjects"));
        assert_eq!(engine.rule_counts()[0].grouped, 2_950);
        // Those that were told by themselves, and the one about many.
        assert_eq!(engine.firing().len(), 51);
        let later: Vec<_> = (1..200).flat_map(|n| engine.tick(at(1_300 + n * 60)).alerts).collect();
        let resolved = |alert: &&Alert| alert.state == AlertState::Resolved;
        let ended: Vec<_> = later.iter().filter(resolved).collect();
        assert_eq!(ended.iter().filter(|alert| alert.subject == GroupKey::Many).count(), 1);
        assert_eq!(ended.len(), 51, "the end of each that was told, and of no other");
        assert_eq!((engine.firing().len(), engine.stats().rules.firing), (0, 0));
    }

    #[test]
    fn those_that_are_told_together_make_room_for_others() {
        let limits = RuleLimits { alerts_per_minute: 10, subjects: 500, ..RuleLimits::WIDEST };
        let (engine, told, grouped) = alerts(3_000, limits);
        let counts = &engine.rule_counts()[0];
        assert_eq!((counts.refused, counts.subjects), (0, 500), "each found room");
        assert_eq!(
            told.len() + grouped - 3_000,
            told.iter().filter(|alert| alert.subject == GroupKey::Many).count()
        );
        assert_eq!(engine.firing().len(), 51, "what was told by itself stays");
    }

    #[test]
    fn below_the_rate_each_is_told() {
        let limits = RuleLimits { alerts_per_minute: 600, ..RuleLimits::WIDEST };
        let (_, told, grouped) = alerts(3_000, limits);
        assert_eq!((told.len(), grouped), (3_000, 0));
    }
}
