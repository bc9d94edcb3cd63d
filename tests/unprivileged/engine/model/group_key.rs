//! One group key under one rule: its windows and its incident.

use std::{sync::Arc, time::Duration};

use mailflow_engine::{
    event::AlertState,
    flow::Flow,
    settings::{Condition, FlowClass, Measure, Rule, Term, Thresholds},
};

use super::{
    Nanos, nanos,
    networks::{Force, usual},
    operations::Which,
    window::{Contribution, TermWindow},
};

/// Alert that the engine should raise.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelAlert {
    /// Rule and group key.
    pub of: (Arc<str>, String),
    /// Reason of the suppression, if the alert is suppressed.
    pub suppressed: Option<Arc<str>>,
    /// State: firing or resolved.
    pub state: AlertState,
    /// Time of the event, start of the incident, end of the incident.
    pub times: (Nanos, Nanos, Option<Nanos>),
    /// Deciding term: its name and window, its threshold, and its value.
    pub decided: (Called, u64, u64),
    /// Newest contributing flows and their event times, if they are certain.
    pub flows: Option<Vec<(Which, Nanos)>>,
}

/// Name and window of a term.
pub type Called = (String, Duration);

/// Group key under a rule.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) windows: Vec<TermWindow>,
    /// Contributing flows, in the order of their last contributions.
    flows: Vec<Flow>,
    ended: Option<Nanos>,
    pub(super) firing: Option<Firing>,
}

#[derive(Clone)]
pub(super) struct Firing {
    pub(super) starts_at: Nanos,
    holds_until: Nanos,
    repeat: Nanos,
    decided: usize,
    thresholds: Vec<(Called, u64)>,
    /// Evidence of the last alert.
    shown: Vec<Flow>,
    /// The agent must have the same evidence.
    alike: bool,
}

/// Evaluation context of a group key.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) rule: &'a Rule,
    pub(super) of: &'a (bool, String),
    pub(super) force: Force<'a>,
    pub(super) clock: Nanos,
}

/// Returns the names of the terms: the measure, with a number if several terms have the same measure.
pub(super) fn called(terms: &[Term]) -> Vec<Called> {
    let mut called: Vec<Called> = Vec::new();
    for (place, term) in terms.iter().enumerate() {
        let name = term.measure.name();
        let number = 1 + terms[..place].iter().filter(|before| before.measure.name() == name).count();
        let name = if number > 1 { format!("{name} #{number}") } else { name };
        called.push((name, term.window.length));
    }
    called
}

impl Subject {
    pub(super) fn new(windows: Vec<TermWindow>) -> Self {
        Self { windows, flows: Vec::new(), ended: None, firing: None }
    }

    /// Adds the contributions of a flow to the windows. Returns true if any window took a contribution.
    pub(super) fn take(
        &mut self,
        clock: Nanos,
        flow: &Flow,
        contributions: Vec<Option<Contribution>>,
    ) -> bool {
        let time = flow.last().as_nanos();
        let mut any = false;
        // Expired contributions are removed for good, whatever thresholds a reload brings.
        self.windows.iter_mut().for_each(|window| window.age(clock));
        for (window, contribution) in self.windows.iter_mut().zip(contributions) {
            if let Some(contribution) = contribution.filter(|_| window.matters(time, clock)) {
                window.add(time, contribution);
                any = true;
            }
        }
        if any {
            self.flows.retain(|known| (known.key, known.first) != (flow.key, flow.first));
            self.flows.push(flow.clone());
            let many = self.flows.len().saturating_sub(20);
            self.flows.drain(..many);
        }
        any
    }

    /// Evaluates the condition after a contribution at `time`.
    pub(super) fn evaluate(
        &mut self,
        around: Around<'_>,
        levels: &[Thresholds],
        time: Nanos,
    ) -> Option<ModelAlert> {
        let until = self.until(&around.rule.condition, levels);
        if let Some(firing) = &mut self.firing {
            firing.holds_until = firing.holds_until.max(until.unwrap_or(0));
            return None;
        }
        let holds = |moment: &Nanos| self.holds(&around.rule.condition, levels, *moment);
        let single = matches!(
            (&around.rule.condition, self.windows[0].term.measure),
            (Condition::Term(_), Measure::Count(_))
        );
        let mut moments: Vec<Nanos> = self.windows.iter().flat_map(TermWindow::moments).collect();
        moments.push(time);
        moments.retain(|moment| single || *moment >= time);
        moments.sort_unstable();
        let later = |moment: &Nanos| self.ended.is_none_or(|ended| *moment > ended);
        let starts_at = moments.into_iter().filter(later).find(holds)?;
        let decided = self.leading(&around.rule.condition, levels, starts_at).unwrap_or(0);
        let at_least = levels.iter().map(|level| level.at_least);
        let firing = Firing {
            starts_at,
            holds_until: until.unwrap_or(0).max(starts_at),
            repeat: grid(around.rule, starts_at, around.clock),
            decided,
            thresholds: called(&around.rule.terms).into_iter().zip(at_least).collect(),
            shown: self.shown(decided, starts_at, around.clock),
            alike: self.alike(),
        };
        self.firing = Some(firing);
        self.report(around, AlertState::Firing, starts_at)
    }

    /// Returns the time of the incident's next repeat or end.
    pub(super) fn due(&self, rule: &Rule) -> Option<Nanos> {
        let firing = self.firing.as_ref()?;
        Some(firing.repeat.min(firing.holds_until + nanos(rule.resolve_after)))
    }

    /// Repeats or ends the incident.
    pub(super) fn act(&mut self, around: Around<'_>) -> Option<ModelAlert> {
        let firing = self.firing.as_ref()?;
        if firing.holds_until + nanos(around.rule.resolve_after) <= around.clock {
            let ends_at = firing.holds_until;
            return self.resolve(around, ends_at);
        }
        let decided = self.decides_now(around).unwrap_or(firing.decided);
        let (shown, alike) = (self.shown(decided, around.clock, around.clock), self.alike());
        let firing = self.firing.as_mut()?;
        firing.decided = decided;
        firing.repeat = grid(around.rule, firing.starts_at, around.clock);
        if !shown.is_empty() {
            (firing.shown, firing.alike) = (shown, alike);
        }
        self.report(around, AlertState::Firing, around.clock)
    }

    /// Returns the deciding term of a firing incident: the first one that holds at its original thresholds.
    /// If none holds, the term nearest to its threshold decides, ratios excluded.
    fn decides_now(&self, around: Around<'_>) -> Option<usize> {
        let thresholds = thresholds(around.rule, self.firing.as_ref()?);
        let thresholds: Vec<u64> = thresholds.into_iter().map(|(_, threshold)| threshold).collect();
        let levels: Vec<Thresholds> =
            thresholds.iter().map(|at| Thresholds { at_least: *at, resolve_below: *at }).collect();
        let leading = self.leading(&around.rule.condition, &levels, around.clock);
        leading.or_else(|| {
            let part = |term: &usize| {
                self.windows[*term].value(around.clock) as f64 / thresholds[*term].max(1) as f64
            };
            let ratio = |term: usize| matches!(self.windows[term].term.measure, Measure::Ratio { .. });
            let terms = (0..self.windows.len()).filter(|term| !ratio(*term) && part(term) > 0.0);
            terms.reduce(|best, term| if part(&term) > part(&best) { term } else { best })
        })
    }

    /// Ends the incident.
    pub(super) fn end(&mut self, around: Around<'_>) -> Option<ModelAlert> {
        self.resolve(around, around.clock)
    }

    fn resolve(&mut self, around: Around<'_>, ends_at: Nanos) -> Option<ModelAlert> {
        let mut alert = self.report(around, AlertState::Resolved, around.clock)?;
        alert.times.2 = Some(ends_at);
        self.ended = self.firing.take().map(|firing| firing.holds_until);
        Some(alert)
    }

    /// Continues the incident under a changed rule, with empty windows.
    pub(super) fn renewed(mut self, before: &Rule, rule: &Rule, windows: Vec<TermWindow>) -> Option<Self> {
        let mut firing = self.firing.take()?;
        let decided = called(&before.terms).swap_remove(firing.decided);
        firing.decided = called(&rule.terms).iter().position(|called| *called == decided).unwrap_or(0);
        firing.thresholds = thresholds(rule, &firing);
        Some(Self { firing: Some(firing), ..Self::new(windows) })
    }

    fn report(&mut self, around: Around<'_>, state: AlertState, at: Nanos) -> Option<ModelAlert> {
        let firing = self.firing.as_mut()?;
        firing.thresholds = thresholds(around.rule, firing);
        let (called, threshold) = firing.thresholds[firing.decided].clone();
        let reason = |shown: &Vec<Flow>| {
            let reasons = shown.iter().rev().find_map(|flow| around.force.allowed(around.rule, flow));
            reasons.map_or_else(|| "on an allow-list".into(), |allow| Arc::clone(&allow.reason))
        };
        let which = |flow: &Flow| ((flow.key, flow.first.as_nanos()), flow.last().as_nanos());
        Some(ModelAlert {
            of: (Arc::clone(&around.rule.name), around.of.1.clone()),
            suppressed: around.of.0.then(|| reason(&firing.shown)),
            state,
            times: (at, firing.starts_at, None),
            decided: (called, threshold, self.windows[firing.decided].value(at)),
            flows: firing.alike.then(|| firing.shown.iter().map(which).collect()),
        })
    }

    /// Returns true if the set of known flows is certain. A flow is dropped with its last contribution. If
    /// another term has a longer window than the term that it contributed to, the flow may or may not be
    /// dropped.
    fn alike(&self) -> bool {
        self.windows.iter().all(|window| window.length() == self.windows[0].length())
    }

    /// Returns the flows in the window that ends at `end`, or after it, except those that are too late at
    /// `clock`.
    fn shown(&self, decided: usize, end: Nanos, clock: Nanos) -> Vec<Flow> {
        let window = &self.windows[decided];
        let inside = |flow: &&Flow| {
            let time = flow.last().as_nanos();
            (time > end || window.inside(time, end)) && window.matters(time, clock)
        };
        let mut flows: Vec<Flow> = self.flows.iter().filter(inside).cloned().collect();
        // A stable sort: among equal times the later record is the newer one.
        flows.sort_by_key(Flow::last);
        flows
    }

    fn holds(&self, condition: &Condition, levels: &[Thresholds], at: Nanos) -> bool {
        match condition {
            Condition::Term(term) => self.windows[*term].value(at) >= levels[*term].at_least,
            Condition::Any(parts) => parts.iter().any(|part| self.holds(part, levels, at)),
            Condition::All(parts) => parts.iter().all(|part| self.holds(part, levels, at)),
        }
    }

    fn leading(&self, condition: &Condition, levels: &[Thresholds], at: Nanos) -> Option<usize> {
        match condition {
            Condition::Term(term) => self.holds(condition, levels, at).then_some(*term),
            Condition::Any(parts) => parts.iter().find_map(|part| self.leading(part, levels, at)),
            Condition::All(parts) => {
                let terms: Vec<usize> =
                    parts.iter().map(|part| self.leading(part, levels, at)).collect::<Option<_>>()?;
                let ratio = |term: usize| matches!(self.windows[term].term.measure, Measure::Ratio { .. });
                terms.iter().find(|term| !ratio(**term)).or(terms.first()).copied()
            }
        }
    }

    /// Returns the time until which the condition held, or will hold, at the resolve thresholds. Ratios are
    /// ignored unless there are only ratios. Changes happen only when a contribution leaves a window.
    fn until(&self, condition: &Condition, levels: &[Thresholds]) -> Option<Nanos> {
        if self.lasts(condition, levels, 0).is_none() {
            return self.windows.iter().filter_map(TermWindow::empties).max();
        }
        let mut leaves: Vec<Nanos> = self.windows.iter().flat_map(TermWindow::leaving).collect();
        leaves.sort_unstable();
        leaves.into_iter().rev().find(|leaf| self.lasts(condition, levels, leaf - 1) == Some(true))
    }

    /// Returns true if the condition holds at that time and those thresholds; `None` if there are only
    /// ratios.
    fn lasts(&self, condition: &Condition, levels: &[Thresholds], at: Nanos) -> Option<bool> {
        let speaking = |parts: &[Condition]| -> Vec<bool> {
            parts.iter().filter_map(|part| self.lasts(part, levels, at)).collect()
        };
        match condition {
            Condition::Term(place) => {
                let window = &self.windows[*place];
                let ratio = matches!(window.term.measure, Measure::Ratio { .. });
                (!ratio).then(|| window.value(at) >= levels[*place].resolve_below)
            }
            Condition::Any(parts) => {
                let parts = speaking(parts);
                (!parts.is_empty()).then(|| parts.contains(&true))
            }
            Condition::All(parts) => {
                let parts = speaking(parts);
                (!parts.is_empty()).then(|| !parts.contains(&false))
            }
        }
    }
}

/// Returns the thresholds with which an incident began; terms added later have their default thresholds.
fn thresholds(rule: &Rule, firing: &Firing) -> Vec<(Called, u64)> {
    let known = |called: &Called| firing.thresholds.iter().find(|(known, _)| known == called);
    let terms = called(&rule.terms).into_iter().zip(usual(&rule.terms));
    terms.map(|(called, usual)| known(&called).cloned().unwrap_or((called, usual.at_least))).collect()
}

/// Returns the time of the next repeat of an alert.
fn grid(rule: &Rule, starts_at: Nanos, clock: Nanos) -> Nanos {
    let interval = nanos(rule.repeat_interval);
    (1..).map(|n| starts_at + n * interval).find(|repeat| *repeat > clock).unwrap()
}

/// Returns the flow classes of a flow in this state.
pub(super) fn kinds(flow: &Flow, live: bool, ended: bool) -> Vec<FlowClass> {
    let (attempt, answered) = (flow.facts.syn != 0, flow.facts.syn != 0 && flow.facts.syn_ack != 0);
    let delivering = answered && flow.messages > 0;
    // A Multipath TCP subflow, if its SYN asked to join and the SYN-ACK agreed.
    let joined = mailflow_common::seen::MPTCP_JOIN | mailflow_common::seen::MPTCP_JOINED;
    if flow.facts.seen & joined == joined {
        return Vec::new();
    }
    let is = |kind: &FlowClass| match kind {
        FlowClass::Flows => !live,
        FlowClass::Attempts => !live && attempt,
        FlowClass::Sessions => !live && answered,
        FlowClass::Failed => ended && attempt && !delivering,
        FlowClass::Delivering => delivering,
    };
    FlowClass::ALL.into_iter().filter(is).collect()
}
