//! Alerts of one rule that come faster than anybody reads them: one alert tells of all beyond a number a minute.
//!
//! ```text
//!          more than `alerts_per_minute` in a minute      ten minutes without a further one
//!  quiet ---------------------------------------> firing ----------------------------------> quiet
//!                                                  |  ^
//!                                                  +--+ once a minute, while there are more
//! ```

use std::{sync::Arc, time::Duration};

use super::super::{
    alert,
    event::{Alert, AlertState, TermValue, Value},
    evidence::SHOWN,
    flow::FlowRecord,
    settings::RuleLimits,
    subject::Subject,
    time::Time,
};

/// Over which time alerts are counted, and how often the one about many is told at most.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The alert about many ends when there was no further one for this long.
pub(super) const QUIET: Duration = Duration::from_secs(600);

/// New alerts of one rule.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Burst {
    /// When the minute began, and the alerts that were told in it.
    since: Time,
    /// Those about subjects that completed no handshake, and those about others.
    told: [u32; 2],
    /// Alerts that were not told by themselves, since the start.
    joined: u64,
    group: Option<Group>,
}

/// Alerts that are told together.
#[derive(Clone, Debug)]
struct Group {
    alert: Alert,
    subjects: u64,
    last: Time,
    /// When it was told, and of how many.
    told: (Time, u64),
}

impl Burst {
    /// Returns true if a new alert is told by itself. Those that an allow-list suppresses are told to nobody. Spoofed
    /// sources complete no handshake, and do not use up what is for those that do.
    pub(super) fn admits(
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
    pub(super) fn join(&mut self, clock: Time, alert: Alert, limits: &RuleLimits) -> Option<Alert> {
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
                self.group = Some(Group { alert: alert.clone(), subjects: 1, last: clock, told: (clock, 1) });
                Some(alert)
            }
        }
    }

    /// Lets time pass. Returns what there is to tell of many subjects.
    pub(super) fn pass(&mut self, clock: Time, limits: &RuleLimits) -> Option<Alert> {
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
        alert::show_flows(&mut group.alert);
        let mut alert = group.alert.clone();
        if ended {
            (alert.state, alert.ends_at) = (AlertState::Resolved, Some(group.last));
            self.group = None;
        }
        Some(alert)
    }

    /// The rule is gone. Returns the end of the alert about many subjects, if it fires.
    pub(super) fn end(&mut self, clock: Time) -> Option<Alert> {
        let alert = self.group.take()?.alert;
        Some(Alert { state: AlertState::Resolved, time: clock, ends_at: Some(clock), ..alert })
    }

    /// Returns the alert about many subjects, if it fires.
    pub(super) fn fires(&self) -> Option<&Alert> {
        self.group.as_ref().map(|group| &group.alert)
    }

    /// Returns how many alerts were not told by themselves, since the start.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }
}

/// The alert about many subjects of a rule, of which `first` is one.
fn about_many(first: Alert, example: Option<Arc<FlowRecord>>, most: u32) -> Alert {
    let decided = subjects(1, most);
    let mut alert = Alert {
        fingerprint: alert::fingerprint(&first.rule, &Subject::Many),
        subject: Subject::Many,
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
    alert::show_flows(&mut alert);
    alert
}

/// How many subjects there are, and from which number on they are told together.
pub(super) fn subjects(number: u64, most: u32) -> TermValue {
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
    use super::{
        super::super::{
            Engine,
            fixture::{self, at},
            flow::RecordReason,
            lifetime,
            settings::{Level, Settings},
        },
        *,
    };

    /// Sources of which each has one flow, which is too much, a second apart.
    fn alerts(sources: u32, limits: RuleLimits) -> (Engine, Vec<Alert>, usize) {
        let mut settings = Settings { limits, ..fixture::settings() };
        settings.rules[0].terms[0].level = Level { at_least: 1, resolve_below: 1 };
        let mut engine = Engine::new(settings);
        let (mut alerts, mut grouped) = (Vec::new(), 0);
        for n in 0..sources {
            let now = at(1_000 + u64::from(n) / 10);
            let client = format!("10.0.{}.{}:4000", n / 200, n % 200 + 1);
            let flow = fixture::ending(fixture::flow(&client, "9.9.9.9:25"), now);
            let record = lifetime::record(flow, &fixture::settings().services, RecordReason::Closed);
            let effects = engine.record(now, &record);
            alerts.extend(effects.alerts);
            grouped += effects.grouped.len();
        }
        (engine, alerts, grouped)
    }

    #[test]
    fn beyond_the_rate_one_alert_tells_of_all() {
        let limits = RuleLimits { alerts_per_minute: 10, ..RuleLimits::WIDEST };
        // 3,000 sources in 300 seconds.
        let (mut engine, told, grouped) = alerts(3_000, limits);
        let many: Vec<_> = told.iter().filter(|alert| alert.subject == Subject::Many).collect();
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
        assert_eq!(ended.iter().filter(|alert| alert.subject == Subject::Many).count(), 1);
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
            told.iter().filter(|alert| alert.subject == Subject::Many).count()
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
