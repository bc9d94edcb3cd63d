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
const ALLOCATION: usize = 16;

/// What one takes that is told together with others.
const SILENT_INCIDENT: usize = 1_024;

/// Entries up to which a subject is visited when all of them are forgotten, not when those of one term are.
const MUCH: usize = 16;

/// What an incident takes beyond its flows: its alert, as it was told last, and as others hold it.
const INCIDENT: usize = 4_096;

/// A subject under a rule.
#[derive(Debug)]
pub(crate) struct GroupState {
    stores: TermWindows,
    /// The newest contributing flows.
    trail: EvidenceChain,
    state: IncidentState,
    /// True if any of its flows was answered with payload.
    completed: bool,
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
    kinds: u8,
    inputs: u8,
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
    pub(crate) plan: &'a CompiledRule,
    pub(crate) subject: &'a GroupKey,
    pub(crate) internal: &'a Networks,
    pub(crate) evidence: &'a Evidence,
    pub(crate) clock: Time,
    /// Places the start of an alert on the wall clock.
    pub(crate) epoch: WallClockOffset,
    /// True if packets of the subject found the flow table full within the rule's memory.
    pub(crate) overflow: bool,
}

impl GroupState {
    /// Without anything yet.
    pub(crate) fn new(plan: &CompiledRule) -> Self {
        Self { stores: TermWindows::of(plan), ..Self::before_its_first() }
    }

    /// Without anything yet, and as little room as that takes.
    pub(crate) fn small(plan: &CompiledRule) -> Self {
        if plan.frames().len() == 1 { Self::new(plan) } else { Self::before_its_first() }
    }

    fn before_its_first() -> Self {
        let (stores, state) = (TermWindows::FirstRecord(None), IncidentState::Quiet(None));
        Self { stores, trail: EvidenceChain::default(), state, completed: false }
    }

    /// As it was saved.
    pub(crate) fn restored(
        held: SavedWindows,
        trail: EvidenceChain,
        state: IncidentState,
        completed: bool,
    ) -> Self {
        let stores = match held {
            SavedWindows::FirstRecord(first) => TermWindows::FirstRecord(Some(Box::new(first))),
            SavedWindows::TermWindows(stores) => match <[WindowState; 1]>::try_from(stores) {
                Ok(one) => TermWindows::One(one),
                Err(many) => TermWindows::Many(many.into_boxed_slice()),
            },
        };
        Self { stores, trail, state, completed }
    }

    /// What is to be saved of it.
    pub(crate) fn held(&self) -> SavedWindows {
        match &self.stores {
            TermWindows::FirstRecord(Some(first)) => SavedWindows::FirstRecord(**first),
            stores => SavedWindows::TermWindows(stores.made().to_vec()),
        }
    }

    /// Takes news.
    pub(crate) fn book(&mut self, plan: &CompiledRule, clock: Time, news: &RecordDelta) -> ApplyOutcome {
        if self.lapsed(plan, clock) {
            self.trail = EvidenceChain::default();
        }
        self.completed |= news.completed;
        if let TermWindows::FirstRecord(first) = &mut self.stores {
            if (0..plan.frames().len()).all(|term| plan.gain(term, news).is_none()) {
                return ApplyOutcome::NotApplicable;
            }
            let quiet = matches!(self.state, IncidentState::Quiet(None));
            if first.is_none() && quiet && plan.keeps_first(news, clock) {
                *first = Some(Box::new(FirstRecord::of(news)));
                return ApplyOutcome::Applied;
            }
            self.make(plan, clock);
        }
        let mut booked = ApplyOutcome::NotApplicable;
        for (term, (store, frame)) in self.stores_mut().iter_mut().zip(plan.frames()).enumerate() {
            match plan.gain(term, news) {
                Some(gain) if frame.shape.matters(news.time, clock) => {
                    store.add(frame, clock, news.time, gain);
                    booked = ApplyOutcome::Applied;
                }
                gain => {
                    // What cannot matter any more is gone whenever anything is judged, whatever was swept when: a
                    // record that comes later than any should is judged by a window of the past.
                    store.age(frame, clock);
                    if gain.is_some() && booked == ApplyOutcome::NotApplicable {
                        booked = ApplyOutcome::Late;
                    }
                }
            }
        }
        booked
    }

    /// Notes a flow that contributed. A later record of a flow takes the place of an earlier one.
    pub(crate) fn note(&mut self, evidence: &mut Evidence, exhibit: &mut LazyEvidence<'_>) {
        exhibit.note(evidence, &mut self.trail, HandshakeClass::of(self.completed));
    }

    /// After news at `time`: begins an incident, or lengthens it. Gives a new incident's first alert.
    pub(crate) fn judge(
        &mut self,
        around: EvalContext<'_>,
        levels: &[Thresholds],
        time: Time,
    ) -> Option<Alert> {
        let alert = self.decide(around, levels, time);
        for (store, frame) in self.stores_mut().iter_mut().zip(around.plan.frames()) {
            store.fit(frame);
        }
        alert
    }

    fn decide(&mut self, around: EvalContext<'_>, levels: &[Thresholds], time: Time) -> Option<Alert> {
        if let TermWindows::FirstRecord(_) = self.stores {
            return None;
        }
        let plan = around.plan;
        match &mut self.state {
            IncidentState::Firing(firing) => {
                if let Some(until) = plan.until(self.stores.made(), levels) {
                    firing.0.holds_until(until);
                }
                None
            }
            IncidentState::Quiet(end) => {
                let end = *end;
                let starts_at = self.begins(plan, levels, time, end)?;
                let terms = plan.values(self.stores(), levels, starts_at);
                let decided = plan.decided(&terms);
                let shown = AlertPayload { terms, ..self.flows(around, decided, starts_at) };
                let start = (starts_at, around.epoch.unix_nanos(starts_at));
                let alert =
                    incident::firing(&plan.rule, around.subject, around.internal, start, decided, shown);
                // A ratio may have decided, which does not say for how long.
                let until = plan.until(self.stores(), levels).map_or(starts_at, |until| until.max(starts_at));
                let incident = Incident::new(&plan.rule, around.clock, until, alert.clone());
                self.state = IncidentState::Firing(Box::new((incident, decided)));
                Some(alert)
            }
        }
    }

    /// Does what is due; gives what is to be told.
    pub(crate) fn act(&mut self, around: EvalContext<'_>) -> Option<Alert> {
        let (plan, clock) = (around.plan, around.clock);
        let IncidentState::Firing(firing) = &self.state else { return None };
        let before = firing.1;
        match firing.0.due(&plan.rule, clock) {
            DueAction::Later(_) => None,
            DueAction::Repeat => {
                let terms = self.told(plan, clock);
                // Another term may keep it up than the one that began it.
                let decided = plan.decides_now(&terms).unwrap_or(before);
                let shown = AlertPayload { terms, ..self.flows(around, decided, clock) };
                match &mut self.state {
                    IncidentState::Firing(firing) => {
                        firing.1 = decided;
                        Some(firing.0.repeat(&plan.rule, clock, decided, shown))
                    }
                    IncidentState::Quiet(_) => None,
                }
            }
            DueAction::Resolve => self.resolve(plan, clock),
        }
    }

    /// Ends an incident, if there is one.
    pub(crate) fn resolve(&mut self, plan: &CompiledRule, clock: Time) -> Option<Alert> {
        let terms = self.told(plan, clock);
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
    pub(crate) fn renewed(&mut self, plan: &CompiledRule) -> Option<Self> {
        match std::mem::replace(&mut self.state, IncidentState::Quiet(None)) {
            IncidentState::Firing(mut firing) => {
                let told = &firing.0.told().decided;
                let (name, window) = (Arc::clone(&told.name), told.window);
                let mut new = Self::new(plan);
                let empty = plan.values(new.stores(), plan.usual_levels(), Time::ZERO);
                let same = |term: &TermValue| term.name == name && term.window == window;
                firing.1 = empty.iter().position(same).unwrap_or(0);
                let terms = as_told(empty, &firing.0);
                firing.0.tell(terms, firing.1);
                new.state = IncidentState::Firing(firing);
                Some(new)
            }
            IncidentState::Quiet(_) => None,
        }
    }

    /// When an incident has something to do next.
    pub(crate) fn deadline(&self, plan: &CompiledRule) -> Option<Time> {
        match &self.state {
            IncidentState::Firing(firing) => Some(firing.0.deadline(&plan.rule)),
            IncidentState::Quiet(_) => None,
        }
    }

    /// Forgets what cannot matter at `clock` any more; whether anything is left to remember.
    pub(crate) fn prune(&mut self, plan: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::FirstRecord(first) = &mut self.stores
            && first.as_ref().is_some_and(|first| first.expires(plan) <= clock)
        {
            *first = None;
        }
        for (store, frame) in self.stores_mut().iter_mut().zip(plan.frames()) {
            store.prune(frame, clock);
        }
        let held = self.events() > 0;
        if !held {
            self.trail = EvidenceChain::default();
        }
        held || match &self.state {
            IncidentState::Firing(_) => true,
            // Until no record from before the end can come.
            IncidentState::Quiet(end) => end.is_some_and(|end| end + plan.retention > clock),
        }
    }

    /// Returns when there may be something to forget: all of it, or what the first term forgets of a subject that holds
    /// much.
    pub(crate) fn next_visit(&self, plan: &CompiledRule, clock: Time) -> Time {
        let expires = |(store, frame): (&WindowState, &TermSpec)| store.expires(frame);
        let each = self.stores().iter().zip(plan.frames()).filter_map(expires);
        let terms = match &self.stores {
            TermWindows::FirstRecord(first) => first.as_ref().map(|first| first.expires(plan)),
            _ if self.events() > MUCH => each.min(),
            _ => each.max(),
        };
        terms.unwrap_or_else(|| match &self.state {
            IncidentState::Quiet(Some(end)) => *end + plan.retention,
            IncidentState::Quiet(None) | IncidentState::Firing(_) => clock + plan.retention,
        })
    }

    /// Returns true if nothing that it holds can matter any more, whether it was visited since or not.
    fn lapsed(&self, plan: &CompiledRule, clock: Time) -> bool {
        if let TermWindows::FirstRecord(first) = &self.stores {
            return first.as_ref().is_none_or(|first| first.expires(plan) <= clock);
        }
        let expired = |(store, frame): (&WindowState, &TermSpec)| match store {
            WindowState::Ratio(_) => store.len() == 0,
            _ => store.expires(frame).is_none_or(|time| time <= clock),
        };
        self.stores().iter().zip(plan.frames()).all(expired)
    }

    /// What is remembered, term by term; nothing of a subject with its first flow only.
    fn stores(&self) -> &[WindowState] {
        self.stores.made()
    }

    /// What is remembered, term by term.
    pub(crate) fn terms(&self, plan: &CompiledRule) -> Cow<'_, [WindowState]> {
        match &self.stores {
            TermWindows::FirstRecord(None) => Cow::Owned(TermWindows::of(plan).made().to_vec()),
            TermWindows::FirstRecord(Some(first)) => {
                let mut stores = TermWindows::of(plan);
                first.give(plan, Time::ZERO, stores.made_mut());
                Cow::Owned(stores.made().to_vec())
            }
            stores => Cow::Borrowed(stores.made()),
        }
    }

    /// Gives each term room of its own, and what the first flow gave it.
    fn make(&mut self, plan: &CompiledRule, clock: Time) {
        if let TermWindows::FirstRecord(first) = std::mem::replace(&mut self.stores, TermWindows::of(plan))
            && let Some(first) = first
        {
            first.give(plan, clock, self.stores_mut());
        }
    }

    /// Returns true if any of its flows was answered with payload.
    pub(crate) fn completed(&self) -> bool {
        self.completed
    }

    /// Returns a time that grows with that of its flow, if it has only one, and nobody answered that.
    pub(crate) fn single(&self, plan: &CompiledRule) -> Option<Time> {
        if self.completed || !matches!(self.state, IncidentState::Quiet(None)) {
            return None;
        }
        match (&self.stores, plan.frames()) {
            (TermWindows::FirstRecord(first), _) => first.as_ref().map(|first| first.time),
            (TermWindows::One([store]), [frame]) if store.len() == 1 => store.expires(frame),
            _ => None,
        }
    }

    /// Returns how much speaks against forgetting it to make room: an incident that was told by itself, a flow that was
    /// answered, flows.
    pub(crate) fn interest(&self) -> (bool, bool, usize) {
        let incident = !matches!(self.state, IncidentState::Quiet(None)) && !self.joined();
        (incident, self.completed, self.events())
    }

    /// Its alert is told together with others.
    pub(crate) fn join(&mut self) {
        if let IncidentState::Firing(firing) = &mut self.state {
            firing.0.join();
        }
    }

    /// Returns true if its alert is told together with others.
    pub(crate) fn joined(&self) -> bool {
        matches!(&self.state, IncidentState::Firing(firing) if firing.0.joined())
    }

    /// Returns true if an alert fires that was told by itself.
    pub(crate) fn fires(&self) -> bool {
        matches!(self.state, IncidentState::Firing(_)) && !self.joined()
    }

    /// The bytes that it has allocated.
    pub(crate) fn heap(&self) -> usize {
        let stores = match &self.stores {
            TermWindows::FirstRecord(first) => {
                first.as_ref().map_or(0, |_| size_of::<FirstRecord>() + ALLOCATION)
            }
            TermWindows::One([store]) => store.heap(),
            TermWindows::Many(stores) => {
                let each = stores.iter().map(|store| store.heap() + ALLOCATION);
                size_of_val(&**stores) + each.sum::<usize>()
            }
        };
        let incident = match &self.state {
            IncidentState::Firing(firing) if firing.0.joined() => SILENT_INCIDENT,
            IncidentState::Firing(firing) => INCIDENT + firing.0.told().flows.len() * size_of::<FlowRecord>(),
            IncidentState::Quiet(_) => 0,
        };
        stores + incident
    }

    /// Reads something of each place where it keeps anything.
    pub(crate) fn touch(&self) -> u64 {
        if let TermWindows::FirstRecord(first) = &self.stores {
            return first.as_ref().map_or(0, |first| first.time.as_nanos());
        }
        self.stores().iter().fold(0, |sum, store| sum ^ store.touch())
    }

    /// Leads to the flows noted.
    pub(crate) fn trail(&self) -> EvidenceChain {
        self.trail
    }

    /// Returns the state of the incident.
    pub(crate) fn state(&self) -> &IncidentState {
        &self.state
    }

    /// Entries held.
    pub(crate) fn events(&self) -> usize {
        if let TermWindows::FirstRecord(first) = &self.stores {
            return first.iter().count();
        }
        self.stores().iter().map(WindowState::len).sum()
    }

    /// When an incident begins that news at `time` decide: with the first event from then on at which the condition
    /// holds. A count alone knows the moments at once.
    fn begins(
        &self,
        plan: &CompiledRule,
        levels: &[Thresholds],
        time: Time,
        after: Option<Time>,
    ) -> Option<Time> {
        if let (Condition::Term(_), [store @ WindowState::Count(_)], [frame], [level]) =
            (&plan.rule.condition, self.stores(), plan.frames(), levels)
        {
            return store.decided(frame, level.at_least, after);
        }
        if !plan.may_hold(self.stores(), levels) {
            return None;
        }
        let mut moments = vec![time];
        for store in self.stores() {
            store.moments(time, &mut moments);
        }
        // Nearly all news are the newest.
        if moments.len() > 1 {
            moments.sort_unstable();
            moments.dedup();
        }
        let later = |moment: &Time| after.is_none_or(|after| *moment > after);
        moments.into_iter().filter(later).find(|moment| plan.holds(self.stores(), levels, *moment))
    }

    /// The values at `clock`, with the thresholds that were told.
    fn told(&self, plan: &CompiledRule, clock: Time) -> Vec<TermValue> {
        let terms = plan.values(self.stores(), plan.usual_levels(), clock);
        match &self.state {
            IncidentState::Firing(firing) => as_told(terms, &firing.0),
            IncidentState::Quiet(_) => terms,
        }
    }

    /// The newest flows in or after the window that ends at `end`, oldest first. Of those that cannot matter any more,
    /// as the readings stood still for long, it is chance which are known, and none is shown.
    fn flows(&self, around: EvalContext<'_>, decided: usize, end: Time) -> AlertPayload {
        let inside = |record: &&FlowRecord| {
            let shape = around.plan.frames().get(decided).map(|frame| &frame.shape);
            shape.is_none_or(|shape| {
                shape.reaches(record.time(), end) && shape.matters(record.time(), around.clock)
            })
        };
        let EvidenceView { records, cut } = around.evidence.find(self.trail);
        let flows = records.into_iter().map(|(_, record)| record);
        let flows = flows.filter(inside).cloned().map(Arc::new).collect();
        AlertPayload { terms: Vec::new(), flows, cut, overflow: around.overflow }
    }

    fn stores_mut(&mut self) -> &mut [WindowState] {
        self.stores.made_mut()
    }
}

impl TermWindows {
    fn of(plan: &CompiledRule) -> Self {
        match plan.frames() {
            [frame] => TermWindows::One([WindowState::new(frame.measure)]),
            frames => TermWindows::Many(frames.iter().map(|frame| WindowState::new(frame.measure)).collect()),
        }
    }

    fn made(&self) -> &[WindowState] {
        match self {
            TermWindows::FirstRecord(_) => &[],
            TermWindows::One(one) => one,
            TermWindows::Many(many) => many,
        }
    }

    fn made_mut(&mut self) -> &mut [WindowState] {
        match self {
            TermWindows::FirstRecord(_) => &mut [],
            TermWindows::One(one) => one,
            TermWindows::Many(many) => many,
        }
    }
}

impl FirstRecord {
    fn of(news: &RecordDelta) -> Self {
        let RecordDelta { time, kinds, inputs, source, destination, port, .. } = *news;
        Self { time, kinds: kinds.bits(), inputs: inputs.bits(), source, destination, port }
    }

    fn news(&self) -> RecordDelta {
        RecordDelta {
            time: self.time,
            kinds: FlowClasses::from_bits_truncate(self.kinds),
            gains: Quantities::default(),
            inputs: RecordFields::from_bits_truncate(self.inputs),
            source: self.source,
            destination: self.destination,
            port: self.port,
            completed: false,
        }
    }

    /// Gives it to each term that counts it, as if it had come just now: what is added is what would be left.
    fn give(&self, plan: &CompiledRule, clock: Time, stores: &mut [WindowState]) {
        let news = self.news();
        for (term, (store, frame)) in stores.iter_mut().zip(plan.frames()).enumerate() {
            if let Some(gain) = plan.gain(term, &news).filter(|_| frame.shape.matters(self.time, clock)) {
                store.add(frame, clock, self.time, gain);
            }
        }
    }

    /// Returns when it matters to no term any more.
    fn expires(&self, plan: &CompiledRule) -> Time {
        let news = self.news();
        let counts = plan.frames().iter().enumerate().filter(|(term, _)| plan.gain(*term, &news).is_some());
        self.time + counts.map(|(_, frame)| frame.retention()).max().unwrap_or_default()
    }
}

/// `terms` with the thresholds that the incident began with, where it had the same ones.
fn as_told(mut terms: Vec<TermValue>, incident: &Incident) -> Vec<TermValue> {
    for told in &incident.told().terms {
        let same = |term: &&mut TermValue| term.name == told.name && term.window == told.window;
        if let Some(term) = terms.iter_mut().find(same) {
            term.threshold = told.threshold;
            term.holds = term.value.number() >= told.threshold;
        }
    }
    terms
}
