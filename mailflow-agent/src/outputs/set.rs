//! Alerts and flow records on their way out.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    AlertEvent, FlowEvent, gateway::Gateway, jsonl_file::OpenError, profile::Format, renew::Opened,
    worker::Sink,
};
use crate::{
    config::{self, AlertOutput, AlertTo, FlowOutput, Target},
    metrics::Agent,
    recovery::store::{Event, Untold, Written},
    util::disk::Limits,
};
use mailflow_engine::{
    event::{AlertState, Effects},
    time::Epoch,
};
use mailflow_kernel::EntryBinding;
use mailflow_kernel::clock;

/// Alert events that are remembered for sinks that have not delivered them; older ones are in those sinks'
/// queues only.
const REMEMBERED: usize = 1_000;

/// Who reads an output for alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever wants to know what there was, suppressed alerts too.
    Record,
    /// Somebody to be told what happens.
    People,
    /// The same, by something that must know what fires at any time.
    Reminded,
}

impl Audience {
    pub(super) const fn of(to: &AlertTo) -> Self {
        match to {
            AlertTo::Lines { .. } => Self::Record,
            AlertTo::Journal { .. } | AlertTo::Syslog(_) | AlertTo::Webhook { .. } => Self::People,
            AlertTo::Alertmanager { .. } => Self::Reminded,
        }
    }
}

/// An open sink.
pub(super) struct Out<T> {
    /// Which of the configured outputs it belongs to.
    pub(super) output: usize,
    pub(super) audience: Audience,
    pub(super) sink: Sink<T>,
    /// The file that it writes lines to, if it does, and their form: there it shows what was written.
    file: Option<(PathBuf, Format)>,
}

impl<T: Send + 'static> Out<T> {
    pub(super) fn new(
        output: usize,
        audience: Audience,
        sink: Sink<T>,
        lines: Option<(&Target, Format)>,
    ) -> Self {
        let file = lines.and_then(|(target, format)| match target {
            Target::File(path) => Some((path.clone(), format)),
            Target::Stdout => None,
        });
        Self { output, audience, sink, file }
    }

    /// Returns true if it hears of events that are, or are not, told to people.
    pub(super) fn hears(&self, told: bool) -> bool {
        told || self.audience == Audience::Record
    }

    /// Returns true if its file has the line that `line` makes.
    fn has(&self, written: &mut Written, line: impl FnOnce(&Format) -> serde_json::Result<String>) -> bool {
        let Some((path, format)) = &self.file else { return false };
        // What cannot be written as a line is handed over again, and counted.
        line(format).is_ok_and(|line| written.take(path, &line))
    }

    /// Hands over what an agent before may not have delivered here. A file is known to have it or not; what
    /// is none cannot be asked, and is taken to have what `others` have unless it was behind.
    fn push_missing(&self, item: T, has: bool, others: bool, behind: &dyn Fn(&str) -> bool) {
        if !has && (self.file.is_some() || !others || behind(self.sink.name())) {
            self.sink.push(item);
        }
    }
}

/// The open sinks.
pub(crate) struct Outputs {
    /// What their lines name.
    pub(super) gateway: Gateway,
    /// What they were opened for.
    pub(super) configured: (Vec<AlertOutput>, Vec<FlowOutput>),
    pub(super) alerts: Vec<Out<AlertEvent>>,
    pub(super) flows: Vec<Out<FlowEvent>>,
    /// What fires, by fingerprint.
    firing: Mutex<HashMap<String, AlertEvent>>,
    /// The newest alert events, oldest first, as far back as a sink has not delivered them.
    recent: Mutex<VecDeque<Event>>,
}

impl Outputs {
    /// Opens everything that is configured. What is at the other end of a connection need not be there.
    pub(crate) fn open(
        outputs: &config::Outputs,
        agent: &Agent,
        gateway: Gateway,
    ) -> Result<Self, OpenError> {
        let none = Self {
            gateway,
            configured: Default::default(),
            alerts: Vec::new(),
            flows: Vec::new(),
            firing: Mutex::default(),
            recent: Mutex::default(),
        };
        let Opened { alerts, flows, configured, .. } = none.prepare(outputs, agent)?;
        Ok(Self { alerts, flows, configured, ..none })
    }

    /// Sets the watched interfaces that events name: those with a name of their own in the configuration, and those
    /// that a pattern matches now.
    pub(crate) fn watch(&self, entries: &[EntryBinding]) {
        let names = entries.iter().flat_map(|entry| match entry.pattern {
            true => entry.interfaces.iter().map(|bound| bound.name.as_str()).collect(),
            false => vec![entry.entry.as_str()],
        });
        let numbers = entries.iter().flat_map(|entry| &entry.interfaces);
        self.gateway.watch(names, numbers.map(|bound| (bound.index, bound.name.as_str())));
    }

    /// Tells what fires already to those that must know it, and to nobody else.
    pub(crate) fn remind(&self, firing: impl IntoIterator<Item = AlertEvent>) {
        for event in firing {
            let before = self.firing().insert(event.0.fingerprint.clone(), event.clone());
            // What these outputs were handed has been told.
            if before.is_none() {
                let sinks = self.alerts.iter().filter(|out| out.audience == Audience::Reminded);
                sinks.for_each(|out| out.sink.push(event.clone()));
            }
        }
    }

    /// Opens what suits what is of the past: alerts go to files alone, and wake nobody.
    pub(crate) fn open_for_the_past(
        outputs: &config::Outputs,
        agent: &Agent,
        gateway: Gateway,
    ) -> Result<Self, OpenError> {
        let mut outputs = outputs.clone();
        outputs.keep_alerts_to_files();
        // The user asks for these files, and sees what becomes of them.
        outputs.files = Limits::NONE;
        Self::open(&outputs, agent, gateway)
    }

    /// Hands over what one call of the engine produced. Never waits.
    pub(crate) fn write(&self, effects: &Effects, epoch: Epoch) {
        self.hand_over(effects, epoch, Sink::push, Sink::push);
    }

    /// Hands over what one call of the engine produced, and waits where there is no room for it: for
    /// those whose input waits too.
    pub(crate) fn write_all(&self, effects: &Effects, epoch: Epoch) {
        self.hand_over(effects, epoch, Sink::push_waiting, Sink::push_waiting);
    }

    fn hand_over(
        &self,
        effects: &Effects,
        epoch: Epoch,
        push_flow: fn(&Sink<FlowEvent>, FlowEvent),
        push_alert: fn(&Sink<AlertEvent>, AlertEvent),
    ) {
        if !self.flows.is_empty() {
            for record in &effects.records {
                let record = Arc::new(record.clone());
                self.flows.iter().for_each(|out| push_flow(&out.sink, (Arc::clone(&record), epoch)));
            }
        }
        for alert in &effects.alerts {
            let event = self.take_note((Arc::new(alert.clone()), epoch));
            self.hearing(event.told).for_each(|out| push_alert(&out.sink, event.event()));
        }
    }

    /// Hands over what an agent before produced and may not have written or told, to each sink what it may
    /// not have. `behind` tells of a sink whether it had not delivered all when that was last known.
    pub(crate) fn write_missing(
        &self,
        effects: &Effects,
        epoch: Epoch,
        written: &mut Written,
        behind: &dyn Fn(&str) -> bool,
    ) {
        for record in &effects.records {
            let line = |format: &Format| format.flow_line(record, epoch);
            let has: Vec<bool> = self.flows.iter().map(|out| out.has(written, line)).collect();
            let (event, others) = (Arc::new(record.clone()), has.contains(&true));
            for (out, has) in self.flows.iter().zip(has) {
                out.push_missing((Arc::clone(&event), epoch), has, others, behind);
            }
        }
        for alert in &effects.alerts {
            let event = self.take_note((Arc::new(alert.clone()), epoch));
            let line = |format: &Format| format.alert_line(alert, epoch);
            let has: Vec<bool> = self.hearing(event.told).map(|out| out.has(written, line)).collect();
            let others = has.contains(&true);
            for (out, has) in self.hearing(event.told).zip(has) {
                out.push_missing(event.event(), has, others, behind);
            }
        }
    }

    /// Hands over alert events to the sinks that had not delivered them; to files only what they do not have.
    pub(crate) fn write_untold(&self, untold: &[Untold], written: &mut Written) {
        for Untold { event, sinks } in untold {
            self.note(event.clone());
            for out in self.hearing(event.told) {
                let (alert, epoch) = event.event();
                let has = out.has(written, |format| format.alert_line(&alert, epoch));
                if !has && sinks.iter().any(|name| name == out.sink.name()) {
                    out.sink.push((alert, epoch));
                }
            }
        }
    }

    /// Alert events that some sinks have not delivered, with the names of these; oldest first.
    pub(crate) fn untold(&self) -> Vec<Untold> {
        let mut recent = self.recent();
        let waiting = untold(&self.alerts, &recent);
        let delivered = waiting.iter().take_while(|(_, names)| names.is_empty()).count();
        recent.drain(..delivered);
        let untold = waiting.into_iter().map(|(event, sinks)| Untold { event, sinks });
        untold.filter(|untold| !untold.sinks.is_empty()).collect()
    }

    /// Returns true if every file has all its lines, and every collector its records.
    pub(crate) fn is_written(&self) -> bool {
        self.flows.iter().all(|out| out.sink.waiting() == 0)
            && self.alerts.iter().all(|out| out.audience != Audience::Record || out.sink.waiting() == 0)
    }

    /// Returns true if every alert was delivered wherever it goes.
    pub(crate) fn is_told(&self) -> bool {
        self.alerts.iter().all(|out| out.sink.waiting() == 0)
    }

    fn take_note(&self, (alert, epoch): AlertEvent) -> Event {
        // Of what an allow-list suppresses nobody is told, but for the end of what they were told of.
        let told = alert.suppressed.is_none() || self.firing().contains_key(&alert.fingerprint);
        let event = Event::new(alert, epoch, told);
        self.note(event.clone());
        event
    }

    /// Notes what fires, and remembers the event until it is delivered.
    fn note(&self, event: Event) {
        let (alert, epoch) = event.event();
        match alert.state {
            AlertState::Firing if event.told => {
                drop(self.firing().insert(alert.fingerprint.clone(), (alert, epoch)));
            }
            AlertState::Firing => {}
            AlertState::Resolved => drop(self.firing().remove(&alert.fingerprint)),
        }
        let mut recent = self.recent();
        if recent.len() >= REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(event);
    }

    /// The sinks that hear of events that are, or are not, told to people.
    fn hearing(&self, told: bool) -> impl Iterator<Item = &Out<AlertEvent>> {
        self.alerts.iter().filter(move |out| out.hears(told))
    }

    pub(super) fn firing(&self) -> MutexGuard<'_, HashMap<String, AlertEvent>> {
        self.firing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what waits, all sinks together within `grace`. What one of them could not deliver is an
    /// error in the end, and keeps nothing from the others.
    pub(crate) fn close(&mut self, grace: Duration) -> Result<()> {
        self.flows.iter_mut().for_each(|out| out.sink.hang_up());
        self.alerts.iter_mut().for_each(|out| out.sink.hang_up());
        let deadline = clock::now() + grace;
        let left = || deadline.since(clock::now());
        let mut result = Ok(());
        for out in &mut self.flows {
            result = result.and(out.sink.finish(left()).context("flow log"));
        }
        for out in &mut self.alerts {
            result = result.and(out.sink.finish(left()).context("alerts"));
        }
        result
    }
}

/// Of each of the `recent` events the names of those of `outs` that have not delivered it.
pub(super) fn untold(outs: &[Out<AlertEvent>], recent: &VecDeque<Event>) -> Vec<(Event, Vec<String>)> {
    let mut waiting: Vec<_> = recent.iter().map(|event| (event.clone(), Vec::new())).collect();
    for out in outs {
        // What waits are the newest that it was handed.
        let left = usize::try_from(out.sink.waiting()).unwrap_or(usize::MAX);
        let audible = waiting.iter_mut().rev().filter(|(event, _)| out.hears(event.told));
        audible.take(left).for_each(|(_, names)| names.push(out.sink.name().to_owned()));
    }
    waiting
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::config;
    use mailflow_engine::{
        event::{Alert, Severity, Source, Sums, TermValue, Value},
        subject::Subject,
        time::Time,
    };

    pub(crate) fn alert() -> Alert {
        let source = Source::of([10, 0, 0, 9].into(), 64);
        let window = Duration::from_secs(3_600);
        let value = Value::Exactly(10);
        Alert {
            rule: "r".into(),
            rule_version: 1,
            fingerprint: "0123456789abcdef".into(),
            state: AlertState::Firing,
            severity: Severity::High,
            time: Time::ZERO,
            starts_at: Time::ZERO,
            starts_at_unix: 0,
            ends_at: None,
            subject: Subject::Source(source),
            source: Some(source),
            matched_network: None,
            group: None,
            role: None,
            suppressed: None,
            decided: TermValue { name: "count".into(), window, value, threshold: 10, scale: 1, holds: true },
            terms: Vec::new(),
            labels: [].into(),
            attack: Vec::new(),
            first: Time::ZERO,
            last: Time::ZERO,
            ports: Vec::new(),
            apps: Vec::new(),
            destinations: Vec::new(),
            sums: Sums::default(),
            flows: Vec::new(),
            complete: true,
            cut: false,
            relay: None,
        }
    }

    /// A file and an Alertmanager that is nowhere: what they are handed shows in their numbers.
    fn outputs(name: &str, agent: &Agent) -> (Outputs, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("mailflow-told-{}-{name}", std::process::id()));
        let text = format!(
            "outputs: {{ alerts: [{}, {{ type: alertmanager, urls: [\"http://127.0.0.1:9\"] }}] }}",
            path.display()
        );
        let config = config::parse("f", &text).unwrap();
        (Outputs::open(&config.outputs, agent, Gateway::default()).unwrap(), path)
    }

    fn handed(agent: &Agent, sink: &str) -> i64 {
        let counters = agent.sink_counters(sink);
        counters.waiting.get() + i64::try_from(counters.written.get() + counters.dropped.get()).unwrap()
    }

    pub(crate) fn told(alert: &Alert) -> Effects {
        Effects { alerts: vec![alert.clone()], ..Effects::default() }
    }

    #[test]
    fn nobody_is_told_of_what_is_suppressed_but_of_the_end_of_what_they_know() {
        let agent = Agent::new("0", 0.0).unwrap();
        let (outputs, path) = outputs("suppressed", &agent);
        let firing = alert();
        let suppressed = Alert { suppressed: Some("relay".into()), ..firing.clone() };
        let numbers = || (handed(&agent, "alerts"), handed(&agent, "alerts_alertmanager"));
        outputs.write(&told(&suppressed), Epoch::default());
        assert_eq!(numbers(), (1, 0));
        outputs.write(&told(&firing), Epoch::default());
        assert_eq!(numbers(), (2, 1));
        let end = Alert { state: AlertState::Resolved, ..suppressed };
        outputs.write(&told(&end), Epoch::default());
        assert_eq!(numbers(), (3, 2));
        drop(outputs);
        fs::remove_file(path).unwrap();
    }
}
