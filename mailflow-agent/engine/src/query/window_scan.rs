//! What the rules' windows hold, gone over in steps and kept in bounded memory.
//!
//! A million sources with several terms each are neither gone over nor told between two readings: a
//! [`WindowScan`] goes on from one part of the subjects to the next, and of the values only the highest stay.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use crate::{
    Engine,
    eval::{
        group_key::GroupKey,
        group_state::{GroupState, IncidentState},
        rule_state::RuleState,
        timing_wheel::SHARDS,
        window::value::{Value, WindowValue},
    },
    rule::{Term, compiled::CompiledRule},
    time::Time,
};

/// Most places of subjects gone over in one step.
const STEP: usize = 1_024;

/// What the rules' windows hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowReport {
    /// The highest values; in the order of the rules, then by subject, then in the order of the terms.
    pub values: Vec<WindowValue>,
    /// Values that are not zero either, for which there was no room.
    pub omitted: u64,
    /// What there is to say of each rule.
    pub rules: Vec<RulePeak>,
    /// What the windows hold of subjects about which an alert fires, for the terms that decided: at most
    /// [`MAX_FIRING`].
    pub firing: Vec<TermProgress>,
}

/// Most subjects of which [`WindowReport::firing`] tells.
pub const MAX_FIRING: usize = 10_000;

/// What a term holds for a subject, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermProgress {
    /// The rule.
    pub rule: Arc<str>,
    /// Whom it is about.
    pub subject: GroupKey,
    /// The term, by its name.
    pub term: Arc<str>,
    /// What its window holds.
    pub value: Value,
    /// What it takes.
    pub threshold: u64,
    /// What both are divided by to be shown.
    pub scale: u64,
}

impl TermProgress {
    /// Returns true if this is nearer to its threshold than `other`, or of equals the lower subject.
    fn is_nearer(&self, other: &Self) -> bool {
        let share = |one: &Self, of: &Self| u128::from(one.value.number()) * u128::from(of.threshold.max(1));
        (share(self, other), Reverse(&self.subject)) > (share(other, self), Reverse(&other.subject))
    }
}

/// How near the subjects of a rule are to its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePeak {
    /// The rule.
    pub rule: Arc<str>,
    /// Subjects whose windows hold something.
    pub subjects: u64,
    /// The one that is nearest to the threshold of a term, whatever the term counts.
    pub highest: Option<TermProgress>,
}

/// From which value on a term of a rule holds, for whom no other threshold is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermThreshold {
    /// The rule.
    pub rule: Arc<str>,
    /// The term, by its name.
    pub term: Arc<str>,
    /// The threshold, in `scale`ths.
    pub at_least: u64,
    /// What it is divided by to be shown: more than 1 for ratios.
    pub scale: u64,
}

/// A walk over all subjects, in steps.
#[derive(Debug)]
pub struct WindowScan {
    /// Most values kept.
    most: usize,
    /// Where it goes on: a rule, a shard of its subjects, and a place in that.
    next: (usize, usize, usize),
    highest: BinaryHeap<Ranked>,
    omitted: u64,
    rules: Vec<RulePeak>,
    firing: Vec<TermProgress>,
}

/// A value by its rank: the greater it is, the sooner it is left out.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    number: Reverse<u64>,
    /// Of equals, those of the first rules and the lowest subjects stay, so that the choice lasts.
    place: (usize, GroupKey, usize),
    exact: bool,
}

impl WindowScan {
    /// Keeps at most so many values.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            next: (0, 0, 0),
            highest: BinaryHeap::new(),
            omitted: 0,
            rules: Vec::new(),
            firing: Vec::new(),
        }
    }

    /// A subject with what its windows hold at `now`.
    fn see(
        &mut self,
        (rule, watch): (usize, &RuleState),
        subject: &GroupKey,
        watched: &GroupState,
        now: Time,
    ) {
        let mut seen = false;
        for (term, value) in watch.held(watched, now) {
            if let Some(standing) = self.rules.get_mut(rule)
                && let Some(reached) = reached(&watch.plan, subject, (term, value), None)
            {
                standing.subjects += u64::from(!seen);
                seen = true;
                if standing.highest.as_ref().is_none_or(|highest| reached.is_nearer(highest)) {
                    standing.highest = Some(reached);
                }
            }
            self.rank(value, (rule, subject, term));
        }
        if let IncidentState::Firing(firing) = watched.state()
            && self.firing.len() < MAX_FIRING
        {
            let (incident, term) = &**firing;
            let value = watch.plan.value(&watched.terms(&watch.plan), *term, now);
            let began_with = incident.told().terms.get(*term).map(|term| term.threshold);
            self.firing.extend(reached(&watch.plan, subject, (*term, value), began_with));
        }
    }

    fn rank(&mut self, value: Value, (rule, subject, term): (usize, &GroupKey, usize)) {
        if self.highest.len() >= self.most {
            self.omitted += 1;
            let better = |last: &Ranked| {
                let (number, (of, whom, which)) = (last.number.0, &last.place);
                (Reverse(value.number()), rule, subject, term) < (Reverse(number), *of, whom, *which)
            };
            if !self.highest.peek().is_some_and(better) {
                return;
            }
            self.highest.pop();
        }
        self.highest.push(Ranked {
            number: Reverse(value.number()),
            place: (rule, subject.clone(), term),
            exact: matches!(value, Value::Exactly(_)),
        });
    }

    fn over(&mut self, watches: &[RuleState]) -> WindowReport {
        let Self { most, highest, omitted, rules, firing, .. } =
            std::mem::replace(self, Self::new(self.most));
        debug_assert!(highest.len() <= most);
        let mut kept = highest.into_vec();
        kept.sort_unstable_by(|one, other| one.place.cmp(&other.place));
        // A subject that was forgotten and came back between two steps was seen twice.
        kept.dedup_by(|later, first| later.place == first.place);
        let value = |Ranked { number: Reverse(number), place: (rule, subject, term), exact }| {
            let plan = &watches.get(rule)?.plan;
            Some(WindowValue {
                rule: Arc::clone(&plan.rule.name),
                term: Arc::clone(plan.name(term)?),
                subject,
                value: if exact { Value::Exactly(number) } else { Value::AtLeast(number) },
            })
        };
        WindowReport { values: kept.into_iter().filter_map(value).collect(), omitted, rules, firing }
    }
}

/// What a term holds for a subject, with the threshold for whom no other is named unless it is given.
fn reached(
    plan: &CompiledRule,
    subject: &GroupKey,
    (term, value): (usize, Value),
    threshold: Option<u64>,
) -> Option<TermProgress> {
    let measured = plan.rule.terms.get(term)?;
    Some(TermProgress {
        rule: Arc::clone(&plan.rule.name),
        subject: subject.clone(),
        term: Arc::clone(plan.name(term)?),
        value,
        threshold: threshold.unwrap_or(measured.level.at_least),
        scale: measured.measure.scale(),
    })
}

impl Engine {
    /// Goes on with a survey at `now`, over some of the subjects of one rule. With the last of them it gives what it
    /// found, and the survey starts again. It must start again with other rules too.
    pub fn survey(&self, survey: &mut WindowScan, now: Time) -> Option<WindowReport> {
        let watches = &self.evaluator.watches;
        let (rule, shard, from) = survey.next;
        let mut further = false;
        if let Some(watch) = watches.get(rule) {
            if (shard, from) == (0, 0) {
                let (rule, highest) = (Arc::clone(&watch.plan.rule.name), None);
                survey.rules.push(RulePeak { rule, subjects: 0, highest });
            }
            let (subjects, more) = watch.unknown.part(shard, from, STEP);
            subjects.for_each(|(subject, watched)| survey.see((rule, watch), subject, watched, now));
            further = more;
        }
        survey.next = match further {
            true => (rule, shard, from + STEP),
            false if shard + 1 < SHARDS => (rule, shard + 1, 0),
            false => (rule + 1, 0, 0),
        };
        (survey.next.0 >= watches.len()).then(|| survey.over(watches))
    }

    /// The thresholds in force, in the order of the rules and their terms.
    pub fn thresholds(&self) -> Vec<TermThreshold> {
        let of = |plan: &CompiledRule| {
            let terms = plan.rule.terms.iter().enumerate();
            let threshold = |(index, term): (usize, &Term)| {
                let (rule, name) = (Arc::clone(&plan.rule.name), Arc::clone(plan.name(index)?));
                let scale = term.measure.scale();
                Some(TermThreshold { rule, term: name, at_least: term.level.at_least, scale })
            };
            terms.filter_map(threshold).collect::<Vec<_>>()
        };
        self.evaluator.watches.iter().flat_map(|watch| of(&watch.plan)).collect()
    }

    /// What the rules' windows hold at `now`, of all subjects at once: at most `most` values.
    pub fn overview(&self, now: Time, most: usize) -> WindowReport {
        let mut survey = WindowScan::new(most);
        loop {
            if let Some(overview) = self.survey(&mut survey, now) {
                return overview;
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

    /// An engine in which 10.0.0.n has n % 7 + 1 flows that count.
    fn engine(clients: u8) -> Engine {
        let mut engine = Engine::new(fixture::settings());
        for client in 0..clients {
            for port in 0..=client % 7 {
                let ends = (format!("10.0.0.{client}:{}", 4_000 + u16::from(port)), "9.9.9.9:25");
                let flow = fixture::ending(fixture::flow(&ends.0, ends.1), at(100));
                let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
                engine.record(at(100), &record);
            }
        }
        engine
    }

    #[test]
    fn in_steps_it_finds_what_is_there() {
        let engine = engine(200);
        let all = engine.windows(at(100));
        assert_eq!(all.len(), 200);
        let overview = engine.overview(at(100), 1_000);
        assert_eq!((&overview.values, overview.omitted), (&all, 0));
        let [ref standing] = overview.rules[..] else { panic!("{:?}", overview.rules) };
        let highest = standing.highest.clone().unwrap();
        assert_eq!((standing.subjects, &highest.subject), (200, &all[6].subject), "the lowest of equals");
        assert_eq!((highest.value, &*highest.term, highest.scale), (Value::Exactly(7), "count", 1));
        let firing: Vec<_> = overview.firing.iter().map(|one| one.value.number()).collect();
        let threshold = highest.threshold;
        let over = all.iter().map(|one| one.value.number()).filter(|value| *value >= threshold);
        assert_eq!(firing.len(), over.count());
    }

    #[test]
    fn the_highest_stay_and_of_equals_the_first() {
        let engine = engine(200);
        let mut all = engine.windows(at(100));
        for most in [0, 1, 5, 50, 199] {
            let overview = engine.overview(at(100), most);
            all.sort_by_key(|value| (Reverse(value.value.number()), value.subject.clone()));
            let mut expected = all[..most].to_vec();
            expected.sort_by(|one, other| one.subject.cmp(&other.subject));
            assert_eq!((overview.values, overview.omitted), (expected, 200 - most as u64), "{most}");
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
            vec![count.clone(), count, Term { measure: ratio, level: half, ..rule.terms[0].clone() }];
        let usual = rule.terms[0].level.at_least;
        let thresholds = Engine::new(settings).thresholds();
        let told: Vec<_> = thresholds.iter().map(|one| (&*one.term, one.at_least, one.scale)).collect();
        let expected =
            [("count", usual, 1), ("count #2", usual, 1), ("ratio failed/attempts", 500_000, 1_000_000)];
        assert_eq!(told, expected);
    }

    #[test]
    fn without_rules_it_is_over_at_once() {
        let settings = crate::settings::Settings { rules: Vec::new(), ..fixture::settings() };
        let engine = Engine::new(settings);
        assert_eq!(engine.survey(&mut WindowScan::new(5), at(1)), Some(WindowReport::default()));
    }
}
