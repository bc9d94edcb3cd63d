//! Sinks as the configuration asks for them.

use super::{
    AlertEvent, FlowEvent,
    alertmanager::Alertmanager,
    dead_letters,
    ipfix::Exporter,
    journal::Journal,
    lines::{self, OpenError},
    metrics::Agent,
    post::Post,
    profile::{alert_line, flow_line},
    single::{Deliver, OneByOne},
    syslog::Syslog,
    webhook::Webhook,
    worker::{NoThread, Sink, Transport},
};
use crate::config::{Address, AlertOutput, AlertTo, DeadLetters, FlowOutput, FlowTo};

/// Events that may wait for a slow disk, or for a collector, before they are dropped and counted.
const RECORDS: usize = 65_536;
/// Alerts that may wait. One holds up to twenty flows, about 8 kB.
const ALERTS: usize = 8_192;

/// Opens an output for alerts: one sink, or one for each Alertmanager.
///
/// # Errors
/// A file cannot be opened, or no thread can be started. What is at the other end of a connection need
/// not be there yet.
pub fn alerts(output: &AlertOutput, agent: &Agent) -> Result<Vec<Sink<AlertEvent>>, OpenError> {
    let name = output.name.as_str();
    let one = |sink: Result<_, NoThread>| Ok(vec![sink?]);
    match &output.to {
        AlertTo::Lines { target, profile } => {
            let profile = *profile;
            let render = move |(alert, epoch): &AlertEvent| alert_line(profile, alert, *epoch);
            Ok(vec![lines::start(name, target, ALERTS, agent.sink_counters(name), render)?])
        }
        AlertTo::Journal { path, profile } => {
            one(single(name, agent, Journal { path: path.clone(), profile: *profile, socket: None }))
        }
        AlertTo::Syslog(settings) => one(single(name, agent, Syslog::new(settings.clone()))),
        AlertTo::Webhook { url, receiver, profile, dead_letters } => {
            let post = Post::new(url.clone(), "", receiver.clone());
            let path = match dead_letters {
                DeadLetters::File(path) => Some(path.clone()),
                DeadLetters::InState | DeadLetters::Off => None,
            };
            let letters = dead_letters::DeadLetters::new(path, agent.receiver_counters(name));
            one(start(name, agent, ALERTS, Webhook::new(name.to_owned(), post, *profile, letters)))
        }
        AlertTo::Alertmanager { urls, receiver, labels, every } => urls
            .iter()
            .map(|url| {
                // Each has a thread of its own: one that is dead keeps nothing from the others.
                let origin = url.origin();
                let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
                let name = if urls.len() == 1 { name.to_owned() } else { format!("{name}/{host}") };
                let post = Post::new(Address::Here(url.clone()), "/api/v2/alerts", receiver.clone());
                let counters = agent.receiver_counters(&name);
                let alertmanager = Alertmanager::new(name.clone(), post, labels.clone(), *every, counters);
                Ok(start(&name, agent, ALERTS, alertmanager)?)
            })
            .collect(),
    }
}

/// Opens an output for flow records.
///
/// # Errors
/// A file cannot be opened, or no thread can be started.
pub fn flows(output: &FlowOutput, agent: &Agent) -> Result<Sink<FlowEvent>, OpenError> {
    let name = output.name.as_str();
    match &output.to {
        FlowTo::Lines { target, profile } => {
            let profile = *profile;
            let render = move |(record, epoch): &FlowEvent| flow_line(profile, record, *epoch);
            lines::start(name, target, RECORDS, agent.sink_counters(name), render)
        }
        FlowTo::Ipfix(settings) => Ok(start(name, agent, RECORDS, Exporter::new(settings.clone()))?),
    }
}

fn single(name: &str, agent: &Agent, to: impl Deliver<AlertEvent>) -> Result<Sink<AlertEvent>, NoThread> {
    start(name, agent, ALERTS, OneByOne::new(to))
}

fn start<T: Send + 'static>(
    name: &str,
    agent: &Agent,
    queue: usize,
    transport: impl Transport<T>,
) -> Result<Sink<T>, NoThread> {
    Sink::start(name, queue, agent.sink_counters(name), transport)
}
