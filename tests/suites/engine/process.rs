//! An agent without its I/O: it reads a table, keeps states, dies, and goes on.
//!
//! What the kernel's table, the journal, the history and the file of alerts would hold, this holds.

use std::collections::HashSet;

use crate::reference::{Connection, Doing, Nanos, Which};
use mailflow_agent::engine::{
    Engine, Known,
    event::{Alert, AlertState, Effects, Judged},
    flow::{Fate, Flow, FlowRecord, RecordReason},
    settings::Settings,
    state::State,
    time::{Epoch, Time},
};

use super::run::Chance;

/// How far a poll comes before its process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// What a part of the table brings is in the journal, and nothing of it is done.
    Noted,
    /// What ended of a part is out of the table.
    Removed,
    /// The rules have seen it, and nobody knows.
    Ticked,
    /// It is in the history, and nobody was told.
    Judged,
    /// Some of the alerts were told.
    Told,
}

impl Point {
    pub(crate) const ALL: [Point; 5] =
        [Point::Noted, Point::Removed, Point::Ticked, Point::Judged, Point::Told];
}

/// What a poll notes before it does it.
enum Entry {
    Poll(Nanos),
    Ended(Flow),
    Lives(Which),
    Active(Flow),
    Over,
}

/// What is left when a process dies.
struct Left {
    state: Vec<u8>,
    known: Known,
    journal: Vec<Entry>,
    /// Records that the rules were shown, when, and whether they were looks at open flows.
    history: Vec<(Time, FlowRecord, bool)>,
}

pub(crate) struct Process<'a> {
    pub(crate) engine: Engine,
    settings: Settings,
    pub(crate) epoch: i128,
    /// The connections whose flows are in the kernel's table, or will be.
    table: Vec<&'a Connection>,
    left: Left,
    /// What was done, for the reference.
    pub(crate) doings: Vec<Doing>,
    /// Alerts that were told.
    pub(crate) alerts: Vec<Alert>,
    /// Flows that rules counted.
    pub(crate) counted: Vec<mailflow_agent::engine::event::Qualified>,
    told: HashSet<Told>,
    /// Whether the first poll of a process is still to come.
    first: bool,
    chance: Chance,
    /// Readings miss flows here and there.
    gaps: bool,
}

/// An alert, as far as it takes to know it again.
type Told = (String, Time, Time, AlertState, bool);

fn identity(alert: &Alert) -> Told {
    (alert.fingerprint.clone(), alert.starts_at, alert.time, alert.state, alert.suppressed.is_some())
}

fn which(flow: &Flow) -> Which {
    (flow.key, flow.first.as_nanos())
}

impl<'a> Process<'a> {
    pub(crate) fn new(settings: &Settings, history: &'a [Connection], seed: u64, gaps: bool) -> Self {
        let engine = Engine::new(settings.clone());
        let left =
            Left { state: Vec::new(), known: Known::default(), journal: Vec::new(), history: Vec::new() };
        Self {
            engine,
            settings: settings.clone(),
            epoch: 0,
            table: history.iter().collect(),
            left,
            doings: Vec::new(),
            alerts: Vec::new(),
            counted: Vec::new(),
            told: HashSet::new(),
            first: false,
            chance: Chance(seed | 1),
            gaps,
        }
    }

    /// A poll, up to some point. Gives whether it came to its end.
    pub(crate) fn poll(&mut self, now: Nanos, until: Option<Point>) -> bool {
        let mut missed: HashSet<Which> = HashSet::new();
        let mut shown: Vec<Flow> = self.table.iter().filter_map(|connection| connection.seen(now)).collect();
        if self.gaps {
            let misses: Vec<bool> = shown.iter().map(|_| self.chance.one_in(6)).collect();
            let mut misses = misses.into_iter();
            shown.retain(|flow| {
                let misses = misses.next().unwrap();
                missed.extend(misses.then(|| which(flow)));
                !misses
            });
        }
        self.engine.begin(Time::from_nanos(now));
        self.left.journal.push(Entry::Poll(now));
        let parts: Vec<Vec<Flow>> = self.chance.parts(&shown).into_iter().map(<[Flow]>::to_vec).collect();
        // The part at which a process dies, if it does so among them.
        let dies = self.chance.below(parts.len() as u64 + 1) as usize;
        let dies = until.filter(|until| *until <= Point::Removed).map(|until| (dies, until));
        for (place, part) in parts.iter().enumerate() {
            let point = dies.filter(|(at, _)| *at == place).map(|(_, until)| until);
            if !self.part(part, point, &mut missed) {
                missed.extend(parts[place + 1..].iter().flatten().map(which));
                self.doings.push(Doing::Look(now, missed));
                return false;
            }
        }
        self.doings.push(Doing::Look(now, missed));
        if dies.is_some() {
            return false;
        }
        let effects = self.engine.tick(Time::from_nanos(now));
        if until == Some(Point::Ticked) {
            return false;
        }
        self.doings.push(Doing::Tick(now));
        let judged = self.engine.judged().map(|judged| (judged.at, judged.record.clone(), judged.open));
        self.left.history.extend(judged);
        self.counted.extend(effects.qualified.iter().cloned());
        let alerts = match until {
            Some(Point::Judged) => 0,
            Some(_) => self.chance.below(effects.alerts.len() as u64 + 1) as usize,
            None => effects.alerts.len(),
        };
        self.tell(effects.alerts.into_iter().take(alerts));
        if until.is_none() {
            self.left.journal.push(Entry::Over);
            self.first = false;
        }
        until.is_none()
    }

    /// A part of a reading: what it brings is noted before it is done.
    fn part(&mut self, part: &[Flow], until: Option<Point>, missed: &mut HashSet<Which>) -> bool {
        let effects = self.engine.look(part);
        let active = effects.records.iter().filter(|record| record.reason == RecordReason::Active);
        self.left.journal.extend(active.map(|record| Entry::Active(record.flow.clone())));
        let ending = self.engine.ending().to_vec();
        self.left.journal.extend(ending.iter().cloned().map(Entry::Ended));
        if until == Some(Point::Noted) {
            missed.extend(ending.iter().map(which));
            return false;
        }
        let gaps = self.gaps;
        let chance = &mut self.chance;
        let fates: Vec<Fate> = ending
            .iter()
            .map(|_| if gaps && chance.one_in(6) { Fate::Lives } else { Fate::Removed })
            .collect();
        for (flow, fate) in ending.iter().zip(&fates) {
            if *fate == Fate::Lives {
                missed.insert(which(flow));
            } else {
                self.table.retain(|connection| connection.which() != which(flow));
            }
        }
        let lives = ending.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Lives);
        self.left.journal.extend(lives.map(|(flow, _)| Entry::Lives(which(flow))));
        if until == Some(Point::Removed) {
            return false;
        }
        self.engine.end(&fates);
        true
    }

    /// The state is kept, as bytes.
    pub(crate) fn keep(&mut self) {
        let state = postcard::to_stdvec(&self.engine.save()).unwrap();
        self.left = Left { state, known: self.engine.known(), journal: Vec::new(), history: Vec::new() };
        self.doings.push(Doing::Keep);
    }

    /// Other settings are in force.
    pub(crate) fn reload(&mut self, now: Nanos, settings: &Settings) -> usize {
        let changed = self.engine.reconfigure(Time::from_nanos(now), settings.clone());
        self.doings.push(Doing::Reload(now, Box::new(settings.clone())));
        self.settings = settings.clone();
        self.enter(changed.effects);
        self.keep();
        changed.restarted.len()
    }

    /// The wall clock is set.
    pub(crate) fn set(&mut self, epoch: i128) {
        self.epoch = epoch;
        self.engine.set_epoch(Epoch::from_unix_nanos(epoch));
        self.doings.push(Doing::Set(epoch));
        self.keep();
    }

    /// The agent stops and its tables end: what is open gets a last record.
    pub(crate) fn stop(&mut self, now: Nanos) {
        let table: Vec<Flow> = self.table.iter().filter_map(|connection| connection.seen(now)).collect();
        for part in self.chance.parts(&table) {
            self.engine.look_last(Time::from_nanos(now), part);
        }
        self.table.retain(|connection| connection.seen(now).is_none());
        self.doings.extend([Doing::LastLook(now), Doing::Tick(now)]);
        let effects = self.engine.shutdown(Time::from_nanos(now));
        self.enter(effects);
        self.keep();
    }

    /// Another process goes on where this one stopped; how many alerts fire.
    pub(crate) fn restart(&mut self, tables: bool) -> usize {
        let Left { state, known, journal, history } = std::mem::replace(
            &mut self.left,
            Left { state: Vec::new(), known: Known::default(), journal: Vec::new(), history: Vec::new() },
        );
        self.engine = Engine::new(self.settings.clone());
        self.engine.set_epoch(Epoch::from_unix_nanos(self.epoch));
        if tables {
            self.engine.know(&known);
        }
        let state: State = postcard::from_bytes(&state).unwrap();
        assert!(state.is_readable());
        let restored = self.engine.restore(state);
        assert_eq!(restored.forgotten, Vec::<String>::new());
        self.doings.push(Doing::Restart);
        let mut judged = HashSet::new();
        let mut missing = Vec::new();
        for (at, record, open) in history {
            judged.extend((!open).then(|| (which(&record.flow), record.reason, record.time())));
            let record = self.engine.record_for(&record.flow, record.reason);
            missing.extend(self.engine.judge_again(Judged { at, record: &record, open }).alerts);
        }
        self.again(&journal, &judged);
        missing.retain(|alert| !self.told.contains(&identity(alert)));
        self.tell(missing.into_iter());
        self.first = true;
        self.keep();
        restored.firing
    }

    /// What was begun and not finished.
    fn again(&mut self, journal: &[Entry], judged: &HashSet<(Which, RecordReason, Time)>) {
        for poll in journal.chunk_by(|_, next| !matches!(next, Entry::Poll(_))) {
            let over = poll.iter().any(|entry| matches!(entry, Entry::Over));
            let lived = |flow: &Flow| {
                poll.iter().any(|entry| matches!(entry, Entry::Lives(lives) if *lives == which(flow)))
            };
            let was_judged = |flow: &Flow, ended: bool| {
                let mut of = judged.iter().filter(|(of, ..)| *of == which(flow));
                of.any(|(_, reason, time)| (*reason != RecordReason::Active) == ended && *time == flow.last())
            };
            for entry in poll {
                match entry {
                    Entry::Poll(now) => self.engine.begin_again(Time::from_nanos(*now)),
                    Entry::Ended(flow) => {
                        let holds = self.table.iter().any(|connection| connection.which() == which(flow));
                        if lived(flow) || (!over && holds) {
                            continue;
                        }
                        if !over && !was_judged(flow, true) {
                            self.engine.conclude_ended(flow);
                        } else {
                            self.engine.forget(flow);
                        }
                    }
                    Entry::Active(flow) if over || was_judged(flow, false) => {
                        self.engine.recall(flow);
                    }
                    Entry::Active(flow) => {
                        self.engine.look(std::slice::from_ref(flow));
                    }
                    Entry::Lives(_) | Entry::Over => {}
                }
            }
        }
    }

    /// Nothing but time passes.
    pub(crate) fn tick(&mut self, now: Nanos) {
        let effects = self.engine.tick(Time::from_nanos(now));
        self.doings.push(Doing::Tick(now));
        self.enter(effects);
    }

    fn enter(&mut self, effects: Effects) {
        self.counted.extend(effects.qualified);
        self.tell(effects.alerts.into_iter());
    }

    /// No alert is told twice.
    fn tell(&mut self, alerts: impl Iterator<Item = Alert>) {
        for alert in alerts {
            // What a process told just before its death follows once more from time alone.
            if self.told.insert(identity(&alert)) {
                self.alerts.push(alert);
            } else {
                assert!(self.first, "told twice: {alert:#?}");
            }
        }
    }
}
