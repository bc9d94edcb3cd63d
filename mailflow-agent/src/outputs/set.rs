//! Open outputs for alerts and flow records.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    AlertEvent, FlowEvent, gateway::Gateway, jsonl_file::OpenError, policy::AlertPolicy,
    profile::EventFormat, replace::OpenedOutputs, worker::SinkWorker,
};
use crate::{
    config::{self, AlertOutput, FlowOutput, Target},
    metrics::AgentMetrics,
    recovery::state_dir::{PendingDelivery, WrittenLines},
    util::disk::FileLimits,
};
use mailflow_engine::{
    event::{Alert, Effects},
    time::WallClockOffset,
};
use mailflow_kernel::EntryBinding;
use mailflow_kernel::clock;

/// Largest number of alert events remembered for sinks that have not delivered them. Older ones are only in
/// the queues of these sinks.
const MAX_RECENT_ALERTS: usize = 1_000;

/// Open output.
pub(super) struct Output<T> {
    /// Index of the configured output.
    pub(super) config_index: usize,
    pub(super) policy: AlertPolicy,
    pub(super) sink: SinkWorker<T>,
    /// File and line format of an output that writes lines. The file shows which lines were written.
    file: Option<(PathBuf, EventFormat)>,
}

impl<T: Send + 'static> Output<T> {
    /// Creates an open output. `lines` has the target and the format of an output that writes lines.
    pub(super) fn new(
        config_index: usize,
        policy: AlertPolicy,
        sink: SinkWorker<T>,
        lines: Option<(&Target, EventFormat)>,
    ) -> Self {
        let file = lines.and_then(|(target, format)| match target {
            Target::File(path) => Some((path.clone(), format)),
            Target::Stdout => None,
        });
        Self { config_index, policy, sink, file }
    }

    /// Returns true if the file has the line that `line` returns.
    fn file_has_line(
        &self,
        written: &mut WrittenLines,
        line: impl FnOnce(&EventFormat) -> serde_json::Result<String>,
    ) -> bool {
        let Some((path, format)) = &self.file else { return false };
        // An event that cannot be formatted is delivered again, and counted as lost.
        line(format).is_ok_and(|line| written.take(path, &line))
    }

    /// Delivers an item that the previous process may not have delivered. A file is known to have its line or
    /// not. Any other output is assumed to have the item if `others_have_it`, unless it had a backlog.
    fn deliver_if_missing(
        &self,
        item: T,
        has_line: bool,
        others_have_it: bool,
        had_backlog: &dyn Fn(&str) -> bool,
    ) {
        if !has_line && (self.file.is_some() || !others_have_it || had_backlog(self.sink.name())) {
            self.sink.push(item);
        }
    }
}

/// Open outputs.
pub(crate) struct OutputSet {
    /// Gateway named in events.
    pub(super) gateway: Gateway,
    /// Configured outputs.
    pub(super) configured: (Vec<AlertOutput>, Vec<FlowOutput>),
    pub(super) alerts: Vec<Output<AlertEvent>>,
    pub(super) flows: Vec<Output<FlowEvent>>,
    /// Newest alert events, oldest first, from the first that a sink has not delivered.
    recent: Mutex<VecDeque<AlertEvent>>,
}

impl OutputSet {
    /// Opens the configured outputs. Receivers need not be reachable.
    pub(crate) fn open(
        outputs: &config::Outputs,
        agent: &AgentMetrics,
        gateway: Gateway,
    ) -> Result<Self, OpenError> {
        let none = Self {
            gateway,
            configured: Default::default(),
            alerts: Vec::new(),
            flows: Vec::new(),
            recent: Mutex::default(),
        };
        let OpenedOutputs { alerts, flows, configured, .. } = none.open_changed(outputs, agent)?;
        Ok(Self { alerts, flows, configured, ..none })
    }

    /// Sets the watched interfaces that events name: configured names, and names that a pattern matches now.
    pub(crate) fn watch(&self, entries: &[EntryBinding]) {
        let names = entries.iter().flat_map(|entry| match entry.pattern {
            true => entry.interfaces.iter().map(|bound| bound.name.as_str()).collect(),
            false => vec![entry.entry.as_str()],
        });
        let bound = entries.iter().flat_map(|entry| &entry.interfaces);
        self.gateway.watch(names, bound.map(|bound| (bound.index, bound.name.as_str())));
    }

    /// Sends the firing alerts to the outputs that refresh them. Such an output has one state for each alert: it may have
    /// got an event of the alert before.
    pub(crate) fn resend_firing(&self, firing: &[Arc<Alert>]) {
        for alert in firing {
            self.accepting(alert)
                .filter(|out| out.policy == AlertPolicy::NotifyAndRefresh)
                .for_each(|out| out.sink.push((Arc::clone(alert), clock::epoch())));
        }
    }

    /// Opens the outputs for recorded flows: alerts go to files only and do not notify people.
    pub(crate) fn open_offline(
        outputs: &config::Outputs,
        agent: &AgentMetrics,
        gateway: Gateway,
    ) -> Result<Self, OpenError> {
        let mut outputs = outputs.clone();
        outputs.retain_file_alerts();
        // The user requested these files and monitors their size.
        outputs.files = FileLimits::NONE;
        Self::open(&outputs, agent, gateway)
    }

    /// Writes the effects of one call of the engine. Never blocks.
    pub(crate) fn write(&self, effects: &Effects, epoch: WallClockOffset) {
        self.push_effects(effects, epoch, SinkWorker::push, SinkWorker::push);
    }

    /// Writes the effects of one call of the engine, and blocks while a queue is full. For callers whose
    /// input can wait.
    pub(crate) fn write_all(&self, effects: &Effects, epoch: WallClockOffset) {
        self.push_effects(effects, epoch, SinkWorker::push_blocking, SinkWorker::push_blocking);
    }

    /// Adds the effects to the queues with these functions.
    fn push_effects(
        &self,
        effects: &Effects,
        epoch: WallClockOffset,
        push_flow: fn(&SinkWorker<FlowEvent>, FlowEvent),
        push_alert: fn(&SinkWorker<AlertEvent>, AlertEvent),
    ) {
        if !self.flows.is_empty() {
            for record in &effects.records {
                let record = Arc::new(record.clone());
                self.flows.iter().for_each(|out| push_flow(&out.sink, (Arc::clone(&record), epoch)));
            }
        }
        for alert in &effects.alerts {
            let event = (Arc::new(alert.clone()), epoch);
            self.remember(event.clone());
            self.accepting(alert).for_each(|out| push_alert(&out.sink, event.clone()));
        }
    }

    /// Delivers replayed effects to each sink that may not have received them. `had_backlog` returns true for
    /// a sink that had not delivered everything at the last checkpoint.
    pub(crate) fn deliver_missing(
        &self,
        effects: &Effects,
        epoch: WallClockOffset,
        written: &mut WrittenLines,
        had_backlog: &dyn Fn(&str) -> bool,
    ) {
        for record in &effects.records {
            let line = |format: &EventFormat| format.flow_line(record, epoch);
            let has_line: Vec<bool> = self.flows.iter().map(|out| out.file_has_line(written, line)).collect();
            let (event, others_have_it) = (Arc::new(record.clone()), has_line.contains(&true));
            for (out, has_line) in self.flows.iter().zip(has_line) {
                out.deliver_if_missing((Arc::clone(&event), epoch), has_line, others_have_it, had_backlog);
            }
        }
        for alert in &effects.alerts {
            let event = (Arc::new(alert.clone()), epoch);
            self.remember(event.clone());
            let line = |format: &EventFormat| format.alert_line(alert, epoch);
            let has_line: Vec<bool> =
                self.accepting(alert).map(|out| out.file_has_line(written, line)).collect();
            let others_have_it = has_line.contains(&true);
            for (out, has_line) in self.accepting(alert).zip(has_line) {
                out.deliver_if_missing(event.clone(), has_line, others_have_it, had_backlog);
            }
        }
    }

    /// Delivers alert events to the sinks that had not delivered them, and to files that do not have them.
    pub(crate) fn redeliver(&self, undelivered: &[PendingDelivery], written: &mut WrittenLines) {
        for PendingDelivery { alert, epoch, sinks } in undelivered {
            let event = (Arc::clone(alert), *epoch);
            self.remember(event.clone());
            for out in self.accepting(alert) {
                let has_line = out.file_has_line(written, |format| format.alert_line(alert, *epoch));
                if !has_line && sinks.iter().any(|name| name == out.sink.name()) {
                    out.sink.push(event.clone());
                }
            }
        }
    }

    /// Returns the alert events that some sinks have not delivered, oldest first, with the names of these
    /// sinks.
    pub(crate) fn undelivered(&self) -> Vec<PendingDelivery> {
        let mut recent = self.recent();
        let waiting = undelivered(&self.alerts, &recent);
        let delivered = waiting.iter().take_while(|(_, names)| names.is_empty()).count();
        recent.drain(..delivered);
        let undelivered =
            waiting.into_iter().map(|((alert, epoch), sinks)| PendingDelivery { alert, epoch, sinks });
        undelivered.filter(|undelivered| !undelivered.sinks.is_empty()).collect()
    }

    /// Returns true if every file has all its lines, and every collector its records.
    pub(crate) fn files_flushed(&self) -> bool {
        self.flows.iter().all(|out| out.sink.waiting() == 0)
            && self.alerts.iter().all(|out| out.policy != AlertPolicy::Archive || out.sink.waiting() == 0)
    }

    /// Returns true if every alert output has delivered all its events.
    pub(crate) fn alerts_delivered(&self) -> bool {
        self.alerts.iter().all(|out| out.sink.waiting() == 0)
    }

    /// Remembers an alert event until it is delivered.
    fn remember(&self, event: AlertEvent) {
        let mut recent = self.recent();
        if recent.len() >= MAX_RECENT_ALERTS {
            recent.pop_front();
        }
        recent.push_back(event);
    }

    /// Returns the outputs that get the events of an alert.
    fn accepting(&self, alert: &Alert) -> impl Iterator<Item = &Output<AlertEvent>> {
        self.alerts.iter().filter(|out| out.policy.accepts(alert))
    }

    /// Returns the locked recent alert events.
    pub(super) fn recent(&self) -> MutexGuard<'_, VecDeque<AlertEvent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers the waiting items of all sinks within `grace`. An undelivered item of one sink is an error at
    /// the end and does not affect the others.
    pub(crate) fn close(&mut self, grace: Duration) -> Result<()> {
        self.flows.iter_mut().for_each(|out| out.sink.close_queue());
        self.alerts.iter_mut().for_each(|out| out.sink.close_queue());
        let deadline = clock::now() + grace;
        let remaining = || deadline.since(clock::now());
        let mut result = Ok(());
        for out in &mut self.flows {
            result = result.and(out.sink.finish(remaining()).context("flow log"));
        }
        for out in &mut self.alerts {
            result = result.and(out.sink.finish(remaining()).context("alerts"));
        }
        result
    }
}

/// Returns each of the `recent` events with the names of the outputs that have not delivered it.
pub(super) fn undelivered(
    outputs: &[Output<AlertEvent>],
    recent: &VecDeque<AlertEvent>,
) -> Vec<(AlertEvent, Vec<String>)> {
    let mut waiting: Vec<_> = recent.iter().map(|event| (event.clone(), Vec::new())).collect();
    for out in outputs {
        // The waiting events are the newest that the sink received.
        let remaining = usize::try_from(out.sink.waiting()).unwrap_or(usize::MAX);
        let accepted = waiting.iter_mut().rev().filter(|((alert, _), _)| out.policy.accepts(alert));
        accepted.take(remaining).for_each(|(_, names)| names.push(out.sink.name().to_owned()));
    }
    waiting
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::config;
    use mailflow_engine::{
        eval::GroupKey,
        event::{AlertState, FlowTotals, Severity, Source, TermValue, Value},
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
            group_key: GroupKey::Source(source),
            source: Some(source),
            matched_network: None,
            group: None,
            role: None,
            suppressed: None,
            deciding_term: TermValue {
                name: "count".into(),
                window,
                value,
                threshold: 10,
                scale: 1,
                holds: true,
            },
            terms: Vec::new(),
            labels: [].into(),
            attack: Vec::new(),
            first: Time::ZERO,
            last: Time::ZERO,
            ports: Vec::new(),
            apps: Vec::new(),
            destinations: Vec::new(),
            sums: FlowTotals::default(),
            flows: Vec::new(),
            complete: true,
            is_truncated: false,
            relay: None,
        }
    }

    /// Returns outputs to a file and to an unreachable Alertmanager. Their counters show the events they
    /// received.
    fn outputs(name: &str, agent: &AgentMetrics) -> (OutputSet, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("mailflow-outputs-{}-{name}", std::process::id()));
        let text = format!(
            "outputs: {{ alerts: [{}, {{ type: alertmanager, urls: [\"http://127.0.0.1:9\"] }}] }}",
            path.display()
        );
        let config = config::parse("f", &text).unwrap();
        (OutputSet::open(&config.outputs, agent, Gateway::default()).unwrap(), path)
    }

    fn received_count(agent: &AgentMetrics, sink: &str) -> i64 {
        let counters = agent.sink_counters(sink);
        counters.waiting.get() + i64::try_from(counters.written.get() + counters.dropped.get()).unwrap()
    }

    pub(crate) fn effects_of(alert: &Alert) -> Effects {
        Effects { alerts: vec![alert.clone()], ..Effects::default() }
    }

    #[test]
    fn suppressed_alerts_are_only_archived() {
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let (outputs, path) = outputs("suppressed", &agent);
        let firing = alert();
        let suppressed = Alert { suppressed: Some("relay".into()), ..firing.clone() };
        let counts = || (received_count(&agent, "alerts"), received_count(&agent, "alerts_alertmanager"));
        outputs.write(&effects_of(&suppressed), WallClockOffset::default());
        assert_eq!(counts(), (1, 0));
        outputs.write(&effects_of(&firing), WallClockOffset::default());
        assert_eq!(counts(), (2, 1));
        // Flows on the allow-list end, and the others of this source go on.
        let end = Alert { state: AlertState::Resolved, ..suppressed };
        outputs.write(&effects_of(&end), WallClockOffset::default());
        assert_eq!(counts(), (3, 1));
        let end = Alert { state: AlertState::Resolved, ..firing };
        outputs.write(&effects_of(&end), WallClockOffset::default());
        assert_eq!(counts(), (4, 2));
        drop(outputs);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_firing_alert_that_another_output_lacks_is_resent_too() {
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let (outputs, path) = outputs("resent", &agent);
        let alert = Arc::new(alert());
        let sinks = vec!["alerts".to_owned()];
        let pending = PendingDelivery { alert: Arc::clone(&alert), epoch: WallClockOffset::default(), sinks };
        outputs.redeliver(&[pending], &mut WrittenLines::default());
        let suppressed = Alert { suppressed: Some("relay".into()), ..(*alert).clone() };
        outputs.resend_firing(&[alert, Arc::new(suppressed)]);
        let counts = ["alerts", "alerts_alertmanager"].map(|sink| received_count(&agent, sink));
        assert_eq!(counts, [1, 1]);
        drop(outputs);
        fs::remove_file(path).unwrap();
    }
}
