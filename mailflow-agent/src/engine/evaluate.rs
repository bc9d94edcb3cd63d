//! Rules over records: the engine's clock, the windows of every source, the incidents.

mod reconfigure;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use foldhash::quality::RandomState;

use super::{
    alert::{self, Due, Incident},
    assets::Networks,
    event::{Effects, Qualified, Source, WindowValue},
    flow::{FlowRecord, RecordReason},
    rule::Ends,
    settings::Rule,
    time::Time,
    window::{Shape, Window},
};

/// How often sources without events are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The rules that have counted a flow, a bit for each of the first 64.
///
/// A rule behind those counts a flow at its final record only; there is one such record a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted(u64);

impl Counted {
    fn may(self, rule: usize, record: &FlowRecord) -> bool {
        match Self::bit(rule) {
            Some(bit) => self.0 & bit == 0,
            None => record.reason != RecordReason::Active,
        }
    }

    pub(super) fn set(&mut self, rule: usize) {
        self.0 |= Self::bit(rule).unwrap_or(0);
    }

    /// Whether the rule of this index is among them.
    fn has(self, rule: usize) -> bool {
        Self::bit(rule).is_some_and(|bit| self.0 & bit != 0)
    }

    fn bit(rule: usize) -> Option<u64> {
        u32::try_from(rule).ok().and_then(|rule| 1u64.checked_shl(rule))
    }
}

/// Evaluates the rules.
#[derive(Debug)]
pub(super) struct Evaluator {
    watches: Vec<Watch>,
    v6_source_prefix: u8,
    clock: Time,
    /// When which incident has something to do; one entry for each, never too late.
    deadlines: BTreeSet<(Time, usize, Source)>,
    next_sweep: Time,
    late: u64,
}

/// A rule with its sources.
#[derive(Debug)]
struct Watch {
    rule: Rule,
    shape: Shape,
    sources: HashMap<Source, Watched, RandomState>,
}

/// A source under a rule.
#[derive(Debug, Default)]
struct Watched {
    window: Window,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No incident; the last one ended then.
    Quiet(Option<Time>),
    Firing(Box<Incident>),
}

impl Default for State {
    fn default() -> Self {
        State::Quiet(None)
    }
}

/// How much the rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Sources with a window, summed over the rules.
    pub sources: u64,
    /// Events in those windows.
    pub events: u64,
    /// Incidents that fire.
    pub firing: u64,
    /// Qualifying records that came too late to be judged.
    pub late: u64,
}

impl Evaluator {
    /// Without any flow yet; a record comes at most `lateness` after its event time.
    pub(super) fn new(rules: Vec<Rule>, v6_source_prefix: u8, lateness: Duration) -> Self {
        let watch =
            |rule: Rule| Watch { shape: Shape::new(&rule, lateness), rule, sources: HashMap::default() };
        Self {
            watches: rules.into_iter().map(watch).collect(),
            v6_source_prefix,
            clock: Time::ZERO,
            deadlines: BTreeSet::new(),
            next_sweep: Time::ZERO,
            late: 0,
        }
    }

    /// Whether there is a rule that may count the flow of `record`.
    pub(super) fn wants(&self, record: &FlowRecord, internal: &Networks) -> bool {
        let flow = &record.flow;
        // Most fail the size test, and it is cheaper than looking up where the ends are.
        let mut large = self
            .watches
            .iter()
            .map(|watch| &watch.rule.matching)
            .filter(|matching| matching.size.is_none_or(|size| size.check(flow).is_ok()))
            .peekable();
        if large.peek().is_none() {
            return false;
        }
        let ends = Ends::of(flow, internal);
        large.any(|matching| matching.check(flow, record.app, ends).is_ok())
    }

    /// Takes a record that arrives at `at`; gives back the rules that have counted its flow by now.
    pub(super) fn admit(
        &mut self,
        at: Time,
        record: &Arc<FlowRecord>,
        mut counted: Counted,
        internal: &Networks,
        effects: &mut Effects,
    ) -> Counted {
        self.advance(at.max(record.time()), effects);
        let ends = Ends::of(&record.flow, internal);
        let source = Source::of(record.flow.client(), self.v6_source_prefix);
        for (index, watch) in self.watches.iter_mut().enumerate() {
            let counts = counted.may(index, record)
                && watch.rule.matching.check(&record.flow, record.app, ends).is_ok();
            if !counts {
                continue;
            }
            counted.set(index);
            effects.qualified.push(Qualified { rule: Arc::clone(&watch.rule.name), key: record.flow.key });
            let watched = watch.sources.entry(source).or_default();
            if !watched.window.insert(&watch.shape, self.clock, Arc::clone(record)) {
                self.late += 1;
                continue;
            }
            if let Some(deadline) =
                watched.judge(&watch.rule, &watch.shape, self.clock, source, internal, effects)
            {
                self.deadlines.insert((deadline, index, source));
            }
        }
        counted
    }

    /// Lets time pass: repeats and ends what is due, in order, each at its own moment.
    pub(super) fn advance(&mut self, to: Time, effects: &mut Effects) {
        while let Some(&(deadline, index, source)) = self.deadlines.first() {
            if deadline > to {
                break;
            }
            self.deadlines.pop_first();
            self.clock = self.clock.max(deadline);
            let Some(watch) = self.watches.get_mut(index) else { continue };
            let Some(watched) = watch.sources.get_mut(&source) else { continue };
            if let Some(next) = watched.act(&watch.rule, &watch.shape, self.clock, effects) {
                self.deadlines.insert((next, index, source));
            }
        }
        self.clock = self.clock.max(to);
        if self.next_sweep <= self.clock {
            self.next_sweep = self.clock + SWEEP;
            self.sweep();
        }
    }

    /// The value of each rule for each source at `now`, where it is not zero; ordered.
    pub(super) fn values(&self, now: Time) -> Vec<WindowValue> {
        let mut values = Vec::new();
        for watch in &self.watches {
            let before = values.len();
            values.extend(watch.sources.iter().filter_map(|(source, watched)| {
                let value = watched.window.value(&watch.shape, now);
                let rule = Arc::clone(&watch.rule.name);
                (value.number() > 0).then_some(WindowValue { rule, source: *source, value })
            }));
            values[before..].sort_unstable_by_key(|value| value.source);
        }
        values
    }

    /// How much is held.
    pub(super) fn stats(&self) -> RuleStats {
        let mut stats =
            RuleStats { late: self.late, firing: self.deadlines.len() as u64, ..RuleStats::default() };
        for watch in &self.watches {
            stats.sources += watch.sources.len() as u64;
            stats.events += watch.sources.values().map(|watched| watched.window.len() as u64).sum::<u64>();
        }
        stats
    }

    fn sweep(&mut self) {
        let clock = self.clock;
        for watch in &mut self.watches {
            let shape = watch.shape;
            watch.sources.retain(|_, watched| {
                watched.window.prune(&shape, clock);
                watched.window.len() > 0
                    || match watched.state {
                        State::Firing(_) => true,
                        // Until no record from before the end can come.
                        State::Quiet(end) => end.is_some_and(|end| end + shape.retention() > clock),
                    }
            });
            if watch.sources.len() < watch.sources.capacity() / 4 {
                watch.sources.shrink_to_fit();
            }
        }
    }
}

impl Watched {
    /// After a new event: begins an incident, or lengthens it. Gives a new incident's deadline.
    fn judge(
        &mut self,
        rule: &Rule,
        shape: &Shape,
        clock: Time,
        source: Source,
        internal: &Networks,
        effects: &mut Effects,
    ) -> Option<Time> {
        match &mut self.state {
            State::Firing(incident) => {
                if let Some(until) = self.window.holds_until(shape) {
                    incident.holds_until(until);
                }
                None
            }
            State::Quiet(end) => {
                let starts_at = self.window.decided(shape, *end)?;
                let value = self.window.value(shape, starts_at);
                let flows = self.window.evidence(shape, starts_at);
                let alert = alert::firing(rule, source, internal, starts_at, value, flows);
                effects.alerts.push(alert.clone());
                let until = self.window.holds_until(shape).unwrap_or(starts_at);
                let incident = Incident::new(rule, clock, until, alert);
                let deadline = incident.deadline(rule);
                self.state = State::Firing(Box::new(incident));
                Some(deadline)
            }
        }
    }

    /// Does what is due at `clock`; gives the next deadline, if the incident goes on.
    fn act(&mut self, rule: &Rule, shape: &Shape, clock: Time, effects: &mut Effects) -> Option<Time> {
        let State::Firing(incident) = &mut self.state else { return None };
        match incident.due(rule, clock) {
            Due::Later(deadline) => Some(deadline),
            Due::Repeat => {
                let value = self.window.value(shape, clock);
                let flows = self.window.evidence(shape, clock);
                effects.alerts.push(incident.repeat(rule, clock, value, flows));
                Some(incident.deadline(rule))
            }
            Due::Resolve => {
                let value = self.window.value(shape, clock);
                let state = std::mem::take(&mut self.state);
                if let State::Firing(incident) = state {
                    let (alert, end) = incident.resolve(clock, value);
                    effects.alerts.push(alert);
                    self.state = State::Quiet(Some(end));
                }
                None
            }
        }
    }
}
