//! Other outputs while the agent runs: those that are configured as before stay as they are.

use std::{collections::HashMap, time::Duration};

use tracing::warn;

use super::{
    AlertEvent, FlowEvent, factory,
    jsonl_file::OpenError,
    profile::Format,
    set::{Audience, Out, Outputs, untold},
};
use crate::{
    config::{self, AlertOutput, AlertTo, FlowOutput, FlowTo, Profile},
    metrics::Agent,
};
use mailflow_kernel::clock;

/// Outputs that were opened to take the place of others.
pub(crate) struct Opened {
    pub(crate) configured: (Vec<AlertOutput>, Vec<FlowOutput>),
    pub(super) alerts: Vec<Out<AlertEvent>>,
    pub(super) flows: Vec<Out<FlowEvent>>,
    /// Alert outputs and flow outputs that stay as they are.
    kept: [Kept; 2],
}

/// Outputs that are configured as before: where they are in the new list, and where they were in the old one.
type Kept = HashMap<usize, usize>;

impl Outputs {
    /// Opens those of `outputs` that are not open already. They take the place of others with [`Outputs::renew`].
    pub(crate) fn prepare(&self, outputs: &config::Outputs, agent: &Agent) -> Result<Opened, OpenError> {
        let format = |profile: Profile| Format { profile, gateway: self.gateway.clone() };
        let mut opened = Opened {
            configured: (outputs.alerts.clone(), outputs.flow_log.clone()),
            alerts: Vec::new(),
            flows: Vec::new(),
            kept: [kept(&self.configured.0, &outputs.alerts), kept(&self.configured.1, &outputs.flow_log)],
        };
        for (index, output) in outputs.alerts.iter().enumerate() {
            if opened.kept[0].contains_key(&index) {
                continue;
            }
            let audience = Audience::of(&output.to);
            let lines = match &output.to {
                AlertTo::Lines { target, profile } => Some((target, format(*profile))),
                _ => None,
            };
            let sinks = factory::alerts(output, outputs.files, agent, &self.gateway)?;
            let out = |sink| Out::new(index, audience, sink, lines.clone());
            opened.alerts.extend(sinks.into_iter().map(out));
        }
        for (index, output) in outputs.flow_log.iter().enumerate() {
            if opened.kept[1].contains_key(&index) {
                continue;
            }
            let lines = match &output.to {
                FlowTo::Lines { target, profile } => Some((target, format(*profile))),
                FlowTo::Ipfix(_) => None,
            };
            let sink = factory::flows(output, outputs.files, agent, &self.gateway)?;
            opened.flows.push(Out::new(index, Audience::Record, sink, lines));
        }
        Ok(opened)
    }

    /// Uses what was opened from now on, and closes what is not configured any more. What that could not deliver
    /// within `grace` goes to the new output of its name, if there is one.
    pub(crate) fn renew(&mut self, opened: Opened, grace: Duration, agent: &Agent) {
        let Opened { configured, alerts, flows, kept: [kept_alerts, kept_flows] } = opened;
        self.configured = configured;
        let mut old_flows = exchange(&mut self.flows, flows, &kept_flows);
        for old in &mut old_flows {
            if let Some(heir) = self.flows.iter().find(|out| out.sink.name() == old.sink.name()) {
                old.sink.bequeath(&heir.sink);
            }
            old.sink.hang_up();
        }
        let mut old_alerts = exchange(&mut self.alerts, alerts, &kept_alerts);
        old_alerts.iter_mut().for_each(|old| old.sink.hang_up());
        let deadline = clock::now() + grace;
        let left = || deadline.since(clock::now());
        for old in &mut old_alerts {
            // What is left is handed over, or reported, below.
            let _ = old.sink.finish(left());
        }
        let untold = untold(&old_alerts, &self.recent());
        for old in &old_alerts {
            let (name, waiting) = (old.sink.name(), old.sink.abandon());
            let heir = self.alerts.iter().any(|out| out.sink.name() == name);
            let handed_over = untold.iter().filter(|(_, names)| names.iter().any(|of| of == name)).count();
            self.closed(name, waiting.saturating_sub(if heir { handed_over as u64 } else { 0 }), agent);
        }
        for mut old in old_flows {
            let name = old.sink.name().to_owned();
            // What an heir gets is waiting still, by the numbers that both share.
            if !self.flows.iter().any(|out| out.sink.name() == name) {
                let _ = old.sink.finish(left());
                self.closed(&name, old.sink.abandon(), agent);
            }
        }
        let is_new = |out: &&Out<AlertEvent>| !kept_alerts.contains_key(&out.output);
        let firing: Vec<AlertEvent> = self.firing().values().cloned().collect();
        for out in self.alerts.iter().filter(is_new) {
            // It knows nothing yet of what fires.
            if out.audience == Audience::Reminded {
                firing.iter().for_each(|event| out.sink.push(event.clone()));
            }
            for (event, _) in
                untold.iter().filter(|(_, names)| names.iter().any(|name| name == out.sink.name()))
            {
                if out.hears(event.told) {
                    out.sink.push(event.event());
                }
            }
        }
    }

    /// A sink was closed, and so many lines that it had not delivered were not handed over.
    fn closed(&self, name: &str, lines: u64, agent: &Agent) {
        if lines > 0 {
            warn!(
                output = name,
                lines, "the output was closed by a reload; what it had not delivered is lost"
            );
        }
        let alerts = self.alerts.iter().map(|out| out.sink.name());
        if !alerts.chain(self.flows.iter().map(|out| out.sink.name())).any(|of| of == name) {
            agent.forget_sink(name);
        }
    }
}

/// Finds the outputs of `new` that are equal to one of `old`, each of `old` once.
fn kept<T: PartialEq>(old: &[T], new: &[T]) -> Kept {
    let mut kept = Kept::new();
    let mut taken = vec![false; old.len()];
    for (index, output) in new.iter().enumerate() {
        let same = old.iter().enumerate().position(|(place, known)| !taken[place] && known == output);
        if let Some(place) = same {
            taken[place] = true;
            kept.insert(index, place);
        }
    }
    kept
}

/// Puts the new sinks in the place of those that are not kept, which it returns.
fn exchange<T>(sinks: &mut Vec<Out<T>>, opened: Vec<Out<T>>, kept: &Kept) -> Vec<Out<T>> {
    let places: HashMap<usize, usize> = kept.iter().map(|(new, old)| (*old, *new)).collect();
    let (mut stay, gone): (Vec<_>, Vec<_>) =
        std::mem::take(sinks).into_iter().partition(|out| places.contains_key(&out.output));
    for out in &mut stay {
        out.output = places.get(&out.output).copied().unwrap_or(out.output);
    }
    stay.extend(opened);
    stay.sort_by_key(|out| out.output);
    *sinks = stay;
    gone
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};

    use super::*;
    use crate::outputs::gateway::Gateway;
    use crate::outputs::set::tests::{alert, told};
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

    /// Reads a configuration of outputs.
    fn configured(text: &str) -> config::Outputs {
        config::parse("f", &format!("outputs: {{ {text} }}")).unwrap().outputs
    }

    /// A file, two collectors and an Alertmanager that are nowhere, and another output behind them.
    fn several(path: &std::path::Path, more: &str) -> config::Outputs {
        configured(&format!(
            "alerts: [{path}, {{ type: syslog, to: \"tcp:127.0.0.1:9\" }}, \
             {{ type: syslog, name: twin, to: \"tcp:127.0.0.1:9\" }}, \
             {{ type: alertmanager, urls: [\"http://127.0.0.1:9\"] }}{more}], \
             flow_log: [{{ type: ipfix, to: \"tcp:127.0.0.1:9\" }}]",
            path = path.display()
        ))
    }

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("mailflow-renew-{}-{name}", std::process::id()))
    }

    fn counted(agent: &Agent, sink: &str) -> [u64; 3] {
        let counters = agent.sink_counters(sink);
        [counters.written.get(), counters.dropped.get(), u64::try_from(counters.waiting.get()).unwrap()]
    }

    const DOWN: [&str; 3] = ["alerts_syslog", "twin", "alerts_alertmanager"];

    #[test]
    fn outputs_that_are_configured_as_before_stay_open_with_what_waits() {
        let (agent, path) = (Agent::new("0", 0.0).unwrap(), file("stay"));
        let mut outputs = Outputs::open(&several(&path, ""), &agent, Gateway::default()).unwrap();
        outputs.write(&told(&alert()), WallClockOffset::default());
        // A sink is known by what its thread shares with it.
        let same = |outputs: &Outputs| -> HashMap<String, *const _> {
            let sinks = outputs.alerts.iter().map(|out| &out.sink);
            sinks.map(|sink| (sink.name().to_owned(), Arc::as_ptr(&sink.counters().abandoned))).collect()
        };
        let before = same(&outputs);
        assert_eq!(before.len(), 4);
        // Two more outputs, and all in another order.
        let more = ", { type: webhook, url: \"http://127.0.0.1:9\" }, \
                    { type: alertmanager, name: second, urls: [\"http://127.0.0.1:9\"] }";
        let mut new = several(&path, more);
        new.alerts.reverse();
        let opened = outputs.prepare(&new, &agent).unwrap();
        assert_eq!((opened.alerts.len(), opened.flows.len()), (2, 0), "what is opened");
        outputs.renew(opened, Duration::from_secs(5), &agent);
        let names: Vec<&str> = outputs.alerts.iter().map(|out| out.sink.name()).collect();
        let expected = ["second", "alerts_webhook", "alerts_alertmanager", "twin", "alerts_syslog", "alerts"];
        assert_eq!(names, expected);
        let after = same(&outputs);
        assert!(before.iter().all(|(name, sink)| after[name] == *sink), "{before:?} {after:?}");
        for sink in DOWN {
            assert_eq!(counted(&agent, sink), [0, 0, 1], "{sink}");
        }
        assert_eq!(counted(&agent, "alerts_webhook"), [0, 0, 0], "it hears of what comes, not of what was");
        assert_eq!(counted(&agent, "second"), [0, 0, 1], "it must know what fires");
        drop(outputs);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn outputs_that_change_hand_over_what_waits_and_lose_nothing() {
        let (agent, path) = (Agent::new("0", 0.0).unwrap(), file("change"));
        let mut outputs = Outputs::open(&several(&path, ""), &agent, Gateway::default()).unwrap();
        let record = Effects { records: vec![record()], ..told(&alert()) };
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
        let opened = outputs.prepare(&new, &agent).unwrap();
        outputs.renew(opened, Duration::from_secs(5), &agent);
        let patience = clock::now() + Duration::from_secs(30);
        while counted(&agent, "alerts_syslog") != [1, 0, 0] || counted(&agent, "flow_log_ipfix") != [1, 0, 0]
        {
            assert!(clock::now() < patience, "{:?}", agent.sinks());
            std::thread::sleep(Duration::from_millis(10));
        }
        // Nothing is left of those that are gone, and they count no loss.
        let sinks: Vec<String> = agent.sinks().into_keys().collect();
        assert_eq!(sinks, ["alerts", "alerts_syslog", "flow_log_ipfix"]);
        drop(outputs);
        fs::remove_file(path).unwrap();
    }
}
