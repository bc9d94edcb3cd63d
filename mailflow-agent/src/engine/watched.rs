//! One subject under one rule: what it holds, and whether an incident lasts.

use std::sync::Arc;

use super::{
    alert::{self, Due, Incident, Shown},
    assets::Networks,
    event::{Alert, TermValue},
    evidence::{Evidence, Found, Handle, Trail},
    flow::FlowRecord,
    plan::{News, Plan},
    settings::{Condition, Level},
    store::Store,
    subject::Subject,
    time::{Epoch, Time},
};

/// A subject under a rule.
#[derive(Debug)]
pub(super) struct Watched {
    stores: Stores,
    /// The newest contributing flows.
    trail: Trail,
    state: State,
}

/// Most rules have one term, and those need no box.
#[derive(Debug)]
enum Stores {
    One([Store; 1]),
    Many(Box<[Store]>),
}

#[derive(Debug)]
pub(super) enum State {
    /// No incident; the last one ended then.
    Quiet(Option<Time>),
    /// An alert fires; and the term that decided.
    Firing(Box<(Incident, usize)>),
}

/// What became of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Booked {
    /// It concerned none of the terms.
    Nothing,
    /// It is in the windows.
    Taken,
    /// It came too late to be judged.
    Late,
}

/// What is around a subject.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) plan: &'a Plan,
    pub(super) subject: &'a Subject,
    pub(super) internal: &'a Networks,
    pub(super) evidence: &'a Evidence,
    pub(super) clock: Time,
    /// Places the start of an alert on the wall clock.
    pub(super) epoch: Epoch,
    /// Whether packets of the subject found the flow table full within the rule's memory.
    pub(super) overflow: bool,
}

impl Watched {
    /// Without anything yet.
    pub(super) fn new(plan: &Plan) -> Self {
        let stores = match plan.frames() {
            [frame] => Stores::One([Store::new(frame.measure)]),
            frames => Stores::Many(frames.iter().map(|frame| Store::new(frame.measure)).collect()),
        };
        Self { stores, trail: Trail::default(), state: State::Quiet(None) }
    }

    /// As it was saved.
    pub(super) fn restored(stores: Vec<Store>, trail: Trail, state: State) -> Self {
        let stores = match <[Store; 1]>::try_from(stores) {
            Ok(one) => Stores::One(one),
            Err(many) => Stores::Many(many.into_boxed_slice()),
        };
        Self { stores, trail, state }
    }

    /// Takes news.
    pub(super) fn book(&mut self, plan: &Plan, clock: Time, news: &News) -> Booked {
        let mut booked = Booked::Nothing;
        for (term, (store, frame)) in self.stores_mut().iter_mut().zip(plan.frames()).enumerate() {
            match plan.gain(term, news) {
                Some(gain) if frame.shape.matters(news.time, clock) => {
                    store.add(frame, clock, news.time, gain);
                    booked = Booked::Taken;
                }
                gain => {
                    // What cannot matter any more is gone whenever anything is judged, whatever was swept when: a
                    // record that comes later than any should is judged by a window of the past.
                    store.age(frame, clock);
                    if gain.is_some() && booked == Booked::Nothing {
                        booked = Booked::Late;
                    }
                }
            }
        }
        booked
    }

    /// Notes a flow that contributed. A later record of a flow takes the place of an earlier one.
    pub(super) fn note(&mut self, evidence: &mut Evidence, handle: Handle) {
        evidence.note(&mut self.trail, handle);
    }

    /// After news at `time`: begins an incident, or lengthens it. Gives a new incident's first alert.
    pub(super) fn judge(&mut self, around: Around<'_>, levels: &[Level], time: Time) -> Option<Alert> {
        let alert = self.decide(around, levels, time);
        for (store, frame) in self.stores_mut().iter_mut().zip(around.plan.frames()) {
            store.fit(frame);
        }
        alert
    }

    fn decide(&mut self, around: Around<'_>, levels: &[Level], time: Time) -> Option<Alert> {
        let plan = around.plan;
        match &mut self.state {
            State::Firing(firing) => {
                if let Some(until) = plan.until(stores(&self.stores), levels) {
                    firing.0.holds_until(until);
                }
                None
            }
            State::Quiet(end) => {
                let end = *end;
                let starts_at = self.begins(plan, levels, time, end)?;
                let terms = plan.values(self.stores(), levels, starts_at);
                let decided = plan.decided(&terms);
                let shown = Shown { terms, ..self.flows(around, decided, starts_at) };
                let start = (starts_at, around.epoch.unix_nanos(starts_at));
                let alert = alert::firing(&plan.rule, around.subject, around.internal, start, decided, shown);
                // A ratio may have decided, which does not say for how long.
                let until = plan.until(self.stores(), levels).map_or(starts_at, |until| until.max(starts_at));
                let incident = Incident::new(&plan.rule, around.clock, until, alert.clone());
                self.state = State::Firing(Box::new((incident, decided)));
                Some(alert)
            }
        }
    }

    /// Does what is due; gives what is to be told.
    pub(super) fn act(&mut self, around: Around<'_>) -> Option<Alert> {
        let (plan, clock) = (around.plan, around.clock);
        let State::Firing(firing) = &self.state else { return None };
        let before = firing.1;
        match firing.0.due(&plan.rule, clock) {
            Due::Later(_) => None,
            Due::Repeat => {
                let terms = self.told(plan, clock);
                // Another term may keep it up than the one that began it.
                let decided = plan.decides_now(&terms).unwrap_or(before);
                let shown = Shown { terms, ..self.flows(around, decided, clock) };
                match &mut self.state {
                    State::Firing(firing) => {
                        firing.1 = decided;
                        Some(firing.0.repeat(&plan.rule, clock, decided, shown))
                    }
                    State::Quiet(_) => None,
                }
            }
            Due::Resolve => self.resolve(plan, clock),
        }
    }

    /// Ends an incident, if there is one.
    pub(super) fn resolve(&mut self, plan: &Plan, clock: Time) -> Option<Alert> {
        let terms = self.told(plan, clock);
        match std::mem::replace(&mut self.state, State::Quiet(None)) {
            State::Firing(firing) => {
                let (alert, end) = firing.0.resolve(clock, firing.1, terms);
                self.state = State::Quiet(Some(end));
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
    pub(super) fn renewed(&mut self, plan: &Plan) -> Option<Self> {
        match std::mem::replace(&mut self.state, State::Quiet(None)) {
            State::Firing(mut firing) => {
                let told = &firing.0.told().decided;
                let (name, window) = (Arc::clone(&told.name), told.window);
                let mut new = Self::new(plan);
                let empty = plan.values(new.stores(), plan.usual_levels(), Time::ZERO);
                let same = |term: &TermValue| term.name == name && term.window == window;
                firing.1 = empty.iter().position(same).unwrap_or(0);
                let terms = as_told(empty, &firing.0);
                firing.0.tell(terms, firing.1);
                new.state = State::Firing(firing);
                Some(new)
            }
            State::Quiet(_) => None,
        }
    }

    /// When an incident has something to do next.
    pub(super) fn deadline(&self, plan: &Plan) -> Option<Time> {
        match &self.state {
            State::Firing(firing) => Some(firing.0.deadline(&plan.rule)),
            State::Quiet(_) => None,
        }
    }

    /// Forgets what cannot matter at `clock` any more; whether anything is left to remember.
    pub(super) fn prune(&mut self, plan: &Plan, clock: Time) -> bool {
        for (store, frame) in self.stores_mut().iter_mut().zip(plan.frames()) {
            store.prune(frame, clock);
        }
        let held = self.events() > 0;
        if !held {
            self.trail = Trail::default();
        }
        held || match &self.state {
            State::Firing(_) => true,
            // Until no record from before the end can come.
            State::Quiet(end) => end.is_some_and(|end| end + plan.retention > clock),
        }
    }

    /// What is remembered, term by term.
    pub(super) fn stores(&self) -> &[Store] {
        stores(&self.stores)
    }

    /// Leads to the flows noted.
    pub(super) fn trail(&self) -> Trail {
        self.trail
    }

    /// Whether an incident lasts.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Entries held.
    pub(super) fn events(&self) -> usize {
        self.stores().iter().map(Store::len).sum()
    }

    /// When an incident begins that news at `time` decide: with the first event from then on at which the condition
    /// holds. A count alone knows the moments at once.
    fn begins(&self, plan: &Plan, levels: &[Level], time: Time, after: Option<Time>) -> Option<Time> {
        if let (Condition::Term(_), [store @ Store::Times(_)], [frame], [level]) =
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
    fn told(&self, plan: &Plan, clock: Time) -> Vec<TermValue> {
        let terms = plan.values(self.stores(), plan.usual_levels(), clock);
        match &self.state {
            State::Firing(firing) => as_told(terms, &firing.0),
            State::Quiet(_) => terms,
        }
    }

    /// The newest flows in or after the window that ends at `end`, oldest first. Of those that cannot matter any more,
    /// as the readings stood still for long, it is chance which are known, and none is shown.
    fn flows(&self, around: Around<'_>, decided: usize, end: Time) -> Shown {
        let inside = |record: &&FlowRecord| {
            let shape = around.plan.frames().get(decided).map(|frame| &frame.shape);
            shape.is_none_or(|shape| {
                shape.reaches(record.time(), end) && shape.matters(record.time(), around.clock)
            })
        };
        let Found { records, cut } = around.evidence.find(self.trail);
        let flows = records.into_iter().map(|(_, record)| record);
        let flows = flows.filter(inside).cloned().map(Arc::new).collect();
        Shown { terms: Vec::new(), flows, cut, overflow: around.overflow }
    }

    fn stores_mut(&mut self) -> &mut [Store] {
        match &mut self.stores {
            Stores::One(one) => one,
            Stores::Many(many) => many,
        }
    }
}

fn stores(stores: &Stores) -> &[Store] {
    match stores {
        Stores::One(one) => one,
        Stores::Many(many) => many,
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
