//! One subject under one rule: what it holds, and whether an incident lasts.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    group_key::GroupKey,
    window::{
        distinct::EndpointBytes,
        state::{TermSpec, WindowState},
        value::TermValue,
    },
};
use crate::{
    alert::{
        event::Alert,
        evidence::{Evidence, EvidenceChain, EvidenceView, HandshakeClass, LazyEvidence},
        incident::{self, AlertPayload, DueAction, Incident},
    },
    flow::{FlowRecord, class::FlowClasses, fields::RecordFields, quantity::Quantities},
    network::Networks,
    rule::{
        Condition, Thresholds,
        compiled::{CompiledRule, RecordDelta},
    },
    time::{Time, WallClockOffset},
};

/// What an allocation takes beyond its size.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// What one takes that is told together with others.
const AGGREGATED_INCIDENT_BYTES: usize = 1_024;

/// Entries up to which a subject is visited when all of them are forgotten, not when those of one term are.
const MANY_ENTRIES: usize = 16;

/// What an incident takes beyond its flows: its alert, as it was told last, and as others hold it.
const INCIDENT_BYTES: usize = 4_096;

/// A subject under a rule.
#[derive(Debug)]
pub(crate) struct GroupState {
    windows: TermWindows,
    /// The newest contributing flows.
    evidence: EvidenceChain,
    state: IncidentState,
    /// True if any of its flows was answered with payload.
    has_server_payload: bool,
}

/// Most rules have one term, and those need no box.
#[derive(Debug)]
enum TermWindows {
    /// Nothing, or what the first flow gave, of a rule of several terms: a SYN that nobody answers takes no more.
    FirstRecord(Option<Box<FirstRecord>>),
    One([WindowState; 1]),
    Many(Box<[WindowState]>),
}

/// The first news of a subject, of which each term is given at most one flow or end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FirstRecord {
    time: Time,
    classes: u8,
    fields: u8,
    source: EndpointBytes,
    destination: EndpointBytes,
    port: u16,
}

/// What is remembered of a subject, as it is saved.
pub(crate) enum SavedWindows {
    FirstRecord(FirstRecord),
    TermWindows(Vec<WindowState>),
}

#[derive(Debug)]
pub(crate) enum IncidentState {
    /// No incident; the last one ended then.
    Quiet(Option<Time>),
    /// An alert fires; and the term that decided.
    Firing(Box<(Incident, usize)>),
}

/// What became of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApplyOutcome {
    /// It concerned none of the terms.
    NotApplicable,
    /// It is in the windows.
    Applied,
    /// It came too late to be judged.
    Late,
}

/// What is around a subject.
#[derive(Clone, Copy)]
pub(crate) struct EvalContext<'a> {
    pub(crate) compiled: &'a CompiledRule,
    pub(crate) group_key: &'a GroupKey,
    pub(crate) internal: &'a Networks,
    pub(crate) evidence: &'a Evidence,
    pub(crate) clock: Time,
    /// Places the start of an alert on the wall clock.
    pub(crate) clock_offset: WallClockOffset,
    /// True if packets of the subject found the flow table full within the rule's memory.
    pub(crate) overflow: bool,
}

impl GroupState {
    /// Without anything yet.
    pub(crate) fn new(compiled: &CompiledRule) -> Self {
        Self { windows: TermWindows::of(compiled), ..Self::without_records() }
    }

    /// Without anything yet, and as little room as that takes.
    pub(crate) fn new_small(compiled: &CompiledRule) -> Self {
        if compiled.term_specs().len() == 1 { Self::new(compiled) } else { Self::without_records() }
    }

    fn without_records() -> Self {
        let (windows, state) = (TermWindows::FirstRecord(None), IncidentState::Quiet(None));
        Self { windows, evidence: EvidenceChain::default(), state, has_server_payload: false }
    }

    /// As it was saved.
    pub(crate) fn restored(
        saved: SavedWindows,
        evidence: EvidenceChain,
        state: IncidentState,
        has_server_payload: bool,
    ) -> Self {
        let windows = match saved {
            SavedWindows::FirstRecord(first) => TermWindows::FirstRecord(Some(Box::new(first))),
            SavedWindows::TermWindows(windows) => match <[WindowState; 1]>::try_from(windows) {
                Ok(one) => TermWindows::One(one),
                Err(many) => TermWindows::Many(many.into_boxed_slice()),
            },
        };
        Self { windows, evidence, state, has_server_payload }
    }

    /// What is to be saved of it.
    pub(crate) fn saved_windows(&self) -> SavedWindows {
        match &self.windows {
            TermWindows::FirstRecord(Some(first)) => SavedWindows::FirstRecord(**first),
            windows => SavedWindows::TermWindows(windows.as_slice().to_vec()),
        }
    }

    /// Takes news.
    pub(crate) fn apply(
        &mut self,
        compiled: &CompiledRule,
        clock: Time,
        delta: &RecordDelta,
    ) -> ApplyOutcome {
        if self.is_expired(compiled, clock) {
            self.evidence = EvidenceChain::default();
        }
        self.has_server_payload |= delta.has_server_payload;
        if let TermWindows::FirstRecord(first) = &mut self.windows {
            if (0..compiled.term_specs().len()).all(|term| compiled.increment(term, delta).is_none()) {
                return ApplyOutcome::NotApplicable;
            }
            let quiet = matches!(self.state, IncidentState::Quiet(None));
            if first.is_none() && quiet && compiled.can_keep_first(delta, clock) {
                *first = Some(Box::new(FirstRecord::of(delta)));
                return ApplyOutcome::Applied;
            }
            self.allocate_windows(compiled, clock);
        }
        let mut outcome = ApplyOutcome::NotApplicable;
        for (term, (window, term_spec)) in
            self.windows_mut().iter_mut().zip(compiled.term_specs()).enumerate()
        {
            match compiled.increment(term, delta) {
                Some(increment) if term_spec.window_spec.is_relevant(delta.time, clock) => {
                    window.add(term_spec, clock, delta.time, increment);
                    outcome = ApplyOutcome::Applied;
                }
                increment => {
                    // What cannot matter any more is gone whenever anything is judged, whatever was swept when: a
                    // record that comes later than any should is judged by a window of the past.
                    window.prune_if_added(term_spec, clock);
                    if increment.is_some() && outcome == ApplyOutcome::NotApplicable {
                        outcome = ApplyOutcome::Late;
                    }
                }
            }
        }
        outcome
    }

    /// Notes a flow that contributed. A later record of a flow takes the place of an earlier one.
    pub(crate) fn link_evidence(&mut self, evidence: &mut Evidence, record: &mut LazyEvidence<'_>) {
        record.link(evidence, &mut self.evidence, HandshakeClass::of(self.has_server_payload));
    }

    /// After news at `time`: begins an incident, or lengthens it. Gives a new incident's first alert.
    pub(crate) fn evaluate(
        &mut self,
        context: EvalContext<'_>,
        thresholds: &[Thresholds],
        time: Time,
    ) -> Option<Alert> {
        let alert = self.update_incident(context, thresholds, time);
        for (window, term_spec) in self.windows_mut().iter_mut().zip(context.compiled.term_specs()) {
            window.trim(term_spec);
        }
        alert
    }

    fn update_incident(
        &mut self,
        context: EvalContext<'_>,
        thresholds: &[Thresholds],
        time: Time,
    ) -> Option<Alert> {
        if let TermWindows::FirstRecord(_) = self.windows {
            return None;
        }
        let compiled = context.compiled;
        match &mut self.state {
            IncidentState::Firing(firing) => {
                if let Some(until) = compiled.until(self.windows.as_slice(), thresholds) {
                    firing.0.holds_until(until);
                }
                None
            }
            IncidentState::Quiet(end) => {
                let end = *end;
                let starts_at = self.starts_at(compiled, thresholds, time, end)?;
                let terms = compiled.values(self.windows(), thresholds, starts_at);
                let deciding_term = compiled.deciding_term(&terms);
                let payload = AlertPayload { terms, ..self.payload(context, deciding_term, starts_at) };
                let start = (starts_at, context.clock_offset.unix_nanos(starts_at));
                let alert = incident::firing_alert(
                    &compiled.rule,
                    context.group_key,
                    context.internal,
                    start,
                    deciding_term,
                    payload,
                );
                // A ratio may have decided, which does not say for how long.
                let until = compiled
                    .until(self.windows(), thresholds)
                    .map_or(starts_at, |until| until.max(starts_at));
                let incident = Incident::new(&compiled.rule, context.clock, until, alert.clone());
                self.state = IncidentState::Firing(Box::new((incident, deciding_term)));
                Some(alert)
            }
        }
    }

    /// Does what is due; gives what is to be told.
    pub(crate) fn run_deadline(&mut self, context: EvalContext<'_>) -> Option<Alert> {
        let (compiled, clock) = (context.compiled, context.clock);
        let IncidentState::Firing(firing) = &self.state else { return None };
        let previous_term = firing.1;
        match firing.0.due(&compiled.rule, clock) {
            DueAction::Later(_) => None,
            DueAction::Repeat => {
                let terms = self.notified_values(compiled, clock);
                // Another term may keep it up than the one that began it.
                let deciding_term = compiled.deciding_term_now(&terms).unwrap_or(previous_term);
                let payload = AlertPayload { terms, ..self.payload(context, deciding_term, clock) };
                match &mut self.state {
                    IncidentState::Firing(firing) => {
                        firing.1 = deciding_term;
                        Some(firing.0.repeat(&compiled.rule, clock, deciding_term, payload))
                    }
                    IncidentState::Quiet(_) => None,
                }
            }
            DueAction::Resolve => self.resolve(compiled, clock),
        }
    }

    /// Ends an incident, if there is one.
    pub(crate) fn resolve(&mut self, compiled: &CompiledRule, clock: Time) -> Option<Alert> {
        let terms = self.notified_values(compiled, clock);
        match std::mem::replace(&mut self.state, IncidentState::Quiet(None)) {
            IncidentState::Firing(firing) => {
                let (alert, end) = firing.0.resolve(clock, firing.1, terms);
                self.state = IncidentState::Quiet(Some(end));
                Some(alert)
            }
            quiet => {
                self.state = quiet;
                None
            }
        }
    }

    /// Nothing but the incident, if there is one, under a rule that measures otherwise. If that has no more
    /// the term that decided, its first one stands for it.
    pub(crate) fn with_incident_only(&mut self, compiled: &CompiledRule) -> Option<Self> {
        match std::mem::replace(&mut self.state, IncidentState::Quiet(None)) {
            IncidentState::Firing(mut firing) => {
                let last_alert = &firing.0.last_alert().deciding_term;
                let (name, window) = (Arc::clone(&last_alert.name), last_alert.window);
                let mut new = Self::new(compiled);
                let empty = compiled.values(new.windows(), compiled.default_thresholds(), Time::ZERO);
                let same = |term: &TermValue| term.name == name && term.window == window;
                firing.1 = empty.iter().position(same).unwrap_or(0);
                let terms = with_original_thresholds(empty, &firing.0);
                firing.0.set_terms(terms, firing.1);
                new.state = IncidentState::Firing(firing);
                Some(new)
            }
            IncidentState::Quiet(_) => None,
        }
    }

    /// When an incident has something to do next.
    pub(crate) fn deadline(&self, compiled: &CompiledRule) -> Option<Time> {
        match &self.state {
            IncidentState::Firing(firing) => Some(firing.0.deadline(&compiled.rule)),
            IncidentState::Quiet(_) => None,
        }
    }

    /// Forgets what cannot matter at `clock` any more; whether anything is left to remember.
    pub(crate) fn prune(&mut self, compiled: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::FirstRecord(first) = &mut self.windows
            && first.as_ref().is_some_and(|first| first.expires(compiled) <= clock)
        {
            *first = None;
        }
        for (window, term_spec) in self.windows_mut().iter_mut().zip(compiled.term_specs()) {
            window.prune(term_spec, clock);
        }
        let has_entries = self.events() > 0;
        if !has_entries {
            self.evidence = EvidenceChain::default();
        }
        has_entries
            || match &self.state {
                IncidentState::Firing(_) => true,
                // Until no record from before the end can come.
                IncidentState::Quiet(end) => end.is_some_and(|end| end + compiled.retention > clock),
            }
    }

    /// Returns when there may be something to forget: all of it, or what the first term forgets of a subject that holds
    /// much.
    pub(crate) fn next_visit(&self, compiled: &CompiledRule, clock: Time) -> Time {
        let expires = |(window, term_spec): (&WindowState, &TermSpec)| window.expires(term_spec);
        let each = self.windows().iter().zip(compiled.term_specs()).filter_map(expires);
        let terms = match &self.windows {
            TermWindows::FirstRecord(first) => first.as_ref().map(|first| first.expires(compiled)),
            _ if self.events() > MANY_ENTRIES => each.min(),
            _ => each.max(),
        };
        terms.unwrap_or_else(|| match &self.state {
            IncidentState::Quiet(Some(end)) => *end + compiled.retention,
            IncidentState::Quiet(None) | IncidentState::Firing(_) => clock + compiled.retention,
        })
    }

    /// Returns true if nothing that it holds can matter any more, whether it was visited since or not.
    fn is_expired(&self, compiled: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::FirstRecord(first) = &self.windows {
            return first.as_ref().is_none_or(|first| first.expires(compiled) <= clock);
        }
        let expired = |(window, term_spec): (&WindowState, &TermSpec)| match window {
            WindowState::Ratio(_) => window.len() == 0,
            _ => window.expires(term_spec).is_none_or(|time| time <= clock),
        };
        self.windows().iter().zip(compiled.term_specs()).all(expired)
    }

    /// What is remembered, term by term; nothing of a subject with its first flow only.
    fn windows(&self) -> &[WindowState] {
        self.windows.as_slice()
    }

    /// What is remembered, term by term.
    pub(crate) fn all_windows(&self, compiled: &CompiledRule) -> Cow<'_, [WindowState]> {
        match &self.windows {
            TermWindows::FirstRecord(None) => Cow::Owned(TermWindows::of(compiled).as_slice().to_vec()),
            TermWindows::FirstRecord(Some(first)) => {
                let mut windows = TermWindows::of(compiled);
                first.add_to(compiled, Time::ZERO, windows.as_mut_slice());
                Cow::Owned(windows.as_slice().to_vec())
            }
            windows => Cow::Borrowed(windows.as_slice()),
        }
    }

    /// Gives each term room of its own, and what the first flow gave it.
    fn allocate_windows(&mut self, compiled: &CompiledRule, clock: Time) {
        if let TermWindows::FirstRecord(first) =
            std::mem::replace(&mut self.windows, TermWindows::of(compiled))
            && let Some(first) = first
        {
            first.add_to(compiled, clock, self.windows_mut());
        }
    }

    /// Returns true if any of its flows was answered with payload.
    pub(crate) fn has_server_payload(&self) -> bool {
        self.has_server_payload
    }

    /// Returns a time that grows with that of its flow, if it has only one, and nobody answered that.
    pub(crate) fn single_record_time(&self, compiled: &CompiledRule) -> Option<Time> {
        if self.has_server_payload || !matches!(self.state, IncidentState::Quiet(None)) {
            return None;
        }
        match (&self.windows, compiled.term_specs()) {
            (TermWindows::FirstRecord(first), _) => first.as_ref().map(|first| first.time),
            (TermWindows::One([window]), [term_spec]) if window.len() == 1 => window.expires(term_spec),
            _ => None,
        }
    }

    /// Returns how much speaks against forgetting it to make room: an incident that was told by itself, a flow that was
    /// answered, flows.
    pub(crate) fn interest(&self) -> (bool, bool, usize) {
        let incident = !matches!(self.state, IncidentState::Quiet(None)) && !self.is_aggregated();
        (incident, self.has_server_payload, self.events())
    }

    /// Its alert is told together with others.
    pub(crate) fn mark_aggregated(&mut self) {
        if let IncidentState::Firing(firing) = &mut self.state {
            firing.0.mark_aggregated();
        }
    }

    /// Returns true if its alert is told together with others.
    pub(crate) fn is_aggregated(&self) -> bool {
        matches!(&self.state, IncidentState::Firing(firing) if firing.0.is_aggregated())
    }

    /// Returns true if an alert fires that was told by itself.
    pub(crate) fn has_single_alert(&self) -> bool {
        matches!(self.state, IncidentState::Firing(_)) && !self.is_aggregated()
    }

    /// The bytes that it has allocated.
    pub(crate) fn heap(&self) -> usize {
        let windows = match &self.windows {
            TermWindows::FirstRecord(first) => {
                first.as_ref().map_or(0, |_| size_of::<FirstRecord>() + ALLOCATION_OVERHEAD_BYTES)
            }
            TermWindows::One([window]) => window.heap(),
            TermWindows::Many(windows) => {
                let each = windows.iter().map(|window| window.heap() + ALLOCATION_OVERHEAD_BYTES);
                size_of_val(&**windows) + each.sum::<usize>()
            }
        };
        let incident = match &self.state {
            IncidentState::Firing(firing) if firing.0.is_aggregated() => AGGREGATED_INCIDENT_BYTES,
            IncidentState::Firing(firing) => {
                INCIDENT_BYTES + firing.0.last_alert().flows.len() * size_of::<FlowRecord>()
            }
            IncidentState::Quiet(_) => 0,
        };
        windows + incident
    }

    /// Reads something of each place where it keeps anything.
    pub(crate) fn prefetch(&self) -> u64 {
        if let TermWindows::FirstRecord(first) = &self.windows {
            return first.as_ref().map_or(0, |first| first.time.as_nanos());
        }
        self.windows().iter().fold(0, |sum, window| sum ^ window.prefetch())
    }

    /// Leads to the flows noted.
    pub(crate) fn evidence(&self) -> EvidenceChain {
        self.evidence
    }

    /// Returns the state of the incident.
    pub(crate) fn state(&self) -> &IncidentState {
        &self.state
    }

    /// Entries held.
    pub(crate) fn events(&self) -> usize {
        if let TermWindows::FirstRecord(first) = &self.windows {
            return first.iter().count();
        }
        self.windows().iter().map(WindowState::len).sum()
    }

    /// When an incident begins that news at `time` decide: with the first event from then on at which the condition
    /// holds. A count alone knows the moments at once.
    fn starts_at(
        &self,
        compiled: &CompiledRule,
        thresholds: &[Thresholds],
        time: Time,
        after: Option<Time>,
    ) -> Option<Time> {
        if let (Condition::Term(_), [window @ WindowState::Count(_)], [term_spec], [threshold]) =
            (&compiled.rule.condition, self.windows(), compiled.term_specs(), thresholds)
        {
            return window.reached_at(term_spec, threshold.at_least, after);
        }
        if !compiled.may_hold(self.windows(), thresholds) {
            return None;
        }
        let mut moments = vec![time];
        for window in self.windows() {
            window.moments(time, &mut moments);
        }
        // Nearly all news are the newest.
        if moments.len() > 1 {
            moments.sort_unstable();
            moments.dedup();
        }
        let later = |moment: &Time| after.is_none_or(|after| *moment > after);
        moments.into_iter().filter(later).find(|moment| compiled.holds(self.windows(), thresholds, *moment))
    }

    /// The values at `clock`, with the thresholds that were told.
    fn notified_values(&self, compiled: &CompiledRule, clock: Time) -> Vec<TermValue> {
        let terms = compiled.values(self.windows(), compiled.default_thresholds(), clock);
        match &self.state {
            IncidentState::Firing(firing) => with_original_thresholds(terms, &firing.0),
            IncidentState::Quiet(_) => terms,
        }
    }

    /// The newest flows in or after the window that ends at `end`, oldest first. Of those that cannot matter any more,
    /// as the readings stood still for long, it is chance which are known, and none is shown.
    fn payload(&self, context: EvalContext<'_>, deciding_term: usize, end: Time) -> AlertPayload {
        let inside = |record: &&FlowRecord| {
            let window_spec =
                context.compiled.term_specs().get(deciding_term).map(|term_spec| &term_spec.window_spec);
            window_spec.is_none_or(|window_spec| {
                window_spec.contains_event(record.time(), end)
                    && window_spec.is_relevant(record.time(), context.clock)
            })
        };
        let EvidenceView { records, is_truncated } = context.evidence.find(self.evidence);
        let flows = records.into_iter().map(|(_, record)| record);
        let flows = flows.filter(inside).cloned().map(Arc::new).collect();
        AlertPayload { terms: Vec::new(), flows, is_truncated, overflow: context.overflow }
    }

    fn windows_mut(&mut self) -> &mut [WindowState] {
        self.windows.as_mut_slice()
    }
}

impl TermWindows {
    fn of(compiled: &CompiledRule) -> Self {
        match compiled.term_specs() {
            [term_spec] => TermWindows::One([WindowState::new(term_spec.measure)]),
            term_specs => TermWindows::Many(
                term_specs.iter().map(|term_spec| WindowState::new(term_spec.measure)).collect(),
            ),
        }
    }

    fn as_slice(&self) -> &[WindowState] {
        match self {
            TermWindows::FirstRecord(_) => &[],
            TermWindows::One(one) => one,
            TermWindows::Many(many) => many,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [WindowState] {
        match self {
            TermWindows::FirstRecord(_) => &mut [],
            TermWindows::One(one) => one,
            TermWindows::Many(many) => many,
        }
    }
}

impl FirstRecord {
    fn of(delta: &RecordDelta) -> Self {
        let RecordDelta { time, classes, fields, source, destination, port, .. } = *delta;
        Self { time, classes: classes.bits(), fields: fields.bits(), source, destination, port }
    }

    fn delta(&self) -> RecordDelta {
        RecordDelta {
            time: self.time,
            classes: FlowClasses::from_bits_truncate(self.classes),
            quantities: Quantities::default(),
            fields: RecordFields::from_bits_truncate(self.fields),
            source: self.source,
            destination: self.destination,
            port: self.port,
            has_server_payload: false,
        }
    }

    /// Gives it to each term that counts it, as if it had come just now: what is added is what would be left.
    fn add_to(&self, compiled: &CompiledRule, clock: Time, windows: &mut [WindowState]) {
        let delta = self.delta();
        for (term, (window, term_spec)) in windows.iter_mut().zip(compiled.term_specs()).enumerate() {
            if let Some(increment) = compiled
                .increment(term, &delta)
                .filter(|_| term_spec.window_spec.is_relevant(self.time, clock))
            {
                window.add(term_spec, clock, self.time, increment);
            }
        }
    }

    /// Returns when it matters to no term any more.
    fn expires(&self, compiled: &CompiledRule) -> Time {
        let delta = self.delta();
        let counts = compiled
            .term_specs()
            .iter()
            .enumerate()
            .filter(|(term, _)| compiled.increment(*term, &delta).is_some());
        self.time + counts.map(|(_, term_spec)| term_spec.retention()).max().unwrap_or_default()
    }
}

/// `terms` with the thresholds that the incident began with, where it had the same ones.
fn with_original_thresholds(mut terms: Vec<TermValue>, incident: &Incident) -> Vec<TermValue> {
    for last_alert in &incident.last_alert().terms {
        let same = |term: &&mut TermValue| term.name == last_alert.name && term.window == last_alert.window;
        if let Some(term) = terms.iter_mut().find(same) {
            term.threshold = last_alert.threshold;
            term.holds = term.value.number() >= last_alert.threshold;
        }
    }
    terms
}
