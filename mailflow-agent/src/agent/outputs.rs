//! Alerts and flow records on their way out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    clock,
    config::{self, AlertTo},
    engine::{
        event::{Alert, AlertState, Effects},
        flow::FlowRecord,
        time::Epoch,
    },
    sink::{
        AlertEvent, FlowEvent, alert_log, flow_log, lines::OpenError, metrics::Agent, open, worker::Sink,
    },
};

/// Who reads an output for alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Whoever wants to know what there was, suppressed alerts too.
    Record,
    /// Somebody to be told what happens.
    People,
    /// The same, by something that must know what fires at any time.
    Reminded,
}

impl Audience {
    const fn of(to: &AlertTo) -> Self {
        match to {
            AlertTo::Lines { .. } => Self::Record,
            AlertTo::Journal { .. } | AlertTo::Syslog(_) | AlertTo::Webhook { .. } => Self::People,
            AlertTo::Alertmanager { .. } => Self::Reminded,
        }
    }
}

/// The open sinks.
pub(super) struct Outputs {
    alerts: Vec<(Audience, Sink<AlertEvent>)>,
    flows: Vec<Sink<FlowEvent>>,
    /// What fires, by fingerprint.
    firing: Mutex<HashMap<String, AlertEvent>>,
}

impl Outputs {
    /// Opens everything that is configured. What is at the other end of a connection need not be there.
    pub(super) fn open(outputs: &config::Outputs, agent: &Agent) -> Result<Self, OpenError> {
        let mut alerts = Vec::new();
        for output in &outputs.alerts {
            let audience = Audience::of(&output.to);
            alerts.extend(open::alerts(output, agent)?.into_iter().map(|sink| (audience, sink)));
        }
        let flows = outputs.flow_log.iter().map(|output| open::flows(output, agent));
        Ok(Self { alerts, flows: flows.collect::<Result<_, _>>()?, firing: Mutex::default() })
    }

    /// Takes over from the outputs before: what fires is told to those that must know it.
    pub(super) fn follow(&self, before: &Self) {
        self.remind(before.firing().drain().map(|(_, event)| event));
    }

    /// Tells what fires already to those that must know it, and to nobody else.
    pub(super) fn remind(&self, firing: impl IntoIterator<Item = AlertEvent>) {
        for event in firing {
            let sinks = self.alerts.iter().filter(|(audience, _)| *audience == Audience::Reminded);
            sinks.for_each(|(_, sink)| sink.push(event.clone()));
            self.firing().insert(event.0.fingerprint.clone(), event);
        }
    }

    /// Opens what suits what is of the past: alerts go to files alone, and wake nobody.
    pub(super) fn open_for_the_past(outputs: &config::Outputs, agent: &Agent) -> Result<Self, OpenError> {
        let mut outputs = outputs.clone();
        outputs.keep_alerts_to_files();
        Self::open(&outputs, agent)
    }

    /// Hands over what one call of the engine produced. Never waits.
    pub(super) fn write(&self, effects: &Effects, epoch: Epoch) {
        self.hand_over(effects, epoch, Sink::push, Sink::push);
    }

    /// Hands over those lines of what an agent before produced that were not written.
    pub(super) fn write_missing(
        &self,
        effects: &Effects,
        epoch: Epoch,
        mut is_written: impl FnMut(&str) -> bool,
    ) {
        // What is not written as these lines is handed over again.
        let mut is_written = |line: serde_json::Result<String>| line.is_ok_and(|line| is_written(&line));
        let missing = |record: &&FlowRecord| !is_written(flow_log::line(record, epoch));
        let records = effects.records.iter().filter(missing).cloned().collect();
        let missing = |alert: &&Alert| !is_written(alert_log::line(alert, epoch));
        let alerts = effects.alerts.iter().filter(missing).cloned().collect();
        self.write(&Effects { records, alerts, ..Effects::default() }, epoch);
    }

    /// Hands over what one call of the engine produced, and waits where there is no room for it: for
    /// those whose input waits too.
    pub(super) fn write_all(&self, effects: &Effects, epoch: Epoch) {
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
                self.flows.iter().for_each(|sink| push_flow(sink, (Arc::clone(&record), epoch)));
            }
        }
        for alert in &effects.alerts {
            let event: AlertEvent = (Arc::new(alert.clone()), epoch);
            // Of what an allow-list suppresses nobody is told, but for the end of what they were told of.
            let told = alert.suppressed.is_none() || self.firing().contains_key(&alert.fingerprint);
            let sinks = self.alerts.iter().filter(|(audience, _)| told || *audience == Audience::Record);
            sinks.for_each(|(_, sink)| push_alert(sink, event.clone()));
            match alert.state {
                AlertState::Firing if told => drop(self.firing().insert(alert.fingerprint.clone(), event)),
                AlertState::Firing => {}
                AlertState::Resolved => drop(self.firing().remove(&alert.fingerprint)),
            }
        }
    }

    fn firing(&self) -> MutexGuard<'_, HashMap<String, AlertEvent>> {
        self.firing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what waits, all sinks together within `grace`. What one of them could not deliver is an
    /// error in the end, and keeps nothing from the others.
    pub(super) fn close(mut self, grace: Duration) -> Result<()> {
        self.flows.iter_mut().for_each(Sink::hang_up);
        self.alerts.iter_mut().for_each(|(_, sink)| sink.hang_up());
        let deadline = clock::now() + grace;
        let left = || deadline.since(clock::now());
        let mut result = Ok(());
        for sink in self.flows {
            result = result.and(sink.close(left()).context("flow log"));
        }
        for (_, sink) in self.alerts {
            result = result.and(sink.close(left()).context("alerts"));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        config,
        engine::{
            event::{Severity, Source, Sums, TermValue, Value},
            subject::Subject,
            time::Time,
        },
    };

    fn alert() -> Alert {
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
        (Outputs::open(&config.outputs, agent).unwrap(), path)
    }

    fn handed(agent: &Agent, sink: &str) -> i64 {
        let counters = agent.sink_counters(sink);
        counters.waiting.get() + i64::try_from(counters.written.get() + counters.dropped.get()).unwrap()
    }

    fn told(alert: &Alert) -> Effects {
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

    #[test]
    fn outputs_that_follow_others_know_what_fires() {
        let agent = Agent::new("0", 0.0).unwrap();
        let (before, path) = outputs("before", &agent);
        before.write(&told(&alert()), Epoch::default());
        let other = Agent::new("0", 0.0).unwrap();
        let (after, other_path) = outputs("after", &other);
        after.follow(&before);
        assert_eq!((handed(&other, "alerts"), handed(&other, "alerts_alertmanager")), (0, 1));
        drop((before, after));
        [path, other_path].iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}
