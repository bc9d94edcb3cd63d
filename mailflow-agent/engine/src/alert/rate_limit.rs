//! Rate limit of a rule's alerts: one aggregate alert reports all alerts beyond the limit.
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
    evidence::MAX_ALERT_FLOWS,
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

/// Interval in which alerts are counted, and shortest interval between repeats of the aggregate alert.
pub(crate) const RATE_INTERVAL: Duration = Duration::from_secs(60);

/// Duration without a further alert after which the aggregate alert resolves.
pub(crate) const QUIET_PERIOD: Duration = Duration::from_secs(600);

/// Rate limit of the new alerts of one rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertRateLimit {
    /// Start of the current interval.
    interval_start: Time,
    /// Alerts of the interval: of half-open groups, and of other groups.
    notified: [u32; 2],
    /// Alerts that the aggregate alert reported, since the start.
    aggregated: u64,
    aggregate: Option<AggregateAlert>,
}

/// Aggregate alert.
#[derive(Clone, Debug)]
struct AggregateAlert {
    alert: Alert,
    groups: u64,
    last: Time,
    /// Time of the last report, and the number of groups in it.
    notified: (Time, u64),
}

/// Saved rate limit, without the example flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedRateLimit {
    interval_start: Time,
    notified: [u32; 2],
    aggregate: Option<SavedAggregate>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedAggregate {
    starts_at: Time,
    starts_at_unix: i128,
    attack: Vec<String>,
    complete: bool,
    threshold: u64,
    groups: u64,
    last: Time,
    notified: (Time, u64),
}

impl AlertRateLimit {
    /// Returns the state to save in a checkpoint.
    pub(crate) fn save(&self) -> SavedRateLimit {
        let aggregate = self.aggregate.as_ref().map(|aggregate| SavedAggregate {
            starts_at: aggregate.alert.starts_at,
            starts_at_unix: aggregate.alert.starts_at_unix,
            attack: aggregate.alert.attack.clone(),
            complete: aggregate.alert.complete,
            threshold: aggregate.alert.deciding_term.threshold,
            groups: aggregate.groups,
            last: aggregate.last,
            notified: aggregate.notified,
        });
        SavedRateLimit { interval_start: self.interval_start, notified: self.notified, aggregate }
    }

    /// Returns the example flows of the aggregate alert.
    pub(crate) fn examples(&self) -> &[Arc<FlowRecord>] {
        self.aggregate.as_ref().map_or(&[], |aggregate| &aggregate.alert.flows)
    }

    /// Returns the rate limit of a checkpoint.
    pub(crate) fn restored(
        (rule, internal): (&Rule, &Networks),
        state: SavedRateLimit,
        examples: Vec<Arc<FlowRecord>>,
    ) -> Self {
        let SavedRateLimit { interval_start, notified, aggregate } = state;
        let aggregate = aggregate.map(|aggregate| {
            let (at, of) = aggregate.notified;
            let start = (aggregate.starts_at, aggregate.starts_at_unix);
            let terms = vec![group_count(of, u32::try_from(aggregate.threshold).unwrap_or(u32::MAX))];
            let payload = AlertPayload { terms, flows: examples, is_truncated: true, overflow: false };
            let alert = Alert {
                time: at,
                source: None,
                matched_network: None,
                group: None,
                role: None,
                attack: aggregate.attack,
                complete: aggregate.complete,
                ..incident::firing_alert(rule, &GroupKey::Many, internal, start, 0, payload)
            };
            AggregateAlert {
                alert,
                groups: aggregate.groups,
                last: aggregate.last,
                notified: aggregate.notified,
            }
        });
        Self { interval_start, notified, aggregated: 0, aggregate }
    }

    /// Returns true if a new alert is below the limit. Suppressed alerts do not count. Half-open groups have a
    /// budget of their own, so that spoofed sources do not use that of real ones.
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
        if self.interval_start + RATE_INTERVAL <= clock {
            (self.interval_start, self.notified) = (clock, [0; 2]);
        }
        let [half_open, others] = &mut self.notified;
        let notified = if completed { others } else { half_open };
        *notified = notified.saturating_add(1);
        *notified <= limits.alerts_per_minute
    }

    /// Adds an alert to the aggregate alert. Returns the aggregate alert if this is its first one.
    pub(crate) fn aggregate(&mut self, clock: Time, alert: Alert, limits: &RuleLimits) -> Option<Alert> {
        self.aggregated += 1;
        let newest = alert.flows.last().cloned();
        match &mut self.aggregate {
            Some(aggregate) => {
                (aggregate.groups, aggregate.last) = (aggregate.groups + 1, clock);
                // One flow of each of the newest groups is an example.
                if aggregate.alert.flows.len() >= MAX_ALERT_FLOWS {
                    aggregate.alert.flows.remove(0);
                }
                aggregate.alert.flows.extend(newest);
                None
            }
            None => {
                let alert = aggregate_alert(alert, newest, limits.alerts_per_minute);
                self.aggregate = Some(AggregateAlert {
                    alert: alert.clone(),
                    groups: 1,
                    last: clock,
                    notified: (clock, 1),
                });
                Some(alert)
            }
        }
    }

    /// Advances the time. Returns the aggregate alert if it repeats or resolves.
    pub(crate) fn advance(&mut self, clock: Time, limits: &RuleLimits) -> Option<Alert> {
        let aggregate = self.aggregate.as_mut()?;
        let ended = aggregate.last + QUIET_PERIOD <= clock;
        let (at, of) = aggregate.notified;
        if !ended && (at + RATE_INTERVAL > clock || of == aggregate.groups) {
            return None;
        }
        aggregate.notified = (clock, aggregate.groups);
        let deciding_term = group_count(aggregate.groups, limits.alerts_per_minute);
        aggregate.alert.terms = vec![deciding_term.clone()];
        (aggregate.alert.deciding_term, aggregate.alert.time) = (deciding_term, clock);
        incident::summarise_flows(&mut aggregate.alert);
        let mut alert = aggregate.alert.clone();
        if ended {
            (alert.state, alert.ends_at) = (AlertState::Resolved, Some(aggregate.last));
            self.aggregate = None;
        }
        Some(alert)
    }

    /// Ends a removed rule. Returns the resolved aggregate alert if it was firing.
    pub(crate) fn end_rule(&mut self, clock: Time) -> Option<Alert> {
        let alert = self.aggregate.take()?.alert;
        Some(Alert { state: AlertState::Resolved, time: clock, ends_at: Some(clock), ..alert })
    }

    /// Returns the aggregate alert if it is firing.
    pub(crate) fn active_alert(&self) -> Option<&Alert> {
        self.aggregate.as_ref().map(|aggregate| &aggregate.alert)
    }

    /// Returns the number of alerts that the aggregate alert reported, since the start.
    pub(crate) fn aggregated(&self) -> u64 {
        self.aggregated
    }
}

/// Returns the aggregate alert of a rule; `first` is its first alert.
fn aggregate_alert(first: Alert, example: Option<Arc<FlowRecord>>, alerts_per_minute: u32) -> Alert {
    let deciding_term = group_count(1, alerts_per_minute);
    let mut alert = Alert {
        fingerprint: incident::fingerprint(&first.rule, &GroupKey::Many),
        group_key: GroupKey::Many,
        source: None,
        matched_network: None,
        group: None,
        role: None,
        terms: vec![deciding_term.clone()],
        deciding_term,
        flows: example.into_iter().collect(),
        is_truncated: true,
        relay: None,
        ..first
    };
    incident::summarise_flows(&mut alert);
    alert
}

/// Returns the number of groups, and the limit, as a term value.
pub(crate) fn group_count(number: u64, alerts_per_minute: u32) -> TermValue {
    TermValue {
        name: "subjects".into(),
        window: RATE_INTERVAL,
        value: Value::Exactly(number),
        threshold: u64::from(alerts_per_minute),
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

    /// Returns an engine with a rule that fires at one flow of a source.
    fn engine(limits: RuleLimits) -> Engine {
        let mut settings = Settings { limits, ..fixture::settings() };
        settings.rules[0].terms[0].thresholds = Thresholds { at_least: 1, resolve_below: 1 };
        Engine::new(settings)
    }

    /// Evaluates the flow of source `n`; flows are a tenth of a second apart.
    fn see(engine: &mut Engine, n: u32) -> Effects {
        let now = at(1_000 + u64::from(n) / 10);
        let client = format!("10.0.{}.{}:4000", n / 200, n % 200 + 1);
        let flow = fixture::ending(fixture::flow(&client, "9.9.9.9:25"), now);
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.ingest_record(now, &record)
    }

    /// Evaluates one flow of each of so many sources, ten a second.
    fn alerts(sources: u32, limits: RuleLimits) -> (Engine, Vec<Alert>, usize) {
        let (mut engine, mut alerts, mut aggregated_alerts) = (engine(limits), Vec::new(), 0);
        for n in 0..sources {
            let effects = see(&mut engine, n);
            alerts.extend(effects.alerts);
            aggregated_alerts += effects.aggregated_alerts.len();
        }
        (engine, alerts, aggregated_alerts)
    }

    #[test]
    fn a_restart_keeps_the_aggregate_alert() {
        let limits =
            RuleLimits { alerts_per_minute: 10, flood_sources: 500, groups: 2_000, ..RuleLimits::WIDEST };
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
        let notified = steps(&mut whole, 0..all.end);
        let of_many: Vec<_> =
            notified.iter().flatten().filter(|alert| alert.group_key == GroupKey::Many).collect();
        assert!(of_many.len() > 5 && of_many.last().unwrap().state == AlertState::Resolved);
        for kept in [5, 10, 11, 12, 105, 600, 1_777, 2_999, 3_010, 3_040] {
            let mut before = engine(limits);
            assert_eq!(steps(&mut before, 0..kept), notified[..kept as usize]);
            let bytes = postcard::to_allocvec(&before.save()).unwrap();
            let mut after = engine(limits);
            after.restore(postcard::from_bytes(&bytes).unwrap());
            let fires = |engine: &Engine| -> Vec<_> {
                let alerts = engine.firing().into_iter().filter(|alert| alert.group_key == GroupKey::Many);
                let which = |alert: Arc<Alert>| {
                    let Alert { fingerprint, starts_at_unix, time, deciding_term, .. } =
                        Arc::unwrap_or_clone(alert);
                    (fingerprint, starts_at_unix, time, deciding_term)
                };
                alerts.map(which).collect()
            };
            assert_eq!(fires(&after), fires(&before));
            assert_eq!(fires(&after).len(), usize::from(kept > 10 && kept < 3_040), "{kept}");
            // After a crash the inputs since the checkpoint are replayed: they give equal alerts.
            assert_eq!(steps(&mut after, kept..all.end), notified[kept as usize..], "kept after {kept}");
        }
    }

    #[test]
    fn beyond_the_limit_one_alert_reports_all() {
        let limits = RuleLimits { alerts_per_minute: 10, ..RuleLimits::WIDEST };
        // 3,000 sources in 300 seconds.
        let (mut engine, notified, aggregated_alerts) = alerts(3_000, limits);
        let many: Vec<_> = notified.iter().filter(|alert| alert.group_key == GroupKey::Many).collect();
        let single = notified.len() - many.len();
        assert_eq!((single, aggregated_alerts), (50, 2_950), "ten in each of five minutes");
        assert!((4..=6).contains(&many.len()), "{} about many", many.len());
        assert!(many.iter().all(|alert| alert.fingerprint == many[0].fingerprint));
        let last = many.last().unwrap();
        assert!(last.deciding_term.value.number() > 2_000, "{:?}", last.deciding_term);
        assert_eq!((last.flows.len(), &*last.deciding_term.name), (20, "subjects"));
        assert_eq!(engine.rule_counts()[0].aggregated_alerts, 2_950);
        // The alerts below the limit, and the aggregate alert.
        assert_eq!(engine.firing().len(), 51);
        let later: Vec<_> = (1..200).flat_map(|n| engine.tick(at(1_300 + n * 60)).alerts).collect();
        let resolved = |alert: &&Alert| alert.state == AlertState::Resolved;
        let ended: Vec<_> = later.iter().filter(resolved).collect();
        assert_eq!(ended.iter().filter(|alert| alert.group_key == GroupKey::Many).count(), 1);
        assert_eq!(ended.len(), 51, "one resolve for each notified alert");
        assert_eq!((engine.firing().len(), engine.stats().rules.firing), (0, 0));
    }

    #[test]
    fn aggregated_groups_are_removed_first() {
        let limits = RuleLimits { alerts_per_minute: 10, groups: 500, ..RuleLimits::WIDEST };
        let (engine, notified, aggregated_alerts) = alerts(3_000, limits);
        let counts = &engine.rule_counts()[0];
        assert_eq!((counts.refused, counts.groups), (0, 500), "each found room");
        assert_eq!(
            notified.len() + aggregated_alerts - 3_000,
            notified.iter().filter(|alert| alert.group_key == GroupKey::Many).count()
        );
        assert_eq!(engine.firing().len(), 51, "groups with an alert of their own stay");
    }

    #[test]
    fn below_the_limit_each_alert_is_emitted() {
        let limits = RuleLimits { alerts_per_minute: 600, ..RuleLimits::WIDEST };
        let (_, notified, aggregated_alerts) = alerts(3_000, limits);
        assert_eq!((notified.len(), aggregated_alerts), (3_000, 0));
    }
}
