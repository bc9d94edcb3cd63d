//! State of one group under one rule: windows, evidence, and the incident.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    group_key::GroupKey,
    suppression::{AllowStatus, apply_suppression},
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

/// Overhead of a heap allocation, in bytes.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// Estimated size of an incident that an aggregate alert reports, in bytes.
const AGGREGATED_INCIDENT_BYTES: usize = 1_024;

/// Number of entries up to which a group is visited once, when all its windows have expired. A group with more
/// entries is visited when the first window expires.
const MANY_ENTRIES: usize = 16;

/// Estimated size of an incident without its flows, in bytes: its last alert, and the copies in the outputs.
const INCIDENT_BYTES: usize = 4_096;

/// State of one group under one rule.
#[derive(Debug)]
pub(crate) struct GroupState {
    windows: TermWindows,
    /// Newest contributing flows.
    evidence: EvidenceChain,
    state: IncidentState,
    /// True if the server answered any flow of the group with payload.
    has_server_payload: bool,
}

/// Windows of each term. A rule with one term needs no box.
#[derive(Debug)]
enum TermWindows {
    /// No windows yet; or the first record of a group under a rule of several terms. A group of one unanswered SYN
    /// takes no more memory.
    First(Option<Box<FirstRecord>>),
    One([WindowState; 1]),
    Many(Box<[WindowState]>),
}

/// First record of a group, which gives each term at most one flow or one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FirstRecord {
    time: Time,
    classes: u8,
    fields: u8,
    source: EndpointBytes,
    destination: EndpointBytes,
    port: u16,
}

/// Windows of a group, as saved in a checkpoint.
pub(crate) enum SavedWindows {
    First(FirstRecord),
    Windows(Vec<WindowState>),
}

#[derive(Debug)]
pub(crate) enum IncidentState {
    /// No incident, with the end of the last one.
    Quiet(Option<Time>),
    /// Active incident, and the index of the deciding term.
    Firing(Box<(Incident, usize)>),
}

/// Outcome of applying a record to the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApplyOutcome {
    /// No term counts the record.
    NotApplicable,
    /// At least one window counts the record.
    Applied,
    /// The record is too late for every window.
    Late,
}

/// Context of an evaluation.
#[derive(Clone, Copy)]
pub(crate) struct EvalContext<'a> {
    pub(crate) compiled: &'a CompiledRule,
    pub(crate) allow_status: AllowStatus,
    pub(crate) group_key: &'a GroupKey,
    pub(crate) internal: &'a Networks,
    pub(crate) evidence: &'a Evidence,
    pub(crate) clock: Time,
    /// Converts the start of an alert to wall-clock time.
    pub(crate) clock_offset: WallClockOffset,
    /// True if packets of the group overflowed the flow table within the rule's retention.
    pub(crate) overflow: bool,
}

impl EvalContext<'_> {
    fn apply_suppression(&self, alert: &mut Alert) {
        apply_suppression(self.compiled, self.allow_status, alert, self.internal, self.clock_offset);
    }
}

impl GroupState {
    /// Returns a group without records, with the windows of each term.
    pub(crate) fn new(compiled: &CompiledRule) -> Self {
        Self { windows: TermWindows::of(compiled), ..Self::without_records() }
    }

    /// Returns a group without records that allocates windows on demand.
    pub(crate) fn new_small(compiled: &CompiledRule) -> Self {
        if compiled.term_specs().len() == 1 { Self::new(compiled) } else { Self::without_records() }
    }

    fn without_records() -> Self {
        let (windows, state) = (TermWindows::First(None), IncidentState::Quiet(None));
        Self { windows, evidence: EvidenceChain::default(), state, has_server_payload: false }
    }

    /// Returns a group as saved in a checkpoint.
    pub(crate) fn restored(
        saved: SavedWindows,
        evidence: EvidenceChain,
        state: IncidentState,
        has_server_payload: bool,
    ) -> Self {
        let windows = match saved {
            SavedWindows::First(first) => TermWindows::First(Some(Box::new(first))),
            SavedWindows::Windows(windows) => match <[WindowState; 1]>::try_from(windows) {
                Ok(one) => TermWindows::One(one),
                Err(many) => TermWindows::Many(many.into_boxed_slice()),
            },
        };
        Self { windows, evidence, state, has_server_payload }
    }

    /// Returns the windows to save in a checkpoint.
    pub(crate) fn saved_windows(&self) -> SavedWindows {
        match &self.windows {
            TermWindows::First(Some(first)) => SavedWindows::First(**first),
            windows => SavedWindows::Windows(windows.as_slice().to_vec()),
        }
    }

    /// Applies a record to the windows.
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
        if let TermWindows::First(first) = &mut self.windows {
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
                    // A term must not see expired entries, whether the group was visited since or not: a record
                    // that is later than the lateness bound is evaluated in a window of the past.
                    window.prune_if_added(term_spec, clock);
                    if increment.is_some() && outcome == ApplyOutcome::NotApplicable {
                        outcome = ApplyOutcome::Late;
                    }
                }
            }
        }
        outcome
    }

    /// Links a contributing flow as evidence. A later record of the flow replaces an earlier one.
    pub(crate) fn link_evidence(&mut self, evidence: &mut Evidence, record: &mut LazyEvidence<'_>) {
        record.link(evidence, &mut self.evidence, HandshakeClass::of(self.has_server_payload));
    }

    /// Evaluates the condition after a record at `time`: starts an incident, or extends it. Returns the first alert
    /// of a new incident.
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
        if let TermWindows::First(_) = self.windows {
            return None;
        }
        let compiled = context.compiled;
        match &mut self.state {
            IncidentState::Firing(firing) => {
                if let Some(until) = compiled.holds_until(self.windows.as_slice(), thresholds) {
                    firing.0.extend_until(until);
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
                let mut alert = incident::firing_alert(
                    &compiled.rule,
                    context.group_key,
                    context.internal,
                    start,
                    deciding_term,
                    payload,
                );
                context.apply_suppression(&mut alert);
                // A ratio may have decided, which does not say how long the condition holds.
                let until = compiled
                    .holds_until(self.windows(), thresholds)
                    .map_or(starts_at, |until| until.max(starts_at));
                let incident = Incident::new(&compiled.rule, context.clock, until, alert.clone());
                self.state = IncidentState::Firing(Box::new((incident, deciding_term)));
                Some(alert)
            }
        }
    }

    /// Repeats or resolves the alert if that is due at the clock of `context`.
    pub(crate) fn run_deadline(&mut self, context: EvalContext<'_>) -> Option<Alert> {
        let (compiled, clock) = (context.compiled, context.clock);
        let IncidentState::Firing(firing) = &self.state else { return None };
        let previous_term = firing.1;
        match firing.0.due(&compiled.rule, clock) {
            DueAction::Later(_) => None,
            DueAction::Repeat => {
                let terms = self.notified_values(compiled, clock);
                // Another term than the first deciding one may keep the condition up.
                let deciding_term = compiled.deciding_term_now(&terms).unwrap_or(previous_term);
                let payload = AlertPayload { terms, ..self.payload(context, deciding_term, clock) };
                match &mut self.state {
                    IncidentState::Firing(firing) => {
                        firing.1 = deciding_term;
                        let alert = firing.0.repeat(&compiled.rule, clock, deciding_term, payload);
                        context.apply_suppression(alert);
                        Some(alert.clone())
                    }
                    IncidentState::Quiet(_) => None,
                }
            }
            DueAction::Resolve => self.resolve(compiled, clock),
        }
    }

    /// Ends the incident, if there is one.
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

    /// Returns a group that has only the incident, for a rule that measures differently. Returns `None` without an
    /// incident. If the new rule does not have the deciding term, its first term replaces that.
    pub(crate) fn with_incident_only(&mut self, compiled: &CompiledRule) -> Option<Self> {
        match std::mem::replace(&mut self.state, IncidentState::Quiet(None)) {
            IncidentState::Firing(mut firing) => {
                let deciding_term = &firing.0.last_alert().deciding_term;
                let (name, window) = (Arc::clone(&deciding_term.name), deciding_term.window);
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

    /// Returns the next deadline of the incident.
    pub(crate) fn deadline(&self, compiled: &CompiledRule) -> Option<Time> {
        match &self.state {
            IncidentState::Firing(firing) => Some(firing.0.deadline(&compiled.rule)),
            IncidentState::Quiet(_) => None,
        }
    }

    /// Removes entries that have expired at `clock`. Returns true if any state is left.
    pub(crate) fn prune(&mut self, compiled: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::First(first) = &mut self.windows
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
                // A record from before the end can arrive until then.
                IncidentState::Quiet(end) => end.is_some_and(|end| end + compiled.retention > clock),
            }
    }

    /// Returns the time of the next visit: the expiry of all windows, or that of the first window of a group with
    /// many entries.
    pub(crate) fn next_visit(&self, compiled: &CompiledRule, clock: Time) -> Time {
        let expires = |(window, term_spec): (&WindowState, &TermSpec)| window.expires(term_spec);
        let each = self.windows().iter().zip(compiled.term_specs()).filter_map(expires);
        let terms = match &self.windows {
            TermWindows::First(first) => first.as_ref().map(|first| first.expires(compiled)),
            _ if self.events() > MANY_ENTRIES => each.min(),
            _ => each.max(),
        };
        terms.unwrap_or_else(|| match &self.state {
            IncidentState::Quiet(Some(end)) => *end + compiled.retention,
            IncidentState::Quiet(None) | IncidentState::Firing(_) => clock + compiled.retention,
        })
    }

    /// Returns true if all entries have expired at `clock`, whether the group was visited since or not.
    fn is_expired(&self, compiled: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::First(first) = &self.windows {
            return first.as_ref().is_none_or(|first| first.expires(compiled) <= clock);
        }
        let expired = |(window, term_spec): (&WindowState, &TermSpec)| match window {
            WindowState::Ratio(_) => window.len() == 0,
            _ => window.expires(term_spec).is_none_or(|time| time <= clock),
        };
        self.windows().iter().zip(compiled.term_specs()).all(expired)
    }

    /// Returns the windows of each term; empty while only the first record is stored.
    fn windows(&self) -> &[WindowState] {
        self.windows.as_slice()
    }

    /// Returns the windows of each term, built from the first record if necessary.
    pub(crate) fn all_windows(&self, compiled: &CompiledRule) -> Cow<'_, [WindowState]> {
        match &self.windows {
            TermWindows::First(None) => Cow::Owned(TermWindows::of(compiled).as_slice().to_vec()),
            TermWindows::First(Some(first)) => {
                let mut windows = TermWindows::of(compiled);
                first.add_to(compiled, Time::ZERO, windows.as_mut_slice());
                Cow::Owned(windows.as_slice().to_vec())
            }
            windows => Cow::Borrowed(windows.as_slice()),
        }
    }

    /// Allocates the windows of each term, and adds the first record to them.
    fn allocate_windows(&mut self, compiled: &CompiledRule, clock: Time) {
        if let TermWindows::First(first) = std::mem::replace(&mut self.windows, TermWindows::of(compiled))
            && let Some(first) = first
        {
            first.add_to(compiled, clock, self.windows_mut());
        }
    }

    /// Returns true if the server answered any flow of the group with payload.
    pub(crate) fn has_server_payload(&self) -> bool {
        self.has_server_payload
    }

    /// Returns a time that orders groups by their only record, for a group with one record, no payload from the
    /// server and no incident.
    pub(crate) fn single_record_time(&self, compiled: &CompiledRule) -> Option<Time> {
        if self.has_server_payload || !matches!(self.state, IncidentState::Quiet(None)) {
            return None;
        }
        match (&self.windows, compiled.term_specs()) {
            (TermWindows::First(first), _) => first.as_ref().map(|first| first.time),
            (TermWindows::One([window]), [term_spec]) if window.len() == 1 => window.expires(term_spec),
            _ => None,
        }
    }

    /// Returns the priority of the group against removal: an alert of its own, payload from a server, number of
    /// entries.
    pub(crate) fn removal_priority(&self) -> (bool, bool, usize) {
        let incident = !matches!(self.state, IncidentState::Quiet(None)) && !self.is_aggregated();
        (incident, self.has_server_payload, self.events())
    }

    /// Marks the alert as reported by an aggregate alert.
    pub(crate) fn mark_aggregated(&mut self) {
        if let IncidentState::Firing(firing) = &mut self.state {
            firing.0.mark_aggregated();
        }
    }

    /// Returns true if an aggregate alert reports the incident.
    pub(crate) fn is_aggregated(&self) -> bool {
        matches!(&self.state, IncidentState::Firing(firing) if firing.0.is_aggregated())
    }

    /// Returns the firing alert of the group, unless an aggregate alert reports it.
    pub(crate) fn single_alert(&self) -> Option<&Arc<Alert>> {
        match &self.state {
            IncidentState::Firing(firing) if !firing.0.is_aggregated() => Some(firing.0.last_alert()),
            IncidentState::Firing(_) | IncidentState::Quiet(_) => None,
        }
    }

    /// Returns the bytes of the heap allocations.
    pub(crate) fn heap(&self) -> usize {
        let windows = match &self.windows {
            TermWindows::First(first) => {
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

    /// Reads one word of each heap allocation.
    pub(crate) fn prefetch(&self) -> u64 {
        if let TermWindows::First(first) = &self.windows {
            return first.as_ref().map_or(0, |first| first.time.as_nanos());
        }
        self.windows().iter().fold(0, |sum, window| sum ^ window.prefetch())
    }

    /// Returns the evidence.
    pub(crate) fn evidence(&self) -> EvidenceChain {
        self.evidence
    }

    /// Returns the state of the incident.
    pub(crate) fn state(&self) -> &IncidentState {
        &self.state
    }

    /// Returns the number of entries of all windows.
    pub(crate) fn events(&self) -> usize {
        if let TermWindows::First(first) = &self.windows {
            return first.iter().count();
        }
        self.windows().iter().map(WindowState::len).sum()
    }

    /// Returns the start of the incident that a record at `time` decides: the first event from `time` on at which
    /// the condition holds. A single count term knows it without a search.
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
        let mut candidates = vec![time];
        for window in self.windows() {
            window.append_event_times(time, &mut candidates);
        }
        // Most records are the newest event.
        if candidates.len() > 1 {
            candidates.sort_unstable();
            candidates.dedup();
        }
        let later = |time: &Time| after.is_none_or(|after| *time > after);
        candidates.into_iter().filter(later).find(|time| compiled.holds(self.windows(), thresholds, *time))
    }

    /// Returns the term values at `clock`, with the thresholds of the last alert.
    fn notified_values(&self, compiled: &CompiledRule, clock: Time) -> Vec<TermValue> {
        let terms = compiled.values(self.windows(), compiled.default_thresholds(), clock);
        match &self.state {
            IncidentState::Firing(firing) => with_original_thresholds(terms, &firing.0),
            IncidentState::Quiet(_) => terms,
        }
    }

    /// Returns the newest flows in or after the window that ends at `end`, oldest first. Flows that have expired at
    /// the clock are omitted: after a long pause between polls it is chance whether they are still stored.
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
            TermWindows::First(_) => &[],
            TermWindows::One(one) => one,
            TermWindows::Many(many) => many,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [WindowState] {
        match self {
            TermWindows::First(_) => &mut [],
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

    /// Adds the record to each window that counts it, as of `clock`. Equal to adding the record when it arrived,
    /// and pruning since.
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

    /// Returns the time at which the record has expired for every term.
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

/// Returns `terms` with the original thresholds of the incident for terms of the same name and window.
fn with_original_thresholds(mut terms: Vec<TermValue>, incident: &Incident) -> Vec<TermValue> {
    for original in &incident.last_alert().terms {
        let same = |term: &&mut TermValue| term.name == original.name && term.window == original.window;
        if let Some(term) = terms.iter_mut().find(same) {
            term.threshold = original.threshold;
            term.holds = term.value.number() >= original.threshold;
        }
    }
    terms
}
