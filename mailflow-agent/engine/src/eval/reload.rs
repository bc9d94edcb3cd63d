//! Reload: continues unchanged rules, restarts changed ones, and ends removed ones.

use std::{sync::Arc, time::Duration};

use super::{
    evaluator::Evaluator, group_key::GroupKey, group_state::GroupState, rule_state::RuleState,
    suppression::AllowStatus,
};
use crate::{
    effects::Effects,
    rule::{Rule, RuleLimits, compiled::CompiledRule},
};

/// Outcome of a reload.
#[derive(Debug, Default)]
pub(crate) struct RuleChanges {
    /// New number of each previous rule; `None` if the rule counts its flows from zero.
    pub(crate) rule_numbers: Vec<Option<usize>>,
    /// Names of the rules whose windows start empty.
    pub(crate) restarted: Vec<Arc<str>>,
}

impl Evaluator {
    /// Replaces the rules and their limits.
    pub(crate) fn reconfigure(
        &mut self,
        (rules, limits): (Vec<Rule>, RuleLimits),
        lateness: Duration,
        effects: &mut Effects,
    ) -> RuleChanges {
        self.limits = limits;
        let mut previous_rules: Vec<Option<RuleState>> =
            std::mem::take(&mut self.rule_states).into_iter().map(Some).collect();
        let mut changed =
            RuleChanges { rule_numbers: vec![None; previous_rules.len()], restarted: Vec::new() };
        for (number, rule) in rules.into_iter().enumerate() {
            let mut compiled = CompiledRule::new(rule, lateness);
            let named = |rule_state: &Option<RuleState>| {
                rule_state
                    .as_ref()
                    .is_some_and(|rule_state| rule_state.compiled.rule.name == compiled.rule.name)
            };
            let index = previous_rules.iter().position(named);
            let previous = index.and_then(|index| previous_rules.get_mut(index)?.take());
            let Some(mut previous) = previous else {
                compiled.begin_learning(self.clock);
                self.rule_states.push(RuleState::new(compiled));
                continue;
            };
            if compiled.continues(&previous.compiled) {
                if let Some(index) = index.and_then(|index| changed.rule_numbers.get_mut(index)) {
                    *index = Some(number);
                }
                compiled.inherit_learning(&previous.compiled);
                self.rule_states.push(RuleState { compiled, ..previous });
                continue;
            }
            changed.restarted.push(Arc::clone(&compiled.rule.name));
            compiled.begin_learning(self.clock);
            let mut rule_state = RuleState {
                missed: previous.missed,
                rate_limit: std::mem::take(&mut previous.rate_limit),
                ..RuleState::new(compiled)
            };
            if rule_state.compiled.rule.group_by == previous.compiled.rule.group_by {
                for allow_status in [AllowStatus::Unlisted, AllowStatus::Listed] {
                    let (compiled, table) = rule_state.table_mut(allow_status);
                    for (group_key, group) in previous.table_mut(allow_status).1.iter_mut() {
                        if let Some(group) = group.with_incident_only(compiled) {
                            table.insert(group_key.clone(), group);
                        }
                    }
                }
            } else {
                self.end_rule(previous, effects);
            }
            self.rule_states.push(rule_state);
        }
        for rule_state in previous_rules.into_iter().flatten() {
            self.end_rule(rule_state, effects);
        }
        self.schedule();
        changed
    }

    /// Ends a removed rule: resolves its incidents at the current time, as their values are no longer known.
    fn end_rule(&self, mut rule_state: RuleState, effects: &mut Effects) {
        effects.alerts.extend(rule_state.rate_limit.end_rule(self.clock));
        for allow_status in [AllowStatus::Unlisted, AllowStatus::Listed] {
            let (compiled, table) = rule_state.table_mut(allow_status);
            let resolve = |(group_key, group): (&GroupKey, &mut GroupState)| {
                let is_single = !group.is_aggregated();
                group
                    .resolve(compiled, self.clock)
                    .filter(|_| is_single)
                    .map(|alert| (group_key.clone(), alert))
            };
            let mut ended: Vec<_> = table.iter_mut().filter_map(resolve).collect();
            ended.sort_by(|one, other| one.0.cmp(&other.0));
            for (_, mut alert) in ended {
                alert.ends_at = Some(self.clock);
                effects.alerts.push(alert);
            }
        }
    }

    /// Recomputes the deadline of every incident and the visit of every group.
    pub(crate) fn schedule(&mut self) {
        self.deadlines.clear();
        for (index, rule_state) in self.rule_states.iter_mut().enumerate() {
            for allow_status in [AllowStatus::Unlisted, AllowStatus::Listed] {
                let (compiled, table) = rule_state.table_mut(allow_status);
                table.schedule(compiled, self.clock);
            }
            for (allow_status, table) in
                [(AllowStatus::Unlisted, &rule_state.unlisted), (AllowStatus::Listed, &rule_state.listed)]
            {
                for (group_key, group) in table.iter() {
                    if let Some(deadline) = group.deadline(&rule_state.compiled) {
                        self.deadlines.insert((deadline, index, allow_status, group_key.clone()));
                    }
                }
            }
        }
    }
}
