//! Agent without its I/O: it polls a table, writes checkpoints, is killed, and recovers.
//!
//! This module holds the contents of the kernel's table, the journal, the input log and the alert file. The
//! records in them, and their recovery, are the agent's own code.

use std::{collections::HashSet, io};

use crate::model::{Connection, Doing, Nanos, Which};
use mailflow_agent::recovery::{
    poll_records,
    redo::{self, MapAccess, RecoverySink},
    state_dir::{AlertEventId, InputLogRecord, JournalRecord},
};
use mailflow_common::SourceOverflowKey;
use mailflow_engine::{
    Engine,
    checkpoint::FlowTableCheckpoint,
    checkpoint::RulesCheckpoint,
    event::{Alert, AlertState, Effects, MatchedFlow},
    flow::{EvictOutcome, Flow, SourceOverflow, SupersededFlow},
    settings::Settings,
    time::{Time, WallClockOffset},
};

use super::run::Chance;

/// Progress of a poll at which the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KillPoint {
    /// The deltas of a batch are in the journal, and nothing else is done.
    DeltasLogged,
    /// The ended flows of a batch are evicted.
    FlowsEvicted,
    /// The rules have seen the records; nothing is logged.
    RulesEvaluated,
    /// The rule inputs are in the input log; no alert is delivered.
    InputsLogged,
    /// Some of the alerts are delivered.
    AlertsDelivered,
}

impl KillPoint {
    pub(crate) const ALL: [KillPoint; 5] = [
        KillPoint::DeltasLogged,
        KillPoint::FlowsEvicted,
        KillPoint::RulesEvaluated,
        KillPoint::InputsLogged,
        KillPoint::AlertsDelivered,
    ];
}

/// Data that survives a process.
struct Left {
    /// Time and contents of the checkpoint.
    now: Nanos,
    state: Vec<u8>,
    known: FlowTableCheckpoint,
    journal: Vec<JournalRecord>,
    history: Vec<InputLogRecord>,
}

impl Left {
    fn nothing() -> Self {
        Self {
            now: 0,
            state: Vec::new(),
            known: FlowTableCheckpoint::default(),
            journal: Vec::new(),
            history: Vec::new(),
        }
    }
}

/// Connections with flows in the kernel's table, now or later.
struct Table<'a>(Vec<&'a Connection>);

impl MapAccess for Table<'_> {
    fn contains_flow(&self, flow: &Flow) -> io::Result<bool> {
        Ok(self.0.iter().any(|connection| connection.which() == which(flow)))
    }

    fn contains_superseded(&self, _: &Flow) -> io::Result<bool> {
        unreachable!("each tuple has one flow at a time")
    }

    fn contains_overflow(&self, _: &SourceOverflowKey) -> io::Result<bool> {
        unreachable!("the table is never full")
    }

    fn account_evicted(&mut self, _: &Flow) {}

    fn account_superseded(&mut self, _: &SupersededFlow, _: &[u8]) {}

    fn account_overflow(&mut self, _: &SourceOverflow) {}
}

/// Alert file.
#[derive(Default)]
struct Lines {
    alerts: Vec<Alert>,
    delivered: HashSet<Identity>,
    /// Alerts whose delivery no agent has logged.
    unlogged: Vec<Alert>,
}

impl Lines {
    /// Delivers an alert; fails if it was delivered before.
    fn deliver(&mut self, alert: Alert) {
        assert!(self.delivered.insert(identity(&alert)), "delivered twice: {alert:#?}");
        self.unlogged.push(alert.clone());
        self.alerts.push(alert);
    }
}

impl RecoverySink for Lines {
    fn add_to_metrics(&mut self, _: Time, _: &Effects) {}

    fn emit_missing(&mut self, effects: Effects, _: WallClockOffset) {
        for alert in effects.alerts {
            // Alerts without a logged delivery are searched in the file.
            if !self.unlogged.iter().any(|unlogged| identity(unlogged) == identity(&alert)) {
                self.deliver(alert);
            }
        }
    }
}

pub(crate) struct Process<'a> {
    pub(crate) engine: Engine,
    settings: Settings,
    pub(crate) epoch: i128,
    table: Table<'a>,
    left: Left,
    lines: Lines,
    /// Start record of the current poll, until the journal has a record of the poll.
    begins: Option<JournalRecord>,
    /// Operations, for the reference.
    pub(crate) doings: Vec<Doing>,
    /// Flows that rules counted.
    pub(crate) counted: Vec<MatchedFlow>,
    chance: Chance,
    /// Polls miss some flows.
    gaps: bool,
}

/// Identity of an alert event.
type Identity = (String, Time, Time, AlertState, bool);

fn identity(alert: &Alert) -> Identity {
    (alert.fingerprint.clone(), alert.starts_at, alert.time, alert.state, alert.suppressed.is_some())
}

fn which(flow: &Flow) -> Which {
    (flow.key, flow.first.as_nanos())
}

impl<'a> Process<'a> {
    pub(crate) fn new(settings: &Settings, history: &'a [Connection], seed: u64, gaps: bool) -> Self {
        Self {
            engine: Engine::new(settings.clone()),
            settings: settings.clone(),
            epoch: 0,
            table: Table(history.iter().collect()),
            left: Left::nothing(),
            lines: Lines::default(),
            begins: None,
            doings: Vec::new(),
            counted: Vec::new(),
            chance: Chance(seed | 1),
            gaps,
        }
    }

    /// Returns the delivered alerts.
    pub(crate) fn alerts(&self) -> &[Alert] {
        &self.lines.alerts
    }

    /// Does a poll up to some point. Returns true if it completed.
    pub(crate) fn poll(&mut self, now: Nanos, until: Option<KillPoint>) -> bool {
        if self.chance.one_in(2) {
            self.delivered();
        }
        let mut missed: HashSet<Which> = HashSet::new();
        let mut shown: Vec<Flow> =
            self.table.0.iter().filter_map(|connection| connection.seen(now)).collect();
        if self.gaps {
            let misses: Vec<bool> = shown.iter().map(|_| self.chance.one_in(6)).collect();
            let mut misses = misses.into_iter();
            shown.retain(|flow| {
                let misses = misses.next().unwrap();
                missed.extend(misses.then(|| which(flow)));
                !misses
            });
        }
        self.engine.begin_poll(Time::from_nanos(now));
        self.begins = Some(JournalRecord::PollBegin { now: Time::from_nanos(now), epoch: self.epoch });
        let parts: Vec<Vec<Flow>> = self.chance.parts(&shown).into_iter().map(<[Flow]>::to_vec).collect();
        // Batch at which the process is killed, if it is killed among the batches.
        let dies = self.chance.below(parts.len() as u64 + 1) as usize;
        let dies = until.filter(|until| *until <= KillPoint::FlowsEvicted).map(|until| (dies, until));
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
        if until == Some(KillPoint::RulesEvaluated) {
            return false;
        }
        self.doings.push(Doing::Tick(now));
        let moment = (Time::from_nanos(now), WallClockOffset::from_unix_nanos(self.epoch));
        self.left.history.extend(poll_records::rule_inputs(moment, &self.engine));
        self.counted.extend(effects.matched_flows.iter().cloned());
        let alerts = match until {
            Some(KillPoint::InputsLogged) => 0,
            Some(_) => self.chance.below(effects.alerts.len() as u64 + 1) as usize,
            None => effects.alerts.len(),
        };
        effects.alerts.into_iter().take(alerts).for_each(|alert| self.lines.deliver(alert));
        if until.is_some() {
            if self.chance.one_in(2) {
                self.delivered();
            }
            return false;
        }
        // A poll without deltas has no records in the journal.
        if self.begins.take().is_none() {
            self.left.journal.push(JournalRecord::PollEnd);
        }
        true
    }

    /// Processes a batch of a poll: its records are in the journal before they take effect.
    fn part(&mut self, part: &[Flow], until: Option<KillPoint>, missed: &mut HashSet<Which>) -> bool {
        let effects = self.engine.observe_batch(part);
        let ending = self.engine.pending_eviction().to_vec();
        self.note(poll_records::flow_records(&effects, &ending).collect());
        if until == Some(KillPoint::DeltasLogged) {
            missed.extend(ending.iter().map(which));
            return false;
        }
        let gaps = self.gaps;
        let chance = &mut self.chance;
        let fates: Vec<EvictOutcome> = ending
            .iter()
            .map(|_| if gaps && chance.one_in(6) { EvictOutcome::Changed } else { EvictOutcome::Evicted })
            .collect();
        for (flow, fate) in ending.iter().zip(&fates) {
            if *fate == EvictOutcome::Changed {
                missed.insert(which(flow));
            } else {
                self.table.0.retain(|connection| connection.which() != which(flow));
            }
        }
        let lives = ending.iter().zip(&fates).filter(|(_, fate)| **fate == EvictOutcome::Changed);
        self.note(lives.map(|(flow, _)| JournalRecord::EvictionRejected(flow.clone())).collect());
        if until == Some(KillPoint::FlowsEvicted) {
            return false;
        }
        self.engine.apply_evictions(&fates);
        true
    }

    /// Appends records to the journal; the first records of a poll follow its start record.
    fn note(&mut self, entries: Vec<JournalRecord>) {
        if !entries.is_empty() {
            self.left.journal.extend(self.begins.take().into_iter().chain(entries));
        }
    }

    /// Appends the delivered alerts to the input log.
    fn delivered(&mut self) {
        self.left.history.extend(
            self.lines
                .unlogged
                .drain(..)
                .map(|alert| InputLogRecord::AlertDelivered(AlertEventId::of(&alert))),
        );
    }

    /// Writes a checkpoint at `now`, as bytes.
    pub(crate) fn keep(&mut self, now: Nanos) {
        let state = postcard::to_stdvec(&self.engine.save()).unwrap();
        self.left = Left { now, state, known: self.engine.checkpoint_flows(), ..Left::nothing() };
        self.lines.unlogged.clear();
        self.doings.push(Doing::Keep);
    }

    /// Applies other settings.
    pub(crate) fn reload(&mut self, now: Nanos, settings: &Settings) -> usize {
        let changed = self.engine.reconfigure(Time::from_nanos(now), settings.clone());
        self.doings.push(Doing::Reload(now, Box::new(settings.clone())));
        self.settings = settings.clone();
        self.enter(changed.effects);
        self.keep(now);
        changed.restarted.len()
    }

    /// Sets the wall clock.
    pub(crate) fn set(&mut self, epoch: i128) {
        self.epoch = epoch;
        self.engine.set_clock_offset(WallClockOffset::from_unix_nanos(epoch));
        self.doings.push(Doing::Set(epoch));
    }

    /// Stops the agent and removes its maps: every open flow gets a last record.
    pub(crate) fn stop(&mut self, now: Nanos) {
        let table: Vec<Flow> = self.table.0.iter().filter_map(|connection| connection.seen(now)).collect();
        for part in self.chance.parts(&table) {
            self.engine.observe_final_batch(Time::from_nanos(now), part);
        }
        self.table.0.retain(|connection| connection.seen(now).is_none());
        self.doings.extend([Doing::LastLook(now), Doing::Tick(now)]);
        let effects = self.engine.shutdown(Time::from_nanos(now));
        self.enter(effects);
        self.keep(now);
    }

    /// Recovers in a new process at `now`; returns the number of firing alerts.
    pub(crate) fn restart(&mut self, now: Nanos, tables: bool) -> usize {
        let Left { now: kept, state, known, journal, history } =
            std::mem::replace(&mut self.left, Left::nothing());
        self.begins = None;
        let epoch = WallClockOffset::from_unix_nanos(self.epoch);
        self.engine = Engine::new(self.settings.clone());
        if tables {
            self.engine.restore_flows(&known);
        }
        let state: RulesCheckpoint = postcard::from_bytes(&state).unwrap();
        assert!(state.is_readable());
        self.engine.set_clock_offset(epoch);
        let restored = self.engine.restore(state);
        assert_eq!(restored.dropped_rules, Vec::<String>::new());
        self.doings.push(Doing::Restart);
        let evaluated = redo::replay_inputs(&mut self.engine, &history);
        self.engine.set_clock_offset(epoch);
        let table = tables.then_some(&mut self.table);
        let journal = (journal, Time::from_nanos(kept));
        redo::redo_polls(&mut self.engine, table, journal, evaluated, (&mut self.lines, epoch)).unwrap();
        self.keep(now);
        restored.firing
    }

    /// Advances only time.
    pub(crate) fn tick(&mut self, now: Nanos) {
        let effects = self.engine.tick(Time::from_nanos(now));
        self.doings.push(Doing::Tick(now));
        self.enter(effects);
    }

    fn enter(&mut self, effects: Effects) {
        self.counted.extend(effects.matched_flows);
        effects.alerts.into_iter().for_each(|alert| self.lines.deliver(alert));
    }
}
