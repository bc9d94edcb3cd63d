//! Rule evaluator: the clock, the groups and windows of every rule, and the deadlines of incidents.

use std::{collections::BTreeSet, hint::black_box, time::Duration};

use super::{
    group_key::{GroupKey, Source},
    group_state::EvalContext,
    rule_state::RuleState,
    suppression::AllowStatus,
    window::value::WindowValue,
};
use crate::{
    alert::{evidence::Evidence, spoofed_sources::FloodDetector},
    effects::Effects,
    flow::{FlowRecord, phase::RecordPhase},
    network::{Networks, lookup_cache::LookupCache},
    rule::{GroupBy, Rule, RuleLimits, compiled::CompiledRule},
    time::{Time, WallClockOffset},
};

/// Interval at which due groups are visited.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Evaluator of all rules.
#[derive(Debug)]
pub(crate) struct Evaluator {
    pub(crate) rule_states: Vec<RuleState>,
    pub(crate) v6_source_prefix: u8,
    pub(crate) clock_offset: WallClockOffset,
    pub(crate) clock: Time,
    /// Next deadline of each active incident, one entry an incident. The entry may be earlier than the deadline,
    /// but never later.
    pub(crate) deadlines: BTreeSet<(Time, usize, AllowStatus, GroupKey)>,
    pub(crate) next_expiry: Time,
    pub(crate) limits: RuleLimits,
    pub(crate) flood_detector: FloodDetector,
    pub(crate) evidence: Evidence,
    pub(super) lookup_cache: LookupCache,
}

impl Evaluator {
    /// Returns an evaluator without groups. Records arrive at most `lateness` after their event time.
    pub(crate) fn new(
        (rules, limits): (Vec<Rule>, RuleLimits),
        v6_source_prefix: u8,
        lateness: Duration,
        clock_offset: WallClockOffset,
    ) -> Self {
        let rule_state = |rule: Rule| RuleState::new(CompiledRule::new(rule, lateness));
        Self {
            rule_states: rules.into_iter().map(rule_state).collect(),
            v6_source_prefix,
            clock_offset,
            clock: Time::ZERO,
            deadlines: BTreeSet::new(),
            next_expiry: Time::ZERO,
            limits,
            flood_detector: FloodDetector::default(),
            evidence: Evidence::default(),
            lookup_cache: LookupCache::default(),
        }
    }

    /// Returns true if some rule evaluates open flows between their records.
    pub(crate) fn is_live(&self) -> bool {
        self.rule_states.iter().any(|rule_state| rule_state.compiled.live)
    }

    /// Advances the clock to `to`: repeats and resolves due alerts in order, each at its own deadline.
    pub(crate) fn advance(&mut self, to: Time, internal: &Networks, effects: &mut Effects) {
        if self.clock == Time::ZERO {
            self.rule_states.iter_mut().for_each(|rule_state| rule_state.compiled.begin_learning(to));
        }
        while self.deadlines.first().is_some_and(|(deadline, ..)| *deadline <= to) {
            let Some((deadline, index, allow_status, group_key)) = self.deadlines.pop_first() else { break };
            self.clock = self.clock.max(deadline);
            let Self { rule_states, evidence, clock, clock_offset, .. } = self;
            let Some(rule_state) = rule_states.get_mut(index) else { continue };
            let (compiled, table) = rule_state.table_mut(allow_status);
            let overflow = table.has_overflow(&group_key, compiled.retention, *clock);
            let Some(group) = table.get_mut(&group_key) else { continue };
            let (before, is_single) = (group.heap(), !group.is_aggregated());
            // Records since then may have postponed the deadline, also beyond `to` if the clock is ahead of `to`.
            if let Some(later) = group.deadline(compiled).filter(|later| *later > deadline) {
                self.deadlines.insert((later, index, allow_status, group_key));
                continue;
            }
            let (clock, clock_offset) = (*clock, *clock_offset);
            let context = EvalContext {
                compiled,
                allow_status,
                group_key: &group_key,
                internal,
                evidence,
                clock,
                clock_offset,
                overflow,
            };
            // An aggregate alert reports the incidents that are not single.
            effects.alerts.extend(group.run_deadline(context).filter(|_| is_single));
            if let Some(next) = group.deadline(compiled) {
                self.deadlines.insert((next, index, allow_status, group_key));
            }
            let after = group.heap();
            table.account(before, after);
        }
        self.clock = self.clock.max(to);
        if self.next_expiry <= self.clock {
            self.expire();
            self.report_aggregates(effects);
        }
    }

    /// Prefetches the groups of the sources of `next`. Each group takes several dependent cache misses; the
    /// prefetch overlaps them.
    pub(crate) fn prefetch<'a>(&self, next: impl Iterator<Item = &'a FlowRecord>) {
        /// Most groups that one call prefetches.
        const MAX_PREFETCHED_GROUPS: usize = 48;
        let (mut groups, mut count) = ([None; MAX_PREFETCHED_GROUPS], 0);
        for record in next {
            let group_key = GroupKey::Source(Source::of(record.flow.client(), self.v6_source_prefix));
            for rule_state in &self.rule_states {
                if rule_state.compiled.rule.group_by == GroupBy::Source
                    && rule_state.matches_flow(record, RecordPhase::Final, self.clock_offset)
                    && let Some(slot) = groups.get_mut(count)
                {
                    *slot = rule_state.unlisted.get(&group_key);
                    count += 1;
                }
            }
        }
        let groups = groups.iter().take(count).flatten();
        black_box(groups.fold(0, |sum, group| sum ^ group.prefetch()));
    }

    /// Returns the nonzero window values of all groups at `now`, as [`RuleState::term_values`] gives them; ordered
    /// by rule and group key.
    pub(crate) fn values(&self, now: Time) -> Vec<WindowValue> {
        let mut values = Vec::new();
        for rule_state in &self.rule_states {
            let before = values.len();
            for (group_key, group) in rule_state.unlisted.iter() {
                for (term, value) in rule_state.term_values(group, now) {
                    let Some(name) = rule_state.compiled.name(term) else { continue };
                    let (rule, term) = (rule_state.compiled.rule.name.clone(), name.clone());
                    values.push(WindowValue { rule, term, group_key: group_key.clone(), value });
                }
            }
            // The sort is stable: the terms of a rule keep their order.
            values[before..].sort_by(|one, other| one.group_key.cmp(&other.group_key));
        }
        values
    }

    /// Emits due aggregate alerts: those of the rate limits and that of the flood detector.
    fn report_aggregates(&mut self, effects: &mut Effects) {
        for rule_state in &mut self.rule_states {
            effects.alerts.extend(rule_state.rate_limit.advance(self.clock, &self.limits));
        }
        effects.alerts.extend(self.flood_detector.advance(self.clock, self.clock_offset, &self.limits));
    }

    /// Visits due groups, and removes expired state.
    fn expire(&mut self) {
        self.next_expiry = self.clock + EXPIRY_INTERVAL;
        for rule_state in &mut self.rule_states {
            for allow_status in [AllowStatus::Unlisted, AllowStatus::Listed] {
                let (compiled, table) = rule_state.table_mut(allow_status);
                table.expire(compiled, self.clock);
            }
        }
    }
}
