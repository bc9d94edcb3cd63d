//! Rules over records: the engine's clock, the windows of every subject, the incidents.

mod admit;
mod fit;
mod reconfigure;
mod stats;
mod watch;

use std::{collections::BTreeSet, time::Duration};

pub use self::stats::{RuleCounts, RuleStats};
pub(super) use self::{
    fit::Fit,
    watch::{Watch, excuse},
};
use super::{
    assets::Networks,
    event::{Effects, WindowValue},
    evidence::Evidence,
    lane::{Known, SHARDS},
    plan::Plan,
    settings::Rule,
    sites::Sites,
    subject::Subject,
    time::{Epoch, Time},
    watched::Around,
};

/// How often a part of the subjects is looked over for what can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// Evaluates the rules.
#[derive(Debug)]
pub(super) struct Evaluator {
    pub(super) watches: Vec<Watch>,
    pub(super) v6_source_prefix: u8,
    pub(super) epoch: Epoch,
    pub(super) clock: Time,
    /// When which incident has something to do; one entry for each, never too late.
    deadlines: BTreeSet<(Time, usize, Known, Subject)>,
    next_sweep: Time,
    shard: usize,
    pub(super) evidence: Evidence,
    sites: Sites,
}

impl Evaluator {
    /// Without any flow yet; a record comes at most `lateness` after its event time.
    pub(super) fn new(rules: Vec<Rule>, v6_source_prefix: u8, lateness: Duration, epoch: Epoch) -> Self {
        let watch = |rule: Rule| Watch::new(Plan::new(rule, lateness));
        Self {
            watches: rules.into_iter().map(watch).collect(),
            v6_source_prefix,
            epoch,
            clock: Time::ZERO,
            deadlines: BTreeSet::new(),
            next_sweep: Time::ZERO,
            shard: 0,
            evidence: Evidence::default(),
            sites: Sites::default(),
        }
    }

    /// Whether some rule has something to say about flows that are open.
    pub(super) fn is_live(&self) -> bool {
        self.watches.iter().any(|watch| watch.plan.live)
    }

    /// Lets time pass: repeats and ends what is due, in order, each at its own moment.
    pub(super) fn advance(&mut self, to: Time, internal: &Networks, effects: &mut Effects) {
        if self.clock == Time::ZERO {
            self.watches.iter_mut().for_each(|watch| watch.plan.begin(to));
        }
        while self.deadlines.first().is_some_and(|(deadline, ..)| *deadline <= to) {
            let Some((deadline, index, known, subject)) = self.deadlines.pop_first() else { break };
            self.clock = self.clock.max(deadline);
            let Self { watches, evidence, clock, epoch, .. } = self;
            let Some(watch) = watches.get_mut(index) else { continue };
            let (plan, lane) = watch.lane(known);
            let overflow = lane.overflowed(&subject);
            let Some(watched) = lane.get_mut(&subject) else { continue };
            // What happened since may have put it off: beyond `to` too, while the clock is ahead of that.
            if let Some(later) = watched.deadline(plan).filter(|later| *later > deadline) {
                self.deadlines.insert((later, index, known, subject));
                continue;
            }
            let (clock, epoch) = (*clock, *epoch);
            let around = Around { plan, subject: &subject, internal, evidence, clock, epoch, overflow };
            if let Some(mut alert) = watched.act(around) {
                excuse(plan, known, &mut alert, internal, epoch);
                effects.alerts.push(alert);
            }
            if let Some(next) = watched.deadline(plan) {
                self.deadlines.insert((next, index, known, subject));
            }
        }
        self.clock = self.clock.max(to);
        if self.next_sweep <= self.clock {
            self.sweep();
        }
    }

    /// What the windows of each subject of each rule hold at `now`, see [`Watch::held`]; ordered.
    pub(super) fn values(&self, now: Time) -> Vec<WindowValue> {
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

    /// A part of the subjects for each second that passed, all of them at most once.
    fn sweep(&mut self) {
        let passed = self.clock.since(self.next_sweep).as_secs() + 1;
        self.next_sweep = self.clock + SWEEP;
        for _ in 0..passed.min(SHARDS as u64) {
            self.shard = (self.shard + 1) % SHARDS;
            for watch in &mut self.watches {
                for known in [Known::No, Known::Allowed] {
                    let (plan, lane) = watch.lane(known);
                    lane.sweep(plan, self.shard, self.clock);
                }
            }
        }
    }
}
