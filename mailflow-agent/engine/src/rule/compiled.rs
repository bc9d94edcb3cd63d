//! A rule, worked out: what each of its terms looks at, and how they go together.

use std::{sync::Arc, time::Duration};

use super::{
    definition::{AllowEntry, Condition, GroupBy, Rule},
    pair_index::PairIndex,
    term::{Endpoint, Measure, Term},
    thresholds::Thresholds,
};
use crate::{
    eval::window::{
        distinct::EndpointBytes,
        spec::{PARTS, WindowSpec},
        state::{HoldsUntil, Increment, TermSpec, WindowState},
        value::{TermValue, Value},
    },
    flow::{
        class::{FlowClass, FlowClasses},
        fields::RecordFields,
        quantity::Quantities,
    },
    network::{AddressSet, Endpoints, ResolvedAddress},
    time::{Time, WallClockOffset},
};

/// A rule with what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: Rule,
    frames: Vec<TermSpec>,
    names: Vec<Arc<str>>,
    /// The rule's allow-list.
    allow: PairIndex,
    /// Those for whom it has other thresholds.
    others: PairIndex,
    inputs: Vec<RecordFields>,
    /// What some record did not tell.
    lacking: RecordFields,
    levels: Vec<Thresholds>,
    /// The lowest threshold of any subject, by term.
    least: Vec<u64>,
    /// True if it has something to say about flows that are open, between their records.
    pub(crate) live: bool,
    /// How long anything can matter.
    pub(crate) retention: Duration,
    /// How long what a record gave any of the terms matters at least.
    pub(crate) soonest: Duration,
}

/// What a record, or a look at an open flow, tells that was not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordDelta {
    pub(crate) time: Time,
    pub(crate) kinds: FlowClasses,
    pub(crate) gains: Quantities,
    pub(crate) inputs: RecordFields,
    pub(crate) source: EndpointBytes,
    pub(crate) destination: EndpointBytes,
    pub(crate) port: u16,
    /// True if the server has answered with payload, which it does to a client at that address only.
    pub(crate) completed: bool,
}

impl CompiledRule {
    /// Of `rule`; a record is at most `lateness` late.
    pub(crate) fn new(rule: Rule, lateness: Duration) -> Self {
        let frame = |(index, term): (usize, &Term)| {
            let levels = rule.thresholds.iter().filter_map(|thresholds| thresholds.levels.get(index));
            let need = levels.chain([&term.level]).map(|level| level.at_least).max().unwrap_or(1);
            let shape = WindowSpec::new(term.window, need, lateness);
            let shape = if rule.terms.len() > 1 { shape.with_room(PARTS as usize + 1) } else { shape };
            TermSpec { measure: term.measure, shape, need, learnt: Time::ZERO }
        };
        let frames: Vec<TermSpec> = rule.terms.iter().enumerate().map(frame).collect();
        let live = |measure: &Measure| {
            matches!(measure, Measure::Sum(_) | Measure::Count(FlowClass::Delivering))
                || matches!(measure, Measure::Distinct { among: FlowClass::Delivering, .. })
        };
        let anywhere = AddressSet::default();
        Self {
            retention: frames.iter().map(TermSpec::retention).max().unwrap_or_default(),
            soonest: frames.iter().map(TermSpec::retention).min().unwrap_or_default(),
            names: names(&rule.terms),
            allow: PairIndex::new(rule.allow.iter().map(|allow| (&allow.source, &allow.destination))),
            others: PairIndex::new(rule.thresholds.iter().map(|other| (&other.of, &anywhere))),
            inputs: rule.terms.iter().map(Term::inputs).collect(),
            lacking: RecordFields::empty(),
            levels: rule.terms.iter().map(|term| term.level).collect(),
            least: (0..rule.terms.len()).map(|term| least(&rule, term)).collect(),
            live: rule.terms.iter().any(|term| live(&term.measure)),
            frames,
            rule,
        }
    }

    /// Returns true if what was remembered for `other` means the same for this.
    pub(crate) fn continues(&self, other: &CompiledRule) -> bool {
        let terms = |plan: &CompiledRule| -> Vec<_> {
            plan.rule.terms.iter().map(|term| (term.measure, term.window)).collect()
        };
        self.rule.matching == other.rule.matching
            && self.rule.group_by == other.rule.group_by
            && terms(self) == terms(other)
    }

    /// Begins to watch at `since`: from then on it learns what is not new.
    pub(crate) fn begin(&mut self, since: Time) {
        for frame in &mut self.frames {
            if let Measure::FirstSeen { learning, .. } = frame.measure {
                frame.learnt = if learning.is_zero() { Time::ZERO } else { since + learning };
            }
        }
    }

    /// When each term has learnt what is not new.
    pub(crate) fn learnt(&self) -> Vec<Time> {
        self.frames.iter().map(|frame| frame.learnt).collect()
    }

    /// Goes on as it was saved.
    pub(crate) fn set_learnt(&mut self, learnt: &[Time]) {
        for (frame, learnt) in self.frames.iter_mut().zip(learnt) {
            frame.learnt = *learnt;
        }
    }

    /// Goes on from `before`: what was learnt stays so.
    pub(crate) fn inherit(&mut self, before: &CompiledRule) {
        self.set_learnt(&before.learnt());
    }

    /// The terms.
    pub(crate) fn frames(&self) -> &[TermSpec] {
        &self.frames
    }

    /// Name of a term.
    pub(crate) fn name(&self, term: usize) -> Option<&Arc<str>> {
        self.names.get(term)
    }

    /// The thresholds for a subject whose flow is between `ends`.
    pub(crate) fn levels(&self, ends: &Endpoints<'_>) -> &[Thresholds] {
        let site = if self.rule.group_by == GroupBy::Destination { &ends.destination } else { &ends.source };
        self.levels_of(site)
    }

    /// The thresholds for a subject at `site`.
    pub(crate) fn levels_of(&self, site: &ResolvedAddress<'_>) -> &[Thresholds] {
        let ends = Endpoints { source: *site, destination: *site };
        let of = |number: usize| self.rule.thresholds.get(number);
        let own = self.others.first(&ends, |number| of(number).is_some_and(|other| other.of.holds(site)));
        own.and_then(of).map_or(&self.levels, |thresholds| &thresholds.levels)
    }

    /// Returns what makes a flow between these ends at `time` known, if anything does.
    pub(crate) fn allowed(
        &self,
        ends: &Endpoints<'_>,
        time: Time,
        epoch: WallClockOffset,
    ) -> Option<&AllowEntry> {
        let of = |number: usize| self.rule.allow.get(number);
        let holds = |number| of(number).is_some_and(|allow| allow.holds(ends, time, epoch));
        self.allow.first(ends, holds).and_then(of)
    }

    /// The thresholds of everybody else.
    pub(crate) fn usual_levels(&self) -> &[Thresholds] {
        &self.levels
    }

    /// A record that counts tells this much.
    pub(crate) fn told(&mut self, inputs: RecordFields) {
        self.lacking |= inputs.complement();
    }

    /// What is held of a term, as far as it is known: what a record does not tell is not zero.
    fn known(&self, term: usize, value: Value) -> Value {
        let lacks = self.inputs.get(term).is_some_and(|inputs| inputs.intersects(self.lacking));
        match value {
            value if !lacks => value,
            Value::Exactly(0) | Value::AtLeast(0) => Value::Unknown,
            value => Value::AtLeast(value.number()),
        }
    }

    /// What `news` adds to a term, if anything.
    pub(crate) fn gain(&self, term: usize, news: &RecordDelta) -> Option<Increment> {
        let (frame, inputs) = (self.frames.get(term)?, self.inputs.get(term)?);
        // Of a ratio's flow it may be known that it is below the line, and not whether it is above: it is not.
        let below_only =
            matches!(frame.measure, Measure::Ratio { to, .. } if news.inputs.contains(to.inputs()));
        let known = news.inputs.contains(*inputs);
        if !known && !below_only {
            return None;
        }
        let of = |end| match end {
            Endpoint::Source => news.source,
            Endpoint::Destination => news.destination,
            Endpoint::Port => mark_of_port(news.port),
        };
        match frame.measure {
            Measure::Count(kind) => news.kinds.are(kind).then_some(Increment::One),
            Measure::Sum(quantity) => {
                let amount = news.gains.get(quantity);
                (amount > 0).then_some(Increment::Amount(amount))
            }
            Measure::Ratio { of, to } => {
                let of = u64::from(known && news.kinds.are(of));
                let to = u64::from(news.kinds.are(to));
                (of + to > 0).then_some(Increment::Parts(of, to))
            }
            Measure::Distinct { of: end, among } => news.kinds.are(among).then(|| Increment::With(of(end))),
            Measure::FirstSeen { of: end, .. } => {
                news.kinds.contains(FlowClasses::FLOWS).then(|| Increment::With(of(end)))
            }
        }
    }

    /// Returns true if the first news of a subject can be kept as they are: they give each term at most one flow, or
    /// one end, and the condition does not hold by them alone, whatever the subject's thresholds are.
    pub(crate) fn keeps_first(&self, news: &RecordDelta, clock: Time) -> bool {
        let gain = |term| self.gain(term, news);
        let small = self.frames.iter().enumerate().all(|(term, frame)| match gain(term) {
            None => !matches!(frame.measure, Measure::FirstSeen { .. }),
            Some(Increment::Amount(_)) => false,
            Some(_) => {
                !matches!(frame.measure, Measure::FirstSeen { .. }) && frame.shape.matters(news.time, clock)
            }
        });
        let holds = |term: usize| match gain(term) {
            None | Some(Increment::Amount(_)) => false,
            Some(Increment::Parts(of, _)) => of > 0,
            Some(Increment::One | Increment::With(_)) => self.least.get(term).is_none_or(|least| *least <= 1),
        };
        small && !self.holding(&self.rule.condition, &holds)
    }

    /// What the windows that end at `time` hold.
    pub(crate) fn values(&self, stores: &[WindowState], levels: &[Thresholds], time: Time) -> Vec<TermValue> {
        let value = |(index, (store, level)): (usize, (&WindowState, &Thresholds))| {
            let (frame, name) = (self.frames.get(index)?, self.names.get(index)?);
            let value = self.known(index, store.value(frame, time));
            Some(TermValue {
                name: Arc::clone(name),
                window: self.rule.terms.get(index)?.window.length,
                value,
                threshold: level.at_least,
                scale: frame.measure.scale(),
                holds: value.number() >= level.at_least,
            })
        };
        stores.iter().zip(levels).enumerate().filter_map(value).collect()
    }

    /// The value of one term.
    pub(crate) fn value(&self, stores: &[WindowState], term: usize, time: Time) -> Value {
        match (self.frames.get(term), stores.get(term)) {
            (Some(frame), Some(store)) => store.value(frame, time),
            _ => Value::Exactly(0),
        }
    }

    /// Returns true if the condition may hold at any time: cheap, and no for most.
    pub(crate) fn may_hold(&self, stores: &[WindowState], levels: &[Thresholds]) -> bool {
        self.holding(&self.rule.condition, &|term| {
            let level = levels.get(term).map_or(u64::MAX, |level| level.at_least);
            stores.get(term).is_some_and(|store| store.most() >= level)
        })
    }

    /// Returns true if the condition holds at `time`.
    pub(crate) fn holds(&self, stores: &[WindowState], levels: &[Thresholds], time: Time) -> bool {
        self.holding(&self.rule.condition, &|term| {
            let level = levels.get(term).map_or(u64::MAX, |level| level.at_least);
            self.value(stores, term, time).number() >= level
        })
    }

    /// Of the terms that hold, the one that decides the condition.
    pub(crate) fn decided(&self, values: &[TermValue]) -> usize {
        self.leading(&self.rule.condition, values).unwrap_or(0)
    }

    /// The same of what keeps an incident up: if none of them holds any more, the one nearest to its threshold;
    /// none where all hold nothing.
    pub(crate) fn decides_now(&self, values: &[TermValue]) -> Option<usize> {
        let nearest = || {
            let ratio = |term: usize| {
                self.frames.get(term).is_none_or(|frame| matches!(frame.measure, Measure::Ratio { .. }))
            };
            let some =
                values.iter().enumerate().filter(|(term, value)| value.value.number() > 0 && !ratio(*term));
            // Of equals the first.
            some.rev()
                .max_by(|(_, one), (_, other)| nearness(one).total_cmp(&nearness(other)))
                .map(|(term, _)| term)
        };
        self.leading(&self.rule.condition, values).or_else(nearest)
    }

    /// Until when the condition last held, or will have held, at the thresholds for its end.
    pub(crate) fn until(&self, stores: &[WindowState], levels: &[Thresholds]) -> Option<Time> {
        match self.lasting(&self.rule.condition, stores, levels, Time::END) {
            HoldsUntil::At(until) => Some(until),
            HoldsUntil::Never => None,
            // Nothing but ratios: for as long as there is something above the line.
            HoldsUntil::Undecided => {
                let both = self.frames.iter().zip(stores);
                both.filter_map(|(frame, store)| store.empties(frame)).max()
            }
        }
    }

    fn holding(&self, condition: &Condition, holds: &impl Fn(usize) -> bool) -> bool {
        match condition {
            Condition::Term(term) => holds(*term),
            Condition::Any(parts) => parts.iter().any(|part| self.holding(part, holds)),
            Condition::All(parts) => parts.iter().all(|part| self.holding(part, holds)),
        }
    }

    fn leading(&self, condition: &Condition, values: &[TermValue]) -> Option<usize> {
        match condition {
            Condition::Term(term) => values.get(*term)?.holds.then_some(*term),
            Condition::Any(parts) => parts.iter().find_map(|part| self.leading(part, values)),
            Condition::All(parts) => {
                let terms: Option<Vec<usize>> = parts.iter().map(|part| self.leading(part, values)).collect();
                let terms = terms?;
                // A ratio says little without the number it is a part of.
                let says = |term: &&usize| {
                    self.frames
                        .get(**term)
                        .is_some_and(|frame| !matches!(frame.measure, Measure::Ratio { .. }))
                };
                terms.iter().find(says).or(terms.first()).copied()
            }
        }
    }

    /// Until when, `before` at the latest, a part of the condition last held.
    fn lasting(
        &self,
        condition: &Condition,
        stores: &[WindowState],
        levels: &[Thresholds],
        before: Time,
    ) -> HoldsUntil {
        match condition {
            Condition::Term(term) => match (self.frames.get(*term), stores.get(*term), levels.get(*term)) {
                (Some(frame), Some(store), Some(level)) => store.until(frame, level.resolve_below, before),
                _ => HoldsUntil::Never,
            },
            Condition::Any(parts) => {
                let untils = parts.iter().map(|part| self.lasting(part, stores, levels, before));
                untils.fold(HoldsUntil::Undecided, |one, other| match (one, other) {
                    (HoldsUntil::At(one), HoldsUntil::At(other)) => HoldsUntil::At(one.max(other)),
                    (HoldsUntil::At(until), _) | (_, HoldsUntil::At(until)) => HoldsUntil::At(until),
                    (HoldsUntil::Never, _) | (_, HoldsUntil::Never) => HoldsUntil::Never,
                    (HoldsUntil::Undecided, HoldsUntil::Undecided) => HoldsUntil::Undecided,
                })
            }
            Condition::All(parts) => self.lasting_together(parts, stores, levels, before),
        }
    }

    /// Until when all parts last held at once: where one did no longer, the others are asked about before that.
    fn lasting_together(
        &self,
        parts: &[Condition],
        stores: &[WindowState],
        levels: &[Thresholds],
        mut before: Time,
    ) -> HoldsUntil {
        loop {
            let mut first = None;
            for part in parts {
                match self.lasting(part, stores, levels, before) {
                    HoldsUntil::Never => return HoldsUntil::Never,
                    HoldsUntil::At(until) => {
                        first = Some(first.map_or(until, |first: Time| first.min(until)))
                    }
                    HoldsUntil::Undecided => {}
                }
            }
            match first {
                None => return HoldsUntil::Undecided,
                Some(until) if until >= before => return HoldsUntil::At(until),
                Some(until) => before = until,
            }
        }
    }
}

/// How near a value is to its threshold, as a part of that.
fn nearness(term: &TermValue) -> f64 {
    term.value.number() as f64 / term.threshold.max(1) as f64
}

/// What the terms measure, in words. Those that measure the same, over another time or to another threshold, are
/// told apart by a number: an alert names one of them, and each has a series of its own.
fn names(terms: &[Term]) -> Vec<Arc<str>> {
    let name = |(place, term): (usize, &Term)| {
        let name = term.measure.name();
        let before = terms.iter().take(place).filter(|before| before.measure.name() == name).count();
        if before == 0 { name.into() } else { format!("{name} #{}", before + 1).into() }
    };
    terms.iter().enumerate().map(name).collect()
}

/// The lowest threshold of a term.
fn least(rule: &Rule, term: usize) -> u64 {
    let others = rule.thresholds.iter().filter_map(|other| other.levels.get(term));
    let usual = rule.terms.get(term).map(|term| &term.level);
    others.chain(usual).map(|level| level.at_least).min().unwrap_or(0)
}

fn mark_of_port(port: u16) -> EndpointBytes {
    let mut mark = [0; 16];
    if let Some(last) = mark.last_chunk_mut::<2>() {
        *last = port.to_be_bytes();
    }
    mark
}
