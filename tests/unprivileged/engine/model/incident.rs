//! Reference model of incidents: recomputes the values at every time at which something can change.

use std::sync::Arc;

use mailflow_common::FlowKey;
use mailflow_engine::{
    event::{AlertState, Source},
    settings::{Rule, Settings, WindowKind},
};

use super::{Expected, Nanos, counts, nanos};

/// Alert that the engine should raise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEvent {
    /// Rule and source.
    pub of: (Arc<str>, Source),
    /// State: firing or resolved.
    pub state: AlertState,
    /// Time of the event.
    pub time: Nanos,
    /// Start of the incident.
    pub starts_at: Nanos,
    /// End of the incident.
    pub ends_at: Option<Nanos>,
    /// Matched flows in the window.
    pub value: u64,
    /// Newest matched flows and their event times, at most twenty.
    pub flows: Vec<(FlowKey, Nanos)>,
}

/// Returns the alerts of all rules over `records`, up to the time `until`; by rule and source.
pub fn alerts(settings: &Settings, records: &[Expected], until: Nanos) -> Vec<ModelEvent> {
    incidents(settings, records).iter().flat_map(|incidents| incidents.walk(until)).collect()
}

/// Returns the non-zero values of all windows at `now`; by rule and source.
pub fn values(settings: &Settings, records: &[Expected], now: Nanos) -> Vec<((Arc<str>, Source), u64)> {
    let value = |of: &Incidents<'_>| ((Arc::clone(&of.rule.name), of.of), of.value(of.events.len(), now));
    incidents(settings, records).iter().map(value).filter(|(_, value)| *value > 0).collect()
}

fn incidents<'a>(settings: &'a Settings, records: &[Expected]) -> Vec<Incidents<'a>> {
    let mut all = Vec::new();
    for rule in &settings.rules {
        let source = |record: &Expected| Source::of(record.flow.client(), settings.v6_source_prefix);
        let mut sources: Vec<Source> = records.iter().map(source).collect();
        sources.sort();
        sources.dedup();
        for of in sources {
            all.push(Incidents {
                rule,
                of,
                events: events(rule, records.iter().filter(|r| source(r) == of)),
            });
        }
    }
    all
}

/// Returns each flow's first matching record.
fn events<'a>(rule: &Rule, records: impl Iterator<Item = &'a Expected>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for Expected { at, flow, app, .. } in records {
        if counts(rule, flow, *app) && !events.iter().any(|event| event.key == flow.key) {
            events.push(Event { at: *at, time: flow.last().as_nanos(), key: flow.key });
        }
    }
    events
}

/// Matching flow.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: Nanos,
    time: Nanos,
    key: FlowKey,
}

struct Incidents<'a> {
    rule: &'a Rule,
    of: Source,
    events: Vec<Event>,
}

impl Incidents<'_> {
    fn length(&self) -> Nanos {
        nanos(self.rule.window.length)
    }

    fn contains(&self, end: Nanos, event: &Event) -> bool {
        let length = self.length();
        event.time <= end
            && match self.rule.window.kind {
                WindowKind::Sliding => event.time + length > end,
                WindowKind::Tumbling => event.time >= end / length * length,
            }
    }

    fn leaves(&self, event: &Event) -> Nanos {
        let length = self.length();
        match self.rule.window.kind {
            WindowKind::Sliding => event.time + length,
            WindowKind::Tumbling => (event.time / length + 1) * length,
        }
    }

    fn value(&self, known: usize, at: Nanos) -> u64 {
        self.events[..known].iter().filter(|event| self.contains(at, event)).count() as u64
    }

    /// Returns the last time up to `now` at which the value was at or above the resolve threshold.
    fn held_until(&self, known: usize, now: Nanos) -> Nanos {
        let known_events = &self.events[..known];
        let mut steps: Vec<Nanos> = known_events.iter().flat_map(|e| [e.time, self.leaves(e)]).collect();
        steps.retain(|step| *step <= now);
        steps.push(now);
        steps.sort_unstable();
        let holds = |step: Nanos| self.value(known, step) >= self.rule.terms[0].thresholds.resolve_below;
        if holds(now) {
            return now;
        }
        steps.windows(2).rev().find(|pair| holds(pair[0])).map_or(0, |pair| pair[1])
    }

    fn flows(&self, known: usize, end: Nanos) -> Vec<(FlowKey, Nanos)> {
        let known_events = self.events[..known].iter();
        let mut flows: Vec<&Event> =
            known_events.filter(|event| event.time > end || self.contains(end, event)).collect();
        flows.sort_by_key(|event| event.time);
        flows[flows.len().saturating_sub(20)..].iter().map(|event| (event.key, event.time)).collect()
    }

    fn walk(&self, until: Nanos) -> Vec<ModelEvent> {
        let resolve_after = nanos(self.rule.resolve_after);
        let mut moments: Vec<Nanos> = self.events.iter().map(|event| event.at).collect();
        moments.extend(self.events.iter().flat_map(|e| [self.leaves(e), self.leaves(e) + resolve_after]));
        moments.push(until);
        moments.retain(|moment| *moment <= until);
        let mut walk = Walk { incidents: self, known: 0, ended: None, firing: None, events: Vec::new() };
        let mut now = 0;
        loop {
            let repeat = walk.firing.as_ref().map(|firing| firing.repeat);
            let next = moments.iter().copied().chain(repeat).filter(|moment| *moment > now).min();
            match next.filter(|next| *next <= until) {
                Some(next) => now = next,
                None => return walk.events,
            }
            walk.pass(now);
            while self.events.get(walk.known).is_some_and(|event| event.at == now) {
                walk.known += 1;
                walk.arrive(now);
                walk.pass(now);
            }
        }
    }
}

struct Walk<'a> {
    incidents: &'a Incidents<'a>,
    known: usize,
    ended: Option<Nanos>,
    firing: Option<Firing>,
    events: Vec<ModelEvent>,
}

struct Firing {
    starts_at: Nanos,
    repeat: Nanos,
    flows: Vec<(FlowKey, Nanos)>,
}

impl Walk<'_> {
    fn pass(&mut self, now: Nanos) {
        let Some(mut firing) = self.firing.take() else { return };
        let value = self.incidents.value(self.known, now);
        let held_until = self.incidents.held_until(self.known, now);
        let below = value < self.incidents.rule.terms[0].thresholds.resolve_below;
        if below && now - held_until >= nanos(self.incidents.rule.resolve_after) {
            self.report(AlertState::Resolved, now, Some(held_until), value, &firing);
            self.ended = Some(held_until);
            return;
        }
        if firing.repeat <= now {
            firing.repeat += nanos(self.incidents.rule.repeat_interval);
            let flows = self.incidents.flows(self.known, now);
            if !flows.is_empty() {
                firing.flows = flows;
            }
            self.report(AlertState::Firing, now, None, value, &firing);
        }
        self.firing = Some(firing);
    }

    fn arrive(&mut self, now: Nanos) {
        let known = &self.incidents.events[..self.known];
        let mut times: Vec<Nanos> = known.iter().map(|event| event.time).collect();
        times.sort_unstable();
        let fits = |time: &Nanos| {
            self.ended.is_none_or(|ended| *time > ended)
                && self.incidents.value(self.known, *time) >= self.incidents.rule.terms[0].thresholds.at_least
        };
        if self.firing.is_some() {
            return;
        }
        let Some(starts_at) = times.into_iter().find(fits) else { return };
        let interval = nanos(self.incidents.rule.repeat_interval);
        let repeat =
            (1..).map(|n| starts_at + n * interval).find(|repeat| *repeat > now).unwrap_or(Nanos::MAX);
        let firing = Firing { starts_at, repeat, flows: self.incidents.flows(self.known, starts_at) };
        let value = self.incidents.value(self.known, starts_at);
        self.report(AlertState::Firing, starts_at, None, value, &firing);
        self.firing = Some(firing);
    }

    fn report(
        &mut self,
        state: AlertState,
        time: Nanos,
        ends_at: Option<Nanos>,
        value: u64,
        firing: &Firing,
    ) {
        let of = (Arc::clone(&self.incidents.rule.name), self.incidents.of);
        let (starts_at, flows) = (firing.starts_at, firing.flows.clone());
        self.events.push(ModelEvent { of, state, time, starts_at, ends_at, value, flows });
    }
}
