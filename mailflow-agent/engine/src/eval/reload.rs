//! Other rules than before: what goes on, what begins anew, and what ends.

use std::{sync::Arc, time::Duration};

use super::{
    evaluator::Evaluator,
    group_key::GroupKey,
    group_state::GroupState,
    group_table::AllowStatus,
    rule_state::{RuleState, excuse},
};
use crate::{
    effects::Effects,
    network::Networks,
    rule::{Rule, RuleLimits, compiled::CompiledRule},
};

/// What became of the rules before.
#[derive(Debug, Default)]
pub(crate) struct RuleChanges {
    /// Of each rule before, its number now; none where its flows are to be counted anew.
    pub(crate) numbers: Vec<Option<usize>>,
    /// The rules whose windows begin anew.
    pub(crate) restarted: Vec<Arc<str>>,
}

impl Evaluator {
    /// Judges by other rules, within other limits, from now on.
    pub(crate) fn reconfigure(
        &mut self,
        (rules, limits): (Vec<Rule>, RuleLimits),
        lateness: Duration,
        internal: &Networks,
        effects: &mut Effects,
    ) -> RuleChanges {
        self.limits = limits;
        let mut before: Vec<Option<RuleState>> =
            std::mem::take(&mut self.watches).into_iter().map(Some).collect();
        let mut changed = RuleChanges { numbers: vec![None; before.len()], restarted: Vec::new() };
        for (number, rule) in rules.into_iter().enumerate() {
            let mut plan = CompiledRule::new(rule, lateness);
            let named = |watch: &Option<RuleState>| {
                watch.as_ref().is_some_and(|watch| watch.plan.rule.name == plan.rule.name)
            };
            let place = before.iter().position(named);
            let past = place.and_then(|place| before.get_mut(place)?.take());
            let Some(mut past) = past else {
                plan.begin(self.clock);
                self.watches.push(RuleState::new(plan));
                continue;
            };
            if plan.continues(&past.plan) {
                if let Some(place) = place.and_then(|place| changed.numbers.get_mut(place)) {
                    *place = Some(number);
                }
                plan.inherit(&past.plan);
                self.watches.push(RuleState { plan, ..past });
                continue;
            }
            changed.restarted.push(Arc::clone(&plan.rule.name));
            plan.begin(self.clock);
            let mut watch = RuleState {
                missed: past.missed,
                burst: std::mem::take(&mut past.burst),
                ..RuleState::new(plan)
            };
            if watch.plan.rule.group_by == past.plan.rule.group_by {
                for known in [AllowStatus::No, AllowStatus::Allowed] {
                    let (plan, lane) = watch.lane(known);
                    for (subject, watched) in past.lane(known).1.iter_mut() {
                        if let Some(watched) = watched.renewed(plan) {
                            lane.put(subject.clone(), watched);
                        }
                    }
                }
            } else {
                self.end(past, internal, effects);
            }
            self.watches.push(watch);
        }
        for watch in before.into_iter().flatten() {
            self.end(watch, internal, effects);
        }
        self.schedule();
        changed
    }

    /// What is not watched any more has no value: its incidents end here.
    fn end(&self, mut watch: RuleState, internal: &Networks, effects: &mut Effects) {
        effects.alerts.extend(watch.burst.end(self.clock));
        for known in [AllowStatus::No, AllowStatus::Allowed] {
            let (plan, lane) = watch.lane(known);
            let resolve = |(subject, watched): (&GroupKey, &mut GroupState)| {
                let told = !watched.joined();
                watched.resolve(plan, self.clock).filter(|_| told).map(|alert| (subject.clone(), alert))
            };
            let mut ended: Vec<_> = lane.iter_mut().filter_map(resolve).collect();
            ended.sort_by(|one, other| one.0.cmp(&other.0));
            for (_, mut alert) in ended {
                alert.ends_at = Some(self.clock);
                excuse(plan, known, &mut alert, internal, self.epoch);
                effects.alerts.push(alert);
            }
        }
    }

    /// Notes for every incident when it has something to do, and for every subject when it is visited.
    pub(crate) fn schedule(&mut self) {
        self.deadlines.clear();
        for (index, watch) in self.watches.iter_mut().enumerate() {
            for known in [AllowStatus::No, AllowStatus::Allowed] {
                let (plan, lane) = watch.lane(known);
                lane.schedule(plan, self.clock);
            }
            for (known, lane) in [(AllowStatus::No, &watch.unknown), (AllowStatus::Allowed, &watch.allowed)] {
                for (subject, watched) in lane.iter() {
                    if let Some(deadline) = watched.deadline(&watch.plan) {
                        self.deadlines.insert((deadline, index, known, subject.clone()));
                    }
                }
            }
        }
    }
}
