//! Rules over a whole history: polls, records, reloads, restarts and clock changes in sequence.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mailflow_common::FlowKey;
use mailflow_engine::{
    event::Source,
    flow::Flow,
    settings::{FlowClass, GroupBy, Measure, Rule, Settings, Term},
};

use super::{
    Connection, Nanos,
    group_key::{Around, Called, ModelAlert, Subject, kinds},
    nanos,
    networks::{Force, amount},
    operations::{Course, Doing, Look, Which},
    window::{TermWindow, contribution},
};

/// Window of a rule, a group key and a term.
pub type Window = (Arc<str>, String, Called);

/// Results of the rules over a history.
pub struct World {
    settings: Settings,
    epoch: i128,
    clock: Nanos,
    course: Course,
    watches: Vec<Watch>,
    /// Alerts, sorted by time.
    pub alerts: Vec<ModelAlert>,
    /// Matched flows of the rules; true if an allow-list suppressed them.
    pub counted: Vec<(Arc<str>, FlowKey, bool)>,
    /// Some group key has more event times than the engine keeps separately.
    pub crowded: bool,
    /// Matched records that were too late.
    pub late: u64,
}

#[derive(Clone)]
struct Watch {
    rule: Rule,
    learnt: Vec<Nanos>,
    /// Contribution of each flow so far.
    taken: HashMap<Which, (Vec<FlowClass>, Flow)>,
    /// Group keys: true if suppressed by an allow-list, and name.
    subjects: BTreeMap<(bool, String), Subject>,
}

impl World {
    /// Creates the state before any operation.
    pub fn new(settings: &Settings) -> Self {
        let watch = |rule: &Rule| Watch {
            learnt: vec![0; rule.terms.len()],
            rule: rule.clone(),
            taken: HashMap::new(),
            subjects: BTreeMap::new(),
        };
        Self {
            epoch: 0,
            clock: 0,
            course: Course::default(),
            watches: settings.rules.iter().map(watch).collect(),
            settings: settings.clone(),
            alerts: Vec::new(),
            counted: Vec::new(),
            crowded: false,
            late: 0,
        }
    }

    /// Applies one operation.
    pub fn go_on(&mut self, history: &[Connection], doing: &Doing) {
        match doing {
            Doing::Look(now, missed) => {
                let live = self.watches.iter().any(|watch| is_live(&watch.rule));
                self.course.look(&self.settings, history, (*now, missed), live);
            }
            Doing::LastLook(now) => self.course.look_last(&self.settings, history, *now),
            Doing::Tick(now) => {
                for look in self.course.arrived() {
                    self.see(&look);
                }
                self.pass(*now);
            }
            Doing::Reload(now, settings) => {
                self.go_on(history, &Doing::Tick(*now));
                self.reload(settings);
            }
            Doing::Set(epoch) => (self.epoch, self.course.epoch) = (*epoch, *epoch),
            Doing::Keep => self.course.keep(&self.settings),
            Doing::Restart => self.course.restart(),
        }
    }

    /// Returns the non-zero values of all windows at `now`, without suppressed group keys and without ratios.
    pub fn values(&self, now: Nanos) -> Vec<(Window, u64)> {
        let mut values = Vec::new();
        for watch in &self.watches {
            let called = super::group_key::called(&watch.rule.terms);
            for ((_, of), subject) in watch.subjects.iter().filter(|((known, _), _)| !known) {
                for (window, called) in subject.windows.iter().zip(&called) {
                    let value = window.value(now);
                    if value > 0 && !matches!(window.term.measure, Measure::Ratio { .. }) {
                        values.push(((Arc::clone(&watch.rule.name), of.clone(), called.clone()), value));
                    }
                }
            }
        }
        values
    }

    /// Returns the number of firing alerts.
    pub fn firing(&self) -> usize {
        let subjects = self.watches.iter().flat_map(|watch| watch.subjects.values());
        subjects.filter(|subject| subject.firing.is_some()).count()
    }

    fn force(&self) -> Force<'_> {
        Force { settings: &self.settings, epoch: self.epoch }
    }

    /// Starts the rules at the first tick.
    fn begin(&mut self, to: Nanos) {
        if self.clock == 0 {
            for watch in &mut self.watches {
                watch.learnt = learnt(&watch.rule, to);
            }
        }
    }

    /// Advances time, and does what is due in order.
    fn pass(&mut self, to: Nanos) {
        self.begin(to);
        loop {
            let due = |(place, watch): (usize, &Watch)| {
                let due = |(of, subject): (&(bool, String), &Subject)| {
                    Some((subject.due(&watch.rule)?, place, of.clone()))
                };
                watch.subjects.iter().filter_map(due).min()
            };
            let next = self.watches.iter().enumerate().filter_map(due).min();
            let Some((due, place, of)) = next.filter(|(due, ..)| *due <= to) else { break };
            // An action that was due before the current time is done now.
            self.clock = self.clock.max(due);
            let Watch { rule, mut subjects, .. } = self.watches[place].clone();
            let around = Around { rule: &rule, of: &of, force: self.force(), clock: self.clock };
            let mut subject = subjects.remove(&of).unwrap();
            let alert = subject.act(around);
            self.alerts.extend(alert);
            self.watches[place].subjects.insert(of, subject);
        }
        self.clock = self.clock.max(to);
    }

    fn see(&mut self, look: &Look) {
        let flow = &look.flow;
        let time = flow.last().as_nanos();
        let counts = |world: &Self, rule: &Rule| {
            let force = Force { epoch: look.epoch, ..world.force() };
            force.counts(rule, flow, look.app, look.ended)
        };
        if !self.watches.iter().any(|watch| counts(self, &watch.rule)) {
            return;
        }
        self.pass(look.at.max(time));
        for place in 0..self.watches.len() {
            let rule = self.watches[place].rule.clone();
            if (look.live && !is_live(&rule)) || !counts(self, &rule) {
                continue;
            }
            let shows = kinds(flow, look.live, look.ended);
            let known = self.force().allowed(&rule, flow).is_some();
            let taken = &mut self.watches[place].taken;
            let before = taken.insert((flow.key, flow.first.as_nanos()), (shows.clone(), flow.clone()));
            let (before, had) = before.map_or((Vec::new(), None), |(kinds, flow)| (kinds, Some(flow)));
            let new: Vec<FlowClass> = shows.iter().copied().filter(|kind| !before.contains(kind)).collect();
            if let Some((kinds, _)) = taken.get_mut(&(flow.key, flow.first.as_nanos())) {
                kinds.extend(before);
            }
            if new.contains(&FlowClass::Flows) {
                self.counted.push((Arc::clone(&rule.name), flow.key, known));
            }
            let more =
                |quantity| amount(quantity, flow) - had.as_ref().map_or(0, |had| amount(quantity, had));
            let contributions: Vec<_> =
                rule.terms.iter().map(|term| contribution(&self.settings, term, flow, &new, more)).collect();
            self.take(place, known, look, contributions);
        }
    }

    fn take(
        &mut self,
        place: usize,
        known: bool,
        look: &Look,
        contributions: Vec<Option<super::window::Contribution>>,
    ) {
        let (flow, time) = (&look.flow, look.flow.last().as_nanos());
        let rule = self.watches[place].rule.clone();
        let of = (known, self.subject(&rule, flow));
        let something = contributions.iter().any(Option::is_some);
        let windows = || self.windows(&self.watches[place]);
        let subject = self.watches[place].subjects.get(&of).cloned();
        let mut subject = subject.unwrap_or_else(|| Subject::new(windows()));
        if subject.take(self.clock, flow, contributions) {
            let whose = if rule.group_by == GroupBy::Destination { flow.server() } else { flow.client() };
            let levels = self.force().levels(&rule, whose);
            let around = Around { rule: &rule, of: &of, force: self.force(), clock: self.clock };
            let alert = subject.evaluate(around, &levels, time);
            self.alerts.extend(alert);
            self.crowded |= subject.windows.iter().any(|window| window.contributions.len() > 60);
        } else {
            self.late += u64::from(something);
        }
        self.watches[place].subjects.insert(of, subject);
    }

    fn subject(&self, rule: &Rule, flow: &Flow) -> String {
        let source = Source::of(flow.client(), self.settings.v6_source_prefix);
        match rule.group_by {
            GroupBy::Source => source.to_string(),
            GroupBy::SourceAndDestination => format!("{source} -> {}", flow.server()),
            GroupBy::Destination => flow.server().to_string(),
            GroupBy::Group => format!("group {}", self.force().group(flow.client())),
        }
    }

    /// Returns empty windows for all terms.
    fn windows(&self, watch: &Watch) -> Vec<TermWindow> {
        let window = |(place, term): (usize, &Term)| {
            let others =
                watch.rule.threshold_overrides.iter().map(|others| others.thresholds[place].at_least);
            let horizon = match term.measure {
                Measure::FirstSeen { horizon, .. } => nanos(horizon),
                _ => 0,
            };
            TermWindow {
                need: others.chain([term.thresholds.at_least]).max().unwrap(),
                term: term.clone(),
                horizon,
                learnt: watch.learnt[place],
                lateness: nanos(self.settings.timeouts.idle.max(self.settings.timeouts.closed)),
                contributions: Vec::new(),
            }
        };
        watch.rule.terms.iter().enumerate().map(window).collect()
    }

    /// Applies other rules. Unchanged rules keep their state. Incidents continue if the group key has the
    /// same form, and end otherwise.
    fn reload(&mut self, settings: &Settings) {
        let mut before = std::mem::take(&mut self.watches);
        self.settings = settings.clone();
        for rule in &settings.rules {
            let past = before.iter().position(|past| past.rule.name == rule.name).map(|at| before.remove(at));
            let learnt = learnt(rule, self.clock);
            let new = || Watch {
                rule: rule.clone(),
                learnt: learnt.clone(),
                taken: HashMap::new(),
                subjects: BTreeMap::new(),
            };
            let watch = match past {
                Some(past) if means_the_same(&past.rule, rule) => {
                    let mut watch = Watch { rule: rule.clone(), ..past };
                    let windows = self.windows(&watch);
                    for subject in watch.subjects.values_mut() {
                        for (window, new) in subject.windows.iter_mut().zip(&windows) {
                            let contributions = std::mem::take(&mut window.contributions);
                            *window = TermWindow { contributions, ..new.clone() };
                        }
                    }
                    watch
                }
                Some(past) if past.rule.group_by == rule.group_by => {
                    let mut watch = new();
                    let windows = self.windows(&watch);
                    for (of, subject) in past.subjects {
                        let renewed = subject.renewed(&past.rule, rule, windows.clone());
                        watch.subjects.extend(renewed.map(|subject| (of, subject)));
                    }
                    watch
                }
                Some(past) => {
                    self.end(past);
                    new()
                }
                None => new(),
            };
            self.watches.push(watch);
        }
        before.into_iter().for_each(|past| self.end(past));
    }

    fn end(&mut self, past: Watch) {
        for (of, mut subject) in past.subjects {
            let around = Around { rule: &past.rule, of: &of, force: self.force(), clock: self.clock };
            let alert = subject.end(around);
            self.alerts.extend(alert);
        }
    }
}

/// Returns the end of each term's learning period, if the rule starts at `since`.
fn learnt(rule: &Rule, since: Nanos) -> Vec<Nanos> {
    let learnt = |term: &Term| match term.measure {
        Measure::FirstSeen { learning, .. } if !learning.is_zero() => since + nanos(learning),
        _ => 0,
    };
    rule.terms.iter().map(learnt).collect()
}

/// Returns true if the rule evaluates open flows.
fn is_live(rule: &Rule) -> bool {
    let live = |term: &Term| match term.measure {
        Measure::Sum(_) | Measure::Count(FlowClass::Delivering) => true,
        Measure::Distinct { among, .. } => among == FlowClass::Delivering,
        _ => false,
    };
    rule.terms.iter().any(live)
}

fn means_the_same(one: &Rule, other: &Rule) -> bool {
    let terms = |rule: &Rule| rule.terms.iter().map(|term| (term.measure, term.window)).collect::<Vec<_>>();
    one.matching == other.matching && one.group_by == other.group_by && terms(one) == terms(other)
}
