//! Rules over records: the engine's clock, the windows of every subject, the incidents.

use std::{collections::BTreeSet, hint::black_box, time::Duration};

use super::{
    group_key::{GroupKey, Source},
    group_state::EvalContext,
    group_table::AllowStatus,
    rule_state::{RuleState, excuse},
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

/// How often subjects whose visit is due are visited.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Evaluates the rules.
#[derive(Debug)]
pub(crate) struct Evaluator {
    pub(crate) watches: Vec<RuleState>,
    pub(crate) v6_source_prefix: u8,
    pub(crate) epoch: WallClockOffset,
    pub(crate) clock: Time,
    /// When which incident has something to do; one entry for each, never too late.
    pub(super) deadlines: BTreeSet<(Time, usize, AllowStatus, GroupKey)>,
    pub(crate) next_expiry: Time,
    pub(crate) limits: RuleLimits,
    pub(crate) flood: FloodDetector,
    pub(crate) evidence: Evidence,
    pub(super) sites: LookupCache,
}

impl Evaluator {
    /// Without any flow yet; a record comes at most `lateness` after its event time.
    pub(crate) fn new(
        (rules, limits): (Vec<Rule>, RuleLimits),
        v6_source_prefix: u8,
        lateness: Duration,
        epoch: WallClockOffset,
    ) -> Self {
        let watch = |rule: Rule| RuleState::new(CompiledRule::new(rule, lateness));
        Self {
            watches: rules.into_iter().map(watch).collect(),
            v6_source_prefix,
            epoch,
            clock: Time::ZERO,
            deadlines: BTreeSet::new(),
            next_expiry: Time::ZERO,
            limits,
            flood: FloodDetector::default(),
            evidence: Evidence::default(),
            sites: LookupCache::default(),
        }
    }

    /// Returns true if some rule has something to say about flows that are open.
    pub(crate) fn is_live(&self) -> bool {
        self.watches.iter().any(|watch| watch.plan.live)
    }

    /// Lets time pass: repeats and ends what is due, in order, each at its own moment.
    pub(crate) fn advance(&mut self, to: Time, internal: &Networks, effects: &mut Effects) {
        if self.clock == Time::ZERO {
            self.watches.iter_mut().for_each(|watch| watch.plan.begin(to));
        }
        while self.deadlines.first().is_some_and(|(deadline, ..)| *deadline <= to) {
            let Some((deadline, index, known, subject)) = self.deadlines.pop_first() else { break };
            self.clock = self.clock.max(deadline);
            let Self { watches, evidence, clock, epoch, .. } = self;
            let Some(watch) = watches.get_mut(index) else { continue };
            let (plan, lane) = watch.lane(known);
            let overflow = lane.overflowed(&subject, plan.retention, *clock);
            let Some(watched) = lane.get_mut(&subject) else { continue };
            let (before, told) = (watched.heap(), !watched.joined());
            // What happened since may have put it off: beyond `to` too, while the clock is ahead of that.
            if let Some(later) = watched.deadline(plan).filter(|later| *later > deadline) {
                self.deadlines.insert((later, index, known, subject));
                continue;
            }
            let (clock, epoch) = (*clock, *epoch);
            let around = EvalContext { plan, subject: &subject, internal, evidence, clock, epoch, overflow };
            if let Some(mut alert) = watched.act(around) {
                excuse(plan, known, &mut alert, internal, epoch);
                // Of those that are told together each is silent.
                effects.alerts.extend(Some(alert).filter(|_| told));
            }
            if let Some(next) = watched.deadline(plan) {
                self.deadlines.insert((next, index, known, subject));
            }
            let after = watched.heap();
            lane.account(before, after);
        }
        self.clock = self.clock.max(to);
        if self.next_expiry <= self.clock {
            self.expire();
            self.pass(effects);
        }
    }

    /// Reads what is remembered of the sources of records whose turn comes soon. One by one, each of several places
    /// would be waited for when it is needed; here these waits overlap.
    pub(crate) fn prefetch<'a>(&self, next: impl Iterator<Item = &'a FlowRecord>) {
        /// Sources of rules that are looked at together.
        const MOST: usize = 48;
        let (mut found, mut number) = ([None; MOST], 0);
        for record in next {
            let subject = GroupKey::Source(Source::of(record.flow.client(), self.v6_source_prefix));
            for watch in &self.watches {
                if watch.plan.rule.group_by == GroupBy::Source
                    && watch.fits(record, RecordPhase::Final, self.epoch)
                    && let Some(place) = found.get_mut(number)
                {
                    *place = watch.unknown.get(&subject);
                    number += 1;
                }
            }
        }
        let found = found.iter().take(number).flatten();
        black_box(found.fold(0, |sum, watched| sum ^ watched.touch()));
    }

    /// What the windows of each subject of each rule hold at `now`, see [`RuleState::held`]; ordered.
    pub(crate) fn values(&self, now: Time) -> Vec<WindowValue> {
        let mut values = Vec::new();
        for watch in &self.watches {
            let before = values.len();
            for (subject, watched) in watch.unknown.iter() {
                for (term, value) in watch.held(watched, now) {
                    let Some(name) = watch.plan.name(term) else { continue };
                    let (rule, term) = (watch.plan.rule.name.clone(), name.clone());
                    values.push(WindowValue { rule, term, subject: subject.clone(), value });
                }
            }
            // Stable: a rule's terms stay in their order.
            values[before..].sort_by(|one, other| one.subject.cmp(&other.subject));
        }
        values
    }

    /// Tells what is told of many subjects together, where it is due.
    fn pass(&mut self, effects: &mut Effects) {
        for watch in &mut self.watches {
            effects.alerts.extend(watch.burst.pass(self.clock, &self.limits));
        }
        effects.alerts.extend(self.flood.pass(self.clock, self.epoch, &self.limits));
    }

    /// Forgets what cannot matter any more.
    fn expire(&mut self) {
        self.next_expiry = self.clock + EXPIRY_INTERVAL;
        for watch in &mut self.watches {
            for known in [AllowStatus::No, AllowStatus::Allowed] {
                let (plan, lane) = watch.lane(known);
                lane.expire(plan, self.clock);
            }
        }
    }
}
