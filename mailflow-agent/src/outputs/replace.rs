//! Replacement of outputs at a reload. Outputs with an unchanged configuration stay open.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tracing::warn;

use super::{
    AlertEvent, FlowEvent, factory,
    jsonl_file::OpenError,
    policy::AlertPolicy,
    profile::EventFormat,
    set::{Output, OutputSet, undelivered},
};
use crate::{
    config::{self, AlertDestination, AlertOutput, FlowDestination, FlowOutput, Profile},
    metrics::AgentMetrics,
};
use mailflow_engine::event::Alert;
use mailflow_kernel::clock;

/// New outputs, and the unchanged ones.
pub(crate) struct OpenedOutputs {
    pub(crate) configured: (Vec<AlertOutput>, Vec<FlowOutput>),
    pub(super) alerts: Vec<Output<AlertEvent>>,
    pub(super) flows: Vec<Output<FlowEvent>>,
    /// Unchanged alert outputs and flow outputs.
    unchanged: [UnchangedOutputs; 2],
}

/// Index of each unchanged output in the new list, and its index in the old one.
type UnchangedOutputs = HashMap<usize, usize>;

impl OutputSet {
    /// Opens those outputs of `outputs` whose configuration has changed. [`OutputSet::replace`] puts them
    /// into use.
    pub(crate) fn open_changed(
        &self,
        outputs: &config::Outputs,
        agent: &AgentMetrics,
    ) -> Result<OpenedOutputs, OpenError> {
        let format = |profile: Profile| EventFormat { profile, gateway: self.gateway.clone() };
        let mut opened = OpenedOutputs {
            configured: (outputs.alerts.clone(), outputs.flow_log.clone()),
            alerts: Vec::new(),
            flows: Vec::new(),
            unchanged: [
                unchanged(&self.configured.0, &outputs.alerts),
                unchanged(&self.configured.1, &outputs.flow_log),
            ],
        };
        for (index, output) in outputs.alerts.iter().enumerate() {
            if opened.unchanged[0].contains_key(&index) {
                continue;
            }
            let policy = AlertPolicy::of(&output.to);
            let lines = match &output.to {
                AlertDestination::Lines { target, profile } => Some((target, format(*profile))),
                _ => None,
            };
            let sinks = factory::open_alert_workers(output, outputs.files, agent, &self.gateway)?;
            let out = |sink| Output::new(index, policy, sink, lines.clone());
            opened.alerts.extend(sinks.into_iter().map(out));
        }
        for (index, output) in outputs.flow_log.iter().enumerate() {
            if opened.unchanged[1].contains_key(&index) {
                continue;
            }
            let lines = match &output.to {
                FlowDestination::Lines { target, profile } => Some((target, format(*profile))),
                FlowDestination::Ipfix(_) => None,
            };
            let sink = factory::open_flow_worker(output, outputs.files, agent, &self.gateway)?;
            opened.flows.push(Output::new(index, AlertPolicy::Archive, sink, lines));
        }
        Ok(opened)
    }

    /// Uses the opened outputs from now on and closes those that are no longer configured. Items that a
    /// closed output could not deliver within `grace` go to the new output of the same name, if there is one.
    ///
    /// A new Alertmanager gets the `firing` alerts.
    pub(crate) fn replace(
        &mut self,
        opened: OpenedOutputs,
        firing: &[Arc<Alert>],
        grace: Duration,
        agent: &AgentMetrics,
    ) {
        let OpenedOutputs { configured, alerts, flows, unchanged: [unchanged_alerts, unchanged_flows] } =
            opened;
        self.configured = configured;
        let mut old_flows = swap_outputs(&mut self.flows, flows, &unchanged_flows);
        for old in &mut old_flows {
            if let Some(successor) = self.flows.iter().find(|out| out.sink.name() == old.sink.name()) {
                old.sink.set_successor(&successor.sink);
            }
            old.sink.close_queue();
        }
        let mut old_alerts = swap_outputs(&mut self.alerts, alerts, &unchanged_alerts);
        old_alerts.iter_mut().for_each(|old| old.sink.close_queue());
        let deadline = clock::now() + grace;
        let remaining = || deadline.since(clock::now());
        for old in &mut old_alerts {
            // The remaining items are passed on or reported below.
            let _ = old.sink.finish(remaining());
        }
        let undelivered = undelivered(&old_alerts, &self.recent());
        for old in &old_alerts {
            let (name, waiting) = (old.sink.name(), old.sink.abandon());
            let successor = self.alerts.iter().any(|out| out.sink.name() == name);
            let passed_on = undelivered.iter().filter(|(_, names)| names.iter().any(|of| of == name)).count();
            self.report_closed(
                name,
                waiting.saturating_sub(if successor { passed_on as u64 } else { 0 }),
                agent,
            );
        }
        for mut old in old_flows {
            let name = old.sink.name().to_owned();
            // Items of a successor still count as waiting, because both share the counters.
            if !self.flows.iter().any(|out| out.sink.name() == name) {
                let _ = old.sink.finish(remaining());
                self.report_closed(&name, old.sink.abandon(), agent);
            }
        }
        let is_new = |out: &&Output<AlertEvent>| !unchanged_alerts.contains_key(&out.config_index);
        for out in self.alerts.iter().filter(is_new) {
            if out.policy == AlertPolicy::NotifyAndRefresh {
                let firing = firing.iter().filter(|alert| out.policy.accepts(alert));
                firing.for_each(|alert| out.sink.push((Arc::clone(alert), clock::epoch())));
            }
            for (event, _) in
                undelivered.iter().filter(|(_, names)| names.iter().any(|name| name == out.sink.name()))
            {
                if out.policy.accepts(&event.0) {
                    out.sink.push(event.clone());
                }
            }
        }
    }

    /// Reports `lines` lost items of a closed sink, and removes the metrics of a name that is no longer used.
    fn report_closed(&self, name: &str, lines: u64, agent: &AgentMetrics) {
        if lines > 0 {
            warn!(
                output = name,
                lines, "the output was closed by a reload; what it had not delivered is lost"
            );
        }
        let alerts = self.alerts.iter().map(|out| out.sink.name());
        if !alerts.chain(self.flows.iter().map(|out| out.sink.name())).any(|of| of == name) {
            agent.remove_sink(name);
        }
    }
}

/// Finds the outputs of `new` that are equal to one of `old`, each of `old` at most once.
fn unchanged<T: PartialEq>(old: &[T], new: &[T]) -> UnchangedOutputs {
    let mut unchanged = UnchangedOutputs::new();
    let mut matched = vec![false; old.len()];
    for (index, output) in new.iter().enumerate() {
        let same = old
            .iter()
            .enumerate()
            .position(|(old_index, candidate)| !matched[old_index] && candidate == output);
        if let Some(old_index) = same {
            matched[old_index] = true;
            unchanged.insert(index, old_index);
        }
    }
    unchanged
}

/// Replaces the outputs that have changed and returns the old ones.
fn swap_outputs<T>(
    sinks: &mut Vec<Output<T>>,
    opened: Vec<Output<T>>,
    unchanged: &UnchangedOutputs,
) -> Vec<Output<T>> {
    let new_indexes: HashMap<usize, usize> = unchanged.iter().map(|(new, old)| (*old, *new)).collect();
    let (mut staying, removed): (Vec<_>, Vec<_>) =
        std::mem::take(sinks).into_iter().partition(|out| new_indexes.contains_key(&out.config_index));
    for out in &mut staying {
        out.config_index = new_indexes.get(&out.config_index).copied().unwrap_or(out.config_index);
    }
    staying.extend(opened);
    staying.sort_by_key(|out| out.config_index);
    *sinks = staying;
    removed
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};

    use super::*;
    use crate::outputs::gateway::Gateway;
    use crate::outputs::set::tests::{alert, effects_of};
    use mailflow_engine::{
        event::Effects,
        flow::RecordFields,
        flow::{DirectionStats, Flow, FlowRecord, RecordReason},
        time::{Time, WallClockOffset},
    };

    fn record() -> FlowRecord {
        let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        let key = FlowKey {
            client: ip("10.0.0.9"),
            server: ip("192.0.2.1"),
            client_port: 40_001,
            server_port: 25,
            scope: Scope::new(Vlans::default(), PROTOCOL_TCP, false),
        };
        let flow = Flow {
            key,
            up: DirectionStats::default(),
            down: DirectionStats::default(),
            first: Time::ZERO,
            messages: 0,
            rejected: 0,
            mac: None,
            interface: None,
            facts: Facts::default(),
        };
        let (app, reason) = (App::Smtp, RecordReason::Closed);
        FlowRecord { flow, app, reason, complete: true, fields: RecordFields::all() }
    }

    /// Parses a configuration of outputs.
    fn configured(text: &str) -> config::Outputs {
        config::parse("f", &format!("outputs: {{ {text} }}")).unwrap().outputs
    }

    /// Returns a configuration with a file, two unreachable collectors and an unreachable Alertmanager,
    /// followed by `more`.
    fn outputs_config(path: &std::path::Path, more: &str) -> config::Outputs {
        configured(&format!(
            "alerts: [{path}, {{ type: syslog, to: \"tcp:127.0.0.1:9\" }}, \
             {{ type: syslog, name: syslog2, to: \"tcp:127.0.0.1:9\" }}, \
             {{ type: alertmanager, urls: [\"http://127.0.0.1:9\"] }}{more}], \
             flow_log: [{{ type: ipfix, to: \"tcp:127.0.0.1:9\" }}]",
            path = path.display()
        ))
    }

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("mailflow-replace-{}-{name}", std::process::id()))
    }

    fn sink_counts(agent: &AgentMetrics, sink: &str) -> [u64; 3] {
        let counters = agent.sink_counters(sink);
        [counters.written.get(), counters.dropped.get(), u64::try_from(counters.waiting.get()).unwrap()]
    }

    const UNREACHABLE_SINKS: [&str; 3] = ["alerts_syslog", "syslog2", "alerts_alertmanager"];

    #[test]
    fn unchanged_outputs_stay_open_with_their_queues() {
        let (agent, path) = (AgentMetrics::new("0", 0.0).unwrap(), file("stay"));
        let mut outputs = OutputSet::open(&outputs_config(&path, ""), &agent, Gateway::default()).unwrap();
        outputs.write(&effects_of(&alert()), WallClockOffset::default());
        // The state shared with the thread identifies a sink.
        let same = |outputs: &OutputSet| -> HashMap<String, *const _> {
            let sinks = outputs.alerts.iter().map(|out| &out.sink);
            sinks.map(|sink| (sink.name().to_owned(), Arc::as_ptr(&sink.counters().abandoned))).collect()
        };
        let before = same(&outputs);
        assert_eq!(before.len(), 4);
        // Two more outputs, and all in another order.
        let more = ", { type: webhook, url: \"http://127.0.0.1:9\" }, \
                    { type: alertmanager, name: second, urls: [\"http://127.0.0.1:9\"] }";
        let mut new = outputs_config(&path, more);
        new.alerts.reverse();
        let opened = outputs.open_changed(&new, &agent).unwrap();
        assert_eq!((opened.alerts.len(), opened.flows.len()), (2, 0), "what is opened");
        outputs.replace(opened, &[Arc::new(alert())], Duration::from_secs(5), &agent);
        let names: Vec<&str> = outputs.alerts.iter().map(|out| out.sink.name()).collect();
        let expected =
            ["second", "alerts_webhook", "alerts_alertmanager", "syslog2", "alerts_syslog", "alerts"];
        assert_eq!(names, expected);
        let after = same(&outputs);
        assert!(before.iter().all(|(name, sink)| after[name] == *sink), "{before:?} {after:?}");
        for sink in UNREACHABLE_SINKS {
            assert_eq!(sink_counts(&agent, sink), [0, 0, 1], "{sink}");
        }
        assert_eq!(sink_counts(&agent, "alerts_webhook"), [0, 0, 0], "a new sink receives later events only");
        assert_eq!(sink_counts(&agent, "second"), [0, 0, 1], "a new Alertmanager receives the firing alerts");
        drop(outputs);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn changed_outputs_pass_on_their_queues_without_loss() {
        let (agent, path) = (AgentMetrics::new("0", 0.0).unwrap(), file("change"));
        let mut outputs = OutputSet::open(&outputs_config(&path, ""), &agent, Gateway::default()).unwrap();
        let record = Effects { records: vec![record()], ..effects_of(&alert()) };
        outputs.write(&record, WallClockOffset::default());
        let (syslog, collector) =
            [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).into();
        let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap().to_string();
        let new = configured(&format!(
            "alerts: [{}, {{ type: syslog, to: \"tcp:{}\" }}], flow_log: [{{ type: ipfix, to: \"tcp:{}\" }}]",
            path.display(),
            address(&syslog),
            address(&collector)
        ));
        let opened = outputs.open_changed(&new, &agent).unwrap();
        outputs.replace(opened, &[Arc::new(alert())], Duration::from_secs(5), &agent);
        let deadline = clock::now() + Duration::from_secs(30);
        while sink_counts(&agent, "alerts_syslog") != [1, 0, 0]
            || sink_counts(&agent, "flow_log_ipfix") != [1, 0, 0]
        {
            assert!(clock::now() < deadline, "{:?}", agent.sinks());
            std::thread::sleep(Duration::from_millis(10));
        }
        // The removed sinks have no metrics, and no line is lost.
        let sinks: Vec<String> = agent.sinks().into_keys().collect();
        assert_eq!(sinks, ["alerts", "alerts_syslog", "flow_log_ipfix"]);
        drop(outputs);
        fs::remove_file(path).unwrap();
    }
}
