//! Compiled rule: terms with their window parameters, indices of allow-list and thresholds, and the evaluation of
//! the condition.

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
        spec::{SUBWINDOWS, WindowSpec},
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

/// Compiled rule.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: Rule,
    term_specs: Vec<TermSpec>,
    term_names: Vec<Arc<str>>,
    /// Index of the rule's allow-list.
    allow_index: PairIndex,
    /// Index of the threshold overrides.
    override_index: PairIndex,
    required_fields: Vec<RecordFields>,
    /// Fields that at least one matching record did not carry.
    missing_fields: RecordFields,
    thresholds: Vec<Thresholds>,
    /// Lowest threshold of any group, by term.
    lowest_thresholds: Vec<u64>,
    /// True if the rule evaluates open flows between their records.
    pub(crate) live: bool,
    /// Longest retention of any term.
    pub(crate) retention: Duration,
    /// Shortest retention of any term.
    pub(crate) min_retention: Duration,
}

/// Part of a record, or of a live update, that the rule has not counted yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordDelta {
    pub(crate) time: Time,
    pub(crate) classes: FlowClasses,
    pub(crate) quantities: Quantities,
    pub(crate) fields: RecordFields,
    pub(crate) source: EndpointBytes,
    pub(crate) destination: EndpointBytes,
    pub(crate) port: u16,
    /// True if the server answered with payload, which shows that the client's address is not spoofed.
    pub(crate) has_server_payload: bool,
}

impl CompiledRule {
    /// Compiles `rule`; a record is at most `lateness` late.
    pub(crate) fn new(rule: Rule, lateness: Duration) -> Self {
        let term_spec = |(index, term): (usize, &Term)| {
            let thresholds =
                rule.threshold_overrides.iter().filter_map(|thresholds| thresholds.thresholds.get(index));
            let max_threshold =
                thresholds.chain([&term.thresholds]).map(|thresholds| thresholds.at_least).max().unwrap_or(1);
            let window_spec = WindowSpec::new(term.window, max_threshold, lateness);
            let window_spec = if rule.terms.len() > 1 {
                window_spec.with_capacity(SUBWINDOWS as usize + 1)
            } else {
                window_spec
            };
            TermSpec { measure: term.measure, window_spec, max_threshold, learning_ends: Time::ZERO }
        };
        let term_specs: Vec<TermSpec> = rule.terms.iter().enumerate().map(term_spec).collect();
        let live = |measure: &Measure| {
            matches!(measure, Measure::Sum(_) | Measure::Count(FlowClass::Delivering))
                || matches!(measure, Measure::Distinct { among: FlowClass::Delivering, .. })
        };
        let any_address = AddressSet::default();
        Self {
            retention: term_specs.iter().map(TermSpec::retention).max().unwrap_or_default(),
            min_retention: term_specs.iter().map(TermSpec::retention).min().unwrap_or_default(),
            term_names: term_names(&rule.terms),
            allow_index: PairIndex::new(rule.allow.iter().map(|allow| (&allow.source, &allow.destination))),
            override_index: PairIndex::new(
                rule.threshold_overrides
                    .iter()
                    .map(|threshold_override| (&threshold_override.of, &any_address)),
            ),
            required_fields: rule.terms.iter().map(Term::required_fields).collect(),
            missing_fields: RecordFields::empty(),
            thresholds: rule.terms.iter().map(|term| term.thresholds).collect(),
            lowest_thresholds: (0..rule.terms.len()).map(|term| lowest_thresholds(&rule, term)).collect(),
            live: rule.terms.iter().any(|term| live(&term.measure)),
            term_specs,
            rule,
        }
    }

    /// Returns true if the windows of `previous` are valid for this rule.
    pub(crate) fn continues(&self, previous: &CompiledRule) -> bool {
        let terms = |compiled: &CompiledRule| -> Vec<_> {
            compiled.rule.terms.iter().map(|term| (term.measure, term.window)).collect()
        };
        self.rule.matching == previous.rule.matching
            && self.rule.group_by == previous.rule.group_by
            && terms(self) == terms(previous)
    }

    /// Begins the learning period of first-seen terms at `since`.
    pub(crate) fn begin_learning(&mut self, since: Time) {
        for term_spec in &mut self.term_specs {
            if let Measure::FirstSeen { learning, .. } = term_spec.measure {
                term_spec.learning_ends = if learning.is_zero() { Time::ZERO } else { since + learning };
            }
        }
    }

    /// Returns the end of the learning period of each term.
    pub(crate) fn learning_ends(&self) -> Vec<Time> {
        self.term_specs.iter().map(|term_spec| term_spec.learning_ends).collect()
    }

    /// Restores the ends of the learning periods.
    pub(crate) fn set_learning_ends(&mut self, learning_ends: &[Time]) {
        for (term_spec, learning_ends) in self.term_specs.iter_mut().zip(learning_ends) {
            term_spec.learning_ends = *learning_ends;
        }
    }

    /// Takes the ends of the learning periods from `previous`.
    pub(crate) fn inherit_learning(&mut self, previous: &CompiledRule) {
        self.set_learning_ends(&previous.learning_ends());
    }

    /// Returns the specification of each term.
    pub(crate) fn term_specs(&self) -> &[TermSpec] {
        &self.term_specs
    }

    /// Returns the name of a term.
    pub(crate) fn name(&self, term: usize) -> Option<&Arc<str>> {
        self.term_names.get(term)
    }

    /// Returns the thresholds of a group with a flow between `endpoints`.
    pub(crate) fn thresholds(&self, endpoints: &Endpoints<'_>) -> &[Thresholds] {
        let address = if self.rule.group_by == GroupBy::Destination {
            &endpoints.destination
        } else {
            &endpoints.source
        };
        self.thresholds_at(address)
    }

    /// Returns the thresholds of a group at `address`.
    pub(crate) fn thresholds_at(&self, address: &ResolvedAddress<'_>) -> &[Thresholds] {
        let endpoints = Endpoints { source: *address, destination: *address };
        let of = |number: usize| self.rule.threshold_overrides.get(number);
        let own = self.override_index.first(&endpoints, |number| {
            of(number).is_some_and(|threshold_override| threshold_override.of.contains(address))
        });
        own.and_then(of).map_or(&self.thresholds, |thresholds| &thresholds.thresholds)
    }

    /// Returns the first allow-list entry that applies to a flow between these endpoints at `time`.
    pub(crate) fn allowed(
        &self,
        endpoints: &Endpoints<'_>,
        time: Time,
        clock_offset: WallClockOffset,
    ) -> Option<&AllowEntry> {
        let of = |number: usize| self.rule.allow.get(number);
        let holds = |number| of(number).is_some_and(|allow| allow.applies(endpoints, time, clock_offset));
        self.allow_index.first(endpoints, holds).and_then(of)
    }

    /// Returns the thresholds of groups without an override.
    pub(crate) fn default_thresholds(&self) -> &[Thresholds] {
        &self.thresholds
    }

    /// Records the fields that a matching record did not carry.
    pub(crate) fn note_missing_fields(&mut self, fields: RecordFields) {
        self.missing_fields |= fields.complement();
    }

    /// Weakens a value if records lacked the fields of its term: a missing field is not zero.
    fn adjust_for_missing(&self, term: usize, value: Value) -> Value {
        let is_missing =
            self.required_fields.get(term).is_some_and(|fields| fields.intersects(self.missing_fields));
        match value {
            value if !is_missing => value,
            Value::Exactly(0) | Value::AtLeast(0) => Value::Unknown,
            value => Value::AtLeast(value.number()),
        }
    }

    /// Returns the increment of a term by `delta`, or `None` if the term does not count it.
    pub(crate) fn increment(&self, term: usize, delta: &RecordDelta) -> Option<Increment> {
        let (term_spec, fields) = (self.term_specs.get(term)?, self.required_fields.get(term)?);
        // A record may carry the fields of the denominator and not those of the numerator. Then the flow does not
        // count for the numerator.
        let denominator_only = matches!(term_spec.measure, Measure::Ratio { to, .. } if delta.fields.contains(to.required_fields()));
        let has_fields = delta.fields.contains(*fields);
        if !has_fields && !denominator_only {
            return None;
        }
        let of = |endpoint| match endpoint {
            Endpoint::Source => delta.source,
            Endpoint::Destination => delta.destination,
            Endpoint::Port => port_bytes(delta.port),
        };
        match term_spec.measure {
            Measure::Count(class) => delta.classes.contains_class(class).then_some(Increment::One),
            Measure::Sum(quantity) => {
                let amount = delta.quantities.get(quantity);
                (amount > 0).then_some(Increment::Amount(amount))
            }
            Measure::Ratio { of, to } => {
                let of = u64::from(has_fields && delta.classes.contains_class(of));
                let to = u64::from(delta.classes.contains_class(to));
                (of + to > 0).then_some(Increment::Ratio(of, to))
            }
            Measure::Distinct { of: endpoint, among } => {
                delta.classes.contains_class(among).then(|| Increment::Endpoint(of(endpoint)))
            }
            Measure::FirstSeen { of: endpoint, .. } => {
                delta.classes.contains(FlowClasses::FLOWS).then(|| Increment::Endpoint(of(endpoint)))
            }
        }
    }

    /// Returns true if the first record of a group can be stored as it is. It must give each term at most one flow
    /// or one endpoint, and must not fulfil the condition with the lowest thresholds of any group.
    pub(crate) fn can_keep_first(&self, delta: &RecordDelta, clock: Time) -> bool {
        let increment = |term| self.increment(term, delta);
        let small = self.term_specs.iter().enumerate().all(|(term, term_spec)| match increment(term) {
            None => !matches!(term_spec.measure, Measure::FirstSeen { .. }),
            Some(Increment::Amount(_)) => false,
            Some(_) => {
                !matches!(term_spec.measure, Measure::FirstSeen { .. })
                    && term_spec.window_spec.is_relevant(delta.time, clock)
            }
        });
        let holds = |term: usize| match increment(term) {
            None | Some(Increment::Amount(_)) => false,
            Some(Increment::Ratio(of, _)) => of > 0,
            Some(Increment::One | Increment::Endpoint(_)) => {
                self.lowest_thresholds.get(term).is_none_or(|lowest_thresholds| *lowest_thresholds <= 1)
            }
        };
        small && !self.is_fulfilled(&self.rule.condition, &holds)
    }

    /// Returns the values of the windows that end at `time`.
    pub(crate) fn values(
        &self,
        windows: &[WindowState],
        thresholds: &[Thresholds],
        time: Time,
    ) -> Vec<TermValue> {
        let value = |(index, (window, thresholds)): (usize, (&WindowState, &Thresholds))| {
            let (term_spec, name) = (self.term_specs.get(index)?, self.term_names.get(index)?);
            let value = self.adjust_for_missing(index, window.value(term_spec, time));
            Some(TermValue {
                name: Arc::clone(name),
                window: self.rule.terms.get(index)?.window.length,
                value,
                threshold: thresholds.at_least,
                scale: term_spec.measure.scale(),
                holds: value.number() >= thresholds.at_least,
            })
        };
        windows.iter().zip(thresholds).enumerate().filter_map(value).collect()
    }

    /// Returns the value of one term.
    pub(crate) fn value(&self, windows: &[WindowState], term: usize, time: Time) -> Value {
        match (self.term_specs.get(term), windows.get(term)) {
            (Some(term_spec), Some(window)) => window.value(term_spec, time),
            _ => Value::Exactly(0),
        }
    }

    /// Returns true if the condition may hold at some time, by upper bounds. Cheap, and false for most groups.
    pub(crate) fn may_hold(&self, windows: &[WindowState], thresholds: &[Thresholds]) -> bool {
        self.is_fulfilled(&self.rule.condition, &|term| {
            let thresholds = thresholds.get(term).map_or(u64::MAX, |thresholds| thresholds.at_least);
            windows.get(term).is_some_and(|window| window.upper_bound() >= thresholds)
        })
    }

    /// Returns true if the condition holds at `time`.
    pub(crate) fn holds(&self, windows: &[WindowState], thresholds: &[Thresholds], time: Time) -> bool {
        self.is_fulfilled(&self.rule.condition, &|term| {
            let thresholds = thresholds.get(term).map_or(u64::MAX, |thresholds| thresholds.at_least);
            self.value(windows, term, time).number() >= thresholds
        })
    }

    /// Returns the term that decides the condition, of those that hold.
    pub(crate) fn deciding_term(&self, values: &[TermValue]) -> usize {
        self.first_holding(&self.rule.condition, values).unwrap_or(0)
    }

    /// Returns the term that keeps an incident active. If no term holds any more, that is the term nearest to its
    /// threshold; `None` if all values are zero.
    pub(crate) fn deciding_term_now(&self, values: &[TermValue]) -> Option<usize> {
        let nearest = || {
            let ratio = |term: usize| {
                self.term_specs
                    .get(term)
                    .is_none_or(|term_spec| matches!(term_spec.measure, Measure::Ratio { .. }))
            };
            let some =
                values.iter().enumerate().filter(|(term, value)| value.value.number() > 0 && !ratio(*term));
            // Of equally near terms the first.
            some.rev()
                .max_by(|(_, one), (_, other)| nearness(one).total_cmp(&nearness(other)))
                .map(|(term, _)| term)
        };
        self.first_holding(&self.rule.condition, values).or_else(nearest)
    }

    /// Returns the end of the last period in which the condition holds, by the resolve thresholds. The end may lie
    /// in the future.
    pub(crate) fn holds_until(&self, windows: &[WindowState], thresholds: &[Thresholds]) -> Option<Time> {
        match self.part_holds_until(&self.rule.condition, windows, thresholds, Time::END) {
            HoldsUntil::At(until) => Some(until),
            HoldsUntil::Never => None,
            // With ratios only, the incident lasts while a numerator is not empty.
            HoldsUntil::Undecided => {
                let terms = self.term_specs.iter().zip(windows);
                terms.filter_map(|(term_spec, window)| window.numerator_empty_at(term_spec)).max()
            }
        }
    }

    fn is_fulfilled(&self, condition: &Condition, holds: &impl Fn(usize) -> bool) -> bool {
        match condition {
            Condition::Term(term) => holds(*term),
            Condition::Any(parts) => parts.iter().any(|part| self.is_fulfilled(part, holds)),
            Condition::All(parts) => parts.iter().all(|part| self.is_fulfilled(part, holds)),
        }
    }

    fn first_holding(&self, condition: &Condition, values: &[TermValue]) -> Option<usize> {
        match condition {
            Condition::Term(term) => values.get(*term)?.holds.then_some(*term),
            Condition::Any(parts) => parts.iter().find_map(|part| self.first_holding(part, values)),
            Condition::All(parts) => {
                let terms: Option<Vec<usize>> =
                    parts.iter().map(|part| self.first_holding(part, values)).collect();
                let terms = terms?;
                // A ratio means little without its absolute number.
                let is_absolute = |term: &&usize| {
                    self.term_specs
                        .get(**term)
                        .is_some_and(|term_spec| !matches!(term_spec.measure, Measure::Ratio { .. }))
                };
                terms.iter().find(is_absolute).or(terms.first()).copied()
            }
        }
    }

    /// Returns the end of the last period in which a part of the condition holds, at most `limit`.
    fn part_holds_until(
        &self,
        condition: &Condition,
        windows: &[WindowState],
        thresholds: &[Thresholds],
        limit: Time,
    ) -> HoldsUntil {
        match condition {
            Condition::Term(term) => {
                match (self.term_specs.get(*term), windows.get(*term), thresholds.get(*term)) {
                    (Some(term_spec), Some(window), Some(thresholds)) => {
                        window.holds_until(term_spec, thresholds.resolve_below, limit)
                    }
                    _ => HoldsUntil::Never,
                }
            }
            Condition::Any(parts) => {
                let untils = parts.iter().map(|part| self.part_holds_until(part, windows, thresholds, limit));
                untils.fold(HoldsUntil::Undecided, |one, other| match (one, other) {
                    (HoldsUntil::At(one), HoldsUntil::At(other)) => HoldsUntil::At(one.max(other)),
                    (HoldsUntil::At(until), _) | (_, HoldsUntil::At(until)) => HoldsUntil::At(until),
                    (HoldsUntil::Never, _) | (_, HoldsUntil::Never) => HoldsUntil::Never,
                    (HoldsUntil::Undecided, HoldsUntil::Undecided) => HoldsUntil::Undecided,
                })
            }
            Condition::All(parts) => self.holds_together_until(parts, windows, thresholds, limit),
        }
    }

    /// Returns the end of the last period in which all parts hold. If one part ends earlier, the search continues
    /// before that time.
    fn holds_together_until(
        &self,
        parts: &[Condition],
        windows: &[WindowState],
        thresholds: &[Thresholds],
        mut limit: Time,
    ) -> HoldsUntil {
        loop {
            let mut first = None;
            for part in parts {
                match self.part_holds_until(part, windows, thresholds, limit) {
                    HoldsUntil::Never => return HoldsUntil::Never,
                    HoldsUntil::At(until) => {
                        first = Some(first.map_or(until, |first: Time| first.min(until)))
                    }
                    HoldsUntil::Undecided => {}
                }
            }
            match first {
                None => return HoldsUntil::Undecided,
                Some(until) if until >= limit => return HoldsUntil::At(until),
                Some(until) => limit = until,
            }
        }
    }
}

/// Returns the value as a fraction of its threshold.
fn nearness(term: &TermValue) -> f64 {
    term.value.number() as f64 / term.threshold.max(1) as f64
}

/// Returns the names of the terms. Terms of equal measures get a number, as an alert names one of them, and each
/// has its own time series.
fn term_names(terms: &[Term]) -> Vec<Arc<str>> {
    let name = |(place, term): (usize, &Term)| {
        let name = term.measure.name();
        let before = terms.iter().take(place).filter(|before| before.measure.name() == name).count();
        if before == 0 { name.into() } else { format!("{name} #{}", before + 1).into() }
    };
    terms.iter().enumerate().map(name).collect()
}

/// Returns the lowest threshold of a term for any group.
fn lowest_thresholds(rule: &Rule, term: usize) -> u64 {
    let override_index = rule
        .threshold_overrides
        .iter()
        .filter_map(|threshold_override| threshold_override.thresholds.get(term));
    let default = rule.terms.get(term).map(|term| &term.thresholds);
    override_index.chain(default).map(|thresholds| thresholds.at_least).min().unwrap_or(0)
}

fn port_bytes(port: u16) -> EndpointBytes {
    let mut bytes = [0; 16];
    if let Some(last) = bytes.last_chunk_mut::<2>() {
        *last = port.to_be_bytes();
    }
    bytes
}
