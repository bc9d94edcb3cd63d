//! Incremental scan of all window values, in bounded memory.
//!
//! A million groups with several terms each cannot be scanned or reported between two polls. A [`WindowScan`]
//! advances by a part of the groups at each call, and keeps only the highest values.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use crate::{
    Engine,
    eval::{
        group_key::GroupKey,
        group_state::{GroupState, IncidentState},
        rule_state::RuleState,
        timing_wheel::SHARD_COUNT,
        window::value::{Value, WindowValue},
    },
    rule::{Term, compiled::CompiledRule},
    time::Time,
};

/// Most slots that one step scans.
const SLOTS_PER_STEP: usize = 1_024;

/// Result of a scan of all windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowReport {
    /// Highest values; by rule, then by group key, then by term.
    pub values: Vec<WindowValue>,
    /// Nonzero values that were omitted, as they found no room.
    pub omitted: u64,
    /// Peak of each rule.
    pub rules: Vec<RulePeak>,
    /// Deciding term of groups with a firing alert, at most [`MAX_FIRING_GROUPS`].
    pub firing: Vec<TermProgress>,
}

/// Most entries of [`WindowReport::firing`].
pub const MAX_FIRING_GROUPS: usize = 10_000;

/// Value of a term for one group, with its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermProgress {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Key of the group.
    pub group_key: GroupKey,
    /// Name of the term.
    pub term: Arc<str>,
    /// Value of the window.
    pub value: Value,
    /// Threshold of the term.
    pub threshold: u64,
    /// Divisor of value and threshold for display.
    pub scale: u64,
}

impl TermProgress {
    /// Returns true if the value is nearer to its threshold than `other`; of equals, if the group key is lower.
    fn is_nearer_than(&self, other: &Self) -> bool {
        let share = |one: &Self, of: &Self| u128::from(one.value.number()) * u128::from(of.threshold.max(1));
        (share(self, other), Reverse(&self.group_key)) > (share(other, self), Reverse(&other.group_key))
    }
}

/// Peak of a rule: how near its groups are to its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePeak {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Groups with a nonzero value.
    pub groups: u64,
    /// Term value that is nearest to its threshold, of all groups and terms.
    pub highest: Option<TermProgress>,
}

/// Default threshold of a term, for groups without an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermThreshold {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Name of the term.
    pub term: Arc<str>,
    /// Threshold, in units of 1 / `scale`.
    pub at_least: u64,
    /// Divisor of the threshold for display: more than 1 for ratios.
    pub scale: u64,
}

/// Incremental scan of all groups.
#[derive(Debug)]
pub struct WindowScan {
    /// Most values to keep.
    max_values: usize,
    /// Next step: rule, shard and slot.
    next: (usize, usize, usize),
    highest: BinaryHeap<RankedValue>,
    omitted: u64,
    rules: Vec<RulePeak>,
    firing: Vec<TermProgress>,
}

/// Value by rank. The greatest one is omitted first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RankedValue {
    number: Reverse<u64>,
    /// Rule, group key and term. Of equal values, those of lower rules and group keys stay, so that the selection
    /// is stable.
    position: (usize, GroupKey, usize),
    exact: bool,
}

impl WindowScan {
    /// Returns a scan that keeps at most `max_values` values.
    pub fn new(max_values: usize) -> Self {
        Self {
            max_values,
            next: (0, 0, 0),
            highest: BinaryHeap::new(),
            omitted: 0,
            rules: Vec::new(),
            firing: Vec::new(),
        }
    }

    /// Adds the values of a group at `now`.
    fn add_group(
        &mut self,
        (rule, rule_state): (usize, &RuleState),
        group_key: &GroupKey,
        group: &GroupState,
        now: Time,
    ) {
        let mut is_counted = false;
        for (term, value) in rule_state.term_values(group, now) {
            if let Some(peak) = self.rules.get_mut(rule)
                && let Some(progress) = progress(&rule_state.compiled, group_key, (term, value), None)
            {
                peak.groups += u64::from(!is_counted);
                is_counted = true;
                if peak.highest.as_ref().is_none_or(|highest| progress.is_nearer_than(highest)) {
                    peak.highest = Some(progress);
                }
            }
            self.rank(value, (rule, group_key, term));
        }
        if let IncidentState::Firing(firing) = group.state()
            && self.firing.len() < MAX_FIRING_GROUPS
        {
            let (incident, term) = &**firing;
            let value = rule_state.compiled.value(&group.all_windows(&rule_state.compiled), *term, now);
            let original_threshold = incident.last_alert().terms.get(*term).map(|term| term.threshold);
            self.firing.extend(progress(&rule_state.compiled, group_key, (*term, value), original_threshold));
        }
    }

    fn rank(&mut self, value: Value, (rule, group_key, term): (usize, &GroupKey, usize)) {
        if self.highest.len() >= self.max_values {
            self.omitted += 1;
            let better = |last: &RankedValue| {
                let (number, (last_rule, last_key, last_term)) = (last.number.0, &last.position);
                (Reverse(value.number()), rule, group_key, term)
                    < (Reverse(number), *last_rule, last_key, *last_term)
            };
            if !self.highest.peek().is_some_and(better) {
                return;
            }
            self.highest.pop();
        }
        self.highest.push(RankedValue {
            number: Reverse(value.number()),
            position: (rule, group_key.clone(), term),
            exact: matches!(value, Value::Exactly(_)),
        });
    }

    fn finish(&mut self, rule_states: &[RuleState]) -> WindowReport {
        let Self { max_values, highest, omitted, rules, firing, .. } =
            std::mem::replace(self, Self::new(self.max_values));
        debug_assert!(highest.len() <= max_values);
        let mut ranked = highest.into_vec();
        ranked.sort_unstable_by(|one, other| one.position.cmp(&other.position));
        // A group that was removed and inserted again between two steps may be scanned twice.
        ranked.dedup_by(|later, first| later.position == first.position);
        let value = |RankedValue { number: Reverse(number), position: (rule, group_key, term), exact }| {
            let compiled = &rule_states.get(rule)?.compiled;
            Some(WindowValue {
                rule: Arc::clone(&compiled.rule.name),
                term: Arc::clone(compiled.name(term)?),
                group_key,
                value: if exact { Value::Exactly(number) } else { Value::AtLeast(number) },
            })
        };
        WindowReport { values: ranked.into_iter().filter_map(value).collect(), omitted, rules, firing }
    }
}

/// Returns the progress of a term, with its default threshold unless `threshold` is given.
fn progress(
    compiled: &CompiledRule,
    group_key: &GroupKey,
    (term, value): (usize, Value),
    threshold: Option<u64>,
) -> Option<TermProgress> {
    let measured = compiled.rule.terms.get(term)?;
    Some(TermProgress {
        rule: Arc::clone(&compiled.rule.name),
        group_key: group_key.clone(),
        term: Arc::clone(compiled.name(term)?),
        value,
        threshold: threshold.unwrap_or(measured.thresholds.at_least),
        scale: measured.measure.scale(),
    })
}

impl Engine {
    /// Advances a scan by some groups of one rule, at `now`. The last step returns the report, and the scan starts
    /// again. Use a new scan after a change of the rules.
    pub fn scan_windows(&self, scan: &mut WindowScan, now: Time) -> Option<WindowReport> {
        let rule_states = &self.evaluator.rule_states;
        let (rule, shard, from) = scan.next;
        let mut has_more = false;
        if let Some(rule_state) = rule_states.get(rule) {
            if (shard, from) == (0, 0) {
                let (rule, highest) = (Arc::clone(&rule_state.compiled.rule.name), None);
                scan.rules.push(RulePeak { rule, groups: 0, highest });
            }
            let (groups, more) = rule_state.unlisted.slots_from(shard, from, SLOTS_PER_STEP);
            groups.for_each(|(group_key, group)| scan.add_group((rule, rule_state), group_key, group, now));
            has_more = more;
        }
        scan.next = match has_more {
            true => (rule, shard, from + SLOTS_PER_STEP),
            false if shard + 1 < SHARD_COUNT => (rule, shard + 1, 0),
            false => (rule + 1, 0, 0),
        };
        (scan.next.0 >= rule_states.len()).then(|| scan.finish(rule_states))
    }

    /// Returns the thresholds in force, by rule and term.
    pub fn term_thresholds(&self) -> Vec<TermThreshold> {
        let of = |compiled: &CompiledRule| {
            let terms = compiled.rule.terms.iter().enumerate();
            let threshold = |(index, term): (usize, &Term)| {
                let (rule, name) = (Arc::clone(&compiled.rule.name), Arc::clone(compiled.name(index)?));
                let scale = term.measure.scale();
                Some(TermThreshold { rule, term: name, at_least: term.thresholds.at_least, scale })
            };
            terms.filter_map(threshold).collect::<Vec<_>>()
        };
        self.evaluator.rule_states.iter().flat_map(|rule_state| of(&rule_state.compiled)).collect()
    }

    /// Scans all groups at once. Returns at most `max_values` values at `now`.
    pub fn window_report(&self, now: Time, max_values: usize) -> WindowReport {
        let mut scan = WindowScan::new(max_values);
        loop {
            if let Some(report) = self.scan_windows(&mut scan, now) {
                return report;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{self, at},
        flow::{RecordReason, class::FlowClass, timeout},
        rule::{Measure, Thresholds},
    };

    /// Returns an engine in which 10.0.0.n has n % 7 + 1 matching flows.
    fn engine(clients: u8) -> Engine {
        let mut engine = Engine::new(fixture::settings());
        for client in 0..clients {
            for port in 0..=client % 7 {
                let ends = (format!("10.0.0.{client}:{}", 4_000 + u16::from(port)), "9.9.9.9:25");
                let flow = fixture::ending(fixture::flow(&ends.0, ends.1), at(100));
                let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
                engine.ingest_record(at(100), &record);
            }
        }
        engine
    }

    #[test]
    fn a_scan_in_steps_finds_all_values() {
        let engine = engine(200);
        let all = engine.window_values(at(100));
        assert_eq!(all.len(), 200);
        let report = engine.window_report(at(100), 1_000);
        assert_eq!((&report.values, report.omitted), (&all, 0));
        let [ref peak] = report.rules[..] else { panic!("{:?}", report.rules) };
        let highest = peak.highest.clone().unwrap();
        assert_eq!((peak.groups, &highest.group_key), (200, &all[6].group_key), "the lowest of equals");
        assert_eq!((highest.value, &*highest.term, highest.scale), (Value::Exactly(7), "count", 1));
        let firing: Vec<_> = report.firing.iter().map(|one| one.value.number()).collect();
        let threshold = highest.threshold;
        let over = all.iter().map(|one| one.value.number()).filter(|value| *value >= threshold);
        assert_eq!(firing.len(), over.count());
    }

    #[test]
    fn the_highest_values_stay_and_the_first_of_equals() {
        let engine = engine(200);
        let mut all = engine.window_values(at(100));
        for max_values in [0, 1, 5, 50, 199] {
            let report = engine.window_report(at(100), max_values);
            all.sort_by_key(|value| (Reverse(value.value.number()), value.group_key.clone()));
            let mut expected = all[..max_values].to_vec();
            expected.sort_by(|one, other| one.group_key.cmp(&other.group_key));
            assert_eq!((report.values, report.omitted), (expected, 200 - max_values as u64), "{max_values}");
        }
    }

    #[test]
    fn the_thresholds_are_those_of_the_terms() {
        let mut settings = fixture::settings();
        let rule = &mut settings.rules[0];
        let count = rule.terms[0].clone();
        let ratio = Measure::Ratio { of: FlowClass::Failed, to: FlowClass::Attempts };
        let half = Thresholds { at_least: Thresholds::PARTS / 2, resolve_below: 1 };
        rule.terms =
            vec![count.clone(), count, Term { measure: ratio, thresholds: half, ..rule.terms[0].clone() }];
        let usual = rule.terms[0].thresholds.at_least;
        let thresholds = Engine::new(settings).term_thresholds();
        let actual: Vec<_> = thresholds.iter().map(|one| (&*one.term, one.at_least, one.scale)).collect();
        let expected =
            [("count", usual, 1), ("count #2", usual, 1), ("ratio failed/attempts", 500_000, 1_000_000)];
        assert_eq!(actual, expected);
    }

    #[test]
    fn a_scan_without_rules_ends_at_once() {
        let settings = crate::settings::Settings { rules: Vec::new(), ..fixture::settings() };
        let engine = Engine::new(settings);
        assert_eq!(engine.scan_windows(&mut WindowScan::new(5), at(1)), Some(WindowReport::default()));
    }
}
